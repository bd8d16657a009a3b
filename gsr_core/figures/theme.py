"""Colours, line dashes, the two templates, and the small parts that every chart shares.

A figure function leaves its figure undressed; whoever shows it calls `finish` last. The dashboard
lets Streamlit put the page's inks over the light template in the browser, so that a switch of
theme needs no new figure; a notebook on a dark page calls `finish(figure, dark=True)`.

The group colours are those of Okabe and Ito, "Color Universal Design" (2008), moved a little so
that each stands out on white and on near-black (contrast 2.2 and 3.0 or more) and any two of the
first eight stay apart (OKLab distance 0.07 or more) also under protanopia and deuteranopia. More
than eight groups get a second shade, another dash and another symbol.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio

__all__ = [
    "ACCENT",
    "DIVERGING",
    "HARMS",
    "HELPS",
    "MUTED",
    "NEUTRAL",
    "PERCENT_AXIS",
    "SEQUENTIAL",
    "SPLIT_LINES",
    "UNKNOWN",
    "UNKNOWN_NAME",
    "category_codes",
    "fade",
    "finish",
    "fraction_range",
    "group_colours",
    "group_dashes",
    "group_symbols",
    "in_points",
    "ink_on",
    "legend_height",
    "named_rows",
    "names_of",
    "note",
    "room",
    "row_height",
    "run_colours",
    "short",
    "shortened",
    "step_axis",
]

_SHADES = (
    ("#0072b2", "#e06a10", "#009e73", "#d48ab5", "#e69f00", "#56b4e9", "#9b72db", "#8c5a3c"),
    ("#4a6fe3", "#b3471b", "#6aa84f", "#a8508f", "#a88a1e", "#2f97a6", "#bda0e6", "#b98d70"),
)
_DASHES = ("solid", "dash", "dot", "dashdot")
_SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "triangle-down", "star", "x")

UNKNOWN_NAME = "unknown"
UNKNOWN = "#a8a8a8"
"""Colour of samples in no known group, and of numbers that are missing or say too little."""

ACCENT = "#d6336c"
"""Colour of the worst group, wherever it is named or followed."""

MUTED = "#8a8a8a"
"""Colour of reference lines; legible on white and on near-black."""

HELPS, NEUTRAL, HARMS = "#2b7bba", "#a8a8a8", "#dd5f0b"
DIVERGING = [[0.0, "#1668b0"], [0.35, "#7fb2d9"], [0.5, NEUTRAL], [0.65, "#f0a868"], [1.0, HARMS]]
"""Scale of signed influence about 0: blue is negative, which helps (more weight on the sample
lowers the group's loss); orange is positive, which harms."""

SEQUENTIAL = [
    [0.0, "#54449b"],
    [0.2, "#365c8d"],
    [0.4, "#277f8e"],
    [0.6, "#1fa187"],
    [0.8, "#4ac16d"],
    [1.0, "#b5d832"],
]
"""Viridis without its ends, of which one vanishes on white and the other on black."""

SPLIT_LINES: Mapping[str, Mapping[str, object]] = {
    "val": {"color": ACCENT, "dash": "solid", "width": 2.5},
    "target": {"color": "#2b7bba", "dash": "dot", "width": 2},
    "test": {"color": MUTED, "dash": "dash", "width": 2},
}

PERCENT_AXIS: Mapping[str, object] = {"tickformat": ".0%", "rangemode": "tozero"}


def _template(*, ink: str, faint: str, panel: str) -> go.layout.Template:
    axis = {
        "gridcolor": faint,
        "linecolor": faint,
        "zeroline": False,
        "ticks": "",
        "automargin": True,
        "title": {"standoff": 10, "font": {"size": 13}},
        "tickfont": {"size": 12},
    }
    return go.layout.Template(
        layout={
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"color": ink, "size": 13, "family": "Source Sans, sans-serif"},
            "title": {"x": 0, "xanchor": "left", "font": {"size": 15}},
            "colorway": list(_SHADES[0]),
            "xaxis": axis,
            "yaxis": axis,
            "legend": {
                "bgcolor": "rgba(0,0,0,0)",
                "font": {"size": 12},
                "title": {"text": "", "font": {"size": 12}},
                "tracegroupgap": 0,
            },
            "hoverlabel": {"bgcolor": panel, "bordercolor": MUTED, "font": {"color": ink}},
            # Without a colour of their own, annotations take the font's, whoever sets it.
            "annotationdefaults": {"showarrow": False, "font": {"size": 12}},
            "shapedefaults": {"line": {"color": MUTED, "width": 1}},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": MUTED, "activecolor": ink},
            "margin": {"l": 8, "r": 8, "t": 32, "b": 8},
        }
    )


