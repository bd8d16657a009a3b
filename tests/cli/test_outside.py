"""Names that would lead out of the workspace are the names of nothing."""

import shutil
from functools import partial

import pytest

from gsr_core.clusterings.store import open_clustering
from gsr_core.data.bundle import open_bundle
from gsr_core.errors import BundleNotFoundError, GsrError, RunNotFoundError
from gsr_core.experiments.study import make_study, open_study
from gsr_core.experiments.sweep import make_sweep, open_sweep
from gsr_core.runs.execute import run as compute_run
from gsr_core.runs.store import open_run
from tests.tiny import *  # noqa: F403


@pytest.fixture
def gsr(workspace, call, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return partial(call, workspace)


@pytest.fixture
def outside(workspace, done, tmp_path):
    """A whole workspace beside the own one, with a run, a study and a sweep."""
    run = done()
    make_study(workspace, "noise", "tiny", ["erm"], name="mine", device="cpu")
    make_sweep(workspace, "tiny", "llr", trials=1, name="mine", device="cpu")
    shutil.copytree(workspace.root, tmp_path / "outside")
    for folder in (workspace.runs, workspace.studies, workspace.sweeps):
        shutil.rmtree(folder)
    compute_run(workspace, "tiny", "erm", device="cpu")
    return run.run_id


@pytest.fixture
def ways(outside, tmp_path):
    """How somebody could name a directory outside, given its place in a workspace."""

    def ways(place: str) -> list[str]:
        other = tmp_path / "outside" / place
        return [f"../../outside/{place}", str(other), f"x/../../../outside/{place}"]

    return ways


def test_no_command_takes_a_run_from_outside(gsr, ways, outside, workspace, contents, tmp_path):
    before = contents(tmp_path)
    for name in ways(f"runs/{outside}"):
        for arguments in (
            ["show", name],
            ["cancel", name],
            ["continue", name, "--steps", "9"],
            ["export", name, "--to", "out"],
            ["compare", name, name],
            ["compare", "--bundle", "tiny", "--reference", name],
            ["cluster", "tiny", "--with", "kmeans", "--run", name],
        ):
            outcome = gsr(*arguments)
            assert outcome.code == 2, arguments
            assert "no run '" in outcome.err
            assert outcome.err.count("\n") == 1
    assert contents(tmp_path) == before


def test_nothing_is_opened_by_a_way_out(ways, outside, workspace):
    for place, opener in (
        (f"runs/{outside}", open_run),
        ("studies/mine", open_study),
        ("sweeps/mine", open_sweep),
        ("clusterings/mine", open_clustering),
    ):
        for name in [*ways(place), "..", ".", "", "a\0b", "\ud800", "a" * 300]:
            with pytest.raises(RunNotFoundError, match=r"^no "):
                opener(workspace, name)


def test_a_bundle_is_a_name_or_the_path_of_a_directory_from_where_one_stands(
    ways, outside, workspace, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    relative, absolute, _ = ways("bundles/tiny")
    assert open_bundle(workspace, absolute).name == "tiny"
    assert open_bundle(workspace, "outside/bundles/tiny").name == "tiny"
    with pytest.raises(BundleNotFoundError):
        open_bundle(workspace, relative)


def test_a_sweep_reports_no_run_from_outside(workspace, ways, outside):
    sweep = make_sweep(workspace, "tiny", "llr", trials=1, name="own", device="cpu")
    sweep.write(sweep.record.model_copy(update={"runs": ways(f"runs/{outside}")}))
    assert sweep.runs() == []


@pytest.mark.parametrize("name", ["con", "NUL", "lpt1.x", "a.", "../a"])
def test_a_new_thing_needs_a_name_that_every_system_allows(gsr, workspace, name: str, contents):
    before = contents(workspace.root)
    for arguments in (
        ["study", "noise", "tiny", "--name", name],
        ["sweep", "tiny", "--name", name],
        ["cluster", "tiny", "--with", "kmeans", "--groups", name],
        ["demo", "--name", name],
    ):
        outcome = gsr(*arguments)
        assert outcome.code == 2, arguments
        assert f"name '{name}' is not allowed" in outcome.err
    assert contents(workspace.root) == before
    with pytest.raises(GsrError):
        make_study(workspace, "noise", "tiny", ["erm"], name=name)
