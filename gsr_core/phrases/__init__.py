"""Phrases: samples found and grouped by words, and words for samples."""
