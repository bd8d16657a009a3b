from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from gsr_core.compute import Compute
from gsr_core.linear import l1
from gsr_core.linear.l1 import L1Ending, L1Objective


@pytest.fixture
def make(compute: Compute) -> Callable[..., L1Objective]:
    """Random rows with a column of ones, labels that follow some features, and unequal weights."""

    def make(n=80, d=12, n_classes=3, seed=0, spread=1.0) -> L1Objective:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(n, d, generator=generator, dtype=torch.float64)
        # Neighbours correlate, so that features stand in for each other.
        rows[:, 1:] += spread * rows[:, :-1]
        truth = torch.randn(3, n_classes, generator=generator, dtype=torch.float64)
        noise = torch.randn(n, n_classes, generator=generator, dtype=torch.float64)
        labels = (rows[:, :3] @ truth + noise).argmax(dim=1)
        weight = torch.rand(n, generator=generator, dtype=torch.float64) + 0.1
        design = torch.cat([rows, rows.new_ones(n, 1)], dim=1)
        return L1Objective(
            design.to(compute.device, compute.accumulate_dtype),
            labels.to(compute.device),
            (weight / weight.sum()).to(compute.device, compute.accumulate_dtype),
            n_classes,
        )

    return make


def of(objective: L1Objective, theta: torch.Tensor, rho: float) -> torch.Tensor:
    """The penalised objective, in plain words."""
    chance = (objective.design @ theta).log_softmax(dim=1)
    own = chance[torch.arange(len(chance)), objective.labels]
    return -(objective.sample_weight * own).sum() + rho * theta[:-1].abs().sum()


@pytest.mark.parametrize("n_classes", [2, 3, 4])
@pytest.mark.parametrize("fraction", [0.9, 0.3, 0.05, 0.005])
def test_the_optimality_conditions_hold(make, n_classes, fraction):
    objective = make(n_classes=n_classes)
    rho = fraction * objective.rho_max
    fit = objective.fit(rho)
    theta = fit.theta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(of(objective, theta, 0.0), theta)
    weight, slope = fit.theta[:-1], gradient[:-1]
    kept = weight != 0
    assert fit.converged
    assert fit.relative_residual <= 1e-8
    assert fit.value == pytest.approx(float(of(objective, fit.theta, rho)), rel=1e-12)
    assert kept.any()
    torch.testing.assert_close(slope[kept], -rho * weight[kept].sign(), rtol=0, atol=1e-7)
    assert bool((slope[~kept].abs() <= rho + 1e-7).all())
    # The bias is free.
    assert float(gradient[-1].abs().max()) < 1e-7


def test_no_other_head_has_a_lower_objective(make):
    objective = make()
    fit = objective.fit(0.1 * objective.rho_max)
    generator = torch.Generator().manual_seed(1)
    for size in (1e-4, 1e-2, 1.0):
        for _ in range(20):
            step = torch.randn(*fit.theta.shape, generator=generator, dtype=torch.float64)
            moved = fit.theta + size * step.to(fit.theta)
            assert float(of(objective, moved, 0.1 * objective.rho_max)) >= fit.value - 1e-13


