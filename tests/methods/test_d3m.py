from dataclasses import replace

import numpy as np
import pytest
import torch

from gsr_core.data.problem import Problem, Rows
from gsr_core.errors import SettingError
from gsr_core.linear.influence import mean_shares
from gsr_core.methods import d3m
from gsr_core.methods.d3m import (
    D3M,
    AutoD3M,
    coefficients,
    deletion_effects,
    first_component,
    kept_rows,
    leverages,
)
from gsr_core.methods.fit import fit
from gsr_core.methods.inner import Fitted, InnerProblem
from gsr_core.methods.llr import LLR

GROUPS = ["a0", "a1", "b0", "b1"]
TOY = {"l2": 0.1, "standardise": False}


def toy_rows(rng, n, conflict, compute) -> Rows:
    """Unit noise in 30 features; 0 follows the class weakly, 1 the attribute strongly."""
    labels = rng.integers(2, size=n)
    attribute = np.where(rng.random(n) < conflict, 1 - labels, labels)
    features = rng.normal(size=(n, 30))
    features[:, 0] += 2 * labels - 1
    features[:, 1] += 3 * (2 * attribute - 1)
    group = 2 * labels + attribute
    return Rows(
        source=torch.from_numpy(features.astype(np.float32)).to(compute.device),
        labels=torch.from_numpy(labels).to(compute.device),
        groups=torch.from_numpy(group[:, None] == np.arange(4)).to(compute.device),
        position=np.arange(n),
    )


@pytest.fixture
def toy(compute):
    """A problem whose fit rows follow the attribute but for one in twenty, and its test rows."""

    def toy(seed, n=500):
        rng = np.random.default_rng(seed)
        weighted = toy_rows(rng, n, 0.05, compute)
        target, val = (toy_rows(rng, 600, 0.5, compute) for _ in range(2))
        problem = Problem(weighted, target, val, n_classes=2, compute=compute)
        return problem, toy_rows(rng, 4000, 0.5, compute)

    return toy


def fitted(problem, l2=0.1, standardise=False) -> tuple[Fitted, InnerProblem]:
    inner = InnerProblem(problem, problem.weighted, l2=l2, standardise=standardise)
    state = inner.fit(inner.uniform(), inner.zero()).state
    target = inner.scored(problem.target)
    objective = inner.objective(inner.uniform())
    return Fitted(inner.solver, objective, state, target, target.at(state.u)), inner


def effects_on_groups(at) -> torch.Tensor:
    return deletion_effects(at, mean_shares(at.target.groups, at.state.u))[0]


def per_sample(losses, u) -> torch.Tensor:
    """(n, p c) gradient of each loss, by its definition."""
    residuals = losses.residuals(losses.at(u))
    return torch.stack(
        [torch.outer(x, e).T.flatten() for x, e in zip(losses.design, residuals, strict=True)]
    )


def dense(at) -> torch.Tensor:
    """(N, n) each pair's effect, with dense matrices."""
    ours, theirs = (per_sample(each, at.state.u) for each in (at.objective, at.target.losses))
    return theirs @ torch.linalg.solve(at.objective.hessian(at.state), ours.T) / len(ours)


def kept_accuracy(method, problem, test) -> float:
    result = fit(method, problem, GROUPS, test=test)
    rows = result.history.query("split == 'test' and metric == 'worst_group_accuracy'")
    return float(rows.set_index("step")["value"][result.step_index])


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_effects_are_those_of_dense_matrices(make_problem, n_classes):
    at, _ = fitted(make_problem(n_classes=n_classes)[0], l2=0.02, standardise=True)
    expected = dense(at).T @ mean_shares(at.target.groups, at.state.u)
    torch.testing.assert_close(effects_on_groups(at), expected, rtol=1e-8, atol=1e-12)


def errors_of_prediction(problem) -> tuple[np.ndarray, np.ndarray]:
    """Relative errors of the 20 largest effects on the worst group, without and with leverage."""
    at, inner = fitted(problem)
    before = at.target.group_means(at.on_target.losses)
    worst = int(before.argmax())
    effect = effects_on_groups(at)[:, worst]
    largest = effect.abs().argsort(descending=True)[:20]
    actual = []
    for row in largest:
        # The other rows keep their weight, so that the penalty does.
        weight = inner.uniform().clone()
        weight[row] = 0
        after = at.target.at(inner.fit(weight, at.state.u).state.u).losses
        actual.append(at.target.group_means(after)[worst] - before[worst])
    actual = torch.stack(actual)
    corrected = effect / (1 - leverages(at, inner.design))
    return tuple((each[largest] / actual - 1).abs().cpu().numpy() for each in (effect, corrected))


