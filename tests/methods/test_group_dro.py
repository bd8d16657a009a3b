import math
import re
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from gsr_core.methods.fit import fit
from gsr_core.methods.group_dro import GroupDRO, best_on_simplex
from gsr_core.methods.llr import LLR
from gsr_core.methods.rwg import RWG
from gsr_core.metrics import group_scores

NAMES = ["a0", "a1", "b0", "b1", "c0", "c1"]


def take(problem, count=None, **settings):
    method = GroupDRO(**settings)
    return list(islice(method.iterate(problem), count or method.max_steps))


def regrouped(problem, groups):
    return replace(problem, weighted=replace(problem.weighted, groups=groups))


def overlapping(problem, seed=0):
    """The problem with five groups that overlap; some rows are in none, the fourth has none."""
    rng = np.random.default_rng(seed)
    groups = rng.random((len(problem.weighted), 5)) < [0.5, 0.2, 0.1, 0.0, 0.3]
    return regrouped(problem, torch.from_numpy(groups).to(problem.weighted.labels.device))


def losses_of(head, rows, adjustment=0.0):
    """Each group's mean loss on these rows with its adjustment, (m,); NaN without rows."""
    scores = group_scores(head, rows.features.double(), rows.labels, rows.groups)
    with np.errstate(divide="ignore", invalid="ignore"):
        return scores.loss + adjustment / np.sqrt(scores.count)


def penalty_of(head, l2):
    return l2 * float(head.weight.square().sum() + head.bias.square().sum())


@pytest.mark.parametrize("adjustment", [0.0, 2.0])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("l2", [1e-5, 0.01])
def test_at_the_optimum_the_groups_that_carry_weight_have_equal_losses_and_none_exceeds_them(
    make_problem, adjustment, n_classes, overlap, l2
):
    problem, _ = make_problem(n_classes=n_classes)
    problem = overlapping(problem) if overlap else problem
    steps = take(problem, solver="exact", adjustment=adjustment, l2=l2, standardise=False)
    last = steps[-1]
    assert len(steps) < 30
    losses = losses_of(last.head, problem.weighted, adjustment)
    q = last.group_weight.cpu().numpy()
    carries = q > 1e-6
    assert np.nanmax(losses) - losses[carries].min() < 1e-4
    # Equal group weights are not the solution, or this would show nothing.
    first = losses_of(steps[0].head, problem.weighted, adjustment)
    assert np.nanmax(first) - np.nanmin(first) > 0.05
    assert np.nanmax(losses) < np.nanmax(first)
    # The primal value and the dual value meet there, and the head is the fit under the weights.
    primal = np.nanmax(losses) + penalty_of(last.head, l2)
    dual = q[carries] @ losses[carries] + penalty_of(last.head, l2)
    assert last.objective == pytest.approx(primal, abs=1e-8)
    assert 0 <= primal - dual < 1e-5
    assert last.relative_gradient_norm < 1e-8


@pytest.mark.parametrize("adjustment", [0.0, 1.0])
def test_the_optimum_is_that_of_an_independent_solver(make_problem, adjustment):
    problem, _ = make_problem(d=3)
    rows, l2 = problem.weighted, 0.01
    x = np.hstack([rows.features.cpu().double(), np.ones((len(rows), 1))])
    y, groups = rows.labels.cpu().numpy(), rows.groups.cpu().numpy()
    shares = groups / groups.sum(axis=0)

    def slack(v):
        logits = x @ v[:-1].reshape(4, 2)
        losses = -log_softmax(logits, axis=1)[np.arange(len(y)), y]
        return v[-1] - losses @ shares - adjustment / np.sqrt(groups.sum(axis=0))

    def slack_by_v(v):
        residuals = softmax(x @ v[:-1].reshape(4, 2), axis=1) - np.eye(2)[y]
        by_theta = np.einsum("ng,nd,nk->gdk", shares, x, residuals).reshape(-1, 8)
        return np.hstack([-by_theta, np.ones((len(by_theta), 1))])

    # In epigraph form: least t + penalty with every group's loss at most t. By its own differences
    # of the constraints the solver stops short on some machines.
    found = minimize(
        lambda v: v[-1] + l2 * v[:-1] @ v[:-1],
        np.append(np.zeros(8), 3.0),
        jac=lambda v: np.append(2 * l2 * v[:-1], 1.0),
        method="SLSQP",
        constraints={"type": "ineq", "fun": slack, "jac": slack_by_v},
        options={"ftol": 1e-10, "maxiter": 500},
    )
    assert found.success
    last = take(problem, solver="exact", l2=l2, adjustment=adjustment, standardise=False)[-1]
    assert last.objective == pytest.approx(found.fun, abs=1e-6)
    theta = torch.cat([last.head.weight.T, last.head.bias[None]]).cpu().numpy()
    assert theta == pytest.approx(found.x[:-1].reshape(4, 2), abs=1e-3)


