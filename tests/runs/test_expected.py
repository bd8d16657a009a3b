import pytest

from gsr_core.compute import pick
from gsr_core.methods.registry import make_method
from gsr_core.runs import expected
from gsr_core.runs.expected import expected_seconds, predict
from gsr_core.runs.store import list_runs


def took(run, seconds: float, step: int) -> None:
    run.write_state(run.state.model_copy(update={"seconds": seconds, "step": step}))


def test_a_run_is_expected_to_take_what_its_steps_took_before(workspace, make):
    for seconds, step in ((10.0, 5), (2.0, 2), (9.0, 3)):
        took(make("gsr"), seconds, step)
    make("gsr")  # Waits, and so says nothing.
    took(make("llr"), 500.0, 1)
    runs = list_runs(workspace)
    assert expected_seconds(runs, "gsr", {"steps": 40}) == pytest.approx(2.0 * 40)
    assert expected_seconds(runs, "dfr", {}) is None


def test_a_run_is_predicted_from_some_of_its_rows(done):
    run = done(steps=6)
    method = make_method("gsr", {"steps": 100})
    cost = predict(run.bundle, method, pick("cpu"))
    assert cost is not None
    assert cost.steps == 100
    assert cost.seconds == pytest.approx(100 * cost.step_seconds)
    assert 0 < cost.step_seconds < 10
    assert 5e8 < cost.bytes < 1e9
    assert not cost.streamed
    assert predict(run.bundle, make_method("erm"), pick("cpu")) is not None
    assert predict(run.bundle, make_method("dfr"), pick("cpu")) is None


def test_rows_that_stay_in_their_file_take_no_memory(done, monkeypatch):
    run = done(steps=6)
    method = make_method("gsr")
    monkeypatch.setattr(expected, "_PROCESS", 0.0)
    monkeypatch.setattr(expected, "_BLOCKS", 0.0)
    whole = predict(run.bundle, method, pick("cpu"))
    monkeypatch.setattr(expected, "IN_MEMORY", 0)
    streamed = predict(run.bundle, method, pick("cpu"))
    assert whole is not None
    assert streamed is not None
    assert (whole.streamed, streamed.streamed) == (False, True)
    assert streamed.bytes < whole.bytes
