import pytest
import torch
from torch.nn.functional import normalize

from gsr_core.gradients.representations import Gradients, gradient_representation, gradients
from gsr_core.inference import distances
from gsr_core.inference.distances import Distances
from gsr_core.linear.head import Head


def drawn(n, d=5, k=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "dtype": torch.float64}
    features = torch.randn(n, d, **options) + 3
    return features, torch.randint(k, (n,), generator=generator)


def plain(vectors) -> Gradients:
    return Gradients(vectors.new_ones(len(vectors), 1), vectors)


def head(d=5, k=3) -> Head:
    generator = torch.Generator().manual_seed(9)
    options = {"generator": generator, "dtype": torch.float64}
    return Head(torch.randn(k, d, **options), torch.randn(k, **options))


def off_diagonal(n):
    return ~torch.eye(n, dtype=torch.bool)


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_distances_from_inner_products_are_those_of_explicit_gradients(k, metric):
    features, _ = drawn(40)
    labels = torch.zeros(40, dtype=torch.int64)
    own = gradients(head(k=k), features, labels)
    found = Distances(own, metric).to(own)
    cosine = metric == "cosine"
    explicit = gradient_representation(
        head(k=k), features, labels, rank=None, centred=cosine, unit=cosine
    )
    if cosine:
        expected = 1 - explicit @ explicit.T
    else:
        expected = torch.cdist(explicit, explicit).square()
        expected /= expected.mean()
    off = off_diagonal(40)
    torch.testing.assert_close(found[off], expected[off], rtol=0, atol=1e-8)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("block", [1, 7 * 41, 10**6])
def test_the_stored_matrix_is_symmetric_to_the_bit_whatever_its_blocks(metric, block, monkeypatch):
    monkeypatch.setattr(distances, "BLOCK", block)
    features, _ = drawn(41)
    own = gradients(head(), features, torch.zeros(41, dtype=torch.int64))
    found = Distances(own, metric)
    matrix = torch.from_numpy(found.matrix())
    assert matrix.dtype == torch.float32
    assert torch.equal(matrix, matrix.T)
    assert (matrix.diagonal() == 0).all()
    assert matrix.min() >= 0
    if metric == "cosine":
        assert matrix.max() <= 2
    off = off_diagonal(41)
    torch.testing.assert_close(matrix[off].double(), found.to(own)[off], rtol=1e-7, atol=1e-12)


def test_distances_of_other_rows_are_relative_to_the_first_ones_mean():
    vectors, _ = drawn(30)
    others, _ = drawn(12, seed=1)
    mean = vectors.mean(dim=0)
    expected = 1 - normalize(others - mean) @ normalize(vectors - mean).T
    found = Distances(plain(vectors))
    torch.testing.assert_close(found.to(plain(others)), expected, rtol=0, atol=1e-8)
    some = torch.tensor([3, 4, 20])
    torch.testing.assert_close(
        found.among(some.numpy()).to(plain(others)), expected[:, some], rtol=0, atol=1e-8
    )


def test_both_metrics_are_one_where_rows_are_equally_long():
    vectors, _ = drawn(30)
    # Mirrored, so that the mean is zero.
    unit = normalize(vectors - 3)
    own = plain(torch.cat([unit, -unit]))
    torch.testing.assert_close(Distances(own, "euclidean").to(own), Distances(own).to(own))


def test_no_unit_changes_a_distance():
    vectors, _ = drawn(30)
    for metric in ("cosine", "euclidean"):
        one = Distances(plain(vectors), metric).matrix()
        two = Distances(plain(1000 * vectors), metric).matrix()
        assert one == pytest.approx(two, rel=1e-6, abs=1e-9)


def test_a_row_at_the_mean_is_at_one_from_every_other():
    vectors, _ = drawn(21)
    vectors[20] = vectors[:20].mean(dim=0)
    found = torch.from_numpy(Distances(plain(vectors)).matrix())
    torch.testing.assert_close(found[20, :20], torch.ones(20))
    assert found[20, 20] == 0


def test_a_single_row_and_equal_rows_are_at_no_distance_but_have_no_direction():
    assert Distances(plain(torch.full((1, 2), 4.0).double())).matrix().tolist() == [[0.0]]
    same = plain(torch.full((3, 2), 0.1).double())
    assert Distances(same, "euclidean").matrix().max() < 1e-12
    assert Distances(same).matrix().sum() == 6
