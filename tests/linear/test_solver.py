from dataclasses import replace

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from gsr_core.linear import solver as solver_module
from gsr_core.linear.iterative import SolveEnding
from gsr_core.linear.objective import Objective
from gsr_core.linear.solver import FitEnding, Solver


def fit(objective, start=None, tolerance=1e-12, solver=None):
    start = objective.zero() if start is None else start
    return (solver or Solver()).minimise(objective, start, tolerance=tolerance)


def kept(objective, rows, sample_weight):
    return replace(
        objective,
        design=objective.design[rows],
        labels=objective.labels[rows],
        sample_weight=sample_weight / sample_weight.sum(),
    )


@pytest.mark.parametrize("n_classes", [2, 3, 4])
def test_the_fit_equals_scikit_learn(make_objective, n_classes):
    objective = make_objective(n_classes=n_classes)
    # scikit-learn minimises C sum_i w_i l_i + |theta|^2 / 2; for two classes over one column,
    # the difference of ours, whose squared norm is twice that of ours.
    scale = 1 if n_classes > 2 else 2
    reference = LogisticRegression(
        C=scale / (2 * objective.l2),
        fit_intercept=False,
        solver="newton-cg",
        tol=1e-12,
        max_iter=1000,
    ).fit(
        objective.design.cpu().numpy(),
        objective.labels.cpu().numpy(),
        sample_weight=objective.sample_weight.cpu().numpy(),
    )
    theta = (fit(objective).state.u @ objective.basis.T).cpu()
    coefficients = torch.from_numpy(reference.coef_).T
    if n_classes == 2:
        theta = theta[:, 1:] - theta[:, :1]
    torch.testing.assert_close(theta, coefficients.contiguous(), rtol=1e-6, atol=1e-7)


def test_a_weight_of_zero_drops_the_row(make_objective):
    objective = make_objective()
    weight = objective.sample_weight.clone()
    weight[:10] = 0
    rows = torch.arange(10, len(weight))
    dropped = kept(objective, rows, weight[10:])
    zeroed = replace(objective, sample_weight=weight / weight.sum())
    torch.testing.assert_close(fit(zeroed).state.u, fit(dropped).state.u, rtol=0, atol=1e-10)


def test_a_weight_of_two_equals_two_copies(make_objective):
    objective = make_objective()
    weight = torch.ones_like(objective.sample_weight)
    doubled = weight.clone()
    doubled[:10] = 2
    rows = torch.cat([torch.arange(len(weight)), torch.arange(10)])
    copied = kept(objective, rows, torch.ones(len(rows)).to(weight))
    weighted = replace(objective, sample_weight=doubled / doubled.sum())
    torch.testing.assert_close(fit(weighted).state.u, fit(copied).state.u, rtol=0, atol=1e-10)


