"""Tables and choices of the Weights page."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from gsr_core.comparing.entries import entries, same_but_for_seed
from gsr_core.comparing.scores import mean_history
from gsr_core.data.bundle import Bundle
from gsr_core.data.groups import UNKNOWN
from gsr_core.figures.training import (
    group_weight_over_steps,
    loss_terms_over_steps,
    skipped_terms_over_steps,
)
from gsr_core.runs.store import Run
from gsr_core.runs.summary import weights_by_group
from gsr_core.views import navigation as nav
from gsr_core.views.charts import plain, show, show_rows
from gsr_core.views.face import face
from gsr_core.views.frame import Frame, link
from gsr_core.views.loading import load_history, load_samples, load_weights_at

__all__ = [
    "choose_step",
    "data_counts",
    "driving_groups",
    "extremes",
    "group_weights",
    "inferred_table",
    "loss_terms",
    "note_on_groups",
    "over_seeds",
    "summary_table",
]

_STRIP = 10


def data_counts(bundle: Bundle, run: Run) -> tuple[dict[str, int], int]:
    """Return the number of samples with a weight of each group, and of all.

    The groups need not add up to all: they may overlap, and some samples are in none.
    """
    rows = run.weighted_rows()
    count = bundle.membership[rows].sum(axis=0)
    return dict(zip(bundle.group_names, count.tolist(), strict=True)), len(rows)


def choose_step(run: Run) -> int:
    """Draw the slider over the stored steps and return the chosen one; the kept step at first."""
    steps = [int(step) for step in run.weight_steps()]
    kept_step = run.state.best_step
    if len(steps) == 1:
        return steps[0]
    text = {step: f"{step} (kept)" if step == kept_step else str(step) for step in steps}
    return int(
        nav.select(
            "step",
            "Step",
            [str(step) for step in steps],
            default=str(kept_step),
            draw=st.select_slider,
            format_func=lambda step: text[int(step)],
        )
    )


def over_seeds(page: Frame, history: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Draw the choice between this run and the mean over its seeds, if there are several.

    Returns:
        The history to draw, with a column sd if it is a mean, and what it is of, as a sentence.
    """
    run = page.run
    assert run is not None
    seeds = same_but_for_seed([run], page.ended)
    (entry,) = entries(seeds)
    if len(entry.seeds) < 2 or not st.toggle(
        f"Mean ± sd over the {len(entry.seeds)} seeds", key="over seeds", persist_state="session"
    ):
        return history, ""
    numbers = ", ".join(map(str, entry.seeds))
    mean = mean_history([load_history(each) for each in entry.runs])
    return mean, f" Mean and standard deviation over seeds {numbers}."


def group_weights(bundle: Bundle, run: Run, step: int) -> pd.DataFrame:
    """Return group and weight at a step: one row for each sample and group of it.

    A sample in no known group has one row, as unknown.
    """
    rows = run.weighted_rows()
    weight = load_weights_at(run, step)
    members = bundle.membership[rows]
    members = np.column_stack([members, ~members.any(axis=1)])
    sample, group = np.nonzero(members)
    names = np.array([*bundle.group_names, UNKNOWN], dtype=object)
    return pd.DataFrame({"group": names[group], "weight": weight[sample]})


def note_on_groups(bundle: Bundle, run: Run) -> None:
    """Say how many weighted samples are in no known group, or that groups overlap."""
    rows = run.weighted_rows()
    each = bundle.membership[rows].sum(axis=1)
    if (unknown := int((each == 0).sum())) > 0:
        st.caption(
            f"{unknown:,} of {len(rows):,} weighted samples are in no known group, so the lines of "
            "the groups leave them out."
        )
    if (each > 1).any():
        st.caption("Groups overlap, so their shares add up to more than 100 %.")


