from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch.nn.functional import cross_entropy

from gsr_core.linear.influence import Inverted
from gsr_core.linear.iterative import SolveEnding
from gsr_core.methods.fit import fit
from gsr_core.methods.gsr import GSR
from gsr_core.methods.gsr_variants import GSRCG, GSRHF, GSRLiSSA, rescale
from gsr_core.methods.llr import LLR
from gsr_core.methods.registry import METHODS

GROUPS = ["a0", "a1", "b0", "b1"]
VARIANTS = [GSRHF, GSRCG, GSRLiSSA]


def take(method, problem, count, checkpoint=None):
    return list(islice(method.iterate(problem, checkpoint), count))


def overlapping(problem):
    """The same problem with groups that overlap and one that has no row."""

    def more(rows):
        groups = torch.cat([rows.groups, ~rows.groups[:, :1], rows.groups[:, :1] & False], dim=1)
        return replace(rows, groups=groups)

    return replace(
        problem,
        weighted=more(problem.weighted),
        target=more(problem.target),
        val=more(problem.val),
    )


def correlation(one, two):
    return np.corrcoef(one.flatten().cpu().numpy(), two.flatten().cpu().numpy())[0, 1]


@pytest.mark.parametrize(("n_classes", "d"), [(2, 120), (3, 6)])
def test_cg_is_gsr_over_a_whole_trajectory(make_problem, n_classes, d):
    problem, _ = make_problem(n_classes=n_classes, d=d)
    problem = overlapping(problem)
    common = {"lr_decay_every": 5, "temperature": 0.5, "l2": 0.05}
    exact, found = take(GSR(**common), problem, 18), take(GSRCG(**common), problem, 18)
    for one, two in zip(exact, found, strict=True):
        assert two.solved
        scale = float(one.influence.abs().max())
        torch.testing.assert_close(two.influence, one.influence, rtol=0, atol=1e-6 * scale)
        scale = float(one.sample_weight.max())
        torch.testing.assert_close(two.sample_weight, one.sample_weight, rtol=0, atol=1e-6 * scale)
        torch.testing.assert_close(two.head.weight, one.head.weight, rtol=1e-6, atol=1e-6)


def test_cg_that_runs_out_of_products_says_so(make_problem):
    problem, _ = make_problem()
    (step,) = take(GSRCG(max_products=2), problem, 1)
    assert not step.solved
    assert "residual" in step.note
    assert step.note.endswith(f"The influence is not solved: {SolveEnding.PRODUCTS}.")
    assert step.sample_weight is not None
    (step,) = take(GSRCG(), problem, 1)
    assert step.solved


def test_a_warm_start_spares_products(make_problem):
    problem, _ = make_problem(d=40)

    def products(step):
        return int(step.note.split("after ")[1].split()[0])

    steps = take(GSRCG(lr=0.01), problem, 3)
    assert products(steps[2]) < products(steps[0])


def test_without_the_hessian_is_gsr_with_the_identity_in_its_place(make_problem, monkeypatch):
    problem, _ = make_problem(n_classes=3)
    raw = GSRHF(step_norm=0, lr=0.5, clip=0.3)
    found = take(raw, problem, 6)

    def identity(self, at, right, **more):
        return Inverted(right)

    monkeypatch.setattr(GSR, "invert", identity)
    for one, two in zip(take(GSR(lr=0.5, clip=0.3), problem, 6), found, strict=True):
        torch.testing.assert_close(one.influence, two.influence)
        torch.testing.assert_close(one.sample_weight, two.sample_weight)


def test_without_the_hessian_the_score_is_minus_the_gradients_inner_product(make_problem):
    problem, _ = make_problem(n_classes=3)
    method = GSRHF(l2=0.03)
    (step,) = take(method, problem, 1)
    inner = method.inner(problem)
    u = inner.fit(step.sample_weight, inner.zero()).state.u.requires_grad_()

    def losses(design, labels):
        return cross_entropy(design @ u @ inner.basis.T, labels, reduction="none")

    target = inner.scored(problem.target)
    own = losses(inner.design, inner.labels)
    for i in (0, 17, 60):
        (of_sample,) = torch.autograd.grad(own[i] + 0.03 * u.square().sum(), u, retain_graph=True)
        for g in range(problem.n_groups):
            of_group = losses(target.losses.design, target.losses.labels)[
                target.groups[:, g]
            ].mean()
            (slope,) = torch.autograd.grad(of_group, u)
            expected = -(of_sample * slope).sum()
            torch.testing.assert_close(step.influence[i, g], expected, rtol=1e-6, atol=1e-10)
    assert (step.sample_weight @ step.influence).abs().max() < 1e-7


