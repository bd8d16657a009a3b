from dataclasses import replace
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from scipy.optimize import minimize
from torch.nn.functional import cross_entropy, one_hot

from gsr_core.linear.head import Head
from gsr_core.linear.influence import mean_shares
from gsr_core.methods.afr import AFR
from gsr_core.methods.crossfit import crossfitted_logits, draw_folds
from gsr_core.methods.erm import ERM
from gsr_core.methods.fit import fit
from gsr_core.methods.inner import InnerProblem

NAMES = ["a0", "a1", "b0", "b1", "c0", "c1"]


def exact(problem, **settings):
    (step,) = AFR(solver="exact", **settings).iterate(problem)
    return step


def flat(head):
    return torch.cat([head.weight, head.bias[:, None]], dim=1).double()


def with_head(problem, seed=1):
    """The problem with a backbone's head that is not centred and not in the span of few rows."""
    rng, d = np.random.default_rng(seed), problem.weighted.features.shape[1]
    shape, like = (problem.n_classes, d), problem.weighted.features
    head = like.new_tensor(rng.normal(size=shape) / 2), like.new_tensor(rng.normal(size=shape[0]))
    return replace(problem, backbone_head=head)


def scaled(problem, standardise):
    """The fitted rows in the coordinates of the penalty, and what scales a head's weight there."""
    features = problem.weighted.features.double()
    if not standardise:
        return features, features.new_zeros(features.shape[1]), features.new_ones(1)
    scale = features.std(dim=0, correction=0)
    return (features - features.mean(dim=0)) / scale, features.mean(dim=0), scale


def in_scaled(head, mean, scale):
    weight, bias = head.weight.double(), head.bias.double()
    return torch.cat([weight * scale, (bias + weight @ mean)[:, None]], dim=1)


def loss_of(theta, features, labels, weight):
    logits = features @ theta[:, :-1].T + theta[:, -1]
    return weight @ cross_entropy(logits, labels, reduction="none")


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("balance", [True, False])
def test_weights_are_in_the_ratio_of_confidence_and_class_size(make_problem, n_classes, balance):
    problem = with_head(make_problem(n_classes=n_classes)[0])
    rows = problem.weighted
    head = Head(*(part.double() for part in problem.backbone_head))
    logits = head.logits(rows.features.double())
    q = (logits.softmax(dim=1) * one_hot(rows.labels, n_classes)).sum(dim=1)
    count = torch.bincount(rows.labels)[rows.labels]
    step = exact(problem, gamma=3.0, class_balance=balance)
    ratio = step.sample_weight[:, None] / step.sample_weight
    expected = torch.exp(-3.0 * (q[:, None] - q))
    if balance:
        expected = expected * count / count[:, None]
    torch.testing.assert_close(ratio, expected)
    assert "by the backbone's own head" in step.note


@pytest.mark.parametrize("n_classes", [2, 3])
def test_nothing_that_differs_from_equal_weights_is_their_plain_fit(make_problem, n_classes):
    problem, _ = make_problem(n=400, d=3, minority=0.4, n_classes=n_classes)
    step = exact(problem, gamma=0, class_balance=False, pull=0, standardise=False)
    features, labels = problem.weighted.features.double(), problem.weighted.labels

    def objective(flat_theta):
        theta = torch.from_numpy(flat_theta).reshape(n_classes, -1).to(features).requires_grad_()
        loss = loss_of(theta, features, labels, features.new_full((len(labels),), 1 / len(labels)))
        (gradient,) = torch.autograd.grad(loss, theta)
        return loss.item(), gradient.flatten().cpu().numpy()

    found = minimize(objective, np.zeros(4 * n_classes), jac=True, options={"gtol": 1e-9})
    theta = features.new_tensor(found.x).reshape(n_classes, -1)
    expected = (features @ theta[:, :-1].T + theta[:, -1]).softmax(dim=1)
    torch.testing.assert_close(
        step.head.logits(features).softmax(dim=1), expected, atol=1e-6, rtol=0
    )
    assert "no minimum" in step.note
    assert "no minimum" not in exact(problem).note


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("d", [6, 120])
@pytest.mark.parametrize("standardise", [True, False])
def test_the_exact_head_is_stationary(make_problem, n_classes, d, standardise):
    problem = with_head(make_problem(n_classes=n_classes, d=d)[0])
    step = exact(problem, pull=0.05, standardise=standardise)
    features, mean, scale = scaled(problem, standardise)
    base = in_scaled(Head(*problem.backbone_head), mean, scale)
    theta = in_scaled(step.head, mean, scale).requires_grad_()
    data = loss_of(theta, features, problem.weighted.labels, step.sample_weight)
    value = data + 0.05 * (theta - base).square().sum()
    (gradient,) = torch.autograd.grad(value, theta, retain_graph=True)
    (without,) = torch.autograd.grad(data, theta)
    assert step.solved
    assert step.objective == pytest.approx(value.item(), rel=1e-6)
    assert float(gradient.norm()) <= 1e-6 * float(without.norm())
    assert float((theta - base).detach().norm()) > 0.1


