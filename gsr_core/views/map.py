"""Maps of samples, and the gallery of what is selected on them.

Streamlit makes a chart anew, without its selection, whenever anything in the figure changes. So
the figure depends only on choices, never on what is selected, and what is selected is shown
beside it.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from gsr_core.data.bundle import SPLITS, Bundle
from gsr_core.figures import theme
from gsr_core.figures.scatter import point_map
from gsr_core.gradients.maps import MapConfig, compute_map, load_map, map_config
from gsr_core.jobs.maps import map_head
from gsr_core.jobs.progress import read_job
from gsr_core.jobs.queue import start_job
from gsr_core.methods.fit import Status
from gsr_core.runs.samples import INFLUENCE
from gsr_core.runs.slices import save_slice
from gsr_core.runs.store import Run
from gsr_core.views import navigation as nav
from gsr_core.views.charts import colours_of, plain, single_group
from gsr_core.views.frame import link
from gsr_core.views.gallery import gallery
from gsr_core.views.session import load_samples, workspace

__all__ = ["linked_maps"]

Kind = Literal["category", "value", "signed"]

_LIMIT = 30_000
"""Points drawn; more would make a lasso slower than a second and a half."""

_SPACES = {
    "both": ("gradients", "features"),
    "gradients": ("gradients",),
    "features": ("features",),
}


def linked_maps(bundle: Bundle, run: Run) -> None:
    """Draw the choices, the maps, and the samples selected on them."""
    manifest = bundle.manifest
    present = [split for split in SPLITS if split in manifest.split_sizes]
    spaces = _SPACES if map_head(bundle, run) is not None else {"features": ("features",)}
    with st.container(horizontal=True, vertical_alignment="bottom", key="map choices"):
        split = nav.select("split", "Split", present, default=run.values_split, width=130)
        samples = load_samples(run, split)
        kinds = _colourings(bundle, samples)
        colour = nav.select("colour", "Colour", list(kinds), width=220)
        space = nav.select("space", "Space", list(spaces), width=140)
        layout = nav.select("layout", "Layout", ["umap", "pca"], format_func=str.upper, width=110)
    drawn = _drawn(samples)
    if len(drawn) < len(samples):
        st.caption(
            f"Drawing {len(drawn):,} of {len(samples):,} samples of {split}: the heaviest and the "
            "lightest, and a fair draw of the rest. The layout was computed from all."
        )

    places = {each: _places(bundle, run, each, split, layout) for each in spaces[space]}
    places = {each: found for each, found in places.items() if found is not None}
    if not places:
        return
    if colour == "group" and (bundle.membership.sum(axis=1) > 1).any():
        st.caption("Groups overlap: a point in several has the colour of the rarest.")

    @st.fragment
    def charts() -> None:
        rows: list[np.ndarray] = []
        columns = st.columns(len(places), gap="medium")
        for column, (each, (found, method)) in zip(columns, places.items(), strict=True):
            with column:
                st.markdown(f"**{each.capitalize()}**, {method.upper()}")
                points = found.merge(drawn.drop(columns="y"), on="row")
                event = st.plotly_chart(
                    _figure(bundle, run, points, colour, kinds[colour], f"{each} {method}"),
                    theme="streamlit",
                    key=f"map {each}",
                    on_select="rerun",
                    selection_mode=("points", "box", "lasso"),
                    config={"displaylogo": False, "scrollZoom": True},
                    alt=f"Map of {len(points):,} samples in the space of {each}.",
                )
                chosen = event["selection"]["point_indices"]
                rows.append(points["row"].to_numpy()[chosen])
        _selected(bundle, samples, np.unique(np.concatenate(rows)))

    charts()


def _places(
    bundle: Bundle, run: Run, space: str, split: str, layout: str
) -> tuple[pd.DataFrame, str] | None:
    """Return row, x, y and how they were made: PCA at once, UMAP when the worker has it.

    PCA of many samples is the worker's too; None while there is nothing to show.
    """
    head = map_head(bundle, run)
    # A seed above 0 draws target and val anew from their union, which is then what is mapped.
    redrawn = run.config.seed and split in ("target", "val")
    wanted: dict[str, Any] = {"space": space, "splits": ["target", "val"] if redrawn else [split]}
    many = len(run.rows_of(split, bundle)) > _LIMIT
    methods: tuple[Literal["umap", "pca"], ...] = ("umap", "pca") if layout == "umap" else ("pca",)
    for method in methods:
        config = map_config(bundle, head, method=method, **wanted)
        found = load_map(workspace(), config)
        if found is not None:
            return found, method
        if method == "pca" and not many:
            with st.spinner("Computing PCA"):
                return compute_map(workspace(), bundle, head, config), "pca"
        _progress(bundle, run, config, space, instead=method == "umap" and not many)
    return None


def _progress(bundle: Bundle, run: Run, config: MapConfig, space: str, *, instead: bool) -> None:
    """Start the map's job, unless it failed, and draw how far it is.

    Args:
        bundle: The data.
        run: Whose head to use.
        config: The map.
        space: What it is a map of.
        instead: Whether PCA is shown until the map is there.
    """
    key, name = config.digest, f"{config.method.upper()} of the {space}"
    meanwhile = ". PCA is shown meanwhile." if instead else ""
    state = read_job(workspace(), "map", key)
    if state is not None and state.status is Status.FAILED:
        st.error(f"{name} failed: {state.text}")
        if not st.button("Try again", key=f"again {config.method} {space}"):
            return
    if state is None or not state.active:
        arguments = {
            "config": config.model_dump(mode="json"),
            "run_id": run.run_id,
            "bundle": str(bundle.path),
        }
        start_job(workspace(), "map", key, arguments)

    def watch() -> None:
        now = read_job(workspace(), "map", key)
        if now is None or not now.active:
            st.rerun()
        st.progress(now.fraction, text=f"{name}: {now.text}{meanwhile}")

    st.fragment(watch, run_every=1.0)()


def _colourings(bundle: Bundle, samples: pd.DataFrame) -> dict[str, Kind]:
    """Return what points can be coloured by, and the kind of each."""
    kinds: dict[str, Kind] = {"group": "category"}
    if "weight" in samples.columns:
        kinds["weight"] = "value"
    if "inferred_group" in samples.columns:
        kinds["inferred group"] = "category"
    kinds |= {"loss": "value", "prediction": "category", "right or wrong": "category"}
    for name in bundle.manifest.attributes:
        if samples[name].nunique() <= 20:
            kinds[name] = "category"
    for column in samples.columns:
        if column.startswith(INFLUENCE):
            kinds[column] = "signed"
    return kinds


def _drawn(samples: pd.DataFrame) -> pd.DataFrame:
    """Return the samples to draw: all, or the extreme ones and a fair draw of the rest."""
    if len(samples) <= _LIMIT:
        return samples
    order = samples["weight" if "weight" in samples.columns else "loss"].argsort().to_numpy()
    extreme = np.concatenate([order[: _LIMIT // 20], order[-_LIMIT // 20 :]])
    rest = np.setdiff1d(np.arange(len(samples)), extreme)
    fair = np.random.default_rng(0).choice(rest, _LIMIT - len(extreme), replace=False)
    return samples.iloc[np.sort(np.concatenate([extreme, fair]))]


def _figure(
    bundle: Bundle, run: Run, points: pd.DataFrame, colour: str, kind: Kind, revision: str
) -> go.Figure:
    classes = dict(enumerate(bundle.manifest.classes))
    colours = None
    if colour == "group":
        colours = colours_of(bundle)
        points = points.assign(group=single_group(bundle, points["row"].to_numpy()))
    elif colour == "prediction":
        points = points.assign(prediction=points["prediction"].map(classes))
    elif colour == "right or wrong":
        said = points["correct"].map({True: "right", False: "wrong"})
        points = points.assign(**{colour: said})
        colours = {"right": theme.UNKNOWN, "wrong": theme.ACCENT}
    elif colour == "inferred group":
        said = points["inferred_group"].astype(str).replace("-1", "outlier")
        points = points.assign(**{colour: said})
    elif kind == "category":
        points = points.assign(**{colour: points[colour].astype(str)})
    figure = point_map(points, colour=colour, kind=kind, colours=colours, revision=revision)
    return theme.finish(figure)


def _selected(bundle: Bundle, samples: pd.DataFrame, rows: np.ndarray) -> None:
    """Draw the samples that are selected on either map."""
    if not len(rows):
        st.caption("Nothing is selected.")
        return
    table = samples[samples["row"].isin(rows)]
    order = "rank" if "rank" in table.columns else "loss"
    table = table.sort_values(order, ascending=order == "rank")
    st.subheader(f"{len(table):,} selected", anchor=False)
    counts = table["group"].value_counts()
    parts = [f"{plain(name)}: {count:,}" for name, count in counts.items()]
    wrong = 1 - table["correct"].mean()
    mean = f" · mean weight {table['weight'].mean():.2g}×" if "weight" in table.columns else ""
    st.caption(f"{', '.join(parts[:8])} · {wrong:.0%} wrong{mean}")
    gallery(bundle, table, key="selected", sizes=(12,))
    name = save_slice(workspace(), rows)
    link(
        "Samples",
        "Open these in Samples",
        slice=name,
        group=None,
        y=None,
        prediction=None,
        changed=None,
    )
