"""Learned reweighting of whole networks, against computations of its own."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from gsr_core.errors import SettingError
from gsr_core.methods.lrw import choose_validation, margins
from gsr_core.methods.network.loop import Batch, Loop
from gsr_core.methods.network.lrw import Weigher
from gsr_core.methods.registry import make_method


def trained(name, problem, **changed):
    """The method, its loop and its steps; two first epochs of five unless said otherwise."""
    method = make_method(name, {"steps": 5, "weight_every": 2, **changed})
    loop = Loop(method, problem, None)
    steps = [loop.train(each) for each in itertools.islice(method.epochs(loop), method.steps)]
    return method, loop, steps


@pytest.mark.parametrize("name", ["network_lrw_hard", "network_lrw_easy"])
def test_the_hardest_or_easiest_of_each_class_are_validation(name, make_network_problem):
    problem, _ = make_network_problem()
    sign = 1 if name == "network_lrw_hard" else -1
    for within_class in (True, False):
        _, loop, _ = trained(name, problem, steps=3, delta=0.2, within_class=within_class)
        chosen, labels = loop.kept["validation"], loop.labels
        score = sign * margins(loop.logits(learner=loop.other("first")), labels)
        if within_class:
            for label in (0, 1):
                own = score[(labels == label) & chosen], score[(labels == label) & ~chosen]
                assert len(own[0]) in (9, 10)
                assert float(own[0].max()) <= float(own[1].min())
        else:
            expected = choose_validation(score.numpy(), labels.numpy(), int(0.2 * 96))
            np.testing.assert_array_equal(chosen.numpy(), expected)


def test_the_weight_network_descends_the_loss_of_the_judges(make_network_problem, compute):
    # In float64, against differences of a step that is taken here.
    problem, _ = make_network_problem()
    method, loop, _ = trained("network_lrw_random", problem, steps=3, hidden=4)
    weigher, module = Weigher(method, loop), loop.learner.module.double().eval()
    generator = torch.Generator().manual_seed(0)
    inputs = torch.from_numpy(problem.network.inputs.array).double().to(compute.device)
    labels = problem.weighted.labels
    weigher.inputs = weigher.inputs.double()
    weigher.phi = torch.randn(len(weigher.phi), generator=generator).to(weigher.inputs)
    weigher.velocity = torch.zeros_like(weigher.phi)
    weigher.epoch(loop.kept["validation"], "")

    def batch(places):
        return Batch(inputs[places], labels[places], torch.as_tensor(places))

    own, judges = batch(range(12)), batch(range(40, 60))
    size = loop.training.lr

    def ahead(phi):
        gates = torch.sigmoid(weigher._network(phi, weigher.inputs[own.places], own.labels))
        parameters = list(module.parameters())
        losses = cross_entropy(module(own.inputs), own.labels, reduction="none")
        slopes = torch.autograd.grad((gates / gates.sum()) @ losses, parameters)
        before = [each.detach().clone() for each in parameters]
        with torch.no_grad():
            for each, slope in zip(parameters, slopes, strict=True):
                each -= size * slope
            value = float(cross_entropy(module(judges.inputs), judges.labels))
            for each, old in zip(parameters, before, strict=True):
                each.copy_(old)
        return value

    expected = torch.zeros_like(weigher.phi)
    for index in range(len(expected)):
        nudge = torch.zeros_like(expected)
        nudge[index] = 1e-3
        expected[index] = ahead(weigher.phi + nudge) - ahead(weigher.phi - nudge)
    weigher._last, weigher._loss = own, torch.zeros(())
    start, network = weigher.phi, {k: v.clone() for k, v in module.state_dict().items()}
    weigher._move(judges)
    # The slopes are brought to a norm, so that directions are compared.
    moved = start - weigher.phi
    assert float(torch.cosine_similarity(moved, expected, dim=0)) > 1 - 1e-5
    assert all(torch.equal(network[key], value) for key, value in module.state_dict().items())


def test_hard_validation_weights_the_minority_up(make_network_problem):
    problem, _ = make_network_problem(minority=0.15)
    minority = (problem.weighted.groups[:, 1] | problem.weighted.groups[:, 2]).cpu()
    _, _, steps = trained("network_lrw_hard", problem, steps=7, delta=0.06, weight_lr=0.05)
    weight = steps[-1].sample_weight.cpu()
    validation = weight == 0
    assert int(validation.sum()) in (5, 6)
    assert all(torch.equal(step.sample_weight.cpu() == 0, validation) for step in steps[2:])
    assert float(weight[minority & ~validation].mean() / weight[~minority].mean()) > 2
    assert "they judge the weights of the others" in steps[-1].note


def test_weights_that_would_never_move_are_refused(make_network_problem):
    problem, _ = make_network_problem()
    with pytest.raises(SettingError, match=r"weight_every is 9 and an epoch has 6 batches"):
        trained("network_lrw_random", problem, weight_every=9)


def test_a_learned_split_moves_and_ends_once_the_gap_has_shrunk(make_network_problem):
    problem, _ = make_network_problem(minority=0.15)
    few = {"delta": 0.1, "weight_every": 5}
    _, loop, steps = trained("network_lrwopt", problem, **few)
    parts = [each.checkpoint["kept.validation"] for each in steps[2:]]
    assert len({tuple(each.tolist()) for each in parts}) > 1
    for part, step in zip(parts, steps[2:], strict=True):
        assert int(part.sum()) == int(0.1 * 96)
        assert torch.equal(step.sample_weight.cpu() == 0, part)
    # The gap of the next epoch is that of the network as it is, between the rows of the last one.
    losses = cross_entropy(loop.logits(), loop.labels, reduction="none")
    now = float(losses[parts[-1]].mean() - losses[~parts[-1]].mean())
    for before, patience, ends in ((now + 1, 1, True), (now + 1, 2, False), (now - 1, 1, False)):
        stored = {**steps[-1].checkpoint, "kept.gap": torch.tensor(before)}
        stored["kept.shrunk"] = torch.tensor(0)
        method = make_method("network_lrwopt", {**few, "gap_patience": patience})
        again = Loop(method, problem, stored)
        assert (next(method.epochs(again), None) is None) == ends
        if not ends:
            assert float(again.kept["gap"]) == pytest.approx(now)
            assert int(again.kept["shrunk"]) == (before > now)
