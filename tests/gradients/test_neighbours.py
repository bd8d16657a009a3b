import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from gsr_core.gradients import neighbours
from gsr_core.gradients.neighbours import distances_within, nearest
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


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("k", [2, 3])
def test_neighbours_from_factors_equal_those_of_full_gradients(sampled, k, centred, metric):
    problem = sampled(n=70, k=k)
    factors, rows = gradients(*problem), torch.arange(0, 70, 3)
    space = factors.centred(problem[2]) if centred else factors
    found = nearest(space, rows, 5, metric)
    explicit = gradient_representation(*problem, rank=None, centred=centred)
    full = nearest(explicit, rows, 5, metric)
    np.testing.assert_array_equal(found[0], full[0])
    np.testing.assert_allclose(found[1], full[1], atol=1e-8)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("kind", ["matrix", "gradients", "centred"])
def test_distances_to_some_are_those_to_all(sampled, kind, held, metric):
    head, features, labels = sampled(n=70, k=3)
    space = {
        "matrix": features,
        "gradients": gradients(head, features, labels),
        "centred": gradients(head, features, labels).centred(labels),
    }[kind]
    within = distances_within(space, metric, hold=held)
    rows, others = torch.tensor([3, 3, 69]), torch.tensor([[0, 5], [3, 1], [69, 68]])
    expected = within.to_all(rows).gather(1, others)
    torch.testing.assert_close(within.to_some(rows, others), expected, rtol=0, atol=1e-6)


def test_copies_are_at_distance_zero_far_from_the_origin():
    matrix = np.array([[1e6, 1.0], [1e6, 1.0], [1e6, 1.001], [1e6, 3.0]])
    indices, distances = nearest(matrix, [0], 3, "euclidean")
    np.testing.assert_array_equal(indices, [[1, 2, 3]])
    np.testing.assert_allclose(distances, [[0, 0.001, 2]], rtol=1e-6, atol=0)


def test_a_sample_at_its_class_mean_is_at_distance_one_from_every_other(sampled):
    head, features, labels = sampled(n=9, k=3)
    labels = torch.tensor([0, 1, 1, 1, 1, 1, 1, 1, 1])  # the only one of its class
    _, distances = nearest(gradients(head, features, labels).centred(labels), [0], 8)
    np.testing.assert_allclose(distances, 1, atol=1e-12)
