from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from gsr_core.data.dataset import amend, define
from gsr_core.data.inputs import Numbers, Texts
from gsr_core.data.source import GroupRule, Roles, Source, SplitRule
from gsr_core.errors import SourceError

N = 200


@pytest.fixture
def source() -> Source:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "name": [f"bird-{row}" for row in range(N)],
            "kind": rng.choice(["water", "land"], N),
            "place": rng.integers(0, 2, N),
            "weight": rng.normal(size=N),
            "split": rng.choice([0, 1, 2], N, p=[0.6, 0.2, 0.2]),
        }
    )
    return Source(
        table=table,
        inputs=Numbers(np.arange(2.0 * N).reshape(N, 2)),
        roles=Roles(
            label="kind",
            sample_id="name",
            attributes=("place",),
            groups=GroupRule(columns=("place",)),
            split=SplitRule(column="split"),
        ),
        origin="a table made for a test",
    )


def changed(source: Source, **columns) -> Source:
    return replace(source, table=source.table.assign(**columns))


def test_roles_become_samples_groups_and_splits(source):
    data = define(source)
    table = source.table
    assert data.classes == ["land", "water"]
    assert (data.samples["y"] == (table["kind"] == "water")).all()
    assert data.samples["sample_id"].tolist() == table["name"].tolist()
    assert [group.name for group in data.groups] == [
        "land, place 0",
        "land, place 1",
        "water, place 0",
        "water, place 1",
    ]
    assert (data.membership.argmax(axis=1) == 2 * data.samples["y"] + table["place"]).all()
    split = data.samples["split"]
    for number, words in enumerate((["train", "heldout"], ["target", "val"], ["test"])):
        assert (split.isin(words) == (table["split"] == number)).all()
    present, counts = data.counts()
    assert present == ["train", "heldout", "target", "val", "test"]
    assert counts.sum() == N


def test_the_order_and_names_of_classes_are_the_readers(source):
    numbered = changed(source, kind=(source.table["kind"] == "water").astype(int))
    assert define(numbered).classes == ["class 0", "class 1"]
    named = replace(
        numbered, names={"kind": {1: "water", 0: "land"}, "place": {0: "sea", 1: "sand"}}
    )
    data = define(named)
    assert data.classes == ["water", "land"]
    assert (data.samples["y"] == (numbered.table["kind"] == 0)).all()
    assert set(data.samples["place"]) == {"sea", "sand"}
    assert data.groups[0].name == "water, sea"
    whole = changed(source, kind=numbered.table["kind"].astype(float))
    assert define(whole).classes == ["class 0", "class 1"]


def test_rows_that_are_left_out_take_their_inputs_along(source):
    roles = amend(
        source.roles, {"split": {"words": {"2": "test", "1": "validation", "0": "train"}}}
    )
    words = source.table["split"].astype(object)
    words[:7] = "none"
    data = define(changed(source, split=words), roles)
    assert len(data) == N - 7
    assert data.rows.tolist() == list(range(7, N))
    assert (data.inputs.load(0) == [14, 15]).all()
    assert data.samples["sample_id"].iloc[0] == "bird-7"


def test_corrections_change_only_what_they_name(source):
    roles = amend(source.roles, {"split": {"heldout": 0.5}})
    assert roles.split.column == "split"
    assert roles.split.heldout == 0.5
    assert roles.groups == source.roles.groups
    both = amend(source.roles, {"attributes": ["weight", "place"]})
    assert both.groups.columns == ("weight", "place")
    one = amend(source.roles, {"attributes": ["weight", "place"], "groups": {"columns": ["place"]}})
    assert one.groups.columns == ("place",)


def test_a_reserved_name_is_changed_and_said(source):
    data = define(
        source, amend(source.roles, {"attributes": ["weight"], "groups": {"columns": []}})
    )
    assert "weight_column" in data.samples
    assert any("'weight' is kept as attribute 'weight_column'" in note for note in data.notes)


def test_the_texts_of_a_pair_are_kept_apart(source):
    texts = Texts(["a"] * N, ["b"] * N)
    samples = define(replace(source, inputs=texts)).samples
    assert (set(samples["text"]), set(samples["text_pair"])) == ({"a"}, {"b"})


def test_overlapping_groups_may_leave_a_test_row_out(source):
    rule = {"kind": "overlapping", "columns": ["place"], "with_class": False}
    data = define(source, amend(source.roles, {"groups": rule}))
    assert len(data) == N
    assert not data.membership.all()


@pytest.mark.parametrize(
    ("change", "columns", "message"),
    [
        ({"label": "kinds"}, {}, r"no column 'kinds' \(did you mean 'kind'\?\); the columns are"),
        ({"label": None}, {}, "no column looks like the label"),
        ({"label": "weight"}, {}, "which is not a class"),
        ({"label": "name"}, {}, "200 different values in 200 rows"),
        ({"sample_id": "place"}, {}, "sample id '[01]' in row 2 .* is there twice|there twice"),
        ({}, {"kind": [None] + ["a", "b"] * 99 + ["a"]}, "'kind' is missing in row 0"),
        ({"attributes": ["colour"]}, {}, "no column 'colour'"),
    ],
)
def test_what_is_wrong_is_named(source, change, columns, message):
    with pytest.raises(SourceError, match=message):
        define(changed(source, **columns), amend(source.roles, change))


def test_a_class_that_only_test_has_is_refused(source):
    table = source.table
    row = int(np.flatnonzero(table["split"] == 2)[0])
    kind = table["kind"].copy()
    kind[row] = "sky"
    with pytest.raises(SourceError, match=rf"class 'sky' occurs in row {row} \(test\)"):
        define(changed(source, kind=kind))


def test_a_table_without_rows_is_refused(source):
    with pytest.raises(SourceError, match="has no rows"):
        define(replace(source, table=source.table.iloc[:0]))
