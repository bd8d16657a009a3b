import pytest

from gsr_core.runs.expected import expected_seconds
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
