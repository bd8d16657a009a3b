from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from torch.nn.functional import cross_entropy, kl_div

from gsr_core.methods import self_disagreement
from gsr_core.methods.self_disagreement import (
    SelfDisagreement,
    best_scale,
    divergence,
    top_of_each_class,
)


def one(method, problem):
    (step,) = method.iterate(problem)
    return step


def random_logits(n=50, n_classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, n_classes, generator=generator, dtype=torch.float64)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(1, 20))
def test_as_many_of_each_class_are_chosen_and_they_are_its_highest(labels, quota):
    labels = torch.tensor([0, 1, 2, *labels])
    score = random_logits(len(labels))[:, 0]
    chosen = top_of_each_class(score, labels, quota)
    expected = min(quota, int(labels.bincount().min()))
    for label in range(3):
        inside, outside = (score[(labels == label) & side] for side in (chosen, ~chosen))
        assert len(inside) == expected
        assert not len(outside) or inside.min() >= outside.max()


def test_the_divergence_is_that_of_the_softmaxes():
    final, early = random_logits(seed=1), random_logits(seed=2)
    expected = kl_div(
        early.log_softmax(dim=1), final.log_softmax(dim=1), log_target=True, reduction="none"
    ).sum(dim=1)
    torch.testing.assert_close(divergence(final, early), expected)
    assert float(divergence(final, final + 3).abs().max()) < 1e-12


@pytest.mark.parametrize("shrink", [1e-3, 1.0, 50.0])
def test_the_scale_is_the_one_of_lowest_cross_entropy(shrink):
    labels = torch.arange(50) % 3
    logits = random_logits() + torch.eye(3, dtype=torch.float64)[labels]
    logits = shrink * logits
    best = minimize_scalar(
        lambda s: float(cross_entropy(s * logits, labels)),
        bracket=(0.5 / shrink, 1 / shrink),
        tol=1e-10,
    )
    assert best_scale(logits, labels) == pytest.approx(best.x, rel=1e-5)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_head_learns_from_shares_of_a_class_balanced_subset(make_problem, n_classes):
    problem, _ = make_problem(n=200, n_classes=n_classes)
    step = one(SelfDisagreement(points=31), problem)
    chosen = step.sample_weight > 0
    counts = problem.weighted.labels[chosen].bincount(minlength=n_classes)
    assert counts.tolist() == [31 // n_classes] * n_classes
    torch.testing.assert_close(
        step.sample_weight[chosen], torch.full_like(step.sample_weight[chosen], 1 / counts.sum())
    )
    # The others have no say.
    labels = torch.where(chosen, problem.weighted.labels, 0)
    inner = SelfDisagreement().inner(
        replace(problem, weighted=replace(problem.weighted, labels=labels))
    )
    head = inner.step(step.sample_weight).head
    torch.testing.assert_close(step.head.weight, head.weight, rtol=1e-6, atol=1e-8)


def test_minorities_are_over_represented_on_the_shortcut(make_problem):
    problem, _ = make_problem(n=600, d=30, minority=0.08)
    minority = problem.weighted.groups[:, 1] | problem.weighted.groups[:, 2]
    population = float(minority.double().mean())
    step = one(SelfDisagreement(points=40), problem)
    assert float(step.sample_weight[minority].sum()) > 2 * population


def test_without_one_scale_confidence_would_be_what_is_ranked(make_problem):
    # The planted fault: logits shrunk by the penalty, taken as they are.
    problem, _ = make_problem(n=600, d=30, minority=0.08)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(self_disagreement, "best_scale", lambda logits, labels: 1.0)
        step = one(SelfDisagreement(points=40), problem)
    minority = problem.weighted.groups[:, 1] | problem.weighted.groups[:, 2]
    assert float(step.sample_weight[minority].sum()) < float(minority.double().mean())


def test_a_backbone_that_learned_from_other_rows_decides_nothing(make_problem):
    problem, _ = make_problem(n=200)
    step = one(SelfDisagreement(points=40), problem)
    weight = problem.weighted.features.new_zeros(2, 6)
    # It decides by feature 5, which says nothing.
    weight[0, 5], weight[1, 5] = -9.0, 9.0
    other = replace(problem, backbone_head=(weight, weight.new_zeros(2)))
    again = one(SelfDisagreement(points=40), other)
    assert torch.equal(step.sample_weight, again.sample_weight)
    assert "cross-fitted heads and early ones" in step.note
