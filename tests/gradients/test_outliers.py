import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from gsr_core.errors import SettingError
from gsr_core.gradients import outliers
from gsr_core.gradients.outliers import facility_location, gradient_norms, isolation
from gsr_core.gradients.representations import gradient_representation, gradients
from gsr_core.linear.head import Head


def plain_greedy(points: np.ndarray, k: int) -> tuple[list[int], list[float]]:
    """Facility location with every gain computed anew at every step."""
    distance = cdist(points, points)
    cover = np.full(len(points), 2 * distance[0].max())
    chosen, gains = [], []
    for _ in range(k):
        gain = np.maximum(cover - distance, 0).sum(axis=1)
        gain[chosen] = -np.inf
        chosen.append(int(gain.argmax()))
        gains.append(gain.max())
        cover = np.minimum(cover, distance[chosen[-1]])
    return chosen, gains


def separate(n: int) -> tuple[Head, torch.Tensor, torch.Tensor]:
    """A head and n samples of three classes, all different."""
    generator = torch.Generator().manual_seed(n)
    draw = {"generator": generator, "dtype": torch.float64}
    head = Head(torch.randn(3, 4, **draw), torch.randn(3, **draw))
    return head, torch.randn(n, 4, **draw), torch.arange(n) % 3


@pytest.mark.parametrize("k", [2, 3])
def test_gradient_norms_are_those_of_the_explicit_gradients(sampled, k):
    problem = sampled(k=k)
    full = gradient_representation(*problem, rank=None)
    np.testing.assert_allclose(gradient_norms(*problem), full.norm(dim=1), rtol=1e-10)


@pytest.mark.parametrize("k", [1, 7, 60])
@pytest.mark.parametrize("columns", [1, 3])
def test_lazy_greedy_chooses_as_plain_greedy_does(columns, k, monkeypatch):
    monkeypatch.setattr(outliers, "_AT_ONCE", 3)
    monkeypatch.setattr(outliers, "_BLOCK_NUMBERS", 500)
    points = np.random.default_rng(k).normal(size=(60, columns)) ** 3
    found = facility_location(points, k)
    chosen, gains = plain_greedy(points, k)
    np.testing.assert_array_equal(found.positions, chosen)
    np.testing.assert_allclose(found.gains, gains, atol=1e-10)


@pytest.mark.parametrize("k", [1, 12, 60])
def test_gains_fall_and_every_point_is_counted_once(k):
    points = np.random.default_rng(0).normal(size=(60, 2))
    found = facility_location(points, k)
    assert (np.diff(found.gains) <= 1e-10).all()
    assert found.sizes.sum() == 60
    if k in (1, 60):
        np.testing.assert_array_equal(found.sizes, 60 // k)
    np.testing.assert_array_equal(
        found.nearest, cdist(points, points[found.positions]).argmin(axis=1)
    )


@pytest.mark.parametrize("seed", range(20))
def test_exactly_the_singletons_beside_two_blobs_are_alone(seed):
    rng = np.random.default_rng(seed)
    blobs = np.concatenate([rng.normal(at, 0.02, (40, 2)) for at in ((0.0, 0.0), (3.0, 0.0))])
    angle = 2 * np.pi * (np.arange(5) + rng.uniform(-0.2, 0.2, 5)) / 5
    singletons = 10 * np.column_stack([np.cos(angle), np.sin(angle)])
    order = rng.permutation(85)
    found = facility_location(np.concatenate([blobs, singletons])[order], 7)
    alone = order[found.positions[found.sizes == 1]]
    np.testing.assert_array_equal(np.sort(alone), np.arange(80, 85))


def test_points_that_coincide_are_never_alone():
    points = np.repeat(np.random.default_rng(0).normal(size=(10, 2)), 2, axis=0)
    for k in range(1, 21):
        found = facility_location(points, k)
        assert not (found.sizes == 1).any()
        assert (found.sizes == 0).sum() == max(k - 10, 0)


def test_samples_that_coincide_are_never_isolated_and_all_others_are_at_share_one():
    head, features, labels = separate(60)
    features[30:33], labels[30:33] = features[30], labels[30]
    found = isolation(head, features, labels, share=1.0)
    np.testing.assert_array_equal(np.flatnonzero(~found.isolated), [30, 31, 32])
    np.testing.assert_array_equal(found.size, np.where(found.isolated, 1, 3))


def test_the_score_is_the_distance_to_the_nearest_other_medoid_of_the_class():
    head, features, labels = separate(90)
    found = isolation(head, features, labels, share=0.3)
    residuals = gradients(head, features, labels).residuals.numpy()
    assert 0 < found.isolated.sum() < 27
    np.testing.assert_array_equal(found.score > 0, found.isolated)
    assert (found.size[found.isolated] == 1).all()
    for label in range(3):
        rows = np.flatnonzero(labels.numpy() == label)
        medoids = rows[facility_location(residuals[rows], 9).positions]
        for row in rows[found.isolated[rows]]:
            far = cdist(residuals[[row]], residuals[medoids[medoids != row]])
            assert found.score[row] == pytest.approx(far.min())


def test_each_class_is_searched_alone():
    head, features, labels = separate(90)
    both = isolation(head, features, labels)
    for label in range(3):
        own = labels == label
        alone = isolation(head, features[own], labels[own])
        np.testing.assert_array_equal(both.isolated[own.numpy()], alone.isolated)
        np.testing.assert_allclose(both.score[own.numpy()], alone.score)


def test_a_planted_mislabelled_sample_is_isolated_and_has_the_largest_gradient():
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(np.repeat([0, 1], 50))
    features = torch.from_numpy(rng.normal(0, 0.05, (100, 2))) + 4.0 * labels[:, None] - 2
    labels[7] = 1
    head = Head(torch.tensor([[-1.0, -1.0], [1.0, 1.0]]).double(), torch.zeros(2).double())
    found = isolation(head, features, labels, share=0.1)
    assert found.score.argmax() == 7
    assert found.isolated[7]
    assert gradient_norms(head, features, labels).argmax() == 7


def test_a_class_of_one_or_none_is_not_isolated():
    head, features, labels = separate(31)
    labels[:] = 1
    labels[4] = 0
    found = isolation(head, features, labels)
    assert not found.isolated[4]
    assert found.size[4] == 1
    nothing = isolation(head, features[:0], labels[:0])
    assert nothing.score.shape == nothing.isolated.shape == nothing.size.shape == (0,)


def test_a_class_beyond_the_limit_is_cut_at_random_and_repeatably():
    head, features, labels = separate(90)
    labels[:] = 0
    whole = isolation(head, features, labels, share=0.5)
    one, again, other = (
        isolation(head, features, labels, share=0.5, class_limit=40, seed=seed)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.score, again.score)
    assert (one.isolated != other.isolated).any()
    assert (one.isolated != whole.isolated).any()
    assert one.size.max() <= 30  # three parts of thirty


def test_what_is_not_allowed_is_refused():
    head, features, labels = separate(9)
    for share in (0.0, 1.1, float("nan")):
        with pytest.raises(SettingError, match="share"):
            isolation(head, features, labels, share=share)
    with pytest.raises(SettingError, match="class_limit"):
        isolation(head, features, labels, class_limit=1)
    for k in (0, 10):
        with pytest.raises(SettingError, match="1 to 9"):
            facility_location(features.numpy(), k)
