from dataclasses import replace
from itertools import islice

import pytest
import torch
from safetensors.torch import load, save
from torch.nn.functional import cross_entropy

from gsr_core.linear.influence import influence_along
from gsr_core.methods.l2r import L2R, agreeing_weight
from gsr_core.methods.lookahead import target_gradient


def take(method, problem, count, checkpoint=None):
    return list(islice(method.iterate(problem, checkpoint), count))


def somewhere(inner):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(inner.zero().shape, generator=generator, dtype=torch.float64).to(inner.basis)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_weights_are_the_positive_part_of_the_slope_at_no_weights_by_autograd(
    make_problem, n_classes
):
    problem, _ = make_problem(n_classes=n_classes)
    inner = L2R().inner(problem)
    target, u = inner.scored(problem.target), somewhere(inner)

    def losses(u, rows, labels):
        return cross_entropy(rows @ u @ inner.basis.T, labels, reduction="none")

    none = torch.zeros_like(inner.uniform()).requires_grad_()
    head = u.clone().requires_grad_()
    (slope,) = torch.autograd.grad(
        none @ losses(head, inner.design, inner.labels), head, create_graph=True
    )
    ahead = losses(u - 0.7 * slope, target.losses.design, target.losses.labels).mean()
    (by_weight,) = torch.autograd.grad(ahead, none)
    expected = (-by_weight).clamp(min=0)
    assert 0 < int((expected > 0).sum()) < len(expected)
    found = agreeing_weight(inner, target, u)
    torch.testing.assert_close(found, expected / expected.sum(), rtol=1e-6, atol=1e-12)


def test_weights_are_the_positive_part_of_the_score_without_the_hessian(make_problem):
    problem, _ = make_problem(n_classes=3)
    inner = L2R().inner(problem)
    target, u = inner.scored(problem.target), somewhere(inner)
    # From no weights at all there is no normalisation, hence no penalty in the derivative.
    plain = replace(inner.objective(inner.uniform()), l2=0.0)
    score = influence_along(plain, plain.at(u), target_gradient(target, u))[:, 0]
    expected = (-score).clamp(min=0)
    found = agreeing_weight(inner, target, u)
    torch.testing.assert_close(found, expected / expected.sum())


def test_the_values_are_the_mean_weights_of_the_dynamics(make_problem):
    problem, _ = make_problem()
    method = L2R(updates=3)
    inner = method.inner(problem)
    target = inner.scored(problem.target)
    bound = 0.5 * float(torch.linalg.matrix_norm(inner.design, 2)) ** 2 / len(inner.labels)
    u, seen = inner.zero(), []
    for _ in range(6):
        weight = agreeing_weight(inner, target, u)
        seen.append(weight)
        free = u.clone().requires_grad_()
        loss = cross_entropy(inner.design @ free @ inner.basis.T, inner.labels, reduction="none")
        (slope,) = torch.autograd.grad(weight @ loss + method.l2 * free.square().sum(), free)
        u = u - slope / (len(weight) * weight.max() * bound + 2 * method.l2)
    step = take(method, problem, 2)[-1]
    torch.testing.assert_close(step.sample_weight, torch.stack(seen).mean(dim=0))
    exact = inner.fit(step.sample_weight, inner.zero()).state.u
    torch.testing.assert_close(step.head.weight, inner.head(exact).weight, rtol=1e-6, atol=1e-7)


def test_where_no_sample_agrees_nothing_moves_and_it_ends(make_problem):
    problem, _ = make_problem()
    rows = problem.weighted
    twice = replace(
        rows,
        source=rows.features[:1].expand(2, -1).clone(),
        labels=rows.labels[:1].expand(2).clone(),
        groups=rows.groups[:1].expand(2, -1),
        position=rows.position[:2],
    )
    opposite = replace(twice, labels=1 - twice.labels)
    problem = replace(problem, weighted=twice, target=opposite)
    steps = take(L2R(), problem, 5)
    assert len(steps) == 1
    torch.testing.assert_close(steps[0].sample_weight, torch.full_like(steps[0].sample_weight, 0.5))
    assert "No sample" in steps[0].note


def test_flipped_samples_lose_their_weight(make_problem):
    problem, _ = make_problem(n=300, minority=0.5)
    flipped = torch.arange(300, device=problem.weighted.labels.device) % 5 < 2
    labels = torch.where(flipped, 1 - problem.weighted.labels, problem.weighted.labels)
    noisy = replace(problem, weighted=replace(problem.weighted, labels=labels))
    weight = take(L2R(), noisy, 2)[-1].sample_weight
    assert float(weight[~flipped].mean()) > 3 * float(weight[flipped].mean())


@pytest.mark.parametrize("d", [6, 120])
def test_a_continued_run_equals_one_long_run_bit_by_bit(make_problem, d):
    problem, _ = make_problem(d=d)
    if problem.compute.device.type != "cpu":
        pytest.skip("bits are promised on a CPU only")
    method = L2R(updates=4)
    whole = take(method, problem, 4)
    stored = load(save({k: v.contiguous() for k, v in whole[1].checkpoint.items()}))
    for one, two in zip(whole[2:], take(method, problem, 2, stored), strict=True):
        assert torch.equal(one.sample_weight, two.sample_weight)
        assert torch.equal(one.head.weight, two.head.weight)


def test_it_reads_no_groups(make_problem):
    problem, _ = make_problem()
    target = replace(problem.target, groups=problem.target.groups.roll(1, dims=1))
    one, two = (take(L2R(), each, 2)[-1] for each in (problem, replace(problem, target=target)))
    assert torch.equal(one.sample_weight, two.sample_weight)
