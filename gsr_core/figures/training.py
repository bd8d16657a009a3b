"""How a run went, step by step: weights, effective sample sizes, worst-group accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from gsr_core.figures import theme

__all__ = [
    "effective_sample_size",
    "group_weight_over_steps",
    "left_out_over_steps",
    "live_worst_group",
    "loss_terms_over_steps",
    "skipped_terms_over_steps",
    "weight_share_over_steps",
]

MANY_GROUPS = 8
"""Above this, reference lines are drawn as marks at the edge and hover names one line."""

_TERMS = {
    "clip_term": "images and captions",
    "class_term": "between classes",
    "group_term": "between groups",
    "text_class_term": "words, between classes",
    "text_group_term": "words, between groups",
}
"""What the terms of a loss are called, by their metric."""

_LEGEND = {"x": 1.02, "y": 1, "yanchor": "top", "title": {"text": "group"}}


def weight_share_over_steps(
    history: pd.DataFrame,
    data_share: Mapping[str, float],
    selected: int | None,
    *,
    at: int | None = None,
    colours: Mapping[str, str] | None = None,
) -> go.Figure:
    """Draw who gets the weight as a run goes on, above what that does to the worst group.

    Answers: which groups gain weight against their share of the data, and at which step is the
    worst group served best?

    Args:
        history: Columns step, split, group, metric, value. Read are `weight_sum` per
            group (fraction of all weight) and `worst_group_accuracy` of group "" (fraction).
            With a column sd, values are means and a band shows one standard deviation.
        data_share: Fraction of the weighted samples in each group, drawn dashed; with many
            groups, as a mark at the right edge.
        selected: The kept step, marked by a line, or None.
        at: Another step to mark, or None.
        colours: Colour of each group, from `theme.group_colours`.
    """
    shares = _of(history, "weight_sum")
    worst = _of(history, "worst_group_accuracy")
    worst = worst[worst["split"].isin(list(theme.SPLIT_LINES))]
    first, last = _ends(pd.concat([shares, worst]))
    names, colour = theme.names_of(shares["group"], colours)
    top, bottom, gap = max(300, theme.legend_height(len(names) + 1)), 180, 30
    panels = top + bottom + gap
    traces = _group_traces(shares, names, colour, colours, hover=".1%")
    traces += _references(names, colour, data_share, first, last)
    below = {"xaxis": "x2", "yaxis": "y2", "legend": "legend2"}
    traces += [{**trace, **below} for trace in _worst_traces(worst)]
    steps = theme.step_axis(first, last)
    # In one go: a call for each trace and axis takes Plotly several times as long.
    figure = go.Figure(
        traces,
        {
            "xaxis": {
                **steps,
                "title": None,
                "anchor": "y",
                "matches": "x2",
                "showticklabels": False,
            },
            "xaxis2": {**steps, "anchor": "y2"},
            "yaxis": {
                **theme.PERCENT_AXIS,
                "anchor": "x",
                "domain": [1 - top / panels, 1],
                "title": {"text": "share of weight"},
            },
            "yaxis2": {
                "anchor": "x2",
                "domain": [0, bottom / panels],
                "title": {"text": "worst-group<br>accuracy"},
                "range": theme.fraction_range(worst["value"]),
                "tickformat": ".0%",
            },
            "height": panels + 102,
            "hovermode": _hovermode(len(names)),
            "legend": _LEGEND,
            "legend2": {
                "x": 1.02,
                "y": bottom / panels,
                "yanchor": "top",
                "title": {"text": "worst group of", "font": {"size": 12}},
                "bgcolor": "rgba(0,0,0,0)",
                "font": {"size": 12},
            },
            "margin": theme.room(["100%"], lines=2, legend=[*names, "worst group of"]),
        },
    )
    if selected is not None:
        _mark_step(figure, f"kept step {selected}", selected, first, last)
    if at is not None and at != selected:
        _mark_step(figure, f"step {at}", at, first, last, dash="solid", ink=theme.ACCENT)
    if shares.empty:
        figure.add_annotation(
            text="This method learns no weight per sample.",
            xref="paper",
            yref="paper",
            x=0.5,
            y=1 - top / panels / 2,
            showarrow=False,
        )
    return figure


def live_worst_group(
    history: pd.DataFrame, steps: int, *, selected: int | None = None
) -> go.Figure:
    """Draw worst-group accuracy so far, on an axis as long as the whole run.

    Answers: is the run going well, and is it still worth waiting?

    Args:
        history: Columns step, split, group, metric, value; `worst_group_accuracy` of group ""
            (fraction). May be empty.
        steps: How many steps the run will take at most.
        selected: The step that would be kept now, or None.
    """
    worst = _of(history, "worst_group_accuracy")
    # The test split should steer nothing, so it is not drawn while a run goes on.
    worst = worst[worst["split"].isin(["target", "val"])]
    figure = go.Figure()
    if worst.empty:
        theme.note(figure, "Waiting for the first step.")
    else:
        figure.add_traces(_worst_traces(worst))
        if selected is not None:
            _mark_step(figure, f"best so far: step {selected}", selected, 1, max(steps, 1))
        span = theme.fraction_range(worst["value"])
        figure.update_yaxes(title_text="worst-group accuracy", range=span, tickformat=".0%")
    figure.update_xaxes(theme.step_axis(1, max(steps, 1)))
    return figure.update_layout(
        height=280,
        hovermode="x unified",
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.14, "yanchor": "bottom"},
        margin_t=64,
    )


def effective_sample_size(
    history: pd.DataFrame,
    counts: Mapping[str, int],
    *,
    selected: int | None = None,
    colours: Mapping[str, str] | None = None,
) -> go.Figure:
    r"""Draw how many of a group's samples its weights amount to, :math:`(\sum w)^2 / \sum w^2`.

    Answers: do the weights rest on a few samples? 100 % is the same weight for all of a group's
    samples; 10 % is as good as having a tenth of them.

    Args:
        history: Columns step, split, group, metric, value; `effective_sample_size` per
            group (samples).
        counts: Number of weighted samples in each group.
        selected: The kept step, or None.
        colours: Colour of each group, from `theme.group_colours`.
    """
    sizes = _of(history, "effective_sample_size")
    sizes = sizes[sizes["group"] != ""]
    count = sizes["group"].map(dict(counts)).astype(float)
    shares = sizes.assign(value=sizes["value"] / count.where(count > 0))
    axis = {"range": [0, 1.03], "tickformat": ".0%"}
    return _group_lines(shares, selected, colours, "effective sample size", ".1%", axis)


def group_weight_over_steps(
    history: pd.DataFrame,
    *,
    selected: int | None = None,
    colours: Mapping[str, str] | None = None,
) -> go.Figure:
    """Draw the aggregation weights: how much each target group counts in the objective.

    Answers: which group is the method working for at each step?

    Args:
        history: Columns step, split, group, metric, value; `group_weight` of split `target` per
            group (fractions that sum to one).
        selected: The kept step, or None.
        colours: Colour of each group, from `theme.group_colours`.
    """
    weights = _of(history, "group_weight", "target")
    title = "weight of the group in the goal"
    return _group_lines(weights, selected, colours, title, ".1%", theme.PERCENT_AXIS)


def left_out_over_steps(
    history: pd.DataFrame,
    *,
    selected: int | None = None,
    colours: Mapping[str, str] | None = None,
) -> go.Figure:
    """Draw the share of each group's samples that a subset method leaves out.

    Answers: whose samples does it drop? Lines that lie apart mean that it drops some groups more.

    Args:
        history: Columns step, split, group, metric, value; `left_out` per group (fractions).
        selected: The kept step, or None.
        colours: Colour of each group, from `theme.group_colours`.
    """
    axis = {"range": [-0.03, 1.03], "tickformat": ".0%"}
    return _group_lines(
        _of(history, "left_out"), selected, colours, "share of the group left out", ".1%", axis
    )


def loss_terms_over_steps(history: pd.DataFrame, *, selected: int | None = None) -> go.Figure:
    """Draw the terms of the loss by which a method trained its features.

    Answers: was each contrast learned, or does one term rise where the other falls?

    Args:
        history: Columns step, split, group, metric, value; `class_term`, `group_term` and others
            of that kind (nats).
        selected: The kept step, or None.
    """
    return _term_lines(history, "", selected, "term of the loss, nats", ".3f", {})


def skipped_terms_over_steps(history: pd.DataFrame, *, selected: int | None = None) -> go.Figure:
    """Draw the share of samples, or words, that a term skipped for want of others to contrast.

    Answers: do the terms speak for all samples?

    Args:
        history: Columns step, split, group, metric, value; each term's metric with `_skipped`
            behind it (fractions).
        selected: The kept step, or None.
    """
    axis = {"range": [-0.03, 1.03], "tickformat": ".0%"}
    return _term_lines(history, "_skipped", selected, "share skipped", ".1%", axis)


def _term_lines(
    history: pd.DataFrame,
    ending: str,
    selected: int | None,
    title: str,
    hover: str,
    axis: Mapping[str, object],
) -> go.Figure:
    """Draw one line a term."""
    named = {f"{metric}{ending}": name for metric, name in _TERMS.items()}
    rows = history[history["metric"].isin(list(named))]
    rows = rows.assign(group=rows["metric"].map(named))
    figure = _group_lines(rows, selected, None, title, hover, axis)
    return figure.update_layout(legend_title_text="term")


def _of(history: pd.DataFrame, metric: str, split: str | None = None) -> pd.DataFrame:
    rows = history[history["metric"] == metric]
    return rows if split is None else rows[rows["split"] == split]


def _ends(rows: pd.DataFrame) -> tuple[int, int]:
    if rows.empty:
        return 1, 1
    return int(rows["step"].min()), int(rows["step"].max())


def _mode(steps: int) -> str:
    """Return the drawing mode: one step, or few, would not show as a line."""
    return "lines+markers" if steps <= 20 else "lines"


def _hovermode(groups: int) -> str:
    return "closest" if groups > MANY_GROUPS else "x unified"


def _group_traces(
    rows: pd.DataFrame,
    names: Sequence[str],
    colour: Mapping[str, str],
    colours: Mapping[str, str] | None,
    hover: str,
) -> list[dict[str, Any]]:
    """Return one line a group, and its band before it if there is one."""
    dashes = theme.group_dashes(colours or names)
    of = dict(iter(rows.sort_values("step", kind="stable").groupby("group", sort=False)))
    traces = []
    for name in names:
        of_group = of[name]
        title = "" if _hovermode(len(names)) == "x unified" else f"{name}<br>step %{{x}}: "
        if "sd" in of_group.columns:
            traces.append(_band(of_group, name, colour[name]))
        traces.append(
            {
                **_line(of_group),
                "name": theme.short(name),
                "legendgroup": name,
                "line": {"color": colour[name], "width": 2, "dash": dashes.get(name, "solid")},
                "hovertemplate": f"{title}%{{y:{hover}}}" + ("<extra></extra>" if title else ""),
            }
        )
    return traces


def _line(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the points of a line over the steps; as lists, which Plotly checks the fastest."""
    steps = rows["step"].tolist()
    return {
        "type": "scatter",
        "x": steps,
        "y": rows["value"].tolist(),
        "mode": _mode(len(set(steps))),
    }


