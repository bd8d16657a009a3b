from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from torch.nn.functional import cross_entropy

from gsr_core.inference import xrm
from gsr_core.inference.xrm import XRMInference, class_balanced, flip_chance, train_twins
from gsr_core.linear.objective import Objective, centred_basis
from gsr_core.linear.solver import Solver


@pytest.fixture(params=[2, 3])
def half(request):
    """Rows (60, 5) that a head gets partly right, their classes, and who learns from which."""
    generator = torch.Generator().manual_seed(0)
    design = torch.randn(60, 5, generator=generator, dtype=torch.float64)
    design[:, 4] = 1
    noise = torch.randn(60, request.param, generator=generator, dtype=torch.float64)
    labels = (2 * design[:, : request.param] + noise).argmax(dim=1)
    first = torch.rand(60, generator=generator) < 0.5
    basis = centred_basis(request.param, design)
    return design, labels, torch.stack([first, ~first], dim=1), basis


def train(half, penalties, **settings):
    usual = {"lr": 0.5, "steps": 40, "quiet": 5, "steady": 1000}
    generator = torch.Generator().manual_seed(1)
    return train_twins(*half, penalties, generator=generator, **{**usual, **settings})


@pytest.fixture
def toy(make_rows, make_problem):
    """A shortcut that one row in twenty of those to fit conflicts with; and who does, by split."""

    def toy(seed):
        rng = np.random.default_rng(seed)

        def rows(n, conflict):
            labels = rng.integers(2, size=n)
            attribute = np.where(rng.random(n) < conflict, 1 - labels, labels)
            features = rng.normal(size=(n, 30))
            features[:, 0] += 2 * labels - 1
            features[:, 1] += 3 * (2 * attribute - 1)
            return make_rows(features, labels, 2 * labels + attribute)

        problem = make_problem(rows(500, 0.05), rows(200, 0.5), rows(600, 0.5))
        groups = {
            split: getattr(problem, split).groups.cpu().numpy().argmax(axis=1)
            for split in ("weighted", "target", "val")
        }
        return problem, {split: each // 2 != each % 2 for split, each in groups.items()}

    return toy


@pytest.fixture
def planted(monkeypatch):
    """Changes what the twins came to before one pair is chosen."""

    def planted(change):
        real = train_twins

        def trained(design, labels, *args, **kwargs):
            twins = real(design, labels, *args, **kwargs)
            change(twins, labels)
            return twins

        monkeypatch.setattr(xrm, "train_twins", trained)

    return planted


def second(found, split) -> np.ndarray:
    """Who is in the smaller environment of its class."""
    return np.array(["environment 1" in found.names[each] for each in getattr(found, split)])


def test_every_row_is_learnt_from_by_one_twin(blobs, monkeypatch):
    seen = []
    real = train_twins

    def trained(design, labels, held_in, *args, **kwargs):
        seen.append(held_in)
        return real(design, labels, held_in, *args, **kwargs)

    monkeypatch.setattr(xrm, "train_twins", trained)
    for seed in range(3):
        XRMInference(seed=seed, twin_steps=1).infer(blobs)
    for held_in in seen:
        assert (held_in.sum(dim=1) == 1).all()
        assert 40 < int(held_in[:, 0].sum()) < 80
    assert not torch.equal(seen[0], seen[1])


def test_classes_weigh_alike_in_each_half(half):
    _, labels, held_in, basis = half
    # The other setting lacks a class in the first twin's half.
    other = torch.where(held_in[:, 0] & (labels == 1), 0, labels)
    weight = class_balanced(torch.stack([labels, other]), held_in, basis)
    assert ((weight > 0) == held_in).all()
    for setting, y in enumerate((labels, other)):
        for twin in range(2):
            own = weight[setting, :, twin]
            sums = torch.stack([own[y == label].sum() for label in y[held_in[:, twin]].unique()])
            torch.testing.assert_close(sums, torch.full_like(sums, 1 / len(sums)))
            for label in y.unique():
                inside = own[(y == label) & held_in[:, twin]]
                assert (inside == inside[:1]).all()


@pytest.mark.parametrize("n_classes", [2, 5])
def test_a_label_gives_way_by_confidence_in_a_straight_line(n_classes):
    confidence = torch.linspace(1 / n_classes, 1, 11, dtype=torch.float64)
    expected = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(flip_chance(confidence, n_classes), expected)


def test_the_twins_are_those_of_a_plain_loop(half):
    design, labels, held_in, basis = half
    penalties, n_classes = (0.0, 0.05), len(basis)
    twins = train(half, penalties)
    for number, l2 in enumerate(penalties):
        generator = torch.Generator().manual_seed(1)
        theta = [torch.zeros(5, n_classes, dtype=torch.float64) for _ in range(2)]
        y = labels.clone()
        for step in range(1, 41):
            logits = [design @ each for each in theta]
            for twin in range(2):
                own = held_in[:, twin]
                leaf = theta[twin].clone().requires_grad_()
                count = torch.bincount(y[own], minlength=n_classes).double()
                factor = 1 / count[y[own]] / (count > 0).sum()
                losses = cross_entropy(design[own] @ leaf, y[own], reduction="none")
                objective = factor @ losses + l2 * leaf.square().sum()
                theta[twin] = theta[twin] - 0.5 * torch.autograd.grad(objective, leaf)[0]
            if step <= 5:
                continue
            drawn = torch.rand(60, 1, generator=generator)
            for row in range(60):
                unseen = logits[1 if held_in[row, 0] else 0][row].softmax(dim=0)
                chance = (n_classes * float(unseen.max()) - 1) / (n_classes - 1)
                if float(drawn[row]) < chance:
                    y[row] = unseen.argmax()
        assert torch.equal(twins.labels[number], y)
        torch.testing.assert_close(twins.u[number] @ basis.T, torch.stack(theta))
    assert (twins.labels[0] != labels).any()


def test_without_flips_it_is_plain_two_fold_cross_fitting(half):
    design, labels, held_in, basis = half
    twins = train(half, (0.1,), steps=600, quiet=600)
    assert torch.equal(twins.labels[0], labels)
    weight = class_balanced(labels[None], held_in, basis)[0]
    for twin in range(2):
        objective = Objective(design, labels, weight[:, twin], 0.1, basis)
        fit = Solver().minimise(objective, objective.zero(), tolerance=1e-10)
        torch.testing.assert_close(twins.u[0, twin], fit.state.u, rtol=1e-6, atol=1e-8)


def test_swapping_the_twins_swaps_them(half):
    design, labels, held_in, basis = half
    one, two = train(half, (0.01,)), train((design, labels, held_in.flip(1), basis), (0.01,))
    torch.testing.assert_close(one.u, two.u.flip(1))
    assert torch.equal(one.labels, two.labels)


def test_no_penalty_depends_on_the_others_and_each_ends_when_it_is_steady(half):
    penalties = (0.0, 0.01, 1.0)
    together = train(half, penalties, steps=300, steady=20)
    for number, penalty in enumerate(penalties):
        alone = train(half, (penalty,), steps=300, steady=20)
        torch.testing.assert_close(together.u[number], alone.u[0])
        assert torch.equal(together.labels[number], alone.labels[0])
        assert together.steps[number] == alone.steps[0]
    assert min(together.steps) < 300
    assert train(half, penalties, steps=30, quiet=30, steady=20).steps == [20, 20, 20]


def test_relabelling_three_classes_permutes_the_cells(make_rows, make_problem):
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=150)
    features = rng.normal(size=(150, 4))
    features[np.arange(150), labels] += 1.5
    parts = {}
    for name, classes in (("as it is", labels), ("renamed", (labels + 1) % 3)):
        rows = make_rows(features, classes, classes)
        parts[name] = XRMInference().infer(make_problem(rows, rows, rows, n_classes=3)).weighted
    assert adjusted_rand_score(*parts.values()) == 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_who_conflicts_with_the_shortcut_is_found_in_every_split(toy, seed):
    problem, conflicting = toy(seed)
    found = XRMInference(seed=seed).infer(problem)
    for split, expected in conflicting.items():
        # Where half of the rows conflict, which environment is the first goes by the fitted ones.
        environment = second(found, split)
        assert environment[expected].mean() > 0.9
        assert expected[environment].mean() > 0.8
    sizes = [
        int(second(found, "weighted")[problem.weighted.labels == label].sum()) for label in (0, 1)
    ]
    assert f"wrong on {sizes[0]} of class 0 and {sizes[1]} of class 1" in found.choice


