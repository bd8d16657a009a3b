"""Maps: samples as points in a plane or in space.

In the plane a map is not a Plotly figure but a description that the dashboard's own drawing
understands (`gsr_core/views/map_chart.js`): Plotly sends every selected point back as a record of
its own, and draws a chart anew, without its selection, when anything in it changes. What that
costs is in `docs/dashboard.md`. This module does without Streamlit, so that the description can be
tested.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from gsr_core.figures import theme
from gsr_core.figures.inks import CODES, Kind, ink_points

__all__ = [
    "MANY_POINTS",
    "MAX_DRAWN",
    "MAX_ON_TOP",
    "density_map",
    "legend_keys",
    "names_of",
    "point_map",
]


MAX_DRAWN = 200_000
"""Points of a map in the plane; more take longer than a frame or two to draw."""

MAX_ON_TOP = 5_000
"""Points over a density image; more would hide it."""

MANY_POINTS = 5_000
"""Above this, points say their row and not their sample id, and all have one shape."""

_CELLS = 240
"""Cells along the longer side of a density image: some four pixels each."""


def point_map(
    points: pd.DataFrame,
    *,
    colour: str,
    kind: Kind,
    colours: Mapping[str, str] | None = None,
    title: str | None = None,
) -> dict[str, Any]:
    """Describe one point a sample, to be picked by click, box or lasso.

    Answers: which samples lie together, and what do they share? The same input gives the same
    description, byte by byte.

    Args:
        points: Columns x, y (map units, which mean nothing; finite), row (position in the bundle,
            int), the column named by `colour`, and if there are some, sample_id and `in words` (a
            line about the sample; both are sent for up to `MANY_POINTS`). Drawn in this order.
        colour: Column that colours the points.
        kind: `category` for names, of which the commonest `MOST_COLOURS` have a colour of their
            own and the rest share grey; `value` for numbers, drawn from their 1st to their 99th
            percentile; `signed` for numbers about 0, blue below and orange above (see
            `theme.DIVERGING`). Missing values are grey.
        colours: Colour of each category, from `theme.group_colours`.
        title: Title of the legend or colour bar; the column's name if None.

    Returns:
        What `map_chart.js` draws, fit for JSON: arrays as base64 of little-endian numbers.
        `places` names the coordinates and `content` everything, by what is in them.
    """
    return _describe(points, points, colour, kind, colours, title, None)


def density_map(
    points: pd.DataFrame,
    on_top: np.ndarray,
    *,
    colour: str,
    kind: Kind,
    colours: Mapping[str, str] | None = None,
    title: str | None = None,
) -> dict[str, Any]:
    """Describe more points than can be drawn: how many lie where, and some of them on top.

    Answers what `point_map` does where that would be a single blot. The ink of a cell grows with
    the logarithm of the number of samples in it; colour is left to the points on top.

    Args:
        points: As for `point_map`, all samples.
        on_top: (q,) positions in `points` of those to draw as points.
        colour: As for `point_map`.
        kind: As for `point_map`, with percentiles over the points on top.
        colours: As for `point_map`.
        title: As for `point_map`.

    Returns:
        As `point_map`, and the image.
    """
    x, y = (points[axis].to_numpy(float) for axis in "xy")
    extent = _extent(points)
    wide, tall = extent[1] - extent[0], extent[3] - extent[2]
    columns = max(round(_CELLS * min(wide / tall, 1)), 1)
    lines = max(round(_CELLS * min(tall / wide, 1)), 1)
    column = np.minimum((x - extent[0]) / wide * columns, columns - 1).astype(np.int64)
    line = np.minimum((y - extent[2]) / tall * lines, lines - 1).astype(np.int64)
    counts = np.bincount(line * columns + column, minlength=columns * lines)
    most = int(counts.max(initial=1))
    # A cell with a single sample stays visible.
    shade = np.where(counts, 25 + 230 * np.log(np.maximum(counts, 1)) / np.log(max(most, 2)), 0)
    density = {
        "columns": columns,
        "lines": lines,
        "cells": _pack(np.round(shade), "u1"),
        "ink": theme.MUTED,
        "most": most,
        "title": "samples in a cell, log scale",
    }
    return _describe(points, points.iloc[on_top], colour, kind, colours, title, density)


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


def _describe(
    every: pd.DataFrame,
    points: pd.DataFrame,
    colour: str,
    kind: Kind,
    colours: Mapping[str, str] | None,
    title: str | None,
    density: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return the description of a map of `every` sample on which some are drawn as points."""
    extent = _extent(every)
    inks = ink_points(points[colour], kind, colours)
    few = len(points) <= MANY_POINTS
    size, opacity = _size(len(points))
    places = {
        "n": len(points),
        "extent": extent,
        # A map is read at a thousand pixels a side; these are 65,536.
        "x": _pack(_levels(points["x"], *extent[:2]), "<u2"),
        "y": _pack(_levels(points["y"], *extent[2:]), "<u2"),
    }
    look = {
        "rows": _pack(points["row"], "<i4"),
        "ids": names_of(points) if few and "sample_id" in points.columns else None,
        "words": points["in words"].tolist() if few and "in words" in points.columns else None,
        "codes": _pack(inks["codes"], "<u2"),
        "inks": inks["inks"],
        "names": inks["names"],
        "symbols": inks["symbols"] if few else None,
        "values": None if inks["values"] is None else _pack(inks["values"], "<f4"),
        "legend": inks["legend"],
        "bar": inks["bar"],
        "title": colour if title is None else title,
        "size": size,
        "opacity": opacity,
        "density": density,
    }
    digest = _digest(places)
    return {**places, **look, "places": digest, "content": _digest({**look, "places": digest})}


def names_of(points: pd.DataFrame) -> list[str]:
    """Return each sample's id, or its row where there is none."""
    if "sample_id" in points.columns:
        return points["sample_id"].astype(str).tolist()
    return [f"row {row}" for row in points["row"]]


def _extent(points: pd.DataFrame) -> list[float]:
    """Return the range of x and of y, never empty."""
    ends: list[float] = []
    for axis in "xy":
        values = points[axis].to_numpy(float)
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
        pad = 0.0 if high > low else 0.5
        ends += [low - pad, high + pad]
    return ends


def _size(n: int) -> tuple[float, float]:
    """Return the diameter in pixels and the opacity of a point."""
    for limit, size, opacity in ((500, 9, 0.9), (5_000, 6, 0.8), (20_000, 4, 0.7)):
        if n <= limit:
            return size, opacity
    return 3, 0.6


def _levels(values: pd.Series, low: float, high: float) -> np.ndarray:
    return np.round((values.to_numpy(float) - low) / (high - low) * CODES)


def _pack(values: pd.Series | np.ndarray, layout: str) -> str:
    return b64encode(np.asarray(values).astype(layout).tobytes()).decode()


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
