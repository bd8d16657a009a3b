import itertools

import numpy as np
import pytest
import torch

from gsr_core.gradients.coresets import medoids


def cloud(n, r=3, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, r, generator=generator, dtype=torch.float64)


def covered(points, chosen):
    """F of a set, with the largest distance as c_0."""
    distance = torch.cdist(points, points)
    return float((distance.max() - distance[:, list(chosen)].min(dim=1).values).sum())


def test_greedy_reaches_its_share_of_the_best(compute):
    for seed in range(10):
        points = cloud(12, seed=seed)
        found = medoids(points.to(compute.device), 3)
        best = max(covered(points, each) for each in itertools.combinations(range(12), 3))
        value = covered(points, found.chosen.tolist())
        assert (1 - 1 / np.e) * best <= value <= best + 1e-9
        assert float(found.gains.sum()) == pytest.approx(value)


def test_each_choice_has_the_largest_gain_of_all(monkeypatch):
    points = cloud(60, scale=1e-6)
    plain = medoids(points, 25)
    assert bool((plain.gains.diff() <= 1e-15).all())
    for number in range(25):
        before = plain.chosen[:number].tolist()
        values = [covered(points, [*before, each]) for each in range(60)]
        reached = values[int(plain.chosen[number])]
        assert reached == pytest.approx(max(values), abs=1e-13)
    # The same from distances that are computed again, in blocks.
    monkeypatch.setattr("gsr_core.gradients.coresets._KEPT_NUMBERS", 0)
    monkeypatch.setattr("gsr_core.gradients.coresets._BLOCK_NUMBERS", 7 * 60)
    again = medoids(points, 25)
    torch.testing.assert_close(again.chosen, plain.chosen)
    torch.testing.assert_close(again.cluster, plain.cluster)


def test_clusters_are_the_rows_whose_nearest_medoid_it_is():
    points = cloud(80)
    found = medoids(points, 9)
    nearest = torch.cdist(points, points[found.chosen]).argmin(dim=1)
    torch.testing.assert_close(found.cluster, nearest)
    torch.testing.assert_close(found.sizes, nearest.bincount(minlength=9))
    assert set(medoids(points, 80).sizes.tolist()) == {1}
    assert medoids(points, 1).sizes.tolist() == [80]


def test_copies_of_a_medoid_have_no_cluster_of_their_own():
    points = torch.cat([cloud(6), cloud(6)[:2], cloud(6)[:2]])
    found = medoids(points, 10)
    assert sorted(found.chosen.tolist()) == list(range(10))
    sizes = torch.zeros(10, dtype=torch.int64).index_put((found.chosen,), found.sizes)
    assert sorted(sizes[[0, 6, 8]].tolist()) == sorted(sizes[[1, 7, 9]].tolist()) == [0, 0, 3]
    assert sizes[2:6].tolist() == [1] * 4
    alike = medoids(torch.ones(5, 2), 3)
    assert alike.chosen.tolist() == [0, 1, 2]
    assert alike.sizes.tolist() == [5, 0, 0]


def test_a_number_of_medoids_that_there_are_not_is_refused():
    for k in (0, 4):
        with pytest.raises(ValueError, match=f"k is {k}; allowed are 1 to the number of points, 3"):
            medoids(cloud(3), k)
