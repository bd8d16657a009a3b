"""How long runs will take, judged by what runs took before on the same data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from gsr_core.methods.registry import make_method
from gsr_core.runs.store import Run

__all__ = ["expected_seconds"]

_RECENT = 10
"""Runs that are judged by, the newest ones."""


def expected_seconds(runs: Iterable[Run], method: str, settings: Mapping[str, Any]) -> float | None:
    """Return the seconds that a run will take; None if no run of its method tells.

    A step takes the median of what a step took in the newest runs of the method, whatever their
    settings and devices: it is a guess, good to a factor of two or three.

    Args:
        runs: On the same bundle, newest first.
        method: A key of the registry.
        settings: What differs from its defaults.
    """
    known = []
    for run in runs:
        if run.config.method == method and (state := run.state).step and state.seconds:
            known.append(state.seconds / state.step)
        if len(known) == _RECENT:
            break
    return median(known) * make_method(method, settings).max_steps if known else None
