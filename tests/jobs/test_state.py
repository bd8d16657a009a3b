import errno
import os

import pytest

from gsr_core.errors import BundleNotFoundError, DiskFullError, RunStateError
from gsr_core.example_job import ExampleJob
from gsr_core.jobs import queue, tasks
from gsr_core.jobs import state as progress
from gsr_core.jobs.base import Job
from gsr_core.jobs.lock import BACKGROUND, worker_lock
from gsr_core.jobs.state import (
    JobState,
    job_lock,
    kept_job,
    list_jobs,
    read_job,
    request_stop,
    stop_requested,
    write_job,
)
from gsr_core.jobs.tasks import perform
from gsr_core.progress import Status
from gsr_core.workspace import Workspace


@pytest.fixture
def workspace(tmp_path):
    return Workspace.at(tmp_path)


def test_a_job_that_was_never_started_has_no_state(workspace):
    assert read_job(workspace, "map", "a") is None


def test_a_state_is_read_back_and_jobs_are_kept_apart(workspace):
    write_job(workspace, JobState(kind="map", key="a", fraction=0.5, text="half"))
    write_job(workspace, JobState(kind="map", key="a/b: ä"))
    found = read_job(workspace, "map", "a")
    assert (found.status, found.fraction, found.text) == (Status.QUEUED, 0.5, "half")
    assert found.active
    assert found.written > 0
    assert read_job(workspace, "map", "a/b: ä").text == ""
    assert read_job(workspace, "example", "a") is None


def test_a_running_job_whose_process_lives_is_left_alone(workspace):
    write_job(workspace, JobState(kind="map", key="a", status=Status.RUNNING))
    with job_lock(workspace, "map", "a"):
        assert read_job(workspace, "map", "a").status == Status.RUNNING


def test_a_running_job_whose_process_died_is_marked_failed(workspace):
    write_job(workspace, JobState(kind="map", key="a", status=Status.RUNNING))
    found = read_job(workspace, "map", "a")
    assert found.status == Status.FAILED
    assert not found.active
    assert "ended without a word; start it again" in found.text
    assert read_job(workspace, "map", "a").status == Status.FAILED


def test_a_job_that_nobody_takes_up_is_given_up(workspace, monkeypatch):
    write_job(workspace, JobState(kind="map", key="a"))
    assert read_job(workspace, "map", "a").active
    monkeypatch.setattr(progress, "_START_LIMIT", -1)
    with worker_lock(workspace, BACKGROUND):
        assert read_job(workspace, "map", "a").active
    assert read_job(workspace, "map", "a").status == Status.FAILED


@pytest.fixture
def do(workspace, monkeypatch):
    """Return what lets a worker do a job of the kind `map` whose work is a function."""

    def do(work, key="a"):
        class Work(Job):
            kind, keyed = "map", "name"
            name: str

            def run(self, workspace, report, should_stop):
                work(report, should_stop)

        monkeypatch.setattr(tasks, "job_class", {"map": Work}.get)
        perform(workspace, "map", {"key": key})
        found = read_job(workspace, "map", key)
        return found.status, found.fraction, found.text

    return do


def test_a_job_reports_its_progress_and_its_end(workspace, do):
    def work(report, should_stop):
        assert read_job(workspace, "map", "a").status == Status.RUNNING
        report(0.25, "a quarter")
        found = read_job(workspace, "map", "a")
        assert (found.fraction, found.text) == (0.25, "a quarter")

    assert do(work) == (Status.FINISHED, 1, "Done")


def test_a_job_that_the_user_can_mend_fails_with_the_sentence(do):
    def work(report, should_stop):
        raise BundleNotFoundError("no bundle 'x'")

    assert do(work) == (Status.FAILED, 0, "no bundle 'x'")


def test_a_job_that_breaks_fails_with_a_traceback_in_the_log(do, capsys):
    def work(report, should_stop):
        raise ValueError("boom")

    assert do(work) == (Status.FAILED, 0, "ValueError: boom")
    assert "Traceback" in capsys.readouterr().err


def test_a_job_that_is_asked_to_stop_is_cancelled_and_one_that_waits_never_begins(workspace, do):
    def work(report, should_stop):
        assert not should_stop()
        request_stop(workspace, "map", "a")
        assert should_stop()
        raise RunStateError("stopped in the middle")

    assert do(work) == (Status.CANCELLED, 0, "stopped in the middle")
    assert stop_requested(workspace, "map", "a")
    assert do(work) == (Status.CANCELLED, 0, "the map was stopped before it began")
    # To queue it again is to want it again.
    write_job(workspace, JobState(kind="map", key="a"))
    assert not stop_requested(workspace, "map", "a")


def test_what_a_job_cannot_do_from_what_was_stored_is_a_sentence(workspace):
    perform(workspace, "map", {"key": "a", "config": {"space": "dreams"}, "run_id": None})
    found = read_job(workspace, "map", "a")
    assert found.status == Status.FAILED
    assert "config" in found.text or "bundle" in found.text
    assert "Traceback" not in found.text
    assert kept_job(workspace, "map", "a") is None


def no_room(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_job_that_finds_no_room_says_so_and_waits_for_nobody(workspace, monkeypatch):
    write_job(workspace, JobState(kind="map", key="a"))
    with monkeypatch.context() as patch:
        patch.setattr(progress, "replace_file", no_room)
        with pytest.raises(DiskFullError, match="how a job stands cannot be written; make room"):
            write_job(workspace, JobState(kind="map", key="a", status=Status.RUNNING))
        found = read_job(workspace, "map", "a")
        assert (found.status, found.text) == (
            Status.FAILED,
            "The disk was full; make room and start it again.",
        )
    assert read_job(workspace, "map", "a").status == Status.FAILED
    write_job(workspace, JobState(kind="map", key="a"))
    assert read_job(workspace, "map", "a").active


def test_a_job_that_cannot_be_queued_is_forgotten(workspace, monkeypatch):
    monkeypatch.setattr(queue, "ensure_worker", lambda *_: None)
    monkeypatch.setattr(queue, "open_queue", no_room)
    with pytest.raises(DiskFullError, match="a job for the worker cannot be written"):
        queue.start_job(workspace, ExampleJob())
    assert list_jobs(workspace, "example") == []
