import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gsr_core.comparing.entries import entries
from gsr_core.errors import BundleError, RunStateError, SettingError
from gsr_core.experiments import sweep_workers
from gsr_core.experiments.search import (
    Book,
    Outcome,
    Trial,
    parse_search,
    read_trials,
    search_space,
)
from gsr_core.experiments.sweep import list_sweeps, make_sweep, open_sweep
from gsr_core.experiments.sweep_loop import best_trial, run_sweep
from gsr_core.methods.base import Range
from gsr_core.methods.registry import METHODS, make_method
from gsr_core.progress import Status
from gsr_core.runs.execute import execute
from gsr_core.runs.store import list_runs, open_run
from gsr_core.what_if.keep import keep_refit
from gsr_core.what_if.refits import open_refits
from gsr_core.what_if.selection import by_position, make_edit
from gsr_core.workspace import Workspace

FEW = {"method": "llr", "trials": 6, "sampler": "random", "seeds": 2, "device": "cpu"}
"""LLR has one step and one setting to search, l2."""


def tried(sweep) -> list[tuple[int, dict, float | None]]:
    return [
        (trial.place, trial.settings, trial.outcome and trial.outcome.score)
        for trial in sweep.trials()
    ]


def stopper(after: int):
    """Return what stops a sweep once so many trials have ended, and how to ask."""
    texts = []

    def report(fraction: float, text: str) -> None:
        texts.append(text)

    return report, lambda: any(text.startswith(f"Trial {after + 1} ") for text in texts)


@pytest.fixture
def begin(workspace):
    def begin(**changes):
        return make_sweep(workspace, "tiny", **{**FEW, **changes})

    return begin


@pytest.fixture(scope="module")
def whole(tmp_path_factory, write):
    """A random sweep that was never stopped, in a workspace that stays as it is."""
    workspace = Workspace.at(tmp_path_factory.mktemp("whole"))
    write(workspace)
    sweep = make_sweep(workspace, "tiny", **FEW, name="whole")
    run_sweep(sweep)
    return sweep


# The outcome ---------------------------------------------------------------------------------


def test_the_winner_has_the_best_score_and_runs_over_its_seeds(whole):
    record, trials = whole.record, whole.trials()
    assert [trial.place for trial in trials] == list(range(6))
    scores = [trial.outcome.score for trial in trials]
    assert record.winner.score == max(scores)
    best = [trial for trial in trials if trial.outcome.score == max(scores)]
    chosen = min(best, key=lambda trial: trial.outcome.loss)
    assert record.winner.settings == chosen.settings
    assert record.winner.place == chosen.place
    assert record.finished
    runs = whole.runs()
    assert [run.config.seed for run in runs] == [0, 1]
    for run in runs:
        assert run.state.status is Status.FINISHED
        assert run.config.settings["l2"] == record.winner.settings["l2"]
        assert (run.config.sweep, run.config.part_of) == ("whole", "")
    # As Compare shows them: one method over two seeds, and no run of a trial.
    (entry,) = entries(list_runs(whole.workspace))
    assert entry.seeds == (0, 1)


def test_a_trial_is_scored_as_a_run_of_its_settings_is_on_val(whole, done):
    for trial in whole.trials()[:3]:
        run = done("llr", **trial.settings)
        metrics = run.metrics().query("split == 'val' and group == ''").set_index("metric")
        assert trial.outcome.score == metrics["value"]["worst_group_accuracy"]
        assert trial.outcome.loss == metrics["value"]["worst_group_loss"]


def test_what_decides_is_the_rule_of_the_method(begin):
    sweep = begin(fixed={"selection": "average"})
    record = run_sweep(sweep)
    assert record.score_name == "mean accuracy on val"
    metrics = sweep.runs()[0].metrics().query("split == 'val' and metric == 'mean_accuracy'")
    assert record.winner.score == metrics["value"].item()


