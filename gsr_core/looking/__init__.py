"""Where a network looks: maps of images, words of texts, and whether they lie on the object."""

PER_GROUP = 100
"""Samples of each group that are looked at by default."""
