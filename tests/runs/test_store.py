import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from gsr_core.errors import (
    BundleError,
    BundleNotFoundError,
    DeviceError,
    GsrError,
    RunNotFoundError,
    RunStateError,
    SettingError,
)
from gsr_core.methods.history import HISTORY_COLUMNS
from gsr_core.progress import Status
from gsr_core.runs import store
from gsr_core.runs.store import create_run, list_runs, open_run

EXECUTE = """
import sys
from gsr_core import Workspace, create_run, execute

for seed in range(3):
    run = create_run(Workspace.at(sys.argv[1]), "tiny", "gsr", {"steps": 20, "seed": seed})
    print(run.run_id, execute(run).status)
"""


def test_what_was_asked_for_is_read_back(make, workspace):
    run = open_run(workspace, make(lr=0.5, seed=3).run_id)
    config = run.config
    assert (config.method, config.bundle, config.device, config.seed) == ("gsr", "tiny", "cpu", 3)
    assert config.settings["lr"] == 0.5
    assert config.settings["l2"] == 0.01
    assert config.bundle_digest == run.bundle.manifest.digest
    assert {"python", "gsr-core", "torch", "numpy"} <= set(config.versions)


def test_a_new_run_waits_and_has_nothing_yet(make):
    run = make()
    assert run.state.status == Status.QUEUED
    assert (run.state.step, run.state.steps, run.state.best_step) == (0, 5, 0)
    assert list(run.metrics().columns) == HISTORY_COLUMNS
    assert run.metrics().empty
    assert run.weights() is run.influence() is run.head() is run.checkpoint() is None
    assert run.weight_steps().size == 0
    assert "created: gsr on tiny" in run.log_text()


def test_arrays_and_tables_are_read_back_equal(make):
    run = make()
    weights = {1: np.full(3, 1 / 3, np.float32), 4: np.array([0, 0.25, 0.75], np.float32)}
    run.write_weight_history(weights, np.array([5, 3, 8]))
    assert run.weighted_rows().tolist() == [5, 3, 8]
    assert run.weight_steps().tolist() == [1, 4]
    np.testing.assert_array_equal(run.weights_at(4), weights[4])
    np.testing.assert_array_equal(run.weight_path(1), [weights[1][1], 0.25])
    history = pd.DataFrame([(1, "val", "", "mean_accuracy", 0.5)], columns=HISTORY_COLUMNS)
    run.write_metrics(history)
    pd.testing.assert_frame_equal(run.metrics(), history)
    arrays = {"a": np.arange(6.0).reshape(2, 3).T, "b": np.array(7)}
    run.write_arrays("checkpoint.safetensors", arrays)
    for key, array in run.checkpoint().items():
        np.testing.assert_array_equal(array, arrays[key])


def test_weights_of_a_step_that_was_not_stored_are_an_error_that_names_those_that_were(make):
    run = make()
    run.write_weight_history({1: np.ones(2, np.float32), 4: np.ones(2, np.float32)}, np.arange(2))
    with pytest.raises(RunStateError, match=r"no weights of step 2; stored steps are \[1, 4\]"):
        run.weights_at(2)


@pytest.mark.parametrize(
    ("bundle", "method", "settings", "device", "error"),
    [
        ("none", "gsr", {}, "cpu", BundleNotFoundError),
        ("tiny", "none", {}, "cpu", SettingError),
        ("tiny", "gsr", {"stepps": 3}, "cpu", SettingError),
        ("tiny", "gsr", {"steps": 0}, "cpu", SettingError),
        ("tiny", "gsr", {}, "nonsense", DeviceError),
        ("tiny", "gsr", {}, "cuda:99", DeviceError),
    ],
)
def test_a_run_that_cannot_work_is_not_made(workspace, bundle, method, settings, device, error):
    with pytest.raises(error):
        create_run(workspace, bundle, method, settings, device=device)
    assert not workspace.runs.exists()


def test_a_bundle_may_be_given_by_its_path(workspace, make, tmp_path):
    elsewhere = tmp_path / "elsewhere" / "mine"
    elsewhere.parent.mkdir()
    (workspace.bundles / "tiny").rename(elsewhere)
    run = create_run(workspace, str(elsewhere), "erm", device="cpu")
    assert run.config.bundle == str(elsewhere)
    assert len(run.bundle) == 200


