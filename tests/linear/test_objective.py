from dataclasses import replace

import pytest
import torch

from gsr_core.linear import objective as objectives
from gsr_core.linear.objective import centred_basis, gram, times, transposed_times


def plain(objective):
    """The objective of a flat u, written out."""

    def value(flat):
        u = flat.reshape(objective.zero().shape)
        log_probabilities = torch.log_softmax(objective.design @ u @ objective.basis.T, dim=1)
        losses = -log_probabilities[torch.arange(len(objective.labels)), objective.labels]
        return objective.sample_weight @ losses + objective.l2 * (flat**2).sum()

    return value


@pytest.mark.parametrize("n_classes", [2, 3, 5])
class TestDerivatives:
    def test_value_and_gradient_equal_autograd(self, make_objective, random_columns, n_classes):
        objective = make_objective(n_classes=n_classes)
        u = random_columns(objective, *objective.zero().shape)
        state = objective.at(u)
        expected = torch.autograd.functional.jacobian(plain(objective), u.reshape(-1))
        torch.testing.assert_close(state.value, plain(objective)(u.reshape(-1)))
        torch.testing.assert_close(objective.gradient(state).reshape(-1), expected)

    def test_hessian_and_its_products_equal_autograd(
        self, make_objective, random_columns, n_classes
    ):
        objective = make_objective(n_classes=n_classes)
        p, c = objective.zero().shape
        u = random_columns(objective, p, c)
        state = objective.at(u)
        expected = torch.autograd.functional.hessian(plain(objective), u.reshape(-1))
        by_coordinate = expected.reshape(p, c, p, c).permute(1, 0, 3, 2).reshape(c * p, c * p)
        torch.testing.assert_close(objective.hessian(state), by_coordinate)

        columns = random_columns(objective, p, c, 4, seed=2)
        product = expected @ columns.reshape(p * c, 4)
        torch.testing.assert_close(
            objective.hessian_product(state, columns), product.reshape(p, c, 4)
        )

    def test_mean_curvature_is_the_mean_diagonal_block(
        self, make_objective, random_columns, n_classes
    ):
        objective = make_objective(n_classes=n_classes)
        p, c = objective.zero().shape
        state = objective.at(random_columns(objective, p, c))
        blocks = objective.hessian(state).reshape(c, p, c, p)
        expected = torch.stack([blocks[a, :, a] for a in range(c)]).mean(dim=0)
        torch.testing.assert_close(objective.mean_curvature(state), expected)

    def test_the_centred_optimum_is_the_optimum_over_all_columns(
        self, make_objective, random_columns, n_classes
    ):
        # A column sum common to all classes changes no loss and only adds to the penalty.
        objective = make_objective(n_classes=n_classes)
        theta = random_columns(objective, objective.design.shape[1], n_classes)
        u = theta @ objective.basis
        outside = theta - u @ objective.basis.T
        spread = outside - outside.mean(dim=1, keepdim=True)
        torch.testing.assert_close(spread, torch.zeros_like(spread))
        losses = torch.log_softmax(objective.design @ theta, dim=1)
        torch.testing.assert_close(objective.at(u).probabilities.log(), losses)


@pytest.mark.parametrize("n_classes", [2, 3, 7])
def test_the_basis_is_orthonormal_and_its_columns_sum_to_zero(n_classes):
    basis = centred_basis(n_classes, torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(basis.T @ basis, torch.eye(n_classes - 1, dtype=torch.float64))
    assert basis.sum(dim=0).abs().max() < 1e-15


@pytest.mark.parametrize(("n", "p"), [(40, 9), (30, 511), (30, 512), (30, 515), (8200, 5)])
def test_gram_equals_the_explicit_product_with_signed_coefficients(n, p):
    generator = torch.Generator().manual_seed(0)
    design = torch.randn(n, p, generator=generator, dtype=torch.float64)
    coefficients = torch.randn(n, generator=generator, dtype=torch.float64)
    expected = design.T @ torch.diag(coefficients) @ design if n < 100 else None
    if expected is None:
        expected = design.T @ (coefficients[:, None] * design)
    actual = gram(design, coefficients)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(actual, actual.T)


@pytest.mark.parametrize("n", [50, 8200])
@pytest.mark.parametrize("columns", [1, 3])
def test_float32_rows_are_accumulated_in_float64(n, columns):
    generator = torch.Generator().manual_seed(0)
    design = torch.randn(n, 6, generator=generator)
    right = torch.randn(6, columns, generator=generator, dtype=torch.float64)
    left = torch.randn(n, columns, generator=generator, dtype=torch.float64)
    exact = design.double()
    forward, backward = times(design, right), transposed_times(design, left)
    assert forward.dtype == backward.dtype == torch.float64
    torch.testing.assert_close(forward, exact @ right, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(backward, exact.T @ left, rtol=1e-12, atol=1e-12)


def test_a_whole_objective_with_float32_rows_equals_that_of_the_same_rows_in_float64(
    make_objective, random_columns
):
    objective = make_objective()
    rounded = replace(objective, design=objective.design.float())
    exact = replace(objective, design=objective.design.float().double())
    u = random_columns(objective, *objective.zero().shape)
    torch.testing.assert_close(
        rounded.gradient(rounded.at(u)), exact.gradient(exact.at(u)), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("rows_of_float32", [False, True])
def test_products_block_by_block_equal_whole_ones(
    make_objective, random_columns, monkeypatch, n_classes, rows_of_float32
):
    objective = make_objective(n_classes=n_classes)
    if objective.design.device.type != "cpu":
        pytest.skip("only a CPU multiplies block by block")
    if rows_of_float32:
        objective = replace(objective, design=objective.design.float())
    p, c = objective.zero().shape
    state = objective.at(random_columns(objective, p, c))
    columns = random_columns(objective, p, c, 3, seed=2)
    whole = objective.hessian_product(state, columns)
    monkeypatch.setattr(objectives, "_CACHED", 7 * p * objective.basis.dtype.itemsize)
    by_block = objective.hessian_product(state, columns)
    torch.testing.assert_close(by_block, whole, rtol=1e-12, atol=1e-12)


def test_rough_products_are_right_to_float32_and_only_where_asked_for(
    make_objective, random_columns
):
    exact = make_objective(n_classes=3)
    objective = replace(exact, rough=exact.design.float())
    p, c = objective.zero().shape
    state = objective.at(random_columns(objective, p, c))
    columns = random_columns(objective, p, c, 2, seed=2)
    expected = exact.hessian_product(state, columns)
    assert torch.equal(objective.hessian_product(state, columns), expected)
    rough = objective.hessian_product(state, columns, rough=True)
    assert rough.dtype == expected.dtype
    apart = float((rough - expected).norm() / expected.norm())
    assert 1e-12 < apart < 1e-6
    assert objective.hessian(state).dtype == exact.design.dtype
    torch.testing.assert_close(
        objective.hessian(state, rough=True).to(expected),
        exact.hessian(state),
        rtol=1e-5,
        atol=1e-6,
    )


def test_gradients_of_several_states_are_those_of_each(make_objective, random_columns):
    objective = make_objective()
    states = [
        objective.at(random_columns(objective, *objective.zero().shape, seed=seed))
        for seed in (1, 2)
    ]
    for both, state in zip(objective.gradients(*states), states, strict=True):
        torch.testing.assert_close(both, objective.gradient(state), rtol=1e-12, atol=1e-14)
