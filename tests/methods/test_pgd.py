from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.nn.functional import cross_entropy, one_hot

from gsr_core.data.problem import Rows
from gsr_core.methods.biased import curvature_bound, gce_gradient
from gsr_core.methods.fit import fit
from gsr_core.methods.inner import InnerProblem
from gsr_core.methods.llr import LLR
from gsr_core.methods.pgd import PGD, biased_state, gradient_norms


def one(method, problem):
    (step,) = method.iterate(problem)
    return step


@pytest.mark.parametrize(("norm", "order"), [("l1", 1), ("l2", 2), ("linf", torch.inf)])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_norms_are_those_of_each_samples_gradient_by_autograd(norm, order, n_classes):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(20, 5, generator=generator, dtype=torch.float64)
    head = torch.randn(6, n_classes, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(n_classes, (20,), generator=generator)
    design = torch.cat([features, torch.ones(20, 1, dtype=torch.float64)], dim=1)
    expected = []
    for row, label in zip(design, labels, strict=True):
        (gradient,) = torch.autograd.grad(cross_entropy((row @ head)[None], label[None]), head)
        expected.append(torch.linalg.vector_norm(gradient, order))
    residuals = (design @ head).softmax(dim=1).detach() - one_hot(labels, n_classes)
    found = gradient_norms(design, residuals, norm)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-6, atol=0)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("q", [1e-6, 0.7, 1.0])
def test_the_gradient_of_the_generalised_loss_is_autograds(make_problem, n_classes, q):
    problem, _ = make_problem(n=30, n_classes=n_classes)
    inner = InnerProblem(problem, problem.weighted, l2=0.01, standardise=True)
    generator = torch.Generator().manual_seed(1)
    u = torch.randn(inner.zero().shape, generator=generator, dtype=torch.float64).to(inner.basis)
    u.requires_grad_()
    logits = inner.design.to(u) @ u @ inner.basis.T
    chance = logits.softmax(dim=1)[torch.arange(30), inner.labels]
    (expected,) = torch.autograd.grad(((1 - chance**q) / q).mean(), u)
    objective = inner.objective(inner.uniform())
    found = gce_gradient(inner, objective.at(u.detach()), q)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_steps_of_one_over_the_bound_never_raise_the_loss(make_problem):
    problem, _ = make_problem(n_classes=3)
    inner = InnerProblem(problem, problem.weighted, l2=0.01, standardise=True)
    objective, size = inner.objective(inner.uniform()), 1 / curvature_bound(inner)
    state, losses = objective.at(inner.zero()), []
    for _ in range(30):
        losses.append(float((1 - torch.exp(-0.7 * state.losses)).mean()))
        state = objective.at(state.u - size * gce_gradient(inner, state, 0.7))
    assert np.all(np.diff(losses) < 0)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_probabilities_are_powers_of_norms_on_the_standardised_features(make_problem, norm, power):
    # More features than rows: the norms must not be those of the row space.
    problem, _ = make_problem(n=30, d=50)
    rows = problem.weighted
    step = one(PGD(norm=norm, power=power, updates=50), problem)
    inner = InnerProblem(problem, rows, l2=0.01, standardise=True)
    state = biased_state(inner, exponent=0.7, updates=50)
    residuals = (state.probabilities - one_hot(rows.labels, 2)).cpu().numpy()
    z = rows.features.double().cpu().numpy()
    z = (z - z.mean(axis=0)) / z.std(axis=0)
    order = {"l1": 1, "l2": 2, "linf": np.inf}[norm]
    gradients = [
        np.outer(residual, [*row, 1]).ravel() for residual, row in zip(residuals, z, strict=True)
    ]
    norms = np.linalg.norm(gradients, order, axis=1) ** power
    np.testing.assert_allclose(step.sample_weight.cpu(), norms / norms.sum(), rtol=1e-5)


def test_two_sets_that_pull_apart_get_half_of_the_mass_each(make_problem):
    # Theorem 2 of the paper, with a head that has nothing but its bias: 90 rows of one class and
    # 10 of the other, at the optimum of cross-entropy.
    problem, _ = make_problem(n=100)
    labels = (torch.arange(100) >= 90).long().to(problem.weighted.labels)
    features = torch.zeros_like(problem.weighted.features)
    problem = replace(problem, weighted=replace(problem.weighted, labels=labels, source=features))
    step = one(PGD(alpha=1e-9, updates=300), problem)
    assert float(step.sample_weight[labels == 1].sum()) == pytest.approx(0.5, abs=1e-6)
    assert step.sample_weight[:90].max() == pytest.approx(step.sample_weight[:90].min())


def test_conflicting_samples_of_the_gaussian_toy_have_the_largest_gradients(make_problem):
    problem, test = make_problem(n=1500, n_target=400, d=10, minority=0.02)
    step = one(PGD(updates=30), problem)
    conflicting = problem.weighted.groups[:, 1] | problem.weighted.groups[:, 2]
    assert roc_auc_score(conflicting.cpu(), step.sample_weight.cpu()) > 0.98
    mass = float(step.sample_weight[conflicting].sum())
    assert 0.3 < mass < 0.85
    worst = [
        fit(method, problem, ["a0", "a1", "b0", "b1"], test=test)
        .history.query("split == 'test' and metric == 'worst_group_accuracy'")["value"]
        .iloc[0]
        for method in (LLR(), PGD(updates=30))
    ]
    assert worst[1] > worst[0] + 0.2


def test_resampling_fits_draws_from_the_probabilities(make_problem, with_order):
    problem, _ = make_problem(n=60)
    drawn, exact = one(PGD(resample=True, seed=4), problem), one(PGD(), problem)
    assert torch.equal(drawn.sample_weight, exact.sample_weight)
    assert not torch.allclose(drawn.head.weight, exact.head.weight, rtol=1e-3)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(3))
    moved = one(PGD(resample=True, seed=4), with_order(problem, order))
    torch.testing.assert_close(drawn.head.weight, moved.head.weight, rtol=1e-6, atol=1e-7)
    other = one(PGD(resample=True, seed=5), problem)
    assert not torch.allclose(drawn.head.weight, other.head.weight, rtol=1e-3)


def test_draws_are_as_many_as_samples_and_follow_the_probabilities():
    rows = Rows(torch.zeros(4, 1), torch.zeros(4).long(), torch.ones(4, 1).bool(), np.arange(4))
    chance = torch.tensor([0.0, 0.1, 0.3, 0.6], dtype=torch.float64)
    weights = torch.stack([PGD(seed=seed)._draw(rows, chance) for seed in range(2000)])
    assert torch.equal((4 * weights).round(), 4 * weights)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2000, dtype=torch.float64))
    assert (weights.mean(dim=0) - chance).abs().max() < 0.02
