from dataclasses import replace

import numpy as np
import torch

from gsr_core.data.problem import Rows
from gsr_core.methods.crossfit import crossfitted_logits, draw_folds
from gsr_core.methods.inner import InnerProblem


def drawn(rows, n_folds=4, seed=1):
    return draw_folds(rows, n_folds, np.random.default_rng(seed))


def test_every_fold_has_its_share_of_every_class(make_problem):
    rows = make_problem(n=101, n_classes=3)[0].weighted
    fold, labels = drawn(rows), rows.labels.cpu().numpy()
    for label in range(3):
        counts = np.bincount(fold[labels == label], minlength=4)
        assert counts.max() - counts.min() <= 1
    assert not np.array_equal(fold, drawn(rows, seed=2))


def test_folds_belong_to_the_samples_and_not_to_their_places(make_problem, with_order):
    problem, _ = make_problem()
    order = torch.randperm(80, generator=torch.Generator().manual_seed(3))
    moved = with_order(problem, order).weighted
    np.testing.assert_array_equal(drawn(problem.weighted)[order.numpy()], drawn(moved))


def test_no_row_is_judged_by_a_head_that_learned_from_it(make_problem):
    problem, _ = make_problem(n_classes=3)
    rows = problem.weighted
    fold = drawn(rows)
    # Without standardising, leaving rows out changes nothing but the rows.
    inner = InnerProblem(problem, rows, l2=0.01, standardise=False)
    logits = crossfitted_logits(inner, fold)
    for number in range(4):
        out = torch.from_numpy(fold == number).to(rows.labels.device)
        rest = Rows(rows.features[~out], rows.labels[~out], rows.groups[~out], np.arange(len(out)))
        alone = InnerProblem(problem, rest, l2=0.01, standardise=False)
        head = alone.step(alone.uniform()).head
        expected = head.logits(rows.features[out].to(logits))
        torch.testing.assert_close(logits[out], expected, rtol=1e-5, atol=1e-6)


def test_a_class_that_is_one_row_does_not_stop_it(make_problem):
    problem, _ = make_problem()
    labels = torch.zeros_like(problem.weighted.labels)
    labels[0] = 1
    rows = replace(problem.weighted, labels=labels)
    inner = InnerProblem(problem, rows, l2=0.01, standardise=True)
    assert crossfitted_logits(inner, drawn(rows)).isfinite().all()
