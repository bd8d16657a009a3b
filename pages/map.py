"""Map: do the samples that matter form patterns?"""

import streamlit as st

from gsr_core.views.cluster_panel import cluster_panel
from gsr_core.views.clusters import find_clusters
from gsr_core.views.detail import sample_detail
from gsr_core.views.frame import frame
from gsr_core.views.map import linked_maps
from gsr_core.views.map_choices import choose_maps

page = frame("Map", "Do the samples that matter form patterns?", needs_run=True)
bundle, run = page.bundle, page.run
assert run is not None
st.caption(
    "Two samples are near if they move the head in the same direction (gradients) or look alike to "
    "the backbone (features). Draw a lasso around points to see them."
)
view = choose_maps(page)
linked_maps(view)
find_clusters(bundle, run)
if view.clustering is not None:
    cluster_panel(view.clustering, view.samples, bundle, view.split)
sample_detail(bundle, run, to_map=False)
