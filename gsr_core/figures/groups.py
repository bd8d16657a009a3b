"""Where a classifier fails: accuracy per group, group sizes, confusions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from gsr_core.figures import theme

__all__ = ["confusion", "group_accuracy", "group_sizes"]


def group_accuracy(
    table: pd.DataFrame,
    *,
    colours: Mapping[str, str] | None = None,
    mean: float | None = None,
    adjusted: float | None = None,
    what: str = "group",
) -> go.Figure:
    """Draw each group's accuracy with its interval, one row a group.

    Answers: which group does worst, and is the difference more than chance?

    Args:
        table: Columns group, n (samples), accuracy, low, high (fractions; the ends of the 95 %
            Wilson interval), worst (bool), enough (bool: n is large enough to judge). One row a
            group, drawn from the top in this order.
        colours: Colour of each group, from `theme.group_colours`.
        mean: Accuracy over all samples of the split, marked by a line.
        adjusted: Group accuracies averaged by the groups' shares of the training set, likewise.
        what: What a row is, in one word.
    """
    figure = go.Figure()
    if table.empty:
        return theme.note(figure, f"No {what}s to show.").update_layout(height=160)
    traces, verdicts = [], []
    _, colour = theme.names_of(table["group"], colours)
    for place, row in enumerate(table.to_dict("records")):
        name, enough, worst = str(row["group"]), bool(row["enough"]), bool(row["worst"])
        right = f"{row['accuracy']:.1%}" if np.isfinite(row["accuracy"]) else "–"
        right += f"  n = {int(row['n']):,}"
        traces.append(
            go.Scatter(
                x=[row["accuracy"]],
                y=[place],
                name=name,
                mode="markers",
                showlegend=False,
                opacity=1 if enough else 0.7,
                marker={
                    "size": 13 if worst else 11,
                    "color": colour[name] if enough else theme.UNKNOWN,
                    "line": {"color": theme.ACCENT, "width": 3 if worst else 0},
                },
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": [row["high"] - row["accuracy"]],
                    "arrayminus": [row["accuracy"] - row["low"]],
                    "color": colour[name] if enough else theme.UNKNOWN,
                    "thickness": 2,
                    "width": 5,
                },
                hovertemplate=(
                    f"<b>{name}</b><br>accuracy %{{x:.1%}}<br>95 % interval {row['low']:.1%} to "
                    f"{row['high']:.1%}<br>{int(row['n']):,} samples"
                    + ("" if enough else "<br>too few to judge")
                    + "<extra></extra>"
                ),
            )
        )
        verdict = "" if enough else "<br><i>too few to judge</i>"
        if worst:
            verdict = f"<br><b>worst {what}</b>"
        verdicts.append(
            {
                "text": right + verdict,
                "x": 1.015,
                "xref": "paper",
                "y": place,
                "xanchor": "left",
                "align": "left",
                "showarrow": False,
                "opacity": 1 if enough else 0.75,
            }
        )
    figure.add_traces(traces).update_layout(annotations=verdicts)
    marks = [("mean", mean), ("adjusted", adjusted)]
    for level, (label, value) in enumerate((k, v) for k, v in marks if v is not None):
        _mark_average(figure, f"{label} {value:.1%}", value, level)
    ends = [
        *table["low"],
        *table["high"],
        *table["accuracy"],
        *(v for _, v in marks if v is not None),
    ]
    figure.update_xaxes(
        title_text="accuracy, with 95 % interval",
        range=theme.fraction_range(ends, 0.3),
        tickformat=".0%",
    )
    figure.update_yaxes(**theme.named_rows(table["group"].tolist()))
    room = theme.room(table["group"], lines=0)
    return figure.update_layout(
        height=theme.row_height(len(table), 40, 124), margin={**room, "r": 130, "t": 48}
    )


def group_sizes(table: pd.DataFrame) -> go.Figure:
    """Draw how many samples each group has in each split, with its share of the split.

    Answers: did the data load as I think, and which groups are rare or absent where?

    Args:
        table: Columns split, group, count (samples), share (fraction of the split). Splits and
            groups are drawn in the order in which they appear.
    """
    splits, groups = list(dict.fromkeys(table["split"])), list(dict.fromkeys(table["group"]))
    cells = table.set_index(["group", "split"])
    full = pd.MultiIndex.from_product([groups, splits])
    count = cells["count"].reindex(full).to_numpy(dtype=float).reshape(len(groups), len(splits))
    share = cells["share"].reindex(full).to_numpy(dtype=float).reshape(len(groups), len(splits))
    text = [
        [
            "–" if np.isnan(n) else f"{n:,.0f}" + (f" ({s:.1%})" if n > 0 and s >= 0 else "")
            for n, s in zip(counts, shares, strict=True)
        ]
        for counts, shares in zip(count, share, strict=True)
    ]
    # An empty group has no colour, so that it strikes the eye.
    figure = _heat_map(
        np.where(count > 0, share, np.nan),
        text,
        splits,
        groups,
        "%{customdata}<br>%{x}: %{text}<extra></extra>",
    )
    return figure.update_xaxes(side="top")


def confusion(table: pd.DataFrame) -> go.Figure:
    """Draw what each group is taken for, one row a group and true class.

    Answers: when a group is misclassified, which class is it mistaken for? The right class is bold.

    Args:
        table: Columns group, y (true class), prediction (class), share (fraction of the group's
            samples of class y; 0 where absent).
    """
    if table.empty:
        return theme.note(go.Figure(), "No groups to show.").update_layout(height=160)
    rows = list(dict.fromkeys(zip(table["group"], table["y"], strict=True)))
    several = len({group for group, _ in rows}) < len(rows)
    classes = list(dict.fromkeys([*table["y"], *table["prediction"]]))
    labels = [f"{theme.short(str(g))} · {y}" if several else str(g) for g, y in rows]
    cells = table.set_index(["group", "y", "prediction"])["share"]
    keys = pd.MultiIndex.from_tuples([(g, y, c) for g, y in rows for c in classes])
    share = cells.reindex(keys).fillna(0).to_numpy(dtype=float).reshape(len(rows), len(classes))
    text = [
        [
            f"<b>{value:.1%}</b>" if c == y else f"{value:.1%}" if value > 0 else "0"
            for c, value in zip(classes, values, strict=True)
        ]
        for (_, y), values in zip(rows, share, strict=True)
    ]
    figure = _heat_map(
        share,
        text,
        [str(c) for c in classes],
        labels,
        "%{customdata}<br>predicted %{x}: %{z:.1%}<extra></extra>",
    )
    return figure.update_xaxes(title_text="predicted class", side="top").update_layout(margin_t=64)


def _mark_average(figure: go.Figure, label: str, value: float, level: int) -> None:
    """Add a labelled vertical line; labels of near lines are set on two levels."""
    if not np.isfinite(value):
        return
    dash = "dash" if level == 0 else "dot"
    figure.add_shape(
        type="line",
        x0=value,
        x1=value,
        y0=0,
        y1=1,
        yref="paper",
        line={"color": theme.MUTED, "width": 1.5, "dash": dash},
    )
    figure.add_annotation(
        text=label,
        x=value,
        y=1,
        yref="paper",
        xanchor="right" if value > 0.5 else "left",
        yanchor="bottom",
        yshift=18 * level,
        showarrow=False,
    )


def _heat_map(
    z: np.ndarray,
    text: list[list[str]],
    columns: list[str],
    rows: list[str],
    hover: str,
) -> go.Figure:
    figure = go.Figure()
    if not rows:
        return theme.note(figure, "No groups to show.").update_layout(height=160)
    place = list(range(len(rows)))
    known = z[np.isfinite(z)]
    top = (float(known.max()) if len(known) else 0.0) or 1.0
    figure.add_trace(
        go.Heatmap(
            z=z,
            x=columns,
            y=place,
            text=text,
            customdata=np.array([[row] * len(columns) for row in rows], dtype=object),
            hovertemplate=hover,
            hoverongaps=False,
            colorscale=theme.SEQUENTIAL,
            zmin=0,
            zmax=top,
            xgap=2,
            ygap=2,
            showscale=False,
        )
    )
    # Two traces, as cells without a colour take the ink of the page.
    for blank in (False, True):
        cells = [(r, c) for r in place for c in range(len(columns)) if np.isnan(z[r, c]) == blank]
        inks = [theme.ink_on(z[r, c] / top) for r, c in cells]
        figure.add_trace(
            go.Scatter(
                x=[columns[c] for _, c in cells],
                y=[r for r, _ in cells],
                text=[text[r][c] for r, c in cells],
                mode="text",
                textfont={"size": 12} if blank else {"size": 12, "color": inks},
                hoverinfo="skip",
                showlegend=False,
            )
        )
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(
        tickvals=place,
        ticktext=[theme.short(row, 34) for row in rows],
        ticklabelstandoff=6,
        range=[len(rows) - 0.5, -0.5],
        showgrid=False,
    )
    return figure.update_layout(
        height=theme.row_height(len(rows), 32, 120), margin_l=theme.room(rows, lines=0)["l"]
    )
