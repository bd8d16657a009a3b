from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from gsr_core.linear.head import Head
from gsr_core.methods.cvar_doro import CappedSimplex, ChiSquareBall, CVaRDORO
from gsr_core.methods.llr import LLR


def one(method, problem):
    (step,) = method.iterate(problem)
    return step


def losses_of(head: Head, rows) -> torch.Tensor:
    logits = head.logits(rows.features.double())
    return torch.nn.functional.cross_entropy(logits, rows.labels, reduction="none")


def feasible(kind, n, generator):
    """A random point of the set, made without the code under test."""
    if kind == "cvar":
        corner = np.zeros(n)
        corner[generator.choice(n, size=n // 4, replace=False)] = 4 / n
        return 0.3 / n + 0.7 * corner if generator.random() < 0.5 else corner
    away = generator.normal(size=n)
    away -= away.mean()
    away *= min(1 / np.linalg.norm(away) * np.sqrt(9 / n), 1 / (n * -away.min()))
    return 1 / n + away


SETS = {"cvar": lambda n: CappedSimplex(4 / n), "chi2": lambda n: ChiSquareBall(10 / n)}


@pytest.mark.parametrize("kind", SETS)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([1e-4, 1e-2, 1.0, 100.0]))
def test_projections_are_nearest_and_the_worst_is_worst(kind, seed, scale):
    n, generator = 20, np.random.default_rng(seed)
    point = torch.from_numpy(scale * generator.normal(size=n))
    ambiguity = SETS[kind](n)
    nearest, worst = ambiguity.project(point), ambiguity.worst(point)
    for weight in (nearest, worst):
        assert (weight >= 0).all()
        assert float(weight.sum()) == pytest.approx(1, abs=1e-12)
        if kind == "cvar":
            assert float(weight.max()) <= 4 / n + 1e-12
        else:
            assert float(weight.square().sum()) <= 10 / n * (1 + 1e-9)
    for _ in range(20):
        other = torch.from_numpy(feasible(kind, n, generator))
        assert float((point - nearest) @ (other - nearest)) <= 1e-8 * max(scale, 1)
        assert float(point @ other) <= float(point @ worst) + 1e-8 * scale


@pytest.mark.parametrize("divergence", ["cvar", "chi2"])
def test_without_outliers_and_with_all_samples_it_is_plain_fitting(make_problem, divergence):
    problem, _ = make_problem()
    step = one(CVaRDORO(alpha=1, eps=0, divergence=divergence), problem)
    (plain,) = LLR().iterate(problem)
    torch.testing.assert_close(step.sample_weight, plain.sample_weight, rtol=1e-6, atol=0)
    torch.testing.assert_close(step.head.weight, plain.head.weight, rtol=1e-5, atol=1e-8)
    assert step.solved


def primal(losses: np.ndarray, alpha: float, divergence: str) -> float:
    """The robust loss in its form as a minimum over a threshold."""
    if divergence == "cvar":
        return min(eta + np.clip(losses - eta, 0, None).mean() / alpha for eta in losses)
    scale = np.sqrt(1 + (1 / alpha - 1) ** 2)
    found = minimize_scalar(
        lambda eta: eta + scale * np.sqrt((np.clip(losses - eta, 0, None) ** 2).mean()),
        bounds=(losses.min() - 100, losses.max()),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return float(found.fun)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("divergence", ["cvar", "chi2"])
@pytest.mark.parametrize("alpha", [0.2, 0.5])
def test_without_outliers_the_robust_loss_is_within_the_gap_of_its_lower_bound(
    make_problem, n_classes, divergence, alpha
):
    problem, _ = make_problem(n_classes=n_classes)
    rows = problem.weighted
    method = CVaRDORO(alpha=alpha, eps=0, divergence=divergence, standardise=False, l2=0.02)
    step = one(method, problem)
    assert step.solved
    penalty = 0.02 * float(step.head.weight.square().sum() + step.head.bias.square().sum())
    above = primal(losses_of(step.head, rows).cpu().numpy(), alpha, divergence) + penalty
    # Whatever the weights of the set, the least penalised loss under them is a lower bound.
    inner = method.inner(problem)
    below = float(inner.fit(step.sample_weight, inner.zero()).state.value)
    assert below == pytest.approx(step.objective, abs=1e-9)
    assert -1e-6 < above - below <= 1e-4 + 1e-6
    (plain,) = LLR(standardise=False, l2=0.02).iterate(problem)
    penalty = 0.02 * float(plain.head.weight.square().sum() + plain.head.bias.square().sum())
    losses = losses_of(plain.head, rows).cpu().numpy()
    assert above < primal(losses, alpha, divergence) + penalty - 1e-3


def test_a_worst_share_counts_alike_and_the_row_at_the_edge_takes_the_rest(make_problem):
    problem, _ = make_problem(n=82)
    step = one(CVaRDORO(alpha=0.25, eps=0, tolerance=1e-6), problem)
    assert float(step.sample_weight.max()) == pytest.approx(1 / (0.25 * 82))
    losses = losses_of(step.head, problem.weighted)
    # Beyond ties at the edge, the heavy rows are those of highest loss.
    full = step.sample_weight > 0.999 / (0.25 * 82)
    none = step.sample_weight == 0
    assert float(losses[full].min()) >= float(losses[none].max()) - 1e-3


def test_flipped_labels_of_the_largest_loss_are_left_out(make_problem):
    problem, _ = make_problem(n=200, minority=0.0)
    rows = problem.weighted
    # Far on the right side of both cues, and then flipped.
    flipped = torch.tensor([20, 30, 40])
    features, labels = rows.features.clone(), rows.labels.clone()
    features[flipped, :2] = (2 * labels[flipped, None] - 1).to(features) * 6
    labels[flipped] = 1 - labels[flipped]
    problem = replace(problem, weighted=replace(rows, source=features, labels=labels))
    kept = one(CVaRDORO(eps=0), problem)
    assert (kept.sample_weight[flipped] > 0).all()
    step = one(CVaRDORO(eps=3 / 200), problem)
    assert (step.sample_weight[flipped] == 0).all()
    assert step.note.startswith("3 of 200 samples were left out")


def test_the_outliers_are_those_of_highest_loss_under_the_head_itself(make_problem):
    problem, _ = make_problem(n=120)
    method = CVaRDORO(eps=0.1, alpha=0.3)
    step = one(method, problem)
    assert step.solved
    losses = losses_of(step.head, problem.weighted)
    out = losses.argsort(descending=True)[:12]
    assert (step.sample_weight[out] == 0).all()
    assert float(step.sample_weight.max()) <= 1 / (0.3 * 108) + 1e-12


def test_choosing_outliers_anew_lowers_the_objective(make_problem):
    problem, _ = make_problem(n=120, n_target=60, seed=1)
    first, last = (one(CVaRDORO(eps=0.2, rounds=r), problem) for r in (1, 20))
    assert not first.solved
    assert "still changed" in first.note
    assert last.solved
    assert last.objective < first.objective


def test_a_fit_that_ends_short_of_the_tolerance_is_no_solution(make_problem):
    assert not one(CVaRDORO(fits=2, eps=0, tolerance=1e-9), make_problem()[0]).solved
