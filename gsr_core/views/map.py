"""Maps of samples, and the selection on them.

`map_chart` keeps the selection, which all maps share; the maps and the view of the selection are
one fragment, so that a lasso draws only them again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from gsr_core.figures import theme
from gsr_core.figures.inks import Kind
from gsr_core.figures.scatter import MANY_POINTS, MAX_DRAWN, MAX_ON_TOP
from gsr_core.figures.scatter_3d import MAX_DRAWN_3D, point_map_3d
from gsr_core.inference.base import OUTLIER
from gsr_core.runs.store import Run
from gsr_core.runs.summary import run_label
from gsr_core.views import navigation as nav
from gsr_core.views.charts import colours_of, plain, show, single_group
from gsr_core.views.loading import load_samples
from gsr_core.views.map_chart import drawn_note, drawn_rows, selectable_map, selected_rows
from gsr_core.views.map_choices import HEADS, MapView, colourings, with_more
from gsr_core.views.map_places import places_of
from gsr_core.views.map_selection import selection
from gsr_core.views.slices import flags_of

__all__ = ["linked_maps"]


def linked_maps(view: MapView) -> None:
    """Draw the maps, and the samples that are selected on them."""
    places = {space: places_of(view, space) for space in view.spaces}
    maps_there = {space: each for space, each in places.items() if each is not None}
    if not maps_there:
        return
    if view.colour == "group" and (view.bundle.group_patterns[0].sum(axis=1) > 1).any():
        st.caption("Groups overlap: a point in several has the colour of the rarest.")
    dense = view.dimensions == 2 and len(view.samples) > MAX_DRAWN
    limit = MAX_ON_TOP if dense else MAX_DRAWN if view.dimensions == 2 else MAX_DRAWN_3D
    worth_drawing = _worth_drawing(view, limit)
    shown = drawn_rows(view.samples, limit, worth_drawing)
    always = min(len(np.unique(worth_drawing)), limit)
    if note := drawn_note(len(shown), len(view.samples), always, on_image=dense):
        st.caption(note)

    @st.fragment
    def maps() -> None:
        chosen, focus = selected_rows(view.scope), _focus(view)
        first, *others = _drawings(view, maps_there)
        # The answer to a lasso is beside the map that it was drawn on, not below the fold.
        left, right = st.columns([3, 2], gap="medium")
        with left:
            _map(view, *first, shown=shown, chosen=chosen, focus=focus)
            for draw in others:
                # Names of runs are plain text there, but Markdown all the same.
                with st.expander(draw[1], expanded=True, key=f"{draw[0]} fold"):
                    _map(view, *draw, shown=shown, chosen=chosen, focus=focus, heading=False)
        with right:
            selection(view, chosen)

    maps()


def _drawings(
    view: MapView, maps_there: dict[str, tuple[pd.DataFrame, str]]
) -> list[tuple[str, str, pd.DataFrame, Run]]:
    """Return the maps to draw side by side: key, title, places, and the run that colours it."""
    drawings = []
    for space, (places, method) in maps_there.items():
        of = f" of {HEADS[view.head]} head" * (space in ("gradients", "logits"))
        title = f"**{space.capitalize()}**{of * (view.head != 'run')}, {method.upper()}"
        if view.other is None:
            drawings.append((f"map {space}", title, places, view.run))
            continue
        for run in (view.run, view.other):
            heading = f"{title}, coloured by {plain(run_label(run))}"
            drawings.append((f"map {space} {run.run_id}", heading, places, run))
    return drawings


def _map(
    view: MapView,
    key: str,
    title: str,
    places: pd.DataFrame,
    run: Run,
    *,
    shown: np.ndarray,
    chosen: np.ndarray,
    focus: int | None,
    heading: bool = True,
) -> None:
    """Draw one map."""
    samples = view.samples
    if run is not view.run:
        samples = with_more(load_samples(run, view.split), view.bundle, view.clustering)
    if len(samples) <= MANY_POINTS and (words := view.bundle.in_words(samples["row"].to_numpy())):
        samples = samples.assign(**{"in words": words})
    if heading:
        st.markdown(title)
    kind = colourings(view.bundle, samples).get(view.colour)
    if kind is None:
        st.caption(f"{plain(run_label(run))} has no {view.colour} to colour by.")
        return
    points, colours = _coloured(view, samples, kind)
    # A map has rows in an order of its own; `shown` counts in the order of the table.
    points = (
        places.set_index("row")
        .loc[points["row"]]
        .reset_index()
        .assign(
            **{
                name: points[name].to_numpy()
                for name in (view.colour, "sample_id", "in words")
                if name in points.columns
            }
        )
    )
    alt = f"{title.replace('*', '')}: map of {len(points):,} samples, coloured by {view.colour}."
    style: dict[str, Any] = {"colour": view.colour, "kind": kind, "colours": colours}
    if view.dimensions == 3:
        figure = point_map_3d(points.iloc[shown], **style, chosen=chosen, focus=focus, revision=key)
        show(figure, key=key, alt=alt)
        return
    selectable_map(points, key=key, **style, chosen=chosen, focus=focus, on_top=shown, alt=alt)


def _coloured(
    view: MapView, samples: pd.DataFrame, kind: Kind
) -> tuple[pd.DataFrame, dict[str, str] | None]:
    """Return the samples with the colour column as text or numbers, and any fixed colours."""
    colour, bundle = view.colour, view.bundle
    if colour == "group":
        named = samples.assign(group=single_group(bundle, samples["row"].to_numpy()))
        return named, colours_of(bundle)
    if colour == "prediction":
        classes = dict(enumerate(bundle.manifest.classes))
        return samples.assign(prediction=samples["prediction"].map(classes)), None
    if colour == "right or wrong":
        words = samples["correct"].map({True: "right", False: "wrong"})
        return samples.assign(**{colour: words}), {"right": theme.UNKNOWN, "wrong": theme.ACCENT}
    if colour == "flagged":
        return samples, {"not flagged": theme.UNKNOWN, "flagged": theme.ACCENT}
    if colour == "inferred group":
        words = samples["inferred_group"].astype(str).replace(str(OUTLIER), "outlier")
        return samples.assign(**{colour: words}), None
    if colour == "cluster" and view.clustering is not None:
        names = [*view.clustering.names.values()]
        fixed = theme.group_colours(names)
        return samples, {**fixed, "outlier": theme.UNKNOWN, "not clustered": theme.UNKNOWN}
    if kind == "category":
        return samples.assign(**{colour: samples[colour].astype(str)}), None
    return samples, None


def _worth_drawing(view: MapView, limit: int) -> np.ndarray:
    """Return the positions of samples to draw in any case: flagged, then extreme ones."""
    samples = view.samples
    if len(samples) <= limit:
        return np.empty(0, dtype=np.int64)
    order = samples["weight" if "weight" in samples.columns else "loss"].argsort().to_numpy()
    flagged = np.flatnonzero(np.isin(samples["row"], flags_of(view.bundle)["row"]))
    return np.concatenate([flagged, order[::-1][: limit // 20], order[: limit // 20]])


def _focus(view: MapView) -> int | None:
    """Return the sample to ring: the one in focus, or the last one that was."""
    chosen = nav.get("sample")
    if chosen.isdecimal() and len(chosen) <= 12:
        st.session_state["map focus"] = (view.scope, int(chosen))
    scope, row = st.session_state.get("map focus", ("", -1))
    return row if scope == view.scope else None