@pytest.mark.parametrize("step_norm", [0.2, 1.0])
def test_every_update_has_the_same_norm(make_problem, step_norm):
    problem, _ = make_problem()
    n = len(problem.weighted)
    method = GSRHF(step_norm=step_norm, lr=0.5, clip=1e-6, temperature=0.3)
    one, two = take(method, problem, 2)
    xi = one.influence @ one.group_weight
    xi = xi * step_norm / (n**0.5 * xi.norm())
    assert float((xi * n).square().mean().sqrt()) == pytest.approx(step_norm)
    moved = (one.sample_weight - 0.5 * xi).clamp(min=0)
    torch.testing.assert_close(two.sample_weight, moved / moved.sum())
    assert not one.clipped


def test_an_update_of_nothing_stays_nothing():
    nothing = torch.zeros(3, dtype=torch.float64)
    assert torch.equal(rescale(nothing, 1.0), nothing)


def test_a_scaled_neumann_series_is_within_its_accuracy_of_gsr(make_problem):
    problem, _ = make_problem(n_classes=3)
    (exact,) = take(GSR(l2=0.1), problem, 1)
    (found,) = take(GSRLiSSA(l2=0.1, accuracy=1e-3), problem, 1)
    scale = float(exact.influence.abs().max())
    torch.testing.assert_close(found.influence, exact.influence, rtol=0, atol=1e-2 * scale)
    assert found.solved
    assert "largest_eigenvalue" in found.note


def test_a_series_cut_short_says_so(make_problem):
    (step,) = take(GSRLiSSA(max_depth=3), make_problem()[0], 1)
    assert not step.solved
    assert step.note.startswith("Neumann series of 3 terms")


def test_the_published_neumann_series_is_nearly_without_the_hessian(make_problem):
    problem, _ = make_problem()
    (published,) = take(GSRLiSSA(scaling="published"), problem, 1)
    (free,), (exact,) = take(GSRHF(), problem, 1), take(GSR(), problem, 1)
    like_free = correlation(published.influence, free.influence)
    like_exact = correlation(published.influence, exact.influence)
    assert like_free > 0.99
    assert 1 - like_free < 0.1 * (1 - like_exact)
    # Every direction of little curvature is scaled alike, by about (depth + 1) / sigma.
    ratio = published.influence.norm() / free.influence.norm()
    assert float(ratio) == pytest.approx(0.1, rel=0.05)
    assert "1,000 terms with sigma 1e+04 (published)" in published.note


@pytest.mark.parametrize("method", VARIANTS)
def test_a_continued_run_equals_one_long_run_bit_by_bit(make_problem, method):
    problem, _ = make_problem(d=70)
    if problem.compute.device.type != "cpu":
        pytest.skip("bits are promised on a CPU only")
    whole = take(method(), problem, 5)
    stored = load(save({k: v.contiguous() for k, v in whole[1].checkpoint.items()}))
    for one, two in zip(whole[2:], take(method(), problem, 3, stored), strict=True):
        assert torch.equal(one.sample_weight, two.sample_weight)
        assert torch.equal(one.head.weight, two.head.weight)


def test_settings_of_gsr_are_those_of_stored_runs():
    assert set(GSR().settings()) == {
        *METHODS["llr"]().settings(),
        *("steps", "lr", "temperature", "clip", "lr_decay", "lr_decay_every"),
        "patience",
        *("group_signal", "gamma_update"),
    }


@pytest.mark.parametrize("method", VARIANTS)
def test_the_worst_group_gains(make_problem, method):
    problem, test = make_problem(n=300, n_target=300, d=20, minority=0.05)

    def worst(result):
        rows = result.history.query("split == 'test' and metric == 'worst_group_accuracy'")
        return float(rows.set_index("step")["value"][result.step_index])

    found = fit(method(steps=20, temperature=0.3), problem, GROUPS, test=test)
    assert worst(found) > worst(fit(LLR(), problem, GROUPS, test=test)) + 0.1