def test_deleting_a_row_does_what_is_predicted_and_more_so_the_more_rows_there_are(toy):
    plain, corrected = errors_of_prediction(toy(0)[0])
    assert np.median(plain) < 0.12
    assert plain.max() < 0.18
    assert np.median(corrected) < 0.05
    assert corrected.max() < 0.09
    more, more_corrected = errors_of_prediction(toy(0, n=2000)[0])
    assert np.median(more) < np.median(plain) / 2
    assert np.median(more_corrected) < np.median(corrected)


def test_the_effects_sum_to_what_the_penalty_says(make_problem):
    at, _ = fitted(make_problem(n_classes=3)[0])
    u = at.state.u
    gradients = at.gradients(mean_shares(at.target.groups, u)).transpose(0, 1).flatten(0, 1)
    solved = torch.linalg.solve(at.objective.hessian(at.state), gradients)
    expected = -solved.T @ (2 * 0.1 * u).T.flatten()
    torch.testing.assert_close(effects_on_groups(at).sum(dim=0), expected, rtol=0, atol=1e-9)


def test_but_for_their_mean_they_are_the_influence_of_the_normalised_weights(make_problem):
    at, inner = fitted(make_problem(n_classes=3)[0])
    influence = inner.influence(inner.uniform(), at.state.u, at.target)().values
    effects = effects_on_groups(at)
    torch.testing.assert_close(
        effects - effects.mean(dim=0), -influence / len(effects), rtol=1e-6, atol=1e-10
    )


def test_a_row_helps_its_own_loss(make_problem):
    problem, _ = make_problem(n=40, n_classes=3)
    alone = torch.eye(40, dtype=torch.bool, device=problem.compute.device)
    at, _ = fitted(replace(problem, target=replace(problem.weighted, groups=alone)))
    assert (effects_on_groups(at).diagonal() >= 0).all()


def test_copies_of_a_row_have_equal_effects(make_problem):
    problem, _ = make_problem()
    rows, twice = problem.weighted, torch.arange(80).repeat(2)
    copies = Rows(rows.features[twice], rows.labels[twice], rows.groups[twice], np.arange(160))
    effects = effects_on_groups(fitted(replace(problem, weighted=copies))[0])
    torch.testing.assert_close(effects[:80], effects[80:], rtol=1e-10, atol=1e-14)


def test_the_leverage_is_that_of_the_binary_hessian(make_problem):
    at, inner = fitted(make_problem()[0])
    design, n = inner.design, len(inner.design)
    s = at.state.probabilities.prod(dim=1)
    hessian = design.T @ (s[:, None] * design) / n + 0.1 * torch.eye(design.shape[1]).to(s)
    expected = s * (design @ torch.linalg.inv(hessian) * design).sum(dim=1) / n
    torch.testing.assert_close(leverages(at, design), expected, rtol=1e-9, atol=0)
    assert (expected < 1).all()


def test_the_leverage_changes_the_order_alone_and_is_for_two_classes(make_problem):
    problem, _ = make_problem()
    notes = [next(D3M(leverage=on, drop="negative").iterate(problem)).note for on in (True, False)]
    assert notes[0] == notes[1]
    with pytest.raises(SettingError, match="leverage is on, but there are 3 classes"):
        next(D3M(leverage=True).iterate(make_problem(n_classes=3)[0]))


def test_coefficients_are_as_defined_and_leave_out_a_group_without_rows():
    losses = torch.tensor([0.2, 0.6, 0.0, 0.4], dtype=torch.float64)
    present = torch.tensor([True, True, False, True])
    for kind, expected in (
        ("loss", [1 / 6, 1 / 2, 0, 1 / 3]),
        ("worst", [0, 1, 0, 0]),
        ("softmax", np.array([np.exp(0.4), np.exp(1.2), 0, np.exp(0.8)])),
    ):
        expected = torch.tensor(expected, dtype=torch.float64)
        torch.testing.assert_close(
            coefficients(losses, present, kind, 2.0), expected / expected.sum()
        )
    worst = coefficients(losses, present, "worst", 1.0)
    torch.testing.assert_close(coefficients(losses, present, "softmax", 1e4), worst)
    uniform = coefficients(losses, present, "softmax", 0.0)
    torch.testing.assert_close(uniform, present / present.sum().double())
    # A group whose loss is the highest of none.
    assert coefficients(torch.zeros(2), torch.tensor([False, True]), "worst", 1.0)[1] == 1


