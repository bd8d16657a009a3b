"""Curation: named slices and flags, and the tables of their samples."""
