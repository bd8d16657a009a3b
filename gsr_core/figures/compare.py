"""Methods side by side: worst against average, and group by group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from gsr_core.figures import theme

__all__ = ["group_dots", "worst_against_average"]

_LABEL_ROOM = 64
"""Pixels at the right of the plot into which a run's label may reach."""

_SEPARATOR = {"color": theme.MUTED, "width": 0.5}
"""The line between two groups."""


def worst_against_average(
    table: pd.DataFrame,
    *,
    points: pd.DataFrame | None = None,
    average_name: str = "average accuracy",
) -> go.Figure:
    """Draw worst-group accuracy against average accuracy.

    Answers: which method serves the worst group best, and what does the average pay for it? The
    stepped line joins those that no other beats on both.

    Args:
        table: Columns run, label, method, worst, average (fractions); optionally worst_low,
            worst_high, average_low and average_high (ends of their intervals). One row a method
            and setting.
        points: Columns label, seed, worst, average: every seed, drawn faintly.
        average_name: Which average it is; it is printed on the axis.
    """
    figure = go.Figure()
    if table.empty:
        return theme.note(figure, "No runs to compare.").update_layout(height=200)
    labels = list(table["label"])
    colours, symbols = theme.run_colours(labels), theme.group_symbols(labels)
    names = dict(zip(labels, theme.shortened(labels), strict=True))
    seeds = _with_several_seeds(points)
    x_range, y_range = _ranges(table, seeds)
    low, high = max(x_range[0], y_range[0]), min(x_range[1], y_range[1])
    if low < high:
        figure.add_trace(
            go.Scatter(
                x=[low, high],
                y=[low, high],
                mode="lines",
                name="worst = average",
                line={"color": theme.MUTED, "width": 1, "dash": "dot"},
                hoverinfo="skip",
            )
        )
    front = _front(table)
    figure.add_trace(
        go.Scatter(
            x=front["average"],
            y=front["worst"],
            mode="lines",
            name="not beaten on both",
            line={"color": theme.MUTED, "width": 1.5, "shape": "hv"},
            hoverinfo="skip",
        )
    )
    if len(seeds):
        figure.add_trace(
            go.Scatter(
                x=seeds["average"],
                y=seeds["worst"],
                mode="markers",
                name="one seed",
                marker={
                    "color": seeds["label"].map(colours).fillna(theme.UNKNOWN),
                    "symbol": seeds["label"].map(symbols).fillna("circle"),
                    "size": 6,
                    "opacity": 0.4,
                },
                hovertext=[_seed_text(row, average_name) for row in seeds.to_dict("records")],
                hovertemplate="%{hovertext}<extra></extra>",
                showlegend=False,
            )
        )
    places = _label_places(table, seeds, x_range, y_range)
    for index, row in zip(table.index, table.to_dict("records"), strict=True):
        label, place = row["label"], places[index]
        figure.add_trace(
            go.Scatter(
                x=[row["average"]],
                y=[row["worst"]],
                name=names[label],
                mode="markers+text",
                text=[f"\u00a0{names[label]}\u00a0" if place else ""],
                textposition=place or "top center",
                textfont={"size": 12},
                marker={"color": colours[label], "symbol": symbols[label], "size": 11},
                error_x=_bar(row, "average", colours[label]),
                error_y=_bar(row, "worst", colours[label]),
                customdata=[row["run"]],
                hovertext=[_run_text(row, average_name)],
                hovertemplate="%{hovertext}<extra></extra>",
                cliponaxis=False,
                # A label beside the point says it already.
                showlegend=not place,
            )
        )
    figure.update_xaxes(title_text=average_name, tickformat=".0%", range=x_range)
    figure.update_yaxes(title_text="worst-group accuracy", tickformat=".0%", range=y_range)
    return figure.update_layout(
        height=484,
        margin={**theme.room(["100%"]), "r": _LABEL_ROOM, "t": 56},
        hovermode="closest",
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 1.03, "yanchor": "bottom"},
    )


