import contextlib
import os
import signal
import subprocess
import sys
import time
from functools import cached_property

import numpy as np
import pytest
import torch

from gsr_core.errors import RunStateError, SettingError
from gsr_core.linear.head import Head
from gsr_core.methods.base import Step
from gsr_core.methods.gsr import GSR
from gsr_core.progress import Status
from gsr_core.runs import recorder
from gsr_core.runs.execute import continue_run, execute, run
from gsr_core.runs.recorder import Recorder
from gsr_core.runs.store import Run, list_runs, open_run


class Died(BaseException):
    """Stands for a process that is killed: nothing in the library catches it."""


def patched(monkeypatch, at, what):
    """Let GSR do something else instead of its step `at`, counted from this process's first."""
    real = GSR.iterate

    def iterate(self, problem, checkpoint=None):
        for index, step in enumerate(real(self, problem, checkpoint), start=1):
            yield what(step) if index == at else step

    monkeypatch.setattr(GSR, "iterate", iterate)


def boom(step):
    raise ValueError("boom")


def not_finite(step):
    return type(step)(
        head=Head(torch.full_like(step.head.weight, torch.nan), step.head.bias), sample_weight=None
    )


def test_a_finished_run_has_everything(done):
    made = done()
    state = made.state
    assert (state.status, state.step, state.steps) == (Status.FINISHED, 5, 5)
    assert 1 <= state.best_step <= 5
    assert state.device == "cpu"
    assert state.seconds > 0
    assert set(made.metrics()["step"]) == {1, 2, 3, 4, 5}
    assert made.weight_steps().tolist() == [1, 2, 3, 4, 5]
    weight, bias = made.head()
    assert weight.shape == (2, 5)
    assert bias.shape == (2,)
    assert made.influence().shape == (40, 4)
    assert "computing on cpu in process" in made.log_text()
    assert "finished at step 5 of 5." in made.log_text()


def test_the_weights_are_those_of_the_kept_step_on_the_held_out_rows(done):
    made = done(steps=8)
    table, bundle = made.weights(), made.bundle
    assert list(table.columns) == ["sample_id", "row", "group", "y", "weight"]
    rows = bundle.rows_of["heldout"]
    np.testing.assert_array_equal(table["row"], rows)
    assert table["sample_id"].tolist() == bundle.samples["sample_id"].iloc[rows].tolist()
    assert table["group"].tolist() == bundle.group_labels[rows].tolist()
    np.testing.assert_array_equal(table["y"], bundle.samples["y"].iloc[rows])
    assert table["weight"].sum() == pytest.approx(1)
    np.testing.assert_array_equal(
        table["weight"].astype(np.float32), made.weights_at(made.state.best_step)
    )
    for index in (0, 17):
        assert made.weight_path(index).tolist() == [
            made.weights_at(step)[index] for step in made.weight_steps()
        ]


def test_methods_of_one_step_run_and_one_without_weights_has_none(done):
    erm, llr = done("erm"), done("llr")
    assert erm.state.status == llr.state.status == Status.FINISHED
    assert erm.weights() is None
    assert erm.weight_steps().size == 0
    assert "fitted at uniform weights on train" in erm.state.note
    np.testing.assert_allclose(llr.weights()["weight"], 1 / 40)


def test_an_influence_that_takes_long_is_computed_at_the_end_whatever_came_between(
    make, done, monkeypatch, every_step
):
    """An interrupted run has the influence that an uninterrupted one has, to the bit."""
    whole = done(steps=6)
    monkeypatch.setattr(recorder, "_WORTH_INFLUENCE", 0.0)
    measured, real = [], Step.measured.func

    def measure(self):
        measured.append(self)
        return real(self)

    late = cached_property(measure)
    late.__set_name__(Step, "measured")
    monkeypatch.setattr(Step, "measured", late)
    stopped = make("gsr", steps=6)

    def interrupt(progress):
        assert not measured
        assert "kept.influence" not in stopped.checkpoint()
        assert not (stopped.path / "influence.npy").exists()
        if progress.step_index == 4:
            raise KeyboardInterrupt

    # What a killed process leaves: a checkpoint, and nothing of the end.
    monkeypatch.setattr(Recorder, "stop", lambda self, status, message: self.write(status=status))
    execute(stopped, monitor=interrupt)
    monkeypatch.undo()
    assert stopped.influence() is None
    continue_run(stopped, 6)
    execute(stopped)
    assert stopped.state.best_step == whole.state.best_step
    np.testing.assert_array_equal(stopped.influence(), whole.influence())