def test_the_penalty_that_flips_most_labels_is_chosen(blobs, planted):
    def change(twins, labels):
        twins.labels[:] = labels
        for number, flipped in enumerate((3, 5, 9, 7)):
            twins.labels[number, :flipped] = 1 - labels[:flipped]

    planted(change)
    found = XRMInference().infer(blobs)
    assert found.candidates["flipped"].tolist() == [3, 5, 9, 7]
    assert found.candidates["chosen"].tolist() == [False, False, True, False]
    assert found.choice.startswith(
        "the penalty 0.01 was chosen of 4 and flips 9 of 120 labels; either head"
    )


def test_but_not_if_its_heads_predict_one_class(blobs, planted):
    def change(twins, labels):
        twins.u[1] = 0
        twins.labels[1] = 1 - labels

    planted(change)
    candidates = XRMInference().infer(blobs).candidates
    assert candidates["flipped"].argmax() == 1
    assert candidates["whole"].tolist() == [0, 2, 0, 0]
    assert not candidates["chosen"][1]


def test_steps_that_would_diverge_are_shortened(blobs):
    rows = blobs.weighted
    wide = replace(rows, source=100 * rows.features.repeat(1, 50))
    problem = replace(blobs, weighted=wide, target=wide, val=wide)
    given, capped = (XRMInference(twin_lr=lr).head(problem) for lr in (10.0, 1e6))
    assert given.weight.isfinite().all()
    assert torch.equal(given.weight, capped.weight)


def test_the_choice_says_where_errors_are_hidden_and_of_many_classes_only_the_range(
    blobs, make_rows, make_problem
):
    assert "hides errors" not in XRMInference().infer(blobs).choice
    assert "hides errors" in XRMInference().infer(replace(blobs, weighted_split="train")).choice
    rng = np.random.default_rng(0)
    labels = np.arange(100) % 5
    rows = make_rows(rng.normal(size=(100, 4)), labels, labels)
    choice = XRMInference(twin_steps=20).infer(make_problem(rows, rows, rows, n_classes=5)).choice
    assert "samples of a class" in choice
