"""Two methods at a time: differences over seeds, and weight against weight."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from gsr_core.figures import theme
from gsr_core.figures.scatter import legend_keys

__all__ = ["paired_differences", "weight_against_weight"]

_VERDICTS = {
    "better": (theme.HELPS, "circle"),
    "worse": (theme.HARMS, "circle"),
    "not distinguishable": (theme.NEUTRAL, "circle"),
    "same on every seed": (theme.MUTED, "diamond-open"),
    "add seeds": (theme.MUTED, "circle-open"),
}
"""Colour and symbol of each verdict on a difference."""


def paired_differences(
    table: pd.DataFrame,
    points: pd.DataFrame,
    *,
    reference: str,
    score: str = "worst-group accuracy",
) -> go.Figure:
    """Draw how much better or worse than a reference each method is, over the seeds they share.

    Answers: is the difference more than the luck of the draw? An interval that contains zero
    is not distinguishable from none and drawn grey.

    Args:
        table: Columns entry, difference, low, high (fractions, 95 % intervals, NaN where there is
            none), verdict. One row a method and setting, drawn from the top.
        points: Columns entry, seed, difference: every shared seed, drawn faintly.
        reference: What is subtracted.
        score: Which accuracy it is.
    """
    figure = go.Figure()
    if table["difference"].isna().all():
        text = "No seed is shared with the reference."
        return theme.note(figure, text).update_layout(height=200)
    table = theme.in_points(table, "difference", "low", "high")
    points = theme.in_points(points, "difference")
    entries = list(table["entry"])
    place = {entry: row for row, entry in enumerate(entries)}
    figure.add_vline(x=0, line={"color": theme.MUTED, "width": 1})
    figure.add_trace(
        go.Scatter(
            x=points["difference"],
            y=points["entry"].map(place),
            mode="markers",
            name="one seed",
            marker={"color": theme.MUTED, "size": 6, "opacity": 0.45},
            customdata=points[["entry", "seed"]].to_numpy(object),
            hovertemplate="%{customdata[0]}, seed %{customdata[1]}: %{x:+.1f} pp<extra></extra>",
        )
    )
    for verdict, (colour, symbol) in _VERDICTS.items():
        rows = table[table["verdict"] == verdict]
        if rows.empty:
            continue
        figure.add_trace(
            go.Scatter(
                x=rows["difference"],
                y=rows["entry"].map(place),
                name=verdict,
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 10},
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": rows["high"] - rows["difference"],
                    "arrayminus": rows["difference"] - rows["low"],
                    "color": colour,
                    "thickness": 1.5,
                    "width": 4,
                },
                customdata=rows[["entry", "low", "high"]].to_numpy(object),
                hovertemplate="<b>%{customdata[0]}</b><br>%{x:+.1f} pp, 95 % interval "
                "%{customdata[1]:+.1f} to %{customdata[2]:+.1f}<extra></extra>"
                if rows["low"].notna().all()
                else "<b>%{customdata[0]}</b><br>%{x:+.1f} pp, no interval<extra></extra>",
            )
        )
    figure.update_xaxes(title_text=f"{score} above {theme.short(reference)}, pp", tickformat="+~f")
    figure.update_yaxes(**theme.named_rows(entries))
    return figure.update_layout(
        height=theme.row_height(len(entries), 30, 134),
        margin=theme.room(entries, lines=0),
        hovermode="closest",
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
    )


def weight_against_weight(
    table: pd.DataFrame,
    *,
    label_a: str,
    label_b: str,
    value_a: str = "weight",
    value_b: str = "weight",
    correlation: float | None = None,
    colours: Mapping[str, str] | None = None,
) -> go.Figure:
    """Draw each sample's weight under one run against its weight under another.

    Answers: do two runs weight the same samples up, and where do they differ? Both axes are
    logarithmic; samples at exactly zero stand on a margin of their own, marked 0. A picked
    point's index is its row in `table`, its `customdata` the sample's id.

    Args:
        table: Columns sample_id, group, weight_a, weight_b (relative to uniform: weight times
            the number of samples). One row a sample.
        label_a: Name of the run on the horizontal axis.
        label_b: Name of the run on the vertical axis.
        value_a: What the first run's values are, in the singular.
        value_b: What those of the other are.
        correlation: Rank correlation of the two, printed above.
        colours: Colour of each group, from `theme.group_colours`.
    """
    figure = go.Figure()
    if table.empty:
        return theme.note(figure, "No samples in common.").update_layout(height=200)
    names, colour = theme.names_of(table["group"], colours)
    codes, marker = theme.category_codes(table["group"], colour)
    a, b = table["weight_a"].to_numpy(float), table["weight_b"].to_numpy(float)
    positive = np.concatenate([a[a > 0], b[b > 0], [1.0]])
    low, high = np.log10(positive.min()), np.log10(positive.max())
    low, high = min(max(low, -5.0), high - 0.3), high + 0.05
    gap = 0.1 * (high - low)
    margin = low - gap
    few = len(table) <= 5_000
    figure.add_trace(
        go.Scattergl(
            x=_log_or_margin(a, low, margin),
            y=_log_or_margin(b, low, margin),
            customdata=table["sample_id"].to_numpy(),
            text=[
                f"{group}<br>{theme.short(label_a)}: {left:.3g}×<br>"
                f"{theme.short(label_b)}: {right:.3g}×"
                for group, left, right in zip(table["group"], a, b, strict=True)
            ]
            if few
            else None,
            mode="markers",
            marker={**marker, "color": codes, "size": 6 if few else 4, "opacity": 0.6},
            hovertemplate="%{customdata}" + ("<br>%{text}" if few else "") + "<extra></extra>",
            showlegend=False,
        )
    )
    figure.add_traces(legend_keys(names, colour))
    faint = {"color": theme.MUTED, "width": 1, "dash": "dot"}
    figure.add_shape(type="line", x0=low, y0=low, x1=high, y1=high, line=faint)
    edge = low - gap / 2
    for line in ({"x0": edge, "x1": edge}, {"y0": edge, "y1": edge}):
        across = {"y0": margin - gap / 2, "y1": high} if "x0" in line else {}
        along = {"x0": margin - gap / 2, "x1": high} if "y0" in line else {}
        figure.add_shape(type="line", **line, **across, **along, line={**faint, "dash": "solid"})
    axis = {
        **_log_ticks(low, high, margin),
        "range": [margin - gap / 2, high + gap / 4],
        "zeroline": False,
    }
    both = int(((a == 0) & (b == 0)).sum())
    known = correlation is not None and not np.isnan(correlation)
    notes = [f"rank correlation {correlation:.2f}"] if known else []
    notes += [f"{both:,} samples have 0 in both"] if both else []
    figure.add_annotation(
        text=" · ".join(notes),
        x=0,
        y=1,
        xref="paper",
        yref="paper",
        xanchor="left",
        yanchor="bottom",
        showarrow=False,
    )
    figure.update_xaxes(
        title_text=f"{theme.short(label_a, 40)}: {value_a} relative to uniform", **axis
    )
    figure.update_yaxes(
        title_text=f"{theme.short(label_b, 40)}: {value_b} relative to uniform", **axis
    )
    return figure.update_layout(
        height=520,
        dragmode="lasso",
        hovermode="closest",
        showlegend=True,
        legend={
            "x": 1.02,
            "y": 1,
            "yanchor": "top",
            "title": {"text": "group"},
            "itemclick": False,
            "itemdoubleclick": False,
        },
    )


def _log_or_margin(values: np.ndarray, low: float, margin: float) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(values > 0, np.maximum(np.log10(values), low), margin).astype(np.float32)


def _log_ticks(low: float, high: float, margin: float) -> dict[str, list[object]]:
    """Return ticks at 0 and at powers of ten, or at 1, 2 and 5 of each if those are few."""
    powers = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    steps = (1, 2, 5) if high - low < 2.5 else (1,)
    values = [step * 10.0**power for power in powers for step in steps]
    values = [value for value in values if low <= np.log10(value) <= high]
    return {
        "tickvals": [margin, *(float(np.log10(value)) for value in values)],
        "ticktext": ["0", *(f"{value:g}×" for value in values)],
    }
