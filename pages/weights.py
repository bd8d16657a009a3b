"""Weights: how do they move, and which samples get them?"""

import streamlit as st

from gsr_core.figures.training import (
    effective_sample_size,
    left_out_over_steps,
    weight_share_over_steps,
)
from gsr_core.figures.weights import weight_distribution, weight_share
from gsr_core.methods.registry import METHODS
from gsr_core.names import method_label
from gsr_core.runs.summary import weights_by_group
from gsr_core.views.charts import colours_of, plain, show
from gsr_core.views.frame import frame, link
from gsr_core.views.loading import load_history
from gsr_core.views.report_button import report_button
from gsr_core.views.weights import (
    choose_step,
    data_counts,
    driving_groups,
    extremes,
    group_weights,
    inferred_table,
    loss_terms,
    note_on_groups,
    over_seeds,
    summary_table,
)

page = frame("Weights", "How do the weights move, and who gets them?", needs_run=True)
bundle, run = page.bundle, page.run
assert run is not None
history, colours, kept_step = load_history(run), colours_of(bundle), run.state.best_step
if run.weights() is None:
    st.info(
        f"{method_label(run.config.method)} gives no sample weights: {plain(run.state.note)} "
        "Choose another run above, or start one."
    )
    link("Run", "Start a run")
    st.stop()

counts, total = data_counts(bundle, run)
many = len(run.weight_steps()) > 1
st.subheader("Share of the weight of each group", anchor=False)
st.caption(
    f"The weights are {METHODS[run.config.method].values} of the {total:,} samples of "
    f"{run.values_split}. {plain(run.state.note)}"
)
note_on_groups(bundle, run)
step = choose_step(run)
share = {group: count / total for group, count in counts.items()}
if many:
    drawn, seeds = over_seeds(page, history)
    figure = weight_share_over_steps(drawn, share, kept_step, at=step, colours=colours)
    show(figure, key="shares", alt="Share of weight of each group over the steps.")
    st.caption(f"Solid: share of the weight. Dashed: share of the data.{seeds}")
else:
    weight_sums = weights_by_group(history, kept_step)["weight_sum"]
    figure = weight_share(
        share, {name: float(weight_sums[name]) for name in share}, colours=colours
    )
    show(figure, key="shares", alt="Share of weight and of the data of each group.")

summary_table(history, counts, total, step)
inferred_table(bundle, run)
left, right = st.columns(2, gap="large")
with left:
    st.subheader(f"Weights inside each group at step {step}", anchor=False)
    st.caption("Bars: samples at exactly zero. Lines: share of the group at or below a weight.")
    figure = weight_distribution(group_weights(bundle, run, step), n=total, colours=colours)
    show(figure, key="spread", alt="Distribution of the weights within each group.")
if many:
    with right:
        st.subheader("How many samples still count", anchor=False)
        st.caption("Effective sample size, (Σw)² / Σw², as a share of the group's samples.")
        figure = effective_sample_size(history, counts, selected=kept_step, colours=colours)
        show(figure, key="ess", alt="Effective sample size of each group over the steps.")
if many and (history["metric"] == "left_out").any():
    st.subheader("Whose samples are left out", anchor=False)
    st.caption("Share of each group's samples that are in no subset at a step.")
    figure = left_out_over_steps(history, selected=kept_step, colours=colours)
    show(figure, key="left out", alt="Share of each group's samples left out over the steps.")
# Groups that the method saw, if not the bundle's, have colours of their own.
own = run.groups_seen(bundle) == bundle.group_names
driving_groups(history, kept_step, colours if own else None)
loss_terms(history, kept_step)
extremes(bundle, run, step)
report_button([run])
