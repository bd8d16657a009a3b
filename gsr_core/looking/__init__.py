"""Where a network looks: maps of images, words of texts, and whether they lie on the object."""
