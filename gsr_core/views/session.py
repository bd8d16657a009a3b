"""What every page needs to know: the workspace, its bundles, and their runs."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from gsr_core.data.bundle import Bundle, list_bundles, open_bundle
from gsr_core.runs.store import Run, list_runs
from gsr_core.workspace import Workspace

__all__ = ["bundle_names", "devices", "is_active", "load_bundle", "runs_of", "workspace"]


def workspace() -> Workspace:
    """Return the workspace of this dashboard."""
    return Workspace.at()


def bundle_names() -> list[str]:
    """Return the names of the workspace's bundles."""
    return [bundle.name for bundle in list_bundles(workspace())]


@st.cache_resource(show_spinner=False)
def devices() -> list[str]:
    """Return the devices that a run can compute on, `auto` first."""
    # Here, not on top: the first page need not wait for it.
    import torch

    names = ["auto", "cpu"]
    names += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return names + ["mps"] * torch.backends.mps.is_available()


def load_bundle(name: str) -> Bundle:
    """Return a bundle; its tables are read once."""
    place = workspace()
    bundle = open_bundle(place, name)
    return _bundle(str(place.root), name, bundle.manifest.digest)


@st.cache_resource(max_entries=8, show_spinner=False)
def _bundle(root: str, name: str, digest: str) -> Bundle:
    return open_bundle(Workspace(Path(root)), name)


def runs_of(bundle: Bundle, runs: list[Run] | None = None) -> list[Run]:
    """Return the runs on exactly this content, newest first.

    Args:
        bundle: The data.
        runs: Of the workspace, newest first, if they have been listed already.
    """
    digest = bundle.manifest.digest
    every = list_runs(workspace()) if runs is None else runs
    return [run for run in every if run.config.bundle_digest == digest]


def is_active(run: Run) -> bool:
    """Return whether a run waits or computes; one that was deleted meanwhile does not."""
    try:
        return run.state.active
    except FileNotFoundError:
        return False
