"""What is learned from a first network, against computations of its own."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from gsr_core.linear.head import Head
from gsr_core.methods.fit import fit
from gsr_core.methods.network.first import FirstNetwork
from gsr_core.methods.network.loop import Epoch, Loop
from gsr_core.methods.registry import METHODS, make_method

GROUPS = ["a", "b", "c", "d"]
FIRST = [name for name, each in METHODS.items() if issubclass(each, FirstNetwork)]
GO_ON = ("network_pgd", "network_lrwopt")
"""Methods whose second training begins where the first ended."""
KNOWN = {"max_clusters": 2, "reduce": "pca"}
"""What keeps an inference quick."""


def method_of(name, **changed):
    known = make_method(name).settings()
    return make_method(name, {**{k: v for k, v in KNOWN.items() if k in known}, **changed})


def after_first(name, problem, **changed):
    """The method, its first network, and the loop and the epoch with which the second begins."""
    method = method_of(name, **{"first_epochs": 1, "steps": 3, **changed})
    *_, first = itertools.islice(method.iterate(problem), method.first_epochs)
    loop = Loop(method, problem, first.checkpoint)
    return method, first, loop, next(method.epochs(loop))


def conflicting(problem):
    """Which trained rows lack the shortcut."""
    return problem.weighted.groups[:, [1, 2]].any(dim=1).cpu()


def test_an_inference_sees_the_network_as_it_is(make_network_problem):
    problem, _ = make_network_problem()
    loop = Loop(make_method("network_erm"), problem, None)
    loop.train(Epoch(loop.shuffled()))
    module = loop.learner.module.eval()
    for space, columns in (("features", 6), ("logits", 2)):
        seen = loop.seen(space)
        head = Head(*seen.backbone_head)
        assert len(seen.target) == 0
        for rows in (seen.weighted, seen.val):
            assert rows.features.shape == (len(rows), columns)
            inputs = torch.from_numpy(problem.network.inputs.array[rows.position])
            torch.testing.assert_close(
                head.logits(rows.features), module(inputs.to(loop.device)).detach()
            )


@pytest.mark.parametrize("name", FIRST)
def test_the_second_network_begins_anew_or_goes_on(name, make_network_problem):
    problem, _ = make_network_problem()
    method, first, loop, _ = after_first(name, problem)
    start = Loop(method, problem, None).learner.weights()
    expected = first.network if name in GO_ON else start
    assert all(torch.equal(each, expected[key]) for key, each in loop.learner.weights().items())
    # One of them goes on with the optimiser too: its second part is the same training.
    assert bool(loop.learner.optimiser.state_dict()["state"]) == (name == "network_lrwopt")
    assert not first.candidate
    assert "first network" in first.note


def test_clusters_of_early_outputs_are_drawn_by_their_sizes(make_network_problem):
    problem, _ = make_network_problem(minority=0.2)
    settings = {"first_epochs": 4, "steps": 5, "power_blurred": 2.0, "clear": 1.0}
    method, _, loop, epoch = after_first("network_spare", problem, **settings)
    group, share = epoch.inferred_group, epoch.values
    for label in range(2):
        inside = loop.labels == label
        assert float(share[inside].sum()) == pytest.approx(0.5)
        sizes, mass = (
            torch.bincount(group[inside], weights=each)
            for each in (torch.ones(int(inside.sum())).double(), share[inside])
        )
        mass, sizes = mass[sizes > 0], sizes[sizes > 0]
        assert len(sizes) == 2
        # Lambda 2: the mass of a cluster is inverse to its size.
        torch.testing.assert_close(mass * sizes, (mass * sizes)[:1].expand(2))
    # The shortcut is what is learned first: most of the mass goes to the rows that lack it.
    lacks = conflicting(problem)
    assert float(share[lacks].sum()) > 0.6 > 2 * float(lacks.double().mean())
    # Rows of val fall to the clusters of their own class.
    of_class = torch.zeros(4, 2)
    of_class[group, loop.labels] = 1
    labels = problem.val.labels.cpu()
    assert epoch.inferred_val.sum(dim=1).tolist() == [1] * len(labels)
    assert bool((of_class[epoch.inferred_val.int().argmax(dim=1), labels] == 1).all())
    assert "Drawn by powers 2, 2 " in epoch.note
    one = replace(method, power_blurred=1.0)
    even = next(one.epochs(Loop(one, problem, loop._state() | {"kept.power": torch.ones(2)})))
    mass = torch.bincount(group, weights=even.values)
    torch.testing.assert_close(mass, torch.full((4,), 0.25, dtype=torch.float64))


def test_rows_are_drawn_by_the_gradient_of_the_last_layer(make_network_problem):
    problem, _ = make_network_problem()
    for norm, order in (("l1", 1), ("l2", 2), ("linf", torch.inf)):
        _, first, loop, epoch = after_first("network_pgd", problem, norm=norm, power=1.5)
        module = loop.learner.module.eval()
        inputs = torch.from_numpy(problem.network.inputs.array[loop.rows]).to(loop.device)
        norms = []
        for x, label in zip(inputs, problem.weighted.labels, strict=True):
            loss = cross_entropy(module(x[None]), label[None])
            parts = torch.autograd.grad(loss, list(module[-1].parameters()))
            flat = torch.cat([each.flatten() for each in parts]).double()
            norms.append(torch.linalg.vector_norm(flat, order) ** 1.5)
        expected = torch.stack(norms) / torch.stack(norms).sum()
        torch.testing.assert_close(epoch.values, expected.cpu(), rtol=1e-4, atol=1e-7)
        assert first.sample_weight is None


def test_the_first_network_of_pgd_descends_the_generalised_loss(make_network_problem):
    problem, _ = make_network_problem()
    plain = {"optimiser": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}
    method = make_method("network_pgd", {**plain, "batch_size": 96, "alpha": 0.4})
    loop = Loop(method, problem, None)
    module = loop.learner.module
    module[3].p = 0.0
    before = [each.detach().clone() for each in module.parameters()]
    epoch = next(method.epochs(loop))
    (order,) = epoch.batches
    x = torch.from_numpy(problem.network.inputs.array[order]).to(loop.device)
    chance = module.train()(x).softmax(dim=1)
    own = chance[torch.arange(96), problem.weighted.labels[torch.from_numpy(order)]]
    gradients = torch.autograd.grad(((1 - own**0.4) / 0.4).mean(), list(module.parameters()))
    loop.train(epoch)
    for start, gradient, now in zip(before, gradients, module.parameters(), strict=True):
        torch.testing.assert_close(now, start - 0.1 * gradient, rtol=1e-4, atol=1e-6)


def test_the_environments_are_what_the_first_network_gets_wrong(make_network_problem):
    problem, _ = make_network_problem(minority=0.2)
    _, first, loop, epoch = after_first("network_eiil", problem, first_epochs=4, steps=5)
    judge = Loop(make_method("network_erm"), problem, None)
    judge.learner.module.load_state_dict(first.network)
    wrong = judge.logits().argmax(dim=1) != loop.labels
    expected = 2 * loop.labels + wrong
    # For two classes that is exact; a class without errors would stay whole.
    assert len(expected.unique()) == 4
    pairs = torch.stack([expected, epoch.inferred_group]).unique(dim=1)
    assert pairs.shape[1] == 4
    mass = torch.bincount(epoch.inferred_group, weights=epoch.values())
    torch.testing.assert_close(mass, torch.full((4,), 0.25, dtype=torch.float64))
    # The weights of the groups follow these groups, and are in no step.
    step = loop.train(epoch)
    assert step.group_weight is None
    assert loop.kept["q"].shape == (4,)
    assert float(loop.kept["q"].max()) > 0.25


def test_the_clumps_of_a_first_networks_features_are_groups(make_network_problem):
    problem, _ = make_network_problem(minority=0.3)
    _, _, loop, epoch = after_first("network_george", problem, first_epochs=5, steps=6)
    lacks = conflicting(problem)
    for group in range(epoch.inferred_val.shape[1]):
        inside = epoch.inferred_group == group
        share = float(lacks[inside].double().mean())
        assert min(share, 1 - share) < 0.2
        assert len(loop.labels[inside].unique()) == 1


def test_the_worst_inferred_group_of_val_can_choose_without_labels(make_network_problem):
    problem, test = make_network_problem()
    method = method_of("network_eiil", steps=4, selection="worst_inferred_group")
    assert method.labels_used == ()
    result = fit(method, problem, GROUPS, test=test)
    assert result.step_index > 2
    torch.testing.assert_close(result.step.inferred_group, result.last.inferred_group)
    assert "groups of val" in result.step.note


def test_what_a_first_network_says_repairs_the_second(make_network_problem):
    problem, test = make_network_problem(minority=0.06)
    worst = {}
    for name in ("network_erm", "network_spare", "network_pgd", "network_eiil", "network_cnc"):
        result = fit(method_of(name, steps=15), problem, GROUPS, test=test)
        rows = result.history
        last = rows[(rows["step"] == 15) & (rows["split"] == "test") & (rows["group"] == "")]
        worst[name] = float(last[last["metric"] == "worst_group_loss"]["value"].iloc[0])
    plain = worst.pop("network_erm")
    assert max(worst.values()) < 0.8 * plain, worst
