"""Studies: accuracy over what was varied, weights of flipped rows, and val against test."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from gsr_core.figures import theme

__all__ = ["accuracy_over_levels", "flipped_and_clean", "val_against_test"]

_EMPTY = "No run of this study has finished yet."


def accuracy_over_levels(
    table: pd.DataFrame, points: pd.DataFrame, *, axis: str, log: bool = False
) -> go.Figure:
    """Draw worst-group accuracy over what was varied, one line a method.

    Answers: how fast does a repair wear off when the data get worse?

    Args:
        table: Columns method, x, test, test_sd (fractions; the sd over seeds, NaN for one seed).
            One row a method and level.
        points: Columns method, x, seed, test: every seed, drawn faintly.
        axis: What was varied, with its unit; it is printed on the axis.
        log: Whether x is a count on a logarithmic axis; else it is a share.
    """
    figure = go.Figure()
    if table.empty:
        return theme.note(figure, _EMPTY).update_layout(height=200)
    methods = list(dict.fromkeys(table["method"]))
    colours, symbols = theme.run_colours(methods), theme.group_symbols(methods)
    number = ".0f" if log else ".1%"
    if points.duplicated(["method", "x"]).any():
        figure.add_trace(
            go.Scatter(
                x=points["x"],
                y=points["test"],
                mode="markers",
                name="one seed",
                marker={"color": points["method"].map(colours), "size": 6, "opacity": 0.4},
                customdata=points[["method", "seed"]].to_numpy(object),
                hovertemplate=f"%{{customdata[0]}}, seed %{{customdata[1]}}<br>%{{x:{number}}}: "
                "%{y:.1%}<extra></extra>",
                showlegend=False,
            )
        )
    for method in methods:
        rows = table[table["method"] == method].sort_values("x")
        figure.add_trace(
            go.Scatter(
                x=rows["x"],
                y=rows["test"],
                mode="lines+markers",
                name=method,
                line={"color": colours[method], "width": 2},
                marker={"symbol": symbols[method], "size": 9},
                error_y={
                    "type": "data",
                    "array": rows["test_sd"].fillna(0),
                    "visible": bool(rows["test_sd"].notna().any()),
                    "thickness": 1.5,
                    "width": 4,
                },
                customdata=rows[["test_sd"]].to_numpy(float),
                hovertemplate=f"<b>{method}</b><br>%{{x:{number}}}: %{{y:.1%}} ± "
                "%{customdata[0]:.1%}<extra></extra>",
            )
        )
    ends = [table["test"] - table["test_sd"].fillna(0), table["test"] + table["test_sd"].fillna(0)]
    figure.update_xaxes(title_text=axis)
    if log:
        places = sorted(set(table["x"]))
        figure.update_xaxes(
            type="log", tickvals=places, ticktext=[f"{each:,.0f}" for each in places]
        )
    else:
        places = sorted(set(table["x"]))
        figure.update_xaxes(
            tickvals=places, ticktext=[f"{each:.3g} %" for each in 100 * np.array(places)]
        )
    figure.update_yaxes(
        title_text="worst-group accuracy on test",
        tickformat=".0%",
        range=theme.fraction_range([*points["test"], *ends[0], *ends[1]]),
    )
    return figure.update_layout(
        height=420,
        hovermode="closest",
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 1.03, "yanchor": "bottom"},
    )


def flipped_and_clean(table: pd.DataFrame, colours: Mapping[str, str] | None = None) -> go.Figure:
    """Draw the mean weight of flipped and of clean rows of each group over the noise.

    Answers: does the method give the samples with a wrong label less weight, in the minority
    groups as well?

    Args:
        table: Columns level (share of labels flipped), group, flipped (bool), samples, weight
            (relative to uniform), weight_sd (over seeds, NaN for one seed); of one method.
        colours: Of each group; "all" is drawn grey.
    """
    figure = go.Figure()
    if table.empty:
        text = "No run with weights has finished yet."
        return theme.note(figure, text).update_layout(height=200)
    names, shades = theme.names_of([each for each in table["group"] if each != "all"], colours)
    shades = {**shades, "all": theme.MUTED}
    for group in [*names, "all"]:
        for flipped, some in table[table["group"] == group].groupby("flipped"):
            rows, kind = some.sort_values("level"), "flipped" if flipped else "clean"
            label = "all rows" if group == "all" else theme.short(group)
            figure.add_trace(
                go.Scatter(
                    x=rows["level"],
                    y=rows["weight"],
                    mode="lines+markers",
                    name=f"{label}, {kind}",
                    line={
                        "color": shades[group],
                        "dash": "dot" if flipped else "solid",
                        "width": 2,
                    },
                    marker={"symbol": "x" if flipped else "circle", "size": 8},
                    error_y={
                        "type": "data",
                        "array": rows["weight_sd"].fillna(0),
                        "visible": bool(rows["weight_sd"].notna().any()),
                        "thickness": 1,
                        "width": 3,
                    },
                    customdata=rows[["samples"]].to_numpy(float),
                    hovertemplate=f"<b>{label}, {kind}</b><br>%{{x:.0%}} flipped: %{{y:.2f}}×<br>"
                    "%{customdata[0]:.0f} rows<extra></extra>",
                )
            )
    places = sorted(set(table["level"]))
    figure.add_hline(y=1, line={"color": theme.MUTED, "width": 1, "dash": "dash"})
    figure.update_xaxes(
        title_text="labels flipped (% of weighted rows)",
        tickvals=places,
        ticktext=[f"{each:.3g} %" for each in 100 * np.array(places)],
    )
    figure.update_yaxes(
        title_text="mean weight (× an equal share)", ticksuffix="×", rangemode="tozero"
    )
    return figure.update_layout(height=420, hovermode="closest", showlegend=True)


def val_against_test(table: pd.DataFrame, points: pd.DataFrame) -> go.Figure:
    """Draw worst-group accuracy on val and test, with sets of their own and with a shared one.

    Answers: how much does val promise that test does not keep, once the rows that drove the
    weights also select?

    Args:
        table: Columns method, level (1 for one set), val, val_sd, test, test_sd (fractions; sd over
            seeds, NaN for one seed), gap (val minus test). One row a method and level.
        points: Columns method, level, seed, val, test: every seed, drawn faintly.
    """
    figure = go.Figure()
    if table.empty:
        return theme.note(figure, _EMPTY).update_layout(height=200)
    table = table.reset_index(drop=True)
    place = {(row["method"], row["level"]): at for at, row in table.iterrows()}
    names = [
        f"{row['method']}, {'one set' if row['level'] else 'own sets'}"
        for row in table.to_dict("records")
    ]
    for at, row in table.iterrows():
        figure.add_shape(
            type="line", x0=row["val"], x1=row["test"], y0=at, y1=at,
            line={"color": theme.MUTED, "width": 2}, layer="below",
        )  # fmt: skip
    for split in ("val", "test"):
        colour = str(theme.SPLIT_LINES["val"]["color"] if split == "val" else theme.HELPS)
        symbol = "diamond-open" if split == "val" else "circle"
        if points.duplicated(["method", "level"]).any():
            rows = [place[key] for key in zip(points["method"], points["level"], strict=True)]
            figure.add_trace(
                go.Scatter(
                    x=points[split],
                    y=np.array(rows) + (0.18 if split == "val" else -0.18),
                    mode="markers",
                    name="one seed",
                    marker={"color": colour, "size": 5, "opacity": 0.45},
                    customdata=points[["method", "seed"]].to_numpy(object),
                    hovertemplate="%{customdata[0]}, seed %{customdata[1]}<br>"
                    f"{split} %{{x:.1%}}<extra></extra>",
                    showlegend=False,
                )
            )
        figure.add_trace(
            go.Scatter(
                x=table[split],
                y=list(range(len(table))),
                mode="markers",
                name=split,
                marker={"color": colour, "symbol": symbol, "size": 11, "line": {"width": 2}},
                error_x={
                    "type": "data",
                    "array": table[f"{split}_sd"].fillna(0),
                    "visible": bool(table[f"{split}_sd"].notna().any()),
                    "thickness": 1.5,
                    "width": 4,
                },
                customdata=table[["gap"]].to_numpy(float),
                hovertemplate=f"{split} %{{x:.1%}}<br>val is %{{customdata[0]:+.1%}} above test"
                "<extra></extra>",
            )
        )
    known = [*table["val"], *table["test"], *points["val"], *points["test"]]
    figure.update_xaxes(
        title_text="worst-group accuracy", tickformat=".0%", range=theme.fraction_range(known)
    )
    figure.update_yaxes(
        tickvals=list(range(len(table))), ticktext=names, range=[len(table) - 0.5, -0.5]
    )
    return figure.update_layout(
        height=theme.row_height(len(table), 44, 110),
        hovermode="closest",
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 1.03, "yanchor": "bottom"},
    )
