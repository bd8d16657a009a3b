import numpy as np
import pytest
import torch

from gsr_core.linear.head import Head
from gsr_core.metrics import GroupScores, group_scores, wilson_interval, worst_group


@pytest.mark.parametrize(
    ("share", "count", "low", "high"),
    [
        (0.5, 10, 0.236593, 0.763407),
        (0.0, 10, 0.0, 0.277533),
        (1.0, 10, 0.722467, 1.0),
        (0.9, 100, 0.825634, 0.944771),
    ],
)
def test_wilson_intervals_are_the_known_ones(share, count, low, high):
    ends = wilson_interval(share, count)
    np.testing.assert_allclose(ends, (low, high), atol=2e-6)


def test_a_wilson_interval_of_nothing_is_nan():
    low, high = wilson_interval(np.array([np.nan, 0.5]), np.array([0, 4]))
    assert np.isnan([low[0], high[0]]).all()
    assert low[1] < 0.5 < high[1]


def test_scores_are_those_counted_by_hand():
    # Logits are the features; rows 0 and 1 are right, row 2 is wrong, row 3 is in no group.
    head = Head(torch.eye(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
    features = torch.tensor([[2.0, 0], [0, 2], [2, 0], [2, 0]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 1, 0])
    groups = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]], dtype=torch.bool)
    score = group_scores(head, features, labels, groups)
    right, wrong = np.log1p(np.exp(-2)), np.log1p(np.exp(2))
    np.testing.assert_array_equal(score.count, [2, 2, 0])
    np.testing.assert_allclose(score.accuracy, [1, 0.5, np.nan])
    np.testing.assert_allclose(score.loss, [right, (right + wrong) / 2, np.nan])
    assert score.mean_accuracy == 0.75
    assert score.mean_loss == pytest.approx((3 * right + wrong) / 4)
    assert score.worst_group_accuracy == 0.5
    assert score.worst_group_loss == pytest.approx((right + wrong) / 2)
    assert worst_group(score.accuracy) == 1


def test_adjusted_accuracy_needs_shares_and_every_group_that_has_one():
    score = GroupScores(np.array([1, 1, 0]), np.array([1, 0.5, np.nan]), np.zeros(3), 0.75, 0.1)
    assert np.isnan(score.adjusted_accuracy(None))
    assert score.adjusted_accuracy(np.array([0.9, 0.1, 0.0])) == pytest.approx(0.95)
    assert np.isnan(score.adjusted_accuracy(np.array([0.8, 0.1, 0.1])))
