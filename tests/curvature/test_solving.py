import pytest
import torch
from pydantic import ValidationError
from torch import nn

from gsr_core.curvature.engine import Curvature
from gsr_core.curvature.solving import Solve
from gsr_core.errors import SettingError
from gsr_core.linear import iterative
from gsr_core.linear.iterative import SolveEnding


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3))


@pytest.fixture
def curved(make_case, random_columns):
    """A network, its explicit damped Gauss-Newton or Hessian matrix, and right-hand sides."""

    def curved(matrix="gauss_newton", damping=0.05):
        case = make_case(small, (4,))
        engine = Curvature(case.module, case.batches(5), l2=case.l2)
        eye = torch.eye(len(case.theta)).to(case.theta)
        whole = case.hessian() if matrix == "hessian" else engine.product(eye, matrix)
        return engine, whole + damping * eye, random_columns(case, 3)

    return curved


def check_solved(solved, matrix, right, *, within):
    expected = torch.linalg.solve(matrix, right)
    torch.testing.assert_close(solved.columns, expected, rtol=within, atol=within)
    left = (right - matrix @ solved.columns).norm(dim=0) / right.norm(dim=0)
    torch.testing.assert_close(solved.residual, left, rtol=1e-5, atol=1e-13)


@pytest.mark.parametrize("matrix", ["hessian", "gauss_newton"])
def test_conjugate_gradients_solve_what_a_dense_solve_solves(curved, matrix):
    # A damping above the most negative eigenvalue, so that the Hessian is positive definite too.
    engine, whole, right = curved(matrix, damping=0.5)
    assert torch.linalg.eigvalsh(whole)[0] > 0
    how = Solve(matrix=matrix, damping=0.5, tolerance=1e-11)
    solved = engine.solve(right, how)
    check_solved(solved, whole, right, within=1e-8)
    assert solved.ending is SolveEnding.REACHED
    assert (solved.residual <= 1e-11).all()
    single = engine.solve(right[:, 1], how)
    torch.testing.assert_close(single.columns, solved.columns[:, 1], rtol=1e-8, atol=1e-9)


def test_a_good_start_spares_passes_and_too_few_passes_show(curved):
    engine, whole, right = curved()
    how = Solve(matrix="gauss_newton", damping=0.05, tolerance=1e-9)
    first = engine.solve(right, how)
    again = engine.solve(right, how, start=first.columns * (1 + 1e-6))
    assert again.products < first.products
    check_solved(again, whole, right, within=1e-7)
    short = engine.solve(right, Solve(matrix="gauss_newton", damping=0.05, max_products=2))
    assert short.ending is SolveEnding.PRODUCTS
    assert f"after {short.products} passes over the rows; {SolveEnding.PRODUCTS}" in short.note
    check_solved(short, whole, right, within=10)
    assert short.residual.max() > 1e-3


@pytest.mark.parametrize("method", ["cg", "lissa"])
def test_negative_curvature_is_a_reason(curved, method):
    engine, whole, right = curved("hessian", damping=0.0)
    values, vectors = torch.linalg.eigh(whole)
    assert values[0] < -0.01
    right[:, 1] = vectors[:, 0]
    solved = engine.solve(right, Solve(method=method, max_depth=3))
    assert solved.ending is SolveEnding.NOT_CURVED
    assert str(SolveEnding.NOT_CURVED) in solved.note


def test_a_series_is_as_near_to_a_dense_solve_as_its_accuracy_says(curved):
    engine, whole, right = curved()
    how = Solve(method="lissa", matrix="gauss_newton", damping=0.05, accuracy=1e-4, max_depth=9000)
    solved = engine.solve(right, how)
    assert solved.ending is SolveEnding.REACHED
    expected = torch.linalg.solve(whole, right)
    missing = (solved.columns - expected).norm(dim=0) / expected.norm(dim=0)
    assert (missing <= 1e-4).all()
    left = (right - whole @ solved.columns).norm(dim=0) / right.norm(dim=0)
    torch.testing.assert_close(solved.residual, left, rtol=1e-6, atol=0)


