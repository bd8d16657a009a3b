import dataclasses

import numpy as np
import pytest
import torch

from gsr_core.compute import pick
from gsr_core.data.bundle import open_bundle
from gsr_core.data.problem import load_problem
from gsr_core.data.variation import Variation
from gsr_core.errors import SettingError
from gsr_core.inference.references import EARLY_STEPS, early_heads
from gsr_core.linear.head import head_digest
from gsr_core.maps import heads
from gsr_core.maps.compute import load_map
from gsr_core.maps.config import map_config
from gsr_core.maps.heads import map_head, map_profile
from gsr_core.maps.job import MapJob
from gsr_core.progress import never, silent
from gsr_core.runs.execute import execute
from gsr_core.runs.store import create_run
from tests.tiny import make, workspace

__all__ = ["make", "workspace"]


@pytest.fixture
def bundle(workspace):
    return open_bundle(workspace, "tiny")


@pytest.fixture
def run(make):
    run = make(steps=3)
    execute(run)
    return run


def test_the_heads_are_the_runs_the_backbones_and_two_fitted_to_the_weighted_rows(bundle, run):
    weight, bias = run.head()
    kept = map_head(bundle, run)
    np.testing.assert_array_equal(kept.weight, weight)
    np.testing.assert_array_equal(kept.bias, bias)
    assert map_head(bundle, run, "backbone") is None
    assert map_head(bundle, None) is None

    problem, _ = load_problem(bundle, pick("cpu"))
    expected = early_heads(problem, [EARLY_STEPS])[0]
    torch.testing.assert_close(map_head(bundle, run, "early").weight, expected.weight)
    torch.testing.assert_close(map_head(bundle, None, "early").weight, expected.weight)

    refit = map_head(bundle, run, "refit")
    features = problem.weighted.features.double()
    # The optimum: the gradient of the mean cross-entropy is that of the penalty, which acts on
    # features centred and divided by their spread.
    weight, bias = refit.weight.requires_grad_(), refit.bias.requires_grad_()
    variance, mean = torch.var_mean(features, dim=0, correction=0)
    spread = variance.mean().sqrt()
    penalty = (weight * spread).square().sum() + (bias + weight @ mean).square().sum()
    logits = features @ weight.T + bias
    value = torch.nn.functional.cross_entropy(logits, problem.weighted.labels)
    value = value + heads.REFIT_L2 * penalty
    gradients = torch.autograd.grad(value, (weight, bias))
    assert all(part.abs().max() < 1e-6 for part in gradients)


def test_a_fitted_head_is_computed_once_and_has_one_digest(bundle, run, monkeypatch):
    first = map_head(bundle, run, "refit")
    heads._fit_head.cache_clear()
    again = map_head(bundle, None, "refit")
    assert head_digest(first) == head_digest(again)

    def computed_again(*arguments, **settings):
        raise AssertionError

    monkeypatch.setattr(heads, "load_problem", computed_again)
    assert map_head(bundle, run, "refit") is again


def test_a_fitted_head_sees_the_labels_that_the_run_saw(workspace, bundle):
    noisy = create_run(workspace, "tiny", "erm", device="cpu", variation={"label_noise": 0.3})
    problem, _ = load_problem(
        bundle, pick("cpu"), seed=noisy.config.seed, variation=Variation(label_noise=0.3)
    )
    expected = early_heads(problem, [EARLY_STEPS])[0]
    found = map_head(bundle, noisy, "early")
    torch.testing.assert_close(found.weight, expected.weight)
    assert head_digest(found) != head_digest(map_head(bundle, None, "early"))


def test_an_unknown_head_and_a_replaced_bundle_are_refused(bundle, run):
    with pytest.raises(SettingError, match="allowed are run, backbone, refit, early"):
        map_head(bundle, run, "late")
    manifest = bundle.manifest.model_copy(update={"classes": ["dog", "cat"]})
    other = dataclasses.replace(bundle, manifest=manifest)
    assert other.manifest.digest != bundle.manifest.digest
    with pytest.raises(SettingError, match="just replaced"):
        map_head(other, run, "refit")


def draw(workspace, job):
    """Return the map that a job computes."""
    job.run(workspace, silent, never)
    return load_map(workspace, job.config)


def test_a_job_draws_a_map_of_influence(workspace, bundle, run):
    profile = map_profile(run)
    assert profile.values.shape == (40, len(bundle.group_names))
    config = map_config(bundle, None, space="influence", profile=profile)
    frame = draw(workspace, MapJob(config=config, run_id=run.run_id, bundle="tiny"))
    np.testing.assert_array_equal(frame["row"], np.sort(bundle.rows_of["heldout"]))


def test_a_run_without_influence_has_no_profile(workspace):
    assert map_profile(create_run(workspace, "tiny", "erm", device="cpu")) is None


def test_a_job_draws_a_map_with_the_head_that_the_page_asked_for(workspace, bundle, run):
    config = map_config(bundle, map_head(bundle, run, "refit"), space="logits")
    job = MapJob(config=config, run_id=run.run_id, bundle=str(bundle.path), which="refit")
    assert len(draw(workspace, job)) == len(bundle)
