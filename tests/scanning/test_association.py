"""Cramér's V, its interval and its chance, against what others compute and against simulation."""

import numpy as np
import pytest
from scipy.stats import contingency, hypergeom

from gsr_core.scanning.association import associate, cramers_v


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_without_correction_it_is_cramers_v(rng):
    for shape in ((2, 2), (2, 5), (7, 3)):
        table = rng.integers(1, 40, shape)
        plain = float(cramers_v(table, corrected=False))
        assert plain == pytest.approx(contingency.association(table, method="cramer"))
        assert cramers_v(table) < plain


def test_the_order_of_values_and_which_is_the_class_do_not_matter(rng):
    table = rng.integers(1, 40, (4, 3))
    value = float(cramers_v(table))
    assert float(cramers_v(table.T)) == pytest.approx(value)
    assert float(cramers_v(table[[2, 0, 3, 1]][:, [1, 2, 0]])) == pytest.approx(value)
    found, turned = associate(table), associate(table.T)
    assert found.value == pytest.approx(turned.value)


def test_it_is_one_where_either_tells_the_other_and_none_on_average_where_neither_does(rng):
    assert float(cramers_v(np.diag([300, 500, 200]))) == pytest.approx(1)
    # Ten cells against two: without correction, 200 independent rows show 0.2.
    tables = rng.multinomial(200, np.full(20, 0.05), size=300).reshape(300, 10, 2)
    assert cramers_v(tables, corrected=False).mean() > 0.2
    assert cramers_v(tables).mean() < 0.07


def test_chance_is_that_of_all_tables_with_the_same_margins():
    for table in ([[12, 5], [6, 14]], [[20, 15], [14, 18]], [[9, 2], [4, 12]]):
        first, second = np.array(table)
        total, column, row = first.sum() + second.sum(), first[0] + second[0], first.sum()
        corner = np.arange(max(0, column + row - total), min(column, row) + 1)
        every = [[[k, row - k], [column - k, total - row - column + k]] for k in corner]
        distance = [cramers_v(np.array(each), corrected=False) for each in every]
        own = cramers_v(np.array(table), corrected=False)
        far = np.array(distance) >= own - 1e-9
        exact = hypergeom(total, column, row).pmf(corner)[far].sum()
        found = np.mean([associate(np.array(table), seed=seed).p for seed in range(30)])
        assert found == pytest.approx(exact, rel=0.2)


def test_a_large_association_has_the_least_chance_that_the_draws_allow():
    assert associate(np.array([[90, 10], [10, 90]]), draws=499).p == 1 / 500


def test_the_interval_holds_the_truth(rng):
    # V of the population: of shares 0.35 and 0.15 in a balanced table, 0.4.
    for share, truth in ((0.35, 0.4), (0.475, 0.9)):
        tables = rng.multinomial(300, [share, 0.5 - share, 0.5 - share, share], size=150)
        found = [associate(each.reshape(2, 2), draws=20) for each in tables]
        assert all(each.low <= each.value <= each.high for each in found)
        inside = np.mean([each.low <= truth <= each.high for each in found])
        assert inside >= 0.9
        assert np.mean([each.high - each.low for each in found]) < 0.25


def test_rows_and_columns_without_counts_are_not_there():
    table = np.array([[30, 0, 10], [0, 0, 0], [10, 0, 30]])
    assert associate(table) == associate(np.array([[30, 10], [10, 30]]))
    nothing = associate(np.array([[30, 0], [10, 0]]))
    assert np.isnan(nothing.value)
    assert nothing.p == 1
