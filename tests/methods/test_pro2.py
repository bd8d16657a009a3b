from dataclasses import replace

import numpy as np
import pytest
import torch

from gsr_core.data.problem import Rows
from gsr_core.errors import SettingError
from gsr_core.linear.feature_map import FeatureMap
from gsr_core.methods.inner import InnerProblem
from gsr_core.methods.pro2 import Pro2, SourceHeads
from gsr_core.methods.rwg import RWG, group_shares

MANY = 100


def take(rows, index):
    index = torch.as_tensor(index, device=rows.labels.device)
    return Rows(rows.features[index], rows.labels[index], rows.groups[index], index.cpu().numpy())


def source_heads(problem, count=MANY, l2=0.001):
    """Source heads on the weighted rows, as many as asked for or as there are; their directions."""
    heads = SourceHeads(problem, problem.weighted, l2)
    heads.basis(count)
    basis = heads.basis(len(heads.accuracy))
    assert basis is not None
    return heads, basis


@pytest.mark.parametrize("n_classes", [2, 3, 4])
def test_directions_are_orthonormal_and_end_when_they_span_all_features(make_problem, n_classes):
    problem, _ = make_problem(n=120, d=7, n_classes=n_classes)
    heads, basis = source_heads(problem)
    assert basis.shape == (7, 7)
    assert (basis.T @ basis - torch.eye(7).to(basis)).abs().max() < 1e-10
    # Each head gives K - 1, the last one what is left.
    assert len(heads.accuracy) == -(-7 // (n_classes - 1))
    assert heads.basis(len(heads.accuracy) + 1) is None


def test_directions_end_at_the_rank_of_the_features(make_problem):
    problem, _ = make_problem(n=120, d=7)
    features = problem.weighted.features.clone()
    features[:, 6] = 3.0
    features[:, 5] = -2 * features[:, 0]
    flat = replace(problem, weighted=replace(problem.weighted, source=features))
    assert source_heads(flat)[1].shape == (7, 5)
    few = replace(problem, weighted=take(problem.weighted, np.arange(5)))
    assert source_heads(few)[1].shape == (7, 4)


def test_fewer_directions_are_the_first_of_more(make_problem):
    problem, _ = make_problem(n_classes=3, d=9)
    one_by_one = SourceHeads(problem, problem.weighted, 0.001)
    first = one_by_one.basis(1)
    three = one_by_one.basis(3)
    assert first is not None
    assert three is not None
    assert torch.equal(three[:, :2], first)
    assert torch.equal(source_heads(problem, 3)[1], three)


def test_each_direction_is_that_of_a_head_fitted_without_the_earlier_ones(make_problem):
    """In coordinates of the complement, which has no earlier direction to leave out."""
    problem, _ = make_problem(n=150, d=6)
    heads, basis = source_heads(problem, 4, l2=0.01)
    z = heads.standardised(problem.weighted.features)
    for j in range(4):
        earlier = basis[:, :j]
        complement = torch.linalg.svd(earlier.T, full_matrices=True)[2][j:].T if j else None
        complement = torch.eye(6).to(z) if complement is None else complement
        rows = replace(problem.weighted, source=z @ complement)
        inner = InnerProblem(problem, rows, l2=0.01, standardise=False)
        head = inner.step(inner.uniform()).head
        direction = complement @ (head.weight[1] - head.weight[0])
        cosine = direction @ basis[:, j] / direction.norm()
        assert abs(float(cosine)) == pytest.approx(1, abs=1e-10)
        logits = rows.features @ head.weight.T + head.bias
        right = (logits.argmax(dim=1) == rows.labels).double().mean()
        assert heads.accuracy[j] == pytest.approx(float(right))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_rotated_features_rotate_the_directions_and_leave_the_predictions(make_problem, n_classes):
    problem, _ = make_problem(n=150, d=6, n_classes=n_classes)
    generator = torch.Generator().manual_seed(1)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))[0]
    # White features stay standardised however they are rotated.
    x = problem.weighted.features.double()
    x = x - x.mean(dim=0)
    x = torch.linalg.qr(x)[0] * len(x) ** 0.5
    rotation = rotation.to(x)

    def rotated(by):
        return replace(problem, weighted=replace(problem.weighted, source=x @ by))

    plain = source_heads(rotated(torch.eye(6).to(x)), 2)[1]
    turned = source_heads(rotated(rotation), 2)[1]
    expected = rotation.T @ plain
    torch.testing.assert_close(turned @ turned.T, expected @ expected.T, rtol=0, atol=1e-7)
    for one, two in zip(
        Pro2(steps=3).iterate(rotated(torch.eye(6).to(x))),
        Pro2(steps=3).iterate(
            replace(
                rotated(rotation),
                target=replace(problem.target, source=problem.target.features.double() @ rotation),
            )
        ),
        strict=True,
    ):
        torch.testing.assert_close(
            two.head.logits(x @ rotation), one.head.logits(x), rtol=1e-5, atol=1e-5
        )


