"""Samples: what are the highest- and lowest-weighted samples?"""

import streamlit as st

from gsr_core.views.detail import sample_detail
from gsr_core.views.frame import frame
from gsr_core.views.gallery import gallery
from gsr_core.views.samples import choose_samples, download

page = frame("Samples", "Which samples got the most and the least weight, and why?", needs_run=True)
bundle, run = page.bundle, page.run
assert run is not None
table, places, removed = choose_samples(bundle, run)
if not len(places):
    st.info(f"No sample is left. {removed}")
    st.stop()


@st.fragment
def cards() -> None:
    """Turn the gallery's pages without drawing the page again."""
    gallery(bundle, table, places, key="gallery", sizes=(24, 48))


cards()
download(bundle, run, table, places)
sample_detail(bundle, run)
