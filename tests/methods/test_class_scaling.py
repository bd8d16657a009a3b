import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from gsr_core.data.problem import Problem, Rows
from gsr_core.methods.class_scaling import (
    ClassScaling,
    choose_offsets,
    robust_coverage,
    sweep,
)
from gsr_core.methods.erm import ERM
from gsr_core.methods.fit import fit
from gsr_core.methods.llr import LLR
from gsr_core.metrics import group_scores

GROUPS = ["a0", "a1", "b0", "b1"]


def scores(n, n_classes, seed, n_groups=3):
    """Weakly informative logits, classes and overlapping groups; the last class is rare."""
    rng = np.random.default_rng(seed)
    chances = np.append(np.ones(n_classes - 1), 0.3)
    labels = rng.choice(n_classes, size=n, p=chances / chances.sum())
    logits = rng.normal(size=(n, n_classes)) - 0.7 * np.arange(n_classes)
    logits[np.arange(n), labels] += 1.2
    members = rng.random((n, n_groups)) < 0.4
    members[:n_classes] = True
    return torch.from_numpy(logits), torch.from_numpy(labels), torch.from_numpy(members)


def accuracies(logits, labels, members):
    """Average and worst, by a loop over groups."""
    right = (logits.argmax(dim=1) == labels).double()
    return float(right.mean()), min(float(right[column].mean()) for column in members.T)


def one(method, problem):
    (step,) = method.iterate(problem)
    return step


@pytest.mark.parametrize("seed", range(4))
def test_for_two_classes_it_is_the_best_of_all_thresholds(seed):
    logits, labels, members = scores(200, 2, seed)
    found = choose_offsets(logits, labels, members)
    thresholds = (logits[:, 0] - logits[:, 1]).sort().values
    ends = torch.stack([thresholds[0] - 1, thresholds[-1] + 1])
    offsets = torch.cat([ends[:1], (thresholds[1:] + thresholds[:-1]) / 2, ends[1:]])
    both = []
    for offset in offsets.tolist():
        moved = logits.clone()
        moved[:, 1] += offset
        both.append(accuracies(moved, labels, members))
    average, worst = np.array(both).T
    assert found.after == worst.max()
    assert found.after > found.before
    assert (found.before, found.after) == (
        accuracies(logits, labels, members)[1],
        accuracies(logits + found.offset, labels, members)[1],
    )
    # And the coverage is that of all thresholds, by a fine grid of averages.
    levels = (np.arange(20_000) + 0.5) / 20_000
    best = [worst[average >= level].max(initial=0) for level in levels]
    coverage = robust_coverage(found.tradeoff.average, found.tradeoff.worst)
    assert coverage == pytest.approx(np.mean(best), abs=1e-4)


@pytest.mark.parametrize(("n_classes", "which"), [(2, 0), (2, 1), (3, 0), (4, 2)])
def test_a_sweep_is_what_each_of_its_offsets_does(n_classes, which):
    logits, labels, members = scores(60, n_classes, seed=5)
    found = sweep(logits, labels, members, which)
    assert len(found.offset) == 61
    assert (found.offset.diff() > 0).all()
    assert int((found.offset == 0).sum()) == 1
    for offset, average, worst in zip(
        found.offset, found.average.tolist(), found.worst.tolist(), strict=True
    ):
        moved = logits.clone()
        moved[:, which] += offset
        assert (average, worst) == pytest.approx(accuracies(moved, labels, members), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_for_more_classes_no_single_class_can_gain_more(seed):
    logits, labels, members = scores(60, 4, seed)
    found = choose_offsets(logits, labels, members)
    frequent = int(torch.bincount(labels).argmax())
    assert float(found.offset[frequent]) == 0
    assert accuracies(logits + found.offset, labels, members)[1] == found.after >= found.before
    for which in set(range(4)) - {frequent}:
        moved = logits + found.offset
        moved[:, which] = logits[:, which]
        assert float(sweep(moved, labels, members, which).worst.max()) <= found.after
    # What the search may miss is small here: a grid over all offsets at once finds little more.
    grid = np.linspace(-3, 3, 13)
    offsets = torch.tensor(list(itertools.product(grid, repeat=4)))[::7]
    best = max(accuracies(logits + each, labels, members)[1] for each in offsets)
    assert best <= found.after + 0.1


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("grouped", [False, True])
def test_every_setting_can_be_had_again_and_none_beats_the_front(n_classes, grouped):
    logits, labels, members = scores(60, n_classes, seed=6)
    shares = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64) if grouped else None
    found = choose_offsets(logits, labels, members, trade=0.5, shares=shares).tradeoff

    def reached(offset):
        average, worst = accuracies(logits + offset, labels, members)
        if grouped:
            right = ((logits + offset).argmax(dim=1) == labels).double()
            average = float(right @ members.double() / members.sum(dim=0) @ shares)
        return average, worst

    places = torch.arange(0, len(found.offset), 7)
    for place, offset in zip(places, found.offsets(places), strict=True):
        both = float(found.average[place]), float(found.worst[place])
        assert both == pytest.approx(reached(offset), abs=1e-12)
    front = found.front()
    for place in front:
        better = (found.average >= found.average[place]) & (found.worst >= found.worst[place])
        equal = (found.average == found.average[place]) & (found.worst == found.worst[place])
        assert torch.equal(better, equal)
    assert (found.average[front].diff() < 0).all()
    assert (found.worst[front].diff() > 0).all()