def test_runs_are_listed_newest_first_and_other_directories_passed_over(
    make, workspace, monkeypatch
):
    made = []
    for second in range(3):
        monkeypatch.setattr(store, "now", lambda second=second: f"2030-01-01T00:00:0{second}Z")
        made.append(make().run_id)
    (workspace.runs / "half").mkdir()
    (workspace.runs / "broken").mkdir()
    (workspace.runs / "broken" / "config.json").write_text("{")
    for name, file, content in (
        ("bytes", "config.json", b"\xff"),
        ("stateless", "state.json", b"{"),
        ("gone", "config.json", None),
    ):
        run = make()
        text = (run.path / file).read_bytes().replace(b'"gsr"', b'"gone"')
        (run.path / file).write_bytes(text if content is None else content)
        run.path.rename(workspace.runs / name)
    assert [run.run_id for run in list_runs(workspace)] == made[::-1]


def test_a_workspace_without_runs_lists_none(workspace):
    assert list_runs(workspace) == []


def test_a_run_is_opened_by_an_unambiguous_beginning_of_its_name(make, workspace):
    gsr, erm, other = make(), make("erm"), make("erm")
    assert open_run(workspace, "g") == gsr
    assert open_run(workspace, erm.run_id) == erm
    with pytest.raises(RunNotFoundError, match="begins the names of 2 runs, erm-"):
        open_run(workspace, "erm-")
    assert other.run_id != erm.run_id


@pytest.mark.parametrize("name", ["llr", "", "../runs", "g/../x"])
def test_an_unknown_run_is_an_error_that_says_where_to_look(make, workspace, name):
    make()
    with pytest.raises(RunNotFoundError, match="'gsr runs' lists them"):
        open_run(workspace, name)


def test_a_run_of_another_format_or_with_a_broken_configuration_is_refused(make, workspace):
    run = make()
    file = run.path / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(GsrError, match="has format 99; this version reads format 1"):
        open_run(workspace, run.run_id)
    file.write_text("{}")
    with pytest.raises(GsrError, match=r"is not a run's configuration"):
        open_run(workspace, run.run_id)
    file.write_text(json.dumps({**config, "method": "gone"}))
    with pytest.raises(GsrError, match="is of the method 'gone', which this version does not have"):
        open_run(workspace, run.run_id)
    file.write_text(json.dumps(config))
    (run.path / "state.json").write_text("[]")
    with pytest.raises(GsrError, match=r"state.json is not a run's state; restore it"):
        open_run(workspace, run.run_id)


def test_only_one_at_a_time_holds_the_lock(make, workspace):
    run = make()
    again = open_run(workspace, run.run_id)
    refused = pytest.raises(RunStateError, match="is being computed by another process")
    with run.lock(), refused, again.lock():
        pass
    with run.lock():
        pass


def test_a_running_run_whose_lock_is_held_is_left_alone(make):
    run = make()
    run.write_state(run.state.model_copy(update={"status": Status.RUNNING}))
    with run.lock():
        assert run.state.status == Status.RUNNING


def test_a_running_run_without_a_process_is_marked_failed(make):
    run = make()
    run.write_state(run.state.model_copy(update={"status": Status.RUNNING}))
    assert run.state.status == Status.FAILED
    assert run.state.message.endswith("ended without a word; no step was stored")
    assert run.stored_state() == run.state
    assert "ended without a word" in run.log_text()


def test_a_lost_run_is_marked_failed_even_if_its_bundle_is_gone(make, workspace, every_step):
    from gsr_core.runs.execute import execute

    run = make()
    execute(run)
    run.write_state(run.state.model_copy(update={"status": Status.RUNNING}))
    (workspace.bundles / "tiny").rename(workspace.root / "away")
    assert run.state.status == Status.FAILED
    assert run.state.step == 5
    assert "cannot be written out: no bundle 'tiny'" in run.log_text()


