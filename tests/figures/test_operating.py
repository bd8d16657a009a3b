import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from gsr_core.figures import operating, theme


def a_path(settings=9):
    across = np.linspace(0, np.pi, settings)
    average, worst = 0.6 + 0.3 * np.sin(across), 0.8 * np.sin(across)
    return pd.DataFrame(
        {
            "val_average": average - 0.02,
            "val_worst": worst,
            "average": average,
            "worst": worst,
            "about": [f"b × {each}" for each in range(settings)],
        }
    )


def two_points():
    table = pd.DataFrame({"point": ["as it is", "chosen"], "average": [0.8, 0.85]})
    table["worst"] = [0.5, 0.7]
    for name in ("average", "worst"):
        table[f"{name}_low"], table[f"{name}_high"] = table[name] - 0.05, table[name] + 0.04
    return table


@pytest.mark.parametrize(("split", "lines"), [("test", 2), ("val", 1)])
def test_the_path_is_joined_in_order_and_both_points_have_their_intervals(split, lines):
    path, points = a_path(), two_points()
    before = path.copy(deep=True), points.copy(deep=True)
    figure = operating.scaling_path(path, points, split=split, average_name="mean accuracy")
    pd.testing.assert_frame_equal(path, before[0])
    pd.testing.assert_frame_equal(points, before[1])
    assert [trace.name for trace in figure.data[:lines]] == [split, "val, which chose"][:lines]
    assert list(figure.data[0].y) == path["worst"].tolist()
    for trace, row in zip(figure.data[lines:], points.to_dict("records"), strict=True):
        assert (trace.name, trace.x[0], trace.y[0]) == (row["point"], row["average"], row["worst"])
        assert trace.error_y.array[0] == pytest.approx(0.04)
        assert trace.error_x.arrayminus[0] == pytest.approx(0.05)
    # What is far below both points is not what the chart is about, but the intervals are.
    low, high = figure.layout.yaxis.range
    assert 0 < low <= 0.45
    assert high >= 0.74


@pytest.mark.parametrize("groups", [1, 4, 20])
def test_each_group_has_a_line_of_errors_and_the_thresholds_are_marked(groups):
    grid = np.linspace(-3, 3, 31)
    curve = pd.concat(
        [
            pd.DataFrame(
                {
                    "threshold": expit(grid),
                    "log_odds": grid,
                    "group": f"g{g}",
                    "wrong": expit(grid - g / 5),
                }
            )
            for g in range(groups)
        ]
    )
    figure = operating.errors_by_threshold(curve, threshold=0.8, positive="cat")
    assert [trace.name for trace in figure.data] == [f"g{g}" for g in range(groups)]
    looks = {(trace.line.color, trace.line.dash) for trace in figure.data}
    assert len(looks) == groups
    marks = [shape.x0 for shape in figure.layout.shapes]
    assert marks == pytest.approx([0.0, logit(0.8)])
    ticks = dict(zip(figure.layout.xaxis.ticktext, figure.layout.xaxis.tickvals, strict=True))
    assert ticks["0.2"] == pytest.approx(logit(0.2))
    assert "0.001" not in ticks
    texts = [note.text.strip() for note in figure.layout.annotations]
    assert texts == ["0.5", "chosen: 0.8"]
    # An extreme threshold has a place too.
    operating.errors_by_threshold(curve, threshold=1.0, positive="cat").to_json()


@pytest.mark.parametrize("groups", [1, 3, 4, 6, 20])
def test_each_group_has_a_panel_of_its_own_with_its_band(groups):
    rng = np.random.default_rng(0)
    names = [f"a group of some name {g}" for g in range(groups)]
    sizes = [1 if g == groups - 1 else 5 for g in range(groups)]
    table = pd.concat(
        [
            pd.DataFrame(
                {
                    "group": name,
                    "n": 20,
                    "confidence": np.sort(rng.uniform(0.5, 1, size)),
                    "accuracy": np.where(np.arange(size) == 0, 0.2, 0.7),
                    "low": 0.6,
                    "high": 0.9,
                }
            )
            for name, size in zip(names, sizes, strict=True)
        ]
    )
    before = table.copy(deep=True)
    notes = {name: f"note {place}" for place, name in enumerate(names)}
    figure = operating.reliability_curves(table, notes)
    pd.testing.assert_frame_equal(table, before)
    assert len(figure.data) == 3 * groups
    titles = [note.text for note in figure.layout.annotations]
    for place, name in enumerate(names):
        assert theme.short(name) in titles[place]
        assert notes[name] in titles[place]
        diagonal, band, curve = figure.data[3 * place : 3 * place + 3]
        assert len({trace.xaxis for trace in (diagonal, band, curve)}) == 1
        assert list(curve.y) == table.loc[table["group"] == name, "accuracy"].tolist()
        assert (min(band.y), max(band.y)) == (0.6, 0.9)
        assert max(band.x) > min(band.x)
        # Only what chance does not explain has a ring.
        assert [width > 0 for width in curve.marker.line.width] == [True] + [False] * (
            sizes[place] - 1
        )
    shown = [axis.showticklabels for axis in figure.select_xaxes()]
    assert shown == [place + 4 >= groups for place in range(groups)]
    low, high = figure.layout.yaxis.range
    assert low < 0.2
    assert high >= 1


def test_nothing_to_show_is_said():
    none = pd.DataFrame(columns=["group", "n", "confidence", "accuracy", "low", "high"])
    assert "No group" in operating.reliability_curves(none, {}).layout.annotations[0].text
    none = pd.DataFrame(columns=["group", "log_odds", "threshold", "wrong"])
    figure = operating.errors_by_threshold(none, threshold=0.5, positive="cat")
    assert "No groups" in figure.layout.annotations[0].text
