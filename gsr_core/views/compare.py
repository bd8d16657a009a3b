"""The Compare page, upper half: the entries compared, their scores, and more seeds.

All scores are of the test split at the kept step.
"""

from __future__ import annotations

from collections import Counter

import pandas as pd
import streamlit as st

from gsr_core.comparing.entries import Entry, entries, identity
from gsr_core.comparing.scores import group_scores, scores, spread
from gsr_core.comparing.slices import slice_scores
from gsr_core.data.bundle import Bundle
from gsr_core.errors import GsrError
from gsr_core.figures.compare import group_dots
from gsr_core.jobs.queue import enqueue
from gsr_core.runs.job import RunJob, run_commands
from gsr_core.runs.protocol import protocol_of
from gsr_core.runs.store import list_runs
from gsr_core.views import navigation as nav
from gsr_core.views.charts import plain, show, show_cautions, show_error, show_rows
from gsr_core.views.frame import Frame, link
from gsr_core.views.loading import load_accuracies, load_cautions, load_outcome
from gsr_core.views.session import workspace
from gsr_core.views.slices import slices_of

__all__ = [
    "accuracy_by_group",
    "add_seeds",
    "choose_average",
    "choose_entries",
    "group_tables",
    "score_tables",
    "show_slices",
    "show_table",
]

_AVERAGES = {"mean_accuracy": "mean accuracy", "adjusted_accuracy": "adjusted average accuracy"}
_AT_FIRST = 6
_BUDGET = 95
"""Pixels of the bar of labels, so that a window of 1,024 has room for what training reads."""
_SEEDS = 5
"""Seeds that a comparison should have, as in the literature."""
_ERROR_BARS = (
    "Bars: one standard deviation over seeds; faint points: single seeds. With one seed, bars are "
    "the 95 % Wilson interval of its test samples."
)


def choose_entries(page: Frame) -> list[Entry]:
    """Draw the choice of entries to compare and return it; stop the page while it is empty."""
    if not page.ended:
        st.info("No run has ended on this bundle yet.")
        link("Run", "Start one")
        st.stop()
    in_address = [run_id for run_id in nav.get("runs").split(",") if run_id]
    # The runs of a study are offered only if the address names one of them.
    shown = {"", *(run.config.part_of for run in page.ended if run.run_id in in_address)}
    offered = entries(run for run in page.ended if run.config.part_of in shown)
    _say_which_are_left_out(page)
    by_id = {entry.run_id: entry for entry in offered}
    # The address may name a run whose seed was computed again since; it still means that entry.
    same = {(identity(entry.runs[0]), entry.config.part_of): entry.run_id for entry in offered}
    keys = {run.run_id: (identity(run), run.config.part_of) for run in page.ended}
    of_run = {run_id: same[key] for run_id, key in keys.items() if key in same}
    if "compare runs" not in st.session_state:
        st.session_state["compare runs"] = in_address or _first_choice(offered)
    before = st.session_state["compare runs"]
    still_here = list(dict.fromkeys(of_run[run_id] for run_id in before if run_id in of_run))
    # None is left if another bundle was chosen: begin again. No entry at all is a choice.
    st.session_state["compare runs"] = (
        still_here if still_here or not before else _first_choice(offered)
    )
    chosen = st.multiselect(
        "Methods",
        list(by_id),
        format_func=lambda run_id: by_id[run_id].label,
        key="compare runs",
        help="Runs that differ in their seed alone are one entry. A run that was cancelled or "
        "failed is no seed of its setting: it is an entry of its own.",
    )
    # What is missing stays in the address, beside the sentence that says so.
    missing = [run_id for run_id in in_address if run_id not in of_run]
    nav.put(runs=",".join([*chosen, *missing]))
    if not chosen:
        st.info("Choose at least one method.")
        st.stop()
    return [by_id[run_id] for run_id in chosen]


def _first_choice(offered: list[Entry]) -> list[str]:
    """Return the classifier as it came and the newest entry of each other method, up to six."""
    newest: dict[str, str] = {}
    offered = [entry for entry in offered if not entry.stopped] or offered
    # Kept refits of What if are no results of the method whose name they have.
    own = [entry for entry in offered if not entry.config.edited]
    for entry in sorted(own, key=lambda entry: not entry.config.is_erm):
        newest.setdefault(entry.config.method, entry.run_id)
    more = [entry.run_id for entry in offered if entry.run_id not in newest.values()]
    return [*newest.values(), *more][:_AT_FIRST]


