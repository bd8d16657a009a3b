"""Charts without script, for a file that is read anywhere: DataFrame in, SVG out.

Inks are those of the text around a chart (`currentColor`), so that it follows a page that is light,
dark, or printed. Names come from users' data; the XML library escapes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd

from gsr_core.figures import theme

__all__ = ["GROUPS", "dots", "lines"]

GROUPS = 24
"""Groups that a chart draws at most."""

_POINTS = 240
"""Points of a line at most; more would be below a pixel apart."""

_WIDTH = 720
_LEFT, _RIGHT, _ROW, _LINE = 190, 20, 30, 15
_SHAPES = ("circle", "square", "diamond", "ring")


def dots(table: pd.DataFrame, colours: Mapping[str, str]) -> str:
    """Draw the accuracy of each group under each method, with its interval.

    Answers: which group is served worst, and how far did each move?

    Args:
        table: Columns label, group, accuracy, low, high (fractions; low and high may be missing),
            in the order in which they are drawn. Of more groups than `GROUPS`, those of least
            accuracy are drawn.
        colours: Colour of each label.
    """
    least = table.groupby("group", sort=False)["accuracy"].min().nsmallest(GROUPS).index
    groups = [name for name in dict.fromkeys(table["group"]) if name in set(least)]
    labels = list(dict.fromkeys(table["label"]))
    top = 14 + _LINE * len(labels)
    row = max(_ROW, 9 * len(labels) + 8)
    height = top + row * len(groups) + 40
    figure = _figure(height, "Accuracy of each group on test, with its interval")
    span = _WIDTH - _LEFT - _RIGHT

    def x(share: float) -> float:
        return _LEFT + span * float(np.clip(share, 0, 1))

    for place, label in enumerate(labels):
        y = 8 + _LINE * place
        _mark(figure, place, _LEFT + 5, y, colours[label])
        _text(figure, label, _LEFT + 16, y + 4, width=70)
    for share in (0, 0.2, 0.4, 0.6, 0.8, 1):
        _line(figure, x(share), top, x(share), height - 34, opacity=0.15)
        _text(figure, f"{share:.0%}", x(share), height - 20, anchor="middle")
    _text(figure, "accuracy on test", _LEFT + span / 2, height - 4, anchor="middle")
    by_group = dict(iter(table.groupby("group", sort=False)))
    for number, group in enumerate(groups):
        middle = top + row * (number + 0.5)
        _text(figure, group, _LEFT - 10, middle + 4, anchor="end")
        known = by_group[group].dropna(subset=["accuracy"])
        for each in known.to_dict("records"):
            place = labels.index(each["label"])
            y = middle + 9 * (place - (len(labels) - 1) / 2)
            colour = colours[each["label"]]
            if np.isfinite(each["low"]) and np.isfinite(each["high"]):
                _line(figure, x(each["low"]), y, x(each["high"]), y, stroke=colour, wide=2)
            said = f"{each['label']}, {group}: {each['accuracy']:.1%}"
            _mark(figure, place, x(each["accuracy"]), y, colour, said)
    return ET.tostring(figure, encoding="unicode")


def lines(
    history: pd.DataFrame, data_share: Mapping[str, float], kept: int, colours: Mapping[str, str]
) -> str:
    """Draw each group's share of the weight over the steps, and its share of the data dashed.

    Answers: who gains weight and who loses it?

    Args:
        history: Columns group, step, value (fractions of all weight). Of more groups than
            `theme.group_colours` has clear colours for, eight, those that move most are drawn.
        data_share: Fraction of the weighted samples in each group.
        kept: The kept step, marked by a line.
        colours: Colour of each group.
    """
    of = {name: part.sort_values("step") for name, part in history.groupby("group", sort=False)}
    moved = {
        str(name): abs(part["value"] - data_share[str(name)]).max() for name, part in of.items()
    }
    drawn = sorted(sorted(of, key=lambda name: -moved[str(name)])[:8], key=list(of).index)
    top, height, right = 22, 320, 170
    figure = _figure(height, "Share of the weight of each group over the steps")
    wide, tall = _WIDTH - 56 - right, height - top - 40
    first, last = int(history["step"].min()), int(history["step"].max())
    high = max(max(part["value"].max() for part in of.values()), max(data_share.values()))
    tick = next(each for each in (0.02, 0.05, 0.1, 0.2, 0.25) if high <= 5 * each or each == 0.25)
    ceiling = tick * float(np.ceil(high / tick - 1e-9))

    def x(step: float) -> float:
        return 56 + wide * (step - first) / max(last - first, 1)

    def y(share: float) -> float:
        return top + tall * (1 - share / ceiling)

    for share in np.arange(0, ceiling + tick / 2, tick):
        _line(figure, 56, y(share), 56 + wide, y(share), opacity=0.15)
        _text(figure, f"{share:.0%}", 50, y(share) + 4, anchor="end")
    for step in dict.fromkeys(np.linspace(first, last, 5).round().astype(int).tolist()):
        _text(figure, f"{step:,}", x(step), height - 22, anchor="middle")
    _text(figure, "step", 56 + wide / 2, height - 4, anchor="middle")
    _text(figure, "share of the weight; dashed: share of the data", 56, 12, width=80)
    _line(figure, x(kept), top, x(kept), top + tall, opacity=0.7, dash="2 3")
    late = kept > (first + last) / 2
    _text(
        figure,
        f"kept step {kept}",
        x(kept) + (-5 if late else 5),
        top + 12,
        anchor="end" if late else "start",
    )
    ends = []
    for name in drawn:
        part, colour = of[name], colours.get(str(name), theme.UNKNOWN)
        few = np.unique(np.linspace(0, len(part) - 1, min(len(part), _POINTS)).round().astype(int))
        steps, shares = part["step"].to_numpy()[few], part["value"].to_numpy()[few]
        points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(steps, shares, strict=True))
        stroke = {"fill": "none", "stroke": colour, "stroke-width": "2"}
        ET.SubElement(figure, "polyline", {"points": points, **stroke})
        level = y(data_share[str(name)])
        _line(figure, 56, level, 56 + wide, level, stroke=colour, dash="5 4")
        ends.append((y(shares[-1]), str(name), colour))
    for (_, name, colour), level in zip(
        sorted(ends), _apart([end for end, _, _ in sorted(ends)]), strict=True
    ):
        ET.SubElement(
            figure,
            "rect",
            {
                "x": str(62 + wide),
                "y": f"{level - 4:.1f}",
                "width": "8",
                "height": "8",
                "fill": colour,
            },
        )
        _text(figure, name, 76 + wide, level + 4)
    return ET.tostring(figure, encoding="unicode")


def _apart(levels: Sequence[float]) -> list[float]:
    """Return rising places for labels, a line apart, near where they belong."""
    places: list[float] = []
    for level in levels:
        places.append(max(level, places[-1] + _LINE) if places else level)
    # Those that were pushed below the axis pull the others up.
    lowest = 280.0
    for number in range(len(places) - 1, -1, -1):
        places[number] = min(places[number], lowest)
        lowest = places[number] - _LINE
    return places


def _figure(height: float, title: str) -> ET.Element:
    size = {"viewBox": f"0 0 {_WIDTH} {height:g}", "role": "img", "aria-label": title}
    return ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "class": "chart", **size})


def _line(
    figure: ET.Element,
    x1: float,
    y1: float,
    x2: float,
    y2: float,
    *,
    stroke: str = "currentColor",
    wide: float = 1,
    opacity: float = 1,
    dash: str = "",
) -> None:
    ends = {"x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}"}
    look = {"stroke": stroke, "stroke-width": f"{wide:g}", "stroke-opacity": f"{opacity:g}"}
    ET.SubElement(figure, "line", {**ends, **look, **({"stroke-dasharray": dash} if dash else {})})


def _text(
    figure: ET.Element, text: str, x: float, y: float, *, anchor: str = "start", width: int = 26
) -> None:
    """Write a text, cut in its middle; pointed at, it is whole."""
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "fill": "currentColor"}
    element = ET.SubElement(figure, "text", place)
    element.text = theme.short(text, width)
    if element.text != text:
        ET.SubElement(element, "title").text = text


def _mark(figure: ET.Element, place: int, x: float, y: float, colour: str, said: str = "") -> None:
    """Draw a marker whose shape tells methods apart where colours do not."""
    shape = _SHAPES[place % len(_SHAPES)]
    if shape in ("circle", "ring"):
        filled = {"fill": colour} if shape == "circle" else {"fill": "none"}
        at = {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": "4.5"}
        element = ET.SubElement(
            figure, "circle", {**at, **filled, "stroke": colour, "stroke-width": "1.5"}
        )
    else:
        at = {"x": f"{x - 4:.1f}", "y": f"{y - 4:.1f}", "width": "8", "height": "8", "fill": colour}
        turned = {"transform": f"rotate(45 {x:.1f} {y:.1f})"} if shape == "diamond" else {}
        element = ET.SubElement(figure, "rect", {**at, **turned})
    if said:
        ET.SubElement(element, "title").text = said
