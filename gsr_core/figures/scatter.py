"""Maps: samples as points in a plane or in space.

In the plane a map is not a Plotly figure but a description that the dashboard's own drawing
understands (`gsr_core/views/map_chart.js`): Plotly sends every selected point back as a record of
its own, and draws a chart anew, without its selection, when anything in it changes. What that
costs is in `docs/dashboard.md`. Here is no Streamlit, so that the description can be tested.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from gsr_core.figures import theme

__all__ = [
    "MAX_DRAWN",
    "MAX_DRAWN_3D",
    "MAX_ON_TOP",
    "Kind",
    "density_map",
    "legend_keys",
    "point_map",
    "point_map_3d",
]

Kind = Literal["category", "value", "signed"]

MAX_DRAWN = 200_000
"""Points of a map in the plane; more take longer than a frame or two to draw."""

MAX_DRAWN_3D = 20_000
"""Points of a map in space, which WebGL sorts and draws anew at every turn."""

MAX_ON_TOP = 5_000
"""Points over a density image; more would hide it."""

MANY_POINTS = 5_000
"""Above this, points say their row and not their sample id, and all have one shape."""

MOST_COLOURS = 16
"""Categories with a colour of their own: as many as there are colours. The rest share one."""

_CELLS = 240
"""Cells along the longer side of a density image: some four pixels each."""

_SHADES = 64
_CODES = 65_535


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
            int), the column named by `colour`, and if there is one sample_id. Drawn in this order.
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
    return _described(points, points, colour, kind, colours, title, None)


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
    # A cell with a single sample is still to be seen.
    shade = np.where(counts, 25 + 230 * np.log(np.maximum(counts, 1)) / np.log(max(most, 2)), 0)
    density = {
        "columns": columns,
        "lines": lines,
        "cells": _packed(np.round(shade), "u1"),
        "ink": theme.MUTED,
        "most": most,
        "title": "samples in a cell, log scale",
    }
    return _described(points, points.iloc[on_top], colour, kind, colours, title, density)


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
    inks = _inked(points[colour], kind, colours)
    ink = np.array(inks["inks"], dtype=object)[inks["codes"]]
    hover = [
        f"{label}: {text}<br>{who}" for text, who in zip(_said(inks), _who(points), strict=True)
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
        plate = {"text": _who(at)[0], "bgcolor": theme.ACCENT, "font": {"color": "#ffffff"}}
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


def _described(
    every: pd.DataFrame,
    drawn: pd.DataFrame,
    colour: str,
    kind: Kind,
    colours: Mapping[str, str] | None,
    title: str | None,
    density: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return the description of a map of `every` sample on which some are drawn as points."""
    extent = _extent(every)
    inks = _inked(drawn[colour], kind, colours)
    few = len(drawn) <= MANY_POINTS
    size, opacity = _size(len(drawn))
    places = {
        "n": len(drawn),
        "extent": extent,
        # A map is read at a thousand pixels a side; these are 65,536.
        "x": _packed(_levels(drawn["x"], *extent[:2]), "<u2"),
        "y": _packed(_levels(drawn["y"], *extent[2:]), "<u2"),
    }
    look = {
        "rows": _packed(drawn["row"], "<i4"),
        "ids": _who(drawn) if few and "sample_id" in drawn.columns else None,
        "codes": _packed(inks["codes"], "<u2"),
        "inks": inks["inks"],
        "names": inks["names"],
        "symbols": inks["symbols"] if few else None,
        "values": None if inks["values"] is None else _packed(inks["values"], "<f4"),
        "legend": inks["legend"],
        "bar": inks["bar"],
        "title": colour if title is None else title,
        "size": size,
        "opacity": opacity,
        "density": density,
    }
    digest = _digest(places)
    return {**places, **look, "places": digest, "content": _digest({**look, "places": digest})}


def _inked(column: pd.Series, kind: Kind, colours: Mapping[str, str] | None) -> dict[str, Any]:
    """Return each point's code, and for each code its ink, name and shape."""
    return _categories(column, colours) if kind == "category" else _numbers(column, kind)


