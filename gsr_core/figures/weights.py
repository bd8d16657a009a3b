"""Who gets the weight: its distribution, one sample's path, one sample's influence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from gsr_core.figures import theme

__all__ = ["sample_influence", "weight_distribution", "weight_path", "weight_share"]

QUANTILES = 512
LOWEST = 1e-4
"""Weights further below uniform than this are drawn at the left edge."""


def weight_share(
    data: Mapping[str, float],
    weight: Mapping[str, float],
    *,
    colours: Mapping[str, str] | None = None,
) -> go.Figure:
    """Draw each group's share of the weight beside its share of the data, one row a group.

    Answers: which groups did a method that weights only once put forward? The ring is the share of
    the data, the dot that of the weight; a line joins the two.

    Args:
        data: Fraction of the samples in each group, drawn from the top.
        weight: Fraction of all weight in each group.
        colours: Colour of each group, from `theme.group_colours`.
    """
    figure = go.Figure()
    names, colour = theme.names_of(pd.Series(list(data), dtype=object), colours)
    if not names:
        return theme.note(figure, "No weights to show.").update_layout(height=200)
    for name in names:
        ends = [data[name], weight.get(name, 0.0)]
        figure.add_trace(
            go.Scatter(
                x=ends,
                y=[theme.short(name)] * 2,
                name=theme.short(name),
                mode="lines+markers",
                line={"color": colour[name], "width": 3},
                marker={"color": colour[name], "size": 13, "symbol": ["circle-open", "circle"]},
                customdata=["data", "weight"],
                hovertemplate=f"{name}<br>%{{x:.1%}} of the %{{customdata}}<extra></extra>",
                showlegend=False,
            )
        )
    figure.update_xaxes(
        title_text="share: ring of the data, dot of the weight",
        rangemode="tozero",
        tickformat=".0%",
    )
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure.update_layout(height=120 + 36 * len(names))


def weight_distribution(
    weights: pd.DataFrame, *, n: int, colours: Mapping[str, str] | None = None
) -> go.Figure:
    """Draw how the weights are spread within each group, the zeros apart.

    Answers: which groups are weighted up, which down, and how many of their samples are dropped?
    Both panels share one axis, the fraction of the group's samples: bars are the samples at
    exactly zero, and from there each line rises to 100 % as the weight grows. A line further to
    the right has more weight. At most 512 points a line, whatever the number of samples.

    Args:
        weights: Columns group, weight (all weights sum to one), one row a weighted
            sample and group; a sample in two groups has two rows.
        n: Number of weighted samples; weights are drawn times n, so that 1 is uniform.
        colours: Colour of each group, from `theme.group_colours`.
    """
    names, colour = theme.names_of(weights["group"].unique(), colours)
    if not names:
        return theme.note(go.Figure(), "No weights to show.").update_layout(height=200)
    dashes = theme.group_dashes(colours or names)
    of = weights.groupby("group", sort=False)["weight"]
    lines, zeros, ends = [], {}, [0.5, 2.0]
    for name in names:
        relative = np.sort(of.get_group(name).to_numpy(float)) * n
        relative = relative[np.isfinite(relative)]
        if not len(relative):
            continue
        zero = float((relative <= 0).mean())
        positive = np.maximum(relative[relative > 0], LOWEST)
        if len(positive):
            share, value = _curve(positive, zero)
            ends += [float(value[0]), float(value[-1])]
        else:
            share, value = np.array([np.nan]), np.array([np.nan])
        zeros[name] = zero
        line = {
            "type": "scatter",
            "xaxis": "x2",
            "yaxis": "y2",
            "x": value,
            "y": share,
            "name": theme.short(name),
            "mode": "lines",
            "line": {"color": colour[name], "width": 2, "dash": dashes.get(name, "solid")},
            "hovertemplate": (
                f"{name}<br>%{{y:.1%}} of its samples have at most %{{x:.3~g}}× the uniform "
                "weight<extra></extra>"
            ),
        }
        lines.append(line)
    # In one trace, of which each costs a browser as much as drawing tens of bars.
    bars = {
        "type": "bar",
        "x": list(range(len(zeros))),
        "y": list(zeros.values()),
        "customdata": list(zeros),
        "marker": {"color": [colour[name] for name in zeros], "line": {"width": 0}},
        "hovertemplate": "%{customdata}<br>weight 0: %{y:.1%} of its samples<extra></extra>",
        "showlegend": False,
    }
    low, high = np.log10(min(ends)), np.log10(max(ends))
    pad = 0.05 * (high - low)
    shares = {"range": [0, 1.02], "tickformat": ".0%"}
    # In one go: a call for each trace and axis takes Plotly several times as long.
    return go.Figure(
        [bars, *lines],
        {
            "xaxis": {
                "anchor": "y",
                "domain": [0, 0.196],
                "title": {"text": "at zero"},
                "showticklabels": False,
            },
            "xaxis2": {
                "anchor": "y2",
                "domain": [0.216, 1],
                "title": {"text": "weight relative to uniform (log)"},
                "type": "log",
                "range": [low - pad, high + pad],
                **_times_ticks(min(ends), max(ends)),
            },
            "yaxis": {**shares, "anchor": "x", "title": {"text": "share of the group's samples"}},
            "yaxis2": {**shares, "anchor": "x2", "matches": "y", "showticklabels": False},
            "shapes": [
                {
                    "type": "line",
                    "xref": "x2",
                    "x0": 1,
                    "x1": 1,
                    "yref": "y2 domain",
                    "y0": 0,
                    "y1": 1,
                    "line": {"color": theme.MUTED, "width": 1.5, "dash": "dash"},
                }
            ],
            "annotations": [
                {
                    "text": "uniform",
                    "xref": "x2",
                    "x": 0,  # an annotation on a logarithmic axis is placed by exponent
                    "yref": "y2 domain",
                    "y": 1,
                    "yanchor": "bottom",
                    "showarrow": False,
                }
            ],
            "height": max(392, 112 + theme.legend_height(len(names))),
            "bargap": 0.15,
            "hovermode": "closest",
            "showlegend": True,
            "legend": {"x": 1.02, "y": 1, "yanchor": "top", "title": {"text": "group"}},
            "margin": theme.room(["100%"], legend=names),
        },
    )


def weight_path(
    path: pd.DataFrame, *, n: int, selected: int | None = None, colour: str | None = None
) -> go.Figure:
    """Draw one sample's weight over the steps, against uniform and against its group.

    Answers: when did this sample gain or lose its weight, and do others like it do the same?

    Args:
        path: Columns step, weight (all weights of a step sum to one); optionally low and high,
            the 10th and 90th percentile of the weights of the sample's group.
        n: Number of weighted samples; weights are drawn times n, so that 1 is uniform.
        selected: The kept step, or None.
        colour: Colour of the sample's group.
    """
    figure = go.Figure()
    if path.empty:
        return theme.note(figure, "No weights were stored over the steps.").update_layout(
            height=200
        )
    ordered = path.sort_values("step")
    step, line = ordered["step"], colour or theme.group_colours(["sample"])["sample"]
    if {"low", "high"} <= set(ordered.columns):
        figure.add_trace(
            go.Scatter(
                x=pd.concat([step, step[::-1]]),
                y=pd.concat([ordered["high"], ordered["low"][::-1]]) * n,
                name="its group, 10–90 %",
                mode="lines",
                fill="toself",
                fillcolor=theme.fade(line),
                line={"width": 0},
                hoverinfo="skip",
            )
        )
    figure.add_trace(
        go.Scatter(
            x=step,
            y=ordered["weight"] * n,
            name="this sample",
            mode="lines+markers" if len(ordered) <= 20 else "lines",
            line={"color": line, "width": 2.5},
            hovertemplate="step %{x}: %{y:.3~g}× the uniform weight<extra></extra>",
        )
    )
    first, last = int(step.min()), int(step.max())
    axis = theme.step_axis(first, last)
    figure.update_xaxes(axis)
    figure.update_yaxes(title_text="weight relative to uniform", ticksuffix="×", rangemode="tozero")
    figure.add_hline(y=1, line={"color": theme.MUTED, "width": 1.5, "dash": "dash"})
    figure.add_annotation(
        text="1 = uniform",
        x=1,
        xref="paper",
        xanchor="right",
        y=1,
        yanchor="bottom",
        showarrow=False,
    )
    if selected is not None:
        late = selected > (first + last) / 2
        figure.add_vline(x=selected, line={"color": theme.MUTED, "width": 1.5, "dash": "dot"})
        figure.add_annotation(
            text=f"kept step {selected}",
            x=selected,
            y=1,
            yref="paper",
            xanchor="right" if late else "left",
            yanchor="bottom",
            showarrow=False,
        )
    return figure.update_layout(
        height=300,
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 1.08, "yanchor": "bottom"},
        margin_t=64,
    )


def sample_influence(table: pd.DataFrame) -> go.Figure:
    """Draw whom more weight on one sample would help and harm, and how that compares with others.

    Answers: whom does this sample help and whom does it harm, more than others do? A bar is as long
    as the share of all samples whose influence is weaker, so that every sample, run and step is
    drawn on one scale. Blue bars to the left are negative: raising the weight lowers that group's
    loss. Orange bars to the right are positive.

    Args:
        table: Columns group, influence (derivative of the group's mean target loss by the
            sample's weight, nats), stronger_than (share of the samples whose influence is smaller
            in size). One row a group or goal, drawn from the top in this order.
    """
    figure = go.Figure()
    if table.empty:
        return theme.note(figure, "No influence was computed.").update_layout(height=160)
    value = table["influence"].to_numpy(dtype=float)
    share = np.where(np.isfinite(value), table["stronger_than"].to_numpy(dtype=float), 0.0)
    rows = list(range(len(table)))
    figure.add_trace(
        go.Bar(
            x=np.where(value < 0, -share, share),
            y=rows,
            orientation="h",
            marker={"color": [theme.HELPS if v < 0 else theme.HARMS for v in value]},
            text=[f"{v:+.3g}" if np.isfinite(v) else "not known" for v in value],
            textposition="outside",
            cliponaxis=False,
            customdata=np.column_stack([table["group"].astype(str), share]).astype(object),
            hovertemplate="%{customdata[0]}<br>%{text} nats per unit of weight<br>stronger than "
            "that of %{customdata[1]:.0%} of the samples<extra></extra>",
            showlegend=False,
        )
    )
    figure.update_xaxes(
        title_text=(
            "stronger than that of … of the samples<br>"
            "left (negative) = more weight lowers the loss; in numbers, nats per unit of weight"
        ),
        range=[-1.25, 1.25],
        tickvals=[-1, -0.5, 0, 0.5, 1],
        ticktext=["100%", "50%", "0", "50%", "100%"],
        zeroline=True,
        zerolinecolor=theme.MUTED,
    )
    figure.update_yaxes(
        tickvals=rows,
        ticktext=[theme.short(str(name)) for name in table["group"]],
        range=[len(table) - 0.5, -0.5],
        showgrid=False,
    )
    return figure.update_layout(height=theme.row_height(len(table), 32, 110), bargap=0.35)


def _curve(positive: np.ndarray, zero: float) -> tuple[np.ndarray, np.ndarray]:
    """Return shares of the group and the weights they lie below, from the share at zero up."""
    points = min(QUANTILES, len(positive) + 1)
    level = np.linspace(0, 1, points)
    return zero + (1 - zero) * level, np.quantile(positive, level)


def _times_ticks(low: float, high: float) -> dict[str, list[Any]]:
    """Return ticks at powers of ten, or at 1, 2 and 5 of each if those would be few."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    steps = (1, 2, 5) if high / low < 100 else (1,)
    values = [step * 10.0**power for power in powers for step in steps]
    return {"tickvals": values, "ticktext": [f"{value:g}×" for value in values]}
