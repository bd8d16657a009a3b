import numpy as np
import pandas as pd
import pytest

from gsr_core.data.groups import (
    class_by_attribute,
    describe,
    membership_from_index,
    patterns,
    training_shares,
)


def test_index_becomes_one_group_a_row_and_unknown_becomes_none():
    membership = membership_from_index(np.array([2, -1, 0]), 3)
    assert membership.dtype == bool
    assert membership.tolist() == [[False, False, True], [False] * 3, [True, False, False]]


def test_class_by_attribute_partitions_the_rows():
    rng = np.random.default_rng(0)
    samples = pd.DataFrame({"y": rng.integers(2, size=50), "place": rng.integers(2, size=50)})
    groups, membership = class_by_attribute(
        samples, "place", ["landbird", "waterbird"], {0: "land", 1: "water"}
    )
    assert [group.name for group in groups] == [
        "landbird, land",
        "landbird, water",
        "waterbird, land",
        "waterbird, water",
    ]
    assert groups[1].definition == "class = landbird and place = water"
    assert (membership.sum(axis=1) == 1).all()
    assert (membership.argmax(axis=1) == 2 * samples["y"] + samples["place"]).all()


def test_class_by_attribute_leaves_an_unnamed_value_without_group():
    samples = pd.DataFrame({"y": [0, 1], "place": [0, -1]})
    _, membership = class_by_attribute(samples, "place", ["a", "b"], {0: "land", 1: "water"})
    assert membership.any(axis=1).tolist() == [True, False]


def test_describe_joins_overlapping_groups_and_names_the_unknown():
    membership = np.array([[1, 1, 0], [0, 0, 0], [0, 0, 1]], dtype=bool)
    assert describe(membership, ["a", "b", "c"]).tolist() == ["a + b", "unknown", "c"]


@pytest.mark.parametrize("m", [1, 7, 8, 9, 16, 70])
@pytest.mark.parametrize("share", [0.02, 0.5])
def test_patterns_are_the_different_rows_in_order(m, share):
    membership = np.random.default_rng(m).random((500, m)) < share
    found, which = patterns(membership)
    expected, inverse = np.unique(membership, axis=0, return_inverse=True)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(which, inverse.reshape(-1))


def test_no_rows_have_no_patterns():
    found, which = patterns(np.zeros((0, 3), dtype=bool))
    assert found.shape == (0, 3)
    assert which.shape == (0,)


def test_training_shares_sum_to_one_and_pass_over_unknown_rows():
    membership = membership_from_index(np.array([0, 0, 0, 1, -1, -1]), 3)
    shares = training_shares(membership)
    assert shares == pytest.approx([0.75, 0.25, 0])


def test_training_shares_of_unknown_rows_only_are_none():
    assert training_shares(np.zeros((4, 2), dtype=bool)) is None
