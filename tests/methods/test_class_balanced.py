from dataclasses import replace

import pytest
import torch

from gsr_core.data.problem import Rows
from gsr_core.methods.class_balanced import ClassBalanced, class_balanced_weight
from gsr_core.methods.llr import LLR


def only(method, problem):
    (step,) = method.iterate(problem)
    return step


def repeated(rows: Rows, copies: torch.Tensor) -> Rows:
    index = torch.repeat_interleave(torch.arange(len(rows), device=copies.device), copies)
    return Rows(
        rows.features[index], rows.labels[index], rows.groups[index], rows.position[index.cpu()]
    )


def uneven(problem):
    """The problem with three rows of class 0 and all others of class 1."""
    rows = problem.weighted
    keep = rows.labels == 1
    keep[torch.nonzero(rows.labels == 0)[:3, 0]] = True
    position = rows.position[keep.cpu().numpy()]
    kept = Rows(rows.features[keep], rows.labels[keep], rows.groups[keep], position)
    return replace(problem, weighted=kept)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_every_class_has_the_same_mass_and_its_rows_the_same_weight(make_problem, n_classes):
    problem, _ = make_problem(n_classes=n_classes)
    labels = problem.weighted.labels
    step = only(ClassBalanced(), problem)
    for label in range(n_classes):
        mine = step.sample_weight[labels == label]
        assert float(mine.sum()) == pytest.approx(1 / n_classes)
        # n / (K n_y), divided by n.
        assert mine.tolist() == pytest.approx([1 / (n_classes * len(mine))] * len(mine))


def test_a_class_without_rows_takes_no_mass():
    weight = class_balanced_weight(torch.tensor([0, 0, 0, 3]), torch.zeros((), dtype=torch.float64))
    assert weight.tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])


def test_it_is_the_plain_fit_on_copies_that_balance_the_classes(make_problem):
    problem = uneven(make_problem()[0])
    labels = problem.weighted.labels
    ones = int((labels == 1).sum())
    copies = torch.where(labels == 0, ones, 3)
    doubled = replace(problem, weighted=repeated(problem.weighted, copies))
    weighted = only(ClassBalanced(standardise=False), problem)
    plain = only(LLR(standardise=False), doubled)
    torch.testing.assert_close(weighted.head.weight, plain.head.weight, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(weighted.head.bias, plain.head.bias, rtol=1e-6, atol=1e-7)


def test_equal_classes_give_the_plain_fit(make_problem):
    problem, _ = make_problem()
    rows = problem.weighted
    fewest = int(rows.labels.bincount().min())
    index = torch.cat([torch.nonzero(rows.labels == label)[:fewest, 0] for label in range(2)])
    kept = Rows(*(each[index] for each in (rows.features, rows.labels, rows.groups)), index.cpu())
    problem = replace(problem, weighted=kept)
    balanced, plain = only(ClassBalanced(), problem), only(LLR(), problem)
    torch.testing.assert_close(balanced.head.weight, plain.head.weight, rtol=1e-7, atol=1e-9)


def test_the_note_says_how_often_samples_count(make_problem):
    problem = uneven(make_problem()[0])
    n = len(problem.weighted)
    note = only(ClassBalanced(), problem).note
    assert f"the largest class count {n / (2 * (n - 3)):.3g} times" in note
    assert f"the smallest {n / 6:.3g} times" in note