@pytest.mark.parametrize(
    ("selection", "place"), [("worst_group", 2), ("worst_group_earliest", 1), ("average", 2)]
)
def test_ties_are_broken_as_the_rule_says(begin, selection, place):
    record = begin(fixed={"selection": selection}).record
    found = [(0.5, 0.1), (0.8, 0.6), (0.8, 0.4), (0.8, 0.5)]
    trials = [Trial(i, {}, Outcome(*each)) for i, each in enumerate(found)]
    trials.insert(0, Trial(9, {}, Outcome(None, message="not finite")))
    assert best_trial(record, trials).place == place
    assert best_trial(record, trials[:1]) is None


def test_the_first_trial_is_the_default_and_numbers_are_short(whole, begin):
    assert whole.trials()[0].settings == {"l2": 0.01}
    for trial in whole.trials():
        assert float(f"{trial.settings['l2']:.3g}") == trial.settings["l2"]
    # Unless the default is not where to look.
    sweep = begin(ranges={"l2": Range(0.1, 1.0)}, trials=2)
    run_sweep(sweep)
    assert all(0.1 <= trial.settings["l2"] <= 1 for trial in sweep.trials())


def test_test_labels_decide_nothing(workspace, write, whole):
    """Permute the labels and groups of test: the same trials, the same winner, other runs."""
    bundle = whole.unchanged_bundle()
    samples, membership = bundle.samples.copy(), bundle.membership.copy()
    rows = np.flatnonzero(samples["split"] == "test")
    shuffled = np.random.default_rng(0).permutation(rows)
    samples.loc[rows, "y"] = samples["y"].to_numpy()[shuffled]
    membership[rows] = membership[shuffled]
    write(
        workspace,
        "other",
        samples=samples[["sample_id", "split", "y", "colour"]],
        membership=membership,
    )
    sweep = make_sweep(workspace, "other", **FEW)
    record = run_sweep(sweep)
    assert tried(sweep) == tried(whole)
    assert record.winner == whole.record.winner

    def on_test(which):
        return which.runs()[0].metrics().query("split == 'test'")["value"].tolist()

    assert on_test(sweep) != on_test(whole)


# Going on ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_stopped_sweep_goes_on_as_one_long_sweep(begin, sampler):
    long = begin(name="long", sampler=sampler, trials=14)
    run_sweep(long)
    sweep = begin(name="short", sampler=sampler, trials=14)
    for after in (3, 12):
        report, should_stop = stopper(after)
        with pytest.raises(RunStateError, match=f"stopped after {after} of 14 trials"):
            run_sweep(sweep, progress=report, should_stop=should_stop)
        assert len(sweep.trials()) == after
        assert sweep.record.winner is None
    run_sweep(sweep)
    assert tried(sweep) == tried(long)
    assert sweep.record.winner == long.record.winner


def test_more_trials_continue_what_is_there(begin, whole):
    sweep = begin(name="grown", trials=2)
    run_sweep(sweep)
    first = tried(sweep)
    again = begin(name="grown", trials=6)
    assert again.record.winner is None
    run_sweep(again)
    assert tried(again)[:2] == first
    assert tried(again) == tried(whole)
    # Finished, it has nothing to do.
    before = len(list_runs(sweep.workspace))
    assert run_sweep(begin(name="grown", trials=6)) == again.record
    assert len(list_runs(sweep.workspace)) == before
    # Another seed of the winner needs no other trial.
    run_sweep(begin(name="grown", trials=6, seeds=3))
    assert len(list_runs(sweep.workspace)) == before + 1
    assert tried(again) == tried(whole)


def test_a_trial_whose_process_died_is_drawn_again(begin, whole):
    sweep = begin(name="died")
    record = sweep.record
    space, defaults = record.space, record.base.settings()
    book = Book(sweep.journal, space, defaults, sampler="random", seed=0)
    book.tell(book.ask(0), Outcome(0.5, 1.0))
    half = book.ask(1)
    # As if killed: nothing was told, and a line of the journal was cut short.
    with sweep.journal.open("ab") as journal:
        journal.write(b'{"op_code":5,"worker')
    assert [trial.outcome is None for trial in sweep.trials()] == [False, True]
    run_sweep(sweep)
    trials = sweep.trials()
    assert [trial.place for trial in trials] == list(range(6))
    assert trials[1].settings == half.settings
    assert trials[1].outcome.score is not None
    assert [trial.settings for trial in trials] == [each.settings for each in whole.trials()]


