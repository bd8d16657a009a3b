"""Audit: where does the classifier fail, and is it real?"""

import streamlit as st

from gsr_core.figures.groups import confusion, group_accuracy
from gsr_core.views import navigation as nav
from gsr_core.views.audit import (
    accuracy_table,
    accuracy_within,
    confusion_table,
    nothing_within,
    pick_run,
)
from gsr_core.views.charts import colours_of, percent, plain, show, show_cautions
from gsr_core.views.closer import closer_look
from gsr_core.views.frame import frame, link
from gsr_core.views.loading import load_cautions, load_samples
from gsr_core.views.slice_accuracy import accuracy_of_slices
from gsr_core.views.slices import within

MOST_CLASSES = 20
page = frame("Audit", "Where does the classifier fail, and is the difference more than chance?")
bundle = page.bundle
run, split, chosen = pick_run(page)
everyone = load_samples(run, split)
samples = within(everyone, chosen)
st.caption(plain(run.state.note))
show_cautions(load_cautions(run))
if chosen is None:
    table, averages = accuracy_table(run, split)
elif nothing_within(bundle, samples, split, chosen):
    accuracy_of_slices(bundle, run, split, everyone)
    st.stop()
else:
    table, averages = accuracy_within(bundle, samples)
    st.caption(
        f"Only the {len(samples):,} of {len(everyone):,} samples of {split} that are in "
        f"{plain(chosen.label)}."
    )

worst = table[table["worst"]].iloc[0]
with st.container(horizontal=True):
    st.metric(
        f"Worst group: {plain(worst['group'])}",
        percent(averages["worst_group_accuracy"]),
        border=True,
    )
    st.metric(
        "Mean accuracy",
        percent(averages["mean_accuracy"]),
        border=True,
        help="Share of all samples of the split that are right.",
    )
    st.metric(
        "Adjusted average",
        percent(averages["adjusted_accuracy"]),
        border=True,
        help="Group accuracies averaged by the groups' shares of the training set: what you would "
        "see if the world were like the training data.",
    )

left, right = st.columns([3, 2], gap="large")
with left:
    st.subheader(f"Accuracy of each group on {split}", anchor=False)
    figure = group_accuracy(
        table,
        colours=colours_of(bundle),
        mean=averages["mean_accuracy"],
        adjusted=averages["adjusted_accuracy"],
    )
    show(figure, key="accuracy", alt="Accuracy of each group with its 95 % interval.")
    st.caption(
        "Dots are accuracies, bars 95 % Wilson intervals. Groups with fewer than 20 samples are "
        "grey: too few to judge."
    )
with right:
    st.subheader("What each group is taken for", anchor=False)
    if len(bundle.manifest.classes) <= MOST_CLASSES:
        figure = confusion(confusion_table(bundle, samples))
        show(figure, key="confusion", alt="Share of each predicted class in each group.")
    else:
        st.caption(f"Drawn for up to {MOST_CLASSES} classes; look at the mistakes below instead.")

st.subheader("Look at the mistakes", anchor=False)
wrong = ~samples["correct"].to_numpy()
members = bundle.membership[samples["row"].to_numpy()]
with st.container(horizontal=True):
    for g, name in enumerate(bundle.group_names):
        count = int((wrong & members[:, g]).sum())
        changes = {"run": run.run_id, "split": split, "group": name, "sort": "highest loss"}
        link(
            "Samples",
            f"{plain(name)}: {count:,} wrong",
            **changes,
            prediction="wrong",
            slice=chosen.key if chosen else None,
            changed=None,
        )
if chosen is None:
    closer_look(run, split, bundle)
accuracy_of_slices(bundle, run, split, everyone)
if run.config.is_erm:
    link("Run", "Next: repair it", run=nav.get("run") or None)
else:
    link("Compare", "Next: prove the repair", run=run.run_id)
