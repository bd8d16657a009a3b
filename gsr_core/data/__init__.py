"""Data sets: what a source gives, groups, splits, and bundles with frozen features."""
