import csv
import importlib.util
import io
import json
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest

from gsr_core.curation.flags import flag_rows
from gsr_core.curation.slices import name_slice
from gsr_core.curation.tables import curated
from gsr_core.data.bundle import load_head
from gsr_core.errors import RunStateError, SettingError
from gsr_core.runs import export
from gsr_core.runs.export import export_archive, export_run
from gsr_core.runs.samples import sample_table
from gsr_core.runs.summary import summarise


def test_everything_that_a_run_left_behind_is_exported(done, tmp_path):
    run, to = done(), tmp_path / "new" / "mine"
    files = export_run(run, to)
    assert files == sorted(file.name for file in to.iterdir())
    assert files == [
        "about.json",
        "config.json",
        "head.safetensors",
        "influence.npy",
        "metrics.parquet",
        "predictions.csv",
        "predictions.parquet",
        "summary.json",
        "use.py",
        "weights.csv",
        "weights.parquet",
    ]
    assert json.loads((to / "summary.json").read_text()) == summarise(run)
    assert (load_head(to / "head.safetensors")[0] == run.head()[0]).all()
    pd.testing.assert_frame_equal(pd.read_csv(to / "weights.csv"), run.weights())


def test_a_run_without_weights_is_exported_without_them(done, tmp_path):
    files = export_run(done("erm"), tmp_path / "mine")
    assert not [name for name in files if name.startswith(("weights", "influence"))]


def test_every_sample_has_what_the_head_says_of_it_in_the_split_that_the_run_saw(done, tmp_path):
    # A seed redraws target and val.
    run = done(seed=1)
    export_run(run, tmp_path / "mine")
    table = pd.read_parquet(tmp_path / "mine" / "predictions.parquet")
    text = pd.read_csv(tmp_path / "mine" / "predictions.csv")
    pd.testing.assert_frame_equal(table, text, check_dtype=False, rtol=1e-6)
    bundle, (weight, bias) = run.bundle, run.head()
    assert sorted(table["row"]) == list(range(len(bundle)))
    assert (table["sample_id"] == bundle.samples["sample_id"].to_numpy()[table["row"]]).all()
    for split, part in table.groupby("split"):
        assert sorted(part["row"]) == sorted(run.rows_of(split))
    odds = np.exp(bundle.features[table["row"]].astype(float) @ weight.T + bias)
    odds /= odds.sum(axis=1, keepdims=True)
    shown = table[["probability: cat", "probability: dog"]].to_numpy()
    np.testing.assert_allclose(shown, odds, atol=1e-5)
    y = bundle.y[table["row"]]
    np.testing.assert_allclose(table["loss"], -np.log(odds[np.arange(len(y)), y]), atol=1e-4)
    for split in ("val", "test"):
        right = table.loc[table["split"] == split, "correct"].mean()
        assert right == pytest.approx(summarise(run)[split]["mean_accuracy"], abs=1e-12)


def test_predictions_are_those_of_the_head_beside_them(done, tmp_path):
    run = done()
    export_run(run, tmp_path / "mine", offset={"cat": 0.0, "dog": 50.0})
    table = pd.read_parquet(tmp_path / "mine" / "predictions.parquet")
    assert (table["prediction"] == "dog").all()


def test_of_too_many_classes_only_the_prediction_has_its_probability(done, tmp_path, monkeypatch):
    monkeypatch.setattr("gsr_core.runs.predictions.MOST_PROBABILITIES", 399)
    monkeypatch.setattr("gsr_core.runs.predictions._BLOCK", 60)
    run = done()
    export_run(run, tmp_path / "mine")
    table = pd.read_parquet(tmp_path / "mine" / "predictions.parquet")
    assert not [name for name in table.columns if name.startswith("probability")]
    wanted = sample_table(run, "test")
    kept = table[table["split"] == "test"]
    np.testing.assert_allclose(kept["confidence"], wanted["confidence"], atol=1e-6)


def test_what_the_user_picked_out_comes_along_with_the_users_ids(done, tmp_path):
    run = done()
    place, bundle = run.workspace, run.bundle
    assert curated(place, bundle) == {}
    name_slice(place, bundle, "first", np.arange(3))
    name_slice(place, bundle, "others", np.array([2, 7]))
    flag_rows(place, bundle, np.array([5]), reason="wrong label")
    files = export_run(run, tmp_path / "mine", tables=curated(place, bundle))
    assert {"flags.csv", "flags.parquet", "slices.csv", "slices.parquet"} <= set(files)
    slices = pd.read_parquet(tmp_path / "mine" / "slices.parquet")
    pairs = slices[["slice", "sample_id"]].to_numpy().tolist()
    assert pairs == [
        ["first", "s0"],
        ["first", "s1"],
        ["first", "s2"],
        ["others", "s2"],
        ["others", "s7"],
    ]
    flags = pd.read_csv(tmp_path / "mine" / "flags.csv")
    assert flags[["sample_id", "reason"]].to_numpy().tolist() == [["s5", "wrong label"]]


