"""Per-sample gradients of a head: their geometry, neighbours and maps.

Nothing is imported here: `projections` needs UMAP, which takes seconds to load, and loads it only
when a UMAP map is asked for.
"""