def test_the_harder_the_pull_the_nearer_the_base_head(make_problem):
    problem = with_head(make_problem(n_classes=3)[0])
    base = flat(Head(*problem.backbone_head))
    far = [
        float((flat(exact(problem, pull=pull, standardise=False).head) - base).norm())
        for pull in (1e-3, 1e-2, 0.1, 1.0, 10.0, 1e7)
    ]
    assert all(later < earlier for earlier, later in pairwise(far))
    assert far[-1] < 1e-5 * far[0]


def test_the_larger_gamma_the_fewer_rows_have_the_weight_and_the_note_warns(make_problem):
    problem, _ = make_problem(n_classes=3)
    sizes = []
    for gamma in (0, 1, 2, 4, 8, 16, 1e5):
        step = exact(problem, gamma=gamma, class_balance=False)
        sizes.append(1 / float(step.sample_weight.square().sum()))
        assert ("lower gamma" in step.note) == (sizes[-1] < 15)
        assert f"worth {sizes[-1]:,.0f} equal ones of 80" in step.note
    assert sizes[0] == pytest.approx(80)
    assert all(later <= earlier for earlier, later in pairwise(sizes))
    assert 1 <= sizes[-1] < 15


@pytest.mark.parametrize("around", ["backbone", "train", "fitted"])
def test_the_first_step_of_the_path_is_the_base_head_to_the_bit(make_problem, around):
    problem, test = make_problem(n_classes=3)
    other = make_problem(n=200, n_classes=3, seed=4)[0].weighted
    if around == "backbone":
        problem = with_head(problem)
    if around == "train":
        problem = replace(problem, train=lambda: other)
    base = next(ERM().iterate(problem)).head
    first = next(AFR().iterate(problem))
    assert torch.equal(first.head.logits(test.features), base.logits(test.features))
    assert first.note.startswith("0 gradient steps")


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("d", [6, 120])
@pytest.mark.parametrize(("standardise", "clip"), [(True, 1.0), (False, 0.2), (True, 0.0)])
def test_the_path_is_torch_s_sgd(make_problem, n_classes, d, standardise, clip):
    problem = with_head(make_problem(n_classes=n_classes, d=d)[0])
    method = AFR(standardise=standardise, clip=clip, every=3, lr=0.02, pull=0.3)
    features, mean, scale = scaled(problem, standardise)
    base = in_scaled(Head(*problem.backbone_head), mean, scale)
    theta = torch.nn.Parameter(base.clone())
    optimiser = torch.optim.SGD([theta], lr=0.02)
    for number, step in enumerate(islice(method.iterate(problem), 5)):
        for _ in range(3 if number else 0):
            optimiser.zero_grad()
            loss = loss_of(theta, features, problem.weighted.labels, step.sample_weight)
            (loss + 0.3 * (theta - base).square().sum()).backward()
            if clip:
                torch.nn.utils.clip_grad_norm_([theta], clip)
            optimiser.step()
        torch.testing.assert_close(
            in_scaled(step.head, mean, scale), theta.detach(), rtol=1e-5, atol=1e-5
        )
        assert f"{3 * number} gradient steps" in step.note
        assert clip or not step.clipped


