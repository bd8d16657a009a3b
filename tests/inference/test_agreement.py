import numpy as np
import pytest

from gsr_core.inference.agreement import agreement


def one_hot(index, m):
    return np.asarray(index)[:, None] == np.arange(m)


def test_a_perfect_assignment_agrees_whatever_its_numbers():
    found = agreement(np.array([5, 5, 0, 0, 2, 2]), one_hot([0, 0, 1, 1, 2, 2], 3))
    assert (found.ari, found.nmi, found.ari_kept) == pytest.approx((1, 1, 1))
    np.testing.assert_array_equal(found.kept, [1, 1, 1])


def test_outliers_are_a_group_of_their_own_and_what_is_lost_is_told():
    true = [0] * 6 + [1] * 4
    inferred = np.array([0] * 6 + [1, -1, -1, -1])
    found = agreement(inferred, one_hot(true, 3))
    assert found.ari_kept == pytest.approx(1)
    # By hand: 15 pairs of 45 together in both, plus 3 among outliers; 21 and 18 in each.
    expected = 21 * 18 / 45
    assert found.ari == pytest.approx((18 - expected) / ((21 + 18) / 2 - expected))
    np.testing.assert_allclose(found.kept, [1, 0.25, np.nan])


def test_chance_is_near_zero():
    rng = np.random.default_rng(0)
    found = agreement(rng.integers(4, size=2000), one_hot(rng.integers(4, size=2000), 4))
    assert abs(found.ari) < 0.01


def test_of_overlapping_groups_each_combination_counts():
    groups = np.array([[1, 0], [1, 0], [1, 1], [1, 1], [0, 0], [0, 0]], dtype=bool)
    assert agreement(np.array([0, 0, 1, 1, 2, 2]), groups).ari == 1


def test_all_outliers_have_no_agreement_among_kept():
    assert np.isnan(agreement(np.full(4, -1), one_hot([0, 0, 1, 1], 2)).ari_kept)