def test_a_series_goes_on_from_a_start_and_says_where_it_was_cut_off(curved):
    engine, whole, right = curved()
    how = Solve(method="lissa", matrix="gauss_newton", damping=0.05, max_depth=4)
    first = engine.solve(right, how)
    second = engine.solve(right, how, start=first.columns)
    assert first.ending is second.ending is SolveEnding.PRODUCTS
    assert "terms to be within 10% everywhere" in first.note
    scale = float(first.note.split("sigma ")[1].split(" ")[0])
    # From zero, the series of J terms leaves (I - H / sigma)^(J + 1) of the right-hand side.
    shrunk = torch.eye(len(whole)).to(whole) - whole / scale
    left = torch.linalg.matrix_power(shrunk, 5) @ right
    torch.testing.assert_close(
        first.residual, left.norm(dim=0) / right.norm(dim=0), rtol=0.01, atol=0
    )
    left = torch.linalg.matrix_power(shrunk, 10) @ right
    torch.testing.assert_close(
        second.residual, left.norm(dim=0) / right.norm(dim=0), rtol=0.01, atol=0
    )


def published(one_batch):
    return Solve(method="lissa", scaling="published", matrix="gauss_newton", one_batch=one_batch)


def test_the_published_series_is_nearly_without_the_curvature(curved):
    engine, whole, right = curved(damping=0)
    solved = engine.solve(right, published(one_batch=True))
    values, vectors = torch.linalg.eigh(whole)
    inverted = (1 - (1 - values / 1e4) ** 1001) / values
    expected = vectors @ (inverted[:, None] * (vectors.T @ right))
    # One batch a term instead of all rows: the same to the noise of a thousand of them.
    torch.testing.assert_close(solved.columns, expected, rtol=0.02, atol=1e-3)
    assert solved.products == 2
    for column in range(3):
        pair = torch.stack([solved.columns[:, column], right[:, column]])
        assert torch.corrcoef(pair)[0, 1] > 0.99


def test_terms_of_one_batch_that_has_all_rows_are_those_of_all_rows(
    make_case, random_columns, monkeypatch
):
    monkeypatch.setattr(iterative, "PUBLISHED_DEPTH", 30)
    case = make_case(small, (4,))
    engine = Curvature(case.module, case.batches(), l2=case.l2)
    right = random_columns(case, 2)
    one, all_rows = (engine.solve(right, published(each)) for each in (True, False))
    torch.testing.assert_close(one.columns, all_rows.columns)
    assert all_rows.products == 32


def test_a_series_that_grows_is_said_to(make_case, random_columns):
    case = make_case(small, (4,))
    # Sigma is just above the largest curvature of all rows, and far below that of one batch.
    case.weights[1:] /= 1e6
    engine = Curvature(case.module, case.batches(1), l2=case.l2)
    how = Solve(method="lissa", matrix="gauss_newton", one_batch=True, max_depth=40)
    solved = engine.solve(random_columns(case, 2), how)
    assert solved.ending is SolveEnding.DIVERGED
    assert not (solved.residual <= 1).all()


def test_a_zero_right_hand_side_has_the_zero_solution(curved):
    engine, _, right = curved()
    right[:, 0] = 0
    for method in ("cg", "lissa", "identity"):
        how = Solve(method=method, matrix="gauss_newton", damping=0.05)
        assert not engine.solve(right, how).columns[:, 0].any()
    assert engine.solve(right[:, :1], how).ending is SolveEnding.REACHED


def test_a_series_without_any_bound_of_the_curvature_is_refused(make_case):
    case = make_case(small, (4,))
    engine = Curvature(case.module, case.batches(), l2=0)
    with pytest.raises(SettingError, match=r"l2 and damping are 0.*set damping above 0"):
        engine.solve(case.theta, Solve(method="lissa"))


@pytest.mark.parametrize(
    "settings", [{"damping": -1}, {"tolerance": 0}, {"method": "newton"}, {"matrix": "fisher"}]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValidationError, match=next(iter(settings))):
        Solve(**settings)
