import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsr_core.data.group_rules import make_groups, propose_merges
from gsr_core.data.groups import Group
from gsr_core.data.source import GroupRule
from gsr_core.errors import SourceError

CLASSES = ["landbird", "waterbird"]


def table(n: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "place": rng.integers(0, 2, n),
            "sky": rng.choice(["clear", "cloudy"], n),
            "age": rng.normal(40, 10, n),
            "male": rng.random(n),
            "female": rng.random(n),
            "slice": rng.choice(["night", "day", ""], n),
        }
    )


Y = np.random.default_rng(1).integers(0, 2, 60)


def test_crossing_gives_every_combination_once():
    rule = GroupRule(columns=("place", "sky"))
    groups, membership, _ = make_groups(
        table(), Y, CLASSES, rule, {"place": {0: "land", 1: "water"}}
    )
    assert [group.name for group in groups] == [
        f"{y}, {place}, {sky}"
        for y, place, sky in itertools.product(CLASSES, ["land", "water"], ["clear", "cloudy"])
    ]
    assert groups[3].definition == "class = landbird and place = water and sky = cloudy"
    assert (membership.sum(axis=1) == 1).all()
    frame = table()
    expected = (Y == 0) & (frame["place"] == 1) & (frame["sky"] == "cloudy")
    assert (membership[:, 3] == expected).all()


def test_bare_numbers_get_their_columns_name():
    groups, _, _ = make_groups(table(), Y, CLASSES, GroupRule(columns=("place",)))
    assert groups[0].name == "landbird, place 0"
    assert groups[0].definition == "class = landbird and place = 0"


def test_attributes_alone_and_the_class_alone():
    alone, membership, _ = make_groups(
        table(), Y, CLASSES, GroupRule(columns=("sky",), with_class=False)
    )
    assert [group.name for group in alone] == ["clear", "cloudy"]
    assert (membership[:, 0] == (table()["sky"] == "clear")).all()
    classes, membership, _ = make_groups(table(), Y, CLASSES, GroupRule())
    assert [group.name for group in classes] == CLASSES
    assert (membership.argmax(axis=1) == Y).all()
    with pytest.raises(SourceError, match="neither the class nor a column"):
        make_groups(table(), Y, CLASSES, GroupRule(with_class=False))


def test_overlapping_groups_count_scores_from_a_half():
    rule = GroupRule(kind="overlapping", columns=("male", "female"))
    groups, membership, notes = make_groups(table(), Y, CLASSES, rule)
    assert [group.name for group in groups] == [
        "landbird, male",
        "landbird, female",
        "waterbird, male",
        "waterbird, female",
    ]
    frame = table()
    assert (membership[:, 0] == ((frame["male"] >= 0.5) & (Y == 0))).all()
    assert (membership.sum(axis=1) == 2).any()
    nobody = ((frame["male"] < 0.5) & (frame["female"] < 0.5)).sum()
    assert notes == [f"{nobody} rows belong to none of the groups."]
    flags = pd.DataFrame({"a": ["yes", "no"], "b": [True, False], "c": [1, None]})
    _, membership, _ = make_groups(
        flags,
        np.array([0, 1]),
        CLASSES,
        GroupRule(kind="overlapping", columns=("a", "b", "c"), with_class=False),
    )
    assert membership.tolist() == [[True] * 3, [False] * 3]
    with pytest.raises(SourceError, match="column 'sky' is 'cloudy' in row 0"):
        make_groups(frame, Y, CLASSES, GroupRule(kind="overlapping", columns=("sky",)))


@given(st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=60), st.integers(2, 6))
def test_bins_part_the_numbers_in_order(values, bins):
    frame = pd.DataFrame({"age": values})
    rule = GroupRule(columns=("age",), bins={"age": bins}, with_class=False)
    groups, membership, _ = make_groups(frame, np.zeros(len(values), int), CLASSES, rule)
    assert (membership.sum(axis=1) == 1).all()
    assert 1 <= len(groups) <= bins
    tops = [np.array(values)[membership[:, g]] for g in range(len(groups))]
    assert all(a.max() < b.min() for a, b in itertools.pairwise(tops))


