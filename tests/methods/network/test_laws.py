"""What each method that trains a whole network is, against computations of its own."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from gsr_core.methods.fit import fit
from gsr_core.methods.lff import relative_difficulty
from gsr_core.methods.network.group_dro import robust_update
from gsr_core.methods.network.lff import gce_loss
from gsr_core.methods.network.loop import Batch, Epoch, Loop
from gsr_core.methods.registry import make_method

GROUPS = ["a", "b", "c", "d"]


def loop_of(name, problem, **changed):
    method = make_method(name, changed)
    return method, Loop(method, problem, None)


def test_plain_training_is_descent_on_the_mean_loss(make_network_problem, compute):
    problem, _ = make_network_problem()
    plain = {"optimiser": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}
    method, loop = loop_of("network_erm", problem, **plain, batch_size=96, steps=1)
    module = loop.learner.module
    dropout = [each for each in module.modules() if isinstance(each, torch.nn.Dropout)]
    for each in dropout:
        each.p = 0.0
    before = {name: value.clone() for name, value in module.named_parameters()}
    (epoch,) = itertools.islice(method.epochs(loop), 1)
    (order,) = epoch.batches
    x = torch.from_numpy(problem.network.inputs.array[order]).to(compute.device)
    module.train()
    loss = cross_entropy(module(x), problem.weighted.labels[torch.from_numpy(order)])
    gradients = torch.autograd.grad(loss, list(module.parameters()))
    step = loop.train(epoch)
    assert step.objective == pytest.approx(loss.item(), rel=1e-5)
    for (name, start), gradient in zip(before.items(), gradients, strict=True):
        torch.testing.assert_close(
            dict(module.named_parameters())[name], start - 0.1 * gradient, rtol=1e-4, atol=1e-6
        )


def test_every_row_comes_once_an_epoch_and_a_lone_row_is_left_out(make_network_problem):
    problem, _ = make_network_problem()
    _, loop = loop_of("network_erm", problem)
    batches = loop.shuffled()
    np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.arange(96))
    assert {len(each) for each in batches} == {16}
    assert [len(each) for each in loop.batched(np.arange(33))] == [16, 16]
    assert [len(each) for each in loop.batched(np.arange(34))] == [16, 16, 2]
    first = np.concatenate(batches)
    loop.epoch += 1
    assert not np.array_equal(np.concatenate(loop.shuffled()), first)


@pytest.mark.parametrize(
    ("name", "what"), [("network_rwg", "groups"), ("network_class_balanced", "classes")]
)
def test_all_groups_or_classes_are_drawn_equally_often(name, what, make_network_problem):
    problem, _ = make_network_problem()
    method, loop = loop_of(name, problem)
    (epoch,) = itertools.islice(method.epochs(loop), 1)
    onehot = torch.nn.functional.one_hot(loop.labels).bool()
    members = loop.groups if what == "groups" else onehot
    mass = epoch.values @ members.double()
    torch.testing.assert_close(mass, torch.full_like(mass, 1 / members.shape[1]))
    drawn = np.concatenate(loop.drawn(epoch.values, 20_000))
    share = np.bincount(drawn, minlength=96) / len(drawn)
    assert np.abs(share - epoch.values.numpy()).max() < 5 * np.sqrt(0.1 / 20_000)


def test_a_subsample_has_equal_groups_and_no_row_twice(make_network_problem):
    problem, _ = make_network_problem()
    method, loop = loop_of("network_subg", problem)
    first, second = itertools.islice(method.epochs(loop), 2)
    rows = np.concatenate(first.batches)
    counts = loop.groups[rows].sum(dim=0)
    assert set(counts.tolist()) == {int(loop.groups.sum(dim=0).min())}
    assert len(set(rows.tolist())) == len(rows)
    assert set(np.concatenate(second.batches).tolist()) == set(rows.tolist())


def test_group_weights_follow_the_losses(make_network_problem):
    problem, _ = make_network_problem()
    _, loop = loop_of("network_group_dro", problem)
    loop.kept["q"] = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    places = np.flatnonzero(loop.groups[:, :3].any(dim=1))[:12]
    assert not loop.groups[places, 3].any()
    loop.learner.model.eval()
    logits = loop.logits(places)
    losses = cross_entropy(logits, loop.labels[places], reduction="none").double()
    sizes = loop.groups.sum(dim=0).double()
    expected = loop.kept["q"].clone()
    for group in range(4):
        members = loop.groups[places, group]
        if members.any():
            expected[group] *= torch.exp(0.5 * (losses[members].mean() + 2 / sizes[group].sqrt()))
    inputs = torch.from_numpy(problem.network.inputs.array[places])
    labels = loop.labels[places].to(loop.device)
    robust_update(loop, loop.groups, 0.5, 2.0)(Batch(inputs, labels, torch.from_numpy(places)))
    torch.testing.assert_close(loop.kept["q"], expected / expected.sum(), rtol=1e-5, atol=1e-7)


def test_errors_of_the_first_network_are_copied_and_the_second_starts_anew(make_network_problem):
    problem, _ = make_network_problem()
    method = make_method("network_jtt", {"steps": 3, "first_epochs": 1, "up": 5})
    first = next(method.iterate(problem))
    loop = Loop(method, problem, None)
    loop.learner.module.load_state_dict(first.network)
    wrong = loop.logits().argmax(dim=1) != loop.labels
    start = Loop(method, problem, None).learner.weights()

    loop = Loop(method, problem, first.checkpoint)
    epochs = method.epochs(loop)
    epoch = next(epochs)
    copies = torch.bincount(torch.from_numpy(np.concatenate(epoch.batches)), minlength=96)
    total = 96 + 4 * int(wrong.sum())
    assert total - 1 <= int(copies.sum()) <= total
    assert set((copies - (1 + 4 * wrong.long())).tolist()) <= {0, -1}
    assert all(torch.equal(value, start[name]) for name, value in loop.learner.weights().items())
    assert int(wrong.sum()) > 0


def test_the_biased_loss_damps_what_is_hard():
    logits = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    probability = logits.softmax(dim=1).gather(1, labels[:, None]).squeeze(1)
    for q in (0.3, 1.0):
        (biased,) = torch.autograd.grad(gce_loss(logits, labels, q).sum(), logits)
        losses = cross_entropy(logits, labels, reduction="none")
        (plain,) = torch.autograd.grad(losses.sum(), logits)
        torch.testing.assert_close(biased, probability.detach()[:, None] ** q * plain)
    torch.testing.assert_close(gce_loss(logits, labels, 1e-9), losses, rtol=1e-6, atol=1e-6)


def test_the_weights_of_lff_are_those_of_its_running_means(make_network_problem):
    problem, _ = make_network_problem()
    method, loop = loop_of("network_lff", problem, steps=2)
    epochs = method.epochs(loop)
    step = loop.train(next(epochs))
    means = [loop.kept[name] for name in ("biased_loss", "debiased_loss")]
    assert not any(bool(each.isnan().any()) for each in means)
    weight = relative_difficulty(*means, loop.labels).double()
    torch.testing.assert_close(step.sample_weight.cpu(), weight / weight.sum())
    # One more batch moves the mean of its rows, and of no other.
    before = [each.clone() for each in means]
    batch = np.arange(5)
    loop.train(Epoch([batch], update=next(epochs).update))
    for old, name in zip(before, ("biased_loss", "debiased_loss"), strict=True):
        moved = (loop.kept[name] != old).nonzero().squeeze(1)
        assert set(moved.tolist()) <= set(batch.tolist())


@pytest.mark.parametrize(
    ("name", "matrix"), [("gsr_f_hf", None), ("gsr_f_eh", "hessian"), ("gsr_f_gn", "gauss_newton")]
)
def test_weights_move_against_the_influence_through_all_parameters(
    name, matrix, make_network_problem
):
    """The move after the plain training, from explicit gradients and a dense curvature."""
    plain = {"optimiser": "sgd", "weight_decay": 0.02, "lr": 0.05}
    more = {"tolerance": 1e-6, "max_products": 200, "damping": 5.0} if matrix else {}
    problem, _ = make_network_problem()
    method = make_method(name, {"steps": 3, "warmup": 1, **plain, **more})
    first, second = itertools.islice(method.iterate(problem), 2)
    loop = Loop(method, problem, first.checkpoint)
    module = loop.learner.module.double().eval()
    names = [key for key, _ in module.named_parameters()]
    x, n = torch.from_numpy(problem.network.inputs.array).double(), 96
    y = torch.cat([problem.weighted.labels, problem.target.labels]).cpu()

    def outputs(*parameters):
        return torch.func.functional_call(
            module, dict(zip(names, parameters, strict=True)), x[:136]
        )

    parameters = tuple(value.detach() for value in module.parameters())
    each = torch.func.jacrev(
        lambda *p: cross_entropy(outputs(*p), y, reduction="none"), tuple(range(len(names)))
    )(*parameters)
    gradients = torch.cat([part.flatten(1) for part in each], dim=1)
    flat = torch.cat([value.flatten() for value in parameters])
    shapes = [value.shape for value in parameters]

    def unflat(vector):
        parts = vector.split([shape.numel() for shape in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    losses = cross_entropy(outputs(*parameters), y, reduction="none")
    members = problem.target.groups.cpu().double()
    share = members / members.sum(dim=0)
    gamma = (losses[n:] @ share).softmax(dim=0)
    right = gradients[n:].T @ share @ gamma
    l2 = 0.02 / 2
    if matrix == "hessian":
        curvature = torch.func.hessian(lambda v: cross_entropy(outputs(*unflat(v))[:n], y[:n]))(
            flat
        )
    elif matrix == "gauss_newton":
        jacobian = torch.func.jacrev(lambda v: outputs(*unflat(v))[:n])(flat)
        p = outputs(*parameters)[:n].softmax(dim=1)
        inner = torch.diag_embed(p) - p[:, :, None] * p[:, None]
        curvature = torch.einsum("nkp,nkl,nlq->pq", jacobian, inner, jacobian) / n
    solution = right
    if matrix is not None:
        eye = torch.eye(len(flat), dtype=torch.float64)
        solution = torch.linalg.solve(curvature + (2 * l2 + 5.0) * eye, right)
    influence = -(gradients[:n] + 2 * l2 * flat) @ solution
    xi = influence * 0.5 / (n**0.5 * influence.norm())
    expected = (1 / n - xi).clamp(min=0)
    found = second.sample_weight.cpu()
    torch.testing.assert_close(found, expected / expected.sum(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(second.group_weight.cpu(), gamma, rtol=1e-4, atol=1e-6)


def test_a_balanced_set_grows_by_rows_that_stay(make_network_problem):
    problem, _ = make_network_problem(minority=0.3)
    settings = {"steps": 20, "warmup": 2, "every": 2, "add": 12, "expansion_lr": 0.25}
    method, loop = loop_of("network_pde", problem, **settings)
    sets, rates = [], []
    for epoch in method.epochs(loop):
        rows = np.concatenate(epoch.batches)
        assert len(set(rows.tolist())) == len(rows)
        size = round(1 / float(epoch.values.max()))
        assert size - 1 <= len(rows) <= size
        sets.append(epoch.values > 0)
        assert int(sets[-1].sum()) == size
        rates.append(loop.learner.optimiser.param_groups[0]["lr"])
        loop.epoch += 1
    warm = int(sets[0].sum())
    assert len(set(loop.groups[sets[0]].sum(dim=0).tolist())) == 1
    assert warm == 4 * int(loop.groups.sum(dim=0).min())
    stages = -(-(96 - warm) // 12)
    assert [int(each.sum()) for each in sets] == [
        min(warm + 12 * stage, 96) for stage in range(stages + 1) for _ in range(2)
    ]
    for before, after in itertools.pairwise(sets):
        assert bool(after[before].all())
    assert rates == pytest.approx([1e-2] * 2 + [2.5e-3] * (2 * stages))


def test_the_expansion_goes_on_at_its_rate_with_the_momentum_that_was(
    make_network_problem, compute
):
    problem, _ = make_network_problem()
    plain = {"optimiser": "sgd", "lr": 0.1, "momentum": 0.5, "weight_decay": 0.0}
    settings = {"steps": 2, "warmup": 1, "expansion_lr": 0.25, "batch_size": 96}
    method, loop = loop_of("network_pde", problem, **plain, **settings)
    warm = loop.train(next(method.epochs(loop)))
    loop = Loop(method, problem, warm.checkpoint)
    module, momentum = loop.learner.module, loop.learner.optimiser.state_dict()["state"]
    module[3].p = 0.0
    before = [each.detach().clone() for each in module.parameters()]
    velocity = [momentum[each]["momentum_buffer"].clone() for each in range(len(before))]
    epoch = next(method.epochs(loop))
    (order,) = epoch.batches
    x = torch.from_numpy(problem.network.inputs.array[order]).to(compute.device)
    loss = cross_entropy(module.train()(x), problem.weighted.labels[torch.from_numpy(order)])
    gradients = torch.autograd.grad(loss, list(module.parameters()))
    loop.train(epoch)
    moves = zip(before, velocity, gradients, module.parameters(), strict=True)
    for start, past, gradient, now in moves:
        torch.testing.assert_close(
            now, start - 0.025 * (0.5 * past + gradient), rtol=1e-4, atol=1e-6
        )


def test_balancing_repairs_what_plain_training_gets_wrong(make_network_problem):
    problem, test = make_network_problem(minority=0.06)
    worst = {}
    for name in ("network_erm", "network_rwg", "network_group_dro"):
        method = make_method(name, {"steps": 30, "selection": "worst_group_loss"})
        result = fit(method, problem, GROUPS, test=test)
        rows = result.history
        last = rows[(rows["step"] == 30) & (rows["split"] == "test") & (rows["group"] == "")]
        worst[name] = float(last[last["metric"] == "worst_group_loss"]["value"].iloc[0])
    assert worst["network_rwg"] < 0.8 * worst["network_erm"]
    assert worst["network_group_dro"] < 0.8 * worst["network_erm"]
