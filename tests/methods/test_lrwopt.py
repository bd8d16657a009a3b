from itertools import islice

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from gsr_core.methods.lrwopt import LRWOpt, splitter_loss


def take(method, problem, count, checkpoint=None):
    return list(islice(method.iterate(problem, checkpoint), count))


def loss(outputs, right, losses, labels, n_classes=2, **penalties):
    given = {"delta": 0.25, "ratio_penalty": 0.0, "label_penalty": 0.0, **penalties}
    truth = torch.nn.functional.one_hot(torch.tensor(labels), n_classes).double()
    return splitter_loss(
        torch.tensor(outputs, dtype=torch.float64),
        torch.tensor(right),
        torch.tensor(losses, dtype=torch.float64),
        truth,
        **given,
    )


def test_the_splitters_loss_by_hand():
    outputs, right, losses = [0.3, -1.2, 2.0], [True, False, True], [0.1, 2.0, 0.4]
    kept = 1 / (1 + np.exp(-np.array(outputs)))
    entropy = -np.mean([np.log(kept[0]), np.log(1 - kept[1]), np.log(kept[2])])
    judged = entropy - np.mean((1 - kept) * losses)
    assert float(loss(outputs, right, losses, [0, 1, 1])) == pytest.approx(judged)
    share = (1 - kept).mean()
    ratio = share * np.log(share / 0.25) + (1 - share) * np.log((1 - share) / 0.75)
    found = loss(outputs, right, losses, [0, 1, 1], ratio_penalty=2.0)
    assert float(found) == pytest.approx(judged + 2 * ratio)
    label = 0.0
    for side in (kept, 1 - kept):
        classes = np.array([side[0], side[1] + side[2]]) / side.sum()
        label += (classes * np.log(classes / np.array([1 / 3, 2 / 3]))).sum()
    found = loss(outputs, right, losses, [0, 1, 1], label_penalty=3.0)
    assert float(found) == pytest.approx(judged + 3 * label)


def test_a_higher_loss_pulls_a_sample_towards_validation():
    # The term that has no gradient as printed: with it, the slope in the output rises by the loss.
    slopes = []
    for value in (0.0, 5.0):
        outputs = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        total = splitter_loss(
            outputs,
            torch.tensor([True, True]),
            outputs.new_tensor([value, 0.0]).detach(),
            torch.eye(2, dtype=torch.float64),
            delta=0.25,
            ratio_penalty=0.0,
            label_penalty=0.0,
        )
        slopes.append(torch.autograd.grad(total, outputs)[0])
    assert float(slopes[1][0] - slopes[0][0]) == pytest.approx(5 * 0.25 / 2)
    assert slopes[1][1] == slopes[0][1]


def test_a_class_that_nobody_has_adds_nothing():
    two = loss([0.5, -0.5], [True, False], [0.1, 1.0], [0, 1], label_penalty=1.0)
    three = loss([0.5, -0.5], [True, False], [0.1, 1.0], [0, 1], 3, label_penalty=1.0)
    assert float(two) == pytest.approx(float(three))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_validation_never_exceeds_its_share_and_both_sides_have_every_class(
    make_problem, n_classes
):
    problem, _ = make_problem(n=90, n_classes=n_classes)
    labels = problem.weighted.labels
    parts = set()
    for step in take(LRWOpt(delta=0.15, patience=100), problem, 7):
        validation = step.sample_weight == 0
        assert int(validation.sum()) == int(0.15 * 90)
        for side in (validation, ~validation):
            assert set(labels[side].tolist()) == set(range(n_classes))
        assert "weights each loss with its soft share" in step.note
        parts.add(tuple(validation.tolist()))
    assert len(parts) > 2


def test_the_splitter_finds_the_samples_that_conflict_with_the_shortcut(make_problem):
    problem, _ = make_problem(n=400, d=10, minority=0.08)
    minority = problem.weighted.groups[:, 1] | problem.weighted.groups[:, 2]
    steps = take(LRWOpt(patience=100), problem, 15)
    shares = [float(minority[step.sample_weight == 0].double().mean()) for step in steps]
    population = float(minority.double().mean())
    # The first split is a random one.
    assert shares[0] < 2 * population
    assert shares[-1] > 3 * population
    gaps = [float(step.checkpoint["gap"]) for step in steps]
    assert gaps[-1] > gaps[0] + 0.2


def test_it_ends_once_the_gap_has_shrunk_often_enough_in_a_row(make_problem):
    problem, _ = make_problem(n=60)
    few = {"updates": 2, "head_updates": 1, "hidden": 0, "lr": 30.0}
    steps = take(LRWOpt(patience=1000, **few), problem, 30)
    gaps = [float(step.checkpoint["gap"]) for step in steps]
    shrunk = np.diff(gaps) < 0
    for patience in (1, 2):
        runs = [all(shrunk[i : i + patience]) for i in range(len(shrunk) - patience + 1)]
        expected = runs.index(True) + patience + 1
        method = LRWOpt(patience=patience, **few)
        steps = take(method, problem, 30)
        assert len(steps) == expected
        assert not take(method, problem, 1, steps[-1].checkpoint)


@pytest.mark.parametrize("lookahead", ["one_step", "exact"])
def test_a_continued_run_equals_one_long_run_bit_by_bit(make_problem, lookahead):
    problem, _ = make_problem(n=60, d=70)
    if problem.compute.device.type != "cpu":
        pytest.skip("bits are promised on a CPU only")
    method = LRWOpt(lookahead=lookahead, updates=2, patience=100)
    whole = take(method, problem, 5)
    stored = load(save({k: v.contiguous() for k, v in whole[2].checkpoint.items()}))
    for one, two in zip(whole[3:], take(method, problem, 2, stored), strict=True):
        assert torch.equal(one.sample_weight, two.sample_weight)
        assert torch.equal(one.head.weight, two.head.weight)
