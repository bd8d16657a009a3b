"""What an address names and the workspace does not have: said, never replaced in silence.

The address keeps naming it until the user takes it out or chooses another, so that a redraw does
not take the sentence away.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import streamlit as st

from gsr_core.comparing.entries import what_differs
from gsr_core.data.bundle import Bundle
from gsr_core.runs.store import Run, list_runs
from gsr_core.views import navigation as nav
from gsr_core.views.charts import plain
from gsr_core.views.session import workspace

__all__ = ["is_missing", "say_missing", "say_missing_bundle", "say_missing_runs"]

_RUNS = {
    "Audit": ("classifier",),
    "Compare": ("runs", "reference", "against", "left", "right"),
    "Map": ("run", "other"),
    "Samples": ("run", "other"),
    "Weights": ("run",),
}
"""Choices of each page that name runs."""


def is_missing(name: str, there: Collection[str]) -> bool:
    """Return whether a choice names something that is not there."""
    return bool(nav.get(name)) and nav.get(name) not in there


def say_missing(name: str, sentence: str) -> None:
    """Draw a sentence about what a choice names and the button that takes it out of the address.

    Args:
        name: The choice.
        sentence: What is missing and what is shown instead.
    """
    with st.container(key=f"missing {name}", gap="xsmall"):
        st.warning(sentence, icon=":material/link_off:")
        st.button(
            "Go on without it",
            key=f"forget {name}",
            type="tertiary",
            on_click=lambda: nav.put(**{name: None}),
        )


def say_missing_bundle(shown: str) -> None:
    """Say that the bundle of the address is not there.

    Args:
        shown: Name of the bundle that the page shows.
    """
    say_missing(
        "bundle",
        f"There is no bundle **{plain(nav.get('bundle'))}** in this workspace: it was deleted or "
        f"renamed, or the link is of another workspace. This is **{plain(shown)}**.",
    )


def say_missing_runs(title: str, bundle: Bundle, runs: Sequence[Run]) -> None:
    """Say which runs and which group of the address the page cannot show, and why.

    Args:
        title: Title of the page.
        bundle: The bundle that the page shows.
        runs: Its runs.
    """
    ended = {run.run_id for run in runs if (run.path / "head.safetensors").exists()}
    for name in _RUNS.get(title, ()):
        asked = [each for each in nav.get(name).split(",") if each]
        gone = [each for each in asked if each not in ended]
        if gone:
            reasons = " ".join(_why(run_id, bundle, runs) for run_id in gone)
            left = len(asked) > len(gone)
            say_missing(name, f"{reasons} {'The others are' if left else 'Another is'} shown.")
    if title == "Samples" and is_missing("group", bundle.group_names):
        say_missing(
            "group",
            f"Bundle {plain(bundle.name)} has no group **{plain(nav.get('group'))}**; its groups "
            f"are {plain(', '.join(bundle.group_names))}. All samples are shown.",
        )


def _why(run_id: str, bundle: Bundle, runs: Sequence[Run]) -> str:
    """Return why a page about a bundle cannot show a run, as a sentence."""
    name = f"Run **{plain(run_id)}**"
    if (mine := next((run for run in runs if run.run_id == run_id), None)) is not None:
        return f"{name} has no result yet: it is {mine.state.status}."
    other = next((run for run in list_runs(workspace()) if run.run_id == run_id), None)
    if other is None:
        return (
            f"There is no run **{plain(run_id)}** in this workspace: it was deleted, or the link "
            "is of another workspace."
        )
    here = next((run for run in runs if (run.path / "head.safetensors").exists()), None)
    if here is None:
        return f"{name} is of other data, of bundle {plain(other.config.bundle)}."
    return f"{name} is left out, because {plain(what_differs(here, other))}."
