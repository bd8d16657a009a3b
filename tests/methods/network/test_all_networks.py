"""What holds for every method that trains a whole network."""

import itertools
from dataclasses import replace

import pytest
import torch

from gsr_core.errors import SettingError
from gsr_core.methods.base import Values
from gsr_core.methods.fit import fit
from gsr_core.methods.network.loop import Loop
from gsr_core.methods.registry import METHODS, make_method
from gsr_core.progress import Status, Stopped

GROUPS = ["a", "b", "c", "d"]
NETWORKS = [name for name, each in METHODS.items() if each.acts_on == "network"]
QUICK = {
    "steps": 4,
    "first_epochs": 2,
    "warmup": 2,
    "every": 1,
    "budget": 0.5,
    "max_depth": 3,
    "max_clusters": 2,
    "reduce": "pca",
    "environment_steps": 50,
}


def quick(name, **changed):
    known = METHODS[name]().settings()
    return make_method(name, {**{k: v for k, v in QUICK.items() if k in known}, **changed})


@pytest.fixture(params=NETWORKS)
def name(request):
    return request.param


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_steps_are_networks_with_their_heads_and_values(name, make_network_problem):
    problem, test = make_network_problem()
    method, n = quick(name), len(problem.weighted)
    uneven = False
    for index, step in enumerate(itertools.islice(method.iterate(problem), method.steps), 1):
        # The head is the network's, on what it makes of the rows.
        features = torch.cat(list(step.view(test.position).split(16)))
        again = Loop(method, problem, None)
        again.learner.module.load_state_dict(step.network)
        expected = again.logits_of(test.position)
        torch.testing.assert_close(step.head.logits(features).cpu(), expected)
        if step.sample_weight is not None:
            weight = step.sample_weight
            assert weight.shape == (n,)
            assert float(weight.min()) >= 0
            assert float(weight.sum()) == pytest.approx(1)
            uneven = True
        assert int(step.checkpoint["epoch"]) == index
    assert index == method.steps
    assert (METHODS[name].values is not Values.NONE) == uneven


def test_a_stopped_training_gives_the_network_of_one_that_was_not(name, make_network_problem):
    problem, test = make_network_problem()
    method = quick(name)
    whole = fit(method, problem, GROUPS, test=test)
    for stop in range(1, method.steps):
        first = fit(method, problem, GROUPS, test=test, monitor=lambda p, s=stop: p.step_index == s)
        assert first.status is Status.CANCELLED
        rest = fit(method, problem, GROUPS, test=test, resume=first)
        assert same(rest.last.network, whole.last.network)
        assert same(rest.step.network, whole.step.network)
        assert rest.step_index == whole.step_index


def test_another_seed_is_another_network_and_global_states_stay(name, make_network_problem):
    problem, _ = make_network_problem()
    before = torch.get_rng_state()
    torch.rand(3)
    moved = torch.get_rng_state()
    first, again, other = (
        fit(quick(name, seed=seed), problem, GROUPS).last.network for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), moved)
    torch.set_rng_state(before)
    assert same(first, again)
    assert not same(first, other)


def test_the_group_labels_that_count_are_those_that_it_reads(name, make_network_problem):
    problem, _ = make_network_problem()
    method = quick(name)

    def last(seen):
        return fit(method, seen, GROUPS).last.network

    as_it_is = last(problem)
    for split in ("weighted", "target"):
        rows = getattr(problem, split)
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))
        shuffled = replace(problem, **{split: replace(rows, groups=rows.groups[order])})
        moved = not same(last(shuffled), as_it_is)
        assert moved == (split in method.labels_used), f"{split} is read: {moved}"


def test_a_first_network_is_scored_and_never_kept(name, make_network_problem):
    problem, test = make_network_problem()
    method = quick(name)
    if "first_epochs" not in method.settings():
        return
    result = fit(method, problem, GROUPS, test=test)
    assert result.step_index > method.first_epochs
    assert set(result.history["step"]) == set(range(1, method.steps + 1))
    with pytest.raises(SettingError, match=r"first_epochs is 4 of 4 steps, which leaves none"):
        fit(quick(name, first_epochs=4), problem, GROUPS)


def test_who_asks_to_stop_within_an_epoch_keeps_those_before(make_network_problem, monkeypatch):
    monkeypatch.setattr("gsr_core.methods.network.loop._LOOK", 0.0)
    seen = []
    problem, _ = make_network_problem(
        should_stop=lambda: len(seen) > 8, report=lambda part, text: seen.append((part, text))
    )
    result = fit(quick("network_erm"), problem, GROUPS)
    assert (result.status, result.last_index) == (Status.CANCELLED, 1)
    assert seen[0][1].startswith("Epoch 1: 17%, loss ")
    monkeypatch.undo()
    problem, _ = make_network_problem()
    whole = fit(quick("network_erm"), problem, GROUPS)
    assert same(
        fit(quick("network_erm"), problem, GROUPS, resume=result).step.network, whole.step.network
    )

    monkeypatch.setattr("gsr_core.methods.network.loop._LOOK", 0.0)
    problem, _ = make_network_problem(should_stop=lambda: True)
    with pytest.raises(Stopped, match="stopped within epoch 1"):
        fit(quick("network_erm"), problem, GROUPS)


def test_a_loss_that_is_not_finite_ends_with_advice(make_network_problem):
    problem, _ = make_network_problem()
    method = quick(
        "network_erm", optimiser="sgd", lr=10.0, momentum=0.0, weight_decay=10.0, steps=200
    )
    with pytest.raises(SettingError, match=r"no longer finite in epoch \d+, at learning rate 10"):
        fit(method, problem, GROUPS)


def test_settings_of_an_optimiser_need_one(make_network_problem):
    problem, _ = make_network_problem()
    with pytest.raises(SettingError, match=r"lr is 0\.1, but optimiser is auto"):
        fit(quick("network_erm", lr=0.1), problem, GROUPS)
    training = quick("network_erm", optimiser="sgd", lr=0.1).training(problem.network.training)
    assert (training.optimiser, training.lr, training.momentum) == ("sgd", 0.1, 0.9)
    assert quick("network_erm").training(problem.network.training).batch_size == 16
    assert quick("network_erm").training(None).optimiser == "adamw"


def test_a_problem_without_a_network_is_refused(make_network_problem):
    problem, _ = make_network_problem()
    with pytest.raises(SettingError, match="network_erm trains a whole network, and this problem"):
        fit(quick("network_erm"), replace(problem, network=None), GROUPS)
