import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from gsr_core.views.map_chart import drawn_note, drawn_rows, rows_after

NONE = np.empty(0, dtype=np.int64)


def cloud(n: int = 4000) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {"x": rng.uniform(-1, 1, n), "y": rng.uniform(-1, 1, n), "row": rng.permutation(n) + 500}
    )


def ring(radius: float = 1.0, corners: int = 300) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return radius * np.column_stack([np.cos(angle), np.sin(angle)])


def gesture(path=(), row=None, how="replace") -> dict:
    return {"path": [[float(x), float(y)] for x, y in path], "row": row, "how": how}


def inside(points: pd.DataFrame, path) -> set[int]:
    return set(rows_after(points, gesture(path), NONE).tolist())


# What a gesture selects ----------------------------------------------------------------------


def test_a_round_lasso_takes_what_lies_within_its_radius():
    points = cloud()
    distance = np.hypot(points["x"], points["y"])
    found = rows_after(points, gesture(ring(0.7)), NONE)
    assert (np.diff(found) > 0).all()
    # The ring has 300 straight sides, a little inside the circle.
    assert set(points["row"][distance < 0.7 * np.cos(np.pi / 300)]) <= set(found)
    assert set(found) <= set(points["row"][distance < 0.7])


def test_a_box_takes_what_lies_between_its_sides():
    points = cloud()
    expected = points["row"][points["x"].between(-0.2, 0.5) & points["y"].between(0.1, 0.9)]
    assert inside(points, [(-0.2, 0.1), (0.5, 0.1), (0.5, 0.9), (-0.2, 0.9)]) == set(expected)


@pytest.mark.parametrize("change", ["start", "direction", "twice the corners"])
def test_the_way_a_lasso_is_drawn_does_not_matter(change):
    path = ring(0.6, 30) * [1, 0.4] + 0.1
    other = {
        "start": np.roll(path, 7, axis=0),
        "direction": path[::-1],
        "twice the corners": np.repeat(path, 2, axis=0),
    }[change]
    assert inside(cloud(), path) == inside(cloud(), other)


def test_a_map_that_is_moved_and_stretched_with_its_lasso_selects_the_same():
    points, path = cloud(), ring(0.6, 30)
    moved = points.assign(x=3 * points["x"] - 40, y=0.01 * points["y"] + 7)
    assert inside(points, path) == inside(moved, path * [3, 0.01] + [-40, 7])


def test_a_cut_through_a_lasso_parts_what_it_takes():
    path = ring(0.9, 40)
    one, other = path[:21], np.vstack([path[20:], path[:1]])
    points = cloud()
    assert not inside(points, one) & inside(points, other)
    assert inside(points, one) | inside(points, other) == inside(points, path)


def test_where_a_lasso_crosses_itself_the_twice_enclosed_is_out():
    star = ring(1.0, 5)[[0, 2, 4, 1, 3]]
    points = pd.DataFrame({"x": [0.0, 0.7], "y": [0.0, 0.0], "row": [1, 2]})
    assert inside(points, star) == {2}


def test_shift_adds_alt_takes_away_and_nothing_lets_go():
    points = cloud()
    left, right = points["row"][points["x"] < 0], points["row"][points["x"] > 0]
    half = [(-2, -2), (0, -2), (0, 2), (-2, 2)]
    before = np.sort(right.to_numpy())
    assert set(rows_after(points, gesture(half, how="replace"), before)) == set(left)
    assert len(rows_after(points, gesture(half, how="add"), before)) == len(points)
    everything = np.sort(points["row"].to_numpy())
    np.testing.assert_array_equal(
        rows_after(points, gesture(half, how="remove"), everything), before
    )
    assert not len(rows_after(points, gesture(), before))


def test_a_click_takes_one_sample_and_a_sample_that_is_not_there_none():
    points = cloud()
    row = int(points["row"].iloc[3])
    np.testing.assert_array_equal(rows_after(points, gesture(row=row), NONE), [row])
    np.testing.assert_array_equal(
        rows_after(points, gesture(row=row, how="add"), np.array([1, 2])), [1, 2, row]
    )
    np.testing.assert_array_equal(
        rows_after(points, gesture(row=row, how="remove"), np.array([row])), NONE
    )
    assert not len(rows_after(points, gesture(row=-1), NONE))


# The selection that all maps share -----------------------------------------------------------


