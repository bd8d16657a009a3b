"""Samples: what are the highest- and lowest-weighted samples?"""

import streamlit as st

from gsr_core.views.charts import plain
from gsr_core.views.detail import sample_detail
from gsr_core.views.frame import frame
from gsr_core.views.gallery import gallery
from gsr_core.views.phrases import word_tools
from gsr_core.views.samples import choose_samples, download
from gsr_core.views.slice_tools import manage_slices
from gsr_core.views.slices import ask_what_if, save_and_flag

page = frame("Samples", "Which samples got the most and the least weight, and why?", needs_run=True)
bundle, run = page.bundle, page.run
assert run is not None
table, places, filters, order = choose_samples(page)
if not len(places):
    st.info(f"No sample is left. The filters are {plain(filters)}; clear one.")
    manage_slices(bundle)
    st.stop()


@st.fragment
def cards() -> None:
    """Draw the gallery, so that its paging does not draw the whole page again."""
    gallery(bundle, table, places, key="gallery", sizes=(24, 48))


with st.container(horizontal=True, key="with these"):
    save_and_flag(
        bundle,
        table["row"].to_numpy()[places],
        f"Samples of {filters}, run {run.run_id}",
        order=order,
    )
    if "weight" in table.columns:
        ask_what_if(bundle, table["row"].to_numpy()[places])
    word_tools(bundle, table["row"].to_numpy()[places], table["row"].to_numpy())
cards()
with st.container(horizontal=True, key="take home"):
    download(bundle, run, table, places)
manage_slices(bundle)
sample_detail(bundle, run)
