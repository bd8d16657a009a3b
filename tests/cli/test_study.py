"""`gsr study`, and the bundles that a study of strength makes."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from gsr_core import examples
from gsr_core.data.bundle import open_bundle
from gsr_core.errors import BundleError, SettingError
from gsr_core.experiments.strength import compute_study, conflicting_share, names_of_levels
from gsr_core.experiments.study import make_study
from gsr_core.ingest.importing import import_data
from gsr_core.ingest.plan import make_plan
from gsr_core.readers.digits import CONFLICTING, ColouredDigits
from gsr_core.runs.store import list_runs
from gsr_core.workspace import Workspace


@pytest.fixture
def place(tmp_path) -> Workspace:
    """A workspace with a small bundle."""
    rng = np.random.default_rng(0)
    group = np.tile([0, 1, 2, 3], 40)
    np.savez(
        tmp_path / "tiny.npz",
        features=rng.normal(size=(160, 4)) + group[:, None],
        y=group // 2,
        group=group,
        split=np.repeat(["heldout", "target", "val", "test"], 40),
    )
    workspace = Workspace.at(tmp_path / "workspace")
    plan = make_plan(name="tiny", reader="npz", settings={"path": str(tmp_path / "tiny.npz")})
    import_data(workspace, plan)
    return workspace


@pytest.fixture
def gsr(place, call):
    return partial(call, place)


FEW = ("--methods", "gsr,erm", "--set", "gsr.steps=2", "--seeds", "2", "--device", "cpu")


def test_a_study_is_one_command_and_is_not_computed_twice(gsr, place):
    asked = ("study", "noise", "tiny", *FEW, "--levels", "0,0.2", "--name", "mine", "--json")
    first = gsr(*asked)
    assert first.code == 0
    found = json.loads(first.out)
    assert (found["study"], found["kind"], found["wanted"]) == ("mine", "noise", 8)
    assert found["settings"] == {"gsr": {"steps": 2}}
    assert len(found["outcomes"]) == 8
    assert [(row["method"], row["level"], row["seeds"]) for row in found["summary"]] == [
        *(("gsr", 0.0, 2), ("gsr", 0.2, 2), ("erm", 0.0, 2), ("erm", 0.2, 2))
    ]
    flipped = [row for row in found["flipped"] if row["flipped"] and row["group"] == "all"]
    assert [(row["method"], row["samples"]) for row in flipped] == [("gsr", 8)]
    assert json.loads(gsr(*asked).out) == found
    assert len(list_runs(place)) == 8
    assert json.loads(gsr("runs", "--json").out)["runs"] == []
    assert len(json.loads(gsr("runs", "--all", "--json").out)["runs"]) == 8


def test_the_table_says_what_was_varied(gsr):
    noise = gsr("study", "noise", "tiny", *FEW, "--levels", "0.25")
    assert "noise-tiny: worst-group accuracy on tiny" in noise.out
    assert " 25% " in noise.out
    assert "flipped rows" in noise.out
    budget = gsr("study", "budget", "tiny", *FEW, "--levels", "0.2,1")
    assert "8 (20%)" in budget.out
    assert "40 (100%)" in budget.out
    leak = gsr("study", "leak", "tiny", *FEW)
    assert "one set" in leak.out
    assert "points" in leak.out


def test_what_makes_no_study_is_one_line(gsr):
    for words, said in (
        (("study", "colour", "tiny"), "no study 'colour'"),
        (("study", "noise", "none"), "no bundle 'none'"),
        (("study", "noise", "tiny", "--levels", "a,b"), "not numbers"),
        (("study", "noise", "tiny", "--set", "steps=2"), "names no method"),
        (("study", "noise", "tiny", "--methods", ","), "at least one method"),
        (("study", "strength", "tiny"), "take the built-in example"),
    ):
        outcome = gsr(*words)
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err.count("\n") == 1
        assert said in outcome.err


def test_the_example_is_made_with_the_asked_share_of_conflicts():
    few, usual = (ColouredDigits(conflicting=share).read().table for share in (0.02, CONFLICTING))
    for samples, share in ((few, 0.02), (usual, 0.08)):
        conflicts = (samples["colour"] == "green") != samples["y"]
        for split in ("train", "heldout"):
            for label in (0, 1):
                rows = (samples["split"] == split) & (samples["y"] == label)
                assert abs(conflicts[rows].sum() - share * rows.sum()) <= 0.501
        other = conflicts[samples["split"] == "test"].mean()
        assert other == pytest.approx(0.5, abs=0.01)
    np.testing.assert_array_equal(few["sample_id"], usual["sample_id"])
    with pytest.raises(SettingError, match="conflicting is 0"):
        examples.coloured_digits(Workspace.at("unused"), conflicting=0)


def test_a_study_of_strength_uses_a_bundle_for_each_level(digits_bundle, tmp_path, monkeypatch):
    place = Workspace.at(tmp_path / "workspace")
    place.bundles.mkdir(parents=True)
    (place.bundles / "coloured-digits").symlink_to(digits_bundle.path)
    base = open_bundle(place, "coloured-digits")
    assert conflicting_share(base) == 0.08
    names = names_of_levels(base, [0.08, 0.3])
    assert names == ["coloured-digits", "coloured-digits-conflicting-0.3"]
    # A network of one short epoch is trained as any other.
    monkeypatch.setattr(examples, "EPOCHS", 1)
    study = make_study(
        place, "strength", base.name, ["llr"], levels=[0.08, 0.3], bundles=names, seeds=1,
        device="cpu",
    )  # fmt: skip
    assert compute_study(study) == []
    made = open_bundle(place, names[1])
    assert examples.settings_of(made) == (0, 0.3)
    assert "agrees with the class for 70 %" in made.manifest.notes[0]
    assert [run.config.bundle for _, run in study.finished()] == names
    # The second time nothing is made or computed.
    before = made.manifest.created
    assert compute_study(study) == []
    assert open_bundle(place, names[1]).manifest.created == before
    assert len(list_runs(place)) == 2
    wrong = study.record.model_copy(update={"levels": [0.08, 0.2]})
    study.write(wrong)
    with pytest.raises(BundleError, match="is there already but is not"):
        compute_study(replace(study))


def test_noise_in_labels_is_not_studied_on_whole_networks(place):
    with pytest.raises(SettingError, match="network_erm trains a network on train; leave it out"):
        make_study(place, "noise", "tiny", ["llr", "network_erm"])
