from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch.nn.functional import cross_entropy

from gsr_core.data.problem import Rows
from gsr_core.methods.fit import fit
from gsr_core.methods.pde import PDE, joining_order

NAMES = ["a0", "a1", "b0", "b1", "c0", "c1"]
QUICK = {"warmup_updates": 20, "stage_updates": 3}


def sets_of(steps):
    return [(step.sample_weight > 0).cpu().numpy() for step in steps]


def test_the_warm_up_set_is_balanced_and_the_sets_only_grow(make_problem):
    problem, _ = make_problem(n=120)
    groups = problem.weighted.groups.cpu().numpy()
    sets = sets_of(PDE(add=10, **QUICK).iterate(problem))
    warm = 4 * groups.sum(axis=0).min()
    assert (groups[sets[0]].sum(axis=0) == groups.sum(axis=0).min()).all()
    # Ten join at each stage, until there are none left; then it ends.
    expected = [*range(warm, 120, 10), 120]
    assert [int(each.sum()) for each in sets] == expected
    for earlier, later in pairwise(sets):
        assert (later >= earlier).all()


def test_the_values_are_equal_shares_of_the_set(make_problem):
    problem, _ = make_problem(n=120)
    for step in PDE(**QUICK).iterate(problem):
        inside = step.sample_weight[step.sample_weight > 0]
        torch.testing.assert_close(inside, torch.full_like(inside, 1 / len(inside)))
        assert f"{len(inside)} of 120 samples are in the set" in step.note


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("standardise", [True, False])
def test_it_is_torch_s_sgd_with_one_optimiser_for_all_stages(make_problem, n_classes, standardise):
    problem, _ = make_problem(n_classes=n_classes)
    rows = problem.weighted
    method = PDE(
        warmup_updates=25,
        stage_updates=7,
        lr=0.05,
        expansion_lr=0.3,
        momentum=0.8,
        l2=0.02,
        steps=4,
        standardise=standardise,
    )
    features = rows.features.double()
    scale, mean = torch.std_mean(features, dim=0, correction=0)
    scaled = (features - mean) / scale if standardise else features
    design = torch.cat([scaled, torch.ones_like(scaled[:, :1])], dim=1)
    # All K columns, where the method has K - 1 coordinates.
    theta = design.new_zeros(design.shape[1], n_classes, requires_grad=True)
    forgetful = theta.detach().clone().requires_grad_()
    sgd = torch.optim.SGD([theta], lr=0.05, momentum=0.8, weight_decay=2 * 0.02)
    steps = list(method.iterate(problem))[:4]
    for step, inside in zip(steps, sets_of(steps), strict=True):
        updates = 25 if step is steps[0] else 7
        fresh = torch.optim.SGD(
            [forgetful], lr=sgd.param_groups[0]["lr"], momentum=0.8, weight_decay=2 * 0.02
        )
        for optimiser, parameter in ((sgd, theta), (fresh, forgetful)):
            for _ in range(updates):
                optimiser.zero_grad()
                cross_entropy(design[inside] @ parameter, rows.labels[inside]).backward()
                optimiser.step()
        logits = step.head.logits(features)
        torch.testing.assert_close(logits, design @ theta.detach(), rtol=1e-6, atol=1e-7)
        assert step.step_size == sgd.param_groups[0]["lr"]
        sgd.param_groups[0]["lr"] = 0.05 * 0.3
    # A momentum that started anew at each stage would have led elsewhere.
    assert float((design @ (theta - forgetful).detach()).abs().max()) > 1e-2


def test_the_numbers_of_a_step_are_those_of_its_set(make_problem):
    problem, _ = make_problem()
    rows = problem.weighted
    step = list(PDE(l2=0.1, standardise=False, **QUICK).iterate(problem))[2]
    theta = torch.cat([step.head.weight, step.head.bias[:, None]], dim=1).requires_grad_()
    design = torch.cat([rows.features.double(), torch.ones_like(rows.features[:, :1])], dim=1)
    losses = cross_entropy(design @ theta.T, rows.labels, reduction="none")
    value = step.sample_weight @ losses + 0.1 * theta.square().sum()
    value.backward()
    assert step.objective == pytest.approx(float(value.detach()))
    assert step.gradient_norm == pytest.approx(float(theta.grad.norm()))


