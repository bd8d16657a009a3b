"""Contrasts, against loops over anchors, and the batches in which rows meet."""

import numpy as np
import pytest
import torch

from gsr_core.data.problem import Rows
from gsr_core.methods.contrast import alike, contrast, group_batches


def drawn(a=11, b=17, seed=0):
    generator = torch.Generator().manual_seed(seed)
    similarity = 3 * torch.randn(a, b, generator=generator, dtype=torch.float64)
    kind = torch.randint(4, (a, b), generator=generator)
    return similarity, kind == 0, kind == 1


def plain(similarity, positive, negative):
    """The loss by its definition, one anchor and one positive after another."""
    losses = []
    for i in range(len(similarity)):
        own = [j for j in range(similarity.shape[1]) if positive[i, j]]
        others = [j for j in range(similarity.shape[1]) if negative[i, j]]
        if own and others:
            total = sum(similarity[i, j].exp() for j in own + others)
            losses.append(sum(-(similarity[i, p].exp() / total).log() for p in own) / len(own))
    return sum(losses) / len(losses), len(losses)


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_and_its_gradient_are_those_of_a_loop(seed):
    similarity, positive, negative = drawn(seed=seed)
    positive[3], negative[5] = False, False
    one, two = (similarity.clone().requires_grad_() for _ in range(2))
    loss, anchors, _ = contrast(one, positive, negative)
    expected, count = plain(two, positive, negative)
    assert int(anchors) == count < len(similarity)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, one), torch.autograd.grad(expected, two))


def test_the_order_of_rows_and_a_constant_in_all_similarities_change_nothing():
    similarity, positive, negative = drawn()
    whole = contrast(similarity, positive, negative)
    rows, columns = (
        torch.randperm(n, generator=torch.Generator().manual_seed(1)) for n in (11, 17)
    )
    moved = [each[rows][:, columns] for each in (similarity, positive, negative)]
    torch.testing.assert_close(contrast(*moved), whole)
    torch.testing.assert_close(contrast(similarity + 40, positive, negative), whole)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_no_anchor_is_below_the_log_of_its_positives_and_equal_ones_far_ahead_tend_to_it(count):
    floor = np.log(count)
    positive = torch.arange(9) < count
    for seed in range(20):
        similarity = drawn(1, 9, seed)[0]
        assert contrast(similarity, positive[None], ~positive[None]).loss >= floor
    gaps = []
    for ahead in (1.0, 5.0, 40.0):
        similarity = torch.where(positive, ahead, 0.0).double()[None]
        gaps.append(float(contrast(similarity, positive[None], ~positive[None]).loss) - floor)
    assert gaps[0] > gaps[1] > gaps[2] >= -1e-12
    assert gaps[2] < 1e-12


def test_a_row_without_a_positive_or_a_negative_has_no_part():
    similarity, positive, negative = drawn()
    loss, anchors, _ = contrast(similarity, positive, negative)
    more = torch.cat([similarity, 9 + similarity[:2]]).requires_grad_()
    nothing = torch.zeros(1, 17, dtype=torch.bool)
    positive = torch.cat([positive, nothing, ~nothing])
    negative = torch.cat([negative, ~nothing, nothing])
    found = contrast(more, positive, negative)
    assert int(found.anchors) == int(anchors)
    torch.testing.assert_close(found.loss, loss)
    (slope,) = torch.autograd.grad(found.loss, more)
    assert not slope[-2:].any()
    # Nobody is an anchor: no loss, and none that is not a number.
    assert contrast(more, positive & False, negative).loss == 0


def test_rows_of_a_group_are_positives_and_rows_of_none_are_nothing():
    positive, negative = alike(torch.tensor([1, 1, -1, 0, -1]))
    assert positive.nonzero().tolist() == [[0, 1], [1, 0]]
    assert negative.nonzero().tolist() == [[0, 3], [1, 3], [3, 0], [3, 1]]


def rows_at(position):
    n = len(position)
    nothing = torch.zeros(n, 1, dtype=torch.bool)
    return Rows(torch.zeros(n, 1), torch.zeros(n, dtype=torch.int64), nothing, position)


@pytest.mark.parametrize("size", [4, 16, 50, 1000])
def test_every_row_comes_once_and_every_group_in_each_batch_while_it_lasts(size):
    group = np.repeat([-1, 0, 1, 2, 3], [3, 300, 40, 9, 1])
    rows = rows_at(np.arange(len(group)))
    batches = group_batches(rows, group, size, np.random.default_rng(0))
    assert sorted(np.concatenate(batches)) == list(range(len(group)))
    number = -(-len(group) // size)
    assert len(batches) == number
    counts = np.array([[(group[batch] == g).sum() for g in range(4)] for batch in batches])
    # In pairs at least, since a row that is alone in its batch is nobody's positive.
    many = np.minimum(number, np.maximum(np.bincount(group[3:]) // 2, 1))
    assert ((counts > 0).sum(axis=0) == many).all()
    assert (counts[:, :3][counts[:, :3] > 0] >= 2).all()
    sizes = [len(batch) for batch in batches]
    assert max(sizes) - min(sizes) <= 5


def test_batches_belong_to_the_samples_and_another_generator_draws_others():
    group = np.repeat([0, 1], [50, 14])
    position = np.arange(64) + 100
    order = np.random.default_rng(5).permutation(64)

    def in_bundle(order, seed):
        moved = rows_at(position[order])
        batches = group_batches(moved, group[order], 16, np.random.default_rng(seed))
        return [sorted(moved.position[batch]) for batch in batches]

    assert in_bundle(np.arange(64), 1) == in_bundle(order, 1)
    assert in_bundle(np.arange(64), 1) != in_bundle(np.arange(64), 2)
