from dataclasses import replace
from itertools import islice

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load, save

from gsr_core.methods import gsr, inner
from gsr_core.methods.fit import fit
from gsr_core.methods.gsr import GSR, project
from gsr_core.methods.gsr_variants import GSRCG, GSRHF, GSRLiSSA
from gsr_core.metrics import group_scores

NAMES = ["a0", "a1", "b0", "b1", "c0", "c1"]


def take(method, problem, count, checkpoint=None):
    return list(islice(method.iterate(problem, checkpoint), count))


def scores(step, rows):
    return group_scores(step.head, rows.features.double(), rows.labels, rows.groups)


def moved_by_hand(weight, influence, gamma, lr, clip):
    xi = influence @ gamma / len(weight)
    norm = np.sqrt((xi**2).sum())
    if clip and norm > clip:
        xi *= clip / norm
    moved = np.maximum(weight - lr * xi, 0)
    return moved / moved.sum()


@pytest.fixture
def exactly(monkeypatch):
    """Solve each step as exactly as the influence that is shown."""
    monkeypatch.setattr(gsr, "_ACCURACY", 0.0)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("clip", [0.0, 1e-4, 1.0])
@pytest.mark.usefixtures("exactly")
def test_one_solve_a_step_moves_the_weights_as_the_influence_on_each_group_says(
    make_problem, n_classes, clip
):
    problem, _ = make_problem(n_classes=n_classes)
    method = GSR(lr=2.0, temperature=0.5, clip=clip, lr_decay=0.5, lr_decay_every=3)
    steps = take(method, problem, 8)
    n = len(problem.weighted)
    weight, gamma = np.full(n, 1 / n), np.full(2 * n_classes, 1 / (2 * n_classes))
    for t, step in enumerate(steps):
        np.testing.assert_allclose(
            step.sample_weight.cpu(), weight, rtol=1e-9, atol=1e-9 * weight.max()
        )
        gamma = gamma * np.exp(scores(step, problem.target).loss / 0.5)
        gamma /= gamma.sum()
        np.testing.assert_allclose(step.group_weight.cpu(), gamma, rtol=1e-6)
        lr = 2.0 * 0.5 ** (t // 3)
        assert step.step_size == lr
        influence = step.influence.cpu().numpy()
        assert step.clipped == (0 < clip < np.linalg.norm(influence @ gamma / n))
        weight = moved_by_hand(weight, influence, step.group_weight.cpu().numpy(), lr, clip)
    if clip == 1e-4:
        assert all(step.clipped for step in steps)


def test_the_step_size_falls_from_update_31_on(make_problem):
    problem, _ = make_problem(n=40)
    sizes = [step.step_size for step in take(GSR(), problem, 61)]
    assert sizes[:30] == [1.0] * 30
    assert sizes[30:60] == [0.1] * 30
    assert sizes[60] == pytest.approx(0.01)


def test_group_weights_stay_finite_when_their_logarithms_are_huge(make_problem):
    problem, _ = make_problem()
    steps = take(GSR(temperature=1e-4), problem, 5)
    assert all(step.group_weight.isfinite().all() for step in steps)
    assert all(float(step.group_weight.sum()) == pytest.approx(1) for step in steps)


def test_a_large_temperature_keeps_group_weights_uniform(make_problem):
    problem, _ = make_problem()
    for step in take(GSR(temperature=1e9), problem, 5):
        torch.testing.assert_close(step.group_weight, torch.full_like(step.group_weight, 0.25))


@pytest.mark.parametrize(("rule", "matters"), [("paper", True), ("reference", False)])
def test_temperature_matters_to_the_rule_of_the_paper_only(make_problem, rule, matters):
    problem, _ = make_problem()
    one, two = (
        take(GSR(gamma_update=rule, temperature=temperature), problem, 4)[-1]
        for temperature in (0.1, 10.0)
    )
    assert torch.equal(one.sample_weight, two.sample_weight) != matters


@pytest.mark.parametrize("signal", ["target_loss", "target_error", "val_loss", "val_error"])
def test_each_signal_is_what_its_name_says(make_problem, signal):
    problem, _ = make_problem()
    step = take(GSR(group_signal=signal), problem, 1)[0]
    split, kind = signal.split("_")
    score = scores(step, getattr(problem, split))
    risk = score.loss if kind == "loss" else 1 - score.accuracy
    expected = np.exp(risk) / np.exp(risk).sum()
    np.testing.assert_allclose(step.group_weight.cpu(), expected, rtol=1e-6)


def test_a_group_absent_from_val_gives_no_signal(make_problem):
    problem, _ = make_problem()
    keep = ~problem.val.groups[:, 0]
    val = replace(
        problem.val,
        source=problem.val.features[keep],
        labels=problem.val.labels[keep],
        groups=problem.val.groups[keep],
    )
    step = take(GSR(group_signal="val_loss"), replace(problem, val=val), 1)[0]
    assert step.group_weight.isfinite().all()
    assert step.group_weight.argmin() == 0


def test_a_step_that_would_leave_no_weight_is_halved():
    weight = torch.tensor([0.5, 0.5], dtype=torch.float64)
    xi = torch.tensor([1.0, 2.0], dtype=torch.float64)
    moved, size = project(weight, xi, 3.0)
    assert size == 0.375
    torch.testing.assert_close(moved, torch.tensor([1.0, 0.0], dtype=torch.float64))


def test_a_derivative_that_is_not_finite_ends_the_step_and_not_in_a_loop():
    weight = torch.tensor([0.5, 0.5], dtype=torch.float64)
    moved, _ = project(weight, torch.tensor([torch.nan, 1.0], dtype=torch.float64), 1.0)
    assert moved.isnan().all()


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("d", [6, 120])
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("rough", [False, True])
def test_a_continued_run_equals_one_long_run_bit_by_bit(
    make_problem, request, n_classes, d, stored, rough
):
    if rough:
        request.getfixturevalue("in_float32")
    problem, _ = make_problem(n_classes=n_classes, d=d)
    if problem.compute.device.type != "cpu":
        pytest.skip("bits are promised on a CPU only")
    names = NAMES[: problem.n_groups]
    method = GSR(steps=9, lr=3.0, temperature=0.3)
    whole = fit(method, problem, names)
    first = fit(method, problem, names, monitor=lambda progress: progress.step_index == 4)
    assert first.last_index == 4
    if stored:
        checkpoint = load(save({k: v.contiguous() for k, v in first.last.checkpoint.items()}))
        first = replace(first, last=replace(first.last, checkpoint=checkpoint))
    second = fit(method, problem, names, resume=first)
    assert second.step_index == whole.step_index
    assert torch.equal(second.step.head.weight, whole.step.head.weight)
    for name in ("weight", "bias"):
        assert torch.equal(getattr(second.last.head, name), getattr(whole.last.head, name))
    assert torch.equal(second.last.sample_weight, whole.last.sample_weight)
    assert torch.equal(second.last.influence, whole.last.influence)
    for key, value in whole.last.checkpoint.items():
        assert torch.equal(second.last.checkpoint[key], value), key
    timeless = [
        result.history[result.history["metric"] != "seconds"].reset_index(drop=True)
        for result in (whole, second)
    ]
    assert timeless[0].equals(timeless[1])


@pytest.mark.parametrize(("n_classes", "d"), [(2, 6), (2, 120), (3, 20)])
@pytest.mark.parametrize("settings", [{}, {"lr": 0.01, "temperature": 0.1}])
def test_a_hundred_steps_solved_as_they_need_agree_with_exact_ones(
    make_problem, monkeypatch, n_classes, d, settings
):
    problem, _ = make_problem(n_classes=n_classes, d=d, n=120)

    def weights(accuracy, exact):
        monkeypatch.setattr(gsr, "_ACCURACY", accuracy)
        monkeypatch.setattr(gsr, "EXACT", exact)
        return torch.stack([step.sample_weight for step in take(GSR(**settings), problem, 100)])

    def apart(one, two):
        return float(((one - two).norm(dim=1) / two.norm(dim=1)).max())

    needed, exact = weights(gsr._ACCURACY, gsr.EXACT), weights(0.0, gsr.EXACT)
    # Large steps amplify whatever differs; how much, a still more exact path shows.
    amplified = apart(exact, weights(0.0, 1e-12))
    assert apart(needed, exact) <= 1e-6 + 10 * amplified
    assert amplified <= 1e-5


@pytest.fixture
def in_float32(monkeypatch):
    """Keep a float32 copy of the rows however small the problem is."""
    monkeypatch.setattr(inner, "_WORTH_ROUGH", 0)


def on_cpu(problem):
    if problem.compute.device.type != "cpu":
        pytest.skip("a GPU has its rows in float32 anyway")


@pytest.mark.parametrize("n_classes", [2, 3])
def test_products_in_float32_move_the_weights_as_exact_ones_do(make_problem, request, n_classes):
    problem, _ = make_problem(n_classes=n_classes, d=20, n=120)
    on_cpu(problem)
    method = GSR(lr=0.01, temperature=0.1)
    exact = take(method, problem, 40)
    request.getfixturevalue("in_float32")
    for one, two in zip(take(method, problem, 40), exact, strict=True):
        assert one.solved
        assert one.relative_gradient_norm <= 1e-8
        apart = float((one.sample_weight - two.sample_weight).norm())
        assert 0 <= apart <= 1e-6 * float(two.sample_weight.norm())
        scale = float(two.influence.abs().max())
        torch.testing.assert_close(one.influence, two.influence, rtol=0, atol=1e-6 * scale)
    assert not torch.equal(one.sample_weight, two.sample_weight)


@pytest.mark.usefixtures("in_float32")
def test_a_penalty_too_small_for_float32_keeps_all_products_exact(make_problem):
    problem, _ = make_problem(d=20)
    on_cpu(problem)
    for l2, rough in ((0.01, True), (1e-6, False)):
        part = GSR(l2=l2).inner(problem)
        assert (part.objective(part.uniform()).rough is not None) == rough


def test_the_influence_is_computed_when_asked_for_and_is_the_same_whenever_that_is(make_problem):
    problem, _ = make_problem(n_classes=3)
    asked = [step.influence for step in islice(GSR().iterate(problem), 12)]
    later = take(GSR(), problem, 12)
    assert not any("measured" in vars(step) for step in later)
    for one, two in zip(asked, later, strict=True):
        assert torch.equal(one, two.influence)
        # A column for each group; they average to zero under the weights.
        assert two.influence.shape == (len(problem.weighted), problem.n_groups)
        assert (two.sample_weight @ two.influence).abs().max() < 1e-7


@pytest.mark.parametrize("method", [GSR(), GSRCG(), GSRHF(), GSRLiSSA()])
def test_the_influence_of_a_step_depends_on_its_weights_and_head_only(make_problem, method):
    problem, _ = make_problem(n_classes=3)
    on_cpu(problem)
    step = take(method, problem, 4)[-1]
    again = method.influence(problem, step.sample_weight, step.u)()
    assert torch.equal(again.values, step.influence)


@pytest.mark.parametrize("rule", ["worst_group", "worst_group_earliest"])
def test_the_kept_step_is_the_best_by_its_rule(make_problem, rule):
    problem, _ = make_problem(n_target=24)
    result = fit(GSR(steps=12, lr=5.0, selection=rule), problem, NAMES[:4])
    rows = result.history[(result.history["split"] == "val") & (result.history["group"] == "")]
    table = rows.pivot(index="step", columns="metric", values="value")
    tied = table[table["worst_group_accuracy"] == table["worst_group_accuracy"].max()]
    best = tied.index[0] if rule == "worst_group_earliest" else tied["worst_group_loss"].idxmin()
    assert result.step_index == best


@pytest.mark.parametrize("patience", [1, 4])
def test_a_run_ends_so_many_steps_after_its_best(make_problem, patience):
    problem, _ = make_problem(n_target=24)
    whole = fit(GSR(steps=40, lr=5.0), problem, NAMES[:4])
    short = fit(GSR(steps=40, lr=5.0, patience=patience), problem, NAMES[:4])
    assert short.status == "finished"
    assert short.last_index == short.step_index + patience < whole.last_index
    steps = whole.history[whole.history["metric"] != "seconds"]
    seen = short.history[short.history["metric"] != "seconds"]
    pd.testing.assert_frame_equal(
        seen.reset_index(drop=True),
        steps[steps["step"] <= short.last_index].reset_index(drop=True),
    )


def test_the_worst_group_of_the_gaussian_toy_rises_from_below_0_3_to_above_0_7(make_problem):
    problem, test = make_problem(n=500, n_target=600, d=30, minority=0.05)
    method = GSR(steps=60, lr=1.0, temperature=0.1, l2=0.1, standardise=False)
    result = fit(method, problem, NAMES[:4], test=test)
    rows = result.history[
        (result.history["split"] == "test") & (result.history["metric"] == "worst_group_accuracy")
    ].set_index("step")["value"]
    assert rows[1] < 0.3
    assert rows[result.step_index] > 0.7
    minority = problem.weighted.groups[:, 1] | problem.weighted.groups[:, 2]
    assert float(result.step.sample_weight[minority].sum()) > 0.3