def test_the_keyboard_keeps_finished_trials(begin, whole, monkeypatch):
    real, calls = sweep_workers.fit, []

    def fit(*arguments, **more):
        calls.append(None)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments, **more)

    monkeypatch.setattr(sweep_workers, "fit", fit)
    sweep = begin(name="interrupted")
    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep)
    assert tried(sweep) == tried(whole)[:3]
    assert not sweep.active
    run_sweep(sweep)
    assert tried(sweep) == tried(whole)


def test_a_winner_that_was_stopped_goes_on_with_its_next_seed(begin, monkeypatch):
    sweep = begin(seeds=3, trials=2)
    texts = []
    with pytest.raises(RunStateError, match="after 1 of the 3 seeds"):
        run_sweep(
            sweep,
            progress=lambda _, text: texts.append(text),
            should_stop=lambda: "The winner, seed 2 of 3" in texts,
        )
    assert len(sweep.record.runs) == 1
    first = sweep.record.runs[0]
    # A kept refit has the settings and the sweep of the run that was edited, and is not its winner.
    refits = open_refits(open_run(sweep.workspace, first))
    edit = make_edit(refits, by_position(refits.position[:2]), "drop")
    execute(keep_refit(refits, edit))
    run_sweep(sweep)
    assert sweep.record.runs[0] == first
    assert [run.config.seed for run in sweep.runs()] == [0, 1, 2]


# Several processes ---------------------------------------------------------------------------


def test_two_jobs_bring_the_same_trials_in_the_wanted_number(begin, whole):
    sweep = begin(name="two")
    run_sweep(sweep, jobs=2)
    assert tried(sweep) == tried(whole)
    assert sweep.record.winner == whole.record.winner


