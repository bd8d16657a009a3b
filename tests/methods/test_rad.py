from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from gsr_core.data.problem import Rows
from gsr_core.methods.fit import fit
from gsr_core.methods.inner import InnerProblem
from gsr_core.methods.llr import LLR
from gsr_core.methods.rad import RAD
from gsr_core.methods.sparse import SparseProblem

GROUPS = ["a0", "a1", "b0", "b1"]


@pytest.fixture
def toy(make_problem):
    """The toy of the specification: 500 rows, 5 % of which conflict."""

    def toy(seed):
        problem, _ = make_problem(n=500, n_target=600, d=30, minority=0.05, seed=seed)
        _, test = make_problem(n=80, n_target=8000, d=30, seed=seed + 100)
        return problem, test

    return toy


def one(method, problem):
    (step,) = method.iterate(problem)
    return step


def counted(step) -> torch.Tensor:
    """Which samples count more than once."""
    return step.sample_weight > 1.0001 * step.sample_weight.min()


def conflicting(rows: Rows) -> torch.Tensor:
    return rows.groups[:, 1] | rows.groups[:, 2]


def worst_group(step, rows: Rows) -> float:
    right = step.head.logits(rows.features).argmax(dim=1) == rows.labels
    return min(float(right[members].double().mean()) for members in rows.groups.T)


def scaled(rows: Rows) -> np.ndarray:
    features = rows.features.cpu().double().numpy()
    return (features - features.mean(axis=0)) / features.std(axis=0)


def sparse_elsewhere(problem, fraction, weight) -> LogisticRegression:
    """The l1 head of scikit-learn at a fraction of the penalty at which it is zero."""
    design, labels = scaled(problem.weighted), problem.weighted.labels.cpu().numpy()
    share = np.array([weight[labels == label].sum() for label in range(problem.n_classes)])
    residual = share - (labels[:, None] == np.arange(problem.n_classes))
    most = np.abs(design.T @ (weight[:, None] * residual)).max()
    return LogisticRegression(
        l1_ratio=1.0, C=1 / (len(labels) * fraction * most), solver="saga", tol=1e-9, max_iter=5000
    ).fit(design, labels, sample_weight=len(labels) * weight)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_what_counts_is_exactly_what_the_sparse_head_gets_wrong(make_problem, n_classes):
    problem, _ = make_problem(n=200, n_classes=n_classes)
    rows = problem.weighted
    first = sparse_elsewhere(problem, 0.2, np.full(200, 1 / 200))
    wrong = torch.from_numpy(first.predict(scaled(rows))).to(rows.labels) != rows.labels
    errors = int(wrong.sum())
    step = one(RAD(annotator_rho=0.2, up=1.5), problem)
    relative = step.sample_weight / step.sample_weight.min()
    torch.testing.assert_close(relative, torch.where(wrong, 1.5, 1.0).to(relative))
    of = ", ".join(
        f"{int((wrong & (rows.labels == label)).sum())} of class {label}"
        for label in range(n_classes)
    )
    used = int((first.coef_ != 0).any(axis=0).sum())
    assert step.note.startswith(
        f"{errors} of 200 samples ({of}) were misclassified by a head of {used} features"
    )


def test_at_the_largest_penalty_the_errors_are_all_but_the_largest_class(make_problem):
    problem, _ = make_problem(n=200, n_classes=3)
    rows = problem.weighted
    for largest in range(3):
        keep = (rows.labels == largest) | (torch.arange(200, device=rows.labels.device) % 2 == 0)
        fewer = Rows(
            rows.features[keep],
            rows.labels[keep],
            rows.groups[keep],
            rows.position[keep.cpu().numpy()],
        )
        step = one(RAD(annotator_rho=1.0), replace(problem, weighted=fewer))
        outside = fewer.labels != largest
        if int(outside.sum()) < len(fewer) / 2:
            assert torch.equal(counted(step), outside)
        assert f"{int(outside.sum())} of {len(fewer)} samples" in step.note
        assert "by a head of 0 features" in step.note
        assert "only classes are balanced: lower annotator_rho" in step.note


