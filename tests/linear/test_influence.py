from dataclasses import replace

import pytest
import torch

from gsr_core.linear import objective as objectives
from gsr_core.linear.feature_map import FeatureMap
from gsr_core.linear.influence import Inverted, influence, mean_shares, predicted_change
from gsr_core.linear.iterative import SolveEnding
from gsr_core.linear.objective import Objective, centred_basis
from gsr_core.linear.solver import Solver

N_GROUPS = 3


def minimum(objective, start=None):
    start = objective.zero() if start is None else start
    fit = Solver().minimise(objective, start, tolerance=1e-13)
    assert fit.relative_gradient_norm < 1e-12
    return fit.state


@pytest.fixture
def target(make_objective):
    """Target rows of the same kind and overlapping groups, the last with every row."""

    def make(n_classes):
        rows = make_objective(n=40, n_classes=n_classes, seed=5)
        generator = torch.Generator().manual_seed(9)
        groups = torch.rand(40, N_GROUPS, generator=generator) < 0.4
        groups[:, -1] = True
        return rows.design, rows.labels, groups.to(rows.labels.device)

    return make


def group_losses(objective, u, target):
    design, labels, groups = target
    log_probabilities = torch.log_softmax(design @ u @ objective.basis.T, dim=1)
    losses = -log_probabilities[torch.arange(len(labels)), labels]
    return torch.stack([losses[column].mean() for column in groups.T])


def gradients_of(objective, state, target):
    design, labels, groups = target
    share = mean_shares(groups, state.u)
    rows = replace(objective, design=design, labels=labels, sample_weight=share[:, 0])
    return rows.loss_gradients(rows.at(state.u), share)


def invert(objective, state, tolerance):
    solver = Solver()

    def solve(right):
        solution = solver.solve(objective, state, right, tolerance=tolerance)
        return Inverted(solution.columns, solution.ending)

    return solve


def influence_of(objective, state, target, tolerance=1e-12):
    gradients = gradients_of(objective, state, target)
    parts = gradients.split(2, dim=2)
    return influence(invert(objective, state, tolerance), objective, state, parts).values


