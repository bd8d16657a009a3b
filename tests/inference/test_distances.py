import pytest
import torch
from torch.nn.functional import normalize

from gsr_core.gradients.representations import gradient_representation, gradients, gram
from gsr_core.inference.distances import centred_cosine, centred_cosine_to
from gsr_core.linear.head import Head


def drawn(n, d=5, k=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "dtype": torch.float64}
    features = torch.randn(n, d, **options) + 3
    return features, torch.randint(k, (n,), generator=generator)


def head(d=5, k=3) -> Head:
    generator = torch.Generator().manual_seed(9)
    options = {"generator": generator, "dtype": torch.float64}
    return Head(torch.randn(k, d, **options), torch.randn(k, **options))


@pytest.mark.parametrize("k", [2, 3])
def test_distances_from_the_gram_matrix_are_those_of_explicit_gradients(k):
    features, _ = drawn(40)
    labels = torch.zeros(40, dtype=torch.int64)
    own = gradients(head(k=k), features, labels)
    found = centred_cosine(gram(own, own))
    unit = gradient_representation(head(k=k), features, labels, rank=None, centred=True, unit=True)
    off = ~torch.eye(40, dtype=torch.bool)
    torch.testing.assert_close(found[off], (1 - unit @ unit.T)[off], rtol=0, atol=1e-8)
    assert torch.equal(found, found.T)
    assert (found.diagonal() == 0).all()
    assert found.min() >= 0
    assert found.max() <= 2


def test_distances_of_other_rows_are_relative_to_the_first_ones_mean():
    vectors, _ = drawn(30)
    others, _ = drawn(12, seed=1)
    mean = vectors.mean(dim=0)
    expected = 1 - normalize(others - mean) @ normalize(vectors - mean).T
    squares = others.square().sum(dim=1)
    found = centred_cosine_to(others @ vectors.T, squares, vectors @ vectors.T)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)
    inner = vectors @ vectors.T
    own = centred_cosine_to(inner, inner.diagonal(), inner)
    off = ~torch.eye(30, dtype=torch.bool)
    torch.testing.assert_close(own[off], centred_cosine(inner)[off], rtol=0, atol=1e-10)


def test_a_row_at_the_mean_is_at_one_from_every_other():
    vectors, _ = drawn(21)
    vectors[20] = vectors[:20].mean(dim=0)
    found = centred_cosine(vectors @ vectors.T)
    torch.testing.assert_close(found[20, :20], torch.ones(20, dtype=torch.float64))
    assert found[20, 20] == 0


def test_a_single_row_has_no_direction():
    assert centred_cosine(torch.tensor([[4.0]], dtype=torch.float64)).tolist() == [[0.0]]