def inferred_table(bundle: Bundle, run: Run) -> None:
    """Draw how many samples each inferred group shares with each known group."""
    table = load_samples(run, run.values_split)
    if "inferred_group" not in table.columns:
        return
    st.subheader("Inferred groups", anchor=False)
    st.caption(
        "Samples of each inferred group in each known group, and the inferred group's share of the "
        "weight. The method did not see the known groups of these samples."
    )
    inferred = table["inferred_group"].to_numpy()
    members = bundle.membership[table["row"].to_numpy()]
    total = len(table)
    rows = []
    for number in sorted(set(inferred.tolist()), key=lambda each: (each < 0, each)):
        here = inferred == number
        counts = dict(zip(bundle.group_names, members[here].sum(axis=0).tolist(), strict=True))
        rows.append(
            {
                "inferred group": "outliers" if number < 0 else str(number),
                **counts,
                "samples": int(here.sum()),
                "share of weight": float(table["weight"].to_numpy()[here].sum() / total),
            }
        )
    share = st.column_config.NumberColumn(format="percent")
    show_rows(rows, column_config={"share of weight": share})


def summary_table(history: pd.DataFrame, counts: dict[str, int], total: int, step: int) -> None:
    """Draw each group's weight in numbers."""
    table = weights_by_group(history, step).loc[list(counts)]
    share = st.column_config.NumberColumn(format="percent")
    show_rows(
        {
            "group": list(counts),
            "samples": list(counts.values()),
            "share of data": [count / total for count in counts.values()],
            "share of weight": table["weight_sum"].tolist(),
            "mean weight ×": (table["weight_mean"] * total).tolist(),
            "effective samples": table["effective_sample_size"].tolist(),
        },
        column_config={
            "share of data": share,
            "share of weight": share,
            "mean weight ×": st.column_config.NumberColumn(
                format="%.2f", help="Relative to an equal share: all begin at 1."
            ),
            "effective samples": st.column_config.NumberColumn(format="%.0f"),
        },
    )


@st.fragment
def driving_groups(
    history: pd.DataFrame, selected: int | None, colours: dict[str, str] | None
) -> None:
    """Draw what each group counts in what is minimised, once it is unfolded.

    Args:
        history: Of a run; nothing is drawn of one whose method has no such weights.
        selected: The kept step, if there is one.
        colours: Colour of each group; by order of appearance if None.
    """
    if not (history["metric"] == "group_weight").any():
        return
    folded = st.expander("Which group drives the weights", on_change="rerun", key="gamma fold")
    if folded.open:
        with folded:
            st.caption("How much each group's loss counts in what is minimised.")
            figure = group_weight_over_steps(history, selected=selected, colours=colours)
            show(figure, key="gamma", alt="Aggregation weight of each group over the steps.")


def loss_terms(history: pd.DataFrame, selected: int | None) -> None:
    """Draw the terms by which a method trained its features, if it did.

    Args:
        history: Of a run.
        selected: The kept step, if there is one.
    """
    if not (history["metric"] == "class_term").any():
        return
    st.subheader("Terms of the loss", anchor=False)
    st.caption(
        "Each is low where what belongs together, as samples of a class do, is close together and "
        "away from the rest. Skipped is what had nothing in its batch to be contrasted with."
    )
    left, right = st.columns(2, gap="large")
    with left:
        figure = loss_terms_over_steps(history, selected=selected)
        show(figure, key="terms", alt="Terms of the loss over the steps.")
    with right:
        figure = skipped_terms_over_steps(history, selected=selected)
        show(figure, key="skipped", alt="Share that each term skipped over the steps.")


def extremes(bundle: Bundle, run: Run, step: int) -> None:
    """Draw the heaviest and the lightest samples at a step as two strips."""
    table = load_samples(run, run.values_split)
    weight = load_weights_at(run, step) * len(table)
    order = np.argsort(-weight, kind="stable")
    kept = step == run.state.best_step
    for title, sort, places in (
        ("Heaviest samples", "heaviest", order[:_STRIP]),
        ("Lightest samples", "lightest", order[::-1][:_STRIP]),
    ):
        st.subheader(f"{title} at {'the kept step' if kept else f'step {step}'}", anchor=False)
        shown = table.iloc[places].assign(weight=weight[places])
        with st.container(horizontal=True, gap="small", key=f"strip {sort}"):
            for sample in shown.to_dict("records"):
                with st.container(width=104 if bundle.has_images else 200, gap="xxsmall"):
                    face(bundle, sample["row"], alt=f"{title}: {sample['sample_id']}", width=104)
                    st.caption(f"**{sample['weight']:.2g}×**  \n{plain(sample['group'])}")
        link(
            "Samples",
            f"All, {sort} at the kept step first",
            split=run.values_split,
            sort=sort,
            slice=None,
            changed=None,
            group=None,
        )
