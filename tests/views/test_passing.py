import numpy as np
import pandas as pd
import pytest

from gsr_core.data.bundle_writing import write_bundle
from gsr_core.data.groups import Group
from gsr_core.views.samples import passing

N = 600


@pytest.fixture
def bundle(tmp_path):
    rng = np.random.default_rng(0)
    samples = pd.DataFrame(
        {
            "sample_id": [f"s{row}" for row in range(N)],
            "split": rng.choice(["heldout", "target", "val", "test"], N),
            "y": rng.integers(0, 2, N),
        }
    )
    return write_bundle(
        tmp_path / "some",
        samples=samples,
        membership=rng.random((N, 3)) < 0.5,
        groups=[Group(name=name, definition=name) for name in "abc"],
        classes=["cat", "dog"],
        features=rng.normal(size=(N, 2)),
        source="made for a test",
    )


@pytest.fixture
def table(bundle):
    """Half of the rows, with many equal losses and ranks of their own."""
    rng = np.random.default_rng(1)
    rows = np.sort(rng.choice(N, N // 2, replace=False))
    frame = pd.DataFrame({"row": rows, "y": bundle.y[rows]})
    frame["prediction"] = rng.integers(0, 2, len(rows))
    frame["correct"] = frame["prediction"] == frame["y"]
    frame["confidence"] = rng.integers(5, 10, len(rows)) / 10
    frame["loss"] = rng.integers(0, 5, len(rows)) / 4
    return frame.assign(rank=rng.permutation(len(rows)) + 1)


@pytest.mark.parametrize("order", ["heaviest", "lightest", "highest loss", "least confident"])
@pytest.mark.parametrize("prediction", ["", "right", "wrong", "cat", "dog"])
@pytest.mark.parametrize(("group", "y"), [("", ""), ("b", ""), ("", "dog"), ("c", "cat")])
def test_what_passes_is_what_pandas_finds_in_that_order(bundle, table, group, y, prediction, order):
    chosen = np.arange(0, N, 3)
    places = passing(
        bundle, table, group=group, y=y, prediction=prediction, rows=chosen, order=order
    )

    expected = table[table["row"].isin(chosen)]
    if group:
        members = pd.DataFrame(bundle.membership, columns=bundle.group_names)
        expected = expected[expected["row"].map(members[group])]
    if y:
        expected = expected[expected["y"].map({0: "cat", 1: "dog"}) == y]
    if prediction in ("cat", "dog"):
        expected = expected[expected["prediction"].map({0: "cat", 1: "dog"}) == prediction]
    elif prediction:
        expected = expected[expected["correct"] == (prediction == "right")]
    column = {"highest loss": "loss", "least confident": "confidence"}.get(order, "rank")
    expected = expected.sort_values(
        column, ascending=order in ("heaviest", "least confident"), kind="stable"
    )
    pd.testing.assert_frame_equal(table.iloc[places], expected)


def test_without_filters_all_pass_in_the_order_of_the_table(bundle, table):
    assert passing(bundle, table).tolist() == list(range(len(table)))


def test_an_attribute_and_a_range_leave_the_rows_that_have_them(bundle, table):
    table = table.assign(colour=np.where(table["row"] % 3 == 0, "red", "green"))
    places = passing(bundle, table, attribute=("colour", "red"), measure=("loss", 0.25, 0.75))
    expected = (table["row"] % 3 == 0) & (table["loss"] >= 0.25) & (table["loss"] <= 0.75)
    assert table["row"].to_numpy()[places].tolist() == table.loc[expected, "row"].tolist()
    assert len(passing(bundle, table, measure=("loss", -np.inf, np.inf))) == len(table)


def test_what_has_no_difference_from_another_run_comes_last(bundle, table):
    difference = table["loss"].where(table["row"] % 2 == 0) - 0.5
    table = table.assign(difference=difference)
    for order, ascending in (("heavier than in B", False), ("lighter than in B", True)):
        places = passing(bundle, table, order=order)
        expected = table.sort_values("difference", ascending=ascending, kind="stable")
        pd.testing.assert_frame_equal(table.iloc[places], expected)
