from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gsr_core.data.problem import Rows
from gsr_core.methods.llr import LLR
from gsr_core.methods.subg import SUBG, balanced_subset


def rows_in(groups, position=None) -> Rows:
    groups = torch.as_tensor(groups, dtype=torch.bool)
    n = len(groups)
    position = np.arange(n) if position is None else position
    return Rows(torch.zeros(n, 1), torch.zeros(n, dtype=torch.int64), groups, position)


@given(st.lists(st.integers(-1, 4), min_size=1, max_size=60), st.integers(0, 9))
def test_subsets_are_balanced_and_draw_no_row_twice(index, seed):
    index = np.array([0, 1, 2, 4, *index])
    groups = index[:, None] == np.arange(6)
    drawn = balanced_subset(rows_in(groups), np.random.default_rng(seed))
    count = groups.sum(axis=0)
    size = count[count > 0].min()
    assert set(drawn) <= {0, 1}
    # Groups 3 and 5 may be empty and rows of -1 are in none; both are passed over.
    assert (drawn @ groups == np.where(count > 0, size, 0)).all()
    assert drawn.sum() == (count > 0).sum() * size


def test_a_row_that_two_groups_draw_counts_for_both():
    groups = np.array([[True, True], [True, False], [False, True]])
    counts = [
        balanced_subset(rows_in(groups), np.random.default_rng(seed)).tolist() for seed in range(9)
    ]
    assert [2, 1, 1] in counts
    for drawn in counts:
        assert (np.array(drawn) <= groups.sum(axis=1)).all()


def test_every_row_of_a_group_is_equally_likely():
    groups = np.zeros((12, 2), dtype=bool)
    groups[:3, 0] = groups[3:, 1] = True
    draws = [balanced_subset(rows_in(groups), np.random.default_rng(seed)) for seed in range(1500)]
    share = np.mean(draws, axis=0)
    assert (share[:3] == 1).all()
    # Three of nine; the deviation of a share is 0.012.
    assert share[3:] == pytest.approx(np.full(9, 1 / 3), abs=0.06)


def test_the_draw_follows_the_samples_into_another_order():
    groups = np.random.default_rng(0).random((40, 3)) < 0.4
    order = np.random.default_rng(1).permutation(40)
    one = balanced_subset(rows_in(groups), np.random.default_rng(5))
    two = balanced_subset(rows_in(groups[order], order), np.random.default_rng(5))
    assert (one[order] == two).all()


@pytest.mark.parametrize("n_classes", [2, 3])
def test_it_is_the_plain_fit_on_the_rows_that_were_drawn(make_problem, n_classes):
    problem, _ = make_problem(n_classes=n_classes)
    (step,) = SUBG(standardise=False, seed=4).iterate(problem)
    rows = problem.weighted
    chosen = step.sample_weight > 0
    size = int(rows.groups.sum(dim=0).min())
    assert int(chosen.sum()) == 2 * n_classes * size
    expected = torch.full_like(step.sample_weight[chosen], 1 / (2 * n_classes * size))
    torch.testing.assert_close(step.sample_weight[chosen], expected)
    assert step.note == f"{2 * n_classes * size} of 80 samples were drawn."
    alone = Rows(
        rows.features[chosen],
        rows.labels[chosen],
        rows.groups[chosen],
        rows.position[chosen.cpu().numpy()],
    )
    (plain,) = LLR(standardise=False).iterate(replace(problem, weighted=alone))
    torch.testing.assert_close(step.head.weight, plain.head.weight, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(step.head.bias, plain.head.bias, rtol=1e-6, atol=1e-7)


def test_another_seed_draws_another_subset(make_problem):
    problem, _ = make_problem()
    one, two = (next(SUBG(seed=seed).iterate(problem)).sample_weight for seed in (0, 1))
    assert not torch.equal(one, two)
