import numpy as np
import pandas as pd
import pytest

from gsr_core.figures import theme, training


def named(figure, name):
    return [trace for trace in figure.data if trace.name == name]


@pytest.mark.parametrize("groups", [1, 4, 16])
@pytest.mark.parametrize("steps", [1, 30])
def test_every_figure_has_a_line_a_group(history, groups, steps):
    table = history(groups, steps)
    before = table.copy(deep=True)
    names = [f"g{g}" for g in range(groups)]
    shares = dict.fromkeys(names, 1 / groups)
    counts = dict.fromkeys(names, 40)
    for figure in (
        training.weight_share_over_steps(table, shares, steps),
        training.effective_sample_size(table, counts, selected=steps),
        training.group_weight_over_steps(table, selected=steps),
    ):
        for name in names:
            (trace,) = named(figure, name)
            assert len(trace.x) == steps
            assert trace.line.color == theme.group_colours(names)[name]
            assert ("markers" in trace.mode) == (steps == 1)
        assert f"kept step {steps}" in [a.text for a in figure.layout.annotations]
    pd.testing.assert_frame_equal(table, before)


def test_weight_share_shows_the_share_of_the_data_and_the_worst_group(history):
    table = history(2, 5)
    figure = training.weight_share_over_steps(table, {"g0": 0.9, "g1": 0.1}, 3)
    (reference,) = named(figure, "g0, share of data")
    assert list(reference.y) == [0.9, 0.9]
    assert reference.line.dash == "dash"
    worst = table[(table["metric"] == "worst_group_accuracy") & (table["split"] == "val")]
    (val,) = named(figure, "val")
    assert list(val.y) == worst["value"].tolist()
    assert val.yaxis == "y2"
    assert {t.name for t in figure.data} >= {"target", "val", "test", "share of data"}


def test_shares_of_the_data_of_many_groups_are_marks_of_one_trace(history):
    names = [f"g{g}" for g in range(16)]
    data = {name: 0.01 * g for g, name in enumerate(names)}
    figure = training.weight_share_over_steps(history(16, 5), data, 3)
    (marks,) = named(figure, "shares of data")
    (explained,) = named(figure, "share of data")
    assert dict(zip(marks.customdata, marks.y, strict=True)) == data
    assert list(marks.marker.color) == list(theme.group_colours(names).values())
    assert min(marks.x) > 5
    # What is clicked in the legend hides them.
    assert marks.legendgroup == explained.legendgroup


def test_another_step_than_the_kept_one_is_marked_apart(history):
    for at, texts in (
        (2, {"kept step 3", "step 2"}),
        (3, {"kept step 3"}),
        (None, {"kept step 3"}),
    ):
        figure = training.weight_share_over_steps(history(2, 5), {}, 3, at=at)
        assert {each.text for each in figure.layout.annotations} == texts
        assert {shape.x0 for shape in figure.layout.shapes} == {3, at or 3}


def test_a_mean_over_seeds_has_a_band_of_one_standard_deviation(history):
    table = history(2, 5).assign(sd=0.05)
    figure = training.weight_share_over_steps(table, {}, 3)
    (line,), (band,) = named(figure, "g0"), named(figure, "g0 ± sd")
    assert list(band.y[:5]) == pytest.approx([value + 0.05 for value in line.y])
    assert list(band.y[5:][::-1]) == pytest.approx([value - 0.05 for value in line.y])


def test_colours_follow_the_bundle_not_the_table(history):
    colours = theme.group_colours(["g2", "g1", "g0"])
    figure = training.weight_share_over_steps(history(3, 4), {}, None, colours=colours)
    assert named(figure, "g2")[0].line.color == theme.group_colours(["x"])["x"]
    assert [t.name for t in figure.data][:3] == ["g2", "g1", "g0"]


def test_a_run_without_sample_weights_says_so(history):
    table = history(2, 5)
    table = table[table["metric"] != "weight_sum"]
    figure = training.weight_share_over_steps(table, {"g0": 0.5}, None)
    assert any("no weight" in a.text for a in figure.layout.annotations)
    assert named(figure, "val")


def test_live_keeps_the_length_of_the_run_and_leaves_test_out(history):
    table = history(2, 3)
    figure = training.live_worst_group(table, 100, selected=2)
    assert {t.name for t in figure.data} == {"target", "val"}
    assert figure.layout.xaxis.range[0] < 1
    assert figure.layout.xaxis.range[1] > 100


def test_live_waits_for_the_first_step(history):
    figure = training.live_worst_group(history(2, 3).iloc[:0], 10)
    assert "Waiting" in figure.layout.annotations[0].text


def test_effective_size_is_a_share_of_the_group_and_missing_groups_stay_missing(history):
    table = history(2, 3)
    figure = training.effective_sample_size(table, {"g0": 80, "g1": 0})
    of_group = table[(table["metric"] == "effective_sample_size") & (table["group"] == "g0")]
    np.testing.assert_allclose(named(figure, "g0")[0].y, of_group["value"] / 80)
    assert np.isnan(np.asarray(named(figure, "g1")[0].y, dtype=float)).all()


def test_empty_histories_and_missing_values_are_drawn(history):
    table = history(2, 3)
    table.loc[:, "value"] = np.nan
    for rows in (table, table.iloc[:0]):
        training.weight_share_over_steps(rows, {"g0": 1.0}, None).to_json()
        training.live_worst_group(rows, 3).to_json()
        training.effective_sample_size(rows, {"g0": 3}).to_json()
        training.group_weight_over_steps(rows).to_json()


def test_the_same_history_gives_the_same_bytes(history):
    def bytes_of() -> str:
        return theme.finish(
            training.weight_share_over_steps(history(4, 9), {"g0": 0.2}, 3)
        ).to_json()

    assert bytes_of() == bytes_of()


def test_each_term_of_a_loss_is_a_line_and_so_is_what_it_skipped(history):
    values = {"class_term": [3.0, 2.0], "group_term": [4.0, 4.5]}
    skipped = {"class_term_skipped": [0.0, 0.0], "group_term_skipped": [0.1, 0.2]}
    rows = [
        (step, "", "", metric, value)
        for metric, each in {**values, **skipped}.items()
        for step, value in enumerate(each, start=1)
    ]
    table = pd.concat([history(2, 2), pd.DataFrame(rows, columns=history(1, 1).columns)])
    for figure, drawn in (
        (training.loss_terms_over_steps(table, selected=2), values),
        (training.skipped_terms_over_steps(table, selected=2), skipped),
    ):
        lines = {trace.name: list(trace.y) for trace in figure.data}
        assert lines == dict(
            zip(("between classes", "between groups"), drawn.values(), strict=True)
        )
        assert [note.text for note in figure.layout.annotations] == ["kept step 2"]
        assert figure.layout.legend.title.text == "term"
    empty = training.loss_terms_over_steps(history(2, 2))
    assert [note.text for note in empty.layout.annotations] == [
        "This run recorded no such numbers."
    ]
