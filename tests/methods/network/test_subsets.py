"""Methods that train the network on a part of the rows, against computations of their own."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_score
from torch.nn.functional import cross_entropy

from gsr_core.errors import SettingError
from gsr_core.gradients.representations import residuals
from gsr_core.methods.network.epic import isolated
from gsr_core.methods.network.loop import Loop
from gsr_core.methods.network.s2l import chosen_evenly, scaled_losses, trajectory_clusters
from gsr_core.methods.registry import make_method


def per_cluster(sizes, budget, seed=0):
    """How many of each cluster are chosen, by a shuffled membership."""
    generator = np.random.default_rng(seed)
    cluster = torch.from_numpy(generator.permutation(np.repeat(np.arange(len(sizes)), sizes)))
    chosen = chosen_evenly(cluster, budget, generator)
    return cluster[chosen].bincount(minlength=len(sizes)).tolist()


def test_clusters_give_equally_much_and_small_ones_all():
    assert per_cluster([1000, 10, 100], 90) == [40, 10, 40]
    generator = np.random.default_rng(1)
    for seed in range(20):
        sizes = generator.integers(1, 40, size=12)
        budget = int(generator.integers(1, 300))
        taken = np.array(per_cluster(sizes, budget, seed))
        assert taken.sum() == min(budget, sizes.sum())
        rest = taken[taken < sizes]
        assert not len(rest) or rest.max() - rest.min() <= 1
        # What is taken whole is no larger than what others give.
        assert not len(rest) or taken.max() <= rest.max()


def toy_losses(n=2000, minority=0.05, seed=0):
    """Losses of a linear head in 40 epochs of SGD, and whether attribute and class disagree."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    conflicting = torch.rand(n, generator=generator) < minority
    x = torch.randn(n, 10, generator=generator)
    x[:, 0] += 2 * labels - 1
    x[:, 1] += 3 * torch.where(conflicting, 1 - 2 * labels, 2 * labels - 1)
    head = torch.zeros(2, 10, requires_grad=True)
    optimiser, losses = torch.optim.SGD([head], lr=0.01), []
    for _ in range(40):
        for part in torch.randperm(n, generator=generator).split(100):
            optimiser.zero_grad()
            cross_entropy(x[part] @ head.T, labels[part]).backward()
            optimiser.step()
        losses.append(cross_entropy(x @ head.detach().T, labels, reduction="none"))
    return torch.stack(losses, dim=1).double(), labels, conflicting


def test_clusters_of_losses_find_the_minority():
    losses, labels, conflicting = toy_losses()
    share = float(conflicting.double().mean())
    for k in (5, 20, 100):
        cluster = trajectory_clusters(losses, labels, k, 0)
        assert all(len(labels[cluster == each].unique()) == 1 for each in cluster.unique())
        chosen = chosen_evenly(cluster, 200, np.random.default_rng(0))
        assert int(chosen.sum()) == 200
        assert float(conflicting[chosen].double().mean()) > 4 * share
    assert silhouette_score(losses.numpy(), conflicting.numpy()) > 0.8


def test_rows_that_are_alike_are_one_cluster():
    losses = torch.tensor([[0.0], [0.0], [1.0], [1.0], [1.0], [0.0]])
    labels = torch.tensor([0, 0, 0, 2, 2, 2])
    cluster = trajectory_clusters(losses, labels, 4, 0)
    assert len(cluster.unique()) == 4
    same = (cluster[:, None] == cluster).tolist()
    assert same == ((losses == losses.T) & (labels[:, None] == labels)).tolist()


def test_losses_can_be_clustered_by_their_ratio_or_epoch_by_epoch():
    losses = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([9, 1, 0])
    assert torch.equal(scaled_losses(losses, "raw"), losses.double())
    twice = scaled_losses(2 * losses[:, :2], "log") - scaled_losses(losses[:, :2], "log")
    torch.testing.assert_close(twice, torch.full_like(twice, np.log(2)), rtol=1e-6, atol=1e-6)
    standard = scaled_losses(losses, "standard")
    torch.testing.assert_close(standard.mean(dim=0), torch.zeros(3).double())
    torch.testing.assert_close(standard.square().mean(dim=0), torch.tensor([1, 1, 0]).double())