def test_an_influence_that_falls_short_is_in_the_note_of_the_run(make, exact_solves_stall):
    state = execute(make("llr"))
    assert state.status is Status.FINISHED
    assert state.note.endswith(exact_solves_stall)


def test_run_makes_and_computes_in_one_call(workspace):
    made = run(workspace, "tiny", steps=3, lr=0.5, device="cpu")
    assert made.state.status == Status.FINISHED
    assert made.config.settings["lr"] == 0.5


def test_a_run_that_has_ended_is_not_computed_again(done, contents):
    made = done()
    before = contents(made.path)
    assert execute(made) == made.state
    assert contents(made.path) == before


def test_a_run_that_another_computes_is_not_touched(make):
    made = make()
    with made.lock(), pytest.raises(RunStateError, match="being computed by another process"):
        execute(made)
    assert made.state.status == Status.QUEUED


# Stopping ------------------------------------------------------------------------------------


def test_a_run_stops_after_the_step_in_which_it_was_cancelled(make):
    made = make(steps=50)
    state = execute(
        made, monitor=lambda progress: made.request_cancel() if progress.step_index == 3 else None
    )
    assert (state.status, state.step) == (Status.CANCELLED, 3)
    assert set(made.metrics()["step"]) == {1, 2, 3}
    assert made.head() is not None
    assert made.weight_steps().tolist() == [1, 2, 3]


def test_a_queued_run_that_was_cancelled_is_never_computed(make):
    made = make()
    made.request_cancel()
    assert execute(made).status == Status.CANCELLED
    assert made.metrics().empty


def test_a_cancel_that_comes_just_before_the_start_counts(make):
    made = make()
    (made.path / "cancel").touch()
    assert execute(made).status == Status.CANCELLED
    assert made.state.status == Status.CANCELLED
    assert made.metrics().empty


def test_a_monitor_sees_every_step_and_may_stop_the_run(make):
    seen = []

    def monitor(progress):
        seen.append(progress.step_index)
        return progress.step_index == 2

    made = make()
    assert execute(made, monitor=monitor).status == Status.CANCELLED
    assert seen == [1, 2]


def test_a_running_run_says_so_to_others(make, workspace, every_step):
    made, seen = make(), []
    execute(
        made, monitor=lambda progress: seen.append(open_run(workspace, made.run_id).state) or None
    )
    assert [state.status for state in seen] == [Status.RUNNING] * 5
    assert [state.step for state in seen] == [1, 2, 3, 4, 5]


def test_the_keyboard_stops_a_run_and_its_steps_are_kept(make):
    made = make()

    def monitor(progress):
        if progress.step_index == 3:
            raise KeyboardInterrupt

    state = execute(made, monitor=monitor)
    assert (state.status, state.step) == (Status.CANCELLED, 3)
    assert state.message == "interrupted from the keyboard"
    assert made.head() is not None


# Continuing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [{}, {"lr": 20.0, "clip": 0, "selection": "worst_group_earliest"}]
)
def test_a_continued_run_is_one_long_run(done, same_outcome, settings):
    long, short = done(steps=12, **settings), done(steps=5, **settings)
    continue_run(short, 9)
    assert short.state.status == Status.QUEUED
    execute(short)
    continue_run(short, 12)
    assert execute(short).status == Status.FINISHED
    same_outcome(short, long)
    assert short.config.settings == long.config.settings
    assert "to be continued from step 5 to 9" in short.log_text()


def test_a_cancelled_run_goes_on_as_if_nothing_had_been(make, done, same_outcome):
    made = make(steps=9)
    execute(made, monitor=lambda progress: progress.step_index == 4)
    assert made.state.step == 4
    continue_run(made, 9)
    execute(made)
    same_outcome(made, done(steps=9))


def test_a_run_that_was_cancelled_by_a_request_can_be_continued(make):
    made = make(steps=9)
    execute(made, monitor=lambda progress: made.request_cancel())
    continue_run(made, 2)
    assert execute(made).status == Status.FINISHED


def test_time_goes_on_in_a_continued_run(done):
    made = done()
    before = made.state.seconds
    continue_run(made, 6)
    assert execute(made).seconds > before


