"""What every kind of job has in common: stored and typed, it is the same job again."""

import json
import shlex
import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from gsr_core import examples
from gsr_core.cli.main import app
from gsr_core.clusterings import compute
from gsr_core.clusterings.job import ClusterJob
from gsr_core.clusterings.request import request_clustering
from gsr_core.data.bundle import open_bundle
from gsr_core.example_job import ExampleJob
from gsr_core.experiments import strength, sweep_loop
from gsr_core.experiments.study import open_study
from gsr_core.experiments.study_job import StudyJob
from gsr_core.experiments.sweep import open_sweep
from gsr_core.experiments.sweep_job import SweepJob
from gsr_core.ingest import importing
from gsr_core.ingest.job import ImportJob
from gsr_core.ingest.plan import make_plan
from gsr_core.jobs.registry import JOBS, job_class
from gsr_core.jobs.state import keep_job, kept_job
from gsr_core.maps.config import MapConfig
from gsr_core.maps.job import MapJob
from gsr_core.methods.base import Range
from gsr_core.runs import execute
from gsr_core.runs.job import RunJob, run_commands
from gsr_core.scanning.job import MeasureJob
from gsr_core.workspace import Workspace


@pytest.fixture
def job(request, workspace):
    """One job of the kind that a test is for, with what it needs on disk."""
    bundle = open_bundle(workspace, "tiny")
    return {
        "run": lambda: RunJob(
            bundle="tiny",
            method="gsr",
            settings={"steps": 7, "seed": 3},
            device="cpu",
            seen_groups=(),
        ).begin(workspace),
        "example": lambda: ExampleJob(name="mine", seed=4),
        "map": lambda: MapJob(
            config=MapConfig(bundle="b", space="logits", head="h", splits=("val",)),
            run_id="a run",
            bundle="tiny",
            which="early",
        ),
        "cluster": lambda: ClusterJob(
            request=request_clustering(workspace, bundle, "kmeans", {"max_clusters": 3})
        ),
        "import": lambda: ImportJob(
            plan=make_plan(name="new", reader="npz", settings={"path": "a file.npz"}),
            overwrite=True,
        ),
        "measure": lambda: MeasureJob(bundle="tiny"),
        "study": lambda: StudyJob(
            study="noise",
            bundle="tiny",
            methods=("gsr", "erm"),
            levels=(0.0, 0.25),
            settings={"gsr": {"steps": 7, "standardise": False}},
            seeds=2,
            device="cpu",
            name="noisy",
        ).begin(workspace),
        "sweep": lambda: SweepJob(
            bundle="tiny",
            method="gsr",
            fixed={"steps": 7},
            ranges={"lr": Range(0.5, 2), "l2": Range(1e-7, 1e-5, log=False)},
            trials=9,
            sampler="random",
            seed=2,
            seeds=3,
            jobs=2,
            device="cpu",
            name="wide",
        ).begin(workspace),
    }[request.param]()


every_kind = pytest.mark.parametrize("job", JOBS, indirect=True)


@every_kind
def test_a_job_is_frozen_and_known_by_its_kind(job):
    assert job_class(job.kind) is type(job)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(job, next(iter(type(job).model_fields)), None)


@every_kind
def test_a_job_that_was_stored_is_the_same_job(workspace, job):
    message = json.loads(json.dumps(job.message()))
    key = message.pop("key", "")
    assert type(job).restore(workspace, key, message) == job
    if job.tracked:
        assert key == job.key
        keep_job(workspace, job)
        assert kept_job(workspace, job.kind, job.key) == job


MESSAGES = {
    "run": {"run_id"},
    "example": {"key", "seed"},
    "map": {"key", "config", "run_id", "bundle", "which"},
    "cluster": {"key", "request"},
    "import": {"key", "plan", "overwrite"},
    "measure": {"key", "bundle"},
    "study": {"key"},
    "sweep": {"key", "jobs"},
}
"""What a queue has kept of each kind since there was one."""


@every_kind
def test_a_message_has_what_earlier_versions_read(job):
    assert set(job.message()) == MESSAGES[job.kind]


KEYS = {
    "example": "mine",
    "map": "3bbc3a98e8d383ef17712d7732b769a51a07379348ab8111dbfde5bcf1b23e49",
    "import": "new",
    "measure": "tiny",
    "study": "noisy",
    "sweep": "wide",
}
"""By which pages of every version find the job; a clustering's has the bundle's digest in it."""


@pytest.mark.parametrize("job", KEYS, indirect=True)
def test_a_key_is_the_same_in_every_process_and_version(job):
    assert job.key == KEYS[job.kind]


