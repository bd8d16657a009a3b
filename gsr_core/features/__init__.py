"""From images to features: trained networks, extraction, and plain training of small ones."""
