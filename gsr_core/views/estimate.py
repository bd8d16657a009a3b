"""How long something will take, in a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import streamlit as st

from gsr_core.progress import duration
from gsr_core.runs.expected import expected_seconds
from gsr_core.runs.store import Run

__all__ = ["estimate", "show_time_left"]


def estimate(
    runs: Iterable[Run], wanted: Iterable[tuple[str, Mapping[str, Any], int]], at_a_time: int = 1
) -> str:
    """Return how long some runs will take together, or why that is not known.

    Args:
        runs: On the same bundle, newest first.
        wanted: Method, settings and number of runs.
        at_a_time: How many are computed at a time.
    """
    known, unknown = 0.0, []
    for method, settings, count in wanted:
        each = expected_seconds(runs, method, settings)
        if each is None:
            unknown.append(method.upper())
        else:
            known += each * count
    if not known:
        return "How long it takes is not known: no run of these methods on this bundle has ended."
    more = (
        f", and what {', '.join(unknown)} takes, of which no run has ended here" if unknown else ""
    )
    return f"About {duration(known / at_a_time)} by earlier runs on this bundle{more}."


def show_time_left(seconds: Iterable[float], missing: int, at_a_time: int = 1) -> None:
    """Draw how long the rest takes if it goes on as before; nothing while nothing is done.

    Args:
        seconds: What each that is done took.
        missing: How many are not done.
        at_a_time: How many are computed at a time.
    """
    known = [each for each in seconds if each > 0]
    if known and missing:
        left = sum(known) / len(known) * missing / at_a_time
        st.caption(f"About {duration(left)} left.")
