from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from gsr_core.data.problem import Rows
from gsr_core.inference.base import InferredGroups
from gsr_core.inference.eiil import EIILInference
from gsr_core.methods.crossfit import crossfitted_logits, draw_folds
from gsr_core.methods.erm import ERM
from gsr_core.methods.evals import EVaLS, extremes_of_each_class
from gsr_core.methods.fit import fit
from gsr_core.methods.inner import InnerProblem
from gsr_core.methods.llr import LLR

GROUPS = ["a0", "a1", "b0", "b1"]


@pytest.fixture
def toy(make_problem):
    """The toy of the specification: 500 rows to fit on, 5 % of which conflict, and 2,000 before."""

    def toy(seed):
        problem, _ = make_problem(n=500, n_target=600, d=30, minority=0.05, seed=seed)
        before, test = make_problem(n=2000, n_target=8000, d=30, minority=0.05, seed=seed + 100)
        return replace(problem, train=lambda: before.weighted), test

    return toy


@pytest.fixture
def with_backbone(make_problem):
    """A problem whose backbone follows the attribute, and the class a little."""

    def make(**kwargs):
        problem, _ = make_problem(**kwargs)
        weight = problem.weighted.features.new_zeros(problem.n_classes, 6)
        weight[:, 0] = torch.linspace(-0.1, 0.1, problem.n_classes)
        weight[:, 1] = torch.linspace(-1, 1, problem.n_classes)
        return replace(problem, backbone_head=(weight, weight.new_zeros(problem.n_classes)))

    return make


def taken(rows: Rows, index) -> Rows:
    index = torch.as_tensor(index, device=rows.labels.device)
    return Rows(
        rows.features[index],
        rows.labels[index],
        rows.groups[index],
        rows.position[index.cpu().numpy()],
    )


def losses_of(problem, rows: Rows) -> torch.Tensor:
    weight, bias = (part.double() for part in problem.backbone_head)
    logits = rows.features.double() @ weight.T + bias
    return cross_entropy(logits, rows.labels, reduction="none")


def by_hand(losses, labels, k) -> set[int]:
    chosen = set()
    for label in set(labels.tolist()):
        inside = [i for i in range(len(labels)) if int(labels[i]) == label]
        inside.sort(key=lambda i: float(losses[i]))
        chosen |= set(inside[:k]) | set(inside[-k:])
    return chosen


def worst_group(step, rows: Rows) -> float:
    right = step.head.logits(rows.features).argmax(dim=1) == rows.labels
    return min(float(right[members].double().mean()) for members in rows.groups.T)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=60), st.integers(1, 25))
def test_what_is_chosen_are_the_extremes_of_each_class(labels, k):
    labels = torch.tensor(labels)
    losses = torch.from_numpy(np.random.default_rng(0).exponential(size=len(labels)))
    chosen = extremes_of_each_class(losses, labels, np.arange(len(labels)), k)
    assert set(chosen.nonzero()[:, 0].tolist()) == by_hand(losses, labels, k)
    for label in labels.unique():
        size = int((labels == label).sum())
        assert int(chosen[labels == label].sum()) == min(2 * k, size)


@pytest.mark.parametrize("transform", [torch.exp, torch.sqrt, lambda loss: 3 * loss - 7])
def test_a_monotone_transform_of_the_loss_changes_nothing(transform):
    labels = torch.arange(60) % 3
    losses = torch.from_numpy(np.random.default_rng(1).exponential(size=60))
    position = np.arange(60)
    chosen = extremes_of_each_class(losses, labels, position, 4)
    assert torch.equal(extremes_of_each_class(transform(losses), labels, position, 4), chosen)


