import json
from base64 import b64decode

import numpy as np
import pandas as pd
import pytest

from gsr_core.figures import scatter, theme
from gsr_core.figures.inks import MOST_COLOURS
from gsr_core.figures.scatter_3d import point_map_3d


def sample_points(n: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "x": rng.normal(size=n),
            "y": 5 * rng.normal(size=n) + 100,
            "z": rng.normal(size=n),
            "row": rng.permutation(n) + 1000,
            "group": rng.choice(["a", "b", "c"], n),
            "number": rng.normal(size=n),
        },
        index=rng.permutation(n),
    )


def unpacked(text: str, layout: str) -> np.ndarray:
    return np.frombuffer(b64decode(text), layout)


def inks(described: dict) -> list[str]:
    """The colour of every point."""
    return [described["inks"][code] for code in unpacked(described["codes"], "<u2")]


def said(described: dict) -> list[str]:
    return [described["names"][code] for code in unpacked(described["codes"], "<u2")]


KINDS = [("group", "category"), ("number", "value"), ("number", "signed")]


@pytest.mark.parametrize(("colour", "kind"), KINDS)
def test_points_keep_their_order_row_and_place(colour, kind):
    points = sample_points()
    before = points.copy(deep=True)
    described = scatter.point_map(points, colour=colour, kind=kind)
    pd.testing.assert_frame_equal(points, before)
    np.testing.assert_array_equal(unpacked(described["rows"], "<i4"), points["row"])
    for axis, (low, high) in {"x": described["extent"][:2], "y": described["extent"][2:]}.items():
        place = low + unpacked(described[axis], "<u2") / 65535 * (high - low)
        # A level is far less than a pixel.
        np.testing.assert_allclose(place, points[axis], atol=(high - low) / 65535)
    assert described["n"] == len(points) == len(inks(described))


@pytest.mark.parametrize(("colour", "kind"), KINDS)
def test_the_same_points_give_the_same_bytes(colour, kind):
    first, second = (
        json.dumps(scatter.point_map(sample_points(), colour=colour, kind=kind), allow_nan=False)
        for _ in range(2)
    )
    assert first == second


def test_the_digests_tell_places_from_looks():
    points = sample_points()
    by_group = scatter.point_map(points, colour="group", kind="category")
    by_number = scatter.point_map(points, colour="number", kind="value")
    moved = scatter.point_map(points.assign(x=-points["x"]), colour="group", kind="category")
    assert by_group["places"] == by_number["places"] != moved["places"]
    assert len({each["content"] for each in (by_group, by_number, moved)}) == 3


def test_categories_have_a_legend_in_the_order_of_the_bundle():
    points = sample_points()
    colours = theme.group_colours(["c", "b", "a", "d"])
    described = scatter.point_map(points, colour="group", kind="category", colours=colours)
    assert [each["name"] for each in described["legend"]] == ["c", "b", "a"]
    assert [each["ink"] for each in described["legend"]] == [colours[name] for name in "cba"]
    assert {each["name"]: each["count"] for each in described["legend"]} == dict(
        points["group"].value_counts()
    )
    assert inks(described) == [colours[name] for name in points["group"]]
    assert said(described) == list(points["group"])


def test_categories_take_their_colours_by_name_where_none_are_given():
    points = sample_points()
    one = scatter.point_map(points, colour="group", kind="category")
    other = scatter.point_map(points[::-1], colour="group", kind="category")
    assert one["legend"] == other["legend"]
    assert inks(one) == inks(other)[::-1]


def test_categories_may_be_numbers_and_truths():
    points = sample_points().assign(number=np.arange(60) % 3, truth=np.arange(60) % 2 == 0)
    described = scatter.point_map(points, colour="number", kind="category")
    assert said(described) == [str(value) for value in points["number"]]
    described = scatter.point_map(points, colour="truth", kind="category")
    assert said(described) == [str(value) for value in points["truth"]]