def page() -> None:
    import numpy as np
    import pandas as pd
    import streamlit as st

    from gsr_core.views.map_chart import select_rows, selectable_map, selected_rows

    if "take" in st.session_state:
        select_rows(np.array(st.session_state.pop("take")))
    chosen = selected_rows(st.session_state.get("scope", "one"))
    points = pd.DataFrame({"x": np.arange(100), "y": np.arange(100) % 7})
    points["row"] = np.arange(100) + 10
    points["group"] = "a"
    new = [
        selectable_map(
            points,
            key=key,
            colour="group",
            kind="category",
            chosen=chosen,
            focus=12,
            alt="A map.",
        )
        for key in ("left", "right")
    ]
    st.text(f"{chosen.tolist()} {new}")


def shown(app: AppTest) -> str:
    assert not app.exception
    return app.text[0].value


def test_a_selection_from_elsewhere_is_kept_until_the_rows_mean_something_else():
    app = AppTest.from_function(page, default_timeout=60).run()
    assert shown(app) == "[] [None, None]"
    app.session_state["take"] = [30, 12, 12]
    assert shown(app.run()) == "[12, 30] [None, None]"
    assert shown(app.run()) == "[12, 30] [None, None]"
    app.session_state["scope"] = "two"
    assert shown(app.run()) == "[] [None, None]"
    app.session_state["take"] = []
    assert shown(app.run()) == "[] [None, None]"


# Which samples are drawn ---------------------------------------------------------------------


def table(**sizes: int) -> pd.DataFrame:
    names = np.repeat(list(sizes), list(sizes.values()))
    return pd.DataFrame({"group": np.random.default_rng(0).permutation(names)})


def counts(samples: pd.DataFrame, drawn: np.ndarray) -> dict[str, int]:
    return samples["group"].iloc[drawn].value_counts().to_dict()


def test_few_samples_are_all_drawn():
    np.testing.assert_array_equal(drawn_rows(table(a=30, b=3), 33, NONE), np.arange(33))


@pytest.mark.parametrize("limit", [1, 2, 3, 10, 123, 200, 1000, 4999, 5059])
def test_exactly_as_many_as_there_is_room_for_are_drawn_once_each(limit):
    samples = table(a=5000, b=55, c=5)
    keep = np.array([17, 3, 900, 17])
    drawn = drawn_rows(samples, limit, keep)
    assert len(drawn) == limit
    assert (np.diff(drawn) > 0).all()
    assert set([17, 3, 900][:limit]) <= set(drawn.tolist())
    np.testing.assert_array_equal(drawn, drawn_rows(samples, limit, keep))


def test_small_groups_are_kept_and_large_ones_thinned_alike():
    samples = table(a=60_000, b=30_000, c=200, d=7)
    found = counts(samples, drawn_rows(samples, 9_000, NONE))
    assert found["d"] == 7
    assert 50 <= found["c"] <= 70
    assert found["a"] / found["b"] == pytest.approx(2, rel=0.02)


def test_the_draw_within_a_group_is_fair():
    samples = pd.DataFrame({"group": ["a"] * 20_000})
    drawn = drawn_rows(samples, 5_000, NONE)
    by_tenth = np.bincount(drawn // 2_000, minlength=10)
    assert by_tenth.min() > 420
    assert by_tenth.max() < 580


def test_samples_without_a_group_are_drawn_too_and_many_groups_share_little_room():
    samples = table(a=500, b=500)
    samples.loc[samples.index[:40], "group"] = None
    drawn = drawn_rows(samples, 300, NONE)
    assert samples["group"].iloc[drawn].isna().sum() >= 40
    crowd = table(**{f"g{place}": 10 for place in range(100)})
    assert set(counts(crowd, drawn_rows(crowd, 250, NONE)).values()) <= {2, 3}
    assert len(counts(crowd, drawn_rows(crowd, 40, NONE))) == 40


def test_no_more_are_kept_than_can_be_drawn_and_the_first_come_first():
    keep = np.arange(400)[::-1]
    np.testing.assert_array_equal(drawn_rows(table(a=1000), 100, keep), np.arange(300, 400))


def test_the_page_says_what_is_drawn():
    assert drawn_note(10, 10, 3) == ""
    assert drawn_note(50_000, 186_412, 1_204).startswith(
        "Drawing 50,000 of 186,412 samples: the 1,204 flagged or extreme ones"
    )
    assert "image" not in drawn_note(50_000, 186_412, 1_204)
    assert "a lasso takes all samples inside" in drawn_note(5_000, 300_000, 500, on_image=True)
