import numpy as np
import pandas as pd
import pytest

from gsr_core.figures import sweep, theme


def named(figure, name):
    return [trace for trace in figure.data if trace.name == name]


@pytest.fixture
def table() -> pd.DataFrame:
    """Five trials in no order; the third failed."""
    return pd.DataFrame(
        {
            "trial": [2, 1, 3, 4, 5],
            "score": [0.5, 0.6, np.nan, 0.7, 0.65],
            "text": ["two", "one", "three", "four", "five"],
            "l2": [1e-3, 1e-2, 0.1, 1e-4, 1.0],
            "up": [2.0, 3.0, 4.0, 5.0, 6.0],
            "penalty": ["l2", "l1", "l2", "l2", "l1"],
            "standardise": [True, False, True, True, False],
        }
    )


def test_the_line_is_the_best_of_all_trials_before(table):
    before = table.copy(deep=True)
    figure = sweep.best_so_far(table, 8, score_name="worst-group accuracy on val", winner=4)
    (line,) = named(figure, "best so far")
    # It passes over the failed trial and goes on to the last.
    assert list(zip(line.x, line.y, strict=True)) == [
        (1, 0.6),
        (2, 0.6),
        (4, 0.7),
        (5, 0.7),
        (5, 0.7),
    ]
    (dots,) = named(figure, "one trial")
    assert dict(zip(dots.x, dots.y, strict=True)) == {1: 0.6, 2: 0.5, 4: 0.7, 5: 0.65}
    (failed,) = named(figure, "failed")
    assert list(failed.x) == [3]
    assert list(failed.hovertext) == ["three"]
    (star,) = named(figure, "winner, trial 4")
    assert (star.x[0], star.y[0], star.marker.color) == (4, 0.7, theme.ACCENT)
    assert figure.layout.yaxis.title.text == "worst-group accuracy on val"
    assert figure.layout.xaxis.range[1] > 8
    pd.testing.assert_frame_equal(table, before)


def test_a_sweep_before_its_first_score_draws(table):
    empty = sweep.best_so_far(table[:0], 8)
    assert [each.text for each in empty.layout.annotations] == ["Waiting for the first trial."]
    failed = sweep.best_so_far(table[table["score"].isna()], 8)
    assert [len(trace.x) for trace in failed.data] == [0, 0, 1]
    nothing = sweep.parallel_settings(table[:0], ["l2"])
    assert [each.text for each in nothing.layout.annotations] == ["No trial has a score yet."]


def test_each_setting_is_an_axis_in_its_own_scale(table):
    before = table.copy(deep=True)
    figure = sweep.parallel_settings(
        table,
        ["l2", "up", "penalty", "standardise"],
        log=["l2"],
        choices={"penalty": ("l2", "l1"), "standardise": (True, False)},
        score_name="score on val",
    )
    (trace,) = figure.data
    l2, up, penalty, standardise, score = trace.dimensions
    # The failed trial has no line.
    np.testing.assert_allclose(l2["values"], [-3, -2, -4, 0])
    assert dict(zip(l2.tickvals, l2.ticktext, strict=True)) == {
        -4: "0.0001",
        -3: "0.001",
        -2: "0.01",
        -1: "0.1",
        0: "1",
    }
    assert list(up["values"]) == [2, 3, 5, 6]
    assert list(penalty["values"]) == [0, 1, 0, 1]
    assert list(penalty.ticktext) == ["l2", "l1"]
    assert list(standardise["values"]) == [0, 1, 0, 1]
    assert score.label == "score on val"
    assert list(score["values"]) == [0.5, 0.6, 0.7, 0.65]
    assert list(trace.line.color) == [0.5, 0.6, 0.7, 0.65]
    assert (trace.line.cmin, trace.line.cmax) == (0.5, 0.7)
    pd.testing.assert_frame_equal(table, before)


@pytest.mark.parametrize("values", [[0.03], [0.2, 0.9], [1e-4, 1.0], [5.0, 700.0]])
def test_ticks_of_a_log_axis_lie_on_it(values):
    table = pd.DataFrame({"score": 0.5, "l2": values})
    (trace,) = sweep.parallel_settings(table, ["l2"], log=["l2"]).data
    axis, score = trace.dimensions
    low, high = axis.range
    assert low < high
    assert all(low - 1e-6 <= tick <= high + 1e-6 for tick in axis.tickvals)
    assert [float(text) for text in axis.ticktext] == pytest.approx(
        [10**tick for tick in axis.tickvals]
    )
    assert score.range[0] < 0.5 < score.range[1]