pio.templates["gsr"] = _template(ink="#3a3f4b", faint="rgba(128,128,128,0.22)", panel="#ffffff")
pio.templates["gsr_dark"] = _template(
    ink="#d3d7de", faint="rgba(160,160,160,0.20)", panel="#1b1f29"
)


def finish(figure: go.Figure, dark: bool = False) -> go.Figure:
    """Dress a figure for a light or a dark page; the last call before it is shown.

    Args:
        figure: Changed in place.
        dark: Whether the page's background is near-black.

    Returns:
        The same figure.
    """
    parts: tuple[Any, ...] = (*figure.data, figure.layout)
    for part in parts:
        for key, value in part.to_plotly_json().items():
            if key == "template":
                continue
            shown = _as_it_is(value)
            if shown is not value:
                part[key] = shown
    return figure.update_layout(template="gsr_dark" if dark else "gsr")


_FOREIGN = re.compile(r"<(?!/?(?:b|i|br|extra)>)")
"""The beginning of what Plotly could take for a tag, but for those that our figures use."""


def _as_it_is(value: Any) -> Any:
    """Return a part of a figure in which a user's text makes no links; itself if there is none."""
    if isinstance(value, str):
        return _FOREIGN.sub("&lt;", value) if "<" in value else value
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "OU":
            return value
        before = value.tolist()
        after = _as_it_is(before)
        return value if after is before else np.array(after, dtype=object)
    if isinstance(value, dict):
        new = {key: _as_it_is(each) for key, each in value.items()}
        return new if any(new[key] is not value[key] for key in value) else value
    if isinstance(value, list | tuple):
        items = [_as_it_is(each) for each in value]
        return items if any(a is not b for a, b in zip(items, value, strict=True)) else value
    return value


def group_colours(names: Sequence[str]) -> dict[str, str]:
    """Return a colour for each group by its place, so that it looks the same on every page.

    Args:
        names: Groups in the order of the bundle. "unknown" is grey and takes up no place.

    Example:
        >>> group_colours(["cat", "dog"])
        {'cat': '#0072b2', 'dog': '#e06a10'}
    """
    shades = [colour for row in _SHADES for colour in row]
    known = [name for name in names if name != UNKNOWN_NAME]
    colours = {name: shades[place % len(shades)] for place, name in enumerate(known)}
    return {name: colours.get(name, UNKNOWN) for name in names}


def run_colours(names: Sequence[str]) -> dict[str, str]:
    """Return a colour for each run or method by its place, unlike those of the first groups.

    Args:
        names: Runs or methods in the order in which they are drawn.
    """
    shades = [*_SHADES[1], *_SHADES[0]]
    return {name: shades[place % len(shades)] for place, name in enumerate(names)}


