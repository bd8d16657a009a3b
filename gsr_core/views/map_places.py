"""The places of the points of a map, and the progress of the job that computes them."""

from __future__ import annotations

from typing import Any, Literal

import pandas as pd
import streamlit as st

from gsr_core.data.variation import make_variation
from gsr_core.maps.compute import compute_map
from gsr_core.maps.config import map_config
from gsr_core.maps.heads import map_head, map_profile
from gsr_core.maps.job import MapJob
from gsr_core.views.job_watch import needed_job
from gsr_core.views.loading import load_places
from gsr_core.views.map_choices import MapView
from gsr_core.views.session import workspace

__all__ = ["places_of"]


_AT_ONCE = 30_000
"""Most samples whose PCA is computed while the page waits; the worker does that of more."""


def places_of(view: MapView, space: str) -> tuple[pd.DataFrame, str] | None:
    """Return the places of the samples and the method they come from; None while there are none.

    PCA is there at once, UMAP once the worker has it; the worker also does PCA of many samples.
    """
    run, split = view.run, view.split
    bundle = run.seen(view.bundle)
    with st.spinner("Fitting the head", show_time=True):
        head = map_head(bundle, run, view.head)
    profile = map_profile(run) if space == "influence" else None
    # A seed above 0 redraws target and val from their union, so the union is mapped. The same
    # goes for a study in which the two share their rows.
    changed = run.config.seed or make_variation(run.config.variation).leak
    redrawn = changed and split in ("target", "val")
    settings: dict[str, Any] = {
        "space": space,
        "profile": profile,
        "splits": ["target", "val"] if redrawn else [split],
        "dimensions": view.dimensions,
    }
    many = len(view.samples) > _AT_ONCE
    methods: tuple[Literal["umap", "pca"], ...] = (
        ("umap", "pca") if view.layout == "umap" else ("pca",)
    )
    for method in methods:
        config = map_config(bundle, head, method=method, **settings)
        places = load_places(config)
        if places is not None:
            return places, method
        if method == "pca" and not many:
            with st.spinner("Computing PCA"):
                places = compute_map(workspace(), bundle, head, config, profile=profile)
                return places, "pca"
        job = MapJob(config=config, run_id=run.run_id, bundle=str(bundle.path), which=view.head)
        _await(job, pca_shown=method == "umap" and not many)
    return None


def _await(job: MapJob, *, pca_shown: bool) -> None:
    """Start a map's job, unless it failed, and draw its progress."""
    name = f"{job.config.method.upper()} of the {job.config.space}"
    meanwhile = ". PCA is shown meanwhile." if pca_shown else ""
    needed_job(job, f"{name} failed", says=lambda text: f"{name}: {text}{meanwhile}")
