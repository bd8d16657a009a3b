import pytest

from gsr_core.data.bundle import list_bundles
from gsr_core.errors import BundleError, BundleNotFoundError, RunStateError, SettingError
from gsr_core.jobs.state import JobState, write_job
from gsr_core.jobs.tasks import perform
from gsr_core.progress import Status
from gsr_core.runs.removal import delete_bundle, delete_run, runs_on
from gsr_core.runs.store import list_runs


def test_a_deleted_run_is_gone_with_all_its_files(workspace, done, make):
    run, other = done("erm"), make("erm")
    delete_run(run)
    assert [each.run_id for each in list_runs(workspace)] == [other.run_id]
    assert [each.name for each in workspace.runs.iterdir()] == [other.run_id]


def test_what_is_being_computed_is_not_deleted(workspace, make):
    run, other = make("erm"), make("llr")
    with run.lock():
        for delete in (lambda: delete_run(run), lambda: delete_bundle(workspace, "tiny")):
            with pytest.raises(RunStateError, match="is being computed"):
                delete()
    assert {each.run_id for each in list_runs(workspace)} == {run.run_id, other.run_id}
    assert [bundle.name for bundle in list_bundles(workspace)] == ["tiny"]


def test_a_bundle_is_deleted_with_the_runs_on_it_and_no_others(workspace, write, make):
    write(workspace, "other", seed=1)
    make("erm")
    make("llr")
    assert len(runs_on(workspace, "tiny")) == 2
    assert delete_bundle(workspace, "tiny") == 2
    assert [bundle.name for bundle in list_bundles(workspace)] == ["other"]
    assert list_runs(workspace) == []
    assert [each.name for each in workspace.bundles.iterdir()] == ["other"]
    with pytest.raises(BundleNotFoundError):
        delete_bundle(workspace, "tiny")


def test_a_bundle_elsewhere_is_left_alone(workspace, tmp_path):
    moved = tmp_path / "elsewhere"
    (workspace.bundles / "tiny").rename(moved)
    with pytest.raises(BundleError, match="remove the directory yourself"):
        delete_bundle(workspace, str(moved))
    assert moved.exists()


def test_a_worker_passes_over_a_run_that_was_deleted(workspace, make):
    run = make("erm")
    delete_run(run)
    perform(workspace, "run", {"run_id": run.run_id})
    assert list_runs(workspace) == []


@pytest.mark.parametrize("title", ["x" * 81, "two\nlines"])
def test_a_name_that_does_not_fit_a_line_is_refused(make, title):
    run = make("erm")
    with pytest.raises(SettingError, match="has one line of at most 80"):
        run.rename(title)
    assert run.title == ""


@pytest.mark.parametrize(("kind", "key"), [("import", "tiny"), ("map", "m"), ("cluster", "c")])
def test_a_bundle_that_a_job_may_need_is_not_deleted(workspace, kind, key):
    write_job(workspace, JobState(kind=kind, key=key, text="half way"))
    with pytest.raises(BundleError, match=r"while a job .* \(.*: half way\); wait for it"):
        delete_bundle(workspace, "tiny")
    assert [bundle.name for bundle in list_bundles(workspace)] == ["tiny"]
    write_job(workspace, JobState(kind=kind, key=key, status=Status.FINISHED))
    write_job(workspace, JobState(kind="import", key="another"))
    delete_bundle(workspace, "tiny")
    assert list_bundles(workspace) == []
