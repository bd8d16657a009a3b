from dataclasses import replace

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from gsr_core.gradients.representations import gradients
from gsr_core.inference import kmeans
from gsr_core.inference.agreement import agreement
from gsr_core.inference.kmeans import KmeansInference, best_centres
from gsr_core.inference.references import reference_head


def test_each_class_is_split_as_scikit_learn_splits_its_raw_rows(blobs):
    found = KmeansInference(space="features").infer(blobs)
    labels = blobs.weighted.labels.cpu().numpy()
    features = blobs.weighted.features.cpu().numpy()
    assert found.n_groups == 4
    for label in (0, 1):
        own = KMeans(2, n_init=10, random_state=0).fit(features[labels == label])
        assert adjusted_rand_score(own.labels_, found.weighted[labels == label]) == 1
        in_val = blobs.val.labels.cpu().numpy() == label
        expected = own.predict(blobs.val.features.cpu().numpy()[in_val])
        assert adjusted_rand_score(expected, found.val[in_val]) == 1
    assert (found.weighted >= 0).all()
    assert found.choice == "2 clusters of each class, as set"


@pytest.mark.parametrize("space", ["features", "gradients", "logits"])
def test_a_clear_shortcut_is_found_in_every_space(space, blobs):
    found = KmeansInference(space=space).infer(blobs)
    for split in ("weighted", "val"):
        true = getattr(blobs, split).groups.cpu().numpy()
        assert agreement(getattr(found, split), true).ari > 0.5


def test_gradients_are_not_centred(blobs):
    head = reference_head(blobs, "converged", 1e-4)
    own = gradients(head, blobs.weighted.features, blobs.weighted.labels).columns().cpu().numpy()
    labels = blobs.weighted.labels.cpu().numpy()
    found = KmeansInference().infer(blobs).weighted
    for label in (0, 1):
        expected = KMeans(2, n_init=10, random_state=0).fit_predict(own[labels == label])
        assert adjusted_rand_score(expected, found[labels == label]) == 1


def test_a_projection_that_leaves_nothing_out_changes_nothing(make_rows, make_problem):
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3
    plane = rng.normal(size=(120, 2)) + 6 * (np.arange(120)[:, None] % 2)
    features = plane @ rng.normal(size=(2, 30))
    rows = make_rows(features, labels, labels)
    problem = make_problem(rows, rows, rows, n_classes=3)
    # Gradients of (K - 1)(d + 1) = 62 columns, of which 2 x 3 are independent.
    whole = KmeansInference(dimensions=62).infer(problem)
    part = KmeansInference(dimensions=6).infer(problem)
    for split in ("weighted", "target", "val"):
        assert adjusted_rand_score(getattr(whole, split), getattr(part, split)) == 1


def test_the_number_of_clusters_can_be_chosen_by_the_silhouette(make_rows, make_problem):
    rng = np.random.default_rng(1)
    group = np.repeat([0, 1, 2, 3, 4], [90, 20, 30, 50, 60])
    centre = np.array([[0, 0], [9, 0], [0, 9], [40, 0], [40, 9]])[group]
    rows = make_rows(centre + 0.2 * rng.normal(size=centre.shape), group // 3, group)
    problem = make_problem(rows, rows, rows)
    found = KmeansInference(space="features", clusters=0).infer(problem)
    assert agreement(found.weighted, rows.groups.cpu().numpy()).ari == 1
    chosen = found.candidates[found.candidates["chosen"]]
    assert chosen["clusters"].tolist() == [3, 2]
    assert "chose 3 clusters in class 0" in found.choice
    assert len(found.candidates) == 8


def test_a_cluster_that_no_scored_row_is_in_has_no_silhouette_but_is_no_error(monkeypatch):
    monkeypatch.setattr(kmeans, "_SILHOUETTE_ROWS", 3)
    places = np.r_[np.zeros((99, 1)) + 0.01 * np.arange(99)[:, None], [[1000.0]]]
    found = best_centres(places, range(2, 4), seed=0)
    assert found.silhouettes[2] == -1
    assert found.k >= 2


def test_a_class_of_equal_rows_stays_whole(blobs):
    weighted = replace(blobs.weighted, source=blobs.weighted.features * 0 + 1)
    found = KmeansInference(space="features").infer(replace(blobs, weighted=weighted))
    assert found.names == ("class 0, cluster 0", "class 1, cluster 0")