def test_a_lost_run_is_marked_failed_even_if_its_checkpoint_is_no_more(done):
    run = done()
    run.write_state(run.state.model_copy(update={"status": Status.RUNNING}))
    (run.path / "checkpoint.safetensors").write_text("broken")
    assert run.state.status == Status.FAILED
    assert "the kept step cannot be written out: " in run.state.message


def test_a_kept_step_of_another_bundle_is_not_written(done, workspace, contents):
    run = done()
    manifest = workspace.bundles / "tiny" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"cat"', '"lynx"'))
    before = contents(run.path)
    with pytest.raises(BundleError, match="'tiny' has changed since this run was made"):
        run.write_kept({**_head(), **_rows()})
    assert contents(run.path) == before


def test_the_head_is_written_last(done, monkeypatch):
    run, written = done(), []
    real = store.replace_file

    def replace_file(target):
        written.append(target.name)
        return real(target)

    monkeypatch.setattr(store, "replace_file", replace_file)
    run.write_kept({**_head(), **_rows()})
    assert written == ["weights.parquet", "influence.npy", "head.safetensors"]


def test_a_waiting_run_is_cancelled_at_once(make):
    run = make()
    run.request_cancel()
    assert run.state.status == Status.CANCELLED
    assert "cancelled while queued" in run.log_text()


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("config.json", lambda run: run.write_config(run.config)),
        ("state.json", lambda run: run.write_state(run.stored_state())),
        ("metrics.parquet", lambda run: run.write_metrics(run.metrics())),
        (
            "weight_history.safetensors",
            lambda run: run.write_weight_history({1: np.zeros(2, np.float32)}, np.arange(2)),
        ),
        ("head.safetensors", lambda run: run.write_kept({**_head(), **_rows()})),
        ("weights.parquet", lambda run: run.write_kept({**_head(), **_rows()})),
        ("influence.npy", lambda run: run.write_kept({**_head(), **_rows()})),
    ],
)
def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    done, contents, monkeypatch, name, write
):
    run = done()
    before = contents(run.path)
    assert name in before

    def full(source, target):
        if target.name == name:
            raise OSError("no space left")
        real(source, target)

    real = store.replace_file.__wrapped__.__globals__["os"].replace
    monkeypatch.setattr("gsr_core.files.os.replace", full)
    with pytest.raises(OSError, match="no space left"):
        write(run)
    after = contents(run.path)
    assert after[name] == before[name]
    assert set(after) == set(before)


def _head():
    return {"head_weight": np.zeros((2, 5)), "head_bias": np.zeros(2)}


def _rows():
    return {
        "sample_weight": np.full(3, 1 / 3),
        "rows": np.arange(3),
        "influence": np.zeros((3, 4)),
    }


def test_two_processes_make_and_compute_runs_in_one_workspace(workspace, same_outcome):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", EXECUTE, str(workspace.root)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = []
    for process in processes:
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        said.append([line.split() for line in output.splitlines()])
    assert all(status == "finished" for lines in said for _, status in lines)
    mine, other = ([open_run(workspace, name) for name, _ in lines] for lines in said)
    assert len(list_runs(workspace)) == 6
    for one, two in zip(mine, other, strict=True):
        same_outcome(one, two)


@pytest.mark.parametrize(("method", "seed"), [("gsr", 0), ("gsr", 3), ("dfr", 3)])
def test_weights_of_every_step_say_which_rows_they_are_of(done, method, seed):
    run = done(method, seed=seed)
    table = run.weights()
    rows = run.weighted_rows()
    np.testing.assert_array_equal(rows, table["row"])
    np.testing.assert_array_equal(rows, run.rows_of(run.values_split))
    assert run.bundle.column("sample_id").take(rows).to_pylist() == table["sample_id"].tolist()
    np.testing.assert_array_equal(
        run.weights_at(run.state.best_step), table["weight"].astype(np.float32)
    )


def test_weights_stored_without_their_rows_are_those_of_the_runs_split(done):
    run = done(seed=3)
    rows = run.weighted_rows()
    file = run.path / "weight_history.safetensors"
    save_file({k: v for k, v in load_file(file).items() if k != "rows"}, file)
    np.testing.assert_array_equal(run.weighted_rows(), rows)
