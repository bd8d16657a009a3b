"""The places of the points of a map, and the progress of the job that computes them."""

from __future__ import annotations

from typing import Any, Literal

import pandas as pd
import streamlit as st

from gsr_core.data.variation import make_variation
from gsr_core.jobs.queue import start_job
from gsr_core.jobs.state import read_job
from gsr_core.maps.compute import compute_map, load_map
from gsr_core.maps.config import MapConfig, map_config
from gsr_core.maps.heads import map_head, map_profile
from gsr_core.progress import Status
from gsr_core.views import navigation as nav
from gsr_core.views.charts import plain, show_error
from gsr_core.views.map_choices import MapView
from gsr_core.views.session import workspace

__all__ = ["places_of"]


_AT_ONCE = 30_000
"""Most samples whose PCA is computed while the page waits; the worker does that of more."""


def places_of(view: MapView, space: str) -> tuple[pd.DataFrame, str] | None:
    """Return the places of the samples and the method they come from; None while there are none.

    PCA is there at once, UMAP once the worker has it; the worker also does PCA of many samples.
    """
    bundle, run, split = view.bundle, view.run, view.split
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
        places = load_map(workspace(), config)
        if places is not None:
            return places, method
        if method == "pca" and not many:
            with st.spinner("Computing PCA"):
                places = compute_map(workspace(), bundle, head, config, profile=profile)
                return places, "pca"
        _progress(view, config, space, instead=method == "umap" and not many)
    return None


def _progress(view: MapView, config: MapConfig, space: str, *, instead: bool) -> None:
    """Start the map's job, unless it failed, and draw its progress.

    Args:
        view: What the maps show.
        config: The map.
        space: Its space.
        instead: Whether PCA is shown until the map is there.
    """
    key, name = config.digest, f"{config.method.upper()} of the {space}"
    meanwhile = ". PCA is shown meanwhile." if instead else ""
    state = read_job(workspace(), "map", key)
    if state is not None and state.status is Status.FAILED:
        show_error(f"{name} failed: {state.text}")
        if not st.button("Try again", key=f"again {config.method} {space}"):
            return
    if state is None or not state.active:
        arguments = {
            "config": config.model_dump(mode="json"),
            "run_id": view.run.run_id,
            "which": view.head,
            "bundle": str(view.bundle.path),
        }
        start_job(workspace(), "map", key, arguments)

    def watch() -> None:
        now = read_job(workspace(), "map", key)
        if now is None or not now.active:
            nav.refresh()
        st.progress(now.fraction, text=plain(f"{name}: {now.text}{meanwhile}"))

    st.fragment(watch, run_every=1.0)()
