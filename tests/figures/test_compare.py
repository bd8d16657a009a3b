import numpy as np
import pandas as pd
import pytest

from gsr_core.figures import compare


def runs() -> pd.DataFrame:
    return pd.DataFrame(
        [
            ("r1", "ERM", "erm", 0.60, 0.97),
            ("r2", "GSR", "gsr", 0.90, 0.94),
            ("r3", "GSR cold", "gsr", 0.88, 0.93),
            ("r4", "LLR", "llr", 0.70, 0.96),
        ],
        columns=["run", "label", "method", "worst", "average"],
    )


def named(figure, name):
    return next(trace for trace in figure.data if trace.name == name)


def points(seeds: int = 3) -> pd.DataFrame:
    rows = runs()
    parts = [
        rows.assign(seed=seed, worst=rows["worst"] + 0.01 * (seed - 1)) for seed in range(seeds)
    ]
    return pd.concat(parts, ignore_index=True)


def test_the_front_holds_the_runs_that_none_beats():
    table = runs()
    before = table.copy(deep=True)
    figure = compare.worst_against_average(table, average_name="mean accuracy")
    pd.testing.assert_frame_equal(table, before)
    front = named(figure, "not beaten on both")
    assert list(front.x) == [0.97, 0.96, 0.94]
    assert list(front.y) == [0.60, 0.70, 0.90]
    cold = named(figure, "GSR cold")
    assert list(cold.customdata) == ["r3"]
    assert "GSR cold" in cold.hovertext[0]
    assert figure.layout.xaxis.title.text == "mean accuracy"
    assert len({(t.marker.color, t.marker.symbol) for t in figure.data if t.text}) == 4


def test_error_bars_are_drawn_where_there_are_intervals():
    table = runs()
    assert named(compare.worst_against_average(table), "GSR").error_y.array is None
    table = table.assign(worst_low=table["worst"] - 0.02, worst_high=table["worst"] + 0.01)
    table = table.assign(average_low=np.nan, average_high=np.nan)
    table.loc[1, ["average_low", "average_high"]] = [0.93, 0.96]
    figure = compare.worst_against_average(table)
    np.testing.assert_allclose(named(figure, "GSR").error_y.array, 0.01)
    np.testing.assert_allclose(named(figure, "GSR").error_y.arrayminus, 0.02)
    np.testing.assert_allclose(named(figure, "GSR").error_x.array, 0.02)
    np.testing.assert_allclose(named(figure, "GSR").error_x.arrayminus, 0.01)
    assert named(figure, "ERM").error_x.array is None


def test_every_seed_is_a_faint_point_unless_there_is_only_one():
    figure = compare.worst_against_average(runs(), points=points())
    seeds = named(figure, "one seed")
    assert len(seeds.x) == 12
    assert seeds.marker.opacity < 0.5
    assert seeds.marker.color[1] == named(figure, "GSR").marker.color
    assert "GSR</b>, seed 0<br>worst group 89.0%" in seeds.hovertext[1]
    low, high = figure.layout.yaxis.range
    assert low < 0.59
    assert high > 0.91
    alone = compare.worst_against_average(runs(), points=points(1))
    assert "one seed" not in [trace.name for trace in alone.data]


def test_labels_without_room_are_left_to_the_legend():
    table = pd.DataFrame(
        {
            "run": [f"r{i}" for i in range(20)],
            "label": [f"the same place {i}" for i in range(20)],
            "method": "gsr",
            "worst": 0.8,
            "average": 0.9,
        }
    )
    figure = compare.worst_against_average(table)
    traces = [trace for trace in figure.data if trace.customdata is not None]
    labelled = [bool(trace.text[0]) for trace in traces]
    assert 0 < sum(labelled) < 9
    assert [trace.showlegend for trace in traces] == [not each for each in labelled]


@pytest.mark.parametrize("groups", [1, 16])
def test_group_dots_have_one_trace_a_run_and_one_row_a_group(groups):
    table = pd.DataFrame(
        [(run, f"g{g}", 0.8, 0.75, 0.84) for run in ("ERM", "GSR", "DFR") for g in range(groups)],
        columns=["label", "group", "accuracy", "low", "high"],
    )
    table.loc[0, ["accuracy", "low", "high"]] = np.nan
    figure = compare.group_dots(table)
    assert [t.name for t in figure.data] == ["ERM", "GSR", "DFR"]
    for trace in figure.data:
        assert list(np.round(np.asarray(trace.y, dtype=float)).astype(int)) == list(range(groups))
    assert len({t.marker.symbol for t in figure.data}) == 3
    assert list(figure.layout.yaxis.ticktext) == [f"g{g}" for g in range(groups)]
    figure.to_json()


def test_labels_have_the_room_that_a_chart_gives_and_tell_what_differs():
    groups = [f"mean brightness of the border > 0.{n}1234, class seven" for n in range(3)]
    labels = [f"GSR · l2 0.01 · lr {lr} · temperature 0.5" for lr in (0.1, 0.2)]
    table = pd.DataFrame(
        [(label, group, 0.8, 0.75, 0.84) for label in labels for group in groups],
        columns=["label", "group", "accuracy", "low", "high"],
    )
    for width in (26, 60):
        figure = compare.group_dots(table, width=width)
        assert len(set(figure.layout.yaxis.ticktext)) == 3
        assert len({trace.name for trace in figure.data}) == 2
    assert list(figure.layout.yaxis.ticktext) == groups
    assert figure.layout.margin.l > compare.group_dots(table).layout.margin.l
    worst = runs().iloc[:2].assign(label=labels, worst=0.9, average=0.95)
    assert len({t.name for t in compare.worst_against_average(worst).data if t.customdata}) == 2


def test_the_seeds_of_a_dot_lie_in_its_row():
    table = pd.DataFrame(
        [(run, f"g{g}", 0.8, 0.75, 0.84) for run in ("ERM", "GSR") for g in range(3)],
        columns=["label", "group", "accuracy", "low", "high"],
    )
    seeds = pd.concat([table.assign(seed=seed, accuracy=0.8 + seed / 100) for seed in range(2)])
    figure = compare.group_dots(table, points=seeds)
    faint = named(figure, "one seed")
    for (label, _, group), x, y in zip(faint.customdata, faint.x, faint.y, strict=True):
        row = list(table.loc[table["label"] == label, "group"]).index(group)
        assert y == named(figure, label).y[row]
        assert x in (0.8, 0.81)


def test_empty_tables_and_single_rows_are_drawn():
    compare.worst_against_average(runs().iloc[:0]).to_json()
    compare.worst_against_average(runs().iloc[:1]).to_json()
    empty = pd.DataFrame(columns=["label", "group", "accuracy", "low", "high"])
    compare.group_dots(empty).to_json()