def test_what_cannot_be_continued_says_why(make, done):
    finished, waiting, one_step, cancelled = done(), make(), done("llr"), make()
    cancelled.request_cancel()
    with pytest.raises(SettingError, match=r"steps is 5, but run '.*' has done 5; give a larger"):
        continue_run(finished, 5)
    with pytest.raises(SettingError, match="steps"):
        continue_run(finished, 10**12)
    with pytest.raises(RunStateError, match="is queued; it can be continued once ended"):
        continue_run(waiting, 9)
    with pytest.raises(SettingError, match="method 'llr' has one step; there is nothing to conti"):
        continue_run(one_step, 9)
    with pytest.raises(RunStateError, match="has no stored step; start a new run instead"):
        continue_run(cancelled, 9)
    assert finished.state.status == Status.FINISHED
    assert finished.config.settings["steps"] == 5


def test_a_run_that_somebody_else_continued_meanwhile_is_not_continued_again(done, monkeypatch):
    made = done()
    real, looks = Run.lock, []

    def lock(self):
        # Between the caller's look and its lock, another process continues the run.
        if not looks:
            looks.append(None)
            continue_run(self, 7)
        return real(self)

    monkeypatch.setattr(Run, "lock", lock)
    with pytest.raises(RunStateError, match="is queued; it can be continued once ended"):
        continue_run(made, 9)
    assert made.config.settings["steps"] == 7


# Failing -------------------------------------------------------------------------------------


def test_a_failure_inside_a_method_keeps_the_last_good_step(make, monkeypatch):
    patched(monkeypatch, 4, boom)
    made = make()
    state = execute(made)
    assert (state.status, state.step) == (Status.FAILED, 3)
    assert state.message == "ValueError: boom (the run's log has the details)"
    assert "Traceback" in made.log_text()
    assert "boom" in made.log_text()
    assert set(made.metrics()["step"]) == {1, 2, 3}
    assert made.head() is not None
    assert made.weight_steps().tolist() == [1, 2, 3]


def test_a_failed_run_can_be_continued_once_the_cause_is_gone(
    make, done, monkeypatch, same_outcome
):
    made = make(steps=6)
    with monkeypatch.context() as broken:
        patched(broken, 4, boom)
        execute(made)
    continue_run(made, 6)
    execute(made)
    same_outcome(made, done(steps=6))


def test_a_failure_before_the_first_step_leaves_a_message(make, monkeypatch):
    patched(monkeypatch, 1, not_finite)
    made = make()
    state = execute(made)
    assert (state.status, state.step) == (Status.FAILED, 0)
    assert "step 1 gave a number that is not finite; try a smaller lr" in state.message
    assert made.head() is None


def test_a_continued_run_that_fails_at_once_keeps_what_it_had(done, monkeypatch, contents):
    made = done()
    head, metrics = made.head(), made.metrics()
    patched(monkeypatch, 1, not_finite)
    continue_run(made, 9)
    state = execute(made)
    assert (state.status, state.step) == (Status.FAILED, 5)
    assert state.message.startswith("step 6 gave a number that is not finite")
    np.testing.assert_array_equal(made.head()[0], head[0])
    assert made.metrics().equals(metrics)


def test_a_bundle_that_changed_fails_the_run_with_a_sentence(make, workspace, contents):
    made = make()
    manifest = workspace.bundles / "tiny" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"cat"', '"lynx"'))
    state = execute(made)
    assert state.status == Status.FAILED
    assert state.message == ("bundle 'tiny' has changed since this run was made; make a new run")


def test_a_bundle_that_changes_meanwhile_fails_the_run_with_a_sentence(make, workspace):
    made = make()
    manifest = workspace.bundles / "tiny" / "manifest.json"

    def monitor(progress):
        manifest.write_text(manifest.read_text().replace('"cat"', '"lynx"'))

    state = execute(made, monitor=monitor)
    assert (state.status, state.step) == (Status.FAILED, 5)
    assert "cannot be written out: bundle 'tiny' has changed since" in state.message
    assert made.stored_state() == state
    assert made.weights() is None


def test_a_bundle_that_is_gone_fails_the_run_with_a_sentence(make, workspace):
    made = make()
    (workspace.bundles / "tiny").rename(workspace.root / "away")
    state = execute(made)
    assert state.status == Status.FAILED
    assert state.message.startswith("no bundle 'tiny'")


