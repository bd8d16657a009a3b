"""How a run went, step by step: weights, effective sample sizes, worst-group accuracy."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from gsr_core.figures import theme

__all__ = [
    "effective_sample_size",
    "group_weight_over_steps",
    "left_out_over_steps",
    "live_worst_group",
    "weight_share_over_steps",
]

MANY_GROUPS = 8
"""Above this, reference lines are drawn as marks at the edge and hover names one line."""


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
    groups = shares["group"].nunique()
    top, bottom, gap = max(300, theme.legend_height(groups + 1)), 180, 30
    panels = top + bottom + gap
    figure = make_subplots(
        rows=2,
        shared_xaxes=True,
        vertical_spacing=gap / panels,
        row_heights=[top / panels, bottom / panels],
    )
    names, _ = _add_groups(figure, shares, colours, hover=".1%", row=1)
    _add_references(figure, names, data_share, colours, first, last)
    _add_worst(figure, worst, row=2, legend="legend2")
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

    figure.update_xaxes(theme.step_axis(first, last))
    figure.update_xaxes(title_text=None, row=1)
    share_axis = {"title": {"text": "share of weight"}, **theme.PERCENT_AXIS}
    figure.update_yaxes(share_axis, row=1)
    figure.update_yaxes(
        title_text="worst-group<br>accuracy",
        range=theme.fraction_range(worst["value"]),
        tickformat=".0%",
        row=2,
    )
    return figure.update_layout(
        height=panels + 90,
        hovermode=_hovermode(len(names)),
        legend={"x": 1.02, "y": 1, "yanchor": "top", "title": {"text": "group"}},
        legend2={
            "x": 1.02,
            "y": bottom / panels,
            "yanchor": "top",
            "title": {"text": "worst group of", "font": {"size": 12}},
            "bgcolor": "rgba(0,0,0,0)",
            "font": {"size": 12},
        },
    )


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
        _add_worst(figure, worst)
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
    figure = _group_lines(shares, selected, colours, "effective sample size", ".1%")
    return figure.update_yaxes(range=[0, 1.03], tickformat=".0%")


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
    figure = _group_lines(weights, selected, colours, "weight of the group in the goal", ".1%")
    return figure.update_yaxes(dict(theme.PERCENT_AXIS))


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
    figure = _group_lines(
        _of(history, "left_out"), selected, colours, "share of the group left out", ".1%"
    )
    return figure.update_yaxes(range=[-0.03, 1.03], tickformat=".0%")


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


def _add_groups(
    figure: go.Figure,
    rows: pd.DataFrame,
    colours: Mapping[str, str] | None,
    hover: str,
    row: int | None = None,
) -> tuple[list[str], dict[str, str]]:
    """Add one line a group; return the groups drawn and their colours."""
    names, colour = theme.names_of(rows["group"], colours)
    dashes = theme.group_dashes(colours or names)
    traces = []
    for name in names:
        of_group = rows[rows["group"] == name].sort_values("step")
        text = theme.short(name)
        title = "" if _hovermode(len(names)) == "x unified" else f"{name}<br>step %{{x}}: "
        if "sd" in of_group.columns:
            traces.append(_band(of_group, name, colour[name]))
        trace = go.Scatter(
            x=of_group["step"],
            y=of_group["value"],
            name=text,
            legendgroup=name,
            mode=_mode(of_group["step"].nunique()),
            line={"color": colour[name], "width": 2, "dash": dashes.get(name, "solid")},
            hovertemplate=f"{title}%{{y:{hover}}}" + ("<extra></extra>" if title else ""),
        )
        traces.append(trace)
    inside = None if row is None else [row] * len(traces)
    figure.add_traces(traces, rows=inside, cols=inside and [1] * len(traces))
    return names, colour


def _band(rows: pd.DataFrame, name: str, colour: str) -> go.Scatter:
    """Return the band of one standard deviation about a line."""
    low, high = rows["value"] - rows["sd"], rows["value"] + rows["sd"]
    return go.Scatter(
        x=pd.concat([rows["step"], rows["step"][::-1]]),
        y=pd.concat([high, low[::-1]]),
        name=f"{name} ± sd",
        legendgroup=name,
        showlegend=False,
        mode="lines",
        fill="toself",
        fillcolor=theme.fade(colour),
        line={"width": 0},
        hoverinfo="skip",
    )


def _add_references(
    figure: go.Figure,
    names: list[str],
    data_share: Mapping[str, float],
    colours: Mapping[str, str] | None,
    first: int,
    last: int,
) -> None:
    """Add each group's share of the data, and one legend entry that explains the marks."""
    _, colour = theme.names_of(names, colours)
    with_share = [name for name in names if name in data_share]
    many = len(names) > MANY_GROUPS
    # The line spans the panel also where there is one step only.
    pad = max((last - first) * 0.02, 0.5)
    for name in with_share:
        share = data_share[name]
        figure.add_trace(
            go.Scatter(
                x=[last + pad] if many else [first - pad, last + pad],
                y=[share] if many else [share, share],
                name=f"{name}, share of data",
                legendgroup=name,
                showlegend=False,
                mode="markers" if many else "lines",
                marker={"symbol": "triangle-left", "size": 9, "color": colour[name]},
                line={"color": colour[name], "width": 1.2, "dash": "dash"},
                opacity=0.9,
                cliponaxis=False,
                hovertemplate=f"{name}<br>share of data: %{{y:.1%}}<extra></extra>"
                if many
                else None,
                hoverinfo=None if many else "skip",
            ),
            row=1,
            col=1,
        )
    if with_share:
        figure.add_trace(
            go.Scatter(
                x=[None],
                y=[None],
                name="share of data",
                mode="markers" if many else "lines",
                marker={"symbol": "triangle-left", "size": 9, "color": theme.MUTED},
                line={"color": theme.MUTED, "width": 1.2, "dash": "dash"},
                hoverinfo="skip",
            ),
            row=1,
            col=1,
        )


def _add_worst(
    figure: go.Figure, rows: pd.DataFrame, row: int | None = None, legend: str = "legend"
) -> None:
    for split, line in theme.SPLIT_LINES.items():
        of_split = rows[rows["split"] == split].sort_values("step")
        if of_split.empty:
            continue
        trace = go.Scatter(
            x=of_split["step"],
            y=of_split["value"],
            name=split,
            legend=legend,
            mode=_mode(of_split["step"].nunique()),
            line=dict(line),
            hovertemplate="%{y:.1%}",
        )
        figure.add_trace(trace, row=row, col=None if row is None else 1)


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
) -> go.Figure:
    figure = go.Figure()
    first, last = _ends(rows)
    names, _ = _add_groups(figure, rows, colours, hover)
    figure.update_layout(
        height=max(340, 90 + theme.legend_height(len(names))),
        hovermode=_hovermode(len(names)),
        showlegend=True,
        legend={"x": 1.02, "y": 1, "yanchor": "top", "title": {"text": "group"}},
    )
    figure.update_xaxes(theme.step_axis(first, last)).update_yaxes(title_text=title)
    if rows.empty:
        return theme.note(figure, "This run recorded no such numbers.")
    if selected is not None:
        _mark_step(figure, f"kept step {selected}", selected, first, last)
    return figure