def group_dashes(names: Iterable[str]) -> dict[str, str]:
    """Return a line dash for each group: solid for the first eight, then dashed and so on."""
    width = len(_SHADES[0])
    return {name: _DASHES[place // width % len(_DASHES)] for place, name in enumerate(names)}


def group_symbols(names: Iterable[str]) -> dict[str, str]:
    """Return a marker symbol for each name by its place; eight before they repeat."""
    return {name: _SYMBOLS[place % len(_SYMBOLS)] for place, name in enumerate(names)}


def names_of(
    column: Iterable[str], colours: Mapping[str, str] | None
) -> tuple[list[str], dict[str, str]]:
    """Return the names present, in the order of the bundle, and the colour of each.

    Args:
        column: Names as they occur, repeats allowed.
        colours: From `group_colours` over the bundle's groups; by order of appearance if None.
    """
    present = list(dict.fromkeys(column))
    if colours is None:
        return present, group_colours(present)
    ordered = [name for name in colours if name in set(present)]
    ordered += [name for name in present if name not in colours]
    return ordered, {name: colours.get(name, UNKNOWN) for name in ordered}


def category_codes(
    column: pd.Series, colours: Mapping[str, str]
) -> tuple[np.ndarray, dict[str, object]]:
    """Return one small integer a point and the marker settings that colour the integers.

    So one trace can hold all categories at a byte a point.

    Args:
        column: Category names; one without a colour is drawn as unknown.
        colours: Colour of each name.
    """
    names = list(colours)
    place = {name: code for code, name in enumerate(names)}
    codes = column.map(place).fillna(len(names)).to_numpy()
    palette = [*colours.values(), UNKNOWN]
    steps = len(palette)
    scale = [
        [edge / steps, colour] for code, colour in enumerate(palette) for edge in (code, code + 1)
    ]
    marker = {"colorscale": scale, "cmin": -0.5, "cmax": steps - 0.5, "showscale": False}
    return codes.astype(np.int8 if steps < 128 else np.int16), marker


def in_points(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Return a table in which columns of changes of fractions are in percentage points."""
    return table.assign(**{name: 100 * table[name] for name in columns})


def short(name: str, width: int = 26) -> str:
    """Return a name cut in its middle, for labels; hover text keeps the whole.

    Example:
        >>> short("a very long name of a group indeed")
        'a very long n…group indeed'
    """
    if len(name) <= width:
        return name
    tail = (width - 1) // 2
    return f"{name[: width - 1 - tail]}…{name[-tail:]}"


def shortened(names: Iterable[object], width: int = 26) -> list[str]:
    """Return names cut in their middles; by less where two would look the same.

    Example:
        >>> shortened(["a long name, first of a pair", "a long name, third of a pair"], 15)
        ['a long name…t of a pair', 'a long name…d of a pair']
    """
    whole = [str(name) for name in names]
    different, longest = len(set(whole)), max(map(len, whole), default=0)
    for room in range(width, longest):
        cut = [short(name, room) for name in whole]
        if len(set(cut)) == different:
            return cut
    return whole


def named_rows(names: Collection[object], width: int = 26) -> dict[str, Any]:
    """Return the settings of a vertical axis with one row a name, the first on top.

    Args:
        names: The names.
        width: Characters of a label.
    """
    return {
        "tickvals": list(range(len(names))),
        "ticktext": shortened(names, width),
        "range": [len(names) - 0.5, -0.5],
        "showgrid": False,
    }


def row_height(rows: int, each: int = 34, around: int = 90) -> int:
    """Return the height in pixels of a chart with one row a group."""
    return around + each * max(rows, 1)


def legend_height(entries: int) -> int:
    """Return the height in pixels of a vertical legend with its title."""
    return 30 + 19 * entries


def room(
    ticks: Iterable[str], *, lines: int = 1, legend: Iterable[str] = (), width: int = 26
) -> dict[str, int]:
    """Return margins in which what is beside and below a plot has room, in pixels.

    Plotly lets too narrow a margin grow, but to do so it draws the whole figure once more. It
    wants 12 pixels between a label and the edge.

    Args:
        ticks: Labels of the vertical axis.
        lines: Lines of its title; 0 if it has none.
        legend: Entries of a vertical legend to the right of the plot; none if empty.
        width: Characters of a label of the axis.
    """
    entries = list(legend)
    right = {"r": 76 + _width(entries)} if entries else {}
    return {"l": 14 + _width(ticks, width) + (25 + 12 * lines if lines else 0), "b": 68, **right}


def _width(texts: Iterable[str], width: int = 26) -> int:
    """Return about how many pixels wide the longest of some labels is, once cut."""
    return 10 + round(5.5 * max(map(len, shortened(texts, width)), default=0))


def fraction_range(values: Iterable[float], least: float = 0.2) -> list[float]:
    """Return an axis range around fractions that does not blow up small differences.

    Args:
        values: Fractions; missing ones are ignored.
        least: The range spans at least this much.
    """
    known = np.asarray(list(values), dtype=float)
    known = known[np.isfinite(known)]
    if not len(known):
        return [0.0, 1.0]
    low, high = float(known.min()), float(known.max())
    pad = max(0.04 * (high - low), (least - (high - low)) / 2, 0.02)
    low, high = low - pad, high + pad
    # Keep the span when one end meets 0 or 1, with a little air for the markers.
    shift = max(-0.02 - low, 0.0) - max(high - 1.02, 0.0)
    return [max(low + shift, -0.02), min(high + shift, 1.02)]


def ink_on(level: float) -> str:
    """Return black or white, whichever is read better on the sequential scale.

    Args:
        level: Place on the scale, from 0 to 1.
    """
    at = [float(str(stop)) for stop, _ in SEQUENTIAL]
    rgb = [[int(str(colour)[i : i + 2], 16) / 255 for i in (1, 3, 5)] for _, colour in SEQUENTIAL]
    mixed = np.array([np.interp(level, at, channel) for channel in zip(*rgb, strict=True)])
    linear = np.where(mixed <= 0.04045, mixed / 12.92, ((mixed + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ [0.2126, 0.7152, 0.0722])
    return "#000000" if luminance > 0.18 else "#ffffff"


def step_axis(first: int, last: int) -> dict[str, object]:
    """Return the settings of an axis of steps, which are whole and count from one."""
    axis: dict[str, object] = {"title": {"text": "step"}, "tickformat": "d"}
    pad = max((last - first) * 0.02, 0.5)
    axis["range"] = [first - pad, last + pad]
    if last - first <= 10:
        axis |= {"tick0": first, "dtick": 1}
    return axis


def note(figure: go.Figure, text: str) -> go.Figure:
    """Say in the middle of an empty chart why it is empty."""
    figure.add_annotation(text=text, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False)
    return figure.update_xaxes(visible=False).update_yaxes(visible=False)


def fade(colour: str, opacity: float = 0.2) -> str:
    """Return a colour `#rrggbb` as one that lets through what lies behind it."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"
