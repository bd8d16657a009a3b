from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from gsr_core.data.problem import Rows
from gsr_core.inference.references import (
    STEP_SIZE,
    early_heads,
    fitted_head,
    logits_of_splits,
    reference_head,
)


def scaled(features):
    centred = features - features.mean(dim=0)
    return centred / centred.square().mean().sqrt()


def test_early_heads_are_plain_gradient_descent_from_zero(blobs):
    features = blobs.weighted.features.double()
    centred = scaled(features)
    design = torch.cat([centred, torch.ones(len(centred), 1, dtype=torch.float64)], dim=1)
    largest = torch.linalg.eigvalsh(design.T @ design / len(design))[-1] / 2
    theta = torch.zeros(4, 2, dtype=torch.float64, requires_grad=True)
    labels = blobs.weighted.labels
    for head in early_heads(blobs, [1, 2, 3]):
        loss = cross_entropy(design @ theta, labels)
        (gradient,) = torch.autograd.grad(loss, theta)
        theta = (theta - STEP_SIZE / largest * gradient).detach().requires_grad_()
        found = head.logits(blobs.weighted.features.double())
        # The largest curvature is estimated, to about a thousandth.
        torch.testing.assert_close(found, design @ theta.detach(), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("n", [3, 120])
def test_a_fitted_head_is_the_one_of_least_penalised_loss(blobs, n):
    """With fewer rows than columns, and with more; the penalty acts on the scaled features."""
    rows = blobs.weighted
    few = Rows(rows.features[:n], rows.labels[:n], rows.groups[:n], rows.position[:n])
    head = fitted_head(blobs, few, l2=1e-3)
    features = few.features.double()
    mean = features.mean(dim=0)
    spread = (features - mean).square().mean().sqrt()
    weight = (head.weight * spread).requires_grad_()
    bias = (head.bias + head.weight @ mean).requires_grad_()
    logits = scaled(features) @ weight.T + bias
    penalty = 1e-3 * (weight.square().sum() + bias.square().sum())
    for gradient in torch.autograd.grad(
        cross_entropy(logits, few.labels) + penalty, (weight, bias)
    ):
        assert gradient.abs().max() < 1e-7


def test_the_unit_of_the_features_does_not_matter(blobs):
    def logits(unit):
        rows = replace(blobs.weighted, source=unit * blobs.weighted.features)
        problem = replace(blobs, weighted=rows)
        heads = [fitted_head(problem, rows, l2=0.1), *early_heads(problem, [1, 4])]
        return torch.stack([head.logits(rows.features.double()) for head in heads])

    torch.testing.assert_close(logits(1e3), logits(1.0), rtol=1e-5, atol=1e-6)


def test_an_early_head_follows_the_shortcut_and_a_converged_one_the_class(blobs):
    """The class is as clear as the shortcut, but the shortcut shows in three columns."""
    rows = blobs.weighted
    shortcut = (rows.features[:, 1:2] > 3).float()
    features = torch.cat([rows.labels[:, None].float(), shortcut.expand(-1, 3)], dim=1)
    problem = replace(blobs, weighted=replace(rows, source=features))
    splits = {"target": blobs.target, "val": blobs.val}
    none = {split: replace(each, source=features[:0]) for split, each in splits.items()}
    problem = replace(problem, **none)
    for reference, followed in (("early", shortcut[:, 0]), ("converged", rows.labels)):
        head = reference_head(problem, reference, l2=1e-4)
        predicted = logits_of_splits(problem, head)["weighted"].argmax(axis=1)
        np.testing.assert_array_equal(predicted, followed.cpu().numpy())


def test_the_backbones_own_head_is_taken_where_there_is_one(blobs):
    early = reference_head(blobs, "early")
    assert torch.equal(reference_head(blobs, "backbone").weight, early.weight)
    own = (torch.ones(2, 3), torch.zeros(2))
    assert reference_head(replace(blobs, backbone_head=own), "backbone").weight is own[0]
