"""Runs that find no room on the disk: real limits of the size of files, in processes of their own.

Under such a limit an empty file can still be made, as on a disk that is full.
"""

import errno
import json
import os
import subprocess
import sys

import pytest

from gsr_core.errors import DiskFullError
from gsr_core.progress import Status
from gsr_core.runs.execute import continue_run, execute
from gsr_core.runs.job import RunJob, submit
from gsr_core.runs.store import Run, create_run, list_runs

LIMITED = """
import contextlib, io, json, resource, sys
from gsr_core.cli.main import main

# Everything is imported before, so that the limit holds for what the command writes.
import gsr_core.runs.execute, gsr_core.ingest.importing, pyarrow.parquet, sklearn.metrics

sys.argv = ["gsr", *sys.argv[2:]]
most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
for limit in json.loads(LIMITS):
    out, err, code = io.StringIO(), io.StringIO(), 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            code = stop.code
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there are no such limits")


def test_a_run_without_room_fails_with_that_reason_and_leaves_nothing_half_made(workspace):
    limits = [0, 200, 600, 1500, 3000]
    outcomes = subprocess.run(
        [
            *(sys.executable, "-c", LIMITED.replace("LIMITS", repr(json.dumps(limits))), ""),
            *("run", "tiny", "--set", "steps=5", "--device", "cpu"),
        ],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "GSR_WORKSPACE": str(workspace.root)},
    )
    made = 0
    for line in outcomes.stdout.splitlines():
        code, out, err = json.loads(line)
        assert "Traceback" not in err
        if code == 1:
            made += 1
            assert "failed: the disk was full; " in err
        else:
            assert code == 2
            assert out == ""
            assert err == (
                "gsr: the disk is full: a new run cannot be written; make room, for instance with "
                "'gsr clean', and start again\n"
            )
    assert 0 < made < len(limits)
    runs = list_runs(workspace)
    assert len(runs) == made == len(list(workspace.runs.iterdir()))
    for run in runs:
        assert run.state.status is Status.FAILED
        assert run.state.message.startswith("the disk was full; ")
        assert not list(run.path.glob(".*.tmp"))
        assert not run.full_marker.exists()
    assert list(RunJob.waiting(workspace, "cpu")) == []


def test_a_run_that_fails_for_lack_of_room_goes_on_when_there_is_some(
    workspace, make, same_outcome
):
    whole = make(steps=40)
    execute(whole)
    sizes = {file.name: file.stat().st_size for file in whole.path.iterdir()}
    # Enough for the first checkpoints, not for the weights over all steps.
    limit = sizes["weight_history.safetensors"] * 3 // 4
    assert limit > sizes["checkpoint.safetensors"]
    script = """
import resource, sys
from gsr_core import Workspace, execute
from gsr_core.runs import recorder
from gsr_core.runs.store import open_run

recorder._PAUSE, recorder._WRITE_SHARE = 0, 1e9
run = open_run(Workspace.at(sys.argv[1]), sys.argv[2])
import gsr_core.runs.samples, pyarrow.parquet
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
print(execute(run).message)
"""
    run = make(steps=40)
    arguments = [str(workspace.root), run.run_id, str(limit)]
    outcome = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
    )
    state = run.state
    assert state.status is Status.FAILED
    assert 0 < state.step < 40
    assert outcome.stdout.startswith("the disk was full; the last stored step is ")
    assert state.message.endswith("make room, then continue the run")
    assert run.head() is not None
    continue_run(run, 40)
    assert execute(run).status is Status.FINISHED
    same_outcome(run, whole)


def no_room(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_state_that_cannot_be_written_is_caught_up_with_when_there_is_room(make, monkeypatch):
    run = make()
    with monkeypatch.context() as patch:
        patch.setattr(Run, "write_state", no_room)
        assert execute(run).status is Status.FAILED
        assert run.state.status is Status.FAILED
        assert execute(run).status is Status.FAILED
        assert run.full_marker.exists()
    assert "queued" in (run.path / "state.json").read_text()
    assert run.state.message == (
        "the disk was full; no step was stored; make room, then start it again"
    )
    assert not run.full_marker.exists()
    assert "failed" in (run.path / "state.json").read_text()


def test_a_kept_step_that_cannot_be_written_is_written_when_there_is_room(
    make, done, monkeypatch, same_outcome, every_step
):
    whole, run = done(), make()
    with monkeypatch.context() as patch:
        patch.setattr(Run, "write_kept", no_room)
        state = execute(run)
        assert (state.status, state.step) == (Status.FAILED, 5)
        assert run.state.status is Status.FAILED
        assert run.head() is None
    assert run.state.status is Status.FAILED
    assert not run.full_marker.exists()
    for mine, other in zip(run.head(), whole.head(), strict=True):
        assert (mine == other).all()


def test_a_run_that_cannot_be_queued_does_not_wait(make, workspace, monkeypatch):
    run = make()
    monkeypatch.setattr("gsr_core.jobs.queue.ensure_worker", lambda *_: None)
    monkeypatch.setattr("gsr_core.jobs.queue.open_queue", no_room)
    with pytest.raises(DiskFullError, match="the disk is full"):
        submit(run)
    assert run.state.status is Status.FAILED
    assert list(RunJob.waiting(workspace, "cpu")) == []


@pytest.mark.parametrize("writes", [0, 1])
def test_a_run_that_cannot_be_made_leaves_no_directory(workspace, monkeypatch, writes):
    monkeypatch.setattr(Run, ("write_state", "write_config")[writes], no_room)
    with pytest.raises(DiskFullError, match="a new run cannot be written; make room"):
        create_run(workspace, "tiny", "erm", device="cpu")
    assert not workspace.runs.exists() or list(workspace.runs.iterdir()) == []
