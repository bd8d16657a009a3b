"""Influence through all parameters, against dense matrices and against what was planted."""

from dataclasses import replace
from itertools import islice

import torch
from torch.func import functional_call, jacrev, vmap
from torch.nn.functional import cross_entropy

from gsr_core.curvature.solving import Solve
from gsr_core.methods.network import influence
from gsr_core.methods.network.balanced import NetworkERM
from gsr_core.methods.network.influence import network_influence
from gsr_core.methods.network.loop import Loop

EPOCHS = 6
DAMPING = 0.1
EXACT = Solve(matrix="gauss_newton", damping=DAMPING, tolerance=1e-6, max_products=200)


def trained_loop(problem):
    method = NetworkERM(steps=EPOCHS, optimiser="adam", lr=1e-2, batch_size=16, weight_decay=0.05)
    *_, last = islice(method.iterate(problem), EPOCHS)
    loop = Loop(method, problem, None)
    loop.learner.module.load_state_dict(last.network)
    return loop


def dense(loop, weight):
    """The same by explicit Jacobians, in float64."""
    module = loop.learner.module.cpu().double().eval()
    named = {name: each.detach() for name, each in module.named_parameters()}
    theta = torch.cat([each.reshape(-1) for each in named.values()])
    sizes = [each.numel() for each in named.values()]

    def logits(theta, x):
        parts = zip(named.items(), theta.split(sizes), strict=True)
        known = {name: part.view(each.shape) for (name, each), part in parts}
        return functional_call(module, known, (x[None],))[0]

    def loss(theta, x, label):
        return cross_entropy(logits(theta, x)[None], label[None])

    def inputs(rows):
        read = loop.read(rows, torch.zeros(len(rows), dtype=torch.long))
        return torch.cat([batch for batch, *_ in read]).cpu().double()

    l2, target = loop.training.weight_decay / 2, loop.problem.target
    x = inputs(loop.rows)
    jacobian = vmap(jacrev(logits), (None, 0))(theta, x)
    p = vmap(logits, (None, 0))(theta, x).softmax(dim=1)
    outer = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    matrix = torch.einsum("n,nkp,nkl,nlq->pq", weight, jacobian, outer, jacobian)
    matrix += (2 * l2 + DAMPING) * torch.eye(len(theta), dtype=torch.float64)
    gradient = vmap(jacrev(loss), (None, 0, 0))
    members = target.groups.cpu().double()
    by_group = gradient(theta, inputs(target.position), target.labels.cpu()).T @ (
        members / members.sum(dim=0)
    )
    rows = gradient(theta, x, loop.labels) + 2 * l2 * theta
    return -rows @ torch.linalg.solve(matrix, by_group)


def test_it_is_what_explicit_matrices_give(make_network_problem):
    problem, _ = make_network_problem()
    loop = trained_loop(problem)
    weight = torch.rand(len(loop), dtype=torch.float64)
    weight /= weight.sum()
    found, note = network_influence(loop, weight, EXACT)
    expected = dense(loop, weight)
    assert found.shape == expected.shape == (len(loop), 4)
    torch.testing.assert_close(
        found.cpu().double(), expected, rtol=0, atol=1e-4 * float(expected.abs().max())
    )
    assert "within the tolerance" in note


def test_groups_that_are_too_many_for_the_memory_are_taken_in_turns(
    make_network_problem, monkeypatch
):
    problem, _ = make_network_problem()
    told = []

    def report(fraction, text):
        told.append((fraction, text))

    loop = trained_loop(replace(problem, network=replace(problem.network, report=report)))
    weight = torch.full((len(loop),), 1 / len(loop), dtype=torch.float64)
    together, _ = network_influence(loop, weight, EXACT)
    assert told[-1][1].endswith("of at most 202")
    size = sum(each.numel() for each in loop.learner.module.parameters())
    # Three of the four groups, and then the last.
    monkeypatch.setattr(influence, "_AT_ONCE", 3 * size + 1)
    in_turns, _ = network_influence(loop, weight, EXACT)
    close = 1e-4 * float(together.abs().max())
    torch.testing.assert_close(in_turns, together, rtol=0, atol=close)
    assert told[-1][1].endswith("of at most 404")
    assert max(fraction for fraction, _ in told) <= 1


def test_more_weight_on_a_minority_serves_it_most(make_network_problem):
    problem, _ = make_network_problem()
    loop = trained_loop(problem)
    weight = torch.full((len(loop),), 1 / len(loop), dtype=torch.float64)
    found = network_influence(loop, weight, replace(EXACT, tolerance=1e-3))[0].cpu()
    of_group = torch.stack([found[members].mean(dim=0) for members in loop.groups.T])
    minorities = (1, 2)
    for group in minorities:
        assert of_group[group, group] < 0
        assert of_group[:, group].argmin() == group