@pytest.mark.parametrize("given", [False, True])
def test_of_many_categories_the_commonest_have_a_colour_and_all_keep_their_name(given):
    names = [f"cluster {place:02}" for place in range(40)]
    column = np.repeat(names, np.arange(40) + 1)
    points = sample_points(len(column)).assign(group=column)
    colours = theme.group_colours(names) if given else None
    described = scatter.point_map(points, colour="group", kind="category", colours=colours)
    *shown, rest = described["legend"]
    assert [each["name"] for each in shown] == names[-MOST_COLOURS:]
    assert rest["name"] == "24 others"
    assert rest["count"] == sum(range(1, 25))
    assert len({each["ink"] for each in shown}) == MOST_COLOURS
    assert said(described) == list(column)
    grey = [ink == theme.UNKNOWN for ink in inks(described)]
    assert grey == [name < "cluster 24" for name in column]


def test_missing_categories_and_numbers_are_grey_and_said_to_be():
    points = sample_points()
    points.iloc[:5, points.columns.get_loc("group")] = None
    points.iloc[:5, points.columns.get_loc("number")] = np.nan
    described = scatter.point_map(points, colour="group", kind="category")
    assert described["legend"][-1] == {
        "name": "unknown",
        "ink": theme.UNKNOWN,
        "symbol": "circle",
        "count": 5,
    }
    assert said(described)[:5] == ["unknown"] * 5
    for kind in ("signed", "value"):
        described = scatter.point_map(points, colour="number", kind=kind)
        assert [ink == theme.UNKNOWN for ink in inks(described)] == [True] * 5 + [False] * 55
        assert [each["count"] for each in described["legend"]] == [5]
        assert np.isnan(unpacked(described["values"], "<f4")[:5]).all()


def test_colour_grows_with_the_number_and_zero_is_neutral():
    points = sample_points(5).assign(number=[-2.0, -1.0, 0.0, 1.0, 2.0])
    described = scatter.point_map(points, colour="number", kind="signed")
    bar = described["bar"]
    assert bar["low"] == -bar["high"]
    codes = unpacked(described["codes"], "<u2").astype(int)
    assert (np.diff(codes) > 0).all()
    assert codes[0] == 0
    assert codes[-1] == len(bar["inks"]) - 1
    # Between the two shades in the middle of an even number of them.
    assert abs(codes[2] - (len(bar["inks"]) - 1) / 2) <= 0.5
    assert inks(described)[0] == theme.DIVERGING[0][1]
    assert inks(described)[-1] == theme.DIVERGING[-1][1]


def test_a_bar_says_when_its_ends_take_in_more():
    points = sample_points(1000).assign(number=np.arange(1000.0))
    bar = scatter.point_map(points, colour="number", kind="value")["bar"]
    assert (bar["below"], bar["above"]) == (True, True)
    np.testing.assert_allclose([bar["low"], bar["high"]], [9.99, 989.01])
    bar = scatter.point_map(points.assign(number=3.0), colour="number", kind="value")["bar"]
    assert (bar["below"], bar["above"]) == (False, False)


@pytest.mark.parametrize("values", [np.nan, 0.0, 3.0])
def test_numbers_that_are_all_alike_are_drawn(values):
    points = sample_points().assign(number=values)
    for kind in ("value", "signed"):
        described = scatter.point_map(points, colour="number", kind=kind)
        assert len(set(inks(described))) == 1
        json.dumps(described, allow_nan=False)


def test_points_on_one_spot_have_an_extent():
    points = sample_points().assign(x=2.0, y=-1.0)
    described = scatter.point_map(points, colour="group", kind="category")
    assert described["extent"] == [1.5, 2.5, -1.5, -0.5]


def test_few_points_have_names_and_shapes_and_many_cost_few_bytes_each():
    few = sample_points().assign(sample_id=[f"image {place}" for place in range(60)])
    described = scatter.point_map(few, colour="group", kind="category")
    assert described["ids"] == list(few["sample_id"])
    assert len(set(described["symbols"])) == 3
    many = pd.concat([few] * 1000, ignore_index=True)
    for colour, kind in KINDS:
        described = scatter.point_map(many, colour=colour, kind=kind)
        assert described["ids"] is None
        assert described["symbols"] is None
        assert len(json.dumps(described)) < 20 * len(many)


