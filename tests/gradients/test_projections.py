import dataclasses

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.metrics import pairwise_distances

from gsr_core.errors import SettingError
from gsr_core.gradients import projections
from gsr_core.gradients.graph import neighbour_graph
from gsr_core.gradients.projections import pca_map, umap_map
from gsr_core.gradients.representations import gradients
from gsr_core.linear.head import Head


def blobs(n: int = 60, columns: int = 5) -> np.ndarray:
    """Two clusters in two directions, the first and the second half of the rows."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(scale=0.1, size=(n, columns))
    matrix[: n // 2, 0] += 1
    matrix[n // 2 :, 1] += 1
    return matrix.astype(np.float32)


def apart(places: np.ndarray) -> bool:
    """Whether the gap between the halves is wider than either half."""
    first, second = np.split(places, 2)
    spread = max(np.linalg.norm(half - half.mean(0), axis=1).max() for half in (first, second))
    return bool(np.linalg.norm(first.mean(0) - second.mean(0)) > 2 * spread)


@pytest.fixture(scope="session")
def fitted() -> tuple[np.ndarray, list[tuple[float, str]]]:
    """The one full UMAP fit of these tests: compiling it takes a while."""
    told: list[tuple[float, str]] = []
    places = umap_map(
        blobs(columns=60), seed=0, progress=lambda fraction, text: told.append((fraction, text))
    )
    return places, told


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("columns", [5, 60, 1100])
def test_pca_map_equals_scikit_learn_up_to_sign(columns, dimensions):
    matrix = np.random.default_rng(0).normal(size=(50, columns)) + 3
    matrix[:, 0] *= 60
    matrix[:, 1] *= 40
    matrix[:, 2] *= 20
    found = pca_map(matrix, dimensions=dimensions)
    expected = PCA(dimensions, svd_solver="full").fit_transform(matrix)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=1e-3, atol=1e-3)


def test_pca_map_is_deterministic_and_does_not_flip_with_row_order():
    matrix = blobs()
    np.testing.assert_array_equal(pca_map(matrix), pca_map(matrix))
    np.testing.assert_allclose(pca_map(matrix[::-1]), pca_map(matrix)[::-1], atol=1e-5)


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (5, 1), (2, 2)])
def test_pca_map_fills_up_with_zeros(shape):
    assert pca_map(np.ones(shape, np.float32)).shape == (shape[0], 2)
    assert pca_map(np.ones(shape, np.float32), dimensions=3).shape == (shape[0], 3)


def test_umap_separates_planted_blobs_and_tells_its_progress(fitted):
    places, told = fitted
    assert places.dtype == np.float32
    assert apart(places)
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions)
    assert told[-1] == (1.0, "Done")
    # tqdm tells at most ten times a second, and always of the last epoch.
    assert (0.95, "Fitting UMAP to 60 rows") in told


def test_seeded_umap_repeats(fitted):
    np.testing.assert_array_equal(umap_map(blobs(columns=60), seed=0), fitted[0])


def test_rows_above_the_limit_are_placed_beside_their_like(fitted):
    told: list[tuple[float, str]] = []
    places = umap_map(
        blobs(), seed=0, limit=30, progress=lambda fraction, text: told.append((fraction, text))
    )
    assert apart(places)
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions)
    assert (0.95, "Placing 30 more rows") in told


def test_a_known_graph_is_taken_and_must_have_enough_neighbours(fitted):
    matrix = blobs()
    graph = neighbour_graph(matrix, 14)
    places = umap_map(matrix, seed=0, graph=graph)
    assert apart(places)
    # Neighbours of the other half alone pull every row to its like in the other half.
    crossed = np.roll(graph.indices, 30, axis=0)
    other = dataclasses.replace(graph, indices=crossed)
    assert not apart(umap_map(matrix, seed=0, graph=other))
    with pytest.raises(SettingError, match="k=14"):
        umap_map(matrix, graph=graph.first(13))


def test_umap_in_three_dimensions_separates_planted_blobs_too(fitted):
    places = umap_map(blobs(), seed=0, dimensions=3)
    assert places.shape == (60, 3)
    assert apart(places)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_approximate_graph_finds_nearly_all_neighbours_at_exact_distances(fitted, metric):
    """At least 0.9 of them on digits, whose 64 columns are searched in 50."""
    digits = load_digits().data
    exact = neighbour_graph(digits, 15, metric)
    found = neighbour_graph(digits, 15, metric, exact_limit=100)
    assert exact.exact
    assert not found.exact
    shared = [len(np.intersect1d(*pair)) for pair in zip(found.indices, exact.indices, strict=True)]
    assert np.mean(shared) / 15 >= 0.9

    rows = np.arange(len(digits))[:, None]
    assert (found.indices != rows).all()
    assert (np.diff(np.sort(found.indices, axis=1), axis=1) > 0).all()
    assert (np.diff(found.distances, axis=1) >= 0).all()
    distance = pairwise_distances(digits, metric=metric)
    np.testing.assert_allclose(found.distances, distance[rows, found.indices], atol=1e-6)

    again = neighbour_graph(digits, 15, metric, exact_limit=100)
    np.testing.assert_array_equal(again.indices, found.indices)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_approximate_graph_of_gradients_is_searched_in_their_projection(fitted, metric):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(300, 80, generator=generator, dtype=torch.float64)
    features = features * torch.arange(1, 81).to(features).rsqrt() ** 3
    labels = torch.arange(300) % 3
    head = Head(features[:3], features.new_zeros(3))
    space = gradients(head, features, labels).centred(labels)
    assert space.width > 50
    exact = neighbour_graph(space, 10, metric)
    found = neighbour_graph(space, 10, metric, exact_limit=100)
    shared = [len(np.intersect1d(*pair)) for pair in zip(found.indices, exact.indices, strict=True)]
    assert np.mean(shared) / 10 >= 0.9


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_approximate_graph_of_copies_and_zero_rows_is_whole(fitted, metric):
    matrix = np.vstack([np.zeros((40, 4)), np.repeat(np.eye(4), 40, axis=0)])
    graph = neighbour_graph(matrix, 10, metric, exact_limit=10)
    assert (graph.indices != np.arange(200)[:, None]).all()
    assert np.isfinite(graph.distances).all()
    np.testing.assert_allclose(graph.distances[40:], 0, atol=1e-6)
    # A zero row has no direction.
    np.testing.assert_allclose(graph.distances[:40], float(metric == "cosine"), atol=1e-6)


def test_unseeded_umap_separates_planted_blobs_too(fitted):
    assert apart(umap_map(blobs(), seed=None))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize(
    "matrix",
    [
        np.zeros((30, 3)),
        np.repeat(np.eye(3, 5), 10, axis=0),
        np.vstack([np.ones((4, 3)), -np.ones((4, 3))]),
        blobs(4),
        blobs(6)[:, :1],
        blobs(2),
        np.ones((1, 3)),
        np.zeros((0, 3)),
    ],
    ids=["zero", "copies", "opposite", "four rows", "one column", "two rows", "one row", "none"],
)
def test_umap_of_degenerate_rows_is_finite(fitted, matrix, metric):
    places = umap_map(matrix, metric=metric)
    assert places.shape == (len(matrix), 2)
    assert np.isfinite(places).all()


def test_sample_is_proportional_and_keeps_rare_strata_whole(monkeypatch):
    monkeypatch.setattr(projections, "_KEPT_PER_STRATUM", 10)
    strata = np.array(["common"] * 9000 + ["half"] * 990 + ["rare"] * 10)
    sample = projections._sample(10_000, 1000, strata, np.random.default_rng(0))
    assert len(np.unique(sample)) == 1000
    names, counts = np.unique(strata[sample], return_counts=True)
    found = dict(zip(names, counts, strict=True))
    assert found["rare"] == 10
    assert found["half"] == pytest.approx(99, abs=5)
