"""Map: do the samples that matter form patterns?"""

import streamlit as st

from gsr_core.views.detail import sample_detail
from gsr_core.views.frame import frame
from gsr_core.views.map import linked_maps

page = frame("Map", "Do the samples that matter form patterns?", needs_run=True)
bundle, run = page.bundle, page.run
assert run is not None
st.caption(
    "Two samples are near if they move the head in the same direction (gradients) or look alike to "
    "the backbone (features). Draw a lasso around points to see them; double-click to let them go."
)
linked_maps(bundle, run)
sample_detail(bundle, run)
