"""A search over settings: how far it has come, and which settings did well."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from gsr_core.figures import theme

__all__ = ["best_so_far", "parallel_settings"]

_FEW_DECADES = 2
"""Up to so many powers of ten an axis also has ticks at 2 and 5."""


def best_so_far(
    table: pd.DataFrame, trials: int, *, score_name: str = "score", winner: int | None = None
) -> go.Figure:
    """Draw each trial's score, and the best one up to each trial.

    Answers: is the search still finding better settings, or has it levelled off?

    Args:
        table: Columns trial (counted from one), score (fraction, NaN if it failed), text (what to
            say of it). May be empty.
        trials: How many there will be; the axis is as long.
        score_name: What a score is; it is printed on the axis.
        winner: The trial that is marked, or None.
    """
    figure = go.Figure()
    if table.empty:
        theme.note(figure, "Waiting for the first trial.")
        return figure.update_layout(height=280)
    table = table.sort_values("trial")
    known = table[table["score"].notna()]
    failed = table[table["score"].isna()]
    best = known["score"].cummax()
    span = theme.fraction_range(known["score"], least=0.1)
    # The line goes on to the last trial, whatever became of that.
    figure.add_trace(
        go.Scatter(
            x=[*known["trial"], *table["trial"].tail(1)] if len(known) else [],
            y=[*best, *best.tail(1)],
            mode="lines",
            name="best so far",
            line={"color": theme.ACCENT, "width": 2, "shape": "hv"},
            hoverinfo="skip",
        )
    )
    figure.add_trace(
        _dots(known, known["score"], "one trial", {"color": theme.HELPS, "size": 8, "opacity": 0.8})
    )
    if len(failed):
        marker = {"color": theme.MUTED, "symbol": "x-thin-open", "size": 9}
        figure.add_trace(_dots(failed, [span[0]] * len(failed), "failed", marker))
    best_trial = known[known["trial"] == winner]
    if len(best_trial):
        marker = {"color": theme.ACCENT, "symbol": "star", "size": 15}
        figure.add_trace(_dots(best_trial, best_trial["score"], f"winner, trial {winner}", marker))
    figure.update_xaxes(theme.step_axis(1, max(trials, int(table["trial"].max()))))
    figure.update_xaxes(title_text="trial")
    figure.update_yaxes(title_text=score_name, range=span, tickformat=".0%")
    return figure.update_layout(
        height=320,
        hovermode="closest",
        legend={"orientation": "h", "x": 0, "y": 1.03, "yanchor": "bottom"},
    )


def _dots(
    rows: pd.DataFrame, y: Sequence[float] | pd.Series, name: str, marker: dict[str, object]
) -> go.Scatter:
    return go.Scatter(
        x=rows["trial"],
        y=y,
        mode="markers",
        name=name,
        marker=marker,
        hovertext=rows["text"],
        hovertemplate="%{hovertext}<extra></extra>",
        cliponaxis=False,
    )


def parallel_settings(
    table: pd.DataFrame,
    settings: Sequence[str],
    *,
    log: Collection[str] = (),
    choices: Mapping[str, Sequence[object]] | None = None,
    score_name: str = "score",
) -> go.Figure:
    """Draw each trial as a line over its settings to its score, which is also its colour.

    Answers: which settings do the good trials share, and which do not matter?

    Args:
        table: Columns score (fraction, NaN if it failed; those are left out) and `settings`.
        settings: Columns to draw, from the left.
        log: Those on a logarithmic axis.
        choices: The values of those that are chosen from a few, from the bottom.
        score_name: What a score is; it heads the last axis.
    """
    known = table[table["score"].notna()]
    if known.empty:
        figure = theme.note(go.Figure(), "No trial has a score yet.")
        return figure.update_layout(height=200)
    axes = []
    for name in settings:
        if name in (choices or {}):
            axis = _choice_axis(known[name], (choices or {})[name])
        elif name in log:
            axis = _log_axis(known[name].astype(float))
        else:
            axis = {"values": known[name].astype(float)}
        axes.append({"label": name.replace("_", " "), **axis})
    low, high = float(known["score"].min()), float(known["score"].max())
    # Equal scores would have no range to be drawn in.
    ends = [low, high] if high > low else [low - 0.05, high + 0.05]
    score = {"values": known["score"], "range": ends, "tickformat": ".1%"}
    axes.append({"label": score_name, **score})
    figure = go.Figure(
        go.Parcoords(
            dimensions=axes,
            line={
                "color": known["score"],
                "colorscale": theme.SEQUENTIAL,
                "cmin": ends[0],
                "cmax": ends[1],
            },
            unselected={"line": {"color": theme.MUTED, "opacity": 0.12}},
            labelfont={"size": 13},
            tickfont={"size": 12},
            # The ends of an axis are ticks already, in their own words.
            rangefont={"size": 1, "color": "rgba(0,0,0,0)"},
        )
    )
    return figure.update_layout(height=380, margin={"l": 64, "r": 90, "t": 56, "b": 24})


def _choice_axis(values: pd.Series, choices: Sequence[object]) -> dict[str, object]:
    text = [str(choice) for choice in choices]
    place = {choice: at for at, choice in enumerate(text)}
    return {
        "values": [place[str(value)] for value in values],
        "tickvals": list(range(len(text))),
        "ticktext": text,
        "range": [-0.1, max(len(text) - 1, 0) + 0.1],
    }


def _log_axis(values: pd.Series) -> dict[str, object]:
    powers = np.log10(values.to_numpy())
    low, high = math.floor(powers.min() * 10) / 10, math.ceil(powers.max() * 10) / 10
    steps = (1, 2, 5) if high - low <= _FEW_DECADES else (1,)
    ticks = [
        step * 10.0**power
        for power in range(math.floor(low), math.ceil(high) + 1)
        for step in steps
        if low - 1e-9 <= math.log10(step) + power <= high + 1e-9
    ]
    return {
        "values": powers,
        "tickvals": [math.log10(tick) for tick in ticks],
        "ticktext": [f"{tick:g}" for tick in ticks],
        "range": [low, high if high > low else low + 0.1],
    }
