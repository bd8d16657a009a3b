import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gsr_core.linear.iterative import (
    SolveEnding,
    conjugate_gradients,
    depth_for,
    hessian_product,
    largest_eigenvalue,
    neumann_series,
    plan_series,
)
from gsr_core.linear.solver import Solver


@pytest.fixture
def curved(make_objective, random_columns):
    """An objective at its minimum, its whole Hessian, and right-hand sides."""

    def curved(n_classes=3):
        objective = make_objective(n_classes=n_classes)
        state = Solver().minimise(objective, objective.zero(), tolerance=1e-12).state
        return objective, state, random_columns(objective, *objective.zero().shape, 4)

    return curved


def flat(columns):
    return columns.transpose(0, 1).reshape(-1, columns.shape[2])


def diagonal(*entries):
    """Multiplication by a diagonal matrix."""
    return lambda columns: torch.tensor(entries).to(columns)[:, None, None] * columns


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("times", [1, 1000])
def test_conjugate_gradients_solve_what_a_dense_factorisation_solves(curved, n_classes, times):
    objective, state, right = curved(n_classes)
    product = hessian_product(objective, state, times=times)
    solution = conjugate_gradients(product, right, tolerance=1e-11, max_products=200)
    expected = torch.linalg.solve(objective.hessian(state), flat(right))
    torch.testing.assert_close(flat(solution.columns), expected, rtol=1e-7, atol=1e-9)
    assert solution.reached
    assert (solution.residual <= 1e-11).all()


def test_the_reported_residual_is_the_true_one_and_too_few_products_show(curved):
    objective, state, right = curved()
    product = hessian_product(objective, state, times=1)
    solution = conjugate_gradients(product, right, tolerance=1e-12, max_products=3)
    left = flat(right) - objective.hessian(state) @ flat(solution.columns)
    torch.testing.assert_close(flat(solution.left), left)
    torch.testing.assert_close(solution.residual, left.norm(dim=0) / flat(right).norm(dim=0))
    assert solution.residual.max() > 1e-3
    assert solution.ending is SolveEnding.PRODUCTS


def test_a_solve_that_goes_on_from_another_gives_the_same_as_a_long_one(curved):
    objective, state, right = curved()
    product = hessian_product(objective, state, times=1)
    settings = {"tolerance": 1e-10, "max_products": 200}
    short = conjugate_gradients(product, right, tolerance=1e-10, max_products=4, measure=False)
    assert short.products == 4
    rest = conjugate_gradients(product, right, start=short, **settings)
    whole = conjugate_gradients(product, right, **settings)
    assert rest.reached
    torch.testing.assert_close(rest.columns, whole.columns, rtol=1e-7, atol=1e-9)


def test_the_inverse_as_preconditioner_solves_in_one_product(curved):
    objective, state, right = curved()
    (p, c), r = objective.zero().shape, right.shape[2]
    inverse = torch.linalg.inv(objective.hessian(state))

    def precondition(columns):
        return (inverse @ flat(columns)).reshape(c, p, r).transpose(0, 1)

    solution = conjugate_gradients(
        hessian_product(objective, state, times=1),
        right,
        tolerance=1e-9,
        max_products=50,
        precondition=precondition,
        measure=False,
    )
    assert solution.reached
    assert solution.products == 1


def test_a_good_start_spares_products(curved):
    objective, state, right = curved()
    product = hessian_product(objective, state, times=1)
    first = conjugate_gradients(product, right, tolerance=1e-10, max_products=200)
    start = first.columns * (1 + 1e-6)
    second = conjugate_gradients(product, right, tolerance=1e-10, max_products=200, start=start)
    assert second.products < first.products
    torch.testing.assert_close(second.columns, first.columns, rtol=1e-6, atol=1e-8)


def test_a_zero_right_hand_side_has_the_zero_solution_and_leaves_the_others_alone(curved):
    objective, state, right = curved()
    product = hessian_product(objective, state, times=1)
    expected = conjugate_gradients(product, right, tolerance=1e-10, max_products=200).columns
    right[:, :, 1] = 0
    columns = conjugate_gradients(product, right, tolerance=1e-10, max_products=200).columns
    assert (columns[:, :, 1] == 0).all()
    torch.testing.assert_close(columns[:, :, 2:], expected[:, :, 2:])


def test_a_direction_that_does_not_curve_upwards_is_noticed():
    right = torch.ones(3, 1, 1, dtype=torch.float64)
    product = diagonal(2.0, 1.0, -4.0)
    solution = conjugate_gradients(product, right, tolerance=1e-10, max_products=50)
    assert solution.ending is SolveEnding.NOT_CURVED
    assert not solution.reached
    assert solution.residual.max() > 0.1


def test_power_iteration_finds_the_largest_eigenvalue_from_below(curved):
    objective, state, right = curved()
    product = hessian_product(objective, state, times=1)
    largest = float(torch.linalg.eigvalsh(objective.hessian(state))[-1])
    value = largest_eigenvalue(product, right[:, :, :1], tolerance=1e-8)
    assert value == pytest.approx(largest, rel=1e-4)
    assert value <= largest * (1 + 1e-12)


@pytest.mark.parametrize("depth", [0, 1, 7])
def test_a_neumann_series_inverts_each_direction_as_far_as_its_depth(depth):
    entries = (0.3, 1.0, 2.5)
    right = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)[:, None, None]
    series = neumann_series(diagonal(*entries), right, scale=3.0, depth=depth)
    curvature = torch.tensor(entries, dtype=torch.float64)[:, None, None]
    expected = right * (1 - (1 - curvature / 3) ** (depth + 1)) / curvature
    torch.testing.assert_close(series, expected)


@given(st.floats(1e-4, 1.0), st.floats(0.001, 0.9))
def test_the_depth_is_the_least_that_reaches_the_accuracy(smallest, accuracy):
    def missing(depth):
        return (1 - smallest / 1.5) ** (depth + 1)

    depth = depth_for(1.5, smallest, accuracy)
    assert missing(depth) <= accuracy * (1 + 1e-9)
    assert depth == 0 or missing(depth - 1) > accuracy * (1 - 1e-9)


def test_a_matrix_that_is_its_scale_needs_no_terms():
    assert depth_for(1.0, 1.0, 0.1) == 0


def test_a_series_is_planned_by_the_largest_eigenvalue_or_as_published():
    right = torch.ones(3, 1, 1, dtype=torch.float64)
    settings = {"smallest": 0.3, "accuracy": 0.01}
    product = diagonal(0.3, 1.0, 2.5)
    whole = plan_series("largest_eigenvalue", product, right, max_depth=1000, **settings)
    assert whole.scale == pytest.approx(1.1 * 2.5, rel=1e-2)
    assert whole.depth == whole.needed == depth_for(whole.scale, 0.3, 0.01)
    assert whole.ending is SolveEnding.REACHED
    cut = plan_series("largest_eigenvalue", product, right, max_depth=5, **settings)
    assert (cut.depth, cut.ending) == (5, SolveEnding.PRODUCTS)
    assert f"It would take {whole.needed} terms to be within 1% everywhere." in cut.note
    published = plan_series("published", product, right, max_depth=5, **settings)
    assert (published.scale, published.depth) == (1e4, 1000)
    assert published.ending is SolveEnding.REACHED