@pytest.mark.parametrize("n_classes", [2, 3])
def test_group_gradients_equal_autograd(make_objective, target, n_classes):
    objective = make_objective(n_classes=n_classes)
    rows = target(n_classes)
    state = minimum(objective)
    expected = torch.autograd.functional.jacobian(
        lambda u: group_losses(objective, u, rows), state.u
    )
    torch.testing.assert_close(gradients_of(objective, state, rows), expected.permute(1, 2, 0))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_influence_is_what_nudging_a_weight_and_refitting_measures(
    make_objective, target, n_classes
):
    objective = make_objective(n_classes=n_classes)
    rows = target(n_classes)
    state = minimum(objective)
    actual = influence_of(objective, state, rows)
    step = 2e-5
    for i in [0, 7, 31, 59]:
        ends = []
        for sign in (1, -1):
            weight = objective.sample_weight.clone()
            weight[i] += sign * step
            nudged = replace(objective, sample_weight=weight / weight.sum())
            ends.append(group_losses(objective, minimum(nudged, state.u).u, rows))
        measured = (ends[0] - ends[1]) / (2 * step)
        torch.testing.assert_close(actual[i], measured, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_without_renormalising_the_penalty_leaves_the_influence(make_objective, target, n_classes):
    # The weights of F(w) = sum_i w_i l_i + l2 |theta|^2 need not sum to one.
    objective = make_objective(n_classes=n_classes)
    rows = target(n_classes)
    state = minimum(objective)
    actual = influence_of(objective, state, rows)
    # By stationarity, the two derivatives differ by one constant for each group.
    gradients = gradients_of(objective, state, rows)
    solved = Solver().solve(objective, state, gradients, tolerance=1e-12).columns
    raw = actual + 2 * objective.l2 * torch.einsum("pc,pcm->m", state.u, solved)
    step = 2e-5
    for i in [0, 31]:
        ends = []
        for sign in (1, -1):
            weight = objective.sample_weight.clone()
            weight[i] += sign * step
            nudged = replace(objective, sample_weight=weight)
            ends.append(group_losses(objective, minimum(nudged, state.u).u, rows))
        measured = (ends[0] - ends[1]) / (2 * step)
        torch.testing.assert_close(raw[i], measured, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_influences_average_to_zero_under_the_weights(make_objective, target, n_classes):
    objective = make_objective(n_classes=n_classes)
    actual = influence_of(objective, minimum(objective), target(n_classes))
    assert (objective.sample_weight @ actual).abs().max() < 1e-10


def test_a_sample_of_weight_zero_has_the_influence_of_its_first_grain(make_objective, target):
    objective = make_objective(n_classes=2)
    weight = objective.sample_weight.clone()
    weight[0] = 0
    weight /= weight.sum()
    zeroed = replace(objective, sample_weight=weight)
    rows = target(2)
    state = minimum(zeroed)
    step = 1e-6
    nudged = weight.clone()
    nudged[0] = step
    after = minimum(replace(objective, sample_weight=nudged / nudged.sum()), state.u)
    measured = (
        group_losses(objective, after.u, rows) - group_losses(objective, state.u, rows)
    ) / step
    torch.testing.assert_close(influence_of(zeroed, state, rows)[0], measured, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("standardise", [False, True])
def test_the_row_space_path_equals_the_dense_path(n_classes, standardise):
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(20, 50, generator=generator, dtype=torch.float64) + 0.5
    target_features = torch.randn(30, 50, generator=generator, dtype=torch.float64)
    labels = torch.arange(20) % n_classes
    target_labels = torch.arange(30) % n_classes
    groups = torch.rand(30, N_GROUPS, generator=generator) < 0.5
    weight = torch.rand(20, generator=generator, dtype=torch.float64)
    basis = centred_basis(n_classes, weight)
    found = []
    for row_space in (True, False):
        mapping = FeatureMap.fit(
            features, standardise=standardise, dtype=torch.float64, row_space=row_space
        )
        design = mapping.design(features, torch.float64)
        assert design.shape[1] == (20 if row_space else 51)
        objective = Objective(design, labels, weight / weight.sum(), 0.02, basis)
        state = minimum(objective)
        rows = (mapping.design(target_features, torch.float64), target_labels, groups)
        head = mapping.head(state.u @ basis.T)
        norms = gradients_of(objective, state, rows)
        found.append((head.weight, head.bias, influence_of(objective, state, rows), norms))
        full = norms if mapping.basis is None else None
    in_rows, dense = found
    for one, two in zip(in_rows[:3], dense[:3], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-9)
    basis_of_rows = FeatureMap.fit(features, standardise=standardise, dtype=torch.float64).basis
    projected = torch.einsum("dp,dcm->pcm", basis_of_rows, full)
    torch.testing.assert_close(in_rows[3], projected, rtol=1e-8, atol=1e-9)


def test_a_prediction_is_the_slope_of_weights_and_classes_that_change_together(
    make_objective, target
):
    objective, rows = make_objective(n_classes=3), target(3)
    state = minimum(objective)
    solved = invert(objective, state, 1e-12)(gradients_of(objective, state, rows)).columns
    heavier = objective.sample_weight.clone()
    heavier[[2, 9, 40]] *= 3
    edited = replace(objective, sample_weight=heavier / heavier.sum())
    labels = objective.labels.clone()
    labels[[5, 9]] = (labels[[5, 9]] + 1) % 3
    edited = edited.relabelled(labels)
    predicted = predicted_change(edited, edited.at(state.u), solved)
    # Between both objectives lies a mixture of rows: old ones, and new ones with other classes.
    design = torch.cat([objective.design, objective.design])
    both = replace(objective, design=design, labels=torch.cat([objective.labels, labels]))
    step, ends = 1e-5, []
    for size in (step, -step):
        mixed = (1 - size) * objective.sample_weight, size * edited.sample_weight
        at = minimum(replace(both, sample_weight=torch.cat(mixed)), state.u)
        ends.append(group_losses(objective, at.u, rows))
    torch.testing.assert_close(predicted, (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-8)


def test_overlapping_groups_give_the_same_as_lists_of_indices(make_objective, target):
    objective = make_objective(n_classes=3)
    design, labels, groups = target(3)
    state = minimum(objective)
    together = influence_of(objective, state, (design, labels, groups))
    lists = [torch.nonzero(column).squeeze(1) for column in groups.T]
    index = torch.cat(lists)
    sizes = torch.tensor([len(each) for each in lists], device=index.device)
    owner = torch.repeat_interleave(torch.arange(N_GROUPS, device=index.device), sizes)
    disjoint = owner[:, None] == torch.arange(N_GROUPS, device=index.device)
    apart = influence_of(objective, state, (design[index], labels[index], disjoint))
    torch.testing.assert_close(together, apart, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("block", [1, 60 * 2 * 3])
def test_many_groups_go_in_blocks_with_the_same_outcome(make_objective, target, monkeypatch, block):
    objective, (design, labels, groups) = make_objective(n_classes=3), target(3)
    groups = torch.cat([groups, groups.roll(1, 0)], dim=1)
    state = minimum(objective)
    rows = (design, labels, groups)
    whole = gradients_of(objective, state, rows)
    expected = influence_of(objective, state, rows)
    monkeypatch.setattr(objectives, "_AT_ONCE", block)
    torch.testing.assert_close(gradients_of(objective, state, rows), whole, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(
        influence_of(objective, state, rows), expected, rtol=1e-8, atol=1e-11
    )


def test_one_block_that_falls_short_is_remembered(make_objective, target):
    objective, rows = make_objective(n_classes=3), target(3)
    state = minimum(objective)
    reached, short = SolveEnding.REACHED, SolveEnding.PRODUCTS
    endings = iter([reached, short] + [reached] * 20)
    real = invert(objective, state, 1e-12)

    def solve(right):
        return replace(real(right), ending=next(endings))

    parts = gradients_of(objective, state, rows).split(1, dim=2)
    measured = influence(solve, objective, state, parts)
    assert measured.ending is short


def test_a_group_without_a_row_has_a_gradient_of_zero_and_leaves_the_others_alone(
    make_objective, target
):
    objective, (design, labels, groups) = make_objective(n_classes=3), target(3)
    state = minimum(objective)
    absent = torch.cat([groups, torch.zeros_like(groups[:, :1])], dim=1)
    found = influence_of(objective, state, (design, labels, absent))
    assert (found[:, -1] == 0).all()
    torch.testing.assert_close(
        found[:, :-1],
        influence_of(objective, state, (design, labels, groups)),
        rtol=1e-8,
        atol=1e-11,
    )
