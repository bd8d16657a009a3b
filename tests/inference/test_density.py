import numpy as np
import pytest
from sklearn.cluster import DBSCAN
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.metrics.pairwise import cosine_distances

from gsr_core.inference import density
from gsr_core.inference.base import OUTLIER
from gsr_core.inference.density import dbscan_grid, nearest_others, order, silhouettes

RADII = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
DENSITIES = (1, 2, 5, 10, 20, 100)


def directions(n=240, d=4, seed=0):
    """Three directions with unequal shares and a background, some rows repeated."""
    rng = np.random.default_rng(seed)
    centre = np.eye(d)[rng.choice(3, size=n, p=[0.6, 0.3, 0.1])]
    rows = centre + 0.3 * rng.normal(size=(n, d))
    rows[: n // 8] = rng.normal(size=(n // 8, d))
    rows[-n // 10 :] = rows[n // 2]
    return rows


def stored(rows):
    distance = cosine_distances(rows).astype(np.float32)
    distance = np.maximum(distance, distance.T)
    np.fill_diagonal(distance, 0)
    return distance


def same(one, two) -> bool:
    """Whether two labellings put the same rows together and outside."""
    return adjusted_rand_score(one, two) == 1 and ((one == OUTLIER) == (two == OUTLIER)).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("n", [2, 3, 17, 240])
def test_core_samples_and_outliers_are_scikit_learns_on_the_whole_grid(n, seed):
    distance = stored(directions(n, seed=seed))
    grid = dbscan_grid(distance, RADII, DENSITIES)
    assert [(each.radius, each.density) for each in grid] == [
        (radius, m) for radius in RADII for m in DENSITIES
    ]
    several = 0
    for each in grid:
        model = DBSCAN(eps=each.radius, min_samples=each.density + 1, metric="precomputed")
        expected = model.fit(distance).labels_
        np.testing.assert_array_equal(np.flatnonzero(each.core), model.core_sample_indices_)
        assert same(each.labels[each.core], expected[each.core])
        np.testing.assert_array_equal(each.labels == OUTLIER, expected == OUTLIER)
        assert set(each.labels) - {OUTLIER} == set(range(expected.max() + 1))
        several += expected.max() > 0
    assert several > 5 or n < 100


def test_a_border_sample_joins_its_nearest_core_sample():
    distance = stored(directions())
    borders = 0
    for each in dbscan_grid(distance, RADII, DENSITIES):
        to_core = np.where(each.core, distance, np.inf)
        border = ~each.core & (each.labels != OUTLIER)
        assert (to_core[border].min(axis=1, initial=np.inf) <= each.radius).all()
        np.testing.assert_array_equal(
            each.labels[border], each.labels[to_core[border].argmin(axis=1)]
        )
        borders += border.sum()
    assert borders > 100


def test_the_order_of_rows_decides_nothing():
    rows = directions()
    moved = np.random.default_rng(5).permutation(len(rows))
    distance = stored(rows)
    # Not computed anew, which would round otherwise.
    again = dbscan_grid(np.ascontiguousarray(distance[np.ix_(moved, moved)]), RADII, DENSITIES)
    for one, two in zip(dbscan_grid(distance, RADII, DENSITIES), again, strict=True):
        assert same(one.labels[moved], two.labels)


def test_prims_order_has_the_minimum_spanning_tree_in_it():
    distance = stored(directions(60))
    core = nearest_others(distance, 5).core(5)
    places, lengths = order(distance, core, np.inf)
    assert sorted(places) == list(range(60))
    reach = np.maximum(np.maximum(core, core[:, None]), distance)
    # Kruskal: the edges in order, each taken that joins two parts.
    part, taken = np.arange(60), []
    for a, b in sorted(zip(*np.triu_indices(60, 1), strict=True), key=lambda each: reach[each]):
        if part[a] != part[b]:
            taken.append(reach[a, b])
            part[part == part[b]] = part[a]
    np.testing.assert_array_equal(np.sort(lengths[1:]), np.sort(taken))
    assert lengths[0] == np.inf


def test_what_is_beyond_the_limit_is_left_out_of_the_order():
    distance = stored(directions())
    core = nearest_others(distance, 10).core(10)
    places, _ = order(distance, core, 0.1)
    np.testing.assert_array_equal(np.sort(places), np.flatnonzero(core <= 0.1))
    none, _ = order(distance, core, -1.0)
    assert not len(none)


def test_the_nearest_others_are_sorted_and_leave_the_sample_itself_out(monkeypatch):
    monkeypatch.setattr(density, "BLOCK", 1000)
    distance = stored(directions())
    found = nearest_others(distance, 30)
    off = distance + np.diag(np.full(240, np.inf, dtype=np.float32))
    np.testing.assert_array_equal(found.distance, np.sort(off, axis=1)[:, :30])
    np.testing.assert_array_equal(np.take_along_axis(off, found.index, axis=1), found.distance)
    assert all(len(set(each)) == 30 for each in found.index)
    assert nearest_others(distance[:3, :3], 30).core(3).tolist() == [np.inf] * 3
    assert nearest_others(distance[:1, :1], 30).core(1).tolist() == [np.inf]


@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize("columns", [1, 256])
def test_silhouettes_are_scikit_learns(root, columns, monkeypatch):
    monkeypatch.setattr(density, "BLOCK", 1000)
    monkeypatch.setattr(density, "_COLUMNS", columns)
    distance = stored(directions())
    labelings = [each.labels for each in dbscan_grid(distance, RADII, DENSITIES)]
    # With a cluster of one.
    labelings.append(np.where(np.arange(240) == 100, 2, np.arange(240) % 2))
    found = silhouettes(distance, labelings, root=root)
    scored = np.sqrt(distance.astype(np.float64)) if root else distance.astype(np.float64)
    for labels, score in zip(labelings, found, strict=True):
        kept = np.flatnonzero(labels != OUTLIER)
        expected = -1.0
        if labels.max() > 0:
            inside = scored[np.ix_(kept, kept)]
            expected = silhouette_score(inside, labels[kept], metric="precomputed")
        assert score == pytest.approx(expected, abs=1e-6)
    assert sum(score > -1 for score in found) > 5


def test_samples_at_one_place_have_a_silhouette_of_zero():
    assert silhouettes(np.zeros((4, 4), np.float32), [np.array([0, 0, 1, 1])]) == [0.0]


def test_clusters_without_spread_have_a_silhouette_of_one():
    distance = 1 - np.kron(np.eye(2), np.ones((3, 3))).astype(np.float32)
    assert silhouettes(distance, [np.repeat([0, 1], 3)]) == [1.0]
