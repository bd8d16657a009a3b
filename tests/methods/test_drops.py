import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import fminbound, minimize
from torch.nn.functional import cross_entropy, one_hot

from gsr_core.methods.drops import DROPS, OffsetGame, worst_shares
from gsr_core.methods.erm import ERM
from gsr_core.methods.rwg import group_shares


def game_rows(n, n_classes, seed, n_groups=4, overlap=False):
    """Logits, classes and shares of groups that differ in how well they are predicted."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(n_classes, size=n)
    group = rng.integers(n_groups, size=n)
    logits = 1.5 * rng.normal(size=(n, n_classes)) - 0.5 * np.arange(n_classes)
    logits[np.arange(n), labels] += group
    members = group[:, None] == np.arange(n_groups)
    if overlap:
        members |= rng.random(members.shape) < 0.3
    members = torch.from_numpy(members).double()
    return torch.from_numpy(logits), torch.from_numpy(labels), members / members.sum(dim=0)


def losses_at(logits, labels, shares, offset):
    return cross_entropy(logits + offset, labels, reduction="none") @ shares


def divergence(share):
    """KL from equal shares."""
    return float(torch.xlogy(share, share * len(share)).sum())


def worst_by_slsqp(losses, radius):
    """The largest mean loss over the ball, by a general solver from several starts."""
    m, best = len(losses), -np.inf

    def slack(share):
        return radius - float((share * np.log(np.maximum(share * m, 1e-300))).sum())

    for seed in range(3):
        start = np.random.default_rng(seed).dirichlet(np.full(m, 50.0))
        found = minimize(
            lambda u: -u @ losses,
            start,
            bounds=[(1e-9, 1)] * m,
            constraints=[
                {"type": "ineq", "fun": slack},
                {"type": "eq", "fun": lambda share: share.sum() - 1},
            ],
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 500},
        )
        if found.success and slack(found.x) >= -1e-6:
            best = max(best, -found.fun)
    return best


def worst_over_one_offset(rows, radius):
    """The worst mean loss of two classes, as a function of the difference of their offsets."""
    logits, labels, shares = rows
    equal = torch.full((4,), 0.25, dtype=torch.float64)

    def worst(difference: float) -> float:
        offset = torch.tensor([-difference / 2, difference / 2], dtype=torch.float64)
        losses = losses_at(logits, labels, shares, offset)
        return float(worst_shares(losses, equal, radius) @ losses)

    return worst


def lowest(convex, width):
    """Where a convex function is lowest, by bounded search."""
    return np.asarray(fminbound(convex, -width, width, xtol=1e-10)).item()


@pytest.mark.parametrize("radius", [0.01, 0.2, 0.7])
def test_the_worst_shares_are_those_of_a_general_solver(radius):
    losses = torch.tensor([0.3, 0.8, 0.5, 0.75], dtype=torch.float64)
    equal = torch.full((4,), 0.25, dtype=torch.float64)
    share = worst_shares(losses, equal, radius)
    assert float(share.sum()) == pytest.approx(1, abs=1e-12)
    assert divergence(share) == pytest.approx(radius, abs=1e-10)
    assert float(share @ losses) == pytest.approx(worst_by_slsqp(losses.numpy(), radius), abs=1e-5)


def test_all_mass_goes_to_the_worst_groups_where_the_radius_allows_it():
    equal = torch.full((4,), 0.25, dtype=torch.float64)
    losses = torch.tensor([0.3, 0.8, 0.5, 0.8], dtype=torch.float64)
    half = torch.tensor([0.0, 0.5, 0.0, 0.5], dtype=torch.float64)
    for radius in (math.log(2), math.log(4), 9.0):
        torch.testing.assert_close(worst_shares(losses, equal, radius), half)
    assert torch.equal(worst_shares(losses, equal, 0.0), equal)
    assert torch.equal(worst_shares(torch.ones(4), equal, 0.5), equal)


@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.4, 0.8, 1.0, 1.5])
@pytest.mark.parametrize("overlap", [False, True])
def test_for_two_classes_the_value_is_that_of_a_search_over_the_offset(fraction, overlap):
    rows = game_rows(120, 2, seed=1, overlap=overlap)
    radius = fraction * math.log(4)
    solution = OffsetGame(*rows).solve(radius)
    worst = worst_over_one_offset(rows, radius)
    best = lowest(worst, 6)
    assert solution.value == pytest.approx(worst(best), abs=1e-9)
    assert -1e-12 <= solution.gap < 1e-6
    assert divergence(solution.share) <= radius + 1e-9
    # Planted: another offset is worse by more than the gap.
    assert worst(best + 0.05) > solution.value + 1e-5


@pytest.mark.parametrize("fraction", [0.3, 1.0])
def test_for_three_classes_no_other_offsets_are_better(fraction):
    rows = game_rows(150, 3, seed=2, n_groups=5)
    radius = fraction * math.log(5)
    solution = OffsetGame(*rows).solve(radius)
    equal = torch.full((5,), 0.2, dtype=torch.float64)

    def worst(offset):
        losses = losses_at(*rows, torch.from_numpy(np.append(offset, 0.0)))
        return float(worst_shares(losses, equal, radius) @ losses)

    found = minimize(
        worst, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10}
    )
    assert solution.value <= found.fun + 1e-8
    assert solution.value == pytest.approx(found.fun, abs=1e-5)
    assert float(solution.offset.sum()) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("fraction", [0.2, 1.0])
def test_the_gap_bounds_how_far_any_offsets_are_from_it(fraction):
    """Under the adversary's shares no offsets do better than the value less the gap."""
    rows = game_rows(150, 3, seed=3)
    solution = OffsetGame(*rows).solve(fraction * math.log(4))
    generator = torch.Generator().manual_seed(0)
    for scale in (1e-4, 1e-2, 1.0):
        for _ in range(20):
            moved = torch.randn(3, generator=generator, dtype=torch.float64) * scale
            loss = solution.share @ losses_at(*rows, solution.offset + moved)
            assert float(loss) >= solution.value - solution.gap - 1e-12