@pytest.mark.parametrize(("l2", "adjustment"), [(0.01, 0.0), (1e-3, 5.0), (1e-5, 2.0)])
def test_the_exact_dual_rises_at_every_step(make_problem, l2, adjustment):
    problem, _ = make_problem()
    duals = []
    for step in take(problem, solver="exact", standardise=False, l2=l2, adjustment=adjustment):
        losses = losses_of(step.head, problem.weighted, adjustment)
        q = step.group_weight.cpu().numpy()
        duals.append(q[q > 0] @ losses[q > 0] + penalty_of(step.head, l2))
    assert len(duals) > 2
    assert (np.diff(duals) > 0).all()


def note_gap(step) -> float:
    return float(re.search(r"at most ([\d.e+-]+) nats above", step.note)[1])


@pytest.mark.parametrize("solver", ["online", "exact"])
def test_the_note_bounds_the_distance_to_the_optimum(make_problem, solver):
    problem, _ = make_problem()
    optimum = take(problem, solver="exact")[-1].objective
    for step in take(problem, 12, solver=solver):
        assert step.objective >= optimum - 1e-5
        # Two digits are shown.
        assert step.objective - 1.06 * note_gap(step) <= optimum + 1e-9


def test_the_bound_is_close_where_the_penalty_makes_the_curvature(make_problem):
    problem, _ = make_problem()
    one = regrouped(problem, torch.ones_like(problem.weighted.groups[:, :1]))
    (plain,) = LLR(l2=3.0).iterate(problem)
    first, *_ = take(one, 1, solver="online", l2=3.0)
    # One Newton step is not the solution yet.
    short = first.objective - plain.objective
    assert short > 1e-9
    assert short < 1.06 * note_gap(first) < 3 * short


