"""A run's head put back into a network of torchvision, from images to predictions without us."""

import csv
import json
import runpy
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load

import gsr_core
from gsr_core.cli import runs
from gsr_core.errors import BundleError, CheckpointError, RunStateError, SettingError
from gsr_core.features import torchvision_networks
from gsr_core.features.backbones import build, save_checkpoint
from gsr_core.features.merged import TOLERANCE
from gsr_core.ingest.importing import import_data
from gsr_core.ingest.plan import make_plan, plan_of
from gsr_core.runs.execute import run
from gsr_core.runs.merge import merge_archive, merge_run
from gsr_core.runs.samples import sample_table
from gsr_core.runs.store import create_run
from gsr_core.workspace import Workspace

MODEL = "shufflenet_v2_x0_5"
ROOT = Path(gsr_core.__file__).parents[1]
ALONE = Path(gsr_core.__file__).parent / "features" / "alone"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A workspace whose bundle of two classes came from a network for five."""
    folder = tmp_path_factory.mktemp("birds")
    make_birds = runpy.run_path(str(ROOT / "examples" / "make_birds.py"))["make_birds"]
    make_birds(folder, 80, size=45)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_checkpoint(build(f"torchvision:{MODEL}", 5), folder / "network.safetensors")
    plan = make_plan(
        name="birds",
        reader="waterbirds",
        settings={"path": str(folder)},
        roles={"split": {"heldout": 0.5}},
        backbone={
            "name": f"torchvision:{MODEL}",
            "checkpoint": str(folder / "network.safetensors"),
            "overrides": {"image_size": 32, "resize": 37},
        },
        extraction={"device": "cpu", "workers": 0},
    )
    workspace = Workspace(tmp_path_factory.mktemp("merging"))
    import_data(workspace, plan)
    return workspace


@pytest.fixture(scope="module")
def fitted(place):
    return run(place, "birds", "erm", device="cpu")


def test_the_merged_network_classifies_by_its_library_alone(fitted, tmp_path, monkeypatch, capsys):
    merged = merge_run(fitted, tmp_path / "merged")
    assert merged.files == ["about.json", "model.safetensors", "network.py", "predict.py"]
    assert merged.files == sorted(file.name for file in (tmp_path / "merged").iterdir())
    assert merged.deviation <= TOLERANCE
    known = json.loads((tmp_path / "merged" / "about.json").read_text())
    assert known["run"] == fitted.run_id
    assert known["features_deviation"] < 1e-5

    bundle, table = fitted.bundle, sample_table(fitted, "test").head(5)
    folder = Path(plan_of(bundle).settings["path"])
    files = [str(folder / bundle.column("path")[int(row)].as_py()) for row in table["row"]]
    # As `python predict.py` does; graphs are run in a process of their own.
    monkeypatch.syspath_prepend(tmp_path / "merged")
    runpy.run_path(str(tmp_path / "merged" / "predict.py"))["main"](files)
    # Not for the time of the test only: `monkeypatch` would put it back.
    del sys.modules["network"]
    (_, _, *classes), *rows = csv.reader(capsys.readouterr().out.splitlines())
    assert classes == bundle.manifest.classes
    assert [row[0] for row in rows] == files
    assert [row[1] for row in rows] == [classes[y] for y in table["prediction"]]
    assert [max(map(float, row[2:])) for row in rows] == pytest.approx(
        table["confidence"].tolist(), abs=1e-5
    )


@pytest.mark.parametrize("file", sorted(ALONE.glob("*.py")), ids=lambda file: file.name)
def test_scripts_that_are_copied_need_none_of_us(file):
    assert "gsr_core" not in file.read_text()


def test_the_command_says_what_it_wrote_and_how_it_was_checked(place, fitted, tmp_path, capsys):
    runs.merge(fitted.run_id, tmp_path / "one", place.root, True)
    said = json.loads(capsys.readouterr().out)
    assert said["directory"] == str((tmp_path / "one").resolve())
    assert said["files"] == sorted(file.name for file in (tmp_path / "one").iterdir())
    assert said["gives"] == "logits"
    runs.merge(fitted.run_id, tmp_path / "two", place.root, False)
    _, opened, checked = capsys.readouterr().out.splitlines()
    assert opened.startswith(f"opened by torchvision.models.get_model('{MODEL}', num_classes=2)")
    assert checked.startswith("run on 8 of the bundle's inputs, it gives the logits of the head")


def test_an_archive_holds_the_same_files(fitted, tmp_path):
    merged = merge_archive(fitted, tmp_path / "merged.zip")
    with zipfile.ZipFile(tmp_path / "merged.zip") as archive:
        names = [f"{fitted.run_id}-network/{name}" for name in merged.files]
        assert sorted(archive.namelist()) == names
        weights = archive.read(names[1])
    state = load(weights)
    np.testing.assert_array_equal(state["fc.weight"], fitted.head()[0])


def test_a_spoiled_merge_leaves_nothing(fitted, tmp_path, monkeypatch):
    def swapped(network, folder):
        with torch.no_grad():
            network.fc.weight.copy_(network.fc.weight.flip(0))
        save_checkpoint(network, folder / "model.safetensors")

    def refused(network, folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise RuntimeError("it has a mood")

    def full(network, folder):
        raise OSError(28, "No space left on device")

    for spoiled, error, message in (
        (swapped, CheckpointError, r"gives other logits .* they differ by .* 1e-04 is allowed"),
        (refused, CheckpointError, r"cannot be put back into torchvision:.* \(it has a mood\)"),
        (lambda *_: None, CheckpointError, r"cannot be put back .*model.safetensors"),
        (full, OSError, "No space left"),
    ):
        monkeypatch.setattr(torchvision_networks, "save_state", spoiled)
        with pytest.raises(error, match=message):
            merge_run(fitted, tmp_path / "out" / "merged")
        assert not list((tmp_path / "out").iterdir())


def test_what_cannot_be_merged_is_refused(place, fitted, tmp_path, monkeypatch):
    to = tmp_path / "merged"
    waiting = create_run(place, "birds", "erm", device="cpu")
    with pytest.raises(RunStateError, match="is queued with 0 steps"):
        merge_run(waiting, to)
    with pytest.raises(SettingError, match="exists already; give a directory that does not"):
        merge_run(fitted, tmp_path)

    network = Path(plan_of(fitted.bundle).backbone.checkpoint)
    kept = shutil.copy(network, tmp_path / "kept.safetensors")
    try:
        network.unlink()
        with pytest.raises(SettingError, match="the network of bundle 'birds' is gone: there is"):
            merge_run(fitted, to)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            save_checkpoint(build(f"torchvision:{MODEL}", 5), network)
        with pytest.raises(CheckpointError, match=r"are not those .* \(their SHA-256 differs\)"):
            merge_run(fitted, to)
    finally:
        shutil.copy(kept, network)

    picture = (
        Path(plan_of(fitted.bundle).settings["path"]) / fitted.bundle.column("path")[0].as_py()
    )
    before = picture.read_bytes()
    try:
        other = picture.with_name(sorted(each.name for each in picture.parent.glob("*.png"))[-1])
        picture.write_bytes(other.read_bytes())
        with pytest.raises(BundleError, match="no longer give the stored features"):
            merge_run(fitted, to)
    finally:
        picture.write_bytes(before)
    assert not to.exists()


def test_a_bundle_of_ready_features_has_no_network(place, tmp_path):
    rng = np.random.default_rng(0)
    n = 80
    np.savez(
        tmp_path / "ready.npz",
        features=rng.normal(size=(n, 4)).astype(np.float32),
        y=np.arange(n) % 2,
        group=np.arange(n) % 4,
        split=np.repeat(["train", "heldout", "target", "val", "test"], n // 5),
    )
    plan = make_plan(name="ready", reader="npz", settings={"path": str(tmp_path / "ready.npz")})
    import_data(place, plan)
    done = run(place, "ready", "erm", device="cpu")
    with pytest.raises(SettingError, match=r"'ready' was imported without a network .*an export"):
        merge_run(done, tmp_path / "merged")
