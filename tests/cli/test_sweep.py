"""`gsr sweep` from the terminal."""

import json
from functools import partial

import numpy as np
import pytest

from gsr_core.experiments import sweep_workers
from gsr_core.experiments.sweep import list_sweeps, open_sweep
from gsr_core.ingest.importing import import_data
from gsr_core.ingest.plan import make_plan
from gsr_core.runs.store import list_runs, open_run
from gsr_core.workspace import Workspace

FEW = ("tiny", "--method", "llr", "--trials", 3, "--seeds", 2, "--device", "cpu")


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Workspace:
    folder = tmp_path_factory.mktemp("sweep")
    workspace = Workspace.at(folder / "workspace")
    rng = np.random.default_rng(0)
    group = np.tile([0, 1, 2, 3], 40)
    np.savez(
        folder / "tiny.npz",
        features=rng.normal(size=(160, 4)) + group[:, None],
        y=group // 2,
        group=group,
        split=np.repeat(["heldout", "target", "val", "test"], 40),
    )
    plan = make_plan(name="tiny", reader="npz", settings={"path": str(folder / "tiny.npz")})
    import_data(workspace, plan, overwrite=False)
    return workspace


@pytest.fixture
def gsr(filled, call):
    return partial(call, filled, "sweep")


def test_a_sweep_as_json_has_its_trials_its_winner_and_the_runs(gsr, filled):
    done = gsr(*FEW, "--name", "json", "--set", "standardise=false", "--json")
    assert done.code == 0
    found = json.loads(done.out)
    assert found["fixed"] == {"standardise": False}
    assert found["space"] == {"l2": {"low": 1e-4, "high": 1.0, "log": True}}
    scores = [trial["score"] for trial in found["tried"]]
    assert len(scores) == 3
    assert found["winner"]["score"] == max(scores)
    assert found["winner"]["settings"]["standardise"] is False
    assert [run["seed"] for run in found["runs"]] == [0, 1]
    for run in found["runs"]:
        assert run["settings"]["l2"] == found["winner"]["settings"]["l2"]
        assert open_run(filled, run["run_id"]).config.sweep == "json"
    assert found["entry"]["seeds"] == [0, 1]
    # The trials say nothing of test.
    assert "test" not in json.dumps(found["tried"])


def test_a_sweep_as_text_says_how_to_do_it_again(gsr):
    done = gsr(*FEW, "--name", "text", "--sampler", "random", "--search", "l2=0.1:1")
    assert done.code == 0
    assert done.out.startswith("text: 3 trials of llr on tiny\n")
    (winner,) = (line for line in done.out.splitlines() if line.startswith("the winner"))
    l2 = float(winner.split("l2=")[1])
    assert 0.1 <= l2 <= 1
    assert "all seeds" in done.out
    assert "--name text" in done.err
    assert "on test, which chose nothing" in done.err


def test_ctrl_c_keeps_trials_and_the_same_command_goes_on(gsr, filled, monkeypatch):
    real, calls = sweep_workers.fit, []

    def fit(*arguments, **more):
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **more)

    monkeypatch.setattr(sweep_workers, "fit", fit)
    before = len(list_runs(filled))
    stopped = gsr(*FEW, "--name", "stopped")
    assert stopped.code == 1
    assert "2 of 3 trials are kept, the same command with --name stopped goes on" in stopped.err
    assert len(list_runs(filled)) == before
    assert gsr(*FEW, "--name", "stopped").code == 0
    assert len(calls) == 4
    assert open_sweep(filled, "stopped").record.finished


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("tiny", "--method", "erm"), "method 'erm' has no settings to search"),
        (("none", "--method", "llr"), "no bundle 'none'"),
        (("tiny", "--method", "llm"), "there is no method 'llm'"),
        (("tiny", "--sampler", "grid"), "sampler is 'grid'; choose tpe or random"),
        (("tiny", "--search", "l2"), "--search 'l2' is not KEY=VALUE"),
        (("tiny", "--search", "l2=low:high"), "'low:high' is no range"),
        (("tiny", "--set", "l2=-1"), "l2 is '-1'"),
        (("tiny", "--name", "a/b"), "sweep name 'a/b' is not allowed"),
    ],
)
def test_a_mistake_is_one_line(gsr, filled, arguments, sentence):
    before = [sweep.name for sweep in list_sweeps(filled)]
    done = gsr(*arguments)
    assert done.code == 2
    assert done.err.startswith("gsr: ")
    assert sentence in done.err
    assert len(done.err.splitlines()) == 1
    assert [sweep.name for sweep in list_sweeps(filled)] == before


def test_a_sweep_of_another_kind_is_not_gone_on_with(gsr):
    assert gsr(*FEW, "--name", "kind").code == 0
    done = gsr("tiny", "--method", "gsr", "--name", "kind")
    assert done.code == 2
    assert "sweep 'kind' was begun with another method: llr, not gsr" in done.err
