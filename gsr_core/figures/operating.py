"""What other offsets between the classes of a head would do, and how well it knows itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from scipy.special import logit

from gsr_core.figures import theme

__all__ = ["errors_by_threshold", "reliability_curves", "scaling_path"]

_TICKS = (1e-4, 1e-3, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99, 0.999, 0.9999)
"""Probabilities that are named on an axis of log-odds."""
_ACROSS = 4
"""Panels in a row of small ones."""


def scaling_path(
    path: pd.DataFrame, points: pd.DataFrame, *, split: str, average_name: str
) -> go.Figure:
    """Draw worst-group against average accuracy as the classes' multipliers move.

    Answers: what does the worst group gain by other thresholds alone, and what does it cost?

    Args:
        path: Columns val_average, val_worst, average, worst (fractions; of val and of the split)
            and about (what the setting is), in the order in which they are joined.
        points: Columns point, average and worst with _low and _high, drawn with their intervals.
        split: On which the average and the worst are; val is drawn only once.
        average_name: Which average it is.
    """
    figure = go.Figure()
    lines = [(split, "", "solid", 2.5)]
    if split != "val":
        lines.append(("val, which chose", "val_", "dot", 1.5))
    for name, prefix, dash, width in lines:
        figure.add_trace(
            go.Scatter(
                x=path[f"{prefix}average"],
                y=path[f"{prefix}worst"],
                name=name,
                mode="lines+markers",
                line={"color": theme.MUTED, "dash": dash, "width": width},
                marker={"size": 4, "opacity": 0.6},
                customdata=path["about"],
                hovertemplate=f"{name}: worst group %{{y:.1%}}, {average_name} %{{x:.1%}}<br>"
                "%{customdata}<extra></extra>",
            )
        )
    colours, symbols = (
        theme.run_colours(list(points["point"])),
        theme.group_symbols(points["point"]),
    )
    for row in points.to_dict("records"):
        colour, symbol = colours[row["point"]], symbols[row["point"]]
        figure.add_trace(
            go.Scatter(
                x=[row["average"]],
                y=[row["worst"]],
                name=str(row["point"]),
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 13},
                **{
                    f"error_{axis}": {
                        "type": "data",
                        "symmetric": False,
                        "array": [row[f"{name}_high"] - row[name]],
                        "arrayminus": [row[name] - row[f"{name}_low"]],
                        "color": colour,
                        "thickness": 1.5,
                        "width": 4,
                    }
                    for axis, name in (("x", "average"), ("y", "worst"))
                },
                hovertemplate=f"<b>{row['point']}</b><br>worst group %{{y:.1%}} "
                f"[{row['worst_low']:.1%}, {row['worst_high']:.1%}]<br>{average_name} "
                f"%{{x:.1%}} [{row['average_low']:.1%}, {row['average_high']:.1%}]"
                "<extra></extra>",
            )
        )
    # The ends of the path, where one class takes all, would squeeze what matters into a corner.
    seen = path[path["worst"] >= points["worst_low"].min() - 0.1]
    ends = [points[f"average{end}"] for end in ("_low", "_high")]
    figure.update_xaxes(
        title_text=f"{average_name}, with 95 % interval",
        tickformat=".0%",
        range=theme.fraction_range([*seen["average"], *pd.concat(ends)], 0.1),
    )
    ends = [points[f"worst{end}"] for end in ("_low", "_high")]
    figure.update_yaxes(
        title_text="worst-group accuracy, with 95 % interval",
        tickformat=".0%",
        range=theme.fraction_range([*seen["worst"], *pd.concat(ends)], 0.1),
    )
    return figure.update_layout(
        height=420,
        margin={**theme.room(["100%"]), "t": 48},
        hovermode="closest",
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    )


def errors_by_threshold(
    curve: pd.DataFrame,
    *,
    threshold: float,
    positive: str,
    colours: Mapping[str, str] | None = None,
) -> go.Figure:
    """Draw which share of each group is wrong as the threshold between two classes moves.

    Answers: which groups pay for another threshold, and which gain?

    Args:
        curve: Columns group, log_odds (of the threshold, rising within a group), threshold and
            wrong (fractions).
        threshold: The one that was chosen, in (0, 1); marked, as is 1/2.
        positive: The class that the threshold is on.
        colours: Colour of each group, from `theme.group_colours`.
    """
    figure = go.Figure()
    if curve.empty:
        return theme.note(figure, "No groups to show.").update_layout(height=160)
    names, colour = theme.names_of(curve["group"], colours)
    dashes = theme.group_dashes(names)
    figure.add_traces(
        [
            go.Scatter(
                x=rows["log_odds"],
                y=rows["wrong"],
                name=theme.short(str(name)),
                mode="lines",
                # Errors are counts: between two thresholds nothing is known of a slope.
                line={"color": colour[name], "dash": dashes[name], "width": 2, "shape": "hv"},
                customdata=rows["threshold"],
                hovertemplate=f"<b>{name}</b><br>%{{y:.1%}} wrong from %{{customdata:.3f}} on"
                "<extra></extra>",
            )
            for name in names
            for rows in (curve[curve["group"] == name],)
        ]
    )
    low, high = float(curve["log_odds"].min()), float(curve["log_odds"].max())
    at = float(logit(np.clip(threshold, 1e-12, 1 - 1e-12)))
    for place, text, line, anchor in (
        (0.0, "0.5", {"color": theme.MUTED, "width": 1.5, "dash": "dash"}, at < 0),
        (at, f"chosen: {threshold:.3g}", {"color": theme.ACCENT, "width": 2}, at >= 0),
    ):
        figure.add_vline(x=place, line=line)
        figure.add_annotation(
            text=f" {text} ",
            x=place,
            y=1,
            yref="paper",
            xanchor="left" if anchor else "right",
            yanchor="bottom",
        )
    ticks = [each for each in _TICKS if low <= math.log(each / (1 - each)) <= high]
    figure.update_xaxes(
        title_text=f"probability of {theme.short(positive)} from which it is predicted",
        tickvals=[float(logit(each)) for each in ticks],
        ticktext=[f"{each:g}" for each in ticks],
        range=[low, high],
    )
    figure.update_yaxes(
        title_text="share of the group that is wrong", tickformat=".0%", rangemode="tozero"
    )
    return figure.update_layout(
        height=max(400, theme.legend_height(len(names)) + 110),
        margin={**theme.room(["100%"], legend=names), "t": 36},
        hovermode="closest",
        showlegend=True,
        legend={"x": 1.02, "y": 1, "yanchor": "top", "title": {"text": "group"}},
    )


def reliability_curves(
    table: pd.DataFrame, notes: Mapping[str, str], *, colours: Mapping[str, str] | None = None
) -> go.Figure:
    """Draw each group's accuracy against its confidence, a small panel a group.

    Answers: where is the head too sure or not sure enough, and is that more than chance? The grey
    band is what a calibrated head shows 95 times in 100; a mark outside it has a ring.

    Args:
        table: Columns group, n (rows of the bin), confidence, accuracy, low and high (fractions;
            the band), confidence rising within a group. Panels are drawn row by row in the order
            in which groups appear.
        notes: What is said below the name of a group.
        colours: Colour of each group, from `theme.group_colours`; the default has one for all.
    """
    names: Sequence[str] = list(dict.fromkeys(table["group"]))
    if not names:
        return theme.note(go.Figure(), "No group is chosen.").update_layout(height=160)
    across = min(_ACROSS, len(names))
    down = -(-len(names) // across)
    height = 110 + 230 * down
    figure = make_subplots(
        rows=down,
        cols=across,
        specs=[
            [{} if row * across + column < len(names) else None for column in range(across)]
            for row in range(down)
        ],
        horizontal_spacing=0.03,
        vertical_spacing=70 / height,
        subplot_titles=[f"<b>{theme.short(str(name))}</b><br>{notes[name]}" for name in names],
    )
    figure.update_annotations(font_size=11)
    traces = []
    for place, name in enumerate(names):
        rows = table[table["group"] == name]
        axes = {"xaxis": f"x{place + 1}", "yaxis": f"y{place + 1}", "showlegend": False}
        colour = (colours or {}).get(name, theme.HELPS)
        outside = (rows["accuracy"] < rows["low"]) | (rows["accuracy"] > rows["high"])
        edge, low, high = (rows[each].to_numpy() for each in ("confidence", "low", "high"))
        if len(rows) == 1:
            # A band of no width would not be seen.
            edge = edge + np.array([-0.01, 0.01])
            low, high = np.repeat(low, 2), np.repeat(high, 2)
        traces += [
            go.Scatter(
                x=[0, 1],
                y=[0, 1],
                mode="lines",
                line={"color": theme.MUTED, "width": 1, "dash": "dot"},
                hoverinfo="skip",
                **axes,
            ),
            go.Scatter(
                x=[*edge, *edge[::-1]],
                y=[*low, *high[::-1]],
                mode="lines",
                line={"width": 0},
                fill="toself",
                fillcolor=theme.fade(theme.MUTED, 0.25),
                hoverinfo="skip",
                **axes,
            ),
            go.Scatter(
                x=rows["confidence"],
                y=rows["accuracy"],
                mode="lines+markers",
                line={"color": colour, "width": 1.5},
                marker={
                    "color": colour,
                    "size": np.where(outside, 9, 6),
                    "line": {"color": theme.ACCENT, "width": np.where(outside, 2, 0)},
                },
                customdata=rows[["n", "low", "high"]].to_numpy(),
                hovertemplate=f"<b>{name}</b><br>%{{x:.1%}} sure, %{{y:.1%}} right<br>"
                "%{customdata[0]} samples; a calibrated head has %{customdata[1]:.1%} to "
                "%{customdata[2]:.1%}<extra></extra>",
                **axes,
            ),
        ]
    figure.add_traces(traces)
    # The same on all, so that a look tells panels apart; named only at the edges of the grid.
    sure = float(table["confidence"].min())
    least = min(sure, float(table["accuracy"].min()))
    figure.update_layout(height=height, margin={"t": 64, "r": 24}, hovermode="closest")
    for place in range(len(names)):
        figure.layout[f"xaxis{place + 1}"].update(
            range=[max(sure - 0.03, -0.02), 1.02],
            tickformat=".0%",
            matches="x",
            showticklabels=place + across >= len(names),
            title_text="confidence" if place + across >= len(names) else "",
        )
        figure.layout[f"yaxis{place + 1}"].update(
            range=[max(least - 0.03, -0.02), 1.03],
            tickformat=".0%",
            matches="y",
            showticklabels=place % across == 0,
            title_text="accuracy" if place % across == 0 else "",
        )
    return figure
