"""Where the points of a map are, and how far the job is that computes it."""

from __future__ import annotations

from typing import Any, Literal

import pandas as pd
import streamlit as st

from gsr_core.data.variation import make_variation
from gsr_core.maps.compute import compute_map, load_map
from gsr_core.maps.config import map_config
from gsr_core.maps.heads import map_head, map_profile
from gsr_core.maps.job import MapJob
from gsr_core.views.job_watch import needed_job
from gsr_core.views.map_choices import MapView
from gsr_core.views.session import workspace

__all__ = ["places_of"]


_AT_ONCE = 30_000
"""Samples whose PCA is computed while the page waits; that of more is the worker's."""


def places_of(looked: MapView, space: str) -> tuple[pd.DataFrame, str] | None:
    """Return the places of the samples and how they were made; None while there are none.

    PCA is there at once, UMAP when the worker has it; PCA of many samples is the worker's too.
    """
    bundle, run, split = looked.bundle, looked.run, looked.split
    with st.spinner("Fitting the head", show_time=True):
        head = map_head(bundle, run, looked.head)
    profile = map_profile(run) if space == "influence" else None
    # A seed above 0 draws target and val anew from their union, which is then what is mapped.
    # So it is where the two share their rows.
    changed = run.config.seed or make_variation(run.config.variation).leak
    redrawn = changed and split in ("target", "val")
    wanted: dict[str, Any] = {
        "space": space,
        "profile": profile,
        "splits": ["target", "val"] if redrawn else [split],
        "dimensions": looked.dimensions,
    }
    many = len(looked.samples) > _AT_ONCE
    methods: tuple[Literal["umap", "pca"], ...] = (
        ("umap", "pca") if looked.layout == "umap" else ("pca",)
    )
    for method in methods:
        config = map_config(bundle, head, method=method, **wanted)
        found = load_map(workspace(), config)
        if found is not None:
            return found, method
        if method == "pca" and not many:
            with st.spinner("Computing PCA"):
                found = compute_map(workspace(), bundle, head, config, profile=profile)
                return found, "pca"
        job = MapJob(config=config, run_id=run.run_id, bundle=str(bundle.path), which=looked.head)
        _await(job, pca_shown=method == "umap" and not many)
    return None


def _await(job: MapJob, *, pca_shown: bool) -> None:
    """Start a map's job, unless it failed, and draw how far it is."""
    name = f"{job.config.method.upper()} of the {job.config.space}"
    meanwhile = ". PCA is shown meanwhile." if pca_shown else ""
    needed_job(job, f"{name} failed", says=lambda text: f"{name}: {text}{meanwhile}")