def test_the_minimiser_depends_neither_on_the_start_nor_on_the_factor(
    make_objective, random_columns
):
    objective = make_objective()
    fresh = fit(objective).state.u
    start = random_columns(objective, *fresh.shape)
    stale = Solver()
    other = replace(objective, sample_weight=objective.sample_weight.flip(0), l2=0.5)
    stale.factorise(other, start)
    torch.testing.assert_close(fit(objective, start).state.u, fresh, rtol=0, atol=1e-10)
    torch.testing.assert_close(
        fit(objective, start, solver=stale).state.u, fresh, rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("right_sides", [1, 5])
class TestSolve:
    def expected(self, objective, state, right):
        p, c, r = right.shape
        flat = right.transpose(0, 1).reshape(c * p, r)
        return torch.linalg.solve(objective.hessian(state), flat).reshape(c, p, r).transpose(0, 1)

    def case(self, make_objective, random_columns, n_classes, right_sides):
        objective = make_objective(n_classes=n_classes, n=80, d=20)
        p, c = objective.zero().shape
        state = objective.at(random_columns(objective, p, c))
        return objective, state, random_columns(objective, p, c, right_sides, seed=3)

    def test_a_solve_equals_the_dense_one(
        self, make_objective, random_columns, n_classes, right_sides
    ):
        objective, state, right = self.case(make_objective, random_columns, n_classes, right_sides)
        solved = Solver().solve(objective, state, right, tolerance=1e-13).columns
        torch.testing.assert_close(
            solved, self.expected(objective, state, right), rtol=1e-9, atol=1e-10
        )

    def test_a_stale_factor_gives_the_same_solution(
        self, make_objective, random_columns, n_classes, right_sides
    ):
        objective, state, right = self.case(make_objective, random_columns, n_classes, right_sides)
        solver = Solver()
        near = replace(objective, sample_weight=objective.sample_weight.flip(0))
        solver.factorise(near, objective.zero())
        solved = solver.solve(objective, state, right, tolerance=1e-13).columns
        torch.testing.assert_close(
            solved, self.expected(objective, state, right), rtol=1e-9, atol=1e-10
        )

    def test_a_factor_that_serves_badly_is_renewed_on_the_way(
        self, make_objective, random_columns, monkeypatch, n_classes, right_sides
    ):
        objective, state, right = self.case(make_objective, random_columns, n_classes, right_sides)
        solver = Solver()
        far = replace(objective, design=objective.design.flip(1) ** 3, l2=1e-4)
        solver.factorise(far, objective.zero())
        renewed, products = [], []
        factorise, product = Solver.factorise, Objective.hessian_product

        def counted(*args):
            renewed.append(len(products))
            factorise(*args)

        def multiplied(*args, **more):
            products.append(None)
            return product(*args, **more)

        monkeypatch.setattr(Solver, "factorise", counted)
        monkeypatch.setattr(Objective, "hessian_product", multiplied)
        solution = solver.solve(objective, state, right, tolerance=1e-12)
        assert len(renewed) == 1
        assert renewed[0] > 0
        assert solution.products == len(products) <= renewed[0] + 3
        torch.testing.assert_close(
            solution.columns, self.expected(objective, state, right), rtol=1e-9, atol=1e-10
        )

    def test_zero_right_hand_sides_give_zeros_beside_others(
        self, make_objective, random_columns, n_classes, right_sides
    ):
        objective, state, right = self.case(make_objective, random_columns, n_classes, right_sides)
        zeros = torch.zeros_like(right)
        solution = Solver().solve(objective, state, zeros, tolerance=1e-10)
        assert solution.reached
        assert torch.equal(solution.columns, zeros)
        right[:, :, 0] = 0
        solved = Solver().solve(objective, state, right, tolerance=1e-13).columns
        assert not solved[:, :, 0].any()
        torch.testing.assert_close(
            solved, self.expected(objective, state, right), rtol=1e-9, atol=1e-10
        )


@pytest.mark.parametrize("n_classes", [2, 4])
def test_a_head_too_wide_to_factorise_whole_gives_the_same(
    make_objective, random_columns, monkeypatch, n_classes
):
    objective = make_objective(n_classes=n_classes)
    expected = fit(objective)
    right = random_columns(objective, *expected.state.u.shape, 3)
    solved = Solver().solve(objective, expected.state, right, tolerance=1e-12).columns
    monkeypatch.setattr(solver_module, "MAX_FACTOR_WIDTH", 3)
    wide = fit(objective)
    assert wide.converged
    torch.testing.assert_close(wide.state.u, expected.state.u, rtol=0, atol=1e-10)
    again = Solver().solve(objective, wide.state, right, tolerance=1e-12).columns
    torch.testing.assert_close(again, solved, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("l2", [1e-6, 1e-3, 1.0, 100.0])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_separable_rows_are_fitted_to_a_relative_gradient_of_1e_8(make_objective, l2, n_classes):
    objective = make_objective(n=20, d=30, n_classes=n_classes, l2=l2)
    fitted = fit(objective, tolerance=1e-8)
    assert fitted.converged
    assert fitted.relative_gradient_norm <= 1e-8


def test_all_weight_on_one_sample_is_fitted(make_objective):
    objective = make_objective()
    weight = torch.zeros_like(objective.sample_weight)
    weight[3] = 1
    fitted = fit(replace(objective, sample_weight=weight), tolerance=1e-8)
    assert fitted.converged
    assert fitted.state.probabilities[3].argmax() == objective.labels[3]


def test_a_fit_started_at_the_minimum_takes_no_step(make_objective):
    objective = make_objective()
    first = fit(objective, tolerance=1e-10)
    again = fit(objective, first.state.u, tolerance=1e-8)
    assert again.iterations == 0
    assert torch.equal(again.state.u, first.state.u)


def test_a_restored_solver_gives_the_same_bits(make_objective):
    objective = make_objective()
    solver = Solver()
    first = fit(objective, solver=solver)
    moved = replace(objective, sample_weight=objective.sample_weight.flip(0))
    restored = Solver()
    restored.restore(moved, {**solver.state(), "of somebody else": torch.zeros(1)})
    one = fit(moved, first.state.u, solver=solver)
    two = fit(moved, first.state.u, solver=restored)
    assert torch.equal(one.state.u, two.state.u)


def test_a_solver_without_a_factor_has_nothing_to_restore(make_objective):
    solver = Solver()
    solver.restore(make_objective(), solver.state())
    assert solver.state() == {}


def test_a_fit_says_why_it_ended(make_objective, monkeypatch):
    objective = make_objective()
    assert fit(objective, tolerance=1e-8).ending is FitEnding.CONVERGED
    short = Solver().minimise(objective, objective.zero(), tolerance=1e-12, max_iterations=1)
    assert short.ending is FitEnding.ITERATIONS
    assert not short.converged

    real = Solver.solve

    def uphill(self, *args, **more):
        solution = real(self, *args, **more)
        return replace(solution, columns=-solution.columns)

    monkeypatch.setattr(Solver, "solve", uphill)
    failed = fit(objective)
    assert failed.ending is FitEnding.LINE_SEARCH
    assert not failed.converged
    assert failed.iterations == 0


@pytest.mark.parametrize(("dtype", "reached"), [(torch.float64, True), (torch.float32, False)])
def test_a_solve_in_float32_is_judged_by_its_true_residual(
    make_objective, random_columns, dtype, reached
):
    objective = make_objective(n=80, d=20)
    objective = replace(
        objective,
        design=objective.design.to(dtype),
        sample_weight=objective.sample_weight.to(dtype),
        basis=objective.basis.to(dtype),
    )
    state = objective.at(objective.zero())
    right = random_columns(objective, *objective.zero().shape, 3)
    solver = Solver()
    solution = solver.solve(objective, state, right, tolerance=1e-10)
    assert solution.reached == reached
    assert reached or solution.ending is SolveEnding.STALLED
    assert bool((solution.residual <= 1e-10).all()) == reached
    assert solver.solve(objective, state, right, tolerance=1e-4).reached


@pytest.mark.parametrize("n_classes", [2, 3])
class TestRough:
    """Where the rows are there in float32 too, for products that need not be exact."""

    def counted(self, monkeypatch):
        """Count exact products and rough ones."""
        counts, real = {False: 0, True: 0}, Objective.hessian_product

        def product(self, state, columns, *, rough=False):
            counts[rough] += 1
            return real(self, state, columns, rough=rough)

        monkeypatch.setattr(Objective, "hessian_product", product)
        return counts

    def case(self, make_objective, random_columns, n_classes, **more):
        exact = make_objective(n_classes=n_classes, n=80, d=20, **more)
        state = exact.at(random_columns(exact, *exact.zero().shape))
        right = random_columns(exact, *exact.zero().shape, 3, seed=3)
        return exact, replace(exact, rough=exact.design.float()), state, right

    @pytest.mark.parametrize("tolerance", [1e-4, 1e-10, 1e-12])
    @pytest.mark.parametrize("started", [False, True])
    def test_a_solve_meets_its_tolerance_by_a_few_exact_products(
        self, make_objective, random_columns, monkeypatch, n_classes, tolerance, started
    ):
        exact, objective, state, right = self.case(make_objective, random_columns, n_classes)
        right[:, :, 1] = 0
        solver = Solver()
        solver.factorise(replace(objective, l2=0.5), objective.zero())
        start = right.clone() if started else None
        counts = self.counted(monkeypatch)
        solution = solver.solve(objective, state, right, tolerance=tolerance, start=start)
        assert solution.reached
        assert solution.products == counts[False] + counts[True]
        assert counts[False] <= 4
        left = right - exact.hessian_product(state, solution.columns)
        assert (left.norm(dim=(0, 1)) <= tolerance * right.norm(dim=(0, 1)) + 1e-15).all()
        assert not solution.columns[:, :, 1].any() or started

    def test_rows_that_float32_spoils_are_solved_by_exact_products(
        self, make_objective, random_columns, n_classes
    ):
        _, objective, state, right = self.case(make_objective, random_columns, n_classes, l2=1e-9)
        # A penalty far below the rounding of float32, along a direction that no row curves.
        flat = replace(objective, design=objective.design.clone())
        flat.design[:, 1] = flat.design[:, 0] * (1 + 1e-9)
        flat = replace(flat, rough=flat.design.float())
        solution = Solver().solve(flat, flat.at(state.u), right, tolerance=1e-8)
        left = right - replace(flat, rough=None).hessian_product(flat.at(state.u), solution.columns)
        true = left.norm(dim=(0, 1)) / right.norm(dim=(0, 1))
        assert solution.reached
        assert (true <= 1e-7).all()

    def test_what_is_not_a_number_is_not_solved(self, make_objective, random_columns, n_classes):
        _, objective, state, right = self.case(make_objective, random_columns, n_classes)
        right[0, 0, 1] = torch.nan
        assert Solver().solve(objective, state, right, tolerance=1e-8).ending is SolveEnding.STALLED

    def test_the_fit_is_that_of_exact_products(self, make_objective, random_columns, n_classes):
        exact, objective, *_ = self.case(make_objective, random_columns, n_classes)
        one, two = fit(exact), fit(objective)
        assert two.converged
        torch.testing.assert_close(two.state.u, one.state.u, rtol=0, atol=1e-10)