def test_at_radius_zero_groups_count_alike():
    rows = game_rows(120, 3, seed=4)
    solution = OffsetGame(*rows).solve(0.0)
    assert torch.equal(solution.share, torch.full_like(solution.share, 0.25))
    offset = solution.offset.clone().requires_grad_()
    losses_at(*rows, offset).mean().backward()
    assert offset.grad is not None
    assert float(offset.grad.norm()) < 1e-8
    assert solution.gap == pytest.approx(0, abs=1e-12)


def test_at_the_largest_radius_it_is_the_least_loss_of_the_worst_group():
    rows = game_rows(150, 3, seed=5, n_groups=3)
    solution = OffsetGame(*rows).solve(math.log(3))
    losses = losses_at(*rows, solution.offset)
    # Mass sits on groups of the highest loss alone.
    assert float(solution.value) == pytest.approx(float(losses.max()), abs=1e-9)
    assert (solution.share[losses < losses.max() - 1e-5] < 1e-8).all()

    def highest(offset):
        return float(losses_at(*rows, torch.from_numpy(np.append(offset, 0.0))).max())

    found = minimize(
        highest, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-11}
    )
    assert solution.value <= found.fun + 1e-7


@pytest.mark.parametrize("n_classes", [2, 4])
def test_the_value_rises_with_the_radius(n_classes):
    game = OffsetGame(*game_rows(150, n_classes, seed=6))
    values = [game.solve(radius).value for radius in np.linspace(0, 1.5, 12)]
    assert (np.diff(values) >= -1e-9).all()
    assert values[0] < values[-1] - 0.01


def calibrated():
    """Two scores of class 1, 3/4 and 1/4, each as often right as it says."""
    labels = torch.tensor([1, 1, 1, 0, 1, 0, 0, 0])
    logit = torch.tensor([3.0, 3, 3, 3, 1 / 3, 1 / 3, 1 / 3, 1 / 3], dtype=torch.float64).log()
    return torch.stack([torch.zeros(8, dtype=torch.float64), logit], dim=1), labels


