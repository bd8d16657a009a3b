"""Setup: did data, groups and backbone load as I think?"""

import streamlit as st

from gsr_core.data.bundle import SPLITS
from gsr_core.figures.groups import group_sizes
from gsr_core.views import navigation as nav
from gsr_core.views.bundle_contents import (
    backbone_facts,
    group_counts,
    group_table,
    group_thumbnails,
    notes,
    size_table,
    small_groups,
)
from gsr_core.views.charts import show
from gsr_core.views.frame import frame, link, start
from gsr_core.views.guide import introduction
from gsr_core.views.import_job import import_jobs
from gsr_core.views.new_data import add_data, bring_data, remove_data
from gsr_core.views.session import bundle_names

QUESTION = "Did data, groups and backbone load as you think?"

if not bundle_names():
    start("Setup", QUESTION)
    introduction(folded=False)
    import_jobs()
    bring_data()
    st.stop()

bundle = frame("Setup", QUESTION).bundle
introduction(folded=True)
import_jobs()
manifest = bundle.manifest
with st.container(horizontal=True):
    st.metric("Samples", f"{len(bundle):,}", border=True)
    st.metric("Features", f"{manifest.n_features:,}", border=True)
    st.metric("Classes", len(manifest.classes), border=True)
    st.metric("Groups", len(manifest.groups), border=True)
    st.metric("Weights live on", manifest.weighted_split, border=True)
notes(bundle)

st.subheader("Samples of each group in each split", anchor=False)
show(
    group_sizes(size_table(bundle)),
    key="sizes",
    alt="Number of samples of each group in each split.",
)
st.subheader("Who belongs to which group", anchor=False)
groups, splits = group_counts(bundle), list(manifest.split_sizes)
if warning := small_groups(groups, splits):
    st.warning(warning, icon=":material/warning:")
group_table(groups, splits, key="groups")
st.subheader("Backbone", anchor=False)
backbone_facts(bundle)

st.subheader("What the groups look like", anchor=False)
present = [split for split in SPLITS if split in manifest.split_sizes]
split = nav.select(
    "split",
    "Split",
    present,
    default=manifest.weighted_split,
    draw=st.segmented_control,
    required=True,
    label_visibility="collapsed",
)
group_thumbnails(bundle, split)
link("Audit", "Next: where does the classifier fail?")
add_data()
remove_data(bundle)
