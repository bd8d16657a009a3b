"""Maps of samples, and what is selected on them.

What is selected is kept by `map_chart` and shared by all maps; the maps and what is shown of the
selection are one fragment, so that a lasso draws only them again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from gsr_core.figures import theme
from gsr_core.figures.inks import Kind
from gsr_core.figures.scatter import MAX_DRAWN, MAX_ON_TOP
from gsr_core.figures.scatter_3d import MAX_DRAWN_3D, point_map_3d
from gsr_core.inference.base import OUTLIER
from gsr_core.runs.store import Run
from gsr_core.runs.summary import run_label
from gsr_core.views import navigation as nav
from gsr_core.views.charts import colours_of, plain, show, single_group
from gsr_core.views.map_chart import drawn_note, drawn_rows, selectable_map, selected_rows
from gsr_core.views.map_choices import HEADS, MapView, colourings, with_more
from gsr_core.views.map_places import places_of
from gsr_core.views.map_selection import selection
from gsr_core.views.session import load_samples
from gsr_core.views.slices import flags_of

__all__ = ["linked_maps"]


def linked_maps(looked: MapView) -> None:
    """Draw the maps, and the samples that are selected on them."""
    places = {space: places_of(looked, space) for space in looked.spaces}
    there = {space: found for space, found in places.items() if found is not None}
    if not there:
        return
    if looked.colour == "group" and (looked.bundle.membership.sum(axis=1) > 1).any():
        st.caption("Groups overlap: a point in several has the colour of the rarest.")
    dense = looked.dimensions == 2 and len(looked.samples) > MAX_DRAWN
    limit = MAX_ON_TOP if dense else MAX_DRAWN if looked.dimensions == 2 else MAX_DRAWN_3D
    keep = _worth_keeping(looked, limit)
    shown = drawn_rows(looked.samples, limit, keep)
    kept = min(len(np.unique(keep)), limit)
    if note := drawn_note(len(shown), len(looked.samples), kept, on_image=dense):
        st.caption(note)

    @st.fragment
    def maps() -> None:
        chosen, focus = selected_rows(looked.scope), _focus(looked)
        drawings = _drawings(looked, there)
        for column, draw in zip(st.columns(len(drawings), gap="medium"), drawings, strict=True):
            with column:
                _map(looked, *draw, shown=shown, chosen=chosen, focus=focus)
        selection(looked, chosen)

    maps()


def _drawings(
    looked: MapView, there: dict[str, tuple[pd.DataFrame, str]]
) -> list[tuple[str, str, pd.DataFrame, Run]]:
    """Return what to draw side by side: key, title, places and whose colours."""
    found = []
    for space, (places, method) in there.items():
        of = f" of {HEADS[looked.head]} head" * (space in ("gradients", "logits"))
        title = f"**{space.capitalize()}**{of * (looked.head != 'run')}, {method.upper()}"
        if looked.other is None:
            found.append((f"map {space}", title, places, looked.run))
            continue
        for run in (looked.run, looked.other):
            said = f"{title}, coloured by {plain(run_label(run.config))}"
            found.append((f"map {space} {run.run_id}", said, places, run))
    return found


def _map(
    looked: MapView,
    key: str,
    title: str,
    places: pd.DataFrame,
    run: Run,
    *,
    shown: np.ndarray,
    chosen: np.ndarray,
    focus: int | None,
) -> None:
    """Draw one map."""
    samples = looked.samples
    if run is not looked.run:
        samples = with_more(load_samples(run, looked.split), looked.bundle, looked.clustering)
    st.markdown(title)
    kind = colourings(looked.bundle, samples).get(looked.colour)
    if kind is None:
        st.caption(f"{plain(run_label(run.config))} has no {looked.colour} to colour by.")
        return
    points, colours = _coloured(looked, samples, kind)
    # A map knows rows in its own order; the table's order is what `shown` speaks of.
    points = (
        places.set_index("row")
        .loc[points["row"]]
        .reset_index()
        .assign(**{name: points[name].to_numpy() for name in (looked.colour, "sample_id")})
    )
    alt = f"Map of {len(points):,} samples, coloured by {looked.colour}."
    style: dict[str, Any] = {"colour": looked.colour, "kind": kind, "colours": colours}
    if looked.dimensions == 3:
        figure = point_map_3d(points.iloc[shown], **style, chosen=chosen, focus=focus, revision=key)
        show(figure, key=key, alt=alt)
        return
    selectable_map(points, key=key, **style, chosen=chosen, focus=focus, on_top=shown, alt=alt)


def _coloured(
    looked: MapView, samples: pd.DataFrame, kind: Kind
) -> tuple[pd.DataFrame, dict[str, str] | None]:
    """Return the samples with the colour column as text or numbers, and colours that are fixed."""
    colour, bundle = looked.colour, looked.bundle
    if colour == "group":
        named = samples.assign(group=single_group(bundle, samples["row"].to_numpy()))
        return named, colours_of(bundle)
    if colour == "prediction":
        classes = dict(enumerate(bundle.manifest.classes))
        return samples.assign(prediction=samples["prediction"].map(classes)), None
    if colour == "right or wrong":
        said = samples["correct"].map({True: "right", False: "wrong"})
        return samples.assign(**{colour: said}), {"right": theme.UNKNOWN, "wrong": theme.ACCENT}
    if colour == "flagged":
        return samples, {"not flagged": theme.UNKNOWN, "flagged": theme.ACCENT}
    if colour == "inferred group":
        said = samples["inferred_group"].astype(str).replace(str(OUTLIER), "outlier")
        return samples.assign(**{colour: said}), None
    if colour == "cluster" and looked.clustering is not None:
        names = [*looked.clustering.names.values()]
        fixed = theme.group_colours(names)
        return samples, {**fixed, "outlier": theme.UNKNOWN, "not clustered": theme.UNKNOWN}
    if kind == "category":
        return samples.assign(**{colour: samples[colour].astype(str)}), None
    return samples, None


def _worth_keeping(looked: MapView, limit: int) -> np.ndarray:
    """Return the positions of samples to draw whatever else is: flagged, then extreme ones."""
    samples = looked.samples
    if len(samples) <= limit:
        return np.empty(0, dtype=np.int64)
    order = samples["weight" if "weight" in samples.columns else "loss"].argsort().to_numpy()
    flagged = np.flatnonzero(np.isin(samples["row"], flags_of(looked.bundle)["row"]))
    return np.concatenate([flagged, order[::-1][: limit // 20], order[: limit // 20]])


def _focus(looked: MapView) -> int | None:
    """Return the sample that is ringed: the one that is looked at, or was last."""
    chosen = nav.get("sample")
    if chosen.isdecimal() and len(chosen) <= 12:
        st.session_state["map focus"] = (looked.scope, int(chosen))
    scope, row = st.session_state.get("map focus", ("", -1))
    return row if scope == looked.scope else None
