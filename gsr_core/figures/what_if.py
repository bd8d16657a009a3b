"""What an edit of a run's rows did to each group, and what influence predicted of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from gsr_core.figures import theme
from gsr_core.figures.scatter import legend_keys

__all__ = ["group_changes", "predicted_against_happened"]

_MEASURES = {
    "accuracy": ("change", "low", "high", "change of accuracy, pp", "+~f", "+.1f", " pp"),
    "loss": (
        "loss_change",
        "loss_low",
        "loss_high",
        "change of loss, nats",
        "+.2~f",
        "+.3f",
        " nats",
    ),
}
"""By measure: the columns of the change and its interval, the axis, and how numbers are written."""


def group_changes(
    table: pd.DataFrame,
    *,
    measure: Literal["accuracy", "loss"] = "accuracy",
    chance: pd.DataFrame | None = None,
) -> go.Figure:
    """Draw how an edit changed each group, with its interval.

    Answers: whom does the edit help, whom does it cost, and is that more than chance? Blue is
    better and orange worse, by the verdict on the accuracy and by the interval of the loss; grey is
    not to be told from no change. Bars behind are the changes that random rows bring.

    Args:
        table: Columns group and, by the measure, change, low and high (fractions) or loss_change,
            loss_low and loss_high (nats), NaN for a group without samples; and verdict. Drawn from
            the top.
        measure: Which of the two.
        chance: Columns group, low, high: between which 95 of 100 random edits change the measure.
    """
    figure = go.Figure()
    value, low, high, title, ticks, exact, unit = _MEASURES[measure]
    table = table.dropna(subset=[value])
    if table.empty:
        return theme.note(figure, "No group has samples here.").update_layout(height=200)
    if measure == "accuracy":
        table = theme.in_points(table, value, low, high)
        chance = None if chance is None else theme.in_points(chance, "low", "high")
    groups = list(table["group"])
    place = {group: row for row, group in enumerate(groups)}
    figure.add_vline(x=0, line={"color": theme.MUTED, "width": 1})
    if chance is not None:
        known = chance[chance["group"].isin(groups)]
        figure.add_trace(
            go.Bar(
                x=known["high"] - known["low"],
                base=known["low"],
                y=known["group"].map(place),
                orientation="h",
                width=0.6,
                name="95 of 100 random edits",
                marker={"color": theme.fade(theme.MUTED, 0.3)},
                customdata=known[["group", "low", "high"]].to_numpy(object),
                hovertemplate=f"%{{customdata[0]}}, random rows: %{{customdata[1]:{exact}}} to "
                f"%{{customdata[2]:{exact}}}{unit}<extra></extra>",
            )
        )
    if measure == "accuracy":
        better, worse = table["verdict"] == "better", table["verdict"] == "worse"
    else:
        better, worse = table[high] < 0, table[low] > 0
    for name, rows, colour in (
        ("better", table[better], theme.HELPS),
        ("worse", table[worse], theme.HARMS),
        ("not beyond chance", table[~(better | worse)], theme.NEUTRAL),
    ):
        if rows.empty:
            continue
        figure.add_trace(
            go.Scatter(
                x=rows[value],
                y=rows["group"].map(place),
                name=name,
                mode="markers",
                marker={"color": colour, "size": 10},
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": rows[high] - rows[value],
                    "arrayminus": rows[value] - rows[low],
                    "color": colour,
                    "thickness": 1.5,
                    "width": 4,
                },
                customdata=rows[["group", low, high]].to_numpy(object),
                hovertemplate=f"<b>%{{customdata[0]}}</b><br>%{{x:{exact}}}{unit}, 95 % interval "
                f"%{{customdata[1]:{exact}}} to %{{customdata[2]:{exact}}}<extra></extra>",
            )
        )
    figure.update_xaxes(title_text=title, tickformat=ticks)
    figure.update_yaxes(**theme.named_rows(groups))
    return figure.update_layout(
        height=theme.row_height(len(groups), 34, 134),
        margin=theme.room(groups, lines=0),
        hovermode="closest",
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
    )


def predicted_against_happened(
    table: pd.DataFrame,
    *,
    cloud: pd.DataFrame | None = None,
    colours: Mapping[str, str] | None = None,
) -> go.Figure:
    """Draw the change of each group's loss that influence predicted against what happened.

    Answers: can the influence be believed, and do these rows differ from random ones? On the dotted
    line both are equal. Large marks are the edit, small ones the same edit of random rows.

    Args:
        table: Columns group, predicted, loss_change, loss_low, loss_high (nats); NaN for a group
            without samples.
        cloud: Columns group, predicted, loss_change: one row a random subset and group.
        colours: Colour of each group, from `theme.group_colours`.
    """
    figure = go.Figure()
    table = table.dropna(subset=["loss_change"])
    if table.empty:
        return theme.note(figure, "No group has samples here.").update_layout(height=200)
    names, colour = theme.names_of(table["group"], colours)
    every = [table] if cloud is None else [table, cloud]
    # Only as far as predictions go: what happened may be many times as much.
    ends = np.concatenate([part["predicted"].to_numpy(float) for part in every])
    line = [min(float(ends.min()), 0.0), max(float(ends.max()), 0.0)]
    figure.add_trace(
        go.Scatter(
            x=line,
            y=line,
            mode="lines",
            name="as predicted",
            line={"color": theme.MUTED, "width": 1, "dash": "dot"},
            hoverinfo="skip",
        )
    )
    if cloud is not None:
        codes, marker = theme.category_codes(cloud["group"], colour)
        figure.add_trace(
            go.Scattergl(
                x=cloud["predicted"].to_numpy(np.float32),
                y=cloud["loss_change"].to_numpy(np.float32),
                mode="markers",
                name="random rows",
                marker={**marker, "color": codes, "size": 5, "opacity": 0.35},
                hoverinfo="skip",
                showlegend=False,
            )
        )
    figure.add_trace(
        go.Scatter(
            x=table["predicted"],
            y=table["loss_change"],
            mode="markers",
            name="this edit",
            marker={
                "color": table["group"].map(colour),
                "size": 12,
                "line": {"color": theme.MUTED, "width": 1},
            },
            error_y={
                "type": "data",
                "symmetric": False,
                "array": table["loss_high"] - table["loss_change"],
                "arrayminus": table["loss_change"] - table["loss_low"],
                "color": theme.MUTED,
                "thickness": 1,
                "width": 3,
            },
            customdata=table[["group", "loss_low", "loss_high"]].to_numpy(object),
            hovertemplate="<b>%{customdata[0]}</b><br>predicted %{x:+.3f} nats<br>happened "
            "%{y:+.3f}, 95 % interval %{customdata[1]:+.3f} to %{customdata[2]:+.3f}"
            "<extra></extra>",
            showlegend=False,
        )
    )
    figure.add_traces(legend_keys(names, colour))
    figure.update_xaxes(title_text="change of loss that influence predicts, nats", zeroline=True)
    figure.update_yaxes(title_text="change of loss that happened, nats", zeroline=True)
    return figure.update_layout(
        height=420,
        margin={**theme.room(["+0.00"]), "t": 40},
        hovermode="closest",
        showlegend=True,
        legend={
            "orientation": "h",
            "x": 0,
            "y": 1.02,
            "yanchor": "bottom",
            "itemclick": False,
            "itemdoubleclick": False,
        },
    )