@pytest.fixture
def typed(monkeypatch):
    """Return what makes a command read a line with its own parser and stop before it computes."""

    def typed(line, module, name):
        calls = []

        class Stop(Exception):
            pass

        def catch(*arguments, **options):
            calls.append((arguments, options))
            raise Stop

        monkeypatch.setattr(module, name, catch)
        words = shlex.split(line)
        assert words[0] == "gsr"
        result = CliRunner().invoke(app, words[1:])
        assert isinstance(result.exception, Stop), (result.output, result.exception)
        return calls[0]

    return typed


@pytest.mark.parametrize("job", ["example"], indirect=True)
def test_the_command_of_the_example_makes_it(workspace, job, typed):
    (place,), options = typed(job.command(workspace), examples, "coloured_digits")
    assert place == workspace
    assert ExampleJob(name=options["name"], seed=options["seed"]) == job


@pytest.mark.parametrize("job", ["import"], indirect=True)
def test_the_command_of_an_import_follows_its_plan(workspace, job, typed):
    (place, plan), options = typed(job.command(workspace), importing, "import_data")
    assert place == workspace
    assert ImportJob(plan=plan, overwrite=options["overwrite"]) == job


@pytest.mark.parametrize("job", ["cluster"], indirect=True)
def test_the_command_of_a_clustering_asks_for_it(workspace, job, typed):
    (place, request), _ = typed(job.command(workspace), compute, "compute_clustering")
    assert place == workspace
    assert ClusterJob(request=request) == job
    others = job.request.model_copy(update={"seed": 1})
    assert ClusterJob(request=others).command(workspace) == ""


@pytest.mark.parametrize("job", ["study"], indirect=True)
def test_the_command_of_a_study_goes_on_with_it(workspace, job, typed):
    (study,), _ = typed(job.command(workspace), strength, "compute_study")
    assert study == open_study(workspace, job.name)
    assert StudyJob.of(study) == job


@pytest.mark.parametrize("job", ["sweep"], indirect=True)
def test_the_command_of_a_sweep_goes_on_with_it(workspace, job, typed):
    (sweep,), options = typed(job.command(workspace), sweep_loop, "run_sweep")
    assert sweep == open_sweep(workspace, job.name)
    assert SweepJob.of(sweep, options["jobs"]) == job


@pytest.mark.parametrize("job", ["run"], indirect=True)
def test_the_command_of_a_run_makes_an_equal_one(workspace, job, typed):
    (run,), _ = typed(job.command(workspace), execute, "execute")
    assert run.run_id != job.run_id
    assert RunJob.of(run.config) == job.model_copy(update={"run_id": run.run_id})


@pytest.mark.parametrize("job", ["map"], indirect=True)
def test_no_command_draws_a_map(workspace, job):
    assert job.command(workspace) == ""


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        ([3], ["--seed 3"]),
        ([0, 1, 2], ["--seed 0 --seeds 3"]),
        ([1, 2, 4], ["--seed 1 --seeds 2", "--seed 4"]),
    ],
)
def test_rising_seeds_are_one_line(tmp_path, seeds, words):
    jobs = [
        RunJob(
            bundle="tiny",
            method="gsr",
            settings={"standardise": False, "seed": seed},
            device="cpu",
        )
        for seed in seeds
    ]
    lines = run_commands(jobs, Workspace.at(tmp_path / "a place")).splitlines()
    for line, each in zip(lines, words, strict=True):
        assert shlex.split(line) == [
            *(["gsr", "run", "tiny", "--method", "gsr", "--set", "standardise=false"]),
            *each.split(),
            *("--device", "cpu", "--workspace", str(tmp_path / "a place")),
        ]


def test_the_usual_workspace_is_not_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ExampleJob().command(Workspace.at("gsr_workspace")) == (
        "gsr demo --seed 0 --name coloured-digits"
    )


def test_a_queue_is_ready_before_any_kind_of_job_or_torch_is_imported():
    script = (
        "from gsr_core.jobs.queue import *; import sys; "
        "print(*[n for n in sys.modules if n == 'torch' or n.endswith('job')])"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert not found.stdout.strip()


def test_numbers_are_typed_as_they_are(workspace):
    rng = np.random.default_rng(0)
    for value in [*rng.normal(size=5).tolist(), 1e-12, 1e22]:
        job = RunJob(bundle="tiny", method="gsr", settings={"lr": value, "seed": 0})
        words = shlex.split(job.command(workspace))
        assert float(words[words.index("--set") + 1].removeprefix("lr=")) == value