@pytest.mark.parametrize("solver", ["online", "exact"])
@pytest.mark.parametrize("overlap", [False, True])
def test_a_sample_counts_what_the_weights_of_its_groups_give_it(make_problem, solver, overlap):
    problem, _ = make_problem()
    problem = overlapping(problem) if overlap else problem
    groups = problem.weighted.groups.double()
    for step in take(problem, 4, solver=solver):
        share = step.group_weight / groups.sum(dim=0).clamp(min=1)
        torch.testing.assert_close(step.sample_weight, groups @ share, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("adjustment", [0.0, 2.0])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_online_group_weights_are_the_softmax_of_the_summed_losses(
    make_problem, adjustment, n_classes
):
    problem, _ = make_problem(n_classes=n_classes)
    rows = problem.weighted
    # The zero head comes first; every loss under it is log K.
    losses = math.log(n_classes) + adjustment / np.sqrt(rows.groups.sum(dim=0).cpu().numpy())
    total = np.zeros(2 * n_classes)
    for step in take(problem, 15, solver="online", group_lr=0.7, adjustment=adjustment):
        total = total + losses
        expected = np.exp(0.7 * total) / np.exp(0.7 * total).sum()
        assert step.group_weight.cpu().numpy() == pytest.approx(expected, rel=1e-9)
        losses = losses_of(step.head, rows, adjustment)


def test_each_online_head_is_one_newton_step_from_the_last(make_problem):
    problem, _ = make_problem()
    rows = problem.weighted
    design = torch.cat([rows.features.double(), torch.ones_like(rows.features[:, :1])], dim=1)
    beta = design.new_zeros(design.shape[1])
    for step in take(problem, 6, solver="online", group_lr=0.5, l2=0.05, standardise=False):
        # Of two classes the penalty on both columns is half of it on their difference.
        p = torch.sigmoid(design @ beta)
        gradient = design.T @ (step.sample_weight * (p - rows.labels)) + 0.05 * beta
        curvature = (step.sample_weight * p * (1 - p))[:, None] * design
        hessian = design.T @ curvature + 0.05 * torch.eye(len(beta)).to(design)
        beta = beta - torch.linalg.solve(hessian, gradient)
        head = torch.cat([step.head.weight, step.head.bias[:, None]], dim=1)
        # The step is solved as precisely as a Newton step deserves, not to the last digit.
        torch.testing.assert_close(head[1] - head[0], beta, rtol=0.02, atol=0.02)
        beta = head[1] - head[0]


@pytest.mark.parametrize("solver", ["online", "exact"])
def test_equal_losses_keep_the_group_weights_equal(make_problem, solver):
    problem, _ = make_problem()
    same = torch.ones_like(problem.weighted.groups[:, :3])
    (plain,) = LLR().iterate(problem)
    steps = take(regrouped(problem, same), solver=solver)
    for step in steps:
        torch.testing.assert_close(step.group_weight, torch.full_like(step.group_weight, 1 / 3))
    # And where all groups are one, the worst group is everybody: the plain fit. It ends there.
    assert len(steps) < 20
    torch.testing.assert_close(steps[-1].head.weight, plain.head.weight, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("solver", ["online", "exact"])
def test_a_group_without_rows_takes_no_part(make_problem, solver):
    problem, _ = make_problem()
    groups = problem.weighted.groups
    empty = torch.zeros_like(groups[:, :1])
    wider = regrouped(problem, torch.cat([groups[:, :2], empty, groups[:, 2:]], dim=1))
    for one, two in zip(
        take(problem, 6, solver=solver), take(wider, 6, solver=solver), strict=True
    ):
        assert float(two.group_weight[2]) == 0
        assert torch.equal(one.group_weight, two.group_weight[[0, 1, 3, 4]])
        assert torch.equal(one.head.weight, two.head.weight)


def test_online_comes_close_to_the_optimum_and_keeps_no_group_down_for_good(make_problem):
    problem, _ = make_problem()
    optimum = take(problem, solver="exact")[-1].objective
    short = [
        step.objective - optimum for step in take(problem, steps=300, group_lr=0.5, solver="online")
    ]
    assert min(short) > -1e-5
    assert short[0] > 0.02
    assert short[-1] < 1e-3


def test_an_adjustment_lowers_the_loss_of_the_small_groups(make_problem):
    problem, _ = make_problem()
    small = int(problem.weighted.groups.sum(dim=0).argmin())
    losses = [
        losses_of(take(problem, solver="exact", adjustment=c)[-1].head, problem.weighted)[small]
        for c in (0.0, 1.0)
    ]
    assert losses[1] < losses[0] - 0.05


def test_the_worst_group_does_better_than_under_equal_group_weights(make_problem):
    problem, _ = make_problem()
    (equal,) = RWG().iterate(problem)
    first, *_, last = take(problem, solver="exact")
    torch.testing.assert_close(first.head.weight, equal.head.weight)
    worst = [losses_of(step.head, problem.weighted).max() for step in (equal, last)]
    assert worst[1] < worst[0] - 0.02


@pytest.mark.parametrize("solver", ["online", "exact"])
@pytest.mark.parametrize(("n_classes", "d"), [(2, 6), (3, 120)])
@pytest.mark.parametrize("stored", [False, True])
def test_a_continued_run_equals_one_long_run_bit_by_bit(make_problem, solver, n_classes, d, stored):
    problem, _ = make_problem(n_classes=n_classes, d=d)
    if problem.compute.device.type != "cpu":
        pytest.skip("bits are promised on a CPU only")
    names = NAMES[: problem.n_groups]
    method = GroupDRO(solver=solver, steps=9, group_lr=0.5)
    whole = fit(method, problem, names)
    first = fit(method, problem, names, monitor=lambda progress: progress.step_index == 2)
    assert first.last_index == 2
    if stored:
        checkpoint = load(save({k: v.contiguous() for k, v in first.last.checkpoint.items()}))
        first = replace(first, last=replace(first.last, checkpoint=checkpoint))
    second = fit(method, problem, names, resume=first)
    assert second.last_index == whole.last_index > 2
    assert second.step_index == whole.step_index
    for name in ("weight", "bias"):
        assert torch.equal(getattr(second.last.head, name), getattr(whole.last.head, name))
    assert torch.equal(second.last.group_weight, whole.last.group_weight)
    for key, value in whole.last.checkpoint.items():
        assert torch.equal(second.last.checkpoint[key], value), key


def test_a_run_that_ended_by_itself_has_nothing_to_go_on_with(make_problem):
    problem, _ = make_problem()
    method = GroupDRO(solver="exact")
    *_, last = method.iterate(problem)
    assert list(method.iterate(problem, last.checkpoint)) == []


@given(st.integers(1, 8), st.integers(0, 8), st.floats(-3, 3), st.booleans(), st.integers(0, 2**31))
def test_the_model_is_maximised_over_the_simplex(m, rank, log_scale, inside, seed):
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(rank, m)) * 10**log_scale
    curvature, slope = factor.T @ factor, rng.normal(size=m)
    point = rng.dirichlet(np.ones(m)) if inside else np.eye(m)[0]
    best = best_on_simplex(curvature, slope, point)
    assert (best >= 0).all()
    assert best.sum() == pytest.approx(1, abs=1e-12)
    # Where there is weight the gradient is highest, to what the ridge and rounding leave.
    gradient = slope - curvature @ (best - point)
    scale = np.abs(slope).max() + np.abs(curvature).max()
    assert gradient.max() - gradient @ best < 1e-6 * scale
