from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch.nn.functional import cross_entropy

from gsr_core.methods.biased import curvature_bound
from gsr_core.methods.lookahead import Descent
from gsr_core.methods.mwn import MWN, map_gradient, mapped_weight
from gsr_core.methods.weight_network import Network


def take(method, problem, count, checkpoint=None):
    return list(islice(method.iterate(problem, checkpoint), count))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_gradient_of_the_map_is_autograd_through_one_step_of_the_head(make_problem, n_classes):
    problem, _ = make_problem(n_classes=n_classes)
    inner, network = MWN(l2=0.05).inner(problem), Network(1, 7)
    target, descent = inner.scored(problem.target), Descent(curvature_bound(inner))
    generator = torch.Generator().manual_seed(1)
    u, phi = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(inner.basis)
        for shape in (inner.zero().shape, network.start(0, inner.basis).shape)
    )

    def losses(head, rows, labels):
        return cross_entropy(rows @ head @ inner.basis.T, labels, reduction="none")

    free, head = phi.clone().requires_grad_(), u.clone().requires_grad_()
    own = losses(head, inner.design, inner.labels)
    weight = mapped_weight(network, free, own.detach())
    # The step size follows the weights, but as a constant.
    size = 1 / (len(weight) * float(weight.detach().max()) * curvature_bound(inner) + 2 * 0.05)
    (slope,) = torch.autograd.grad(
        weight @ own + 0.05 * head.square().sum(), head, create_graph=True
    )
    ahead = losses(head.detach() - size * slope, target.losses.design, target.losses.labels).mean()
    (expected,) = torch.autograd.grad(ahead, free)
    found = map_gradient(network, phi, inner, target, u, descent)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)


def test_a_constant_map_gives_equal_weights_whatever_the_seed(make_problem):
    inner = MWN().inner(make_problem()[0])
    losses = torch.linspace(0, 9, 80, dtype=torch.float64).to(inner.basis)
    for seed in (0, 5):
        network = Network(1, 100)
        found = mapped_weight(network, network.start(seed, inner.basis), losses)
        torch.testing.assert_close(found, inner.uniform())


def test_with_flipped_classes_the_map_falls_with_the_loss(make_problem):
    problem, _ = make_problem(n=300, n_target=200, minority=0.5)
    flipped = torch.arange(300, device=problem.weighted.labels.device) % 5 < 2
    labels = torch.where(flipped, 1 - problem.weighted.labels, problem.weighted.labels)
    noisy = replace(problem, weighted=replace(problem.weighted, labels=labels))
    step = take(MWN(), noisy, 10)[-1]
    losses = torch.linspace(0.05, 3, 50, dtype=torch.float64).to(step.sample_weight)
    mapped = mapped_weight(Network(1, 100), step.checkpoint["phi"], losses).cpu().numpy()
    assert (np.diff(mapped) < 0).all()
    assert mapped[0] > 3 * mapped[-1]
    weight = step.sample_weight
    assert float(weight[~flipped].mean()) > 1.5 * float(weight[flipped].mean())


def test_the_head_is_the_exact_fit_under_the_weights(make_problem):
    problem, _ = make_problem()
    for step in take(MWN(), problem, 3):
        again = MWN().inner(problem).step(step.sample_weight).head
        torch.testing.assert_close(step.head.weight, again.weight, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("d", [6, 120])
def test_a_continued_run_equals_one_long_run_bit_by_bit(make_problem, d):
    problem, _ = make_problem(d=d)
    if problem.compute.device.type != "cpu":
        pytest.skip("bits are promised on a CPU only")
    method = MWN(updates=4)
    whole = take(method, problem, 4)
    stored = load(save({k: v.contiguous() for k, v in whole[1].checkpoint.items()}))
    for one, two in zip(whole[2:], take(method, problem, 2, stored), strict=True):
        assert torch.equal(one.sample_weight, two.sample_weight)
        assert torch.equal(one.head.weight, two.head.weight)


def test_it_reads_no_groups(make_problem):
    problem, _ = make_problem()
    target = replace(problem.target, groups=problem.target.groups.roll(1, dims=1))
    one, two = (take(MWN(), each, 2)[-1] for each in (problem, replace(problem, target=target)))
    assert torch.equal(one.sample_weight, two.sample_weight)