@pytest.mark.parametrize("n_classes", [2, 3])
def test_it_is_scikit_learns_optimum(make, n_classes):
    objective = make(n_classes=n_classes, spread=0.3)
    rho = 0.1 * objective.rho_max
    weight = len(objective.labels) * objective.sample_weight.cpu().numpy()
    rows, labels = objective.design[:, :-1].cpu().numpy(), objective.labels.cpu().numpy()
    # Its C multiplies the sum of weighted losses.
    other = LogisticRegression(
        l1_ratio=1.0, C=1 / (80 * rho), solver="saga", tol=1e-9, max_iter=20_000, random_state=0
    ).fit(rows, labels, sample_weight=weight)
    logits = (objective.design @ objective.fit(rho).theta).cpu()
    expected = torch.from_numpy(rows @ other.coef_.T + other.intercept_)
    if n_classes == 2:
        ours, expected = logits[:, 1] - logits[:, 0], expected[:, 0]
    else:
        ours, expected = logits.log_softmax(dim=1), expected.log_softmax(dim=1)
    torch.testing.assert_close(ours.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_weights_are_exactly_zero_from_rho_max_on_and_not_below(make, n_classes):
    objective = make(n_classes=n_classes)
    share = torch.stack(
        [objective.sample_weight[objective.labels == label].sum() for label in range(n_classes)]
    )
    for factor in (1.0, 1.7):
        fit = objective.fit(factor * objective.rho_max)
        assert bool((fit.theta[:-1] == 0).all())
        torch.testing.assert_close(fit.theta[-1].softmax(dim=0), share)
        assert (fit.n_features, fit.steps, fit.ending) == (0, 0, L1Ending.CONVERGED)
    assert objective.fit(0.999 * objective.rho_max).n_features == 1


def test_weight_two_equals_two_copies_and_weight_zero_no_row(make):
    objective = make()
    times = torch.arange(len(objective.labels), device=objective.labels.device) % 3
    index = torch.arange(len(times), device=times.device).repeat_interleave(times)
    weighted = L1Objective(
        *(objective.design, objective.labels, times / times.sum().to(objective.design), 3)
    )
    copies = L1Objective(
        objective.design[index],
        objective.labels[index],
        objective.design.new_full((len(index),), 1 / len(index)),
        3,
    )
    assert weighted.rho_max == pytest.approx(copies.rho_max, rel=1e-12)
    rho = 0.05 * copies.rho_max
    torch.testing.assert_close(weighted.fit(rho).theta, copies.fit(rho).theta, rtol=1e-5, atol=1e-6)


def test_the_order_of_rows_and_features_does_not_matter(make):
    objective = make()
    generator = torch.Generator().manual_seed(2)
    rows = torch.randperm(80, generator=generator)
    features = torch.cat([torch.randperm(12, generator=generator), torch.tensor([12])])
    moved = L1Objective(
        objective.design[rows][:, features],
        objective.labels[rows],
        objective.sample_weight[rows],
        3,
    )
    rho = 0.1 * objective.rho_max
    torch.testing.assert_close(
        moved.fit(rho).theta, objective.fit(rho).theta[features], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("fraction", [0.3, 0.02])
def test_more_features_than_rows_and_few_with_a_weight(make, fraction):
    objective = make(n=60, d=300, seed=4)
    rho = fraction * objective.rho_max
    fit = objective.fit(rho)
    assert fit.converged
    assert 0 < fit.n_features < 60
    # All features at once give the same.
    at_once, _ = objective._descend(objective.null, rho, 1e-9, 50_000)
    assert float(of(objective, at_once, rho)) == pytest.approx(fit.value, abs=1e-12)


def test_a_class_without_a_row_is_all_but_never_predicted(make):
    objective = make(n_classes=3)
    more = L1Objective(objective.design, objective.labels, objective.sample_weight, 5)
    assert more.rho_max == pytest.approx(objective.rho_max)
    fit, without = (each.fit(0.1 * objective.rho_max) for each in (more, objective))
    assert fit.converged
    assert bool((fit.theta[:-1, 3:] == 0).all())
    chance = (objective.design @ fit.theta).softmax(dim=1)
    assert float(chance[:, 3:].max()) < 1e-10
    torch.testing.assert_close(
        chance[:, :3], (objective.design @ without.theta).softmax(dim=1), rtol=0, atol=1e-7
    )


def test_one_class_has_nothing_to_fit(make):
    objective = make()
    alone = L1Objective(
        objective.design, torch.zeros_like(objective.labels), objective.sample_weight, 2
    )
    fit = alone.fit(0.5 * alone.rho_max)
    assert fit.converged
    assert fit.n_features == 0
    assert bool(fit.theta.isfinite().all())


def test_a_constant_feature_gets_no_weight(make):
    objective = make()
    design = objective.design.clone()
    design[:, 4] = 0
    constant = L1Objective(design, objective.labels, objective.sample_weight, 3)
    assert bool((constant.fit(0.01 * constant.rho_max).theta[4] == 0).all())


def test_a_fit_that_runs_out_of_steps_says_so(make, monkeypatch):
    monkeypatch.setattr(l1, "_MAX_STEPS", 15)
    objective = make()
    fit = objective.fit(0.01 * objective.rho_max)
    assert not fit.converged
    assert fit.ending is L1Ending.STEPS
    assert fit.relative_residual > 1e-8


def test_stronger_penalties_have_smaller_norms(make):
    objective = make()
    fits = [objective.fit(each * objective.rho_max) for each in (0.01, 0.03, 0.1, 0.3, 1.0)]
    norms = [float(fit.theta[:-1].abs().sum()) for fit in fits]
    assert norms == sorted(norms, reverse=True)
    assert np.all(np.diff([fit.value for fit in fits]) > 0)