@pytest.mark.parametrize("trade", [0.0, 0.3, 1.0])
def test_what_is_asked_for_is_what_two_classes_get(trade):
    logits, labels, members = scores(120, 2, seed=7)
    found = choose_offsets(logits, labels, members, trade=trade)
    margin = (logits[:, 0] - logits[:, 1]).sort().values
    best = 0.0
    for offset in torch.cat([margin[:1] - 1, (margin[1:] + margin[:-1]) / 2, margin[-1:] + 1]):
        average, worst = accuracies(logits + torch.tensor([0.0, offset]), labels, members)
        best = max(best, trade * worst + (1 - trade) * average)
    average, worst = accuracies(logits + found.offset, labels, members)
    assert trade * worst + (1 - trade) * average == pytest.approx(best, abs=1e-12)
    assert found.after == worst


def test_of_equals_the_smallest_offset_is_taken_and_none_where_none_helps():
    logits, labels, members = scores(80, 2, seed=1)
    found = choose_offsets(logits, labels, members)
    tied = found.tradeoff.worst[1:] == found.after
    smallest = found.tradeoff.offset[1:][tied].abs().min()
    assert float(found.offset.abs().max()) == float(smallest)
    perfect = torch.nn.functional.one_hot(labels, 2).double()
    assert (choose_offsets(perfect, labels, members).offset == 0).all()
    # One more round has nothing to gain.
    again = choose_offsets(logits + found.offset, labels, members)
    assert (again.offset == 0).all()
    assert again.before == again.after == found.after


@pytest.mark.parametrize("n_classes", [2, 3])
def test_one_constant_on_all_classes_changes_nothing(n_classes):
    logits, labels, members = scores(80, n_classes, seed=2)
    one_way, other = (choose_offsets(logits + by, labels, members) for by in (0.0, 2.5))
    torch.testing.assert_close(other.offset, one_way.offset)
    assert other.after == one_way.after


def test_the_coverage_does_not_depend_on_where_the_scale_starts():
    logits, labels, members = scores(80, 2, seed=3)
    coverages = set()
    for by in ((0.0, 0.0), (0.0, 1.3), (-2.0, 0.4)):
        found = choose_offsets(logits + torch.tensor(by), labels, members)
        assert found.after == choose_offsets(logits, labels, members).after
        # No offsets at all are one setting more, which the sweep has already.
        coverages.add(robust_coverage(found.tradeoff.average, found.tradeoff.worst))
    assert max(coverages) - min(coverages) < 1e-12


def test_the_coverage_is_at_least_the_product_of_any_single_setting():
    logits, labels, members = scores(80, 3, seed=4)
    found = choose_offsets(logits, labels, members).tradeoff
    coverage = robust_coverage(found.average, found.worst)
    assert coverage >= float((found.average * found.worst).max()) - 1e-12
    assert coverage <= float(found.worst.max())
    single = robust_coverage(found.average[:1], found.worst[:1])
    assert single == pytest.approx(float(found.average[0] * found.worst[0]))


def test_more_settings_never_cover_less_and_their_order_does_not_matter():
    rng = torch.Generator().manual_seed(0)
    average, worst = torch.rand(2, 30, generator=rng, dtype=torch.float64)
    coverage = robust_coverage(average, worst)
    order = torch.randperm(30, generator=rng)
    assert robust_coverage(average[order], worst[order]) == pytest.approx(coverage, abs=1e-15)
    assert coverage >= robust_coverage(average[:20], worst[:20]) - 1e-12
    # Planted: a setting that beats all covers more.
    one = torch.ones(1, dtype=torch.float64)
    more = robust_coverage(torch.cat([average, one]), torch.cat([worst, one]))
    assert more == pytest.approx(1)
    assert coverage < 0.99


