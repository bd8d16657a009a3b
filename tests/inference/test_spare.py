from dataclasses import replace

import numpy as np
import pytest
import torch

from gsr_core.inference.agreement import agreement
from gsr_core.inference.spare import SpareInference


@pytest.fixture
def toy(make_rows, make_problem):
    """The toy of the theory: 5 % of each class have the other class's attribute."""

    def toy(noise=1.0, shift=10, n=600, d=6):
        rng = np.random.default_rng(0)

        def rows(size):
            labels = np.arange(size) % 2
            minority = np.arange(size) % 40 >= 38
            attribute = np.where(minority, 1 - labels, labels)
            features = rng.normal(size=(size, d))
            features[:, 0] += 2 * labels - 1
            features[:, 1] = shift * (2 * attribute - 1) + noise * features[:, 1]
            return make_rows(features, labels, 2 * labels + attribute)

        return make_problem(rows(n), rows(80), rows(80))

    return toy


def test_early_outputs_find_the_minority_of_every_split(toy):
    problem = toy()
    found = SpareInference(early_steps=1).infer(problem)
    for split in ("weighted", "target", "val"):
        true = getattr(problem, split).groups.cpu().numpy()
        assert agreement(getattr(found, split), true).ari == 1
    chosen = found.candidates[found.candidates["chosen"]]
    assert (chosen["clusters"] == 2).all()
    assert (chosen["silhouette"] >= 0.9).all()


def test_noise_takes_the_silhouette_below_the_threshold(toy):
    found = SpareInference(early_steps=1).infer(toy(noise=3, shift=6))
    chosen = found.candidates[found.candidates["chosen"]]
    assert (chosen["silhouette"] < 0.9).all()


def test_known_sizes_are_recovered(make_rows, make_problem):
    rng = np.random.default_rng(1)
    group = np.repeat([0, 1, 2, 3], [190, 20, 10, 220])
    centre = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [30.0, 30.0]])[group]
    rows = make_rows(centre + 0.1 * rng.normal(size=centre.shape), group // 3, group)
    own = (torch.eye(2), torch.zeros(2))
    problem = replace(make_problem(rows, rows, rows), backbone_head=own)
    found = SpareInference(clustered="backbone").infer(problem)
    assert np.bincount(found.weighted[group < 3]).tolist() == [190, 20, 10]
    best = found.candidates.query("`class` == 0 and chosen").iloc[0]
    assert best["clusters"] == 3
    assert best["silhouette"] > 0.9


def test_the_number_of_steps_is_that_of_the_best_mean_silhouette(toy):
    table = SpareInference(early_steps=8, max_clusters=3).infer(toy(noise=3, shift=6)).candidates
    assert sorted(table["steps"].unique()) == [1, 2, 4, 8]
    mean = table.groupby(["steps", "class"])["silhouette"].max().groupby("steps").mean()
    chosen = table[table["chosen"]]
    assert set(chosen["steps"]) == {mean.idxmax()}
    assert sorted(chosen["class"]) == [0, 1]


def test_a_class_of_equal_outputs_stays_whole(blobs):
    head = (torch.zeros(2, 3), torch.zeros(2))
    found = SpareInference(clustered="backbone").infer(replace(blobs, backbone_head=head))
    assert found.names == ("class 0, cluster 0", "class 1, cluster 0")
    assert found.choice == "no class could be split"
    assert found.candidates.empty