def _band(rows: pd.DataFrame, name: str, colour: str) -> dict[str, Any]:
    """Return the band of one standard deviation about a line."""
    low, high = rows["value"] - rows["sd"], rows["value"] + rows["sd"]
    steps = rows["step"].tolist()
    return {
        "type": "scatter",
        "x": [*steps, *steps[::-1]],
        "y": [*high, *low[::-1]],
        "name": f"{name} ± sd",
        "legendgroup": name,
        "showlegend": False,
        "mode": "lines",
        "fill": "toself",
        "fillcolor": theme.fade(colour),
        "line": {"width": 0},
        "hoverinfo": "skip",
    }


def _references(
    names: Sequence[str],
    colour: Mapping[str, str],
    data_share: Mapping[str, float],
    first: int,
    last: int,
) -> list[dict[str, Any]]:
    """Return each group's share of the data, and one legend entry that explains the marks."""
    shown = [name for name in names if name in data_share]
    if not shown:
        return []
    # The line spans the panel also where there is one step only.
    pad = max((last - first) * 0.02, 0.5)
    common = {"type": "scatter", "opacity": 0.9, "cliponaxis": False, "showlegend": False}
    explained = {"type": "scatter", "x": [None], "y": [None], "name": "share of data"}
    explained["hoverinfo"] = "skip"
    if len(names) > MANY_GROUPS:
        mark = {"symbol": "triangle-left", "size": 9}
        # In one trace, of which each costs a browser as much as drawing tens of marks.
        marks = {
            **common,
            "mode": "markers",
            "x": [last + pad] * len(shown),
            "y": [data_share[name] for name in shown],
            "marker": {**mark, "color": [colour[name] for name in shown]},
            "customdata": shown,
            "hovertemplate": "%{customdata}<br>share of data: %{y:.1%}<extra></extra>",
            "name": "shares of data",
            "legendgroup": "share of data",
        }
        in_legend = {"mode": "markers", "marker": {**mark, "color": theme.MUTED}}
        return [marks, {**explained, **in_legend, "legendgroup": "share of data"}]
    lines = [
        {
            **common,
            "mode": "lines",
            "x": [first - pad, last + pad],
            "y": [data_share[name]] * 2,
            "line": {"color": colour[name], "width": 1.2, "dash": "dash"},
            "name": f"{name}, share of data",
            "legendgroup": name,
            "hoverinfo": "skip",
        }
        for name in shown
    ]
    line = {"color": theme.MUTED, "width": 1.2, "dash": "dash"}
    return [*lines, {**explained, "mode": "lines", "line": line}]