def use(folder, *words: str) -> list[list[str]]:
    """Run `use.py` as who takes the export home does."""
    command = [sys.executable, str(folder / "use.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(csv.reader(done.stdout.splitlines()))


def test_the_export_classifies_features_as_the_run_does(done, tmp_path):
    run = done()
    export_run(run, tmp_path / "mine")
    table = sample_table(run, "test")
    np.save(tmp_path / "rows.npy", run.bundle.features[table["row"]])
    head, *rows = use(tmp_path / "mine", str(tmp_path / "rows.npy"))
    assert head == ["input", "prediction", "cat", "dog"]
    assert [row[0] for row in rows] == [f"{tmp_path / 'rows.npy'}:{n}" for n in range(len(table))]
    assert [row[1] for row in rows] == [["cat", "dog"][y] for y in table["prediction"]]
    assert [max(float(each) for each in row[2:]) for row in rows] == pytest.approx(
        table["confidence"].tolist(), abs=1e-5
    )


def test_features_of_another_size_are_refused_in_one_sentence(done, tmp_path):
    export_run(done(), tmp_path / "mine")
    np.save(tmp_path / "rows.npy", np.zeros((2, 3)))
    for file, said in (("rows.npy", "the head takes (n, 5)"), ("none.npy", "there is no file")):
        command = [sys.executable, str(tmp_path / "mine" / "use.py"), str(tmp_path / file)]
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
        assert refused.returncode == 1
        assert said in refused.stderr
        assert refused.stderr.count("\n") == 1


def exported(run, to, **about):
    """Export a run, with another account of its network, and return `use.py` as a module."""
    export_run(run, to)
    known = json.loads((to / "about.json").read_text())
    (to / "about.json").write_text(json.dumps({**known, **about}))
    spec = importlib.util.spec_from_file_location("use", to / "use.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_file_of_another_kind_is_refused_with_what_the_head_takes(done, tmp_path):
    module = exported(done(), tmp_path / "mine", preprocessing={"modality": "text"})
    (tmp_path / "pairs.csv").write_text("a,b\n")
    with pytest.raises(
        SystemExit, match=r"pairs\.csv ends in '\.csv'; this head takes \.txt, \.npy"
    ):
        module.main([str(tmp_path / "pairs.csv")])


def test_each_text_is_named_and_the_wait_is_said(done, tmp_path, monkeypatch, capsys):
    module = exported(
        done(),
        tmp_path / "mine",
        preprocessing={"modality": "text"},
        network={"name": "sentence:some", "checkpoint": ""},
        network_sha256=None,
    )

    def load(name, **_):
        raise SettingError(name)

    monkeypatch.setattr("gsr_core.features.backbones.load_backbone", load)
    with pytest.raises(SettingError):
        module.network_features(["one"])
    assert capsys.readouterr().err == "Loading the network sentence:some ...\n"

    monkeypatch.setattr(module, "network_features", lambda inputs, _: np.zeros((len(inputs), 5)))
    (tmp_path / "texts.txt").write_text("one\n\ntwo\tof a pair\n")
    module.main([str(tmp_path / "texts.txt")])
    _, *rows = csv.reader(capsys.readouterr().out.splitlines())
    assert [row[0] for row in rows] == [f"{tmp_path / 'texts.txt'}:{line}" for line in (1, 3)]


def test_a_network_trained_in_the_workspace_comes_along(done, tmp_path, monkeypatch):
    run = done()
    network = {"name": "simconv1", "weights": ""}
    inside = run.workspace.backbones / "mine" / "trained.safetensors"
    inside.parent.mkdir(parents=True)
    outside = tmp_path / "elsewhere.safetensors"
    for file in (inside, outside):
        file.write_bytes(b"weights")
    about = export._about(run, run.bundle)
    for file, named in ((inside, "network.safetensors"), (outside, str(outside))):
        changed = {**about, "network": {**network, "checkpoint": str(file)}}
        monkeypatch.setattr(export, "_about", lambda *_, changed=changed: changed)
        names = export_run(run, tmp_path / file.stem)
        kept = json.loads((tmp_path / file.stem / "about.json").read_text())
        assert kept["network"] == {**network, "checkpoint": named}
        assert ("network.safetensors" in names) == (file == inside)


def test_an_archive_holds_the_same_files(done, tmp_path):
    run = done()
    names = export_run(run, tmp_path / "mine")
    with zipfile.ZipFile(io.BytesIO(export_archive(run))) as archive:
        assert sorted(archive.namelist()) == [f"{run.run_id}/{name}" for name in names]
        about = json.loads(archive.read(f"{run.run_id}/about.json"))
    assert about["classes"] == ["cat", "dog"]
    assert [group["name"] for group in about["groups"]] == run.bundle.group_names


def test_a_run_without_a_step_is_not_exported(make, tmp_path):
    run = make()
    with pytest.raises(RunStateError, match="is queued with 0 steps; it can be exported once"):
        export_run(run, tmp_path / "mine")
    run.request_cancel()
    with pytest.raises(RunStateError, match="is cancelled with 0 steps"):
        export_run(run, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_nothing_that_exists_is_replaced(done, tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(SettingError, match="exists already; give a directory that does not"):
        export_run(done(), tmp_path / "mine")
    assert not list((tmp_path / "mine").iterdir())


def test_an_export_that_fails_leaves_nothing(done, tmp_path, monkeypatch):
    real = shutil.copy2

    def full(source, target):
        if source.name == "metrics.parquet":
            raise OSError("no space left")
        real(source, target)

    monkeypatch.setattr("gsr_core.runs.export.shutil.copy2", full)
    with pytest.raises(OSError, match="no space left"):
        export_run(done(), tmp_path / "out" / "mine")
    assert not list((tmp_path / "out").iterdir())