def rows_in(groups, position=None) -> Rows:
    groups = torch.as_tensor(groups, dtype=torch.bool)
    n = len(groups)
    position = np.arange(n) if position is None else position
    return Rows(torch.zeros(n, 1), torch.zeros(n, dtype=torch.int64), groups, position)


@given(st.lists(st.integers(-1, 4), min_size=1, max_size=60), st.integers(0, 9))
def test_rows_join_once_and_evenly_over_the_groups_while_they_last(index, seed):
    index = np.array([0, 1, 2, 4, *index])
    groups = index[:, None] == np.arange(6)
    order, warm = joining_order(rows_in(groups), np.random.default_rng(seed))
    # Each row that is in a group, once; those in none never.
    assert sorted(order) == sorted(np.flatnonzero(index >= 0))
    total = groups.sum(axis=0)
    present = total > 0
    for size in range(warm, len(order) + 1):
        count = groups[order[:size]].sum(axis=0)
        # No group that has rows left has fewer in the set, by more than one, than any other.
        waiting = present & (count < total)
        if waiting.any():
            assert count[waiting].min() >= count.max() - 1
    assert len(set(groups[order[:warm]].sum(axis=0)[present])) == 1


def test_rows_of_overlapping_groups_join_once():
    groups = np.random.default_rng(0).random((50, 4)) < [0.6, 0.3, 0.1, 0.0]
    order, warm = joining_order(rows_in(groups), np.random.default_rng(1))
    assert sorted(order) == list(np.flatnonzero(groups.any(axis=1)))
    assert (groups[order[:warm]].sum(axis=0)[:3] >= groups.sum(axis=0)[:3].min()).all()


def test_the_order_of_joining_follows_the_samples_into_another_order():
    groups = np.random.default_rng(0).random((50, 4)) < 0.3
    moved = np.random.default_rng(1).permutation(50)
    one, warm = joining_order(rows_in(groups), np.random.default_rng(2))
    two, _ = joining_order(rows_in(groups[moved], moved), np.random.default_rng(2))
    assert set(one[:warm]) == set(moved[two[:warm]])
    assert (one[warm:] == moved[two[warm:]]).all()


@pytest.mark.parametrize(("n_classes", "d"), [(2, 6), (3, 120)])
@pytest.mark.parametrize("stored", [False, True])
def test_a_continued_run_equals_one_long_run_bit_by_bit(make_problem, n_classes, d, stored):
    problem, _ = make_problem(n_classes=n_classes, d=d)
    if problem.compute.device.type != "cpu":
        pytest.skip("bits are promised on a CPU only")
    names = NAMES[: problem.n_groups]
    method = PDE(steps=5, **QUICK)
    whole = fit(method, problem, names)
    first = fit(method, problem, names, monitor=lambda progress: progress.step_index == 2)
    assert first.last_index == 2
    if stored:
        checkpoint = load(save({k: v.contiguous() for k, v in first.last.checkpoint.items()}))
        first = replace(first, last=replace(first.last, checkpoint=checkpoint))
    second = fit(method, problem, names, resume=first)
    assert second.last_index == whole.last_index == 5
    assert second.step_index == whole.step_index
    for name in ("weight", "bias"):
        assert torch.equal(getattr(second.last.head, name), getattr(whole.last.head, name))
    assert torch.equal(second.last.sample_weight, whole.last.sample_weight)


def test_a_run_that_has_all_rows_has_nothing_to_go_on_with(make_problem):
    problem, _ = make_problem()
    *_, last = PDE(**QUICK).iterate(problem)
    assert list(PDE(**QUICK).iterate(problem, last.checkpoint)) == []


def test_balanced_groups_need_no_expansion(make_problem):
    problem, _ = make_problem()
    one = torch.ones_like(problem.weighted.groups[:, :1])
    same = replace(problem, weighted=replace(problem.weighted, groups=one))
    assert len(list(PDE(**QUICK).iterate(same))) == 1
