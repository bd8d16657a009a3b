"""The gate on the Compare page: is a run good enough on every group, with certainty?

The checks are those of `gsr check`, whose line is shown beside the result.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from gsr_core.comparing.changes import shared_run
from gsr_core.comparing.entries import Entry
from gsr_core.comparing.gate import Checks, Gate, Result, check
from gsr_core.data.bundle import Bundle
from gsr_core.errors import GsrError
from gsr_core.jobs.command import option, pairs, shell_line
from gsr_core.views.charts import plain, show_error, show_rows
from gsr_core.views.frame import link
from gsr_core.views.loading import load_samples
from gsr_core.views.session import workspace
from gsr_core.views.slices import slices_of

__all__ = ["gate"]


@st.fragment
def gate(bundle: Bundle, reference: Entry, other: Entry) -> None:
    """Draw a form of checks, and how an entry fares in them.

    Args:
        bundle: The data.
        reference: What the largest drop is counted from.
        other: The entry that is checked, by its run of the seed that both have.
    """
    one, two = shared_run(reference, other)
    names = [each.name for each in slices_of(bundle)]
    with st.form("gate", border=True), st.container(horizontal=True, vertical_alignment="bottom"):
        floor = st.number_input(
            "Floor",
            min_value=0.0,
            max_value=1.0,
            value=None,
            step=0.05,
            placeholder="0.8",
            help="Least accuracy of every group, and of the slices chosen here.",
            width=170,
        )
        drop = st.number_input(
            "Largest drop",
            min_value=0.0,
            max_value=1.0,
            value=None,
            step=0.01,
            placeholder="0.02",
            help=f"Most accuracy that any of them may lose against {plain(reference.label)}.",
            width=170,
        )
        rows = st.number_input(
            "Least rows", 1, None, 30, help="Fewer test rows are too few to judge.", width=170
        )
        slices = st.multiselect("Slices held to the floor", names, width=300) if names else []
        asked = st.form_submit_button("Check", type="primary", icon=":material/rule:")
    # Slices are the bundle's own.
    kept = f"gate {bundle.manifest.digest}"
    if asked:
        st.session_state[kept] = _values(floor, drop, rows, slices, one.run_id)
    values: dict[str, Any] | None = st.session_state.get(kept)
    if values is None:
        st.caption(
            "A group passes where even the lower bound of its accuracy, one-sided at 95 %, is good "
            "enough, so that few rows have to do better than many."
        )
        return
    if "against" in values:
        values = {**values, "against": one.run_id}
    try:
        result = check(
            two, Checks.of(values), one if "against" in values else None, read=load_samples
        )
    except GsrError as error:
        show_error(error)
        return
    _show(result, other.label)
    if result.passed:
        link("Run", "Next: take it home, alone or in its network", run=two.run_id, shown=two.run_id)
    words = ["check", two.run_id]
    for key, value in values.items():
        words += pairs("--slice", value) if key == "slice" else option(f"--{key}", value)
    with st.expander("The same from a terminal, or before every release"):
        st.code(shell_line(words, workspace()), language="bash", wrap_lines=True)
        st.caption(
            "Its exit status is 0 if all passed and 1 if not; --junit FILE writes what services of "
            "continuous integration show."
        )


def _values(
    floor: float | None, drop: float | None, rows: int, slices: list[str], reference: str
) -> dict[str, Any]:
    """Return what the form holds as options of `gsr check`."""
    values: dict[str, Any] = {"min-rows": rows}
    if floor is not None:
        values["floor"] = floor
        if slices:
            values["slice"] = dict.fromkeys(slices, floor)
    if drop is not None:
        values |= {"max-drop": drop, "against": reference}
    return values


def _show(result: Gate, label: str) -> None:
    counts = pd.Series([str(line.result) for line in result.lines]).value_counts()
    said = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    if result.passed:
        st.success(f"{plain(label)} passes: {said}.", icon=":material/check_circle:")
    else:
        show_error(f"{label} does not pass: {said}.")
    order = [Result.FAIL, Result.FEW, Result.PASS]
    lines = sorted(result.lines, key=lambda line: order.index(line.result))
    show_rows(
        {
            "result": [str(line.result) for line in lines],
            "of": [f"{line.kind} {line.name}" for line in lines],
            "check": [line.check for line in lines],
            **{
                name: [line.numbers[place] for line in lines]
                for place, name in enumerate(("limit", "measured", "at least"))
            },
            "rows": [line.rows for line in lines],
            "why": [line.reason for line in lines],
        },
        column_config={
            "limit": st.column_config.Column(help="The least that is allowed."),
            "at least": st.column_config.Column(
                help="Lower end of the interval, one-sided at 95 %."
            ),
            "why": st.column_config.Column(width="large"),
        },
    )