def test_quantile_bins_are_of_equal_size():
    rule = GroupRule(columns=("age",), bins={"age": 4}, with_class=False)
    groups, membership, _ = make_groups(table(), Y, CLASSES, rule)
    assert membership.sum(axis=0).tolist() == [15] * 4
    assert groups[0].name.startswith("age ≤ ")
    for unused in (
        GroupRule(columns=("sky",), bins={"age": 2}),
        GroupRule(bins={"age": 2}),
        GroupRule(kind="named", columns=("age",), bins={"age": 2}),
    ):
        with pytest.raises(SourceError, match="bins are given for 'age', which makes no groups"):
            make_groups(table(), Y, CLASSES, unused)
    with pytest.raises(SourceError, match="'sky' is not numeric"):
        make_groups(table(), Y, CLASSES, GroupRule(columns=("sky",), bins={"sky": 2}))
    with pytest.raises(SourceError, match=r"60 different values; .* cut it into bins"):
        make_groups(table(), Y, CLASSES, GroupRule(columns=("age",)))


def test_a_column_of_names_is_taken_as_it_is():
    groups, membership, notes = make_groups(
        table(), Y, CLASSES, GroupRule(kind="named", columns=("slice",))
    )
    assert [group.name for group in groups] == ["day", "night"]
    nameless = (table()["slice"] == "").to_numpy()
    assert (~membership.any(axis=1) == nameless).all()
    assert notes == [f"{nameless.sum()} rows have no name in 'slice': their group is unknown."]


def test_a_row_without_a_value_has_no_group():
    frame = table()
    frame.loc[3, "sky"] = None
    _, membership, notes = make_groups(frame, Y, CLASSES, GroupRule(columns=("sky",)))
    assert not membership[3].any()
    assert membership[np.arange(60) != 3].any(axis=1).all()
    assert notes == ["1 rows lack a value of sky: their group is unknown."]


def test_groups_are_merged_by_name():
    rule = GroupRule(columns=("sky",), merge=(("waterbird, clear", "landbird, clear"),))
    groups, membership, _ = make_groups(table(), Y, CLASSES, rule)
    assert [group.name for group in groups] == [
        "landbird, cloudy",
        "waterbird, clear or landbird, clear",
        "waterbird, cloudy",
    ]
    assert (membership[:, 1] == (table()["sky"] == "clear")).all()
    with pytest.raises(SourceError, match=r"no group 'waterbird, clea'.*did you mean"):
        make_groups(
            table(), Y, CLASSES, GroupRule(columns=("sky",), merge=(("waterbird, clea", "x"),))
        )


def test_what_never_occurs_is_no_group():
    frame = pd.DataFrame({"sky": ["clear", "clear", "cloudy"]})
    groups, _, notes = make_groups(frame, np.array([0, 1, 1]), CLASSES, GroupRule(columns=("sky",)))
    assert len(groups) == 3
    assert notes == ["1 of 4 combinations of the groups' values never occur."]


def test_a_missing_column_is_named_with_the_nearest():
    with pytest.raises(SourceError, match=r"no column 'plaec'.*did you mean 'place'"):
        make_groups(table(), Y, CLASSES, GroupRule(columns=("plaec",)))


def groups_of(classes, *attributes):
    return [
        Group(
            name=", ".join(values),
            definition=f"class = {values[0]}"
            + "".join(f" and a{i} = {each}" for i, each in enumerate(values[1:])),
        )
        for values in itertools.product(classes, *attributes)
    ]


def test_small_groups_of_a_class_join_those_that_are_most_alike():
    groups = groups_of("uv", "012", "01")
    # Of class u: 0 0 and 0 1 are small and alike, and 2 1 is small as well.
    counts = np.array([[9, 15, 50, 60, 70, 11, 50, 60, 70, 80, 90, 3]] * 3)
    assert propose_merges(groups, counts, least=20, with_class=True) == [("u, 0, 0", "u, 0, 1")]
    assert not propose_merges(groups, counts, least=3, with_class=True)


def test_as_many_join_as_it_takes():
    groups = groups_of("u", "abcd")
    counts = np.array([[2, 3, 4, 500]] * 3)
    expected = [("u, a", "u, b", "u, c")]
    assert propose_merges(groups, counts, least=20, with_class=True) == expected


def test_a_small_group_never_joins_a_large_one_nor_another_class():
    groups = groups_of("uv", "ab")
    assert not propose_merges(groups, np.array([[5, 500, 500, 6]] * 3), least=20, with_class=True)
    # Without the class in their definition, any two that are small may.
    assert propose_merges(groups, np.array([[5, 500, 500, 6]] * 3), least=20, with_class=False) == [
        ("u, a", "v, b")
    ]
