import numpy as np
import pandas as pd
import pytest

from gsr_core.figures import study, theme


def named(figure, name):
    return next(trace for trace in figure.data if trace.name == name)


def points(levels=(0.0, 0.1, 0.3), seeds: int = 3) -> pd.DataFrame:
    return pd.DataFrame(
        [
            (method, level, seed, 0.9 - level - 0.01 * seed, 0.8 - level - 0.01 * seed)
            for method in ("GSR", "LLR")
            for level in levels
            for seed in range(seeds)
        ],
        columns=["method", "level", "seed", "val", "test"],
    )


def table(rows: pd.DataFrame) -> pd.DataFrame:
    grouped = rows.groupby(["method", "level"], sort=False)[["val", "test"]]
    found = grouped.mean().join(grouped.std().add_suffix("_sd")).reset_index()
    return found.assign(gap=found["val"] - found["test"])


def test_lines_have_error_bars_over_seeds_and_seeds_as_points():
    rows = points().assign(x=points()["level"])
    given = table(rows).assign(x=table(rows)["level"])
    before = given.copy(deep=True)
    figure = study.accuracy_over_levels(given, rows, axis="labels flipped (%)")
    pd.testing.assert_frame_equal(given, before)
    gsr = named(figure, "GSR")
    np.testing.assert_allclose(gsr.x, [0, 0.1, 0.3])
    np.testing.assert_allclose(gsr.y, [0.79, 0.69, 0.49])
    np.testing.assert_allclose(gsr.error_y.array, 0.01)
    assert gsr.error_y.visible
    assert len(named(figure, "one seed").x) == 18
    assert figure.layout.xaxis.title.text == "labels flipped (%)"
    assert list(figure.layout.xaxis.ticktext) == ["0 %", "10 %", "30 %"]
    low, high = figure.layout.yaxis.range
    assert low < 0.48
    assert high > 0.8
    assert named(figure, "LLR").line.color != gsr.line.color


def test_one_seed_has_no_error_bar_and_no_faint_point():
    rows = points(seeds=1)
    figure = study.accuracy_over_levels(
        table(rows).assign(x=table(rows)["level"]), rows.assign(x=rows["level"]), axis="x"
    )
    assert [trace.name for trace in figure.data] == ["GSR", "LLR"]
    assert not named(figure, "GSR").error_y.visible
    figure.to_json()


def test_counts_of_labels_are_on_a_logarithmic_axis():
    rows = points((15, 60, 300)).assign(x=points((15, 60, 300))["level"])
    figure = study.accuracy_over_levels(
        table(rows).assign(x=table(rows)["level"]), rows, axis="rows", log=True
    )
    assert figure.layout.xaxis.type == "log"
    assert list(figure.layout.xaxis.ticktext) == ["15", "60", "300"]


@pytest.mark.parametrize("m", [1, 4, 16])
def test_flipped_rows_are_told_from_clean_ones_of_the_same_group(m):
    groups = [f"g{g}" for g in range(m)]
    rows = pd.DataFrame(
        [
            (level, group, flipped, 5, 2.0 - flipped, 0.1)
            for group in ["all", *groups]
            for level in (0.0, 0.2)
            for flipped in (False, True)
            if level or not flipped
        ],
        columns=["level", "group", "flipped", "samples", "weight", "weight_sd"],
    )
    colours = theme.group_colours(groups)
    figure = study.flipped_and_clean(rows, colours)
    assert len(figure.data) == 2 * (m + 1)
    clean, flipped = named(figure, "g0, clean"), named(figure, "g0, flipped")
    assert clean.line.color == flipped.line.color == colours["g0"]
    assert clean.line.dash != flipped.line.dash
    assert (list(clean.x), list(flipped.x)) == ([0, 0.2], [0.2])
    np.testing.assert_allclose(flipped.y, 1)
    assert "×" in figure.layout.yaxis.title.text
    assert figure.layout.shapes[0].y0 == 1


def test_val_and_test_are_joined_row_by_row():
    rows = points((0.0, 1.0))
    figure = study.val_against_test(table(rows), rows)
    val, test = named(figure, "val"), named(figure, "test")
    assert list(figure.layout.yaxis.ticktext) == [
        *("GSR, own sets", "GSR, one set", "LLR, own sets", "LLR, one set")
    ]
    np.testing.assert_allclose(np.array(val.x) - np.array(test.x), 0.1)
    ends = [(shape.x0, shape.x1, shape.y0) for shape in figure.layout.shapes]
    assert ends == [(x, z, y) for x, z, y in zip(val.x, test.x, val.y, strict=True)]
    faint = [trace for trace in figure.data if trace.name == "one seed"]
    assert [len(trace.x) for trace in faint] == [12, 12]
    assert set(np.round(np.asarray(faint[0].y, dtype=float))) == {0, 1, 2, 3}


def test_without_a_run_there_is_a_note():
    rows = points().iloc[:0]
    for figure in (
        study.accuracy_over_levels(table(points()).iloc[:0], rows, axis="x"),
        study.val_against_test(table(points()).iloc[:0], rows),
        study.flipped_and_clean(pd.DataFrame(columns=["group", "level"])),
    ):
        assert "finished yet" in figure.layout.annotations[0].text
