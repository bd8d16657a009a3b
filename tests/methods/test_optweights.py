from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from gsr_core.errors import SettingError
from gsr_core.methods.fit import fit
from gsr_core.methods.optweights import OptWeights
from gsr_core.methods.rwg import RWG, group_shares
from gsr_core.metrics import group_scores

NAMES = ["a0", "a1", "b0", "b1", "c0", "c1"]
PLAIN = {"momentum": 0.0, "floor": 0.0, "lr": 0.01}
"""Settings under which the step is the derivative."""


def take(method, problem, count, checkpoint=None):
    return list(islice(method.iterate(problem, checkpoint), count))


def regrouped(problem, split, groups):
    return replace(problem, **{split: replace(getattr(problem, split), groups=groups)})


def target_losses(step, problem):
    rows = problem.target
    return group_scores(step.head, rows.features.double(), rows.labels, rows.groups).loss


def slope_of(step, following, lr):
    """The centred derivative that moved the shares from one step to the next."""
    p = step.group_weight
    slope = (p.log() - following.group_weight.log()) / lr
    return slope - p @ slope


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(("risk", "d"), [("mean", 6), ("dro", 6), ("mean", 120)])
def test_the_shares_move_by_central_differences_of_refits(make_problem, n_classes, risk, d):
    problem, _ = make_problem(n_classes=n_classes, d=d)
    method = OptWeights(risk=risk, dro_rate=2.0, **PLAIN)
    step, following = take(method, problem, 4)[2:]
    inner = method.inner(problem)
    shares, target = group_shares(problem.weighted, inner.basis), inner.scored(problem.target)
    r = torch.full_like(step.group_weight, 0.5 / n_classes)
    if risk == "dro":
        logits = sum(target_losses(each, problem) for each in take(method, problem, 3))
        r = (2 * r.new_tensor(logits)).softmax(dim=0)

    def risk_at(p):
        objective = inner.objective(shares @ (p / p.sum()))
        refit = inner.solver.minimise(objective, inner.zero(), tolerance=1e-13)
        return r @ target.group_means(target.at(refit.state.u).losses)

    p, size = step.group_weight, 1e-4
    moves = torch.eye(len(p)).to(p) * size
    difference = torch.stack([risk_at(p + move) - risk_at(p - move) for move in moves]) / size / 2
    scale = float(difference.abs().max())
    torch.testing.assert_close(
        slope_of(step, following, 0.01), difference, rtol=1e-5, atol=1e-5 * scale
    )


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("risk", ["mean", "dro"])
def test_each_step_is_the_rule_on_group_means_of_the_influence(make_problem, n_classes, risk):
    problem, _ = make_problem(n_classes=n_classes)
    groups = problem.weighted.groups.cpu().numpy()
    m = groups.shape[1]
    floor = 0.8 / m
    method = OptWeights(risk=risk, lr=3.0, momentum=0.3, dro_rate=0.7, floor=floor)
    p, v, r = np.full(m, 1 / m), np.zeros(m), np.full(m, 1 / m)
    floored = False
    for step in take(method, problem, 12):
        np.testing.assert_allclose(step.group_weight.cpu(), p, rtol=1e-6)
        weight = groups @ (p / groups.sum(axis=0))
        np.testing.assert_allclose(step.sample_weight.cpu(), weight, rtol=1e-6)
        losses = target_losses(step, problem)
        if risk == "dro":
            r = r * np.exp(0.7 * losses)
            r /= r.sum()
        value = losses.max() if risk == "dro" else losses.mean()
        assert f"is {value:.4g}"[:-1] in step.note
        influence = step.influence.cpu().numpy()
        slope = np.array([influence[column].mean(axis=0) @ r for column in groups.T])
        v = 0.7 * (slope - p @ slope) + 0.3 * v
        p = p * np.exp(-3.0 * v)
        p /= p.sum()
        floored = floored or bool((p < floor).any())
        p = np.maximum(p, floor)
        p /= p.sum()
    assert floored


def test_the_first_step_is_rwg(make_problem):
    problem, _ = make_problem(n_classes=3)
    (step,) = take(OptWeights(), problem, 1)
    (expected,) = RWG().iterate(problem)
    torch.testing.assert_close(step.sample_weight, expected.sample_weight)
    torch.testing.assert_close(step.head.weight, expected.head.weight)


