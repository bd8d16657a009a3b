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
looked = choose_maps(page)
linked_maps(looked)
find_clusters(bundle, run)
if looked.clustering is not None:
    cluster_panel(looked.clustering, looked.samples, bundle, looked.split)
sample_detail(bundle, run, to_map=False)
