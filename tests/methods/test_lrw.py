from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch.nn.functional import cross_entropy

from gsr_core.data.problem import Problem, Rows
from gsr_core.methods.biased import curvature_bound
from gsr_core.methods.inner import InnerProblem
from gsr_core.methods.lookahead import Descent
from gsr_core.methods.lrw import (
    LRWEasy,
    LRWHard,
    LRWRandom,
    Reweighting,
    choose_validation,
    exact_influence,
    lookahead_influence,
    margins,
)

EVERY = [LRWRandom, LRWEasy, LRWHard]


def take(method, problem, count, checkpoint=None):
    return list(islice(method.iterate(problem, checkpoint), count))


def setting(make_problem, n_classes):
    """An inner problem, a head, weights and a validation part, all of them arbitrary."""
    problem, _ = make_problem(n=30, n_classes=n_classes)
    inner = InnerProblem(problem, problem.weighted, l2=0.05, standardise=True)
    generator = torch.Generator().manual_seed(1)
    u = torch.randn(inner.zero().shape, generator=generator, dtype=torch.float64).to(inner.basis)
    training = torch.arange(30, device=u.device) % 3 > 0
    weight = torch.rand(30, generator=generator, dtype=torch.float64).to(u) * training
    judge = (~training).to(u) / (~training).sum()
    return problem, inner, u, training, weight / weight.sum(), judge


def precisely_fitted(inner, weight, u):
    return inner.solver.minimise(inner.objective(weight), u, tolerance=1e-14).state.u


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_closed_form_is_autograd_through_one_step_of_the_head(make_problem, n_classes):
    _, inner, u, _, weight, judge = setting(make_problem, n_classes)
    design, labels = inner.design.to(u), inner.labels

    def losses(u):
        return cross_entropy(design @ u @ inner.basis.T, labels, reduction="none")

    free, head = weight.clone().requires_grad_(), u.clone().requires_grad_()
    training_loss = free @ losses(head) + 0.05 * head.square().sum()
    (slope,) = torch.autograd.grad(training_loss, head, create_graph=True)
    (expected,) = torch.autograd.grad(judge @ losses(head - 0.3 * slope), free)
    found = lookahead_influence(inner, u, weight, judge, 0.3)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("hidden", [0, 5])
@pytest.mark.parametrize("lookahead", ["one_step", "exact"])
def test_the_network_descends_the_validation_loss_by_finite_differences(
    make_problem, lookahead, hidden
):
    problem, inner, u, training, _, judge = setting(make_problem, 3)
    method = LRWRandom(lookahead=lookahead, hidden=hidden, lr=1.0, head_updates=1, l2=0.05)
    reweighting = Reweighting(method, problem, inner, {})
    generator = torch.Generator().manual_seed(2)
    phi = torch.randn(len(reweighting.phi), generator=generator, dtype=torch.float64).to(u)
    if lookahead == "exact":
        u = precisely_fitted(inner, reweighting.weight(training, phi), u)
    start = inner.objective(reweighting.weight(training, phi))
    size = Descent(curvature_bound(inner)).size(start)

    def validation_loss(phi):
        objective = inner.objective(reweighting.weight(training, phi))
        if lookahead == "exact":
            head = precisely_fitted(inner, objective.sample_weight, u)
        else:
            head = u - size * objective.gradient(objective.at(u))
        return float(judge @ inner.objective(judge).at(head).losses)

    expected = torch.zeros_like(phi)
    for index in range(len(phi)):
        nudge = torch.zeros_like(phi)
        nudge[index] = 1e-4
        difference = validation_loss(phi + nudge) - validation_loss(phi - nudge)
        expected[index] = difference / 2e-4
    reweighting.u, reweighting.phi = u, phi
    reweighting.update(training, judge)
    torch.testing.assert_close(phi - reweighting.phi, expected, rtol=1e-5, atol=1e-8)


def test_one_step_is_the_first_term_of_the_exact_derivative(make_problem):
    # The later ones are the same, of the slope of V times (1 - size H), again and again; what all
    # add up to has its mean taken out, by the normalisation of the weights.
    _, inner, u, training, weight, judge = setting(make_problem, 2)
    objective, size = inner.objective(weight), 0.5
    fit = inner.fit(weight, precisely_fitted(inner, weight, u))
    state, design = fit.state, inner.design.to(u)
    residuals = objective.residuals(state)
    slope = design.T @ (judge[:, None] * residuals)
    total = torch.zeros_like(weight)
    for _ in range(800):
        total -= size * (residuals * (design @ slope)).sum(dim=1)
        slope = slope - size * objective.hessian_product(state, slope[:, :, None])[:, :, 0]
    exact = exact_influence(inner, fit, weight, judge)
    centred = total - weight @ total
    torch.testing.assert_close(exact[training], centred[training], rtol=1e-6, atol=1e-10)