def group_dots(
    table: pd.DataFrame,
    *,
    points: pd.DataFrame | None = None,
    measure: str = "accuracy",
    number: str = ".1%",
    width: int = 26,
) -> go.Figure:
    """Draw each group's accuracy under each method, one row a group and one dot a method.

    Answers: whom did a method help, whom did it cost, and by more than chance?

    Args:
        table: Columns label, group, accuracy, low, high (fractions). Groups are drawn from the
            top, and labels within a row, in the order in which they appear.
        points: Columns label, seed, group, accuracy: every seed, drawn faintly.
        measure: What the fractions are, if not accuracies.
        number: How one is written, in d3's words.
        width: Characters of a group's label; a chart as wide as the page has room for more.
    """
    figure = go.Figure()
    if table.empty:
        return theme.note(figure, "No runs to compare.").update_layout(height=200)
    groups = list(dict.fromkeys(table["group"]))
    labels = list(dict.fromkeys(table["label"]))
    colours, symbols = theme.run_colours(labels), theme.group_symbols(labels)
    names = dict(zip(labels, theme.shortened(labels), strict=True))
    place = {group: row for row, group in enumerate(groups)}
    # Evenly within the row, so that no dot is on the line between two.
    spread = (np.arange(len(labels)) + 0.5) / len(labels) - 0.5
    shift = dict(zip(labels, spread, strict=True))
    seeds = _with_several_seeds(points)
    if len(seeds):
        figure.add_trace(
            go.Scatter(
                x=seeds["accuracy"],
                y=seeds["group"].map(place) + seeds["label"].map(shift),
                mode="markers",
                name="one seed",
                marker={
                    "color": seeds["label"].map(colours).fillna(theme.UNKNOWN),
                    "size": 5,
                    "opacity": 0.4,
                },
                customdata=seeds[["label", "seed", "group"]].to_numpy(object),
                hovertemplate="%{customdata[0]}, seed %{customdata[1]}<br>%{customdata[2]}: "
                f"%{{x:{number}}}<extra></extra>",
                showlegend=False,
            )
        )
    for label in labels:
        rows = table[table["label"] == label]
        figure.add_trace(
            go.Scatter(
                x=rows["accuracy"],
                y=rows["group"].map(place) + shift[label],
                name=names[label],
                mode="markers",
                marker={"color": colours[label], "symbol": symbols[label], "size": 9},
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": rows["high"] - rows["accuracy"],
                    "arrayminus": rows["accuracy"] - rows["low"],
                    "color": colours[label],
                    "thickness": 1.5,
                    "width": 3,
                },
                customdata=rows[["group", "low", "high"]].to_numpy(object),
                hovertemplate=(
                    f"{label}<br>%{{customdata[0]}}: %{{x:{number}}}<br>bar from "
                    f"%{{customdata[1]:{number}}} to %{{customdata[2]:{number}}}<extra></extra>"
                ),
            )
        )
    figure.update_xaxes(title_text=measure, tickformat=".0%" if "%" in number else ".1f")
    figure.update_yaxes(**theme.named_rows(groups, width))
    height = theme.row_height(len(groups), max(34, 12 * len(labels) + 8), 124)
    # At once: one call of `add_hline` after another takes as long as all else here.
    between = {"type": "line", "xref": "x domain", "x0": 0, "x1": 1}
    return figure.update_layout(
        shapes=[
            {**between, "y0": row - 0.5, "y1": row - 0.5, "line": _SEPARATOR}
            for row in range(1, len(groups))
        ],
        height=height,
        margin=theme.room(groups, lines=0, width=width),
        hovermode="closest",
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
    )


def _with_several_seeds(points: pd.DataFrame | None) -> pd.DataFrame:
    """Return the points of labels with several seeds; a single seed lies under its label's mark."""
    if points is None:
        return pd.DataFrame()
    return points[points.groupby("label")["seed"].transform("nunique") > 1]


def _bar(row: Mapping[Any, Any], name: str, colour: str) -> dict[str, object] | None:
    """Return the error bar of one value of a row, None if the row has no interval of it."""
    low, high = row.get(f"{name}_low", np.nan), row.get(f"{name}_high", np.nan)
    if np.isnan(low) or np.isnan(high):
        return None
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - row[name]],
        "arrayminus": [row[name] - low],
        "color": colour,
        "thickness": 1.5,
        "width": 4,
    }


