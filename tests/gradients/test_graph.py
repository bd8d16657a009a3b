"""The exact graph; the approximate one is tested beside UMAP, which compiles the same code."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from gsr_core.errors import SettingError
from gsr_core.gradients import graph as graphs
from gsr_core.gradients.graph import neighbour_graph
from gsr_core.gradients.representations import gradient_representation, gradients


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(graphs, "_BLOCK_NUMBERS", 900)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_exact_graph_equals_scikit_learns(metric, dtype):
    matrix = np.random.default_rng(0).normal(size=(100, 8)).astype(dtype)
    found = neighbour_graph(matrix, 7, metric)
    search = NearestNeighbors(n_neighbors=8, metric=metric, algorithm="brute")
    distances, indices = search.fit(matrix.astype(np.float64)).kneighbors()
    assert found.exact
    assert found.indices.dtype == np.int32
    assert found.distances.dtype == np.float32
    np.testing.assert_array_equal(found.indices, indices[:, :7])
    np.testing.assert_allclose(found.distances, distances[:, :7], atol=1e-6)


@pytest.mark.parametrize("centred", [False, True])
def test_a_graph_of_factored_gradients_equals_that_of_explicit_ones(sampled, centred):
    problem = sampled(n=60)
    space = gradients(*problem)
    found = neighbour_graph(space.centred(problem[2]) if centred else space, 5)
    explicit = gradient_representation(*problem, rank=None, centred=centred)
    expected = neighbour_graph(explicit, 5)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.distances, expected.distances, atol=1e-6)


def test_rows_in_another_order_have_the_same_neighbours():
    matrix = np.random.default_rng(0).normal(size=(80, 5))
    order = np.random.default_rng(1).permutation(80)
    one, other = neighbour_graph(matrix, 6), neighbour_graph(matrix[order], 6)
    np.testing.assert_array_equal(order[other.indices], one.indices[order])


def test_copies_are_neighbours_at_no_distance_and_never_a_row_its_own():
    matrix = np.repeat(np.random.default_rng(0).normal(size=(10, 3)), 4, axis=0)
    graph = neighbour_graph(matrix, 3, "euclidean")
    assert (graph.indices // 4 == np.arange(40)[:, None] // 4).all()
    assert (graph.indices != np.arange(40)[:, None]).all()
    np.testing.assert_array_equal(graph.distances, 0)


@pytest.mark.parametrize(("n", "k"), [(5, 4), (5, 100), (2, 1), (1, 3), (0, 3)])
def test_more_neighbours_than_there_are_is_all_of_them(n, k):
    graph = neighbour_graph(np.eye(n, 3), k)
    assert graph.indices.shape == graph.distances.shape == (n, max(min(k, n - 1), 0))
    assert graph.first(k).k == graph.k


def test_the_first_neighbours_are_the_graph_of_fewer():
    matrix = np.random.default_rng(0).normal(size=(30, 4))
    graph, fewer = neighbour_graph(matrix, 9), neighbour_graph(matrix, 4)
    np.testing.assert_array_equal(graph.first(4).indices, fewer.indices)
    with pytest.raises(SettingError, match="k=10"):
        graph.first(10)
    with pytest.raises(SettingError, match="at least 1"):
        neighbour_graph(matrix, 0)


def test_progress_rises():
    told = []
    matrix = np.random.default_rng(0).normal(size=(100, 4))
    neighbour_graph(matrix, 3, progress=lambda fraction, _: told.append(fraction))
    assert len(told) > 5
    assert told == sorted(told)
    assert told[-1] < 1