def test_nobody_outlives_a_sweep_that_was_killed(begin, whole):
    """Kill a sweep of two processes, `kill -9`: none stays, and the trials done are there."""
    sweep = begin(name="killed", method="gsr", trials=40, fixed={"steps": 200, "l2": 0.01})
    code = (
        "import sys\n"
        "from gsr_core.experiments.sweep import open_sweep\n"
        "from gsr_core.experiments.sweep_loop import run_sweep\n"
        "from gsr_core.workspace import Workspace\n"
        "if __name__ == '__main__':\n"
        "    sweep = open_sweep(Workspace.at(sys.argv[1]), sys.argv[2])\n"
        "    run_sweep(sweep, jobs=2)\n"
    )
    script = sweep.path / "script.py"
    script.write_text(code)
    process = subprocess.Popen([sys.executable, script, sweep.workspace.root, sweep.name])
    try:
        until(lambda: len(sweep.trials()) > 1)
        assert sweep.active
        with pytest.raises(RunStateError, match="under way in another process"):
            run_sweep(sweep)
        with pytest.raises(RunStateError, match="under way in another process"):
            begin(name="killed", method="gsr", fixed={"steps": 200, "l2": 0.01}, trials=50)
        workers = children(process.pid)
    finally:
        os.kill(process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        process.wait()
    until(lambda: not sweep.active)
    until(lambda: not any((each / "exe").exists() for each in workers))
    done = [trial for trial in sweep.trials() if trial.outcome is not None]
    book = Book(
        sweep.journal, sweep.record.space, sweep.record.base.settings(), sampler="random", seed=0
    )
    assert book.trials() == done


def children(parent: int) -> list[Path]:
    """The processes that a process started, where the system shows processes as files."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # After the name, which may hold anything: state, parent.
            if int((each / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(each)
    assert len(found) >= 2 or not Path("/proc").exists()
    return found


def until(condition) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


# Trials that fail ----------------------------------------------------------------------------


def test_a_failed_trial_is_kept_and_ends_nothing(begin, monkeypatch):
    real, calls = sweep_workers.fit, []

    def fit(*arguments, **more):
        calls.append(None)
        result = real(*arguments, **more)
        if len(calls) == 2:
            raise FloatingPointError("step 1 gave a number that is not finite")
        if len(calls) == 3:
            return replace(result, status=Status.FAILED, message="step 7 is not finite")
        return result

    monkeypatch.setattr(sweep_workers, "fit", fit)
    sweep = begin()
    record = run_sweep(sweep)
    outcomes = [trial.outcome for trial in sweep.trials()]
    assert [each.score is None for each in outcomes] == [False, True, True, False, False, False]
    assert outcomes[1].message == "step 1 gave a number that is not finite"
    assert outcomes[2].message == "step 7 is not finite"
    assert record.winner.place not in (1, 2)
    assert record.finished


def test_a_sweep_whose_every_trial_fails_says_why(begin):
    sweep = begin(fixed={"selection": "worst_inferred_group"}, trials=2)
    with pytest.raises(
        RunStateError, match=r"all 2 trials .* failed; the first: .*infers no groups"
    ):
        run_sweep(sweep)
    assert sweep.record.winner is None


def test_settings_that_were_tried_are_not_computed_twice(begin, monkeypatch):
    real, calls = sweep_workers.fit, []

    def fit(*arguments, **more):
        calls.append(None)
        return real(*arguments, **more)

    monkeypatch.setattr(sweep_workers, "fit", fit)
    sweep = begin(ranges={"l2": (0.01, 0.1)}, trials=8)
    run_sweep(sweep)
    assert len(sweep.trials()) == 8
    assert len(calls) == 2
    by_setting = {trial.settings["l2"]: trial.outcome.score for trial in sweep.trials()}
    for trial in sweep.trials():
        assert trial.outcome.score == by_setting[trial.settings["l2"]]


# What is asked for ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"method": "erm"}, "'erm' has no settings to search: it declares none"),
        ({"fixed": {"l2": 0.1}}, "no settings to search: all that it declares is fixed"),
        ({"fixed": {"standardize": 1}}, "no setting 'standardize' .did you mean 'standardise'"),
        ({"ranges": {"l3": Range(1, 2)}}, "llr has no setting 'l3'"),
        ({"ranges": {"l2": Range(1, 0.1)}}, "from 1 to 0.1; swap"),
        ({"ranges": {"l2": Range(0, 1)}}, "begin above 0"),
        ({"ranges": {"l2": Range(-1, 1, log=False)}}, "l2 is -1"),
        ({"ranges": {"standardise": Range(0, 1, log=False)}}, "standardise is no number"),
        ({"ranges": {"seed": Range(0, 9, log=False)}}, "'seed' decides how trials compare"),
        ({"ranges": {"selection": ("average",)}}, "'selection' decides how trials compare"),
        ({"fixed": {"l2": 1}, "ranges": {"l2": Range(1, 2)}}, "fixed and searched at once"),
        ({"method": "gsr", "ranges": {"steps": Range(1.5, 3)}}, "steps is a whole number"),
        ({"trials": 0}, "trials is 0"),
        ({"seeds": 0}, "seeds is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"sampler": "grid"}, "choose tpe or random"),
        ({"name": "../out"}, "name '../out' is not allowed"),
        ({"fixed": {"seed": 2**31 - 1}}, "seed is 2147483648"),
    ],
)
def test_what_is_not_right_is_said_and_leaves_nothing(begin, workspace, changes, sentence):
    with pytest.raises(SettingError, match=sentence):
        begin(**changes)
    assert list_sweeps(workspace) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"method": "gsr"}, "another method: llr, not gsr"),
        ({"fixed": {"standardise": False}}, "another fixed: nothing, not standardise False"),
        ({"ranges": {"l2": Range(0.1, 1)}}, "another space: l2 0.0001 to 1, log, not l2 0.1 to 1"),
        ({"sampler": "tpe"}, "another sampler: random, not tpe"),
        ({"seed": 1}, "another seed: 0, not 1"),
        ({"trials": 5}, "has done 6 trials, more than 5"),
    ],
)
def test_a_sweep_goes_on_only_as_it_began(whole, changes, sentence):
    before = whole.record
    with pytest.raises(SettingError, match=sentence):
        make_sweep(whole.workspace, "tiny", **{**FEW, "name": "whole", **changes})
    assert whole.record == before


def test_a_changed_bundle_ends_a_sweep(begin, workspace, write):
    sweep = begin(name="first", trials=2)
    run_sweep(sweep)
    write(workspace, "tiny", seed=1, overwrite=True)
    for attempt in (lambda: run_sweep(sweep), lambda: begin(name="first", trials=3)):
        with pytest.raises(BundleError, match="has changed since sweep 'first' began"):
            attempt()
    assert len(sweep.trials()) == 2


def test_what_is_no_sweep_is_passed_over(begin, workspace):
    sweep = begin(name="good")
    (workspace.sweeps / "bad").mkdir()
    (workspace.sweeps / "bad" / "sweep.json").write_text("{}")
    newer = json.loads((sweep.path / "sweep.json").read_text()) | {"format": 9}
    (workspace.sweeps / "newer").mkdir()
    (workspace.sweeps / "newer" / "sweep.json").write_text(json.dumps(newer))
    assert [each.name for each in list_sweeps(workspace)] == ["good"]
    for name, sentence in (("bad", "not a sweep's"), ("newer", "format 9"), ("none", "no sweep")):
        with pytest.raises(Exception, match=sentence):
            open_sweep(workspace, name)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0.1:2", Range(0.1, 2.0, log=False)),
        ("1e-4:1:log", Range(1e-4, 1.0)),
        ("a, b", ("a", "b")),
        ("0.5", ("0.5",)),
    ],
)
def test_where_to_look_can_be_typed(text, found):
    assert parse_search(text) == found


@pytest.mark.parametrize("text", ["", "a,,b", "1:2:linear", "a:b", "1:2:3:4"])
def test_what_is_no_range_is_refused(text):
    with pytest.raises(SettingError, match="write low:high, low:high:log"):
        parse_search(text)


@pytest.mark.parametrize("name", [name for name, each in METHODS.items() if each.search])
def test_every_search_space_is_allowed_and_can_be_drawn(name, tmp_path):
    space = search_space(name)
    defaults = make_method(name).settings()
    assert set(space) == set(METHODS[name].search)
    book = Book(tmp_path / "trials.log", space, defaults, sampler="random", seed=0)
    for place in range(3):
        settings = book.ask(place).settings
        made = make_method(name, settings).settings()
        for key, where in space.items():
            assert made[key] == settings[key]
            assert type(settings[key]) is type(defaults[key])
            if isinstance(where, Range):
                assert where.low <= settings[key] <= where.high
            else:
                assert settings[key] in where


def test_typed_choices_become_values_of_the_setting():
    space = search_space("llr", ranges={"standardise": ("true", "false"), "l2": ("1e-2", "1")})
    assert space == {"l2": (0.01, 1.0), "standardise": (True, False)}
    assert search_space("gsr", {"lr": 1, "l2": 0.1}) == {"temperature": Range(0.1, 10.0)}


def test_the_parzen_estimator_looks_where_it_is_good(tmp_path):
    """On a smooth hill its later draws are nearer to the top than random ones."""

    def distance(sampler: str) -> float:
        space = search_space("llr")
        defaults = make_method("llr").settings()
        book = Book(tmp_path / f"{sampler}.log", space, defaults, sampler=sampler, seed=0)
        for place in range(24):
            draw = book.ask(place)
            away = abs(math.log10(draw.settings["l2"]) + 1)
            book.tell(draw, Outcome(1 - away / 4, 0.0))
        late = read_trials(tmp_path / f"{sampler}.log")[12:]
        return float(np.mean([abs(math.log10(each.settings["l2"]) + 1) for each in late]))

    assert distance("tpe") < 0.5 * distance("random")
