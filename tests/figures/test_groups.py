import numpy as np
import pandas as pd
import pytest

from gsr_core.figures import groups, theme


def accuracies(m: int) -> pd.DataFrame:
    accuracy = np.linspace(0.4, 0.95, m)
    return pd.DataFrame(
        {
            "group": [f"g{g}" for g in range(m)],
            "n": [12 if g == m - 1 and m > 1 else 100 for g in range(m)],
            "accuracy": accuracy,
            "low": accuracy - 0.05,
            "high": accuracy + 0.04,
            "worst": [g == 0 for g in range(m)],
            "enough": [not (g == m - 1 and m > 1) for g in range(m)],
        }
    )


@pytest.mark.parametrize("m", [1, 4, 16])
def test_accuracy_has_a_dot_with_its_interval_for_each_group_in_order(m):
    table = accuracies(m)
    before = table.copy(deep=True)
    figure = groups.group_accuracy(table, mean=0.9, adjusted=0.91)
    pd.testing.assert_frame_equal(table, before)
    assert [t.name for t in figure.data] == list(table["group"])
    assert [t.y[0] for t in figure.data] == list(range(m))
    first = figure.data[0]
    assert first.error_x.array[0] == pytest.approx(0.04)
    assert first.error_x.arrayminus[0] == pytest.approx(0.05)
    assert first.marker.line.color == theme.ACCENT
    texts = " ".join(a.text for a in figure.layout.annotations)
    assert "worst group" in texts
    assert "mean 90.0%" in texts
    assert "adjusted 91.0%" in texts
    low, high = figure.layout.xaxis.range
    assert low <= table["low"].min()
    assert high >= min(table["high"].max(), 1)


def test_a_group_too_small_to_judge_is_grey_and_says_so():
    figure = groups.group_accuracy(accuracies(4))
    assert figure.data[3].marker.color == theme.UNKNOWN
    assert "too few to judge" in figure.layout.annotations[3].text
    assert figure.data[1].marker.color != theme.UNKNOWN


def test_a_group_without_samples_keeps_its_row():
    table = accuracies(3)
    table.loc[1, ["accuracy", "low", "high"]] = np.nan
    table.loc[1, "n"] = 0
    figure = groups.group_accuracy(table, mean=np.nan)
    assert len(figure.data) == 3
    assert figure.layout.annotations[1].text.startswith("–")
    figure.to_json()


def test_sizes_show_every_split_and_group_and_leave_empty_ones_without_colour():
    table = pd.DataFrame(
        [("train", "a", 3498, 0.73), ("train", "b", 0, 0.0), ("val", "a", 7, 1.0)],
        columns=["split", "group", "count", "share"],
    )
    before = table.copy(deep=True)
    figure = groups.group_sizes(table)
    pd.testing.assert_frame_equal(table, before)
    heat = figure.data[0]
    assert list(heat.x) == ["train", "val"]
    np.testing.assert_array_equal(np.isnan(heat.z), [[False, False], [True, True]])
    assert [list(row) for row in heat.text] == [["3,498 (73.0%)", "7 (100.0%)"], ["0", "–"]]
    coloured, blank = figure.data[1:]
    assert list(coloured.text) == ["3,498 (73.0%)", "7 (100.0%)"]
    assert list(coloured.textfont.color) == ["#000000", "#000000"]
    assert list(blank.text) == ["0", "–"]


def test_confusion_has_a_row_a_group_and_marks_the_right_class():
    table = pd.DataFrame(
        [("a", "cat", "cat", 0.8), ("a", "cat", "dog", 0.2), ("b", "dog", "dog", 1.0)],
        columns=["group", "y", "prediction", "share"],
    )
    figure = groups.confusion(table)
    np.testing.assert_allclose(figure.data[0].z, [[0.8, 0.2], [0.0, 1.0]])
    assert [list(row) for row in figure.data[0].text] == [
        ["<b>80.0%</b>", "20.0%"],
        ["0", "<b>100.0%</b>"],
    ]
    assert list(figure.layout.yaxis.ticktext) == ["a", "b"]


def test_confusion_names_the_class_where_a_group_has_several():
    table = pd.DataFrame(
        [("a", 0, 0, 1.0), ("a", 1, 0, 1.0)], columns=["group", "y", "prediction", "share"]
    )
    assert list(groups.confusion(table).layout.yaxis.ticktext) == ["a · 0", "a · 1"]


def test_empty_tables_are_drawn():
    groups.group_accuracy(accuracies(1).iloc[:0]).to_json()
    groups.group_sizes(pd.DataFrame(columns=["split", "group", "count", "share"])).to_json()
    groups.confusion(pd.DataFrame(columns=["group", "y", "prediction", "share"])).to_json()


def test_the_same_table_gives_the_same_bytes():
    assert groups.group_accuracy(accuracies(4)).to_json() == (
        groups.group_accuracy(accuracies(4)).to_json()
    )


def test_a_row_can_be_something_else_than_a_group():
    figure = groups.group_accuracy(accuracies(4), what="slice")
    texts = " ".join(a.text for a in figure.layout.annotations)
    assert "worst slice" in texts
    assert "group" not in texts
