"""Data sets with frozen features: bundles, groups, splits, readers and examples."""
