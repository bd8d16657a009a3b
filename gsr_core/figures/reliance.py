"""What heads lean on: the pull of each attribute on the score, before and after a repair."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from gsr_core.figures import theme

__all__ = ["lean_before_after"]


def lean_before_after(table: pd.DataFrame, *, before: str, after: str) -> go.Figure:
    """Draw how far two heads lean on each attribute, one row an attribute.

    Answers: does the repair still use the shortcut? A point at zero does not lean; beside the plot
    stands the attribute's share of the score's variance between cells.

    Args:
        table: Columns attribute, value, two (the class that it pulls towards), run, lean,
            lean_low, lean_high (standard deviations of the score) and share (fraction): for each
            attribute a row of the one head and then a row of the other, drawn from the top.
        before: Name of the first head.
        after: Name of the second.
    """
    figure = go.Figure()
    if table.empty:
        return theme.note(figure, "No attribute can be measured.").update_layout(height=160)
    first = table.drop_duplicates("attribute")
    names = [f"{row['attribute']}={row['value']}" for row in first.to_dict("records")]
    towards = [str(name) for name in first["two"]]
    heads = [table[table["run"] == run] for run in table["run"].unique()]
    place = list(range(len(names)))
    figure.add_vline(x=0, line={"color": theme.MUTED, "width": 1})
    for row in place:
        figure.add_trace(
            go.Scatter(
                x=[float(head["lean"].iloc[row]) for head in heads],
                y=[row] * len(heads),
                mode="lines",
                line={"color": theme.MUTED, "width": 1.5},
                hoverinfo="skip",
                showlegend=False,
            )
        )
    styles = ((before, theme.MUTED, "circle-open"), (after, theme.HELPS, "circle"))
    for head, (label, colour, symbol) in zip(heads, styles, strict=True):
        figure.add_trace(
            go.Scatter(
                x=head["lean"],
                y=place,
                name=theme.short(label, 40),
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 11, "line": {"width": 2}},
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": head["lean_high"] - head["lean"],
                    "arrayminus": head["lean"] - head["lean_low"],
                    "color": colour,
                    "thickness": 1.5,
                    "width": 4,
                },
                customdata=[
                    [name, to, low, high]
                    for name, to, low, high in zip(
                        names, towards, head["lean_low"], head["lean_high"], strict=True
                    )
                ],
                hovertemplate="<b>%{customdata[0]}</b> pulls the score towards %{customdata[1]} "
                "by %{x:.2f} standard deviations<br>95 % interval %{customdata[2]:.2f} to "
                "%{customdata[3]:.2f}<extra></extra>",
            )
        )
    shares = zip(*(head["share"] for head in heads), strict=True)
    for row, (one, two) in enumerate(shares):
        figure.add_annotation(
            text=f"share {one:.0%} → {two:.0%}",
            x=1.015,
            xref="paper",
            y=row,
            xanchor="left",
            showarrow=False,
        )
    figure.update_xaxes(title_text="pull on the score, standard deviations", rangemode="tozero")
    ticks = [
        f"{theme.short(name)}<br>→ {theme.short(to)}"
        for name, to in zip(names, towards, strict=True)
    ]
    figure.update_yaxes(
        tickvals=place, ticktext=ticks, range=[len(place) - 0.5, -0.5], showgrid=False
    )
    room = theme.room([*names, *(f"→ {to}" for to in towards)], lines=0)
    return figure.update_layout(
        height=theme.row_height(len(place), 46, 134),
        margin={**room, "r": 130},
        hovermode="closest",
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
    )
