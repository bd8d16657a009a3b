from dataclasses import replace

import numpy as np
import pytest
from sklearn.cluster import HDBSCAN

from gsr_core.inference.agreement import agreement
from gsr_core.inference.base import OUTLIER
from gsr_core.inference.hdbscan import HdbscanInference


@pytest.fixture
def uneven(make_rows, make_problem):
    """One class with a tight and a wide cluster and a background, and another without any."""

    def uneven(seed=0):
        rng = np.random.default_rng(seed)

        def rows(size):
            group = rng.choice(4, size=size, p=[0.3, 0.3, 0.1, 0.3])
            spread = np.array([0.05, 0.4, 3.0, 0.05])[group, None]
            centre = np.array([[0.0, 4, 0], [4, 0, 0], [0, 0, 0], [9, 9, 9]])[group]
            features = centre + spread * rng.normal(size=(size, 3))
            return make_rows(features, group // 3, group)

        return make_problem(rows(500), rows(100), rows(100))

    return uneven


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_clusters_are_scikit_learns_of_the_explicit_rows(uneven, metric, seed):
    problem = uneven(seed)
    inference = HdbscanInference(space="features", metric=metric, density=7, min_cluster_size=30)
    found = inference.infer(problem)
    own = problem.weighted.labels.cpu().numpy() == 0
    rows = problem.weighted.features.double().cpu().numpy()[own]
    if metric == "cosine":
        rows = rows - rows.mean(axis=0)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    expected = HDBSCAN(min_cluster_size=30, min_samples=8, copy=True).fit_predict(rows)
    assert expected.max() >= 1
    ours = found.weighted[own]
    # Where two clusters part, the row between them is as near to one as to the other: every edge
    # at it has the length of its core distance. Nothing says whose it is.
    table = np.array(
        [[((ours == a) & (expected == b)).sum() for b in range(-1, 4)] for a in range(-1, 4)]
    )
    apart = len(ours) - table.max(axis=1).sum()
    assert apart <= expected.max()
    np.testing.assert_array_equal(ours == OUTLIER, expected == OUTLIER)


def test_clusters_of_unequal_density_are_found_and_the_background_is_outside(uneven):
    problem = uneven()
    found = HdbscanInference(space="features", metric="euclidean").infer(problem)
    for split in ("weighted", "target", "val"):
        true = getattr(problem, split).groups.cpu().numpy().argmax(axis=1)
        group = getattr(found, split)
        for each in (0, 1):
            own = group[(true == each) & (group != OUTLIER)]
            assert len(own) > 0.8 * (true == each).sum()
            assert len(set(own)) == 1
        assert (group[true == 2] == OUTLIER).mean() > 0.6


def test_rows_of_the_other_splits_join_within_the_reach_of_a_clustered_row(uneven):
    problem = uneven()
    copies = replace(problem.weighted, groups=problem.val.groups[:1].expand(500, -1))
    found = HdbscanInference(space="features").infer(replace(problem, val=copies))
    kept = found.weighted != OUTLIER
    np.testing.assert_array_equal(found.val[kept], found.weighted[kept])
    far = replace(copies, source=copies.features * 0 + 1000 * copies.features[:1])
    lost = HdbscanInference(space="features", metric="euclidean").infer(replace(problem, val=far))
    own = far.labels.cpu().numpy() == 0
    assert (lost.val[own] == OUTLIER).all()


def test_many_repeated_rows_are_one_cluster(make_rows, make_problem):
    rng = np.random.default_rng(0)
    features = np.r_[np.ones((60, 2)), -np.ones((60, 2)), 3 * rng.normal(size=(30, 2))]
    rows = make_rows(features, np.zeros(150, dtype=np.int64), np.arange(150) // 60)
    problem = make_problem(rows, rows, rows, n_classes=1)
    found = HdbscanInference(space="features", metric="euclidean").infer(problem)
    assert len(set(found.weighted[:60])) == len(set(found.weighted[60:120])) == 1
    assert found.weighted[0] != found.weighted[60]
    assert agreement(found.weighted[:120], rows.groups.cpu().numpy()[:120]).ari == 1


def test_what_lasted_is_said(uneven):
    problem = uneven()
    found = HdbscanInference(space="features", metric="euclidean").infer(problem)
    assert found.choice.startswith("2 clusters, ")
    assert found.choice.endswith(" outliers in class 0")
    table = found.candidates
    assert table["chosen"].tolist() == [True, False]
    assert table["clusters"].tolist() == [2, 0]
    assert table["silhouette"][0] > 0.5
    whole = HdbscanInference(min_cluster_size=400).infer(problem)
    assert whole.choice == "no class could be split"
    assert whole.n_outliers == 0
