"""From files to a bundle by a plan, without a network; networks are in tests/features."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from gsr_core.data.bundle import open_bundle
from gsr_core.data.encoding import Encoder
from gsr_core.errors import BundleError, SettingError, SourceError
from gsr_core.features import backbones
from gsr_core.ingest.importing import import_data
from gsr_core.ingest.plan import make_plan, plan_of
from gsr_core.ingest.read import preview, read
from gsr_core.workspace import Workspace

N = 1600


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def table(tmp_path) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "person": [f"p{row}" for row in range(N)],
            "age": rng.integers(18, 80, N),
            "priors": rng.poisson(2, N),
            "charge": rng.choice(["F", "M"], N),
            "race": rng.choice(["black", "white"], N),
            "recid": rng.integers(0, 2, N),
        }
    )
    frame.to_csv(tmp_path / "people.csv", index=False)
    return frame


@pytest.fixture
def plan(tmp_path, table):
    return make_plan(
        name="people",
        reader="table",
        settings={"path": str(tmp_path / "people.csv"), "numeric": "age,priors"},
        roles={"label": "recid", "attributes": ["race"], "sample_id": "person"},
    )


def test_a_table_becomes_a_bundle_that_says_how(workspace, plan, table):
    told = []
    import_data(workspace, plan, progress=lambda fraction, text: told.append(fraction))
    bundle = open_bundle(workspace, "people")
    assert len(bundle) == N
    assert bundle.features.shape == (N, 2)
    assert bundle.samples["race"].tolist() == table["race"].tolist()
    assert bundle.manifest.classes == ["class 0", "class 1"]
    assert bundle.group_names[0] == "class 0, black"
    assert told == sorted(told)
    assert told[-1] == 1
    assert plan_of(bundle) == plan
    encoder = Encoder.model_validate_json((bundle.path / "encoder.json").read_text())
    np.testing.assert_array_equal(encoder.transform(table), bundle.features)


def test_the_encoder_learns_from_training_rows_only(workspace, plan, tmp_path, table):
    one = import_data(workspace, plan)
    kept = one.rows_of["train"], one.rows_of["heldout"]
    rest = np.setdiff1d(np.arange(N), np.concatenate(kept))
    table.loc[rest, "age"] += 1000
    table.to_csv(tmp_path / "people.csv", index=False)
    two = import_data(workspace, plan, overwrite=True)
    assert (two.path / "encoder.json").read_text() == (
        json.dumps(json.loads((one.path / "encoder.json").read_text()), indent=2) + "\n"
    )
    assert (two.features[rest, 0] > 10).all()


def test_a_plan_is_repeated_to_the_bit(workspace, plan):
    one = import_data(workspace, plan).manifest
    two = import_data(workspace, plan.model_copy(update={"name": "again"})).manifest
    assert one.digests == two.digests
    other = import_data(
        workspace,
        plan.model_copy(update={"name": "other", "roles": {**plan.roles, "split": {"seed": 5}}}),
    ).manifest
    assert one.digests != other.digests


def test_the_preview_is_what_the_bundle_becomes(workspace, plan):
    found = preview(plan)
    bundle = import_data(workspace, plan)
    assert found["rows"] == len(bundle)
    assert found["classes"] == bundle.manifest.classes
    for g, group in enumerate(found["groups"]):
        assert group["definition"] == bundle.manifest.groups[g].definition
        for split, count in group["counts"].items():
            assert bundle.membership[bundle.rows_of[split], g].sum() == count
    json.dumps(found, allow_nan=False)


def test_small_groups_are_named_with_a_merge_that_helps(plan, tmp_path, table):
    table.loc[:7, "race"] = "asian"
    table.loc[8:15, "race"] = "native"
    table.to_csv(tmp_path / "people.csv", index=False)
    found = preview(plan)
    assert [sorted(merge) for merge in found["proposed_merges"]] == [
        [f"class {y}, asian", f"class {y}, native"] for y in (0, 1)
    ]
    assert found["notes"][-1].startswith("4 of 8 groups have fewer than 20 samples in heldout, ")
    merged = plan.model_copy(
        update={"roles": {**plan.roles, "groups": {"merge": found["proposed_merges"]}}}
    )
    assert len(preview(merged)["groups"]) == len(found["groups"]) - 2


def test_a_preview_says_why_the_import_would_stop(workspace, plan, tmp_path, table):
    assert preview(plan)["refusal"] == ""
    table["part"] = np.resize(["train", "valid", "test"], N)
    table.loc[(table["part"] == "valid") & (table["race"] == "white"), "part"] = "train"
    table.to_csv(tmp_path / "people.csv", index=False)
    # The column is taken for the split by its words.
    found = preview(plan)
    assert found["roles"]["split"]["column"] == "part"
    assert "no sample in the target split" in found["refusal"]
    with pytest.raises(BundleError) as stopped:
        import_data(workspace, plan)
    assert str(stopped.value) == found["refusal"]


@pytest.mark.parametrize(
    ("name", "columns", "overrides", "expected"),
    [
        ("sentence:all-MiniLM-L6-v2", 2, {}, {"pairs": "siamese"}),
        ("sentence:all-MiniLM-L6-v2", 2, {"pairs": "joint"}, {"pairs": "joint"}),
        ("sentence:all-MiniLM-L6-v2", 1, {}, {}),
        ("hf:cross-encoder/nli-deberta-v3-small", 2, {}, {}),
    ],
)
def test_a_sentence_encoder_compares_pairs(
    workspace, tmp_path, monkeypatch, name, columns, overrides, expected
):
    def load(**arguments):
        assert arguments["overrides"] == expected
        raise SettingError("seen")

    monkeypatch.setattr(backbones, "load_backbone", load)
    texts = {each: [f"Row {row}." for row in range(200)] for each in ("text_a", "text_b")[:columns]}
    table = pd.DataFrame({**texts, "label": ["yes", "no"] * 100})
    if columns == 1:
        table = table.rename(columns={"text_a": "text"})
    table.to_csv(tmp_path / "texts.csv", index=False)
    plan = make_plan(
        name="texts",
        reader="texts",
        settings={"path": str(tmp_path / "texts.csv")},
        backbone={"name": name, "overrides": overrides},
    )
    with pytest.raises(SettingError, match="seen"):
        import_data(workspace, plan)


def test_a_preview_says_which_gaps_will_stop_the_import(workspace, plan, tmp_path, table):
    table.loc[[3, 8], "age"] = None
    table.to_csv(tmp_path / "people.csv", index=False)
    refusal = preview(plan)["refusal"]
    assert refusal.startswith("column 'age' has no value in row 3 (2 rows")
    with pytest.raises(SourceError, match="column 'age' has no value in row 3"):
        import_data(workspace, plan)
    filled = plan.model_copy(update={"settings": {**plan.settings, "missing": "impute"}})
    assert preview(filled)["refusal"] == ""


def test_arrays_come_in_by_the_same_road(workspace, tmp_path):
    rng = np.random.default_rng(0)
    split = np.repeat(["train", "heldout", "target", "val", "test"], 20)
    arrays = {
        "features": rng.normal(size=(100, 3)).astype(np.float32),
        "y": np.tile([0, 1], 50),
        "group": np.tile([0, 0, 1, 1], 25),
        "split": split,
    }
    np.savez(tmp_path / "a.npz", **arrays)
    plan = make_plan(name="a", reader="npz", settings={"path": str(tmp_path / "a.npz")})
    bundle = import_data(workspace, plan)
    np.testing.assert_array_equal(bundle.features, arrays["features"])
    assert bundle.samples["split"].tolist() == split.tolist()
    assert (bundle.membership.argmax(axis=1) == arrays["group"]).all()
    assert [group.definition for group in bundle.manifest.groups] == ["group = 0", "group = 1"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"reader": "tabel"}, SettingError, r"no reader 'tabel' \(did you mean 'table'\?\)"),
        ({"settings": {"path": "x", "numerics": "a"}}, SettingError, "no setting 'numerics'"),
        ({"extraction": {"on_bad": "ignore"}}, SettingError, "extraction.on_bad is 'ignore'"),
        ({"training": {"preset": "quick"}}, SettingError, "training needs a network"),
    ],
)
def test_a_plan_is_checked_before_anything_is_read(plan, change, error, message):
    with pytest.raises(error, match=message):
        make_plan(**{**plan.model_dump(), **change})


@pytest.mark.parametrize(
    ("roles", "error", "message"),
    [
        ({"split": {"heldout": 2}}, SettingError, "split.heldout is 2"),
        ({"label": "recidd"}, SourceError, "did you mean 'recid'"),
        ({"groups": {"kind": "named", "columns": ["race", "charge"]}}, SourceError, "exactly one"),
    ],
)
def test_roles_that_do_not_fit_are_named_and_leave_nothing(workspace, plan, roles, error, message):
    with pytest.raises(error, match=message):
        import_data(workspace, plan.model_copy(update={"roles": {**plan.roles, **roles}}))
    assert not list(workspace.root.rglob("*"))


def test_an_empty_group_of_target_stops_before_features(workspace, plan, tmp_path, table):
    table.loc[0, "race"] = "other"
    table.to_csv(tmp_path / "people.csv", index=False)
    with pytest.raises(BundleError, match=r"group 'class ., other' has no sample in the target"):
        import_data(workspace, plan)


def test_roles_are_the_readers_but_for_corrections(plan):
    source, roles = read(plan)
    assert roles.label == "recid"
    assert roles.split.column is None
    assert source.roles.groups.kind == roles.groups.kind
    assert roles.groups.columns == ("race",)


def test_a_bundle_from_elsewhere_cannot_be_read_again(digits_bundle):
    manifest = digits_bundle.manifest.model_copy(update={"recipe": None})
    bundle = replace(digits_bundle, manifest=manifest)
    with pytest.raises(SettingError, match="does not say how it was imported"):
        plan_of(bundle)
