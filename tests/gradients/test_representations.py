import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.nn.functional import cross_entropy, normalize

from gsr_core.errors import SettingError
from gsr_core.gradients import representations
from gsr_core.gradients.representations import (
    centre_by_class,
    gradient_representation,
    gradients,
    gram,
    inner_products,
    residuals,
    unit_rows,
)
from gsr_core.linear.head import Head


def by_autograd(head: Head, features: Tensor, labels: Tensor) -> Tensor:
    """(n, K (d + 1)) gradients by weight and bias, one sample at a time."""

    def loss(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(weight @ x + bias, y)

    weight, bias = vmap(grad(loss, argnums=(0, 1)), (None, None, 0, 0))(
        head.weight, head.bias, features, labels
    )
    return torch.cat([weight.flatten(1), bias], dim=1)


def explicit(head, features, labels, *, centred: bool, unit: bool) -> Tensor:
    full = by_autograd(head, features, labels)
    if centred:
        for label in labels.unique():
            full[labels == label] -= full[labels == label].mean(dim=0)
    return normalize(full) if unit else full


def inner(matrix: Tensor) -> Tensor:
    return matrix @ matrix.T


OPTIONS = [(False, False), (False, True), (True, False), (True, True)]


@pytest.mark.parametrize("k", [2, 3])
def test_gram_equals_the_inner_products_of_autograd_gradients(sampled, k):
    problem = sampled(k=k)
    factors = gradients(*problem)
    expected = inner(by_autograd(*problem))
    torch.testing.assert_close(gram(factors, factors), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(factors.norms(), expected.diagonal().sqrt(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("unit", [False, True])
def test_centred_gradients_in_factored_form_equal_explicit_ones(sampled, k, unit):
    problem = sampled(k=k)
    full = explicit(*problem, centred=True, unit=unit)
    space = gradients(*problem).centred(problem[2])
    space = space.unit() if unit else space
    torch.testing.assert_close(gram(space, space), inner(full), rtol=0, atol=1e-10)
    torch.testing.assert_close(space.norms(), full.norm(dim=1), rtol=0, atol=1e-10)

    rows, others = torch.tensor([1, 0, 7]), torch.tensor([[2, 3], [1, 0], [7, 39]])
    pairs = inner_products(space.rows(rows), space.rows(others.flatten()))
    torch.testing.assert_close(pairs, inner(full)[rows[:, None], others], rtol=0, atol=1e-10)

    vectors = torch.randn(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = space.transposed_times(vectors)
    torch.testing.assert_close(space.times(moved), inner(full) @ vectors, rtol=0, atol=1e-8)


def test_the_full_matrix_is_only_built_within_its_budget(sampled, monkeypatch):
    problem = sampled(n=40, d=6, k=3)  # 40 rows of 14 numbers of 8 bytes
    monkeypatch.setattr(representations, "COLUMNS_BUDGET", 40 * 14 * 8)
    assert gradient_representation(*problem, rank=None).shape == (40, 14)
    monkeypatch.setattr(representations, "COLUMNS_BUDGET", 40 * 14 * 8 - 1)
    with pytest.raises(SettingError, match="rank="):
        gradient_representation(*problem, rank=None)
    assert gradient_representation(*problem, rank=5).shape == (40, 5)


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize(("centred", "unit"), OPTIONS)
def test_exact_representation_keeps_all_inner_products(sampled, k, centred, unit):
    problem = sampled(k=k)
    found = gradient_representation(*problem, rank=None, centred=centred, unit=unit)
    expected = inner(explicit(*problem, centred=centred, unit=unit))
    assert found.shape == (40, (k - 1) * 7)
    torch.testing.assert_close(inner(found), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("centred", "unit"), OPTIONS)
def test_projection_of_full_rank_keeps_all_inner_products(sampled, centred, unit):
    problem = sampled(n=12, d=30)
    found = gradient_representation(*problem, rank=12, centred=centred, unit=unit)
    expected = inner(explicit(*problem, centred=centred, unit=unit))
    torch.testing.assert_close(inner(found), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("centred", "unit"), OPTIONS)
def test_projection_errs_within_its_bound_and_hardly_more_than_the_best_one(
    sampled, centred, unit, monkeypatch
):
    monkeypatch.setattr(representations, "_BLOCK_NUMBERS", 1000)  # several blocks
    problem = sampled(n=80, d=30)
    found = gradient_representation(*problem, rank=10, centred=centred, unit=unit)
    full = explicit(*problem, centred=centred, unit=unit)

    left_out = (full.square().sum(dim=1) - found.square().sum(dim=1)).clamp(min=0).sqrt()
    error = (inner(found) - inner(full)).abs()
    assert found.shape == (80, 10)
    assert (error <= left_out[:, None] * left_out + 1e-10).all()

    best = torch.linalg.svdvals(full)[10:].square().sum()
    assert left_out.square().sum() <= 1.01 * best


def test_same_seed_gives_the_same_projection_and_other_seeds_a_close_one(sampled):
    # Gradients close to rank 2, so that the leading subspace does not depend on the start.
    head, features, labels = sampled(n=60, d=30, k=2)
    features = features[:, :2] @ features[:2] + 1e-6 * features
    one, again, other = (
        gradient_representation(head, features, labels, rank=2, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(one, again)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_precision_follows_the_features(sampled):
    head, features, labels = sampled()
    assert gradient_representation(head, features, labels, rank=5).dtype == torch.float64
    assert gradient_representation(head, features.float(), labels, rank=5).dtype == torch.float32


@pytest.mark.parametrize("rank", [None, 3])
def test_gradients_near_zero_keep_their_direction(rank):
    # Confident to exp(-200): p_y - 1 is zero in float64, the gradient is not.
    features = torch.eye(4, dtype=torch.float64)[:2] * 200
    head = Head(torch.eye(2, 4, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
    labels = torch.tensor([0, 1])
    found = gradient_representation(head, features, labels, rank=rank, unit=True)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("rank", [None, 3])
@pytest.mark.parametrize("centred", [False, True])
def test_zero_gradients_stay_zero(sampled, rank, centred):
    head, features, labels = sampled(k=2, n=9)
    if centred:  # one sample is its own mean
        labels = torch.tensor([0] + [1] * 8)
    else:
        head, features = Head(head.weight * 0, head.bias * 0), features.clone()
        head.bias[labels[0]] = 1e4
        labels = torch.cat([labels[:1], 1 - labels[:1].expand(8)])
    found = gradient_representation(head, features, labels, rank=rank, centred=centred, unit=True)
    assert (found[0] == 0).all()
    assert (found[1:].norm(dim=1) > 0.1).all()


def test_unit_rows_guards_zero_and_tiny_rows():
    found = unit_rows(torch.tensor([[0.0, 0.0], [3e-40, 4e-40], [3.0, 4.0]], dtype=torch.float64))
    expected = torch.tensor([[0.0, 0.0], [0.6, 0.8], [0.6, 0.8]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)


def test_centring_leaves_no_mean_in_any_class(sampled):
    _, features, labels = sampled()
    labels[labels == 1] = 2  # a class without a row
    centred = centre_by_class(features, labels)
    for label in (0, 2):
        torch.testing.assert_close(
            centred[labels == label].mean(dim=0), features.new_zeros(6), rtol=0, atol=1e-12
        )


def test_residuals_are_as_far_apart_as_gradients_by_the_logits():
    logits = 4 * torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(30) % 5
    plain = logits.double().softmax(dim=1) - torch.nn.functional.one_hot(labels)
    torch.testing.assert_close(
        torch.cdist(residuals(logits, labels), residuals(logits, labels)),
        torch.cdist(plain, plain),
    )
