from dataclasses import replace

import pytest
import torch
from torch import nn

from gsr_core.curvature.cost import measure
from gsr_core.curvature.engine import Curvature
from gsr_core.curvature.solving import Solve, most_passes
from gsr_core.errors import SettingError


def test_the_peak_counts_what_lives_at_once_and_no_views(compute):
    def work():
        first = torch.zeros(1000, dtype=torch.float64, device=compute.device)
        second = first.view(10, 100).T + 1
        del first
        third = second * 2
        del second
        third.mul_(3)
        return third[:5]

    seconds, peak = measure(work)
    assert peak == 2 * 8000
    assert seconds > 0


def test_the_cost_of_a_step_grows_as_its_parts_do(make_case):
    case = make_case(lambda: nn.Sequential(nn.Linear(4, 50), nn.Tanh(), nn.Linear(50, 3)), (4,))
    engine, size = Curvature(case.module, case.batches(5), l2=0.1), len(case.theta)
    how = Solve(max_products=30)
    one = engine.predict(3, rows=1000, target_rows=500, how=how)
    assert one.most_passes == 31
    assert one.step_seconds == 31 * one.product_seconds + one.other_seconds
    # At least what a product returns and the activations it differentiates along three directions.
    assert one.product_bytes >= 8 * 3 * (3 * size + 5 * 50)
    assert one.step_bytes - one.product_bytes >= 8 * 3 * (size + 1000 + 500)
    more = engine.predict(3, rows=2000, target_rows=500, how=how)
    assert more.product_bytes == one.product_bytes
    assert more.step_bytes - one.step_bytes == 8 * 3 * 1000
    wide = engine.predict(6, rows=1000, target_rows=500, how=how)
    assert one.product_bytes < wide.product_bytes < 2 * one.product_bytes
    assert case.module.training


@pytest.mark.parametrize(
    ("how", "passes"),
    [
        (Solve(method="identity"), 0),
        (Solve(method="cg", max_products=7), 8),
        (Solve(method="lissa", max_depth=50), 253),
        (Solve(method="lissa", max_depth=50, one_batch=True), 215.5),
    ],
)
def test_the_passes_of_a_solve_are_at_most_what_it_may_take(make_case, how, passes):
    case = make_case(lambda: nn.Linear(4, 3), (4,), n=20)
    engine = Curvature(case.module, case.batches(5), l2=0.1)
    cost = engine.predict(1, rows=20, target_rows=20, how=how)
    assert cost.most_passes == passes
    assert engine.solve(case.theta, how, start=case.theta).products <= passes


def test_the_published_series_takes_a_thousand_terms_of_all_rows_or_of_a_batch():
    how = Solve(method="lissa", scaling="published")
    assert most_passes(how, n_batches=10) == 1003
    assert most_passes(replace(how, one_batch=True), n_batches=10) == 103


def test_there_must_be_a_row_to_measure_on():
    engine = Curvature(nn.Linear(2, 2), list, l2=0.1)
    with pytest.raises(SettingError, match="no row to measure on"):
        engine.predict(2, rows=10, target_rows=10)
