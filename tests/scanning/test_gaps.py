"""Accuracy with and without an attribute, by hand and against permutations."""

import numpy as np
import pandas as pd
import pytest

from gsr_core.quality import difference_interval
from gsr_core.scanning.candidates import Candidate, cut
from gsr_core.scanning.gaps import find_gaps


@pytest.fixture
def table():
    """Class 0: 20 rows with red, 15 right; 10 without, 4 right. Class 1: 9 with, 30 without."""
    cells = [
        (0, "red", 0, 15),
        (0, "red", 2, 4),
        (0, "red", 1, 1),
        (0, "blue", 0, 4),
        (0, "blue", 1, 5),
        (0, "blue", 2, 1),
        (1, "red", 1, 9),
        (1, "blue", 1, 30),
    ]
    rows = [(y, value, said) for y, value, said, count in cells for _ in range(count)]
    return pd.DataFrame(rows, columns=["y", "value", "said"])


def gaps_of(table, column="value"):
    y = table["y"].to_numpy()
    candidate = cut("colour", "attribute", table[column], y)
    assert isinstance(candidate, Candidate)
    return find_gaps([candidate], np.arange(len(table)), y, table["said"].to_numpy())


def test_the_gap_is_the_difference_of_the_two_accuracies(table):
    (gap,) = gaps_of(table).to_dict("records")  # Class 1 has nine rows with red: too few.
    assert (gap["side"], gap["y"]) == ("red", 0)
    assert (gap["n_with"], gap["n_without"]) == (20, 10)
    assert (gap["accuracy_with"], gap["accuracy_without"]) == (0.75, 0.4)
    assert gap["delta"] == pytest.approx(0.35)
    assert (gap["low"], gap["high"]) == difference_interval(0.75, 20, 0.4, 10)
    assert gap["taken_for"] == 1  # What blue rows of class 0 are mostly taken for.


def test_chance_is_that_of_moving_the_attribute_among_the_rows_of_the_class(table):
    own = gaps_of(table).iloc[0]
    rng = np.random.default_rng(0)
    right = np.repeat([True, False], [19, 11])
    drawn = np.array([rng.permutation(right)[:20].sum() for _ in range(20_000)])
    tails = np.mean(drawn >= 15), np.mean(drawn <= 15)
    assert own["p"] == pytest.approx(2 * min(tails), abs=0.01)


def test_without_enough_rows_on_both_sides_nothing_is_said(table):
    few = table[table["y"] == 1].reset_index(drop=True)
    found = gaps_of(few)
    assert found.empty
    assert list(found.columns) == list(gaps_of(table).columns)


def test_rows_without_a_value_and_the_order_of_rows_do_not_matter(table):
    own = gaps_of(table)
    more = table.head(7).assign(value=None, said=1)
    shuffled = pd.concat([table, more]).sample(frac=1, random_state=0).reset_index(drop=True)
    pd.testing.assert_frame_equal(gaps_of(shuffled), own)


def test_numbers_are_cut_at_the_median_and_the_quartiles():
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=400)
    table = pd.DataFrame({"y": 0, "value": numbers, "said": (numbers < 0.5).astype(int)})
    found = gaps_of(table).set_index("side")
    low, middle, high = np.quantile(numbers, [0.25, 0.5, 0.75])
    assert list(found.index) == [f"> {middle:.4g}", f"≤ {low:.4g}", f"> {high:.4g}"]
    assert found["n_with"].tolist() == [200, 100, 100]
    right = table["said"] == 0
    for side, inside in zip(
        found.index, (numbers > middle, numbers <= low, numbers > high), strict=True
    ):
        delta = right[inside].mean() - right[~inside].mean()
        assert found.loc[side, "delta"] == pytest.approx(delta)


@pytest.mark.parametrize("share", [0.97, 0.03])
def test_numbers_that_are_mostly_one_number_are_cut_beside_it(share):
    rng = np.random.default_rng(1)
    numbers = np.where(rng.random(1000) < share, 1.0, rng.random(1000))
    if share < 0.5:
        numbers = 1 - np.where(rng.random(1000) < 0.97, 1.0, rng.random(1000))
    candidate = cut("border", "measured", pd.Series(numbers), np.zeros(1000, int))
    inside = candidate.inside(candidate.sides[0])
    assert 0 < inside.sum() < 1000
    assert numbers[inside].min() > numbers[~inside].max()


def test_columns_that_tell_nothing_say_why():
    y = np.arange(100) % 2
    series = pd.Series
    assert cut("a", "column", series(["x"] * 100), y) == "it has the one value 'x'"
    assert cut("a", "column", series([None] * 100), y) == "no row has a value"
    assert cut("a", "column", series(np.where(y, "no", "yes")), y) == "it is the class itself"
    names = cut("a", "column", series([f"row {row}" for row in range(100)]), y)
    assert names == "it has 100 values in 100 rows: it names rows"


def test_of_many_values_the_commonest_are_told_apart():
    rng = np.random.default_rng(0)
    values = pd.Series([f"v{number}" for number in rng.geometric(0.08, size=3000)])
    candidate = cut("place", "column", values, np.zeros(3000, int))
    counts = values.value_counts()
    assert len(counts) > candidate.n_cells == 21
    assert set(candidate.values) == {*counts.index[:20], "other values"}
    for side in candidate.sides[:-1]:
        assert candidate.inside(side).sum() == counts[side.name]
    assert candidate.inside(candidate.sides[-1]).sum() == counts.iloc[20:].sum()