def test_the_second_network_of_s2l_starts_anew_on_the_subset(make_network_problem):
    problem, _ = make_network_problem()
    settings = {"steps": 4, "first_epochs": 2, "clusters": 4, "budget": 0.25}
    method = make_method("network_s2l", settings)
    start, loop = Loop(method, problem, None), Loop(method, problem, None)
    epochs, losses = method.epochs(loop), []
    for _ in range(2):
        loop.train(next(epochs))
        losses.append(cross_entropy(loop.logits(), loop.labels, reduction="none"))
    epoch = next(epochs)
    assert all(torch.equal(a, b) for a, b in zip(*weights_of(start, loop), strict=True))
    cluster = trajectory_clusters(torch.stack(losses, dim=1).double(), loop.labels, 4, method.seed)
    assert torch.equal(loop.kept["cluster"], cluster)
    rows = np.concatenate(epoch.batches)
    assert len(set(rows.tolist())) == len(rows) == 24
    assert (epoch.values > 0).nonzero().squeeze(1).tolist() == sorted(rows.tolist())
    taken, sizes = cluster[rows].bincount(minlength=8), cluster.bincount(minlength=8)
    assert int((taken[taken < sizes]).max() - (taken[taken < sizes]).min()) <= 1
    assert epoch.note.startswith("24 of 96 samples were chosen, from 8 clusters of ")
    assert set(np.concatenate(next(epochs).batches).tolist()) == set(rows.tolist())


def weights_of(*loops):
    return [loop.learner.weights().values() for loop in loops]


def blobs_and_singletons(seed):
    """Two blobs of 40 points, 3 apart, and five points about 10 away, each on its own."""
    generator = torch.Generator().manual_seed(seed)
    blobs = 0.02 * torch.randn(80, 3, generator=generator, dtype=torch.float64)
    blobs[40:, 0] += 3
    far = 10 * torch.cat([torch.eye(3), -torch.eye(3)[:2]]).double()
    far += torch.randn(5, 3, generator=generator, dtype=torch.float64)
    return torch.cat([blobs, far])


def test_points_that_are_alone_are_found_and_no_others():
    for seed in range(20):
        points = blobs_and_singletons(seed)
        alone = isolated(points, torch.zeros(85, dtype=torch.int64), 7 / 85)
        assert alone.nonzero().squeeze(1).tolist() == [80, 81, 82, 83, 84]


def test_classes_are_looked_at_by_themselves_and_copies_are_not_alone():
    points = blobs_and_singletons(0)
    labels = torch.zeros(85, dtype=torch.int64)
    labels[80:] = torch.arange(1, 6)
    # A point that is all of its class has nothing to be far from.
    assert not isolated(points, labels, 0.1).any()
    twice = torch.cat([points, points[80:]])
    alone = isolated(twice, torch.zeros(90, dtype=torch.int64), 12 / 90)
    assert not alone[80:].any()
    assert isolated(points, torch.zeros(85, dtype=torch.int64), 0.999).sum() == 84 - 1


def epic(make_network_problem, **changed):
    problem, _ = make_network_problem()
    method = make_method(
        "network_epic", {"steps": 6, "warmup": 2, "every": 2, "medoids": 0.25, **changed}
    )
    loop = Loop(method, problem, None)
    return loop, method.epochs(loop)


def test_epic_drops_isolated_medoids_after_the_warmup_and_every_few_epochs(
    make_network_problem,
):
    loop, epochs = epic(make_network_problem)
    dropped = torch.zeros(96, dtype=torch.bool)
    for number in range(6):
        if number in (2, 4):
            left = (~dropped).nonzero().squeeze(1)
            labels = loop.labels[left]
            # The same rounding, since two medoids may be as good as each other.
            found = left[isolated(residuals(loop.logits(left.numpy()), labels), labels, 0.25)]
            assert len(found) > 0
            dropped[found] = True
        epoch = next(epochs)
        rows = np.sort(np.concatenate(epoch.batches))
        np.testing.assert_array_equal(rows, (~dropped).nonzero().squeeze(1))
        if number < 2:
            assert epoch.values is None
            assert epoch.note == "Nothing is dropped before epoch 3."
        else:
            torch.testing.assert_close(epoch.values, (~dropped) / (~dropped).sum())
            assert epoch.note == f"{int(dropped.sum())} of 96 samples are dropped as isolated."
        loop.train(epoch)


def test_dropped_samples_may_come_back_if_asked(make_network_problem):
    for for_good in (True, False):
        loop, epochs = epic(make_network_problem, every=1, for_good=for_good)
        active = []
        for _ in range(6):
            loop.train(next(epochs))
            active.append(loop.kept["active"])
        back = any(bool((later & ~earlier).any()) for earlier, later in itertools.pairwise(active))
        assert back != for_good


def test_a_warmup_of_all_epochs_is_refused():
    with pytest.raises(SettingError, match="warmup is 10 of 10 steps"):
        make_method("network_epic", {"steps": 10}).check()
