import itertools
import json
import os
import sqlite3
import subprocess
import sys
from datetime import datetime

import pytest

from gsr_core.jobs.lock import BACKGROUND, worker_alive, worker_file, worker_lock
from gsr_core.jobs.queue import ensure_worker, open_queue, start_job
from gsr_core.jobs.state import read_job
from gsr_core.jobs.tasks import make_tasks
from gsr_core.maps.config import MapConfig
from gsr_core.maps.job import MapJob
from gsr_core.progress import Status
from gsr_core.runs.execute import execute
from gsr_core.runs.job import device_queue, ensure_run_worker, submit


@pytest.fixture(scope="module")
def tools(request):
    """What the conftest has besides fixtures."""
    return request.config.pluginmanager.get_plugin(str(request.path.with_name("conftest.py")))


def ended(run):
    return not run.state.active


def logged(run, text):
    """The time of the last line of the log with a text, and the line."""
    line = [line for line in run.log_text().splitlines() if text in line][-1]
    return datetime.fromisoformat(line.split()[0]), line


def pid_of(workspace):
    return int(worker_file(workspace, "cpu", "pid").read_text())


def test_devices_have_queues():
    assert device_queue("cpu") == "cpu"
    assert device_queue("auto") in ("cpu", "mps", "cuda:0")


def test_tasks_are_kept_as_json_never_as_pickle(workspace):
    arguments = {"key": "ä", "config": {"n": 3, "of": [1.5]}, "run_id": None, "bundle": "tiny"}
    queue = open_queue(workspace, BACKGROUND)
    make_tasks(workspace, queue)["map"](**arguments)
    with sqlite3.connect(workspace.jobs / "queue.sqlite3") as database:
        (stored,) = database.execute("select data from task").fetchone()
    assert json.loads(stored)["kwargs"] == arguments
    assert [task.kwargs for task in open_queue(workspace, BACKGROUND).pending()] == []
    assert [task.kwargs for task in queue.pending()] == [arguments]


def test_a_waiting_run_gets_a_new_worker_when_its_own_died(workspace, make, tools):
    run = make(steps=2)
    run.write_config(run.config.model_copy(update={"device": "cuda:99"}))
    ensure_run_worker(run)
    assert not worker_file(workspace, "cpu", "pid").exists()
    run.write_config(run.config.model_copy(update={"device": "cpu"}))
    for _ in range(1000):  # Asking often costs nothing.
        ensure_run_worker(run)
    tools.wait_for(lambda: ended(run))
    assert run.state.status == Status.FINISHED


def test_runs_are_computed_one_at_a_time_in_order_by_one_process(workspace, make, tools):
    first = make()
    submit(first)
    tools.wait_for(lambda: ended(first))

    runs = [make(), make(), make()]
    for run in runs:
        submit(run)
    tools.wait_for(lambda: all(ended(run) for run in runs))
    for run in [first, *runs]:
        assert run.state.status == Status.FINISHED
        assert logged(run, "computing on")[1].endswith(f"process {pid_of(workspace)}")
    for run, following in itertools.pairwise(runs):
        assert logged(run, "finished at")[0] <= logged(following, "computing on")[0]

    log = worker_file(workspace, "cpu", "log").read_text()
    assert f"process {pid_of(workspace)} is ready" in log
    assert "Traceback" not in log


def test_running_and_waiting_runs_are_cancelled(workspace, make, tools):
    running, waiting = make(steps=9000), make()
    submit(running)
    submit(waiting)
    tools.wait_for(lambda: running.state.step >= 1)
    assert waiting.state.status == Status.QUEUED
    waiting.request_cancel()
    assert waiting.state.status == Status.CANCELLED
    running.request_cancel()
    tools.wait_for(lambda: ended(running))
    assert running.state.status == Status.CANCELLED
    assert running.head() is not None
    last = make(steps=2)
    submit(last)
    tools.wait_for(lambda: ended(last))
    assert last.state.status == Status.FINISHED
    assert waiting.metrics().empty


def test_a_killed_worker_fails_its_run_and_the_next_submit_finishes_the_others(
    workspace, make, tools
):
    # From a machine with more devices: nobody here can compute it, nobody stumbles over it.
    foreign = make()
    foreign.write_config(foreign.config.model_copy(update={"device": "cuda:99"}))
    running, waiting = make(steps=9000), make(steps=2)
    submit(running)
    submit(waiting)
    tools.wait_for(lambda: running.state.step >= 1)
    killed = pid_of(workspace)
    tools.kill(killed)
    assert running.state.status == Status.FAILED
    assert "ended without a word; the last stored step is" in running.state.message
    assert running.head() is not None
    assert waiting.state.status == Status.QUEUED

    last = make(steps=2)
    submit(last)
    tools.wait_for(lambda: ended(waiting) and ended(last))
    assert waiting.state.status == last.state.status == Status.FINISHED
    assert running.state.status == Status.FAILED
    assert foreign.state.status == Status.QUEUED
    assert pid_of(workspace) != killed


def test_asking_often_starts_one_worker_which_takes_up_what_the_queue_lost(workspace, make, tools):
    lost = make(steps=2)
    for _ in range(5):
        ensure_worker(workspace, "cpu")
    # A worker that another process starts before this one has its lock leaves; see below.
    tools.wait_for(lambda: worker_alive(workspace, "cpu"))
    again = "from gsr_core.jobs.queue import *; from gsr_core.workspace import *; import sys\n"
    again += "ensure_worker(Workspace.at(sys.argv[1]), 'cpu')"
    subprocess.run([sys.executable, "-c", again, str(workspace.root)], check=True)
    tools.wait_for(lambda: ended(lost))
    assert lost.state.status == Status.FINISHED
    assert worker_file(workspace, "cpu", "log").read_text().count("is ready") == 1

    # Computed by somebody else between its making and its turn.
    mine, other = make(steps=2), make(steps=2)
    execute(mine)
    done = mine.log_text()
    submit(mine)
    submit(other)
    tools.wait_for(lambda: ended(other))
    assert mine.log_text() == done


def test_a_second_worker_of_a_queue_leaves(workspace, tools):
    with worker_lock(workspace, "cpu"):
        command = [sys.executable, "-m", "gsr_core.jobs.worker", str(workspace.root), "cpu"]
        subprocess.run(command, check=True, timeout=tools.PATIENCE)
    assert not worker_file(workspace, "cpu", "pid").exists()


def test_a_background_job_is_started_once_and_its_failure_written_down(
    workspace, make, tools, monkeypatch
):
    job = MapJob(config=MapConfig(bundle="", space="features"), run_id=None, bundle="none")
    first = start_job(workspace, job)
    assert (first.status, first.text) == (Status.QUEUED, "Waiting for the worker")
    assert start_job(workspace, job).written >= first.written
    tools.wait_for(lambda: not read_job(workspace, "map", job.key).active)
    found = read_job(workspace, "map", job.key)
    assert found.status == Status.FAILED
    assert found.text.startswith("no bundle 'none'")
    assert worker_file(workspace, BACKGROUND, "pid").exists()
    os.kill(int(worker_file(workspace, BACKGROUND, "pid").read_text()), 0)
