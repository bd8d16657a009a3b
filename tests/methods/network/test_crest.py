"""CREST's batches, local model and looks, against computations of their own."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from gsr_core.curvature.engine import Curvature
from gsr_core.linear.head import Head
from gsr_core.methods.network.crest import (
    LocalModel,
    hutchinson_diagonal,
    last_layer_points,
    weighted_medoids,
)
from gsr_core.methods.network.loop import Epoch, Loop, Rounds
from gsr_core.methods.registry import make_method

PLAIN = {"optimiser": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "batch_size": 16}


def rows(n, d, k, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, d, generator=generator, dtype=torch.float64)
    weight = torch.randn(k, d, generator=generator, dtype=torch.float64)
    return Head(weight, torch.zeros(k).double()), features, torch.arange(n) % k


def test_a_weighted_batch_is_nearer_to_the_mean_gradient_than_a_random_one():
    generator, better = torch.Generator().manual_seed(0), 0
    for seed in range(100):
        points = last_layer_points(*rows(500, 8, 10, seed), "logits")
        chosen, weight = weighted_medoids(points, 32)
        assert float(weight.sum()) == pytest.approx(1)
        drawn = points[torch.randperm(500, generator=generator)[:32]].mean(dim=0)
        error = (weight @ points[chosen] - points.mean(dim=0)).norm()
        better += bool(error < (drawn - points.mean(dim=0)).norm())
    assert better >= 95


def test_a_batch_by_class_has_every_class():
    head, features, _ = rows(60, 4, 3)
    labels = torch.zeros(60, dtype=torch.int64)
    labels[:3], labels[3:20] = 2, 1
    points = last_layer_points(head, features, labels, "logits")
    chosen, weight = weighted_medoids(points, 8, labels)
    share = torch.zeros(3).double().index_add_(0, labels[chosen], weight)
    torch.testing.assert_close(share, labels.bincount() / 60.0, check_dtype=False)
    assert labels[chosen].bincount().tolist() == [5, 2, 1]
    assert len(weighted_medoids(points[:5], 8)[0]) == 5


def test_points_are_as_far_apart_as_the_gradients_they_stand_for():
    head, features, labels = rows(20, 4, 3)
    features.requires_grad_(True)
    logits = head.logits(features)
    losses = cross_entropy(logits, labels, reduction="sum")
    by_logits, by_inputs = torch.autograd.grad(losses, [logits, features])
    design = torch.cat([features, torch.ones(20, 1)], dim=1).detach()
    expected = {
        "logits": by_logits,
        "inputs": by_inputs,
        "layer": by_logits * design.norm(dim=1, keepdim=True),
    }
    for gradient, each in expected.items():
        points = last_layer_points(head, features.detach(), labels, gradient)
        torch.testing.assert_close(torch.cdist(points, points), torch.cdist(each, each))
    # The last is as long as the gradient by the head.
    whole = (by_logits[:, :, None] * design[:, None]).flatten(1)
    torch.testing.assert_close(points.norm(dim=1), whole.norm(dim=1))


def test_the_local_model_of_a_quadratic_loss_is_the_loss():
    generator = torch.Generator().manual_seed(0)
    curvature, origin, theta = torch.rand(3, 50, generator=generator, dtype=torch.float64)

    def loss(at):
        return float(0.5 * curvature @ (at - 0.3).square()) + 0.1

    model = LocalModel(origin, loss(origin), curvature * (origin - 0.3), curvature)
    assert abs(model.at(theta) - loss(theta)) / loss(theta) < 1e-8


def test_signs_give_the_diagonal_of_the_curvature():
    head, features, labels = rows(40, 3, 3)
    weight = torch.rand(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    layer = nn.Linear(3, 3, dtype=torch.float64)
    layer.load_state_dict({"weight": head.weight, "bias": head.bias})
    curvature = Curvature(layer, lambda: [(features, labels, weight)], l2=0.0, at_once=100)
    p = head.logits(features).softmax(dim=1)
    design = torch.cat([features, torch.ones(40, 1)], dim=1)
    exact = torch.einsum("n,nk,nq->kq", weight / weight.sum(), p * (1 - p), design.square())
    exact = torch.cat([exact[:, :3].flatten(), exact[:, 3]])
    errors = []
    for probes in (10, 300):
        found = hutchinson_diagonal(curvature, probes, torch.Generator().manual_seed(0))
        errors.append(float((found - exact).norm() / exact.norm()))
    assert errors[1] < 0.1
    assert errors[1] < 0.5 * errors[0]


def test_later_rounds_are_settled_by_what_was_trained_before(make_network_problem):
    problem, _ = make_network_problem()
    loop = Loop(make_method("network_erm", {"steps": 1}), problem, None)
    trained, known = [], []

    def rounds():
        for number in range(3):
            known.append(len(trained))
            yield [np.arange(4) + 8 * number, np.arange(5) + 8 * number]

    def update(batch):
        trained.append(batch.places.tolist())
        return loop.descent()(batch)

    step = loop.train(Epoch(Rounds(6, rounds()), update=update, note=lambda: f"{len(trained)}"))
    assert known == [0, 2, 4]
    assert trained[2:4] == [[8, 9, 10, 11], [8, 9, 10, 11, 12]]
    assert step.note == "6"


def crest(make_network_problem, **changed):
    problem, _ = make_network_problem()
    method = make_method("network_crest", {"budget": 0.5, "subset": 1.0, **PLAIN, **changed})
    loop = Loop(method, problem, None)
    return loop, method.epochs(loop)


def inputs_of(loop):
    return torch.from_numpy(loop.source.inputs.array[loop.rows]).to(loop.device)


def test_an_update_descends_the_weighted_loss_of_a_coreset(make_network_problem):
    loop, epochs = crest(make_network_problem, budget=0.1)
    module = loop.learner.module
    for each in module.modules():
        if isinstance(each, nn.Dropout):
            each.p = 0.0
    before = {name: value.clone() for name, value in module.named_parameters()}
    start = Loop(loop.method, make_network_problem()[0], None).learner.module
    step = loop.train(next(epochs))
    share = step.sample_weight.cpu()
    (places,) = share.nonzero().T
    assert len(places) == 16
    torch.testing.assert_close(share * 96, (share * 96).round())
    start.train()
    for each in start.modules():
        if isinstance(each, nn.Dropout):
            each.p = 0.0
    losses = cross_entropy(
        start(inputs_of(loop)[places]), loop.labels[places].to(loop.device), reduction="none"
    )
    gradients = torch.autograd.grad((share[places].to(losses) * losses).sum(), start.parameters())
    for (name, old), gradient in zip(before.items(), gradients, strict=True):
        torch.testing.assert_close(
            dict(module.named_parameters())[name], old - 0.1 * gradient, rtol=1e-4, atol=1e-6
        )


def test_rho_is_how_far_the_local_model_is_from_a_random_subset(make_network_problem):
    loop, epochs = crest(make_network_problem, gradient_decay=0.0, curvature_decay=0.0)
    epoch, module = next(epochs), loop.learner.module
    next(epoch.batches.rounds)
    kept = loop.kept
    module.eval()
    weight = torch.zeros(96).index_add_(0, kept["members"], kept["weight"].float())
    assert float(weight.sum()) == pytest.approx(5)

    def losses():
        labels = loop.labels.to(loop.device)
        return cross_entropy(module(inputs_of(loop)), labels, reduction="none")

    start = losses().mean().item()
    parameters = list(module.parameters())
    gradients = torch.autograd.grad((weight.to(loop.device) / 5) @ losses(), parameters)
    gradient = torch.cat([each.flatten() for each in gradients]).cpu()
    torch.testing.assert_close(kept["gradients"], gradient, rtol=1e-4, atol=1e-6)
    delta = 0.05 * torch.randn(len(gradient), generator=torch.Generator().manual_seed(0))
    predicted = start + float(delta @ gradient + 0.5 * kept["squares"].sqrt() @ delta.square())
    with torch.no_grad():
        for part, each in zip(
            delta.split([each.numel() for each in parameters]), parameters, strict=True
        ):
            each += part.view_as(each).to(each)
    reached = losses().mean().item()
    next(epoch.batches.rounds)
    rho = abs(predicted - reached) / reached
    assert f"looks at the model: 1, rho {rho:.3f} at the last." in epoch.note()


def test_coresets_are_renewed_where_rho_is_above_tau(make_network_problem):
    for tau, renewals in ((10.0, 0), (1e-9, 6)):
        loop, epochs = crest(make_network_problem, tau=tau, budget=1.0, steps=3)
        loop.train(next(epochs))
        members = loop.kept["members"]
        # However small the curvature was at first, one step is the least.
        loop.kept["first_norm"] = torch.tensor(0.0)
        epoch = next(epochs)
        loop.train(epoch)
        assert f"new choices of coresets: {renewals}; looks at the model: 6," in epoch.note()
        assert torch.equal(members, loop.kept["members"]) == (renewals == 0)


def test_a_flatter_loss_is_looked_at_less_often(make_network_problem):
    loop, epochs = crest(make_network_problem, tau=1e-9, budget=1.0, h=2.0, steps=2)
    loop.train(next(epochs))
    loop.kept["left"] = torch.tensor(0)
    made = 1 - loop.method.curvature_decay ** int(loop.kept["models"])
    loop.kept["first_norm"] = 1.5 * (loop.kept["squares"] / made).sqrt().norm()
    batches = next(next(epochs).batches.rounds)
    assert (len(batches), int(loop.kept["period"])) == (3, 3)
    assert int(loop.kept["coreset"].max()) == 5 * 3 - 1


@pytest.mark.parametrize(
    ("learned", "window", "stay"), [(0, 1, True), (99, 1, False), (99, 50, True)]
)
def test_learned_samples_are_left_out_but_for_a_batch(learned, window, stay, make_network_problem):
    loop, epochs = crest(
        make_network_problem, learned=learned, window=window, subset=0.01, steps=2, budget=1.0
    )
    active = torch.ones(96, dtype=torch.bool)
    for _ in range(2):
        epoch = next(epochs)
        loop.train(epoch)
        assert not bool((loop.kept["active"] & ~active).any())
        active = loop.kept["active"]
    assert f"{96 - int(active.sum())} of 96 samples are left out" in epoch.note()
    assert (int(active.sum()) == 96) == stay
    assert int(active.sum()) >= 16