def _say_which_are_left_out(page: Frame) -> None:
    """Say how many runs are left out because the bundle was another one then."""
    digest, name = page.bundle.manifest.digest, page.bundle.name
    configs = [run.config for run in list_runs(workspace())]
    earlier = sum(each.bundle == name and each.bundle_digest != digest for each in configs)
    if earlier:
        st.caption(
            f"{earlier:,} runs were made before this bundle was written anew and are not offered: "
            "its samples, splits or groups have changed, so their scores are of other data."
        )


def choose_average() -> tuple[str, str]:
    """Draw the choice of average and return its metric and its name."""
    metric = nav.select(
        "average",
        "Average",
        list(_AVERAGES),
        draw=st.segmented_control,
        required=True,
        format_func=lambda key: _AVERAGES[key],
        help="Mean: all samples of the split count the same. Adjusted: groups count by their share "
        "of the training set.",
    )
    return metric, _AVERAGES[metric]


def score_tables(
    compared: list[Entry], bundle: Bundle, average: str
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return the scores of each seed and the points of the trade-off's figure.

    Returns:
        The scores; one row an entry: run, label, method, worst, average and the ends of their
        intervals; one row a seed: label, seed, worst, average.
    """
    table = scores(compared, read=load_outcome)
    size = {"mean_accuracy": bundle.manifest.split_sizes["test"]}.get(average)
    rows = []
    for entry in compared:
        own = table[table["entry"] == entry.label]
        worst = spread(own["worst_group_accuracy"], int(own["worst_count"].iloc[0]))
        row = {"run": entry.run_id, "label": entry.label, "method": entry.config.method}
        for name, each in (("worst", worst), ("average", spread(own[average], size))):
            row |= {name: each["mean"], f"{name}_low": each["low"], f"{name}_high": each["high"]}
        rows.append(row)
    points = table.rename(
        columns={"entry": "label", "worst_group_accuracy": "worst", average: "average"}
    )
    return table, pd.DataFrame(rows), points[["label", "seed", "worst", "average"]]


def group_tables(compared: list[Entry]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return label, group, accuracy, low, high, one row an entry and group; and every seed."""
    return _spreads(group_scores(compared, read=load_outcome))


def _spreads(points: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    points = points.rename(columns={"entry": "label"})
    rows = []
    for (label, group), part in points.groupby(["label", "group"], sort=False):
        each = spread(part["accuracy"], int(part["count"].iloc[0]))
        ends = {"accuracy": each["mean"], "low": each["low"], "high": each["high"]}
        rows.append({"label": label, "group": group, **ends})
    columns = ["label", "group", "accuracy", "low", "high"]
    return pd.DataFrame(rows, columns=columns), points


def show_table(compared: list[Entry], table: pd.DataFrame, bundle: Bundle) -> None:
    """Draw the comparison in numbers: scores, labels read and time taken.

    Args:
        compared: The entries.
        table: From `comparing.scores.scores`.
        bundle: The data.
    """
    rows = []
    for entry in compared:
        own, protocol = table[table["entry"] == entry.label], protocol_of(entry.runs[0], bundle)
        rows.append(
            {
                "method": entry.label,
                "seeds": "all" if entry.every_seed else str(len(own)),
                "its accuracy": own["worst_group_accuracy"].mean(),
                "± sd": own["worst_group_accuracy"].std(),
                "label budget": protocol.budget,
                "mean": own["mean_accuracy"].mean(),
                "adjusted": own["adjusted_accuracy"].mean(),
                "worst group": Counter(own["worst_group"]).most_common(1)[0][0],
                "trained with": protocol.training,
                "step chosen by": protocol.chosen_by,
                "kept step": ", ".join(str(step) for step in own["step"]),
                "seconds": own["seconds"].mean(),
            }
        )
    share = st.column_config.NumberColumn(format="percent")
    sizes = bundle.manifest.split_sizes
    most = sum(sizes[split] for split in (bundle.manifest.weighted_split, "target", "val"))
    show_rows(
        rows,
        column_config={
            "method": st.column_config.Column(width="medium", pinned=True),
            "its accuracy": st.column_config.NumberColumn("worst-group accuracy", format="percent"),
            "± sd": share,
            "label budget": st.column_config.ProgressColumn(
                width=_BUDGET,
                format="%d",
                min_value=0,
                max_value=most,
                help="Samples whose group labels were read, to train or to choose the step.",
            ),
            "mean": share,
            "adjusted": share,
            "trained with": st.column_config.Column(
                help="The samples whose group labels the training read."
            ),
            "seconds": st.column_config.NumberColumn(format="%.1f", help="Mean over seeds."),
        },
    )
    st.caption(f"Accuracies on test at the kept step, means over seeds. {_ERROR_BARS}")
    show_cautions(
        f"{entry.label}: {said}" for entry in compared for said in load_cautions(entry.runs[0])
    )


def accuracy_by_group(tables: pd.DataFrame, what: str = "group") -> None:
    """Draw the accuracy of each group in numbers.

    Args:
        tables: The first of `group_tables`.
        what: What a row stands for, in one word.
    """
    wide = tables.pivot(index="group", columns="label", values="accuracy")
    wide = wide.loc[tables["group"].unique(), tables["label"].unique()]
    wide = wide.rename_axis(index=what).reset_index()
    share = st.column_config.NumberColumn(format="percent")
    show_rows(wide, column_config={str(name): share for name in wide.columns[1:]})


def show_slices(compared: list[Entry], bundle: Bundle) -> None:
    """Draw the accuracy of each entry on each slice, if the bundle has slices.

    Args:
        compared: The entries.
        bundle: The data.
    """
    slices = slices_of(bundle)
    if not slices:
        return
    st.subheader("Each slice", anchor=False)
    points = slice_scores(compared, slices, bundle, read=load_accuracies)
    has_samples = points["count"] > 0
    tables, points_there = _spreads(points[has_samples].rename(columns={"slice": "group"}))
    if len(tables):
        figure = group_dots(tables, points=points_there)
        show(figure, key="slice dots", alt="Accuracy of each slice under each method.")
    counts = points.drop_duplicates("slice").set_index("slice")["count"]
    sizes = ", ".join(f"{plain(name)} {count:,}" for name, count in counts.items())
    st.caption(f"Samples in test: {sizes}. {_ERROR_BARS}")
    if len(tables):
        with st.expander("Each slice in numbers"):
            accuracy_by_group(tables, what="slice")


def add_seeds(page: Frame, compared: list[Entry]) -> None:
    """Say which entries have one seed only, and offer to run more seeds."""
    # Entries with runs under way are not offered twice.
    under_way = {identity(run) for run in page.runs if run.state.active}
    single = [
        entry
        for entry in compared
        if len(entry.seeds) == 1
        and not (entry.stopped or entry.every_seed)
        and not (entry.config.variation.keys() - {"seen_groups"} or entry.config.part_of)
        and not entry.config.sweep
        and identity(entry.runs[0]) not in under_way
    ]
    if not single:
        return
    jobs = [job for entry in single for job in _missing_seeds(entry)]
    labels = ", ".join(plain(entry.label) for entry in single)
    with st.container(border=True, key="one seed"):
        st.write(
            f"**One seed only: {labels}.** Add seeds to tell a difference from the luck of a draw."
        )
        with st.expander("The same from a terminal"):
            st.code(run_commands(jobs, workspace()), language="bash", wrap_lines=True)
        if st.button("Add seeds", icon=":material/add:", key="add seeds"):
            try:
                for job in jobs:
                    enqueue(workspace(), job.begin(workspace()))
            except GsrError as error:
                show_error(error)
            else:
                st.rerun()


def _missing_seeds(entry: Entry) -> list[RunJob]:
    """Return the runs that an entry lacks up to the usual number of seeds."""
    job = RunJob.of(entry.config)
    missing = [seed for seed in range(_SEEDS) if seed not in entry.seeds][: _SEEDS - 1]
    return [
        job.model_copy(update={"settings": {**job.settings, "seed": seed}, "run_id": ""})
        for seed in missing
    ]