def _ranges(table: pd.DataFrame, seeds: pd.DataFrame) -> tuple[list[float], list[float]]:
    """Return both axis ranges with room for labels, inside 0 to 1 and a little."""

    def range_of(name: str) -> list[float]:
        columns = [table[each] for each in _ends(table, name)]
        columns += [seeds[name]] if len(seeds) else []
        known = pd.concat([table[name], *columns]).dropna()
        if known.empty:
            return [0.0, 1.0]
        pad = max(0.12 * (known.max() - known.min()), 0.02)
        return [max(float(known.min()) - pad, -0.02), min(float(known.max()) + pad, 1.02)]

    return range_of("average"), range_of("worst")


def _ends(table: pd.DataFrame, name: str) -> list[str]:
    return [column for column in (f"{name}_low", f"{name}_high") if column in table.columns]


def _front(table: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that no other run beats on both accuracies, by falling average."""
    rows = table.dropna(subset=["average", "worst"])
    rows = rows.sort_values(["average", "worst"], ascending=False)
    best = rows["worst"].cummax().shift(fill_value=-np.inf)
    return rows[rows["worst"] > best]


def _label_places(
    table: pd.DataFrame, seeds: pd.DataFrame, x_range: list[float], y_range: list[float]
) -> dict[object, str | None]:
    """Return where each run's label goes so that it covers no point, bar or other label.

    Sizes are in pixels of a small plot, the hardest case; None where there is no room, and the
    run is then named on hover only.
    """
    width, height, reach = 560.0, 340.0, 9.0

    def across(values: pd.Series) -> np.ndarray:
        return (values.to_numpy(float) - x_range[0]) / (x_range[1] - x_range[0]) * width

    def down(values: pd.Series) -> np.ndarray:
        return (y_range[1] - values.to_numpy(float)) / (y_range[1] - y_range[0]) * height

    x, y = across(table["average"]), down(table["worst"])
    boxes = [(u - 7, v - 7, u + 7, v + 7) for u, v in zip(x, y, strict=True)]
    if len(_ends(table, "worst")) == 2:
        ends = zip(x, down(table["worst_high"]), down(table["worst_low"]), strict=True)
        boxes += [(u - 4, top, u + 4, bottom) for u, top, bottom in ends]
    if len(_ends(table, "average")) == 2:
        ends = zip(y, across(table["average_low"]), across(table["average_high"]), strict=True)
        boxes += [(left, v - 4, right, v + 4) for v, left, right in ends]
    if len(seeds):
        each = zip(across(seeds["average"]), down(seeds["worst"]), strict=True)
        boxes += [(u - 3, v - 3, u + 3, v + 3) for u, v in each]
    places: dict[object, str | None] = {}
    labels = theme.shortened(table["label"])
    for u, v, index, label in zip(x, y, table.index, labels, strict=True):
        size = 7.0 * len(label)
        places[index] = None
        for vertical, horizontal in (
            ("middle", "right"),
            ("middle", "left"),
            ("top", "center"),
            ("bottom", "center"),
            ("top", "right"),
            ("bottom", "right"),
            ("top", "left"),
            ("bottom", "left"),
        ):
            left = {"right": u + reach, "left": u - reach - size, "center": u - size / 2}
            upper = {"top": v - reach - 14, "bottom": v + reach, "middle": v - 7}
            box = (left[horizontal], upper[vertical])
            box = (*box, box[0] + size, box[1] + 14)
            inside = (
                box[0] >= 0 and box[2] <= width + _LABEL_ROOM and box[1] >= -10 and box[3] <= height
            )
            if inside and not any(_overlap(box, other) for other in boxes):
                places[index] = f"{vertical} {horizontal}"
                boxes.append(box)
                break
    return places


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _run_text(row: Mapping[Any, Any], average_name: str) -> str:
    return (
        f"<b>{row['label']}</b> ({row['method']})<br>worst group {row['worst']:.1%}<br>"
        f"{average_name} {row['average']:.1%}"
    )


def _seed_text(row: Mapping[Any, Any], average_name: str) -> str:
    return (
        f"<b>{row['label']}</b>, seed {row['seed']}<br>worst group {row['worst']:.1%}<br>"
        f"{average_name} {row['average']:.1%}"
    )
