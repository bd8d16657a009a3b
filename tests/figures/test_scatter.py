import numpy as np
import pandas as pd
import pytest

from gsr_core.figures import scatter, theme


def sample_points(n: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "x": rng.normal(size=n),
            "y": rng.normal(size=n),
            "row": rng.permutation(n) + 1000,
            "group": rng.choice(["a", "b", "c"], n),
            "number": rng.normal(size=n),
        },
        index=rng.permutation(n),
    )


KINDS = [("group", "category"), ("number", "value"), ("number", "signed")]


@pytest.mark.parametrize(("colour", "kind"), KINDS)
def test_all_points_are_one_trace_in_their_order_with_their_row(colour, kind):
    points = sample_points()
    before = points.copy(deep=True)
    figure = scatter.point_map(points, colour=colour, kind=kind)
    pd.testing.assert_frame_equal(points, before)
    main, *keys = figure.data
    np.testing.assert_array_equal(main.customdata, points["row"])
    np.testing.assert_array_equal(main.x, points["x"].to_numpy(np.float32))
    assert len(main.marker.color) == len(points)
    assert np.ndim(main.marker.size) == 0
    assert all(list(key.x) == [None] for key in keys)
    assert figure.layout.dragmode == "lasso"
    assert figure.layout.yaxis.scaleanchor == "x"


@pytest.mark.parametrize(("colour", "kind"), KINDS)
def test_the_same_points_give_the_same_bytes(colour, kind):
    first, second = (
        theme.finish(scatter.point_map(sample_points(), colour=colour, kind=kind, revision="r"))
        for _ in range(2)
    )
    assert first.to_json() == second.to_json()


def test_categories_have_a_legend_in_the_order_of_the_bundle():
    colours = theme.group_colours(["c", "b", "a", "d"])
    figure = scatter.point_map(sample_points(), colour="group", kind="category", colours=colours)
    assert [t.name for t in figure.data[1:]] == ["c", "b", "a"]
    assert [t.marker.color for t in figure.data[1:]] == [colours[name] for name in "cba"]


def test_categories_take_their_colours_by_name_where_none_are_given():
    points = sample_points()
    one = scatter.point_map(points, colour="group", kind="category")
    other = scatter.point_map(points[::-1], colour="group", kind="category")
    looks = [[(t.name, t.marker.color) for t in f.data[1:]] for f in (one, other)]
    assert looks[0] == looks[1]


def test_missing_categories_and_numbers_are_drawn_grey():
    points = sample_points()
    points.iloc[:5, points.columns.get_loc("group")] = None
    points.iloc[:5, points.columns.get_loc("number")] = np.nan
    figure = scatter.point_map(points, colour="group", kind="category")
    assert figure.data[-1].name == "unknown"
    assert figure.data[-1].marker.color == theme.UNKNOWN
    figure = scatter.point_map(points, colour="number", kind="signed")
    assert (figure.data[0].marker.color[:5] == np.float32(figure.data[0].marker.cmin)).all()
    bar = figure.data[1].marker
    assert bar.cmin == -bar.cmax
    figure.to_json()


@pytest.mark.parametrize("values", [np.nan, 0.0, 3.0])
def test_numbers_that_are_all_alike_are_drawn(values):
    points = sample_points().assign(number=values)
    for kind in ("value", "signed"):
        scatter.point_map(points, colour="number", kind=kind).to_json()


def test_many_points_cost_few_bytes_each():
    n = 50_000
    rng = np.random.default_rng(0)
    points = pd.DataFrame(
        {"x": rng.normal(size=n), "y": rng.normal(size=n), "row": range(n), "group": "a"}
    )
    figure = scatter.point_map(points, colour="group", kind="category")
    assert figure.data[0].text is None
    assert len(figure.to_json()) < 25 * n


def test_no_points_are_drawn():
    empty = sample_points().iloc[:0]
    for colour, kind in KINDS:
        scatter.point_map(empty, colour=colour, kind=kind).to_json()
