from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from gsr_core.inference.eiil import EIILInference, loss_by_scale, penalty, search


@pytest.fixture
def scored():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(60, 3, generator=generator, dtype=torch.float64)
    return logits, torch.randint(3, (60,), generator=generator)


def test_the_derivative_by_a_factor_on_the_logits_is_autograds(scored):
    logits, labels = scored
    factor = torch.ones(60, dtype=torch.float64, requires_grad=True)
    losses = cross_entropy(factor[:, None] * logits, labels, reduction="sum")
    (expected,) = torch.autograd.grad(losses, factor)
    torch.testing.assert_close(loss_by_scale(logits, labels), expected)


def test_the_penalty_is_that_of_the_two_environments_mean_losses(scored):
    logits, labels = scored
    soft = torch.rand(60, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = 0.0
    for share in (soft, 1 - soft):
        factor = torch.ones((), dtype=torch.float64, requires_grad=True)
        loss = (share * cross_entropy(factor * logits, labels, reduction="none")).mean()
        expected += torch.autograd.grad(loss, factor)[0].square() / 2
    found = penalty(loss_by_scale(logits, labels), soft[None])
    torch.testing.assert_close(found[0], expected)


def test_the_planted_assignment_beats_random_ones_and_flipping_it_changes_nothing(scored):
    derivative = loss_by_scale(*scored)
    planted = (derivative > 0).double()[None]
    drawn = torch.rand(50, 60, generator=torch.Generator().manual_seed(2)).double().round()
    assert (penalty(derivative, planted) > 1.5 * penalty(derivative, drawn)).all()
    torch.testing.assert_close(penalty(derivative, 1 - drawn), penalty(derivative, drawn))


def test_the_search_climbs_as_the_gradient_says_and_reaches_the_maximum(scored):
    derivative = loss_by_scale(*scored)
    start = torch.randn(4, 60, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    # Adam's first step has the sign of the gradient.
    moved = search(derivative, start, steps=1, lr=1e-3).logit()
    leaf = start.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(penalty(derivative, leaf.sigmoid()).sum(), leaf)
    assert torch.equal((moved - start).sign(), gradient.sign())

    best = penalty(derivative, (derivative > 0).double()[None])
    reached = penalty(derivative, search(derivative, start, steps=500, lr=0.1))
    torch.testing.assert_close(reached, best.expand(4), rtol=0.02, atol=0)


def test_opposite_starts_give_opposite_environments(scored):
    derivative = loss_by_scale(*scored)
    start = torch.randn(2, 60, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = search(derivative, start, steps=200, lr=0.1)
    opposite = search(derivative, -start, steps=200, lr=0.1)
    torch.testing.assert_close(opposite, 1 - found)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_for_two_classes_the_misclassified_are_split_off_in_every_split(blobs, seed):
    weight = torch.tensor([[0.0, -1, 0], [0, 1, 0]])
    problem = replace(blobs, backbone_head=(weight, torch.tensor([3.0, -3.0])))
    found = EIILInference(seed=seed, reference="backbone").infer(problem)
    assert found.names == (
        "class 0, environment 0",
        "class 0, environment 1",
        "class 1, environment 0",
        "class 1, environment 1",
    )
    for split in ("weighted", "target", "val"):
        rows = getattr(problem, split)
        labels = rows.labels.cpu().numpy()
        predicted = (rows.features[:, 1] > 3).long().cpu().numpy()
        expected = 2 * labels + (predicted != labels)
        np.testing.assert_array_equal(getattr(found, split), expected)
    assert "20.0% of the samples into the smaller environment" in found.choice


def test_a_head_that_is_never_wrong_leaves_the_classes_whole(blobs):
    labels = blobs.weighted.labels
    features = torch.stack([-10.0 * labels, 10.0 * labels, labels * 0.0], dim=1)
    head = (torch.tensor([[1.0, 0, 0], [0, 1, 0]]), torch.tensor([5.0, -5.0]))
    problem = replace(blobs, weighted=replace(blobs.weighted, source=features), backbone_head=head)
    found = EIILInference(reference="backbone").infer(problem)
    assert found.names == ("class 0, environment 0", "class 1, environment 0")
    np.testing.assert_array_equal(found.val, blobs.val.labels.cpu().numpy())