def test_the_lowest_go_but_five_of_each_class_stay(make_problem):
    rows = make_problem(n_classes=3)[0].weighted
    score = torch.randn(80, generator=torch.Generator().manual_seed(0)).to(rows.labels.device)
    before = torch.ones(80, dtype=torch.bool, device=score.device)
    for count in (0, 1, 20, 50, 80):
        kept = kept_rows(score, rows, count)
        assert int((~kept).sum()) == min(count, 80 - 15)
        assert not (kept & ~before).any()
        for label in range(3):
            own = score[rows.labels == label]
            assert kept[rows.labels == label][own.argsort(descending=True)[:5]].all()
        before = kept
    assert torch.equal(kept_rows(score, rows, 10), score >= score.sort().values[10])
    # Of equals those that come first in the bundle, whatever their order in memory.
    equal = kept_rows(torch.zeros_like(score), replace(rows, position=np.arange(80)[::-1]), 3)
    assert (~equal).nonzero()[:, 0].tolist() == [77, 78, 79]


def test_steps_drop_evenly_more_and_the_first_is_the_plain_refit(make_problem):
    problem, _ = make_problem()
    steps = list(D3M(steps=5, most=0.8).iterate(problem))
    sizes = [int((step.sample_weight > 0).sum()) for step in steps]
    assert sizes == [80, 64, 48, 32, 16]
    plain = next(LLR().iterate(problem))
    torch.testing.assert_close(steps[0].head.weight, plain.head.weight, rtol=1e-6, atol=1e-8)
    inner = InnerProblem(problem, problem.weighted, l2=0.01, standardise=True)
    for step, size in zip(steps, sizes, strict=True):
        on = step.sample_weight[step.sample_weight > 0]
        torch.testing.assert_close(on, torch.full_like(on, 1 / size))
        expected = inner.step(step.sample_weight).head.weight
        torch.testing.assert_close(step.head.weight, expected, rtol=1e-6, atol=1e-8)
        assert step.note.startswith(f"{80 - size} of 80 samples are dropped")


def test_the_dropped_are_those_of_lowest_alignment(make_problem):
    problem, _ = make_problem(n_classes=3)
    at, _ = fitted(problem, l2=0.01, standardise=True)
    losses = at.target.group_means(at.on_target.losses)
    score = effects_on_groups(at) @ losses.softmax(dim=0)
    _, step = D3M(steps=2, most=0.4).iterate(problem)
    assert torch.equal(step.sample_weight > 0, kept_rows(score, problem.weighted, 32))
    torch.testing.assert_close(step.group_weight, losses.softmax(dim=0))
    (step,) = D3M(drop="negative").iterate(problem)
    below = int((score < 0).sum())
    assert torch.equal(step.sample_weight > 0, kept_rows(score, problem.weighted, below))
    assert step.note.endswith(f"{below} have a score below zero.")
    assert D3M(drop="negative").labels_used == ("target",)
    assert D3M().labels_used == ("target", "val")


def test_dropping_few_lowers_the_loss_of_the_only_group(toy):
    problem, _ = toy(0)
    everyone = torch.ones_like(problem.target.groups[:, :1])
    problem = replace(problem, target=replace(problem.target, groups=everyone))
    at, inner = fitted(problem)
    losses = [float(at.on_target.losses.mean())]
    for step in list(D3M(coefficients="worst", steps=11, most=0.1, **TOY).iterate(problem))[1:]:
        u = inner.fit(step.sample_weight, inner.zero()).state.u
        losses.append(float(at.target.at(u).losses.mean()))
    assert (np.diff(losses) < 0).all()


