import numpy as np
import pandas as pd

from gsr_core.figures import theme
from gsr_core.figures.what_if import group_changes, predicted_against_happened


def changes() -> pd.DataFrame:
    return pd.DataFrame(
        [
            ("a", 0.10, 0.05, 0.15, "better", -0.5, -0.7, -0.3, -0.4),
            ("b", -0.20, -0.3, -0.1, "worse", 0.9, 0.7, 1.1, 0.2),
            ("c", 0.00, -0.1, 0.1, "too few changed", 0.1, -0.1, 0.3, 0.1),
            ("empty", np.nan, np.nan, np.nan, "", np.nan, np.nan, np.nan, np.nan),
        ],
        columns=[
            *("group", "change", "low", "high", "verdict"),
            *("loss_change", "loss_low", "loss_high", "predicted"),
        ],
    )


def named(figure, name):
    return next(trace for trace in figure.data if trace.name == name)


def test_less_loss_is_as_good_as_more_accuracy():
    for measure, first in (("accuracy", 10), ("loss", -0.5)):
        figure = group_changes(changes(), measure=measure)
        better = named(figure, "better")
        assert (list(better.x), better.marker.color) == ([first], theme.HELPS)
        assert named(figure, "worse").marker.color == theme.HARMS
        assert list(named(figure, "not beyond chance").y) == [2]
        assert list(figure.layout.yaxis.ticktext) == ["a", "b", "c"]
    assert "nats" in figure.layout.xaxis.title.text
    np.testing.assert_allclose(named(figure, "better").error_x.array, [0.2])


def test_random_edits_lie_behind_the_group_they_are_of():
    chance = pd.DataFrame({"group": ["b", "a"], "low": [-0.1, -0.2], "high": [0.1, 0.3]})
    bars = named(group_changes(changes(), chance=chance), "95 of 100 random edits")
    assert (list(bars.y), list(bars.base)) == ([1, 0], [-10, -20])
    np.testing.assert_allclose(bars.x, [20, 50])


def test_the_line_goes_as_far_as_predictions_and_random_rows_keep_their_colour():
    cloud = pd.DataFrame(
        {"group": ["a", "b"], "predicted": [-0.6, 0.3], "loss_change": [-0.5, 0.4]}
    )
    colours = theme.group_colours(["a", "b", "c"])
    figure = predicted_against_happened(changes(), cloud=cloud, colours=colours)
    assert list(named(figure, "as predicted").x) == [-0.6, 0.3]
    assert list(named(figure, "as predicted").y) == [-0.6, 0.3]
    edit = named(figure, "this edit")
    assert list(edit.marker.color) == list(colours.values())
    assert list(named(figure, "random rows").marker.color) == [0, 1]
    theme.finish(figure, dark=True).to_json()


def test_without_samples_there_is_a_note():
    for draw in (group_changes, predicted_against_happened):
        assert "No group has samples" in draw(changes().iloc[3:]).layout.annotations[0].text
