import math
from dataclasses import replace

import pytest
import torch

from gsr_core.data.problem import Rows
from gsr_core.errors import SettingError
from gsr_core.methods.fit import fit
from gsr_core.methods.llr import LLR
from gsr_core.methods.rwg import RWG

GROUPS = ["a0", "a1", "b0", "b1"]


def only(problem, **settings):
    (step,) = RWG(**settings).iterate(problem)
    return step


def regrouped(problem, groups):
    return replace(problem, weighted=replace(problem.weighted, groups=groups))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_every_group_is_drawn_equally_often(make_problem, n_classes):
    problem, _ = make_problem(n_classes=n_classes)
    groups = problem.weighted.groups.double()
    weight = only(problem).sample_weight
    mass = weight @ groups
    torch.testing.assert_close(mass, torch.full_like(mass, 1 / (2 * n_classes)))
    # p_i = 1 / (G n_g)
    torch.testing.assert_close(weight, groups @ (1 / groups.sum(dim=0)) / (2 * n_classes))


def test_a_row_in_two_groups_has_the_sum_of_its_chances_and_one_in_none_has_none(make_problem):
    problem, _ = make_problem(n=6)
    groups = torch.tensor(
        [[1, 1, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=torch.bool
    ).to(problem.weighted.labels.device)
    step = only(regrouped(problem, groups))
    # Groups of 4, 2 and no rows: the two with rows share the draws.
    assert step.sample_weight.tolist() == pytest.approx([3 / 8, 1 / 8, 1 / 8, 1 / 8, 1 / 4, 0])
    assert "2 groups" in step.note
    assert "1 of 6 samples are in no known group" in step.note


def test_it_is_the_plain_fit_on_copies_that_balance_the_groups(make_problem):
    problem, _ = make_problem(n=40)
    rows = problem.weighted
    sizes = rows.groups.sum(dim=0)
    copies = (math.lcm(*sizes.tolist()) // sizes)[rows.groups.int().argmax(dim=1)]
    index = torch.repeat_interleave(torch.arange(40, device=copies.device), copies)
    copied = Rows(
        rows.features[index], rows.labels[index], rows.groups[index], rows.position[index.cpu()]
    )
    (plain,) = LLR(standardise=False).iterate(replace(problem, weighted=copied))
    head = only(problem, standardise=False).head
    torch.testing.assert_close(head.weight, plain.head.weight, rtol=1e-6, atol=1e-7)


def test_equal_groups_give_the_plain_fit(make_problem):
    problem, _ = make_problem()
    one = torch.ones_like(problem.weighted.groups[:, :1])
    (plain,) = LLR().iterate(problem)
    head = only(regrouped(problem, one)).head
    torch.testing.assert_close(head.weight, plain.head.weight, rtol=1e-7, atol=1e-9)


def test_groups_that_nobody_is_in_cannot_be_balanced(make_problem):
    problem, _ = make_problem()
    with pytest.raises(SettingError, match=r"none of the 80 rows .* is in a known group"):
        only(regrouped(problem, torch.zeros_like(problem.weighted.groups)))


def test_it_beats_the_plain_fit_on_the_worst_group(make_problem):
    problem, test = make_problem(n=400, n_target=300, minority=0.05)
    worst = [
        float(
            fit(method, problem, GROUPS, test=test)
            .history.query("split == 'test' and metric == 'worst_group_accuracy'")["value"]
            .iloc[0]
        )
        for method in (LLR(), RWG())
    ]
    assert worst[1] > worst[0] + 0.2