def test_ties_go_by_position_and_not_by_the_order_in_memory():
    labels, position = torch.arange(40) % 2, np.random.default_rng(2).permutation(40)
    order = np.random.default_rng(3).permutation(40)
    chosen = extremes_of_each_class(torch.ones(40), labels, position, 3)
    moved = extremes_of_each_class(torch.ones(40), labels[order], position[order], 3)
    assert torch.equal(moved, chosen[order])


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("penalty", ["l2", "l1"])
def test_each_step_fits_equal_shares_of_the_extremes_alone(with_backbone, n_classes, penalty):
    problem = with_backbone(n=150, n_classes=n_classes)
    rows, method = problem.weighted, EVaLS(steps=4, penalty=penalty)
    steps = list(method.iterate(problem))
    counts = method.counts(rows.labels)
    assert len(steps) == len(counts) == 4
    for step, k in zip(steps, counts, strict=True):
        chosen = step.sample_weight > 0
        expected = by_hand(losses_of(problem, rows), rows.labels, k)
        assert set(chosen.nonzero()[:, 0].tolist()) == expected
        assert rows.labels[chosen].bincount().tolist() == [2 * k] * n_classes
        torch.testing.assert_close(
            step.sample_weight[chosen],
            torch.full_like(step.sample_weight[chosen], 1 / len(expected)),
        )
        assert "under the backbone's own head" in step.note
        assert step.solved
        assert step.relative_gradient_norm <= 1e-8
    # The others have no say; they only scale the features.
    inner = InnerProblem(problem, rows, l2=0.1, standardise=True)
    alone = inner.step(steps[0].sample_weight).head
    same = torch.allclose(steps[0].head.weight, alone.weight, rtol=1e-6, atol=1e-8)
    assert same == (penalty == "l2")