def test_thresholds_that_scores_cannot_tell_apart_are_one():
    logits = torch.zeros(4, 2, dtype=torch.float64)
    logits[:, 1] = torch.tensor([0.0, 1e-9, 1.0, 2.0])
    labels, members = torch.tensor([0, 1, 1, 0]), torch.ones(4, 1, dtype=torch.bool)
    assert len(sweep(logits, labels, members, 1).offset) == 5
    assert len(sweep(logits, labels, members, 1, narrowest=1e-6).offset) == 4


@pytest.mark.parametrize("chosen_on", ["val", "target"])
@pytest.mark.parametrize("base", ["as_it_came", "refit"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_head_is_the_base_head_with_other_biases(make_problem, base, chosen_on, n_classes):
    problem, _ = make_problem(n=150, n_target=150, n_classes=n_classes)
    step = one(ClassScaling(base=base, chosen_on=chosen_on), problem)
    other = one({"as_it_came": ERM, "refit": LLR}[base](), problem)
    assert torch.equal(step.head.weight, other.head.weight)
    rows = getattr(problem, chosen_on)
    before, after = (
        group_scores(each.head, rows.features, rows.labels, rows.groups).worst_group_accuracy
        for each in (other, step)
    )
    assert after >= before
    assert f"On {chosen_on}, " in step.note
    assert f"went from {before:.1%} to {after:.1%}" in step.note
    assert step.sample_weight is None


def test_the_backbones_own_head_is_the_base(make_problem):
    problem, _ = make_problem()
    weight = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    weight = weight.to(problem.compute.device)
    problem = replace(problem, backbone_head=(weight, weight[:, 0]))
    step = one(ClassScaling(), problem)
    assert torch.equal(step.head.weight, weight)


def test_the_label_budget_is_the_split_that_chooses():
    assert ClassScaling().labels_used == ("val",)
    assert ClassScaling(selection="average").labels_used == ("val",)
    assert ClassScaling(chosen_on="target").labels_used == ("target",)


def test_a_group_without_rows_does_not_count_and_a_small_one_is_named(make_problem):
    problem, _ = make_problem(n_target=100)
    groups = problem.val.groups.clone()
    groups[:, 3] = False
    without = replace(problem, val=replace(problem.val, groups=groups))
    step = one(ClassScaling(), without)
    three = replace(problem, val=replace(problem.val, groups=groups[:, :3]))
    assert torch.equal(step.head.bias, one(ClassScaling(), three).head.bias)
    groups = groups.clone()
    groups[:, 2] = False
    groups[:12, 2] = True
    small = replace(problem, val=replace(problem.val, groups=groups))
    assert "The smallest group has only 12 rows there" in one(ClassScaling(), small).note


def rare_class(n, seed, compute, share=0.1) -> Rows:
    """A class of few rows that owns the bad groups; the attribute only makes it a bit harder."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < share).astype(np.int64)
    attribute = rng.integers(2, size=n)
    features = rng.normal(size=(n, 30))
    features[:, 0] += 3 * labels
    features[:, 1] += 0.5 * (2 * attribute - 1) * labels
    groups = (2 * labels + attribute)[:, None] == np.arange(4)
    return Rows(
        torch.from_numpy(features.astype(np.float32)).to(compute.device),
        torch.from_numpy(labels).to(compute.device),
        torch.from_numpy(groups).to(compute.device),
        np.arange(n),
    )


@pytest.mark.parametrize("seed", range(3))
def test_it_repairs_a_rare_class_but_no_conflict_on_both_sides(make_problem, compute, seed):
    splits = [rare_class(n, 10 * seed + k, compute) for k, n in enumerate((2000, 300, 2000, 8000))]
    rare = Problem(*splits[:3], n_classes=2, compute=compute)
    both_sides, test = make_problem(n=2000, n_target=4000, d=30, minority=0.05, seed=seed)

    def gain(problem, rows):
        worst = []
        for method in (ERM(l2=0.1), ClassScaling(l2=0.1)):
            history = fit(method, problem, GROUPS, test=rows).history
            kept = history.query("split == 'test' and metric == 'worst_group_accuracy'")
            worst.append(float(kept["value"].iloc[0]))
        return worst

    before, after = gain(rare, splits[3])
    assert after > before + 0.1
    before, after = gain(both_sides, test)
    assert abs(after - before) < 0.1