def test_margins_are_in_range_and_positive_where_the_label_wins():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(200, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(4, (200,), generator=generator)
    found = margins(logits, labels)
    assert (found.abs() <= 1).all()
    assert torch.equal(found > 0, logits.argmax(dim=1) == labels)
    chances = logits.softmax(dim=1)
    other = [
        max(row[k] for k in range(4) if k != label)
        for row, label in zip(chances, labels, strict=True)
    ]
    own = chances[torch.arange(200), labels]
    torch.testing.assert_close(found, own - torch.stack(other))


@given(
    st.lists(st.integers(0, 2), min_size=6, max_size=40), st.floats(0.05, 0.9), st.integers(0, 9)
)
def test_the_split_takes_the_lowest_and_keeps_every_class_on_both_sides(labels, delta, seed):
    labels = np.array([0, 0, 1, 1, 2, 2, *labels])
    score = np.random.default_rng(seed).random(len(labels))
    size = int(delta * len(labels))
    chosen = choose_validation(score, labels, size)
    assert chosen.sum() == min(max(size, 3), len(labels) - 3)
    for side in (chosen, ~chosen):
        assert set(labels[side]) == {0, 1, 2}
    lowest = np.zeros_like(chosen)
    lowest[np.argsort(score)[:size]] = True
    if set(labels[lowest]) == set(labels[~lowest]) == {0, 1, 2}:
        np.testing.assert_array_equal(chosen, lowest)
        assert score[chosen].max() <= score[~chosen].min()


def test_a_class_of_one_row_stays_in_training():
    labels = np.array([0, 0, 0, 0, 1])
    chosen = choose_validation(np.array([3.0, 2, 4, 5, 1]), labels, 2)
    np.testing.assert_array_equal(chosen, [True, True, False, False, False])


@pytest.mark.parametrize("method", EVERY)
def test_validation_is_the_stated_share_by_the_stated_rule(make_problem, method):
    problem, _ = make_problem(n=103, n_classes=3)
    rows, settings = problem.weighted, method(delta=0.2)
    (step,) = take(settings, problem, 1)
    validation = step.sample_weight == 0
    assert int(validation.sum()) == int(0.2 * 103)
    assert step.note.startswith("20 of 103 samples are validation")
    inner = settings.inner(problem)
    found = torch.from_numpy(settings.margins(rows, inner)).to(validation.device)
    inside, outside = found[validation], found[~validation]
    if method is LRWHard:
        assert inside.max() <= outside.min()
    elif method is LRWEasy:
        assert inside.min() >= outside.max()
    else:
        assert inside.min() < outside.max()
        assert inside.max() > outside.min()
        (other,) = take(method(delta=0.2, seed=1), problem, 1)
        assert not torch.equal(other.sample_weight == 0, validation)


def mixture(make_problem, n=300):
    """Two domains, told apart by feature 0, in which feature 1 means opposite classes."""
    template, _ = make_problem()
    rng = np.random.default_rng(0)
    domain, labels = np.arange(n) % 2, rng.integers(2, size=n)
    features = rng.normal(size=(n, 4))
    features[:, 0] += np.where(domain == 0, 3, -3)
    features[:, 1] += 2 * (2 * labels - 1) * np.where(domain == 0, 1, -1)
    device = template.compute.device
    rows = Rows(
        torch.from_numpy(features.astype(np.float32)).to(device),
        torch.from_numpy(labels).to(device),
        torch.from_numpy(domain[:, None] == np.arange(2)).to(device),
        np.arange(n),
    )
    problem = Problem(rows, target=rows, val=rows, n_classes=2, compute=template.compute)
    return problem, rows.groups[:, 0]


class OneDomain(LRWRandom):
    """Validation from one side of feature 0 alone."""

    def rank(self, rows, inner):
        return super().rank(rows, inner) + (rows.features[:, 0].cpu().numpy() < 0)


@pytest.mark.parametrize(("lookahead", "lr"), [("one_step", 30.0), ("exact", 3.0)])
def test_weights_follow_the_domain_of_the_validation_and_only_then(make_problem, lookahead, lr):
    problem, first = mixture(make_problem)
    for method, low, high in ((OneDomain, 2, np.inf), (LRWRandom, 0.8, 1.25)):
        step = take(method(lookahead=lookahead, lr=lr, delta=0.2), problem, 5)[-1]
        weight, training = step.sample_weight, step.sample_weight > 0
        ratio = weight[training & first].mean() / weight[training & ~first].mean()
        assert low < float(ratio) < high


@pytest.mark.parametrize("lookahead", ["one_step", "exact"])
@pytest.mark.parametrize("hidden", [0, 4])
def test_a_continued_run_equals_one_long_run_bit_by_bit(make_problem, lookahead, hidden):
    problem, _ = make_problem(n=60, d=70)
    if problem.compute.device.type != "cpu":
        pytest.skip("bits are promised on a CPU only")
    method = LRWHard(lookahead=lookahead, hidden=hidden, updates=2)
    whole = take(method, problem, 4)
    stored = load(save({k: v.contiguous() for k, v in whole[1].checkpoint.items()}))
    for one, two in zip(whole[2:], take(method, problem, 2, stored), strict=True):
        assert torch.equal(one.sample_weight, two.sample_weight)
        assert torch.equal(one.head.weight, two.head.weight)


@pytest.mark.parametrize("hidden", [0, 4])
@pytest.mark.parametrize("d", [6, 70])
def test_networks_and_the_row_space_do_not_depend_on_the_order(make_problem, with_order, hidden, d):
    problem, _ = make_problem(n=60, d=d)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(3))
    one, two = (
        take(LRWHard(hidden=hidden, updates=2), each, 2)[-1]
        for each in (problem, with_order(problem, order))
    )
    torch.testing.assert_close(one.sample_weight[order], two.sample_weight, rtol=1e-6, atol=1e-10)


def test_the_head_is_the_exact_fit_of_the_training_part(make_problem):
    problem, _ = make_problem()
    step = take(LRWHard(), problem, 2)[-1]
    # What validation says of the classes must not reach the head but through the weights.
    labels = torch.where(step.sample_weight > 0, problem.weighted.labels, 0)
    rows = replace(problem.weighted, labels=labels)
    head = LRWHard().inner(problem, rows).step(step.sample_weight).head
    torch.testing.assert_close(step.head.weight, head.weight, rtol=1e-6, atol=1e-7)
