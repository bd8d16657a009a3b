"""Charts without script are XML that says what the table says, and obeys no name."""

import re
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from gsr_core.figures import static

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "<script>alert(1)</script> \"'&]]>"


def accuracies(groups: list[str], share: np.ndarray) -> pd.DataFrame:
    rows = [
        {
            "label": label,
            "group": group,
            "accuracy": value,
            "low": value - 0.05,
            "high": value + 0.05,
        }
        for label, values in zip(("before", "after"), share, strict=True)
        for group, value in zip(groups, values, strict=True)
    ]
    return pd.DataFrame(rows)


def marks(figure: ET.Element) -> dict[str, float]:
    """The horizontal place of each mark by what it says when it is pointed at."""
    found = {}
    for each in figure:
        said = each.find(f"{SVG}title")
        if said is not None and each.tag in (f"{SVG}circle", f"{SVG}rect"):
            at = each.get("cx") or float(each.get("x", "0")) + float(each.get("width", "0")) / 2
            found[said.text or ""] = float(at)
    return found


def test_marks_stand_where_their_accuracy_is():
    groups = ["a", "b", HOSTILE]
    share = np.array([[0.1, 0.9, 0.5], [0.7, 0.8, np.nan]])
    colours = {"before": "#112233", "after": "#445566"}
    figure = ET.fromstring(static.dots(accuracies(groups, share), colours))
    found = marks(figure)
    assert len(found) == 5
    assert f"before, {HOSTILE}: 50.0%" in found
    values = [float(re.findall(r"([\d.]+)%$", said)[0]) for said in found]
    slope, start = np.polyfit(values, list(found.values()), 1)
    assert slope > 0
    assert list(found.values()) == pytest.approx([start + slope * each for each in values], abs=0.1)
    assert not figure.findall(f".//{SVG}script")


def test_of_many_groups_the_worst_are_drawn():
    groups = [f"group {number}" for number in range(40)]
    share = np.array([np.linspace(0.9, 0.1, 40), np.linspace(0.95, 0.15, 40)])
    text = static.dots(accuracies(groups, share), {"before": "#112233", "after": "#445566"})
    drawn = {said.split(", ")[1].split(":")[0] for said in marks(ET.fromstring(text))}
    assert drawn == set(groups[-static.GROUPS :])


def history(paths: dict[str, np.ndarray]) -> pd.DataFrame:
    return pd.concat(
        [
            pd.DataFrame({"group": name, "step": np.arange(1, len(path) + 1), "value": path})
            for name, path in paths.items()
        ]
    )


def test_lines_follow_the_shares_and_their_names_keep_apart():
    paths = {f"{HOSTILE} {k}": np.linspace(0.1, 0.1 + 0.001 * k, 50) for k in range(8)}
    shares = dict.fromkeys(paths, 0.1)
    figure = ET.fromstring(static.lines(history(paths), shares, 7, dict.fromkeys(paths, "#123456")))
    drawn = figure.findall(f"{SVG}polyline")
    assert len(drawn) == 8
    heights, values = [], []
    for line, path in zip(drawn, paths.values(), strict=True):
        points = np.array([pair.split(",") for pair in line.get("points", "").split()], dtype=float)
        steps = np.polyfit(np.arange(1, 51), points[:, 0], 1)
        assert points[:, 0] == pytest.approx(np.polyval(steps, np.arange(1, 51)), abs=0.1)
        heights.append(points[:, 1])
        values.append(path)
    # One straight scale for all, on which up is more.
    heights, values = np.concatenate(heights), np.concatenate(values)
    slope, start = np.polyfit(values, heights, 1)
    assert slope < 0
    assert heights == pytest.approx(start + slope * values, abs=0.1)
    places = sorted(float(each.get("y", "0")) for each in figure.findall(f"{SVG}rect"))
    assert (np.diff(places) >= 14.9).all()
    assert places[-1] <= 320


def test_of_many_groups_those_that_move_are_drawn_and_long_runs_are_thinned():
    paths = {f"still {k}": np.full(5000, 0.05) for k in range(12)}
    paths |= {f"moving {k}": np.linspace(0.05, 0.05 + 0.01 * (k + 1), 5000) for k in range(8)}
    text = static.lines(history(paths), dict.fromkeys(paths, 0.05), 5000, {})
    figure = ET.fromstring(text)
    names = {each.text for each in figure.findall(f"{SVG}text")}
    assert {f"moving {k}" for k in range(8)} <= names
    assert not [name for name in names if (name or "").startswith("still")]
    for line in figure.findall(f"{SVG}polyline"):
        points = line.get("points", "").split()
        assert len(points) <= 240
        # Both ends are there.
        assert [points[0].split(",")[0], points[-1].split(",")[0]] == ["56.0", "550.0"]
    assert len(text) < 60_000