def _worst_traces(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one line a split that the rows have."""
    of = dict(iter(rows.sort_values("step", kind="stable").groupby("split", sort=False)))
    return [
        {**_line(of[split]), "name": split, "line": dict(line), "hovertemplate": "%{y:.1%}"}
        for split, line in theme.SPLIT_LINES.items()
        if split in of
    ]


def _mark_step(
    figure: go.Figure,
    text: str,
    step: int,
    first: int,
    last: int,
    *,
    dash: str = "dot",
    ink: str = theme.MUTED,
) -> None:
    """Draw a line through all panels at a step, its label above them."""
    late = step > (first + last) / 2
    figure.add_shape(
        type="line",
        x0=step,
        x1=step,
        y0=0,
        y1=1,
        yref="paper",
        line={"color": ink, "width": 1.5, "dash": dash},
    )
    figure.add_annotation(
        text=text,
        x=step,
        y=1,
        yref="paper",
        xanchor="right" if late else "left",
        yanchor="bottom",
        showarrow=False,
    )


def _group_lines(
    rows: pd.DataFrame,
    selected: int | None,
    colours: Mapping[str, str] | None,
    title: str,
    hover: str,
    axis: Mapping[str, object],
) -> go.Figure:
    first, last = _ends(rows)
    names, colour = theme.names_of(rows["group"], colours)
    figure = go.Figure(
        _group_traces(rows, names, colour, colours, hover),
        {
            "xaxis": theme.step_axis(first, last),
            "yaxis": {**axis, "title": {"text": title}},
            "height": max(352, 102 + theme.legend_height(len(names))),
            "hovermode": _hovermode(len(names)),
            "showlegend": True,
            "legend": _LEGEND,
            "margin": theme.room(["100%"], legend=names),
        },
    )
    if rows.empty:
        return theme.note(figure, "This run recorded no such numbers.")
    if selected is not None:
        _mark_step(figure, f"kept step {selected}", selected, first, last)
    return figure