def test_a_run_of_a_method_that_is_no_more_fails_with_a_sentence(make):
    made = make()
    made.write_config(made.config.model_copy(update={"method": "gone"}))
    state = execute(made)
    assert state.status == Status.FAILED
    assert state.message.startswith("there is no method 'gone'")


# The weights over the steps ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "stride"), [(40 * 30, 1), (40 * 30 - 1, 2), (40 * 10, 4), (40 * 7, 8), (1, 2048)]
)
def test_beyond_the_budget_weights_of_evenly_spaced_steps_are_kept(
    done, monkeypatch, budget, stride
):
    monkeypatch.setattr(recorder, "HISTORY_BUDGET", budget)
    made = done(steps=30)
    assert made.weight_steps().tolist() == sorted(
        {1, *range(1, 31, stride), made.state.best_step, 30}
    )


def test_a_continued_run_keeps_the_weights_that_one_long_run_keeps(done, monkeypatch, same_outcome):
    monkeypatch.setattr(recorder, "HISTORY_BUDGET", 40 * 10)
    made = done(steps=8)
    assert made.weight_steps().tolist() == list(range(1, 9))
    for steps in (17, 30):
        continue_run(made, steps)
        execute(made)
    same_outcome(made, done(steps=30))
    assert len(made.weight_steps()) < 12


# Dying ---------------------------------------------------------------------------------------


def test_a_run_that_dies_at_any_write_is_readable_and_goes_on_as_one_long_run(
    make, done, monkeypatch, same_outcome, every_step
):
    long = done(steps=3)
    real = os.replace
    deaths = 0
    for fatal in range(1, 100):
        made, count = make(steps=3), 0

        def replace(source, target, fatal=fatal):
            nonlocal count
            count += 1
            if count == fatal:
                raise Died
            real(source, target)

        with monkeypatch.context() as dying:
            dying.setattr("gsr_core.files.os.replace", replace)
            try:
                execute(made)
                break
            except Died:
                deaths += 1
        state = made.state
        if state.status == Status.QUEUED:
            execute(made)
            same_outcome(made, long)
            continue
        assert state.status == Status.FAILED
        assert set(made.metrics()["step"]) == set(range(1, state.step + 1))
        if not state.step:
            with pytest.raises(RunStateError, match="has no stored step"):
                continue_run(made, 3)
            continue
        assert made.head() is not None
        assert state.best_step in made.weight_steps()
        assert max(made.weight_steps()) <= state.step
        np.testing.assert_array_equal(
            made.weights()["weight"].astype(np.float32), made.weights_at(state.best_step)
        )
        if state.step < 3:
            continue_run(made, 3)
            execute(made)
            same_outcome(made, long)
    assert deaths > 12


def test_kill_9_loses_nothing_that_was_stored(done, workspace, contents, same_outcome):
    earlier = done()
    before = contents(earlier.path)
    command = ["run", "tiny", "--set", "steps=9000", "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gsr_core.cli", *command, "--workspace", str(workspace.root)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        made = None
        deadline = time.monotonic() + 120
        while made is None or made.stored_state().step < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            made = next((run for run in list_runs(workspace) if run != earlier), None)
            time.sleep(0.05)
        assert made.state.status == Status.RUNNING
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    (made.path / ".metrics.parquet.0123abcd.tmp").touch()

    state = made.state
    assert state.status == Status.FAILED
    assert 2 <= state.step < 9000
    assert state.message.endswith(f"the last stored step is {state.step}")
    assert set(made.metrics()["step"]) == set(range(1, state.step + 1))
    assert made.weights()["weight"].sum() == pytest.approx(1)
    assert made.head()[0].shape == (2, 5)
    assert not list(made.path.glob(".*"))
    assert contents(earlier.path) == before

    total = state.step + 5
    continue_run(made, total)
    assert execute(made).status == Status.FINISHED
    same_outcome(made, done(steps=total))
    assert contents(earlier.path) == before


def test_two_who_compute_one_run_do_not_meet(make):
    made, refused = make(), []

    def monitor(progress):
        with contextlib.suppress(RunStateError):
            execute(made)
            refused.append("it computed")

    assert execute(made, monitor=monitor).status == Status.FINISHED
    assert not refused
