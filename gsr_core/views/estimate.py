"""How long something will take, in a sentence."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import streamlit as st

from gsr_core.compute import pick
from gsr_core.data.bundle import Bundle
from gsr_core.errors import GsrError
from gsr_core.methods.registry import make_method
from gsr_core.names import method_label
from gsr_core.progress import duration
from gsr_core.runs.cost import Cost
from gsr_core.runs.expected import expected_seconds, predict
from gsr_core.runs.job import RunJob
from gsr_core.runs.store import Run
from gsr_core.views.charts import plain, sentence

__all__ = ["estimate", "show_cost", "show_time_left"]


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
            unknown.append(method_label(method))
        else:
            known += each * count
    if not known:
        return "How long it takes is not known: no run of these methods on this bundle has ended."
    more = (
        f", and what {', '.join(unknown)} takes, of which no run has ended here" if unknown else ""
    )
    return f"About {duration(known / at_a_time)} by earlier runs on this bundle{more}."


def show_cost(bundle: Bundle, jobs: Sequence[RunJob]) -> None:
    """Draw what runs of one method will take on the CPU; nothing where that is not predicted.

    Args:
        bundle: The data.
        jobs: At least one; they differ by their seeds.
    """
    job = jobs[0]
    # A GPU is left to its worker.
    if pick(job.device).device.type != "cpu":
        return
    settings = json.dumps({**job.settings, "seed": 0}, sort_keys=True)
    cost = _cost(str(bundle.path), bundle.manifest.digest, job.method, settings, bundle)
    if isinstance(cost, str):
        st.warning(plain(sentence(cost)) + ".")
    elif cost is not None:
        st.caption(f"{sentence(cost.in_words(len(jobs)))}.")


@st.cache_data(max_entries=256, show_spinner="Trying how long it takes")
def _cost(path: str, digest: str, method: str, settings: str, _bundle: Bundle) -> Cost | str | None:
    """Return what a run will take, or why it cannot be."""
    try:
        return predict(_bundle, make_method(method, json.loads(settings)), pick("cpu"))
    except GsrError as error:
        return str(error)


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
