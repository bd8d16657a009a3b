from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch.nn.functional import cross_entropy

from gsr_core.methods.fit import fit
from gsr_core.methods.lff import LfF, relative_difficulty
from gsr_core.methods.llr import LLR

GROUPS = ["a0", "a1", "b0", "b1"]


def take(method, problem, count, checkpoint=None):
    return list(islice(method.iterate(problem, checkpoint), count))


losses = st.lists(st.just(0.0) | st.floats(1e-6, 50), min_size=4, max_size=4)


@given(losses, losses)
def test_difficulty_is_a_share_and_one_half_where_both_heads_are_equal(biased, debiased):
    labels = torch.tensor([0, 0, 1, 1])
    one, two = (torch.tensor(each, dtype=torch.float64) for each in (biased, debiased))
    difficulty = relative_difficulty(one, two, labels)
    assert (difficulty >= 0).all()
    assert (difficulty <= 1).all()
    assert torch.equal(relative_difficulty(one, one, labels), torch.full_like(one, 0.5))
    # Each class has its own yardstick, on either side.
    scaled = one * torch.tensor([4.0, 4.0, 0.5, 0.5])
    torch.testing.assert_close(relative_difficulty(scaled, two, labels), difficulty)


def test_difficulty_by_hand():
    labels = torch.tensor([0, 0, 1])
    biased = torch.tensor([2.0, 1.0, 3.0], dtype=torch.float64)
    debiased = torch.tensor([1.0, 4.0, 5.0], dtype=torch.float64)
    expected = [1 / (1 + 0.25), 0.5 / (0.5 + 1), 1 / (1 + 1)]
    found = relative_difficulty(biased, debiased, labels)
    torch.testing.assert_close(found, found.new_tensor(expected))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_weights_are_those_of_the_dynamics_done_by_autograd(make_problem, n_classes):
    problem, _ = make_problem(n=40, n_classes=n_classes)
    labels = problem.weighted.labels
    features = problem.weighted.features.double()
    z = (features - features.mean(dim=0)) / features.std(dim=0, correction=0)
    z = torch.cat([z, z.new_ones(40, 1)], dim=1)
    bound = 0.5 * torch.linalg.matrix_norm(z, 2) ** 2 / 40
    biased = z.new_zeros(7, n_classes, requires_grad=True)
    debiased = z.new_zeros(7, n_classes, requires_grad=True)
    average = None
    for _ in range(6):
        loss = [cross_entropy(z @ head, labels, reduction="none") for head in (biased, debiased)]
        now = torch.stack(loss).detach()
        average = now if average is None else 0.6 * average + 0.4 * now
        relative = average.clone()
        for label in range(n_classes):
            inside = labels == label
            relative[:, inside] /= average[:, inside].amax(dim=1, keepdim=True)
        weight = relative[0] / relative.sum(dim=0)
        weight = weight / weight.sum()
        generalised = ((1 - torch.exp(-0.5 * loss[0])) / 0.5).mean()
        penalised = weight @ loss[1] + 0.02 * debiased.square().sum()
        (down,) = torch.autograd.grad(generalised, biased)
        biased = (biased - down / bound).detach().requires_grad_()
        (down,) = torch.autograd.grad(penalised, debiased)
        size = 1 / (40 * weight.max() * bound + 2 * 0.02)
        debiased = (debiased - size * down).detach().requires_grad_()
    step = take(LfF(updates=3, q=0.5, average=0.6, l2=0.02), problem, 2)[-1]
    torch.testing.assert_close(step.sample_weight, weight, rtol=1e-7, atol=1e-12)


def test_the_head_is_that_of_the_dynamics_or_the_exact_fit_under_the_weights(make_problem):
    problem, _ = make_problem()
    own, refitted = (take(LfF(refit=refit), problem, 3) for refit in (False, True))
    for one, two in zip(own, refitted, strict=True):
        inner = LfF().inner(problem)
        assert torch.equal(one.sample_weight, two.sample_weight)
        head = inner.head(one.checkpoint["debiased"])
        torch.testing.assert_close(one.head.weight, head.weight, rtol=0, atol=0)
        again = inner.step(two.sample_weight).head
        torch.testing.assert_close(two.head.weight, again.weight, rtol=1e-6, atol=1e-8)
        assert float((one.head.weight - two.head.weight).norm()) > 1e-3


def test_where_the_dynamics_rest_the_debiased_head_is_the_exact_one(make_problem):
    problem, _ = make_problem()
    # One that keeps its weights: the running means hardly move.
    method = LfF(updates=800, average=0.999999, l2=0.1, refit=True)
    (step,) = take(method, problem, 1)
    inner = method.inner(problem)
    torch.testing.assert_close(
        inner.head(step.checkpoint["debiased"]).weight, step.head.weight, rtol=1e-2, atol=1e-3
    )


@pytest.mark.parametrize("d", [6, 120])
def test_a_continued_run_equals_one_long_run_bit_by_bit(make_problem, d):
    problem, _ = make_problem(d=d)
    if problem.compute.device.type != "cpu":
        pytest.skip("bits are promised on a CPU only")
    whole = take(LfF(), problem, 5)
    stored = load(save({k: v.contiguous() for k, v in whole[1].checkpoint.items()}))
    rest = take(LfF(), problem, 3, stored)
    for one, two in zip(whole[2:], rest, strict=True):
        assert torch.equal(one.sample_weight, two.sample_weight)
        assert torch.equal(one.head.weight, two.head.weight)


def test_the_minority_gains_weight_and_the_worst_group_accuracy(make_problem):
    problem, test = make_problem(n=400, n_target=400, d=20, minority=0.06)
    minority = problem.weighted.groups[:, 1] | problem.weighted.groups[:, 2]
    result = fit(LfF(), problem, GROUPS, test=test)
    assert float(result.step.sample_weight[minority].sum()) > 3 * float(minority.double().mean())

    def worst(result):
        rows = result.history.query("split == 'test' and metric == 'worst_group_accuracy'")
        return float(rows.set_index("step")["value"][result.step_index])

    assert worst(result) > worst(fit(LLR(), problem, GROUPS, test=test)) + 0.1