@pytest.mark.parametrize("where", ["alone", "on_train"])
def test_a_head_that_has_fitted_the_rows_does_not_judge_them(make_problem, where):
    problem, _ = make_problem()
    if where == "on_train":
        rows = problem.weighted
        problem = replace(with_head(problem), train=lambda: rows, weighted_split="train")
    inner = InnerProblem(problem, problem.weighted, l2=0.01, standardise=True)
    fold = draw_folds(problem.weighted, 4, np.random.default_rng(7))
    probabilities = crossfitted_logits(inner, fold).softmax(dim=1)
    q = probabilities.gather(1, problem.weighted.labels[:, None])[:, 0]
    step = exact(problem, class_balance=False, gamma=2.0, folds=4, seed=7)
    torch.testing.assert_close(step.sample_weight, (-2.0 * q).softmax(dim=0))
    assert "heads that did not learn from them" in step.note


def test_the_influence_at_the_minimum_is_a_difference_of_refits(make_problem):
    problem = with_head(make_problem(n=30, n_classes=3)[0])
    step = exact(problem, gamma=2.0)
    inner = InnerProblem(
        *(problem, problem.weighted),
        l2=0.1,
        standardise=True,
        base=Head(*problem.backbone_head),
    )
    target = inner.scored(problem.target)
    share = mean_shares(problem.target.groups, step.sample_weight)

    def losses(row, size):
        weight = step.sample_weight.clone()
        weight[row] += size
        objective = inner.objective(weight / weight.sum())
        refit = inner.solver.minimise(objective, inner.zero(), tolerance=1e-12)
        return target.at(refit.state.u).losses @ share

    for row in (0, 7, 19):
        difference = (losses(row, 1e-5) - losses(row, -1e-5)) / 2e-5
        torch.testing.assert_close(step.influence[row], difference, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stored", [False, True])
def test_a_continued_path_is_one_long_path_bit_by_bit(make_problem, stored):
    problem, _ = make_problem(n_classes=3)
    if problem.compute.device.type != "cpu":
        pytest.skip("bits are promised on a CPU only")
    method = AFR(steps=9)
    whole = fit(method, problem, NAMES)
    first = fit(method, problem, NAMES, monitor=lambda progress: progress.step_index == 4)
    if stored:
        first = replace(
            first, last=replace(first.last, checkpoint=load(save(first.last.checkpoint)))
        )
    second = fit(method, problem, NAMES, resume=first)
    assert second.step_index == whole.step_index
    assert torch.equal(second.last.head.weight, whole.last.head.weight)
    assert torch.equal(second.last.sample_weight, whole.last.sample_weight)
    assert second.last.note == whole.last.note


def test_only_the_path_has_a_step_to_choose(make_problem):
    assert AFR().labels_used == ("val",)
    assert AFR(solver="exact").labels_used == ()
    result = fit(AFR(solver="exact", steps=7), make_problem()[0], NAMES[:4])
    assert (result.last_index, result.status) == (1, "finished")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_toy_s_worst_group_rises_from_below_0_15_to_above_0_75_and_falls_again(
    make_problem, seed
):
    toy = {"d": 30, "minority": 0.05, "n_target": 600}
    problem, _ = make_problem(n=500, seed=seed, **toy)
    base = make_problem(n=2000, seed=seed + 10, **toy)[0].weighted
    test = make_problem(n=8, d=30, n_target=8000, seed=seed + 20)[1]
    problem = replace(problem, train=lambda: base)
    method = AFR(gamma=8.0, l2=0.1, standardise=False, steps=61)
    result = fit(method, problem, NAMES[:4], test=test)
    rows = result.history[
        (result.history["split"] == "test") & (result.history["metric"] == "worst_group_accuracy")
    ].set_index("step")["value"]
    assert rows[1] < 0.15
    assert rows[result.step_index] > 0.75
    assert rows[result.last_index] < rows[result.step_index] - 0.2
