"""Comparing: runs of several seeds as one entry, and entries in pairs."""
