"""The Compare page, upper half: what is compared, its scores, and how to add seeds.

All scores are of the test split at the kept step.
"""

from __future__ import annotations

from collections import Counter

import pandas as pd
import streamlit as st

from gsr_core.comparing.entries import Entry, entries, identity, what_differs
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
from gsr_core.views.charts import plain, show
from gsr_core.views.frame import Frame, link
from gsr_core.views.session import load_accuracies, load_outcome, workspace
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
_SEEDS = 5
"""Seeds that a comparison should have; what the literature reports."""
_ERROR_BARS = (
    "Bars: one standard deviation over seeds, faint points the seeds; for a single seed the 95 % "
    "Wilson interval of its test samples."
)


def choose_entries(page: Frame) -> list[Entry]:
    """Draw the choice of what to compare and return it; stop the page while there is none."""
    if not page.ended:
        st.info("No run has ended on this bundle yet.")
        link("Run", "Start one")
        st.stop()
    asked = [run_id for run_id in nav.get("runs").split(",") if run_id]
    # A study's runs are there for those who ask for them.
    shown = {"", *(run.config.part_of for run in page.ended if run.run_id in asked)}
    offered = entries(run for run in page.ended if run.config.part_of in shown)
    _say_what_is_left_out(page, asked)
    by_id = {entry.run_id: entry for entry in offered}
    # An address may have a run whose seed was computed again since: its entry is still meant.
    same = {(identity(entry.config), entry.config.part_of): entry.run_id for entry in offered}
    keys = {run.run_id: (identity(run.config), run.config.part_of) for run in page.ended}
    of_run = {run_id: same[key] for run_id, key in keys.items() if key in same}
    if "compare runs" not in st.session_state:
        st.session_state["compare runs"] = asked or _first_choice(offered)
    before = st.session_state["compare runs"]
    there = list(dict.fromkeys(of_run[run_id] for run_id in before if run_id in of_run))
    # None left because another bundle was chosen: begin again. None chosen is a choice.
    st.session_state["compare runs"] = there if there or not before else _first_choice(offered)
    chosen = st.multiselect(
        "Methods",
        list(by_id),
        format_func=lambda run_id: by_id[run_id].label,
        key="compare runs",
        help="Runs that differ in their seed alone are one entry.",
    )
    nav.put(runs=",".join(chosen))
    if not chosen:
        st.info("Choose at least one method.")
        st.stop()
    return [by_id[run_id] for run_id in chosen]


def _first_choice(offered: list[Entry]) -> list[str]:
    """Return the classifier as it came and the newest entry of each other method, up to six."""
    newest: dict[str, str] = {}
    for entry in sorted(offered, key=lambda entry: entry.config.method != "erm"):
        newest.setdefault(entry.config.method, entry.run_id)
    more = [entry.run_id for entry in offered if entry.run_id not in newest.values()]
    return [*newest.values(), *more][:_AT_FIRST]


def _say_what_is_left_out(page: Frame, asked: list[str]) -> None:
    """Say which runs are not offered because they were made on other data, and what differs."""
    digest, here = page.bundle.manifest.digest, page.ended[0]
    others = [run for run in list_runs(workspace()) if run.config.bundle_digest != digest]
    for run in others:
        if run.run_id in asked:
            st.warning(
                f"{plain(run.run_id)} is left out, because {plain(what_differs(here, run))}."
            )
    earlier = sum(run.config.bundle == page.bundle.name for run in others)
    if earlier:
        st.caption(
            f"{earlier:,} runs were made before this bundle was written anew and are not offered: "
            "its samples, splits or groups have changed, so that their scores are of other data."
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
        help="Mean: all samples of the split count alike. Adjusted: groups count by their share of "
        "the training set.",
    )
    return metric, _AVERAGES[metric]


