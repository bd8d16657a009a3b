import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from gsr_core.gradients import neighbours
from gsr_core.gradients.neighbours import cosine_neighbours, nearest
from gsr_core.gradients.representations import gradient_representation, gradients


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK_NUMBERS", 500)
    monkeypatch.setattr(neighbours, "_CHUNK", 32)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_nearest_equals_scikit_learn(metric):
    matrix = np.random.default_rng(0).normal(size=(100, 8))
    rows = np.array([5, 0, 99, 42, 7, 7])
    indices, distances = nearest(matrix, rows, 10, metric)

    search = NearestNeighbors(n_neighbors=11, metric=metric, algorithm="brute").fit(matrix)
    expected_distances, expected = search.kneighbors(matrix[rows])
    np.testing.assert_array_equal(expected[:, 0], rows)
    np.testing.assert_array_equal(indices, expected[:, 1:])
    np.testing.assert_allclose(distances, expected_distances[:, 1:], atol=1e-12)


def test_a_row_is_never_its_own_neighbour_even_among_copies():
    matrix = np.ones((6, 3), np.float32)
    indices, distances = nearest(matrix, np.arange(6), 20)
    assert indices.shape == (6, 5)
    assert not (indices == np.arange(6)[:, None]).any()
    np.testing.assert_allclose(distances, 0, atol=1e-6)


def test_a_zero_row_is_at_distance_one_from_every_other():
    matrix = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [-1.0, 2.0]])
    _, distances = nearest(matrix, [0], 3)
    np.testing.assert_array_equal(distances, [[1.0, 1.0, 1.0]])


def test_a_read_only_array_is_taken_without_a_warning():
    matrix = np.eye(3)
    matrix.flags.writeable = False
    assert nearest(matrix, [0], 1)[0].shape == (1, 1)


def test_cosine_neighbours_from_factors_equal_those_of_full_gradients(sampled):
    problem = sampled(n=70, k=3)
    rows = torch.arange(0, 70, 3)
    found = cosine_neighbours(gradients(*problem), rows, 5)
    full = nearest(gradient_representation(*problem, rank=None), rows, 5)
    np.testing.assert_array_equal(found[0], full[0])
    np.testing.assert_allclose(found[1], full[1], atol=1e-12)