def _categories(column: pd.Series, colours: Mapping[str, str] | None) -> dict[str, Any]:
    found, values = pd.factorize(column)
    # A missing value has the code -1, which is the last place.
    texts = [*(str(value) for value in values), theme.UNKNOWN_NAME]
    counts: dict[str, int] = {}
    for text, count in zip(
        texts, np.bincount(found % len(texts), minlength=len(texts)), strict=True
    ):
        if count:
            counts[text] = counts.get(text, 0) + int(count)
    names, colour = theme.names_of(sorted(counts) if colours is None else counts, colours)
    known = [name for name in names if name != theme.UNKNOWN_NAME]
    # Stable: of equally common ones, the first.
    common = sorted(known, key=lambda name: -counts[name])[:MOST_COLOURS]
    shown = [name for name in known if name in set(common)]
    rest = [name for name in known if name not in set(common)]
    if rest and colours is None:
        colour |= theme.group_colours(shown)
    colour |= dict.fromkeys([*rest, theme.UNKNOWN_NAME], theme.UNKNOWN)
    symbols = theme.group_symbols(shown)
    unknown = [theme.UNKNOWN_NAME] if theme.UNKNOWN_NAME in names else []
    order = [*shown, *rest, *unknown]
    legend = [
        {"name": name, "ink": colour[name], "symbol": symbols[name], "count": counts[name]}
        for name in shown
    ]
    if rest:
        said = f"{len(rest):,} others"
        count = sum(counts[name] for name in rest)
        legend.append({"name": said, "ink": theme.UNKNOWN, "symbol": "circle", "count": count})
    legend += [
        {"name": name, "ink": theme.UNKNOWN, "symbol": "circle", "count": counts[name]}
        for name in unknown
    ]
    code = {name: min(place, _CODES) for place, name in enumerate(order)}
    order = order[: _CODES + 1]
    return {
        "codes": np.array([code.get(text, 0) for text in texts])[found],
        "inks": [colour[name] for name in order],
        "names": order,
        "symbols": [symbols.get(name, "circle") for name in order],
        "values": None,
        "legend": legend,
        "bar": None,
    }


def _numbers(column: pd.Series, kind: Kind) -> dict[str, Any]:
    values = column.to_numpy(float)
    values = np.where(np.isfinite(values), values, np.nan)
    known = values[~np.isnan(values)]
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
    span = high - low if high > low else 1.0
    shades = _shades(scale)
    place = np.clip((values - low) / span, 0, 1) * (_SHADES - 1)
    codes = np.where(np.isnan(values), _SHADES, np.round(np.nan_to_num(place))).astype(np.int64)
    missing = int(np.isnan(values).sum())
    none = {"name": "none", "ink": theme.UNKNOWN, "symbol": "circle", "count": missing}
    return {
        "codes": codes,
        "inks": [*shades, theme.UNKNOWN],
        "names": None,
        "symbols": None,
        "values": values,
        "legend": [none] if missing else [],
        "bar": {
            "low": low,
            "high": low + span,
            "inks": shades,
            # The ends take in what lies beyond them.
            "below": bool(len(known) and known.min() < low),
            "above": bool(len(known) and known.max() > low + span),
        },
    }


def _shades(scale: Sequence[Sequence[object]]) -> list[str]:
    """Return a colour scale in equal steps."""
    at = [float(str(stop)) for stop, _ in scale]
    rgb = [[int(str(colour)[i : i + 2], 16) for i in (1, 3, 5)] for _, colour in scale]
    steps = np.linspace(0, 1, _SHADES)
    mixed = np.stack([np.interp(steps, at, channel) for channel in zip(*rgb, strict=True)], axis=1)
    return ["#" + "".join(f"{round(part):02x}" for part in colour) for colour in mixed]


def _said(inks: dict[str, Any]) -> list[str]:
    """Return what each point's colour stands for, as text."""
    if inks["names"] is not None:
        return [inks["names"][code] for code in inks["codes"]]
    return ["none" if np.isnan(value) else f"{value:.4g}" for value in inks["values"]]


def _who(points: pd.DataFrame) -> list[str]:
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
    return np.round((values.to_numpy(float) - low) / (high - low) * _CODES)


def _packed(values: pd.Series | np.ndarray, layout: str) -> str:
    return b64encode(np.asarray(values).astype(layout).tobytes()).decode()


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
