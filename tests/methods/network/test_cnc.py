"""Correct-n-contrast, against loops over rows."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from gsr_core.errors import SettingError
from gsr_core.methods.fit import fit
from gsr_core.methods.network.cnc import Parts, contrastive_loss
from gsr_core.methods.network.loop import Batch, Loop
from gsr_core.methods.registry import make_method

GROUPS = ["a", "b", "c", "d"]


def drawn(n=17, n_classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    labels, bias = torch.randint(n_classes, (2, n), generator=generator)
    return features, labels, bias


def plain_loss(features, labels, bias, temperature):
    """The loss by its definition, one anchor and one pair after another."""
    losses = []
    for i, j in itertools.product(range(len(labels)), repeat=2):
        positive = [k for k in range(len(labels)) if labels[k] == labels[i] and bias[k] != bias[i]]
        negative = [k for k in range(len(labels)) if labels[k] != labels[i] and bias[k] == bias[i]]
        if not positive or not negative or j not in positive:
            continue

        def weight(k, i=i):
            return torch.exp(cosine_similarity(features[i], features[k], dim=0) / temperature)

        total = sum(weight(k) for k in positive + negative)
        losses.append((i, -torch.log(weight(j) / total)))
    anchors = {i for i, _ in losses}
    means = [torch.stack([loss for k, loss in losses if k == i]).mean() for i in anchors]
    return torch.stack(means).mean()


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_loss_and_its_gradient_are_those_of_plain_loops(temperature, compute):
    features, labels, bias = drawn()
    ours, plain = (features.clone().requires_grad_() for _ in range(2))
    expected = plain_loss(plain, labels, bias, temperature)
    on = (each.to(compute.device) for each in (labels, bias))
    found = contrastive_loss(ours.to(compute.device, compute.accumulate_dtype), *on, temperature)
    torch.testing.assert_close(found.detach().cpu(), expected.detach(), check_dtype=False)
    (slope,), (expected_slope,) = (
        torch.autograd.grad(loss, [each]) for loss, each in ((found, ours), (expected, plain))
    )
    torch.testing.assert_close(slope, expected_slope)


def test_the_loss_falls_as_positives_approach_and_negatives_part():
    labels, bias = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0])

    def loss(to_positive, to_negative, length=1.0):
        angle = torch.tensor([0.0, to_positive, to_negative], dtype=torch.float64)
        places = torch.stack([angle.cos(), angle.sin()], dim=1)
        # Only directions count.
        return float(contrastive_loss(length * places, labels, bias, 0.5))

    near, far = (math.exp(math.cos(angle) / 0.5) for angle in (0.3, 1.2))
    assert loss(0.3, 1.2) == pytest.approx(-math.log(near / (near + far)))
    assert loss(0.3, 1.2, length=7.0) == pytest.approx(loss(0.3, 1.2))
    assert loss(0.1, 1.2) < loss(0.3, 1.2) < loss(0.3, 0.9)


def test_without_an_anchor_there_is_no_loss_and_no_slope():
    features = torch.randn(4, 3, requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1])
    loss = contrastive_loss(features, labels, labels, 0.1)
    assert loss.item() == 0
    loss.backward()
    assert features.grad.abs().max() == 0


def parts_of(n=60, seed=3):
    _, labels, predicted = drawn(n, 3, seed)
    # Class 2 is always right and what no other is taken for.
    predicted = torch.where(labels == 2, 2, predicted % 2)
    return Parts(labels.numpy(), predicted.numpy())


def test_batches_have_anchors_of_a_class_and_what_is_contrasted_with_them():
    parts = parts_of()
    assert parts.contrasted == [0, 1]
    right = parts.labels == parts.predicted
    for batch in parts.batches(50, 10, np.random.default_rng(0)):
        assert len(batch) == 10
        anchors, positives, negatives, opposed = np.split(batch, [3, 6, 8])
        (label,) = np.unique(parts.labels[anchors])
        assert right[anchors].all()
        assert (parts.labels[positives] == label).all()
        assert (parts.labels[[*negatives, *opposed]] != label).all()
        if label == 2:
            continue  # Others stand in.
        assert not right[positives].any()
        assert (parts.predicted[negatives] == label).all()
        assert set(parts.predicted[opposed]) <= set(
            parts.predicted[~right & (parts.labels == label)]
        )


def test_a_rows_probability_is_how_often_it_is_drawn():
    parts = parts_of()
    probability = parts.probability(10)
    assert probability.sum() == pytest.approx(1)
    # Anchors have a class as often as the class has rows that were right.
    right = parts.labels[parts.labels == parts.predicted]
    share = np.bincount(right) / len(right)
    expected = np.zeros(60)
    for row, label in itertools.product(range(60), range(3)):
        for rows, size in zip(parts.of(label), (3, 3, 2, 2), strict=True):
            expected[row] += share[label] * size / 10 * (row in rows) / len(rows)
    np.testing.assert_allclose(probability, expected, rtol=1e-12)
    batches = parts.batches(4000, 10, np.random.default_rng(1))
    drawn_share = np.bincount(np.concatenate(batches), minlength=60) / 40_000
    assert np.abs(drawn_share - probability).max() < 5 * np.sqrt(probability.max() / 4000)


def test_a_batch_descends_both_losses_by_their_shares(make_network_problem):
    problem, _ = make_network_problem()
    plain = {"optimiser": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}
    settings = {"first_epochs": 1, "steps": 2, "contrast": 0.3, "temperature": 0.5}
    method = make_method("network_cnc", {**plain, **settings, "batch_size": 12})
    first = next(method.iterate(problem))
    loop = Loop(method, problem, first.checkpoint)
    epoch = next(method.epochs(loop))
    module, places = loop.learner.module.eval(), torch.from_numpy(epoch.batches[0])
    inputs = torch.from_numpy(problem.network.inputs.array[places]).to(loop.device)
    labels = loop.labels[places].to(loop.device)
    bias = loop.kept["predicted"][places]
    before = [each.detach().clone() for each in module.parameters()]
    features = module[:-1](inputs)
    apart = plain_loss(features, labels.cpu(), bias, 0.5)
    loss = torch.nn.functional.cross_entropy(module(inputs), labels)
    slopes = torch.autograd.grad(0.3 * apart + 0.7 * loss, list(module.parameters()))
    assert epoch.update(Batch(inputs, labels, places)).item() == pytest.approx(loss.item())
    for start, slope, now in zip(before, slopes, module.parameters(), strict=True):
        torch.testing.assert_close(now, start - 0.1 * slope, rtol=1e-4, atol=1e-6)


def test_what_cannot_be_contrasted_is_refused(make_network_problem):
    problem, _ = make_network_problem()
    with pytest.raises(SettingError, match=r"batch_size is 3; network_cnc needs 4 or more"):
        fit(make_method("network_cnc", {"optimiser": "sgd", "batch_size": 3}), problem, GROUPS)
    method = make_method("network_cnc", {"first_epochs": 1, "steps": 2})
    checkpoint = dict(next(method.iterate(problem)).checkpoint)
    checkpoint["kept.predicted"] = problem.weighted.labels.cpu()
    with pytest.raises(SettingError, match=r"got 0 of 96 rows wrong, and in no class some right"):
        next(method.epochs(Loop(method, problem, checkpoint)))
