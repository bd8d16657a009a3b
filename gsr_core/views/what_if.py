"""The What if page: an edit of a run's rows, the head fitted anew, and what that did to groups.

The choice of rows and edit is in the URL. What was computed is kept for the session, with the edit
it is of: another choice hides it until it is asked for.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, NoReturn, get_args

import numpy as np
import pandas as pd
import streamlit as st

from gsr_core.data.bundle import Bundle
from gsr_core.data.edits import EditKind, RowEdit
from gsr_core.errors import GsrError, SettingError
from gsr_core.figures.theme import in_points
from gsr_core.figures.what_if import group_changes, predicted_against_happened
from gsr_core.jobs.command import shell_line
from gsr_core.metrics import worst_group
from gsr_core.progress import duration
from gsr_core.runs.job import submit
from gsr_core.runs.store import Run
from gsr_core.views import navigation as nav
from gsr_core.views.charts import colours_of, percent, plain, sentence, show, show_error, show_rows
from gsr_core.views.frame import Frame, link
from gsr_core.views.loading import load_refits, load_samples
from gsr_core.views.session import is_active, workspace
from gsr_core.views.slices import choose_slice
from gsr_core.what_if.chance import DRAWS, Chance, beyond_chance, draw, validity
from gsr_core.what_if.keep import keep_refit
from gsr_core.what_if.refits import SPLITS, Outcome, Refits
from gsr_core.what_if.selection import ORDERS, Selection, make_edit, the_first

__all__ = ["choose_edit", "outcome_of", "show_outcome"]

_EDITS: dict[str, str] = {
    "drop": "leave them out",
    "times": "multiply their weights",
    "relabel": "call them another class",
}
_PICKED = "a slice or selection"
_COUNT, _TIMES = 20, 2.0
_KEPT = "what if"
"""In the session: the last refit that was asked for."""
_SOON = 300.0
"""Seconds that a page may spend on random subsets."""
_LONG = 2000
"""Characters of rows that a command line is to have at most."""
_NO_POINTS = 0.05
"""What is rounded to nothing."""


@dataclass
class _Asked:
    """A refit that was asked for.

    Attributes:
        edit: What it is of.
        outcome: The head after it.
        seconds: How long the fit took.
        chance: The same of random rows, once asked for.
        kept: Name of the run that it was kept as, or "".
    """

    edit: RowEdit
    outcome: Outcome
    seconds: float
    chance: Chance | None = None
    kept: str = ""


def _stop(error: GsrError) -> NoReturn:
    show_error(error)
    st.stop()


def choose_edit(bundle: Bundle, run: Run) -> tuple[Refits, RowEdit]:
    """Draw the choice of rows and of what is done to them; stop where there is none to make.

    Returns:
        The run's head, ready to be fitted anew, and the edit.
    """
    try:
        refits = load_refits(run)
    except GsrError as error:
        show_error(error)
        link("Run", "Start a run of GSR")
        st.stop()
    classes, count, times, label = bundle.manifest.classes, "", "", ""
    table = load_samples(run, run.values_split)
    orders = [name for name, (column, _) in ORDERS.items() if column in table.columns]
    with st.container(horizontal=True, vertical_alignment="bottom", key="edit"):
        default = _PICKED if nav.get("slice") else orders[0]
        what = nav.select("rows", "Rows", [_PICKED, *orders], default=default, width=190)
        picked = choose_slice(bundle) if what == _PICKED else None
        if what != _PICKED:
            count = nav.write("count", "How many", placeholder=f"{_COUNT}", width=90)
        wanted = nav.select(
            "edit", "Edit", list(_EDITS), format_func=lambda each: _EDITS[each], width=210
        )
        kind = next(each for each in get_args(EditKind) if each == wanted)
        if kind == "times":
            times = nav.write("times", "Times", placeholder=f"{_TIMES:g}", width=90)
        elif kind == "relabel":
            label = nav.select("label", "New class", classes, width=160)
    if what == _PICKED and picked is None:
        st.info(
            "Choose a slice, or come from Samples or the Map with a selection. Or choose the "
            "heaviest or most harmful rows here."
        )
        st.stop()
    try:
        if picked is not None:
            chosen = Selection(picked.rows, picked.label)
        else:
            chosen = the_first(run, round(_number(count, _COUNT)), what, table)
        factor = _number(times, _TIMES)
        return refits, make_edit(refits, chosen, kind, times=factor, label=label)
    except GsrError as error:
        _stop(error)


def _number(text: str, usual: float) -> float:
    """Return what was typed, or the usual number if nothing was.

    Raises:
        SettingError: If it is no number.
    """
    try:
        value = float(text or usual)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SettingError(
            f"'{text}' is not a number; type one, such as {usual:g}, or leave the field empty"
        )
    return value


def outcome_of(refits: Refits, edit: RowEdit) -> _Asked:
    """Draw the button that fits the head anew; return what came of it, stop if not asked for."""
    n, share = len(edit.positions), float(refits.weight[refits.places(edit)].sum())
    st.caption(
        f"{sentence(edit.words)}: {n:,} of {len(refits.position):,} rows, with {percent(share)} of "
        "the weight. The head is fitted anew under the run's weights at the kept step, divided by "
        "their new sum; the penalty stays."
    )
    if st.button("Refit", type="primary", icon=":material/replay:", key="refit"):
        begun = time.perf_counter()
        with st.spinner("Fitting the head anew"):
            try:
                outcome = refits.refit(edit)
            except GsrError as error:
                _stop(error)
        st.session_state[_KEPT] = _Asked(edit, outcome, time.perf_counter() - begun)
    asked: _Asked | None = st.session_state.get(_KEPT)
    if asked is None or asked.edit != edit:
        st.stop()
    if asked.outcome.note:
        st.warning(asked.outcome.note)
    return asked


def show_outcome(page: Frame, refits: Refits, asked: _Asked) -> None:
    """Draw what an edit did to each group, what influence foresaw, and what can be done with it."""
    with st.container(horizontal=True, vertical_alignment="bottom", key="what happened"):
        split = nav.select("split", "Split", list(SPLITS), width=120)
        measure = st.segmented_control(
            "Measure",
            ["accuracy", "loss"],
            default="accuracy",
            required=True,
            key="what if measure",
        )
        _ask_chance(refits, asked)
        _keep(page, refits, asked)
    table = refits.changes(asked.outcome, split)
    chance = asked.chance
    if chance is not None:
        table = beyond_chance(table, chance, split)
    _numbers(refits, asked, table, split)
    left, right = st.columns(2, gap="medium")
    with left:
        st.markdown("**What happened to each group**")
        show(
            group_changes(
                table,
                measure="loss" if measure == "loss" else "accuracy",
                chance=None if chance is None else _middle(chance, refits, split, str(measure)),
            ),
            key="group changes",
            alt=f"Change of the {measure} of each group of {split}, with its interval.",
        )
    with right:
        st.markdown("**What influence predicted, and what happened**")
        show(
            predicted_against_happened(
                table,
                cloud=None if chance is None else _cloud(chance, refits, split),
                colours=colours_of(page.bundle),
            ),
            key="predicted and happened",
            alt=f"Predicted against refitted change of the loss of each group of {split}.",
        )
    _tables(table, chance, refits, split)
    with st.expander("The same from a terminal"):
        words = asked.edit.command
        if len(asked.edit.rows) > _LONG:
            st.caption(
                "So many rows are better saved as a slice, by whose name a command finds them."
            )
            words = [*words[: words.index("--rows")], "--slice", "NAME"]
        st.code(shell_line(words, workspace()), language="bash", wrap_lines=True)


def _ask_chance(refits: Refits, asked: _Asked) -> None:
    """Draw the button that does the same to random rows, or the command where it takes long."""
    if asked.chance is not None:
        return
    if asked.seconds * DRAWS > _SOON:
        words = " ".join(["gsr", *asked.edit.command[:3], "...", "--random", str(DRAWS)])
        st.caption(
            f"{DRAWS} random subsets would take about {duration(asked.seconds * DRAWS)}: "
            f"'{plain(words)}' draws them in a terminal."
        )
        return
    expected = duration(max(asked.seconds * DRAWS, 1.0))
    if st.button(
        f"{DRAWS} random subsets",
        icon=":material/casino:",
        key="random subsets",
        help="Does the same to as many random rows, again and again: what chance does, and how far "
        f"influence ranks what happens. Takes about {expected}.",
    ):
        bar = st.progress(0.0)

        def report(fraction: float, text: str) -> None:
            bar.progress(fraction, text)

        try:
            asked.chance = draw(refits, asked.edit, report=report)
        except GsrError as error:
            _stop(error)
        st.rerun()


def _keep(page: Frame, refits: Refits, asked: _Asked) -> None:
    """Draw the button that keeps the refit as a run, or the link to the run."""
    if asked.kept not in [each.run_id for each in page.runs]:
        asked.kept = ""  # It was deleted since.
    if not asked.kept and st.button(
        "Keep as a run",
        icon=":material/save:",
        key="keep refit",
        help="A run of this edit, for Compare and all other pages.",
    ):
        try:
            kept = keep_refit(refits, asked.edit)
            submit(kept)
        except GsrError as error:
            _stop(error)
        asked.kept = kept.run_id
        st.rerun()
    if asked.kept in [each.run_id for each in page.runs if is_active(each)]:
        st.caption("Kept as a run, which is being computed.")
    elif asked.kept:
        runs = f"{refits.run.run_id},{asked.kept}"
        link("Compare", "Kept: compare the two", runs=runs, reference=refits.run.run_id)


def _numbers(refits: Refits, asked: _Asked, table: pd.DataFrame, split: str) -> None:
    """Draw the scores of all groups together, before and after, and how good influence is."""
    before, after = table["before"].to_numpy(), table["after"].to_numpy()
    worst = worst_group(after)
    means = [
        float(each.right.mean()) for each in (refits.before[split], asked.outcome.answers[split])
    ]
    with st.container(horizontal=True):
        st.metric(
            f"Worst group: {plain(table['group'].iloc[worst])}",
            percent(after[worst]),
            **_delta(after[worst] - np.nanmin(before)),
            border=True,
            help=f"Lowest accuracy of a group of {split} after the edit, and what it is above the "
            "lowest before.",
        )
        st.metric(
            "Mean accuracy",
            percent(means[1]),
            **_delta(means[1] - means[0]),
            border=True,
        )
        if asked.chance is not None:
            score = validity(asked.chance, split, refits.group_names)
            st.metric(
                "Influence ranks what happens",
                f"{score['rank'].mean():.2f}",
                border=True,
                help="Spearman's correlation of the predicted and the refitted change of a group's "
                f"loss over {len(asked.chance.loss[split])} random subsets of "
                f"{asked.chance.size:,} rows, mean over the groups: 1 ranks them all rightly, 0 is "
                "no better than chance.",
            )


def _delta(change: float) -> dict[str, Any]:
    """Return how a metric shows the change of an accuracy."""
    if abs(points := 100 * change) < _NO_POINTS:
        return {"delta": "as before", "delta_color": "off", "delta_arrow": "off"}
    return {"delta": f"{points:+.1f} pp"}


def _tables(table: pd.DataFrame, chance: Chance | None, refits: Refits, split: str) -> None:
    """Draw the numbers behind the charts."""
    share = st.column_config.NumberColumn(format="percent")
    points = st.column_config.NumberColumn(format="%+.1f pp", help="Percentage points.")
    nats = st.column_config.NumberColumn(format="%.3f")
    columns = ["group", "samples", "before", "after", "change", "low", "high", "verdict"]
    columns += ["loss_change", "loss_low", "loss_high", "predicted"]
    columns += ["chance_accuracy", "chance_loss"] * (chance is not None)
    show_rows(
        in_points(table[columns], "change", "low", "high").rename(
            columns=lambda name: name.replace("_", " ")
        ),
        key="what if table",
        column_config={
            **dict.fromkeys(("before", "after"), share),
            **dict.fromkeys(("change", "low", "high"), points),
            **dict.fromkeys(("loss change", "loss low", "loss high", "predicted"), nats),
            "verdict": st.column_config.Column(
                help="Of the accuracy: McNemar's exact test on the samples that changed, corrected "
                "for the number of groups."
            ),
            "chance accuracy": st.column_config.NumberColumn(
                format="%.3f", help="Two-sided p of the change under the same edit of random rows."
            ),
            "chance loss": nats,
        },
    )
    st.caption(
        "Losses are in nats. Intervals are of 95 % over these samples; predicted is the change of "
        "the loss that influence foresees, which is exact for small edits."
    )
    if chance is not None:
        with st.expander("How far influence can be believed, group by group"):
            show_rows(
                validity(chance, split, refits.group_names),
                key="validity",
                column_config={
                    **dict.fromkeys(("rank", "low", "high", "slope"), nats),
                    "slope": st.column_config.NumberColumn(
                        format="%.2f",
                        help="Nats that happened for one that was predicted: 1 is the right size.",
                    ),
                },
            )


def _middle(chance: Chance, refits: Refits, split: str, measure: str) -> pd.DataFrame:
    """Return between which changes of a measure 95 of 100 random edits are, group by group."""
    draws = (chance.loss if measure == "loss" else chance.accuracy)[split]
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    return pd.DataFrame({"group": refits.group_names, "low": low, "high": high}).dropna()


def _cloud(chance: Chance, refits: Refits, split: str) -> pd.DataFrame:
    """Return one row a random subset and group: what was predicted, and what happened."""
    predicted, happened = chance.predicted[split], chance.loss[split]
    return pd.DataFrame(
        {
            "group": np.tile(np.array(refits.group_names, dtype=object), len(predicted)),
            "predicted": predicted.ravel(),
            "loss_change": happened.ravel(),
        }
    ).dropna()