def test_no_points_are_drawn():
    empty = sample_points().iloc[:0]
    for colour, kind in KINDS:
        assert scatter.point_map(empty, colour=colour, kind=kind)["n"] == 0
        assert scatter.density_map(empty, np.arange(0), colour=colour, kind=kind)["n"] == 0
        assert point_map_3d(empty, colour=colour, kind=kind).data


def test_a_density_image_grows_with_the_count_and_shows_every_lone_sample():
    # One sample in the first corner, ten in the second, a thousand in the third; y grows upwards.
    corners = np.repeat([[0.0, 0.0], [8.0, 0.0], [8.0, 4.0]], [1, 10, 1000], axis=0)
    points = sample_points(len(corners)).assign(x=corners[:, 0], y=corners[:, 1])
    described = scatter.density_map(points, np.array([0, 5]), colour="group", kind="category")
    density = described["density"]
    assert (density["columns"], density["lines"]) == (240, 120)
    assert density["most"] == 1000
    image = unpacked(density["cells"], "u1").reshape(120, 240).astype(int)
    assert np.count_nonzero(image) == 3
    one, ten, thousand = image[0, 0], image[0, -1], image[-1, -1]
    assert 0 < one < ten < thousand == 255
    # Log scale: ten is a third of the way from one to a thousand.
    assert ten == pytest.approx(one + (thousand - one) / 3, abs=1)
    assert "log scale" in density["title"]


@pytest.mark.parametrize(("colour", "kind"), KINDS)
def test_the_points_on_a_density_image_are_those_asked_for_where_they_belong(colour, kind):
    points = sample_points()
    on_top = np.array([3, 17, 40])
    every = scatter.point_map(points, colour=colour, kind=kind)
    described = scatter.density_map(points, on_top, colour=colour, kind=kind)
    assert described["n"] == 3
    assert described["extent"] == every["extent"]
    for part, layout in (("rows", "<i4"), ("x", "<u2"), ("y", "<u2")):
        np.testing.assert_array_equal(
            unpacked(described[part], layout), unpacked(every[part], layout)[on_top]
        )


@pytest.mark.parametrize(("colour", "kind"), KINDS)
def test_in_space_selected_points_are_over_faded_ones_and_the_focus_is_ringed(colour, kind):
    points = sample_points()
    chosen = points["row"].to_numpy()[[4, 7, 9]]
    focus = int(points["row"].iloc[20])
    drawing = {"colour": colour, "kind": kind}
    figure = point_map_3d(points, **drawing, chosen=chosen, focus=focus)
    faded, bright, ring, *_ = figure.data
    assert sorted(bright.customdata) == sorted(chosen)
    assert sorted([*faded.customdata, *bright.customdata]) == sorted(points["row"])
    assert faded.marker.opacity < bright.marker.opacity
    assert (ring.x[0], ring.z[0]) == tuple(points[["x", "z"]].iloc[20])
    (name,) = figure.layout.scene.annotations
    assert (name.text, name.y) == (f"row {focus}", points["y"].iloc[20])
    plain = point_map_3d(points, **drawing)
    np.testing.assert_array_equal(plain.data[0].customdata, points["row"])
    again = point_map_3d(sample_points(), **drawing)
    assert plain.to_json() == again.to_json()


def test_in_space_hover_names_what_the_colour_stands_for():
    points = sample_points()
    figure = point_map_3d(points, colour="group", kind="category", title="groups")
    expected = [
        f"groups: {group}<br>row {row}"
        for group, row in zip(points["group"], points["row"], strict=True)
    ]
    assert list(figure.data[0].text) == expected
    assert [trace.name.split()[0] for trace in figure.data[1:]] == ["a", "b", "c"]
    bar = point_map_3d(points, colour="number", kind="signed").data[-1].marker
    assert bar.cmin == -bar.cmax
    assert bar.showscale
