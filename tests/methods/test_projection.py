"""The trained projection: its descent, its head, and what it refuses."""

import math
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from gsr_core.errors import SettingError
from gsr_core.linear.feature_map import FeatureMap
from gsr_core.methods.contrastive_training import SHARPEST
from gsr_core.methods.fit import fit
from gsr_core.methods.projection import Projection, grouped
from gsr_core.methods.registry import make_method
from gsr_core.methods.rwg import RWG

GROUPS = ["a0", "a1", "b0", "b1"]


def steps_of(method, problem, count=None):
    return list(islice(method.iterate(problem), count or method.steps))


def standardised(problem):
    """The weighted rows as the projection sees them: mean squared length one."""
    x = problem.weighted.features.double()
    x = (x - x.mean(dim=0)) / x.std(dim=0, correction=0)
    return x / x.square().sum(dim=1).mean().sqrt()


def contrast_of(unit, sharpness, group):
    """The contrastive loss by its definition, one anchor after another."""
    losses = []
    for i in range(len(unit)):
        if group[i] < 0:
            continue
        score = (unit @ unit[i] * sharpness).exp()
        same = (group == group[i]) & (torch.arange(len(unit)) != i)
        other = (group != group[i]) & (group >= 0)
        if same.any() and other.any():
            total = score[same].sum() + score[other].sum()
            losses.append(-(score[same] / total).log().mean())
    return torch.stack(losses).mean()


def test_an_update_is_a_step_down_the_gradient_of_both_terms(make_problem):
    """All rows in one batch, so that their order says nothing; the loss is that of plain loops."""
    problem, _ = make_problem(n=40)
    groups = problem.weighted.groups.clone()
    groups[7] = False
    problem = replace(problem, weighted=replace(problem.weighted, groups=groups))
    method = Projection(
        steps=2, batch_size=64, width=3, lr=0.05, weight_decay=0.3, class_weight=0.7, group_weight=2
    )
    first, second = steps_of(method, problem)
    start = first.checkpoint["projection"].clone().requires_grad_()
    log_sharpness = torch.tensor(-math.log(0.07), dtype=torch.float64, requires_grad=True)
    z = standardised(problem) @ start
    unit = z / z.norm(dim=1, keepdim=True)
    index = torch.where(groups.any(dim=1), groups.double().argmax(dim=1), -1).cpu()
    labels = problem.weighted.labels.cpu()
    parts = [contrast_of(unit, log_sharpness.exp(), each) for each in (labels, index)]
    for step in (first, second):
        # Of the second, they are what led to it.
        assert step.terms["class_term"] == pytest.approx(parts[0].item())
        assert step.terms["group_term"] == pytest.approx(parts[1].item())
        assert step.terms["class_term_skipped"] == 0
        assert step.terms["group_term_skipped"] >= 1 / 40
    slopes = torch.autograd.grad(0.7 * parts[0] + 2 * parts[1], [start, log_sharpness])
    moved = start.detach() - 0.05 * (slopes[0] + 0.3 * start.detach())
    torch.testing.assert_close(second.checkpoint["projection"], moved)
    sharper = log_sharpness.item() - 0.05 * slopes[1].item()
    assert second.terms["temperature"] == pytest.approx(math.exp(-sharper))


def test_the_head_of_a_step_is_the_exact_one_on_the_projected_rows(make_problem):
    problem, test = make_problem(n=90, n_classes=3)
    for balance in ("groups", "rows"):
        method = Projection(steps=3, width=2, l2=0.02, balance=balance)
        step = steps_of(method, problem)[-1]
        w = step.checkpoint["projection"]
        z = standardised(problem) @ w
        z = z / z.square().mean().sqrt()
        # Of a head on raw features, what it is on z: least squares, which must leave nothing.
        logits = step.head.logits(problem.weighted.features.double())
        design = torch.cat([z, torch.ones(len(z), 1)], dim=1)
        theta = torch.linalg.lstsq(design, logits).solution
        torch.testing.assert_close(design @ theta, logits)
        residual = (
            logits.softmax(dim=1) - torch.eye(3, dtype=torch.float64)[problem.weighted.labels]
        )
        slope = design.T @ (step.sample_weight[:, None] * residual) + 2 * 0.02 * theta
        assert slope.abs().max() < 1e-7
        # Off the rows it is still the projection and the head, and nothing else.
        scaling = FeatureMap.fit(
            problem.weighted.features, standardise=True, dtype=torch.float64, row_space=False
        )
        seen = scaling.design(test.features, torch.float64)[:, :-1]
        raw = step.head.weight * scaling.scale
        torch.testing.assert_close(raw, raw @ w @ torch.linalg.pinv(w))
        assert torch.isfinite(seen @ raw.T).all()


def test_before_training_a_projection_that_leaves_nothing_out_is_rwg(make_problem):
    problem, test = make_problem(n=90)
    (first,) = steps_of(Projection(l2=0.03), problem, 1)
    (expected,) = RWG(l2=0.03).iterate(problem)
    torch.testing.assert_close(
        first.head.logits(test.features.double()), expected.head.logits(test.features.double())
    )
    torch.testing.assert_close(first.sample_weight, expected.sample_weight)
    assert first.note.startswith("The projection before it is trained;")