def test_half_of_classes_that_are_equally_large_is_every_row(with_backbone):
    problem = with_backbone(n=120)
    rows = problem.weighted
    index = torch.cat([(rows.labels == label).nonzero()[:40, 0] for label in (0, 1)])
    problem = replace(problem, weighted=taken(rows, index))
    last = list(EVaLS(largest=20, l2=0.03).iterate(problem))[-1]
    plain = next(LLR(l2=0.03).iterate(problem))
    torch.testing.assert_close(last.head.weight, plain.head.weight, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(last.head.bias, plain.head.bias, rtol=1e-7, atol=1e-9)


def test_k_ends_at_half_of_the_smallest_class():
    method = EVaLS(steps=6, smallest=5, largest=300)
    assert method.counts(torch.tensor([0] * 1000 + [1] * 600)) == [5, 11, 26, 58, 132, 300]
    assert method.counts(torch.tensor([0] * 1000 + [2] * 41))[-1] == 20
    assert method.counts(torch.tensor([0] * 1000 + [1] * 7)) == [3]
    assert method.counts(torch.tensor([0] * 1000 + [1])) == [1]
    assert EVaLS(steps=1, smallest=8).counts(torch.tensor([0, 1] * 50)) == [8]


def test_with_true_groups_as_environments_it_is_evals_gl(make_problem, monkeypatch):
    for seed in range(3):
        problem, _ = make_problem(n=200, n_target=200, seed=seed)
        expected = fit(EVaLS(selection="worst_group"), problem, GROUPS)

        def true_groups(_, seen):
            groups = [rows.groups.cpu().numpy().argmax(axis=1) for rows in (seen.val, seen.target)]
            return InferredGroups(
                *(groups[0], groups[1], groups[0]), tuple(GROUPS), "as planted", pd.DataFrame()
            )

        with monkeypatch.context() as patch:
            patch.setattr(EIILInference, "infer", true_groups)
            result = fit(EVaLS(), problem, GROUPS)
        assert result.step_index == expected.step_index
        assert torch.equal(result.step.head.weight, expected.step.head.weight)
        assert torch.equal(result.step.inferred_val, problem.val.groups)
        assert torch.equal(result.step.inferred_group, problem.weighted.groups.int().argmax(dim=1))


def test_no_group_label_is_read_unless_asked_for():
    assert EVaLS().labels_used == ()
    assert EVaLS(selection="worst_group").labels_used == ("val",)


def test_val_and_target_never_contribute_to_a_fit(make_problem):
    problem, _ = make_problem()
    other, _ = make_problem(seed=9)
    moved = replace(problem, target=other.target, val=other.val)
    for penalty in ("l2", "l1"):
        method = EVaLS(steps=4, penalty=penalty)
        for one, two in zip(method.iterate(problem), method.iterate(moved), strict=True):
            assert torch.equal(one.head.weight, two.head.weight)
            assert torch.equal(one.sample_weight, two.sample_weight)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_cells_are_class_by_whether_scaling_up_hurts(with_backbone, n_classes):
    problem = with_backbone(n=150, n_target=200, n_classes=n_classes)
    step = next(EVaLS(steps=2).iterate(problem))
    weight, bias = problem.backbone_head

    def cells(rows: Rows) -> list[tuple[int, bool]]:
        logits = (rows.features @ weight.T + bias).double()
        scale = torch.ones(len(rows), 1, dtype=torch.float64, requires_grad=True)
        loss = cross_entropy(scale * logits.cpu(), rows.labels.cpu(), reduction="sum")
        (slope,) = torch.autograd.grad(loss, scale)
        return list(zip(rows.labels.tolist(), (slope[:, 0] > 0).tolist(), strict=True))

    # One column for each cell, whatever their order.
    assert step.inferred_val.sum(dim=1).tolist() == [1] * len(problem.val)
    on_val = step.inferred_val.int().argmax(dim=1).tolist()
    pairs = set(zip(cells(problem.val), on_val, strict=True))
    # Of three classes, scaling hurts every row of the middle one.
    assert len(pairs) == step.inferred_val.shape[1] == (4 if n_classes == 2 else 5)
    assert set(zip(cells(problem.weighted), step.inferred_group.tolist(), strict=True)) <= pairs


def val_of(problem, sizes):
    """The problem with so many rows of val in each cell of class by error of the backbone."""
    weight, bias = problem.backbone_head
    rows = problem.val
    wrong = (rows.features @ weight.T + bias).argmax(dim=1) != rows.labels
    parts = [
        ((rows.labels == label) & (wrong == error)).nonzero()[:size, 0]
        for (label, error), size in sizes.items()
    ]
    assert [len(part) for part in parts] == list(sizes.values())
    return replace(problem, val=taken(rows, torch.cat(parts)))


def test_cells_of_too_few_rows_do_not_count_and_the_note_says_so(with_backbone):
    problem = with_backbone(n_target=200)
    sizes = {(0, False): 30, (0, True): 9, (1, False): 20, (1, True): 10}
    problem = val_of(problem, sizes)
    step = next(EVaLS(steps=2).iterate(problem))
    assert sorted(step.inferred_val.sum(dim=0).tolist()) == [9, 10, 20, 30]
    assert step.note.endswith("4 inferred cells of 9 to 30 rows; 1 of under 10 do not count.")
    # What is chosen is chosen by the others.
    result = fit(EVaLS(steps=4), problem, GROUPS)
    history = result.history.query("metric == 'worst_inferred_group_accuracy'")
    features, labels = problem.val.features, problem.val.labels
    right = result.step.head.logits(features).argmax(dim=1) == labels
    cells = [members for members in step.inferred_val.T if int(members.sum()) >= 10]
    accuracy = min(float(right[members].double().mean()) for members in cells)
    assert history.set_index("step")["value"][result.step_index] == pytest.approx(accuracy)


def test_where_all_cells_are_small_all_count(with_backbone):
    sizes = {(0, False): 9, (0, True): 5, (1, False): 8, (1, True): 6}
    problem = val_of(with_backbone(n_target=200), sizes)
    result = fit(EVaLS(steps=2), problem, GROUPS)
    assert sorted(result.step.inferred_val.sum(dim=0).tolist()) == [5, 6, 8, 9]
    assert "5 to 9 rows; all are under 10, so that chance plays a part." in result.step.note


def test_losses_are_of_heads_that_have_not_fitted_the_rows(make_problem):
    problem, _ = make_problem(n=120)
    other, _ = make_problem(n=300, seed=5)
    method = EVaLS(steps=1, smallest=7, seed=4)
    rows = problem.weighted

    def chosen(seen) -> tuple[set[int], str]:
        step = next(method.iterate(seen))
        return set((step.sample_weight > 0).nonzero()[:, 0].tolist()), step.note

    inner = InnerProblem(problem, rows, l2=0.1, standardise=True)
    logits = crossfitted_logits(inner, draw_folds(rows, 5, np.random.default_rng(4)))
    crossfitted = by_hand(cross_entropy(logits, rows.labels, reduction="none"), rows.labels, 7)
    picked, note = chosen(problem)
    assert picked == crossfitted
    assert "under heads that did not learn from them" in note

    with_train = replace(problem, train=lambda: other.weighted)
    head = next(ERM(l2=0.1).iterate(with_train)).head
    losses = cross_entropy(head.logits(rows.features.double()), rows.labels, reduction="none")
    picked, note = chosen(with_train)
    assert picked == by_hand(losses, rows.labels, 7)
    assert "under a head of train" in note
    # Where the weighted rows are those of train, the backbone has fitted them.
    weight = rows.features.new_ones(2, 6)
    fitted = replace(
        with_train, weighted_split="train", backbone_head=(weight, weight.new_zeros(2))
    )
    assert chosen(fitted)[0] == crossfitted


def test_a_class_without_rows_stops_nothing(make_problem):
    problem, _ = make_problem(n=150, n_target=120, n_classes=3)
    for lacking in ("weighted", "val"):
        rows = getattr(problem, lacking)
        seen = replace(problem, **{lacking: taken(rows, (rows.labels != 2).nonzero()[:, 0])})
        for penalty in ("l2", "l1"):
            result = fit(EVaLS(steps=2, penalty=penalty), seen, [*GROUPS, "c0", "c1"])
            assert result.step.solved
            assert bool(result.step.head.weight.isfinite().all())


@pytest.mark.parametrize("penalty", ["l2", "l1"])
def test_a_continued_run_is_one_long_run(make_problem, penalty):
    problem, _ = make_problem()
    method = EVaLS(steps=4, penalty=penalty)
    whole = list(method.iterate(problem))
    rest = list(method.iterate(problem, whole[1].checkpoint))
    assert len(rest) == len(whole) - 2
    for one, two in zip(rest, whole[2:], strict=True):
        assert torch.equal(one.head.weight, two.head.weight)
        assert torch.equal(one.sample_weight, two.sample_weight)
        assert torch.equal(one.inferred_val, two.inferred_val)


def test_few_rows_of_each_class_repair_the_toy_and_many_do_not(toy):
    for seed in range(3):
        problem, test = toy(seed)
        method = EVaLS(standardise=False)
        accuracy = {
            k: worst_group(step, test)
            for k, step in zip(
                method.counts(problem.weighted.labels), method.iterate(problem), strict=True
            )
        }
        assert accuracy[10] > 0.6
        assert accuracy[max(accuracy)] < 0.12
        kept = worst_group(fit(method, problem, GROUPS).step, test)
        # The inferred environments choose nearly as the groups would.
        assert kept > max(accuracy.values()) - 0.06


def test_high_losses_are_noise_first(toy):
    problem, test = toy(0)
    rows = problem.weighted
    flipped = torch.from_numpy(np.random.default_rng(0).random(500) < 0.1).to(rows.labels.device)
    labels = torch.where(flipped, 1 - rows.labels, rows.labels)
    noisy = replace(problem, weighted=replace(rows, labels=labels))
    method = EVaLS(standardise=False, steps=1, smallest=10)
    step = next(method.iterate(noisy))
    # Of the 40 rows, the 20 of high loss are mostly mislabelled.
    assert int((flipped & (step.sample_weight > 0)).sum()) >= 16
    assert worst_group(step, test) < worst_group(next(method.iterate(problem)), test) - 0.1
