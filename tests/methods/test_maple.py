from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from gsr_core.methods.fit import fit
from gsr_core.methods.gsr_variants import GSRHF
from gsr_core.methods.llr import LLR
from gsr_core.methods.maple import MAPLE, draw_coreset

GROUPS = ["a0", "a1", "b0", "b1"]


def take(method, problem, count, checkpoint=None):
    return list(islice(method.iterate(problem, checkpoint), count))


def some_weights(problem):
    generator = torch.Generator().manual_seed(0)
    weight = torch.rand(len(problem.weighted), generator=generator, dtype=torch.float64) ** 4
    weight[:5] = 0
    return (weight / weight.sum()).to(problem.weighted.features.device)


@pytest.mark.parametrize("size", [1, 20, 75, 80])
def test_a_coreset_has_its_size_and_no_row_without_weight(make_problem, size):
    problem, _ = make_problem()
    weight = some_weights(problem)
    drawn = draw_coreset(weight, problem.weighted, size, np.random.default_rng(0))
    assert int((drawn > 0).sum()) == min(size, 75)
    assert (drawn[:5] == 0).all()
    assert float(drawn.sum()) == pytest.approx(1)
    if size >= 75:
        torch.testing.assert_close(drawn, weight)


def test_the_weights_of_a_coreset_are_on_average_those_of_all(make_problem):
    problem, _ = make_problem()
    # Of rows that are hardly ever drawn, so many draws say nothing.
    weight = some_weights(problem) + 1 / 800
    weight = weight / weight.sum()
    draws = torch.stack(
        [
            draw_coreset(weight, problem.weighted, 40, np.random.default_rng(seed))
            for seed in range(2000)
        ]
    )
    error = draws.std(dim=0) / 2000**0.5
    assert ((draws.mean(dim=0) - weight).abs() <= 5 * error + 0.02 * weight).all()


def test_on_all_samples_with_group_weights_it_is_gsr_without_the_hessian(make_problem):
    problem, _ = make_problem(n_classes=3)
    found = take(MAPLE(coreset_share=1.0, risk="group_dro", decay_every=3), problem, 8)
    expected = take(GSRHF(lr_decay_every=3), problem, 8)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one.sample_weight, two.sample_weight, rtol=1e-4, atol=1e-8)
        torch.testing.assert_close(one.group_weight, two.group_weight, rtol=1e-6, atol=1e-9)
        assert one.step_size == two.step_size


@pytest.mark.parametrize("risk", ["mean", "group_dro"])
def test_a_copy_of_a_target_sample_gains_weight(make_problem, risk):
    problem, _ = make_problem()
    single = replace(
        problem.target,
        source=problem.target.features[:1],
        labels=problem.target.labels[:1],
        groups=problem.target.groups[:1],
        position=problem.target.position[:1],
    )
    features = problem.weighted.features.clone()
    labels = problem.weighted.labels.clone()
    features[7], labels[7] = single.features[0], single.labels[0]
    features[8], labels[8] = single.features[0], 1 - single.labels[0]
    weighted = replace(problem.weighted, source=features, labels=labels)
    problem = replace(problem, weighted=weighted, target=single)
    one, two = take(MAPLE(risk=risk, step_norm=0.1), problem, 2)
    assert two.sample_weight[7] > one.sample_weight[7]
    assert two.sample_weight[8] < one.sample_weight[8]


def test_the_mean_risk_reads_no_groups_and_says_so(make_problem):
    problem, _ = make_problem()
    target = replace(problem.target, groups=problem.target.groups.roll(1, dims=1))
    one, two = (take(MAPLE(), each, 3)[-1] for each in (problem, replace(problem, target=target)))
    assert torch.equal(one.sample_weight, two.sample_weight)
    assert one.group_weight is None
    assert MAPLE().labels_used == ("val",)
    assert MAPLE(risk="group_dro").labels_used == ("target", "val")


def test_another_seed_draws_other_coresets(make_problem):
    problem, _ = make_problem()
    one, two = (take(MAPLE(seed=seed), problem, 2)[-1] for seed in (0, 1))
    assert not torch.equal(one.sample_weight, two.sample_weight)


@pytest.mark.parametrize("risk", ["mean", "group_dro"])
@pytest.mark.parametrize("d", [6, 120])
def test_a_continued_run_equals_one_long_run_bit_by_bit(make_problem, risk, d):
    problem, _ = make_problem(d=d)
    if problem.compute.device.type != "cpu":
        pytest.skip("bits are promised on a CPU only")
    whole = take(MAPLE(risk=risk), problem, 5)
    stored = load(save({k: v.contiguous() for k, v in whole[1].checkpoint.items()}))
    for one, two in zip(whole[2:], take(MAPLE(risk=risk), problem, 3, stored), strict=True):
        assert torch.equal(one.sample_weight, two.sample_weight)
        assert torch.equal(one.head.weight, two.head.weight)


@pytest.mark.parametrize("risk", ["mean", "group_dro"])
def test_the_worst_group_gains(make_problem, risk):
    problem, test = make_problem(n=300, n_target=300, d=20, minority=0.05)

    def worst(result):
        rows = result.history.query("split == 'test' and metric == 'worst_group_accuracy'")
        return float(rows.set_index("step")["value"][result.step_index])

    found = fit(MAPLE(steps=20, risk=risk), problem, GROUPS, test=test)
    assert worst(found) > worst(fit(LLR(), problem, GROUPS, test=test)) + 0.1
