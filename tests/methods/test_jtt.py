from dataclasses import replace

import numpy as np
import pytest
import torch

from gsr_core.data.problem import Rows
from gsr_core.methods.crossfit import crossfitted_logits, draw_folds
from gsr_core.methods.inner import InnerProblem
from gsr_core.methods.jtt import JTT


def one(method, problem):
    (step,) = method.iterate(problem)
    return step


def assert_counts(step, wrong, up):
    relative = step.sample_weight / step.sample_weight.min()
    expected = torch.where(wrong, up, 1.0).to(relative)
    torch.testing.assert_close(relative, expected)
    assert step.note.startswith(f"{int(wrong.sum())} of {len(wrong)} samples were misclassified by")


@pytest.fixture
def shortcut_head(make_problem):
    """A problem whose backbone follows the attribute alone."""
    problem, test = make_problem(n=300, n_target=300)
    weight = problem.weighted.features.new_zeros(2, 6)
    weight[1, 1] = 1.0
    return replace(problem, backbone_head=(weight, weight.new_zeros(2))), test


@pytest.mark.parametrize("up", [1.0, 7.0, 50.0])
def test_what_counts_is_exactly_what_the_backbone_gets_wrong(shortcut_head, up):
    problem, _ = shortcut_head
    rows = problem.weighted
    wrong = (rows.features[:, 1] > 0) != (rows.labels == 1)
    step = one(JTT(identify="backbone", up=up), problem)
    assert_counts(step, wrong, up)
    assert "the backbone's own head" in step.note


def test_what_counts_is_exactly_what_an_early_head_gets_wrong(make_problem):
    problem, _ = make_problem(n_classes=3)
    rows = problem.weighted
    inner = InnerProblem(problem, rows, l2=5.0, standardise=True)
    logits = inner.step(inner.uniform()).head.logits(rows.features)
    wrong = logits.argmax(dim=1) != rows.labels
    assert 0 < int(wrong.sum()) < len(wrong)
    assert_counts(one(JTT(identify="early", early_l2=5.0, up=9), problem), wrong, 9.0)


@pytest.mark.parametrize("identify", ["crossfit", "backbone"])
def test_what_counts_is_exactly_what_cross_fitted_heads_get_wrong(make_problem, identify):
    problem, _ = make_problem(n_classes=3)
    rows = problem.weighted
    fold = draw_folds(rows, 4, np.random.default_rng(3))
    inner = InnerProblem(problem, rows, l2=0.01, standardise=True)
    wrong = crossfitted_logits(inner, fold).argmax(dim=1) != rows.labels
    step = one(JTT(identify=identify, folds=4, seed=3, up=9), problem)
    assert_counts(step, wrong, 9.0)
    assert "heads that did not learn from them" in step.note


def test_counting_a_sample_many_times_is_having_as_many_copies(shortcut_head):
    problem, _ = shortcut_head
    rows = problem.weighted
    wrong = (rows.features[:, 1] > 0) != (rows.labels == 1)
    times = torch.where(wrong, 4, 1)
    index = torch.arange(len(rows), device=times.device).repeat_interleave(times)
    assert len(index) == len(rows) + 3 * int(wrong.sum())
    copies = Rows(rows.features[index], rows.labels[index], rows.groups[index], np.arange(1))
    inner = InnerProblem(problem, copies, l2=0.01, standardise=False)
    head = inner.step(inner.uniform()).head
    step = one(JTT(identify="backbone", up=4, standardise=False), problem)
    torch.testing.assert_close(step.head.weight, head.weight, rtol=1e-5, atol=1e-7)


def test_a_first_head_without_errors_leaves_all_weights_equal(make_problem):
    problem, _ = make_problem()
    weight = problem.weighted.features.new_zeros(2, 6)
    labels = torch.zeros_like(problem.weighted.labels)
    problem = replace(
        problem,
        weighted=replace(problem.weighted, labels=labels),
        backbone_head=(weight, weight.new_tensor([1.0, 0.0])),
    )
    step = one(JTT(identify="backbone"), problem)
    assert_counts(step, labels == 1, 1.0)


def test_the_worst_group_gains(shortcut_head):
    problem, test = shortcut_head
    plain, twice = one(JTT(up=1), problem), one(JTT(up=20), problem)
    minority = test.groups[:, 1] | test.groups[:, 2]

    def accuracy(step):
        right = step.head.logits(test.features).argmax(dim=1) == test.labels
        return float(right[minority].double().mean())

    assert accuracy(twice) > accuracy(plain) + 0.1
