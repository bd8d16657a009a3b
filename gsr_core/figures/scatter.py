"""Maps: samples as points in the plane of a projection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from gsr_core.figures import theme

__all__ = ["point_map"]

MANY_POINTS = 5_000
"""Above this, points carry their row only, no text."""

AXIS_NOTE = "the axes of a map have no unit: only what lies close together means something"


def point_map(
    points: pd.DataFrame,
    *,
    colour: str,
    kind: Literal["category", "value", "signed"],
    colours: Mapping[str, str] | None = None,
    title: str | None = None,
    revision: str = "",
) -> go.Figure:
    """Draw one point a sample, to be picked by click, box or lasso.

    Answers: which samples lie together, and what do they share? All points are one trace in the
    order given, so that a picked point's index is its row in `points`, and its `customdata` is
    its position in the bundle. The same input gives the same bytes, which keeps a selection alive
    over a rerun of the page.

    Args:
        points: Columns x, y (map units, which mean nothing), row (position in the bundle, int)
            and the column named by `colour`.
        colour: Column that colours the points.
        kind: `category` for names; `value` for numbers, drawn from their 1st to their 99th
            percentile; `signed` for numbers about 0, blue below and orange above (see
            `theme.DIVERGING`). Missing values are grey.
        colours: Colour of each category, from `theme.group_colours`.
        title: Title of the legend or colour bar; the column's name if None.
        revision: While it stays the same, the browser keeps the user's zoom.
    """
    label = colour if title is None else title
    figure = go.Figure()
    if kind == "category":
        marker, hover_text, keys = _categories(points[colour], colours)
    else:
        marker, hover_text, keys = _numbers(points[colour].to_numpy(float), kind, label)
    few = len(points) <= MANY_POINTS
    figure.add_trace(
        go.Scattergl(
            x=points["x"].to_numpy(np.float32),
            y=points["y"].to_numpy(np.float32),
            customdata=points["row"].to_numpy(np.int32),
            text=hover_text if few else None,
            mode="markers",
            marker={**marker, **_size(len(points))},
            hovertemplate=(
                f"{label}: %{{text}}<extra></extra>" if few else "row %{customdata}<extra></extra>"
            ),
            showlegend=False,
            selected={"marker": {"opacity": 1}},
            unselected={"marker": {"opacity": 0.15}},
        )
    )
    figure.add_traces(keys)
    return _as_map(figure).update_layout(
        dragmode="lasso",
        uirevision=revision,
        showlegend=kind == "category",
        legend={
            "x": 1.02,
            "y": 1,
            "yanchor": "top",
            "title": {"text": label},
            "itemclick": False,
            "itemdoubleclick": False,
            "itemsizing": "constant",
        },
    )


def _as_map(figure: go.Figure) -> go.Figure:
    bare = {"showgrid": False, "showticklabels": False, "ticks": "", "zeroline": False}
    figure.update_xaxes(title={"text": AXIS_NOTE, "font": {"size": 11}}, **bare)
    figure.update_yaxes(scaleanchor="x", scaleratio=1, **bare)
    return figure.update_layout(height=560)


def _size(n: int) -> dict[str, object]:
    """Return one size and opacity for all points; sizes that differ by point draw slowly."""
    for limit, size, opacity in ((500, 9, 0.85), (5_000, 6, 0.8), (20_000, 4, 0.7)):
        if n <= limit:
            return {"size": size, "opacity": opacity}
    return {"size": 3, "opacity": 0.6}


def _categories(
    column: pd.Series, colours: Mapping[str, str] | None
) -> tuple[dict[str, object], np.ndarray, list[go.Scatter]]:
    """Return the marker, the names to hover over, and the traces that make up the legend."""
    text = column.astype(object).where(column.notna(), theme.UNKNOWN_NAME).astype(str)
    names, colour = theme.names_of(sorted(text.unique()) if colours is None else text, colours)
    codes, marker = theme.category_codes(text, colour)
    return {**marker, "color": codes}, text.to_numpy(object), legend_keys(names, colour)


def legend_keys(names: list[str], colours: Mapping[str, str]) -> list[go.Scatter]:
    """Return empty traces that only show in the legend, one a category."""
    return [
        go.Scatter(
            x=[None],
            y=[None],
            name=theme.short(name),
            mode="markers",
            marker={"color": colours[name], "size": 9},
            hoverinfo="skip",
        )
        for name in names
    ]


def _numbers(
    values: np.ndarray, kind: str, label: str
) -> tuple[dict[str, object], np.ndarray, list[go.Scatter]]:
    """Return the marker, the numbers to hover over, and an empty trace with the colour bar."""
    known = values[np.isfinite(values)]
    values = np.where(np.isfinite(values), values, np.nan)
    scale = theme.DIVERGING if kind == "signed" else theme.SEQUENTIAL
    if not len(known):
        low, high = (-1.0, 1.0) if kind == "signed" else (0.0, 1.0)
    elif kind == "signed":
        high = float(np.quantile(np.abs(known), 0.99)) or float(np.abs(known).max()) or 1.0
        low = -high
    else:
        low, high = (float(end) for end in np.quantile(known, [0.01, 0.99]))
        if low == high:
            low, high = float(known.min()), float(known.max())
    coloured, marker = theme.with_missing(values, low, high, scale)
    bar = go.Scatter(
        x=[None],
        y=[None],
        mode="markers",
        marker={
            "color": [low],
            "cmin": low,
            "cmax": high if high > low else low + 1,
            "colorscale": scale,
            "showscale": True,
            "colorbar": _bar(label),
        },
        hoverinfo="skip",
        showlegend=False,
    )
    text = np.array(["none" if np.isnan(v) else f"{v:.4g}" for v in values], dtype=object)
    return {**marker, "color": coloured}, text, [bar]


def _bar(title: str) -> dict[str, object]:
    return {
        "title": {"text": title, "side": "top", "font": {"size": 12}},
        "thickness": 12,
        "outlinewidth": 0,
        "len": 0.7,
        "y": 1,
        "yanchor": "top",
    }