def score_tables(
    found: list[Entry], bundle: Bundle, average: str
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return the scores of each seed (`compare.scores`) and what the trade-off is drawn from.

    Returns:
        The scores; one row an entry: run, label, method, worst, average and the ends of their
        intervals; one row a seed: label, seed, worst, average.
    """
    table = scores(found, read=load_outcome)
    size = {"mean_accuracy": bundle.manifest.split_sizes["test"]}.get(average)
    rows = []
    for entry in found:
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


def group_tables(found: list[Entry]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return label, group, accuracy, low, high, one row an entry and group; and every seed."""
    return _spreads(group_scores(found, read=load_outcome))


def _spreads(points: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    points = points.rename(columns={"entry": "label"})
    rows = []
    for (label, group), part in points.groupby(["label", "group"], sort=False):
        each = spread(part["accuracy"], int(part["count"].iloc[0]))
        ends = {"accuracy": each["mean"], "low": each["low"], "high": each["high"]}
        rows.append({"label": label, "group": group, **ends})
    columns = ["label", "group", "accuracy", "low", "high"]
    return pd.DataFrame(rows, columns=columns), points


def show_table(found: list[Entry], table: pd.DataFrame, bundle: Bundle) -> None:
    """Draw what is compared in numbers: scores, what they needed and what they cost.

    Args:
        found: What is compared.
        table: From `compare.scores`.
        bundle: The data.
    """
    rows = []
    for entry in found:
        own, protocol = table[table["entry"] == entry.label], protocol_of(entry.runs[0], bundle)
        rows.append(
            {
                "method": entry.label,
                "seeds": len(own),
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
    st.dataframe(
        rows,
        hide_index=True,
        column_config={
            "method": st.column_config.Column(width="medium", pinned=True),
            "its accuracy": st.column_config.NumberColumn("worst-group accuracy", format="percent"),
            "± sd": share,
            "label budget": st.column_config.ProgressColumn(
                format="%d",
                min_value=0,
                max_value=most,
                help="Rows whose group labels were read, to train or to choose the step.",
            ),
            "mean": share,
            "adjusted": share,
            "trained with": st.column_config.Column(help="Whose group labels trained it."),
            "seconds": st.column_config.NumberColumn(format="%.1f", help="Mean over seeds."),
        },
    )
    st.caption(f"Accuracies on test at the kept step, means over seeds. {_ERROR_BARS}")


def accuracy_by_group(tables: pd.DataFrame, what: str = "group") -> None:
    """Draw the accuracy of each group in numbers.

    Args:
        tables: The first of `group_tables`.
        what: What a row is, in one word.
    """
    wide = tables.pivot(index="group", columns="label", values="accuracy")
    wide = wide.loc[tables["group"].unique(), tables["label"].unique()]
    wide = wide.rename_axis(index=what).reset_index()
    share = st.column_config.NumberColumn(format="percent")
    st.dataframe(
        wide, hide_index=True, column_config={str(name): share for name in wide.columns[1:]}
    )


def show_slices(found: list[Entry], bundle: Bundle) -> None:
    """Draw the accuracy of each entry on each slice, if the bundle has slices.

    Args:
        found: What is compared.
        bundle: The data.
    """
    slices = slices_of(bundle)
    if not slices:
        return
    st.subheader("Each slice", anchor=False)
    points = slice_scores(found, slices, bundle, read=load_accuracies)
    there = points["count"] > 0
    tables, points_there = _spreads(points[there].rename(columns={"slice": "group"}))
    if len(tables):
        figure = group_dots(tables, points=points_there)
        show(figure, key="slice dots", alt="Accuracy of each slice under each method.")
    counts = points.drop_duplicates("slice").set_index("slice")["count"]
    sizes = ", ".join(f"{plain(name)} {count:,}" for name, count in counts.items())
    st.caption(f"Samples in test: {sizes}. {_ERROR_BARS}")
    if len(tables):
        with st.expander("Each slice in numbers"):
            accuracy_by_group(tables, what="slice")


def add_seeds(page: Frame, found: list[Entry]) -> None:
    """Say which entries have one seed only, and offer to run more of them."""
    # What was asked for already need not be asked for twice.
    under_way = {identity(run.config) for run in page.runs if run.state.active}
    single = [
        entry
        for entry in found
        if len(entry.seeds) == 1
        and not (entry.config.variation or entry.config.part_of or entry.config.sweep)
        and identity(entry.config) not in under_way
    ]
    if not single:
        return
    jobs = [job for entry in single for job in _missing_seeds(entry)]
    few = ", ".join(plain(entry.label) for entry in single)
    with st.container(border=True, key="one seed"):
        st.write(
            f"**One seed only: {few}.** Add seeds to tell a difference from the luck of a draw."
        )
        with st.expander("The same from a terminal"):
            st.code(run_commands(jobs, workspace()), language="bash", wrap_lines=True)
        if st.button("Add seeds", icon=":material/add:", key="add seeds"):
            try:
                for job in jobs:
                    enqueue(workspace(), job.begin(workspace()))
            except GsrError as error:
                st.error(str(error))
            else:
                st.rerun()


def _missing_seeds(entry: Entry) -> list[RunJob]:
    """Return the runs that are missing up to the usual number of seeds."""
    job = RunJob.of(entry.config)
    missing = [seed for seed in range(_SEEDS) if seed not in entry.seeds][: _SEEDS - 1]
    return [
        job.model_copy(update={"settings": {**job.settings, "seed": seed}, "run_id": ""})
        for seed in missing
    ]