@pytest.mark.parametrize("risk", ["mean", "dro"])
def test_renumbering_the_groups_renumbers_their_shares(make_problem, risk):
    problem, _ = make_problem()
    order, method = [2, 0, 3, 1], OptWeights(risk=risk, lr=1.0)
    other = problem
    for split in ("weighted", "target"):
        other = regrouped(other, split, getattr(problem, split).groups[:, order])
    one, two = (take(method, each, 20)[-1] for each in (problem, other))
    torch.testing.assert_close(two.group_weight, one.group_weight[order], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(two.sample_weight, one.sample_weight, rtol=1e-6, atol=1e-9)
    assert float(one.group_weight.max() - one.group_weight.min()) > 0.1


@pytest.mark.parametrize("risk", ["mean", "dro"])
def test_groups_that_are_copies_keep_equal_shares(make_problem, risk):
    problem, _ = make_problem()
    for split in ("weighted", "target"):
        groups = getattr(problem, split).groups
        problem = regrouped(problem, split, torch.cat([groups, groups[:, 1:2]], dim=1))
    for step in take(OptWeights(risk=risk, lr=1.0), problem, 20):
        p = step.group_weight
        torch.testing.assert_close(p[4], p[1], rtol=1e-9, atol=0)
        # Rows of both have the sum of their shares.
        rows = problem.weighted.groups[:, 1]
        torch.testing.assert_close(float(step.sample_weight[rows].sum()), float(p[1] + p[4]))


def test_groups_without_rows_are_left_out(make_problem):
    problem, _ = make_problem(n=30)
    groups = problem.weighted.groups.clone()
    groups[:, 1] = False
    target = problem.target.groups.clone()
    target[:, 2] = False
    problem = regrouped(regrouped(problem, "weighted", groups), "target", target)
    for risk in ("mean", "dro"):
        first, *_, last = take(OptWeights(risk=risk, lr=1.0), problem, 5)
        third = torch.full_like(first.group_weight, 1 / 3)
        third[1] = 0
        torch.testing.assert_close(first.group_weight, third)
        assert float(last.group_weight.sum()) == pytest.approx(1)
        # One counts on target only, one on the fitted rows only.
        assert last.group_weight[1] == 0 < last.group_weight[2]
        assert (last.sample_weight[~groups.any(dim=1)] == 0).all()
        losses = target_losses(first, problem)
        value = np.nanmean(losses) if risk == "mean" else np.nanmax(losses)
        assert f"is {value:.4g}"[:-1] in first.note
    for split in ("weighted", "target"):
        nobody = regrouped(problem, split, torch.zeros_like(getattr(problem, split).groups))
        with pytest.raises(SettingError, match="is in a known group"):
            take(OptWeights(), nobody, 1)


def test_it_reads_the_group_labels_of_both_sets():
    assert OptWeights().labels_used == ("weighted", "target", "val")
    assert OptWeights(selection="average").labels_used == ("weighted", "target")


def test_the_influence_of_a_step_depends_on_its_weights_and_head_only(make_problem):
    problem, _ = make_problem(n_classes=3)
    step = take(OptWeights(), problem, 4)[-1]
    again = OptWeights().influence(problem, step.sample_weight, step.u)()
    torch.testing.assert_close(again.values, step.influence, rtol=1e-9, atol=1e-12)
    refitted = OptWeights().influence(problem, step.sample_weight)()
    torch.testing.assert_close(refitted.values, step.influence, rtol=1e-5, atol=1e-6)


def test_a_solve_that_falls_short_is_no_solution(make_problem, exact_solves_stall):
    step = next(OptWeights().iterate(make_problem()[0]))
    assert not step.solved
    assert exact_solves_stall in step.note


@pytest.mark.parametrize(("n_classes", "d"), [(2, 6), (3, 120)])
@pytest.mark.parametrize("risk", ["mean", "dro"])
@pytest.mark.parametrize("stored", [False, True])
def test_a_continued_run_equals_one_long_run_bit_by_bit(make_problem, n_classes, d, risk, stored):
    problem, _ = make_problem(n_classes=n_classes, d=d)
    if problem.compute.device.type != "cpu":
        pytest.skip("bits are promised on a CPU only")
    names = NAMES[: problem.n_groups]
    method = OptWeights(steps=9, lr=2.0, risk=risk)
    whole = fit(method, problem, names)
    first = fit(method, problem, names, monitor=lambda progress: progress.step_index == 4)
    if stored:
        checkpoint = load(save({k: v.contiguous() for k, v in first.last.checkpoint.items()}))
        first = replace(first, last=replace(first.last, checkpoint=checkpoint))
    second = fit(method, problem, names, resume=first)
    assert second.step_index == whole.step_index
    assert torch.equal(second.last.head.weight, whole.last.head.weight)
    assert torch.equal(second.last.sample_weight, whole.last.sample_weight)
    for key, value in whole.last.checkpoint.items():
        assert torch.equal(second.last.checkpoint[key], value), key


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("risk", ["mean", "dro"])
def test_the_toy_s_target_risk_falls_and_its_worst_group_gains_on_rwg(make_problem, risk, seed):
    problem, _ = make_problem(n=500, n_target=600, d=30, minority=0.05, seed=seed)
    test = make_problem(n=8, d=30, n_target=8000, seed=seed + 20)[1]
    method = OptWeights(l2=0.1, standardise=False, risk=risk)

    def worst(step):
        scores = group_scores(step.head, test.features, test.labels, test.groups)
        return scores.worst_group_accuracy

    steps = take(method, problem, 100)
    losses = np.array([target_losses(step, problem) for step in steps])
    values = losses.mean(axis=1) if risk == "mean" else losses.max(axis=1)
    best = int(values.argmin())
    assert values[best] < values[0] - 1e-3
    assert best > 20
    assert worst(steps[best]) > max(worst(steps[0]), 0.72)
