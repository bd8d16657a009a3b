import numpy as np
import pandas as pd
import pytest

from gsr_core.data.group_rules import make_groups
from gsr_core.data.groups import (
    Group,
    beside_class,
    class_by_attribute,
    describe,
    membership_from_index,
    patterns,
    training_shares,
)
from gsr_core.data.source import GroupRule


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


def drawn_table(n=200):
    rng = np.random.default_rng(0)
    place, size = rng.integers(3, size=n), rng.integers(2, size=n)
    return pd.DataFrame({"place": place, "size": size}), rng.integers(2, size=n)


@pytest.mark.parametrize("classes", [["cat", "dog"], ["salt and pepper", "salt"]])
def test_what_groups_are_beside_their_class_is_the_same_for_all_classes(classes):
    table, y = drawn_table()
    groups, membership, _ = make_groups(table, y, classes, GroupRule(columns=("place", "size")))
    found = beside_class(groups, membership, y, classes)
    assert found is not None
    # Of each row, the number stands for its values, and for nothing else.
    of_row = found[membership.argmax(axis=1)]
    expected = 2 * table["place"].to_numpy() + table["size"].to_numpy()
    assert len(set(zip(of_row, expected, strict=True))) == len(set(expected)) == 6


def test_merged_groups_and_classes_under_another_name_have_a_rest_too():
    table, y = drawn_table()
    merge = [tuple(f"{name}, place {place}" for place in (0, 2)) for name in ("cat", "dog")]
    rule = GroupRule(columns=("place",), merge=merge)
    groups, membership, _ = make_groups(table, y, ["cat", "dog"], rule)
    found = beside_class(groups, membership, y, ["a cat", "a dog"])
    assert found is not None
    assert (found[membership.argmax(axis=1)] == (table["place"] == 1)).all()


def test_groups_across_classes_are_their_own_rest_and_names_tell_where_definitions_do_not():
    table, y = drawn_table()
    rule = GroupRule(columns=("place",), with_class=False)
    found = beside_class(*make_groups(table, y, ["cat", "dog"], rule)[:2], y, ["cat", "dog"])
    assert found is not None
    assert sorted(found) == [0, 1, 2]
    names = [f"{animal}, {colour}" for animal in ("cat", "dog") for colour in ("red", "blue")]
    groups = [Group(name=name, definition="as the file says") for name in names]
    found = beside_class(groups, np.eye(4, dtype=bool), np.array([0, 0, 1, 1]), ["cat", "dog"])
    assert found is not None
    assert found.tolist() == [0, 1, 0, 1]
    unsaid = [Group(name=f"group {g}", definition="as the file says") for g in range(4)]
    assert beside_class(unsaid, np.eye(4, dtype=bool), np.array([0, 0, 1, 1]), ["a", "b"]) is None