def test_overlapping_groups_and_one_without_rows_count_as_they_are(make_problem):
    problem, _ = make_problem()
    groups = problem.target.groups.clone()
    groups[:, 1], groups[:, 3] = groups[:, 0] | groups[:, 1], False
    problem = replace(problem, target=replace(problem.target, groups=groups))
    step = next(D3M().iterate(problem))
    assert step.group_weight[3] == 0
    assert step.head.weight.isfinite().all()


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("at_once", [2**26, 400])
def test_the_sides_are_those_of_a_plain_principal_component(
    make_problem, n_classes, at_once, monkeypatch
):
    monkeypatch.setattr(d3m, "_AT_ONCE", at_once)
    problem, _ = make_problem(n_classes=n_classes)
    at, inner = fitted(problem)
    on_val = replace(at, target=inner.scored(problem.val))
    step = next(AutoD3M(**TOY).iterate(problem))
    vectors = [each / each.norm(dim=1, keepdim=True) for each in (dense(at), dense(on_val))]
    side_of_val = step.inferred_val.int().argmax(dim=1)
    for label in range(n_classes):
        in_target, in_val = (rows.labels == label for rows in (problem.target, problem.val))
        own = vectors[0][in_target]
        component = torch.linalg.svd(own - own.mean(dim=0)).Vh[0]
        direction = first_component(at, in_target).columns
        along = at.target.losses.gradient_products(at.on_target, direction)[in_target, 0]
        along = along / dense(at)[in_target].norm(dim=1)
        expected = own @ component
        cosine = along @ expected / along.norm() / expected.norm()
        assert float(cosine.abs()) == pytest.approx(1, abs=1e-8)
        side = vectors[1][in_val] @ component * cosine.sign() > 0
        assert torch.equal(side_of_val[in_val], 2 * label + side.int())


def test_auto_reads_no_group_at_all(make_problem):
    problem, _ = make_problem()
    assert AutoD3M().labels_used == ()
    assert AutoD3M(drop="negative", selection="worst_group").labels_used == ()
    step = next(AutoD3M().iterate(problem))
    assert step.group_weight is None
    assert len(step.inferred_group) == 80
    assert (step.inferred_group // 2 == problem.weighted.labels).all()
    assert "The smaller sides of the classes have" in step.note


@pytest.mark.parametrize("left", [[0], [0, 1, 1]])
def test_auto_does_not_mind_a_class_that_target_lacks_or_has_once(make_problem, left):
    problem, _ = make_problem(n_classes=3)
    rows = problem.target
    index = torch.cat([torch.where(rows.labels == each)[0][:1] for each in left])
    few = Rows(rows.features[index], rows.labels[index], rows.groups[index], np.arange(len(left)))
    result = fit(AutoD3M(steps=3), replace(problem, target=few), [str(each) for each in range(6)])
    assert result.status == "finished"
    assert result.step.solved


@pytest.mark.parametrize("method", [D3M, AutoD3M])
def test_a_continued_run_is_one_long_run(make_problem, method):
    problem, _ = make_problem()
    whole = list(method(steps=5).iterate(problem))
    rest = list(method(steps=5).iterate(problem, whole[1].checkpoint))
    assert len(rest) == 3
    for one, two in zip(rest, whole[2:], strict=True):
        assert torch.equal(one.head.weight, two.head.weight)
        assert torch.equal(one.sample_weight, two.sample_weight)


@pytest.mark.parametrize("method", [D3M, AutoD3M])
def test_a_solve_that_falls_short_is_no_solution(make_problem, exact_solves_stall, method):
    step = next(method().iterate(make_problem()[0]))
    assert not step.solved
    assert exact_solves_stall in step.note


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_on_the_toy_many_go_and_the_worst_group_gains(toy, seed):
    problem, test = toy(seed)
    assert kept_accuracy(LLR(**TOY), problem, test) < 0.15
    assert kept_accuracy(D3M(**TOY), problem, test) > 0.75
    assert kept_accuracy(AutoD3M(**TOY), problem, test) > 0.75
    # Zero is no threshold of a head: most rows go, if none of the conflicting ones.
    (step,) = D3M(drop="negative", **TOY).iterate(problem)
    dropped = step.sample_weight == 0
    assert int(dropped.sum()) > 400
    conflicting = problem.weighted.groups[:, 1] | problem.weighted.groups[:, 2]
    assert not (dropped & conflicting).any()
    assert 0.5 < kept_accuracy(D3M(drop="negative", **TOY), problem, test) < 0.75
    # The sides are those of the attribute, within each class.
    side = next(AutoD3M(**TOY).iterate(problem)).inferred_val.int().argmax(dim=1) % 2
    attribute = problem.val.groups.int().argmax(dim=1) % 2
    for label in (0, 1):
        same = (side == attribute)[problem.val.labels == label].double().mean()
        assert max(same, 1 - same) > 0.88
