import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from gsr_core.inference.agreement import agreement
from gsr_core.inference.george import GeorgeInference


@pytest.fixture
def planted(make_rows, make_problem):
    """Class 0 in two blobs of ten columns, class 1 in three."""

    def planted(sizes=(60, 30, 40, 30, 20)):
        rng = np.random.default_rng(0)
        centres = 4 * rng.normal(size=(5, 10))

        def rows(scale):
            group = np.repeat(np.arange(5), [max(1, size // scale) for size in sizes])
            features = centres[group] + 0.5 * rng.normal(size=(len(group), 10))
            return make_rows(features, (group > 1).astype(int), group)

        return make_problem(rows(1), rows(4), rows(4))

    return planted


def test_planted_blobs_are_found_in_every_split(planted):
    problem = planted()
    found = GeorgeInference().infer(problem)
    assert [name.split(",")[0] for name in found.names] == ["class 0"] * 2 + ["class 1"] * 3
    for split in ("weighted", "target", "val"):
        true = getattr(problem, split).groups.cpu().numpy()
        assert agreement(getattr(found, split), true).ari == 1
    table = found.candidates
    best = table.loc[table.groupby("class")["silhouette"].idxmax()]
    assert best["chosen"].all()
    assert best["clusters"].tolist() == [2, 3]


def test_the_unit_of_the_features_does_not_matter(planted):
    problem = planted()
    found = GeorgeInference().infer(problem)
    for unit in (1e-4, 1e4):
        scaled = {
            split: replace(getattr(problem, split), source=unit * getattr(problem, split).features)
            for split in ("weighted", "target", "val")
        }
        again = GeorgeInference().infer(replace(problem, **scaled))
        np.testing.assert_array_equal(again.weighted, found.weighted)


def test_a_cluster_is_cut_finer_only_where_a_part_is_tighter_and_its_loss_higher(
    make_rows, make_problem
):
    rng = np.random.default_rng(1)
    place = np.repeat([0.0, 3.0, 8.0, 11.0, -30.0], 40)  # two pairs, and the other class
    features = np.stack([place, np.zeros(200)], axis=1) + 0.1 * rng.normal(size=(200, 2))
    labels = (place < -20).astype(np.int64)
    rows = make_rows(features, labels, labels)
    problem = make_problem(rows, rows, rows)
    pairs = np.repeat([0, 0, 1, 1], 40)

    def clusters(head, **settings):
        seen = replace(problem, backbone_head=head)
        return (
            GeorgeInference(max_clusters=2, reduce="pca", **settings)
            .infer(seen)
            .weighted[labels == 0]
        )

    rising = (torch.tensor([[-2.0, 0.0], [0.0, 0.0]]), torch.zeros(2))
    low_everywhere = (torch.zeros(2, 2), torch.zeros(2))
    assert agreement(clusters(low_everywhere), pairs[:, None] == np.arange(2)).ari == 1
    assert (
        agreement(clusters(low_everywhere, overcluster=2), pairs[:, None] == np.arange(2)).ari == 1
    )
    # The loss rises with the place: of each pair the farther half is cut off.
    halves = np.repeat([0, 1, 2, 3], 40)[:, None] == np.arange(4)
    assert agreement(clusters(rising, overcluster=2), halves).ari == 1


def test_umap_finds_the_blobs_too(planted):
    problem = planted((24, 16, 24, 16, 16))
    with warnings.catch_warnings():
        # umap and numba warn of their own use of other libraries.
        warnings.simplefilter("ignore")
        found = GeorgeInference(reduce="umap").infer(problem)
        moved = replace(problem.val, source=problem.val.features + 3)
        other = GeorgeInference(reduce="umap").infer(replace(problem, val=moved))
    for split in ("weighted", "target", "val"):
        true = getattr(problem, split).groups.cpu().numpy()
        assert agreement(getattr(found, split), true).ari > 0.9
    np.testing.assert_array_equal(other.weighted, found.weighted)