def full_head(problem, l2):
    """The group-balanced head on all features, standardised on the weighted rows."""
    scaling = FeatureMap.fit(
        problem.weighted.features, standardise=True, dtype=torch.float64, row_space=False
    )
    features = problem.target.features.double()
    rows = replace(problem.target, source=(features - scaling.mean) / scaling.scale)
    inner = InnerProblem(problem, rows, l2=l2, standardise=False)
    weight = group_shares(rows, inner.basis).mean(dim=1)
    head = inner.step(weight).head
    return lambda x: head.logits((x.double() - scaling.mean) / scaling.scale)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_all_features_are_the_full_head_and_so_are_all_directions(make_problem, n_classes):
    problem, test = make_problem(n_classes=n_classes, d=4, n_target=90)
    expected = full_head(problem, 0.05)(test.features)
    steps = list(Pro2(steps=4, l2=0.05).iterate(problem))
    x = test.features.double()
    torch.testing.assert_close(steps[-1].head.logits(x), expected, rtol=1e-6, atol=1e-6)
    # With all directions the projection is a rotation, under which the penalty is the same.
    assert f"on {4} directions" in steps[-2].note
    torch.testing.assert_close(steps[-2].head.logits(x), expected, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(steps[0].head.logits(x), expected, atol=0.05)


def test_the_head_of_a_step_is_one_on_its_directions_alone(make_problem):
    problem, _ = make_problem(d=8)
    heads, basis = source_heads(problem, 2)
    for step, columns in zip(Pro2(steps=3).iterate(problem), (basis[:, :1], basis), strict=False):
        theta = step.head.weight * heads.scaling.scale
        torch.testing.assert_close(theta @ columns @ columns.T, theta, rtol=1e-9, atol=1e-12)


def test_the_target_rows_weigh_as_in_group_balancing(make_problem):
    problem, _ = make_problem(n_target=50)
    as_weighted = replace(problem, weighted=problem.target)
    (expected,) = RWG().iterate(as_weighted)
    for step in Pro2(steps=2).iterate(problem):
        assert step.sample_weight is not None
        assert expected.sample_weight is not None
        torch.testing.assert_close(step.sample_weight, expected.sample_weight)


@pytest.mark.parametrize("empty", [False, True])
def test_overlapping_groups_and_groups_without_rows_are_balanced_too(make_problem, empty):
    problem, _ = make_problem(n_target=50)
    groups = torch.from_numpy(np.random.default_rng(0).random((50, 4)) < 0.5)
    groups[:, 2] &= not empty
    groups = groups.to(problem.compute.device)
    problem = replace(problem, target=replace(problem.target, groups=groups))
    step = next(Pro2().iterate(problem))
    assert step.sample_weight is not None
    assert float(step.sample_weight.sum()) == pytest.approx(1, abs=1e-12)
    assert torch.equal(step.sample_weight > 0, groups.any(dim=1))


def test_source_rows_of_one_class_give_no_direction(make_problem):
    problem, _ = make_problem()
    rows = take(problem.weighted, np.flatnonzero(problem.weighted.labels.cpu().numpy() == 0))
    (step,) = Pro2().iterate(replace(problem, weighted=rows))
    assert "all 6 features" in step.note


def test_train_gives_the_directions_if_asked_for(make_problem):
    problem, _ = make_problem()
    other, _ = make_problem(seed=5, n=200)
    with pytest.raises(SettingError, match=r"source is 'train', but this bundle has no rows of"):
        next(Pro2(source="train").iterate(problem))
    both = replace(problem, train=lambda: other.weighted)
    step = next(Pro2(source="train").iterate(both))
    expected = next(Pro2().iterate(replace(problem, weighted=other.weighted)))
    assert torch.equal(step.head.weight, expected.head.weight)
    assert not torch.equal(next(Pro2().iterate(both)).head.weight, step.head.weight)


def test_a_continued_run_is_one_long_run(make_problem):
    problem, _ = make_problem(d=9)
    whole = list(Pro2(steps=4).iterate(problem))
    rest = list(Pro2(steps=4).iterate(problem, whole[1].checkpoint))
    assert len(rest) == 2
    for one, two in zip(rest, whole[2:], strict=True):
        assert torch.equal(one.head.weight, two.head.weight)
        assert torch.equal(one.head.bias, two.head.bias)


@pytest.mark.parametrize("seed", range(3))
def test_with_32_target_rows_four_directions_beat_one_and_all(make_problem, seed):
    problem, test = make_problem(n=2000, n_target=8000, d=30, minority=0.05, seed=seed)
    members = problem.target.groups.cpu().numpy().T
    chosen = np.concatenate([np.flatnonzero(column)[:8] for column in members])
    problem = replace(problem, target=take(problem.target, chosen))
    worst = {}
    for step in Pro2(steps=4).iterate(problem):
        right = step.head.logits(test.features).argmax(dim=1) == test.labels
        by_group = [float(right[column].double().mean()) for column in test.groups.T]
        worst[step.note.split(" on ")[1].split(" ")[0]] = min(by_group)
    assert worst["4"] > worst["1"] + 0.2
    assert worst["4"] > worst["all"]
