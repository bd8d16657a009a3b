"""Where heads look in one sample: what speaks for a class and what against it.

Of an image place by place, as a figure; of a text word by word, as marked text.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from PIL import Image
from plotly.subplots import make_subplots

from gsr_core.figures import theme
from gsr_core.figures.compare import group_dots

__all__ = ["maps_beside", "marked_text", "overlap_dots"]

_HEIGHT = 280
"""Pixels that an image has at most."""

_AGAINST, _FOR = theme.DIVERGING[0][1], theme.DIVERGING[-1][1]
_SCALE = [
    [0.0, theme.fade(_AGAINST, 0.9)],
    [0.3, theme.fade(_AGAINST, 0.55)],
    [0.5, theme.fade(theme.NEUTRAL, 0.0)],
    [0.7, theme.fade(_FOR, 0.55)],
    [1.0, theme.fade(_FOR, 0.9)],
]
"""Blue speaks against the class, orange for it; where neither does, only the image is there."""


def maps_beside(
    seen: np.ndarray, maps: Mapping[str, np.ndarray], *, class_name: str, unit: str
) -> go.Figure:
    """Draw what speaks for a class over an image, for several heads with one scale.

    Answers: where does each head find its evidence, and did a repair move it onto the object?

    Args:
        seen: (H, W, 3) uint8, the image as the network sees it; it is drawn in grey, so that all
            colour is that of the maps.
        maps: For the name of each head (h, w) numbers, above 0 for the class and below against it.
        class_name: The class, for the texts.
        unit: Of the numbers, for the scale.
    """
    height, width = seen.shape[:2]
    names = [theme.short(name, 34) for name in maps]
    figure = make_subplots(1, len(maps), subplot_titles=names, horizontal_spacing=0.03)
    most = max(float(np.abs(values).max()) for values in maps.values()) or 1.0
    for place, (name, values) in enumerate(maps.items(), 1):
        figure.add_trace(go.Image(source=_grey(seen), hoverinfo="skip"), 1, place)
        # An image's pixels have their middles at whole numbers.
        down, across = height / values.shape[0], width / values.shape[1]
        figure.add_trace(
            go.Heatmap(
                z=np.round(values, 5),
                x0=across / 2 - 0.5,
                dx=across,
                y0=down / 2 - 0.5,
                dy=down,
                coloraxis="coloraxis",
                name=name,
                hovertemplate=f"%{{z:+.3g}} for {class_name}<extra>{name}</extra>",
            ),
            1,
            place,
        )
    figure.update_xaxes(visible=False, range=[-0.5, width - 0.5], constrain="domain")
    figure.update_yaxes(
        visible=False, range=[height - 0.5, -0.5], scaleanchor="x", constrain="domain"
    )
    # Each panel keeps the proportions of its own axis.
    for place in range(2, len(maps) + 1):
        figure.update_yaxes(scaleanchor=f"x{place}", col=place)
    return figure.update_layout(
        height=_HEIGHT + 40,
        margin={"l": 4, "r": 4, "t": 36, "b": 4},
        coloraxis={
            "colorscale": _SCALE,
            "cmin": -most,
            "cmax": most,
            "colorbar": {
                "title": {"text": unit, "side": "right"},
                "thickness": 12,
                "tickformat": "+.2~g",
            },
        },
    )


def overlap_dots(table: pd.DataFrame, *, split: str) -> go.Figure:
    """Draw AIoU of each group under each run, one row a group and one dot a run.

    Answers: did a repair move the evidence onto the object, in every group? Left of the line
    another class finds more evidence there than the right one.

    Args:
        table: Columns label, group, aiou, low, high.
        split: Whose samples were looked at.
    """
    figure = group_dots(
        table.rename(columns={"aiou": "accuracy"}),
        measure=f"AIoU on {split}, with 95 % interval",
        number=".3f",
    )
    line = {"color": theme.MUTED, "width": 1, "dash": "dot"}
    figure.add_shape(type="line", yref="y domain", x0=0.5, x1=0.5, y0=0, y1=1, line=line)
    return figure.update_xaxes(range=[-0.02, 1.02])


def marked_text(pieces: Sequence[str], effects: np.ndarray, *, most: float) -> str:
    """Return a text as HTML, each piece marked by what it does to a class's score.

    Args:
        pieces: Of the text; joined, they are the text.
        effects: (pieces,) nats, above 0 for the class.
        most: The effect that has the full colour.
    """
    marked = []
    for piece, effect in zip(pieces, effects.tolist(), strict=True):
        strength = 0.85 * min(abs(effect) / most, 1.0) if most > 0 else 0.0
        colour = theme.fade(_FOR if effect > 0 else _AGAINST, round(strength, 3))
        words = piece.rstrip()
        marked.append(
            f'<span style="background-color:{colour};border-radius:3px" '
            f'title="{effect:+.3g} nats">{html.escape(words)}</span>'
            f"{html.escape(piece[len(words) :])}"
        )
    return f'<div style="white-space:pre-wrap;line-height:1.7">{"".join(marked)}</div>'


def _grey(seen: np.ndarray) -> str:
    """Return an image in soft grey, as an address that holds it.

    On black and on white the colour of a map could hardly be seen.
    """
    sink = io.BytesIO()
    grey = Image.fromarray(seen).convert("L").point(lambda level: 70 + level * 0.55)
    grey.convert("RGB").save(sink, "PNG")
    return f"data:image/png;base64,{base64.b64encode(sink.getvalue()).decode()}"
