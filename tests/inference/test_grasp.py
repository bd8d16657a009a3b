import re
from dataclasses import replace

import numpy as np
import pytest
from sklearn.cluster import DBSCAN
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.metrics.pairwise import cosine_distances, euclidean_distances

from gsr_core.errors import SettingError
from gsr_core.gradients.representations import gradient_representation
from gsr_core.inference import grasp
from gsr_core.inference.agreement import agreement
from gsr_core.inference.base import OUTLIER
from gsr_core.inference.grasp import FeaspInference, GraspInference

CENTRES = [(1, 5), (1, 3), (1, 2), (1, 1), (0, 4), (0, 5), (0, 3), (0, 2), (0, 1), (1, 4)]
GROUPS = [0, 0, 0, 0, 1, 2, 2, 2, 2, 3]


@pytest.fixture
def synthetic(make_rows, make_problem):
    """The paper's set: ten Gaussians in the plane, each class with one on the other's side."""

    def synthetic(seed=0, each=100, flipped=0.0):
        rng = np.random.default_rng(seed)
        group = np.repeat(GROUPS, each)
        features = np.repeat(np.array(CENTRES, float), each, axis=0)
        features += 0.1 * rng.normal(size=features.shape)
        labels = np.where(rng.random(len(group)) < flipped, 1 - group // 2, group // 2)
        order = rng.permutation(len(group))
        parts = np.split(order, [8 * each, 9 * each])
        return make_problem(
            *(make_rows(features[part], labels[part], _one_hot(group[part])) for part in parts)
        )

    return synthetic


def _one_hot(group):
    return group[:, None] == np.arange(4)


def ari(inference, problem) -> float:
    found = inference.infer(problem).weighted
    return agreement(found, problem.weighted.groups.cpu().numpy()).ari


@pytest.mark.parametrize("flipped", [0.0, 0.05])
def test_gradients_tell_the_synthetic_groups_far_better_than_features(synthetic, flipped):
    problem = synthetic(flipped=flipped)
    assert ari(GraspInference(), problem) > ari(FeaspInference(), problem) + 0.2


def test_rows_of_the_other_splits_join_the_nearest_core_or_none(synthetic):
    problem = synthetic(each=50)
    weighted, val = problem.weighted, problem.val
    # The rows of val are those of weighted, so that they have a core sample at no distance.
    copies = replace(
        val,
        **{name: getattr(weighted, name) for name in ("source", "labels", "groups", "position")},
    )
    found = GraspInference().infer(replace(problem, val=copies))
    kept = found.weighted != OUTLIER
    assert 0 < kept.mean() < 1
    np.testing.assert_array_equal(found.val[kept], found.weighted[kept])
    assert agreement(found.target, problem.target.groups.cpu().numpy()).ari > 0.6


def test_a_large_class_is_clustered_in_part_and_the_rest_joins(synthetic):
    problem = synthetic()
    whole, part = GraspInference().infer(problem), GraspInference(class_limit=150).infer(problem)
    true = problem.weighted.groups.cpu().numpy()
    assert agreement(part.weighted, true).ari > 0.6
    assert (part.weighted != OUTLIER).mean() > 0.75
    assert part.choice.endswith("clustered on 150 rows of a class")
    assert "rows of a class" not in whole.choice


def test_the_choice_is_the_best_silhouette_within_the_cap_on_outliers(synthetic):
    problem = synthetic(each=50)
    for cap in (0.05, 0.2, 1.0):
        table = GraspInference(max_outliers=cap).infer(problem).candidates
        assert len(table) == 2 * len(grasp.RADII) * len(grasp.DENSITIES)
        for label, tried in table.groupby("class"):
            allowed = tried[(tried["outliers"] <= cap) & (tried["clusters"] >= 2)]
            chosen = tried[tried["chosen"]]
            assert len(chosen) == (1 if len(allowed) else 0), label
            if len(allowed):
                assert chosen["silhouette"].iloc[0] == allowed["silhouette"].max()
        assert (table.loc[table["clusters"] < 2, "silhouette"] == -1).all()


def test_where_nothing_is_left_to_choose_a_class_stays_whole(synthetic):
    problem = synthetic(each=3)  # fewer samples than a core sample has neighbours
    found = GraspInference().infer(problem)
    assert found.names == ("class 0, cluster 0", "class 1, cluster 0")
    assert found.n_outliers == 0
    np.testing.assert_array_equal(found.val, problem.val.labels.cpu().numpy())


def test_the_whole_choice_is_that_of_scikit_learn_on_explicit_gradients(synthetic):
    problem = synthetic(each=30)
    head = GraspInference().head(problem)
    labels = problem.weighted.labels
    unit = gradient_representation(
        head, problem.weighted.features.double(), labels, rank=None, centred=True, unit=True
    )
    found = GraspInference().infer(problem)
    for label, tried in found.candidates.groupby("class"):
        own = (labels == label).cpu().numpy()
        distance = cosine_distances(unit[own].cpu().numpy())
        for row in tried.itertuples():
            model = DBSCAN(eps=row.eps, min_samples=row.m + 1, metric="precomputed")
            expected = model.fit(distance).labels_
            assert row.clusters == expected.max() + 1
            assert row.outliers == pytest.approx((expected == OUTLIER).mean())
            if row.chosen:
                core = np.zeros(len(expected), dtype=bool)
                core[model.core_sample_indices_] = True
                ours = found.weighted[own]
                assert adjusted_rand_score(ours[core], expected[core]) == 1
                np.testing.assert_array_equal(ours == OUTLIER, expected == OUTLIER)


def test_euclidean_clusters_are_scikit_learns_at_the_radius_in_that_unit(synthetic):
    problem = synthetic(each=30)
    table = FeaspInference(metric="euclidean").infer(problem).candidates
    labels = problem.weighted.labels.cpu().numpy()
    several = 0
    for label, tried in table.groupby("class"):
        rows = problem.weighted.features.double().cpu().numpy()[labels == label]
        unit = np.sqrt(np.mean(euclidean_distances(rows, squared=True)))
        for row in tried.itertuples():
            model = DBSCAN(eps=np.sqrt(row.eps) * unit, min_samples=row.m + 1)
            expected = model.fit(rows).labels_
            assert row.clusters == expected.max() + 1
            assert row.outliers == pytest.approx((expected == OUTLIER).mean())
            if row.clusters > 1:
                kept = expected != OUTLIER
                score = silhouette_score(rows[kept], expected[kept])
                assert row.silhouette == pytest.approx(score, abs=0.02)
                several += 1
    assert several > 5


def test_what_would_not_fit_is_refused_before_it_starts_with_what_fits(synthetic):
    problem = synthetic(each=100)
    sizes, limited = [400, 400], GraspInference(memory_gb=0.005, class_limit=400)
    with pytest.raises(SettingError, match=r"400 rows .* memory_gb allows 0\.005; lower") as error:
        limited.infer(problem)
    fits = int(re.search(r"class_limit to (\d+)", str(error.value))[1])
    assert 100 <= fits < 400
    more = float(re.search(r"memory_gb to ([\d.]+)", str(error.value))[1])
    for inference in (
        GraspInference(memory_gb=0.005, class_limit=fits),
        GraspInference(memory_gb=more, class_limit=400),
    ):
        assert inference.predicted_bytes(sizes, 2, 2) <= inference.memory_gb * 2**30
        assert inference.infer(problem).n_groups >= 2
    with pytest.raises(SettingError, match=r"allows 0\.0001; raise memory_gb to"):
        GraspInference(memory_gb=0.0001).infer(problem)


def test_the_prediction_counts_what_is_stored():
    inference = GraspInference(class_limit=20_000)
    one, two = (inference.predicted_bytes([n, 10], 512, 2) for n in (10_000, 20_000))
    assert one > 4 * 10_000**2
    assert two - one > 4 * (20_000**2 - 10_000**2)
    assert two < 4 * 20_000**2 * 1.5
    # The largest class counts, and not more of it than is clustered.
    assert inference.predicted_bytes([10, 10_000], 512, 2) == one
    assert inference.predicted_bytes([50_000, 50_000], 512, 2) == two


def test_silhouettes_differ_as_their_settings_say(synthetic):
    problem = synthetic(each=40)
    tables = [
        GraspInference(silhouette=distance, count_outliers=count).infer(problem).candidates
        for distance in ("cosine", "euclidean")
        for count in (False, True)
    ]
    two = (tables[0]["clusters"] >= 2) & (tables[0]["outliers"] > 0)
    scores = np.stack([table.loc[two, "silhouette"] for table in tables])
    assert two.any()
    assert all(np.abs(scores[a] - scores[b]).min() > 1e-6 for a in range(4) for b in range(a))