def test_calibrated_scores_get_no_offset_at_radius_zero():
    logits, labels = calibrated()
    shares = one_hot(labels, 2).double() / 4
    solution = OffsetGame(logits, labels, shares).solve(0.0)
    assert float(solution.offset.abs().max()) < 1e-12
    # Scores of another prior, in which class 1 is three times as likely, get it taken back.
    prior = torch.tensor([0.0, math.log(3)], dtype=torch.float64)
    moved = OffsetGame(logits + prior, labels, shares).solve(0.0)
    difference = float(moved.offset[1] - moved.offset[0])
    assert difference == pytest.approx(-math.log(3), abs=1e-9)


@pytest.mark.parametrize("fraction", [0.2, 1.0])
def test_very_sure_scores_do_not_break_it(fraction):
    logits, labels, shares = game_rows(60, 2, seed=7)
    rows = (100 * logits, labels, shares)
    radius = fraction * math.log(4)
    solution = OffsetGame(*rows).solve(radius)
    worst = worst_over_one_offset(rows, radius)
    least = worst(lowest(worst, 300))
    assert least > 10
    assert solution.value == pytest.approx(least, rel=1e-6)
    assert solution.gap < 1e-6 * least


def test_a_class_without_rows_keeps_its_logit():
    logits, labels, shares = game_rows(100, 3, seed=8)
    seen = OffsetGame(logits, torch.where(labels == 2, 0, labels), shares).solve(0.3)
    assert float(seen.offset[2]) == 0
    assert float(seen.offset.sum()) == pytest.approx(0, abs=1e-12)
    assert seen.gap < 1e-6
    alone = OffsetGame(logits, torch.zeros_like(labels), shares).solve(0.3)
    assert torch.equal(alone.offset, torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_each_step_is_a_solved_game_on_target(make_problem, n_classes):
    problem, _ = make_problem(n_classes=n_classes, n_target=90)
    base = next(ERM().iterate(problem)).head
    logits = base.logits(problem.target.features).double()
    shares = group_shares(problem.target, logits)
    m = 2 * n_classes
    steps = list(DROPS(steps=4).iterate(problem))
    for k, step in enumerate(steps):
        assert step.solved
        assert torch.equal(step.head.weight, base.weight)
        expected = OffsetGame(logits, problem.target.labels, shares).solve(
            math.log(m) * (k / 3) ** 2
        )
        torch.testing.assert_close(step.head.bias - base.bias, expected.offset)
        assert step.objective == pytest.approx(expected.value)
        assert step.group_weight is not None
        assert float(step.group_weight.sum()) == pytest.approx(1)
    losses = losses_at(logits, problem.target.labels, shares, steps[-1].head.bias - base.bias)
    assert steps[-1].objective == pytest.approx(float(losses.max()), abs=1e-7)


def test_a_group_without_rows_gets_no_weight(make_problem):
    problem, _ = make_problem(n_target=90)
    groups = problem.target.groups.clone()
    groups[:, 1] = False
    problem = replace(problem, target=replace(problem.target, groups=groups))
    for step in DROPS(steps=3).iterate(problem):
        assert step.group_weight is not None
        assert float(step.group_weight[1]) == 0
        assert float(step.group_weight.sum()) == pytest.approx(1)
        assert step.solved


def test_one_group_is_one_step_again_and_again(make_problem):
    problem, _ = make_problem()
    groups = torch.ones_like(problem.target.groups[:, :1])
    problem = replace(problem, target=replace(problem.target, groups=groups))
    first, second = DROPS(steps=2).iterate(problem)
    assert torch.equal(first.head.bias, second.head.bias)


def test_a_continued_run_is_one_long_run(make_problem):
    problem, _ = make_problem()
    whole = list(DROPS(steps=4).iterate(problem))
    rest = list(DROPS(steps=4).iterate(problem, whole[1].checkpoint))
    assert len(rest) == 2
    for one, two in zip(rest, whole[2:], strict=True):
        assert torch.equal(one.head.bias, two.head.bias)