def test_the_terms_fall_and_the_temperature_stays_bounded(make_problem):
    problem, _ = make_problem(n=200)
    steps = steps_of(Projection(steps=12, width=3), problem)
    assert steps[-1].terms["class_term"] < steps[0].terms["class_term"] - 0.1
    wild = steps_of(Projection(steps=6, lr=300.0), problem)
    for step in wild:
        assert 1 / SHARPEST * 0.999 <= step.terms["temperature"] <= 1.001
        assert torch.isfinite(step.head.weight).all()


def test_a_term_without_weight_is_measured_and_moves_nothing(make_problem):
    problem, _ = make_problem()
    order = torch.randperm(80, generator=torch.Generator().manual_seed(0))
    shuffled = replace(problem.weighted, groups=problem.weighted.groups[order])
    settings = {"steps": 2, "batch_size": 128, "group_weight": 0.0, "balance": "rows"}
    one, two = (
        steps_of(Projection(**settings), replace(problem, weighted=rows))[-1]
        for rows in (problem.weighted, shuffled)
    )
    torch.testing.assert_close(one.head.weight, two.head.weight)
    assert one.terms["group_term"] != two.terms["group_term"]


def test_groups_are_by_class_and_attribute_or_by_the_attribute_across_classes(make_problem):
    problem, _ = make_problem()
    index = problem.weighted.groups.double().argmax(dim=1).cpu().numpy()

    def partition(codes):
        return {tuple(np.flatnonzero(codes == code)) for code in np.unique(codes[codes >= 0])}

    assert partition(grouped(problem, "class_attribute")) == partition(index)
    known = replace(problem, beside_class=lambda: np.array([0, 1, 0, 1]))
    assert partition(grouped(known, "attribute")) == partition(index % 2)
    # The attribute alone as the method's groups: the class is added, or left out.
    attribute = torch.stack([torch.from_numpy(index % 2 == value) for value in (0, 1)], dim=1)
    attribute[3] = False
    rows = replace(problem.weighted, groups=attribute.to(problem.compute.device))
    alone = replace(problem, weighted=rows, beside_class=lambda: np.array([0, 1]))
    index[3] = -1
    assert partition(grouped(alone, "class_attribute")) == partition(index)
    assert partition(grouped(alone, "attribute")) == partition(np.where(index < 0, -1, index % 2))


def test_a_continued_run_is_one_long_run(make_problem):
    problem, _ = make_problem()
    method = Projection(steps=4, batch_size=16, width=3)
    whole = steps_of(method, problem)
    rest = list(islice(method.iterate(problem, whole[1].checkpoint), 2))
    for one, two in zip(rest, whole[2:], strict=True):
        assert torch.equal(one.head.weight, two.head.weight)
        assert one.terms == two.terms


def test_the_terms_are_in_the_history_step_by_step(make_problem):
    problem, test = make_problem()
    method = Projection(steps=3)
    history = fit(method, problem, GROUPS, test=test).history
    expected = [step.terms for step in steps_of(method, problem)]
    for name in expected[0]:
        rows = history[history["metric"] == name]
        assert rows["step"].tolist() == [1, 2, 3]
        assert rows["value"].tolist() == [each[name] for each in expected]
        assert set(rows["split"]) == set(rows["group"]) == {""}


def test_what_cannot_be_contrasted_is_refused_with_what_to_do(make_problem):
    problem, _ = make_problem()
    rows = problem.weighted

    def refused(match, settings=None, **changed):
        method = make_method("projection", settings)
        steps = method.iterate(replace(problem, weighted=replace(rows, **changed)))
        with pytest.raises(SettingError, match=match):
            next(steps)

    refused("class_weight and group_weight are both 0", {"class_weight": 0, "group_weight": 0})
    refused("grouping is 'attribute', but the groups", {"grouping": "attribute"})
    zeros = torch.zeros_like(rows.labels)
    refused(
        "class_weight is 1, but the number of classes in the 80 rows to fit on is 1, ", labels=zeros
    )
    one = torch.zeros_like(rows.groups)
    one[:, 0] = True
    same = {"labels": zeros, "groups": one}
    refused(
        "group_weight is 1, but the number of groups in .* is 1, with 80 rows",
        {"class_weight": 0},
        **same,
    )
    refused(
        "the number of groups in the 80 rows to fit on is 0, with 0 rows in the largest",
        groups=one & False,
    )


def test_a_row_alone_in_its_group_is_counted(make_problem):
    problem, _ = make_problem()
    groups = torch.zeros_like(problem.weighted.groups)
    groups[:40, 0], groups[40:, 3] = True, True
    groups[40] = torch.tensor([False, True, False, False])
    labels = (torch.arange(80) >= 40).to(problem.weighted.labels)
    rows = replace(problem.weighted, groups=groups, labels=labels)
    step = next(Projection().iterate(replace(problem, weighted=rows)))
    assert step.terms["group_term_skipped"] == pytest.approx(1 / 80)
    assert step.note.endswith("Groups of a single row, which no other row is to be near: 1.")
