import json
import shutil

import pandas as pd
import pytest

from gsr_core.data.bundle import load_head
from gsr_core.errors import RunStateError, SettingError
from gsr_core.runs.export import export_run
from gsr_core.runs.summary import summarise


def test_everything_that_a_run_left_behind_is_exported(done, tmp_path):
    run, to = done(), tmp_path / "new" / "mine"
    files = export_run(run, to)
    assert files == sorted(file.name for file in to.iterdir())
    assert files == [
        "config.json",
        "head.safetensors",
        "influence.npy",
        "metrics.parquet",
        "summary.json",
        "weights.csv",
        "weights.parquet",
    ]
    assert json.loads((to / "summary.json").read_text()) == summarise(run)
    assert (load_head(to / "head.safetensors")[0] == run.head()[0]).all()
    pd.testing.assert_frame_equal(pd.read_csv(to / "weights.csv"), run.weights())


def test_a_run_without_weights_is_exported_without_them(done, tmp_path):
    files = export_run(done("erm"), tmp_path / "mine")
    assert files == ["config.json", "head.safetensors", "metrics.parquet", "summary.json"]


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
