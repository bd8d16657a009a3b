"""Maps in space: samples as points that can be turned."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from gsr_core.figures import theme
from gsr_core.figures.inks import Kind, ink_names, ink_points
from gsr_core.figures.scatter import names_of

__all__ = ["MAX_DRAWN_3D", "point_map_3d"]


MAX_DRAWN_3D = 20_000
"""Points of a map in space, which WebGL sorts and draws anew at every turn."""


def point_map_3d(
    points: pd.DataFrame,
    *,
    colour: str,
    kind: Kind,
    colours: Mapping[str, str] | None = None,
    title: str | None = None,
    chosen: np.ndarray | None = None,
    focus: int | None = None,
    revision: str = "",
) -> go.Figure:
    """Draw one point a sample in space, to be turned.

    Answers what `point_map` does, with one more direction in which clusters can part.

    Args:
        points: As for `point_map`, with a column z; at most about `MAX_DRAWN_3D` rows.
        colour: As for `point_map`.
        kind: As for `point_map`.
        colours: As for `point_map`.
        title: As for `point_map`.
        chosen: (q,) rows of the selected samples, which are drawn over the rest; the others are
            faded. None or empty if nothing is selected.
        focus: Row of the sample to ring and name.
        revision: While it stays the same, the browser keeps how the user turned the map.
    """
    label = colour if title is None else title
    inks = ink_points(points[colour], kind, colours)
    ink = np.array(inks["inks"], dtype=object)[inks["codes"]]
    words = (
        [f"<br>{escape(each)}" for each in points["in words"]]
        if "in words" in points.columns
        else None
    )
    hover = [
        f"{label}: {text}<br>{who}{more}"
        for text, who, more in zip(
            ink_names(inks), names_of(points), words or [""] * len(points), strict=True
        )
    ]
    inside = np.isin(points["row"].to_numpy(), [] if chosen is None else chosen)
    figure = go.Figure()
    # Opacity is one number a trace in space, so that the selected ones are a trace of their own.
    parts = ((~inside, 0.12 if inside.any() else 0.75, ""), (inside, 0.9, "selected"))
    for part, opacity, name in parts:
        if part.any() or not name:
            figure.add_trace(_in_space(points[part], ink[part], np.array(hover)[part], opacity))
    at = points[points["row"] == focus] if focus is not None else points.iloc[:0]
    names = []
    if len(at):
        place = {axis: float(at[axis].iloc[0]) for axis in "xyz"}
        ring = {"symbol": "circle-open", "size": 12, "color": theme.ACCENT}
        figure.add_scatter3d(
            **{axis: [value] for axis, value in place.items()},
            mode="markers",
            marker={**ring, "line": {"width": 3, "color": theme.ACCENT}},
            hoverinfo="skip",
            showlegend=False,
        )
        # An annotation is never behind a point, as a ring may be.
        arrow = {"showarrow": True, "arrowcolor": theme.ACCENT, "arrowwidth": 2}
        plate = {"text": names_of(at)[0], "bgcolor": theme.ACCENT, "font": {"color": "#ffffff"}}
        names = [{**place, **arrow, **plate, "ax": 40, "ay": -60}]
    figure.add_traces(_keys_3d(inks, label))
    bare = {
        "title": "",
        "showticklabels": False,
        "showspikes": False,
        "backgroundcolor": "rgba(0,0,0,0)",
    }
    axes = {f"{axis}axis": {**bare, "gridcolor": "rgba(128,128,128,0.25)"} for axis in "xyz"}
    return figure.update_layout(
        scene={**axes, "aspectmode": "data", "uirevision": revision, "annotations": names},
        height=560,
        showlegend=kind == "category",
        legend={"title": {"text": label}, "itemsizing": "constant", "itemclick": False},
    )


def _in_space(
    points: pd.DataFrame, ink: np.ndarray, hover: np.ndarray, opacity: float
) -> go.Scatter3d:
    return go.Scatter3d(
        **{axis: points[axis].to_numpy(np.float32) for axis in "xyz"},
        customdata=points["row"].to_numpy(np.int32),
        mode="markers",
        marker={"color": ink, "size": 3, "opacity": opacity, "line": {"width": 0}},
        text=hover,
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
    )


def _keys_3d(inks: dict[str, Any], label: str) -> list[go.Scatter3d]:
    """Return empty traces that only show in the legend, or as a colour bar."""
    nowhere = {"x": [None], "y": [None], "z": [None], "mode": "markers", "hoverinfo": "skip"}
    bar = inks["bar"]
    if bar is None:
        return [
            go.Scatter3d(
                **nowhere,
                name=f"{theme.short(each['name'])} ({each['count']:,})",
                marker={"color": each["ink"], "size": 9},
            )
            for each in inks["legend"]
        ]
    scale = [
        [at, shade]
        for at, shade in zip(np.linspace(0, 1, len(bar["inks"])), bar["inks"], strict=True)
    ]
    marker = {
        "color": [bar["low"]],
        "cmin": bar["low"],
        "cmax": bar["high"],
        "colorscale": scale,
        "showscale": True,
        "colorbar": {
            "title": {"text": label, "side": "top", "font": {"size": 12}},
            "thickness": 12,
            "outlinewidth": 0,
            "len": 0.7,
            "y": 1,
            "yanchor": "top",
        },
    }
    return [go.Scatter3d(**nowhere, marker=marker, showlegend=False)]
