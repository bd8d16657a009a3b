"""The influence of a run's steps: on request, and left out where it takes too long."""

import numpy as np
import pytest

from gsr_core.errors import RunStateError
from gsr_core.runs import influence as influences
from gsr_core.runs import recorder
from gsr_core.runs.execute import continue_run, execute
from gsr_core.runs.influence import influence_at
from gsr_core.runs.samples import sample_table


def test_that_of_the_kept_step_is_what_the_run_stored(done):
    run = done(steps=6)
    stored = np.array(run.influence())
    assert influence_at(run) is not None
    np.testing.assert_array_equal(influence_at(run, run.state.best_step), stored)
    # Computed from the stored weights, it is the same.
    run.influence_file(run.state.best_step).unlink()
    np.testing.assert_allclose(influence_at(run), stored, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(run.influence(), influence_at(run))


def test_that_of_another_step_is_kept_and_is_what_a_run_would_store_there(done):
    run = done(steps=6)
    assert run.state.best_step != 1
    found = influence_at(run, 1)
    assert not np.allclose(found, run.influence())
    assert run.influence_of(1) is not None
    # Normalised weights: the influences on a group average to nothing.
    assert np.abs(run.weights_at(1).astype(float) @ found).max() < 1e-4
    np.testing.assert_allclose(found, done(steps=1).influence(), rtol=1e-3, atol=1e-5)


def test_what_takes_too_long_is_left_out_and_can_be_asked_for(done, monkeypatch):
    monkeypatch.setattr(recorder, "LONGEST", -1.0)
    monkeypatch.setattr(recorder, "_WORTH_INFLUENCE", -1.0)
    run = done(steps=3)
    assert run.influence() is None
    assert f"'gsr influence {run.run_id}' computes it" in run.state.note
    assert "goal" not in sample_table(run, "heldout")
    continue_run(run, 4)
    assert execute(run).step == 4
    assert run.influence() is None
    influence_at(run)
    assert "goal" in sample_table(run, "heldout")


def test_a_step_without_weights_and_a_method_without_influence_are_refused(done):
    with pytest.raises(RunStateError, match="has no weights of step 99; stored steps are"):
        influence_at(done(steps=3), 99)
    with pytest.raises(RunStateError, match="has no influence at step 1; it is defined for"):
        influence_at(done("pde"), 1)


def test_the_time_is_that_of_a_step_for_each_group():
    assert influences.influence_seconds(20.0, 10, 6) == 12.0
