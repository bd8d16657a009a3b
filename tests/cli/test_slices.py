"""`gsr slices` and `gsr flags`."""

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest

from gsr_core.curation.flags import flag_rows
from gsr_core.curation.slices import name_slice
from gsr_core.data.bundle import open_bundle
from gsr_core.ingest.importing import import_data
from gsr_core.ingest.plan import make_plan
from gsr_core.workspace import Workspace
from tests.cli.conftest import Outcome


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    """A workspace with one bundle that has two slices and two flags, and one that has none."""
    folder = tmp_path_factory.mktemp("slices")
    workspace = Workspace.at(folder / "workspace")
    group = np.tile([0, 1, 2, 3], 40)
    for name, shift in (("tiny", 0.0), ("other", 1.0)):
        file = folder / f"{name}.npz"
        np.savez(
            file,
            features=np.random.default_rng(0).normal(size=(160, 4)) + group[:, None] + shift,
            y=group // 2,
            group=group,
            split=np.repeat(["heldout", "target", "val", "test"], 40),
        )
        plan = make_plan(name=name, reader="npz", settings={"path": str(file)})
        import_data(workspace, plan, overwrite=False)
    bundle = open_bundle(workspace, "tiny")
    name_slice(workspace, bundle, "first", np.array([3, 1]), "lasso on the map")
    name_slice(workspace, bundle, "zweite 🙂 [b]", np.arange(120, 160))
    flag_rows(
        workspace, bundle, np.array([5]), "GraSP outlier", note="odd", proposed_label="class 1"
    )
    flag_rows(workspace, bundle, np.array([130, 5]), "isolated gradient")
    return workspace


@pytest.fixture
def gsr(workspace, call):
    return partial(call, workspace)


def refused(outcome: Outcome, *said: str) -> None:
    assert (outcome.code, outcome.out) == (2, "")
    assert len(outcome.err.splitlines()) == 1
    for words in said:
        assert words in outcome.err


def test_slices_are_listed_oldest_first(gsr):
    outcome = gsr("slices", "tiny", "--json")
    assert outcome.code == 0
    found = json.loads(outcome.out)
    assert found["bundle"] == "tiny"
    assert [(each["name"], each["samples"]) for each in found["slices"]] == [
        ("first", 2),
        ("zweite 🙂 [b]", 40),
    ]
    assert found["slices"][0]["about"] == "lasso on the map"
    table = gsr("slices", "tiny").out
    assert table.index("first") < table.index("zweite 🙂 [b]")


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_slice_is_written_with_sample_ids(gsr, workspace, tmp_path, ending):
    bundle_groups = open_bundle(workspace, "tiny").group_names
    file = tmp_path / f"first{ending}"
    outcome = gsr("slices", "tiny", "--export", "first", "--to", file, "--json")
    assert json.loads(outcome.out) == {"file": str(file), "samples": 2}
    table = pd.read_csv(file) if ending == ".csv" else pd.read_parquet(file)
    assert table["row"].tolist() == [1, 3]
    assert table["group"].tolist() == [bundle_groups[1], bundle_groups[3]]
    assert table["class"].tolist() == ["class 0", "class 1"]
    assert set(table["slice"]) == {"first"}
    assert table["sample_id"].is_unique


def test_flags_are_listed_and_written(gsr, tmp_path):
    outcome = gsr("flags", "tiny", "--json")
    assert outcome.code == 0
    first, second = json.loads(outcome.out)["flags"]
    assert first["reason"] == "GraSP outlier; isolated gradient"
    assert (first["row"], first["note"], first["proposed_label"]) == (5, "odd", "class 1")
    assert (second["row"], second["split"]) == (130, "test")
    assert "GraSP outlier; isolated gradient" in gsr("flags", "tiny").out

    file = tmp_path / "flags.csv"
    assert gsr("flags", "tiny", "--export", file).out == f"{file}: 2 samples\n"
    assert pd.read_csv(file)["reason"].tolist() == [first["reason"], second["reason"]]


def test_a_bundle_without_any_says_how_they_come(gsr):
    outcome = gsr("slices", "other")
    assert (outcome.code, outcome.out) == (0, "")
    assert "gsr app" in outcome.err
    assert json.loads(gsr("slices", "other", "--json").out) == {"bundle": "other", "slices": []}
    assert json.loads(gsr("flags", "other", "--json").out) == {"bundle": "other", "flags": []}
    assert "no sample of 'other' is flagged" in gsr("flags", "other").err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("slices", "none"), "no bundle 'none'"),
        (("flags", "none"), "no bundle 'none'"),
        (("slices", "tiny", "--export", "first"), "--export NAME and --to FILE go together"),
        (("slices", "tiny", "--to", "x.csv"), "--export NAME and --to FILE go together"),
        (("slices", "tiny", "--export", "frist", "--to", "x.csv"), "did you mean 'first'?"),
        (("slices", "tiny", "--export", "first", "--to", "x.txt"), "written as .csv or .parquet"),
        (("slices", "other", "--export", "first", "--to", "x.csv"), "its slices are none"),
        (("flags", "tiny", "--export", "x"), "written as .csv or .parquet"),
    ],
)
def test_a_mistake_is_one_sentence(gsr, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    refused(gsr(*words), said)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_stays(gsr, tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("mine")
    refused(gsr("flags", "tiny", "--export", file), "exists already")
    assert file.read_text() == "mine"
