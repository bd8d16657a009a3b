import pytest

from gsr_core.errors import BundleNotFoundError
from gsr_core.jobs import state as progress
from gsr_core.jobs.lock import BACKGROUND, worker_lock
from gsr_core.jobs.state import JobState, job_lock, read_job, write_job
from gsr_core.jobs.tasks import _job
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


def test_a_job_reports_its_progress_and_its_end(workspace):
    with _job(workspace, "map", "a") as report:
        assert read_job(workspace, "map", "a").status == Status.RUNNING
        report(0.25, "a quarter")
        found = read_job(workspace, "map", "a")
        assert (found.fraction, found.text) == (0.25, "a quarter")
    found = read_job(workspace, "map", "a")
    assert (found.status, found.fraction, found.text) == (Status.FINISHED, 1, "Done")


def test_a_job_that_the_user_can_mend_fails_with_the_sentence(workspace):
    with _job(workspace, "map", "a"):
        raise BundleNotFoundError("no bundle 'x'")
    found = read_job(workspace, "map", "a")
    assert (found.status, found.text) == (Status.FAILED, "no bundle 'x'")


def test_a_job_that_breaks_fails_with_a_traceback_in_the_log(workspace, capsys):
    with _job(workspace, "map", "a"):
        raise ValueError("boom")
    found = read_job(workspace, "map", "a")
    assert (found.status, found.text) == (Status.FAILED, "ValueError: boom")
    assert "Traceback" in capsys.readouterr().err