@pytest.mark.parametrize("n_classes", [2, 3])
def test_counting_once_is_a_plain_fit(make_problem, n_classes):
    problem, _ = make_problem(n=150, n_classes=n_classes)
    step = one(RAD(up=1, l2=0.03), problem)
    plain = one(LLR(l2=0.03), problem)
    torch.testing.assert_close(step.head.weight, plain.head.weight, rtol=1e-7, atol=1e-9)

    step = one(RAD(up=1, penalty="l1", rho=0.1), problem)
    other = sparse_elsewhere(problem, 0.1, np.full(150, 1 / 150))
    expected = other.decision_function(scaled(problem.weighted))
    ours = step.head.logits(problem.weighted.features.double()).cpu().numpy()
    if n_classes == 2:
        ours = ours[:, 1] - ours[:, 0]
    else:
        ours, expected = (each - each.mean(axis=1, keepdims=True) for each in (ours, expected))
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("penalty", ["l2", "l1"])
def test_counting_a_sample_many_times_is_having_as_many_copies(make_problem, penalty):
    problem, _ = make_problem(n=200)
    rows = problem.weighted
    step = one(RAD(up=4, penalty=penalty, standardise=False), problem)
    times = torch.where(counted(step), 4, 1)
    index = torch.arange(200, device=times.device).repeat_interleave(times)
    assert len(index) > 210
    copies = Rows(rows.features[index], rows.labels[index], rows.groups[index], np.arange(1))
    if penalty == "l2":
        inner = InnerProblem(problem, copies, l2=0.01, standardise=False)
        head = inner.step(inner.uniform()).head
    else:
        sparse = SparseProblem(problem, copies, standardise=False)
        head = sparse.step(sparse.uniform(), 0.1).head
    torch.testing.assert_close(step.head.weight, head.weight, rtol=1e-5, atol=1e-6)


def test_the_errors_never_weigh_more_than_the_rest(make_problem):
    problem, _ = make_problem(n=200, minority=0.3)
    step = one(RAD(up=1000), problem)
    assert float(step.sample_weight[counted(step)].sum()) == pytest.approx(0.5)
    assert ", not 1000, so as to weigh no more than the rest." in step.note
    below = one(RAD(up=1.2), problem)
    assert "not 1.2" not in below.note
    # Where they are most of the samples they are not weighed down.
    most, _ = make_problem(n=150, n_classes=4)
    step = one(RAD(annotator_rho=1.0), most)
    assert not bool(counted(step).any())
    assert "count 1 times, not 20" in step.note


def test_without_errors_all_count_alike_and_the_note_says_so(make_problem):
    problem, _ = make_problem(minority=0.0)
    rows = problem.weighted
    features = rows.features.clone()
    features[:, 2] = 10.0 * (2 * rows.labels - 1)
    easy = replace(problem, weighted=replace(rows, source=features))
    step = one(RAD(annotator_rho=0.01), easy)
    assert torch.equal(step.sample_weight, torch.full_like(step.sample_weight, 1 / 80))
    assert "0 of 80 samples" in step.note
    assert "raise annotator_rho" in step.note


@pytest.mark.parametrize("penalty", ["l2", "l1"])
def test_a_class_without_rows_stops_nothing(make_problem, penalty):
    problem, _ = make_problem(n=150, n_classes=3)
    rows = problem.weighted
    keep = (rows.labels != 2).nonzero()[:, 0]
    weighted = Rows(
        *(rows.features[keep], rows.labels[keep], rows.groups[keep]),
        rows.position[keep.cpu().numpy()],
    )
    result = fit(RAD(penalty=penalty), replace(problem, weighted=weighted), [*GROUPS, "c0", "c1"])
    assert result.step.solved
    assert bool(result.step.head.weight.isfinite().all())
    assert "of class 2" not in result.step.note


def test_a_sparse_head_has_no_influence_and_counts_its_features(make_problem):
    problem, _ = make_problem(n=200)
    step = one(RAD(penalty="l1", rho=0.3), problem)
    used = int((step.head.weight != 0).any(dim=0).sum())
    assert 0 < used < 6
    assert step.note.endswith(f"{used} of 6 features have a weight.")
    assert step.influence is None
    assert one(RAD(), problem).influence.shape == (200, 4)


def test_of_the_toy_the_annotator_finds_who_conflicts(toy):
    for seed in range(3):
        problem, test = toy(seed)
        truth = conflicting(problem.weighted)
        step = one(RAD(annotator_rho=0.15, penalty="l1", rho=0.1, standardise=False), problem)
        found = counted(step)
        assert "by a head of 1 features" in step.note
        assert bool(found[truth].all())
        assert float(truth[found].double().mean()) > 0.85
        assert worst_group(step, test) > 0.69
        # A weak penalty lets it use what else there is, so that it misses many.
        weak = counted(one(RAD(annotator_rho=0.007, standardise=False), problem))
        assert float(weak[truth].double().mean()) < 0.8


def test_under_label_noise_the_cap_keeps_the_toy_from_collapse(toy):
    problem, test = toy(0)
    rows = problem.weighted
    flipped = torch.from_numpy(np.random.default_rng(0).random(500) < 0.1).to(rows.labels.device)
    labels = torch.where(flipped, 1 - rows.labels, rows.labels)
    noisy = replace(problem, weighted=replace(rows, labels=labels))
    step = one(RAD(annotator_rho=0.15, penalty="l1", rho=0.1, standardise=False), noisy)
    wrong = counted(step)
    assert float(flipped[wrong].double().mean()) > 0.6
    assert worst_group(step, test) > 0.5
    # Without it E alone would decide.
    sparse = SparseProblem(noisy, noisy.weighted, standardise=False)
    weight = 1 + 19 * wrong.to(sparse.design)
    uncapped = sparse.step(weight / weight.sum(), 0.1)
    assert worst_group(uncapped, test) < 0.05
