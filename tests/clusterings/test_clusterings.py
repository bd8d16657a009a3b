"""Clusterings on disk, what is read off them, and what is made of them."""

import numpy as np
import pandas as pd
import pytest

from gsr_core.clusterings.compute import compute_clustering
from gsr_core.clusterings.describe import (
    cluster_table,
    clusters_as_bundle,
    describe_clusters,
    flag_outliers,
    strips,
)
from gsr_core.clusterings.edit import merge_clusters, rename_cluster
from gsr_core.clusterings.request import request_clustering, request_of_run
from gsr_core.clusterings.store import UNASSIGNED, list_clusterings, open_clustering
from gsr_core.compute import pick
from gsr_core.curation.flags import flagged
from gsr_core.data.bundle import open_bundle
from gsr_core.data.problem import load_problem
from gsr_core.errors import BundleError, RunNotFoundError, SettingError
from gsr_core.inference.base import OUTLIER
from gsr_core.inference.registry import INFERENCES, make_inference
from gsr_core.runs.execute import continue_run, execute
from gsr_core.runs.execute import run as compute_run
from gsr_core.runs.samples import sample_table
from gsr_core.runs.store import create_run

# Small enough for the forty weighted rows of `tiny`.
SETTINGS = {
    "grasp": {"max_outliers": 1.0},
    "feasp": {"max_outliers": 1.0},
    "hdbscan": {"min_cluster_size": 5, "density": 2},
    "george": {"max_clusters": 3},
}


@pytest.fixture
def tiny(workspace):
    return open_bundle(workspace, "tiny")


@pytest.fixture
def clustered(workspace, tiny):
    """Compute a clustering of `tiny`; two means of each class unless told otherwise."""

    def clustered(inference="kmeans", bundle=tiny, **settings):
        return compute_clustering(
            workspace, request_clustering(workspace, bundle, inference, settings)
        )

    return clustered


def with_outliers(clustered):
    """A clustering in which some rows are outliers and some are not."""
    found = clustered("hdbscan", min_cluster_size=3, density=1)
    share = found.record.outliers
    assert 0 < share < 1
    return found


@pytest.mark.parametrize("inference", INFERENCES)
def test_the_weighted_rows_have_the_groups_that_the_inference_gives_them(
    workspace, tiny, clustered, inference
):
    settings = SETTINGS.get(inference, {})
    found = clustered(inference, **settings)
    problem, _ = load_problem(tiny, pick("cpu"))
    expected = make_inference(inference, settings).infer(problem)
    for split in ("weighted", "target"):
        rows = getattr(problem, split).position
        np.testing.assert_array_equal(found.clusters_of(rows), getattr(expected, split))
    assert found.record.choice == expected.choice
    assert len(found.names) == expected.n_groups


def test_every_row_is_assigned_once_within_its_class(tiny, clustered):
    found = clustered()
    table = found.assigned()
    np.testing.assert_array_equal(table["row"], np.arange(len(tiny)))
    classes = np.array(found.record.classes)
    np.testing.assert_array_equal(classes[table["cluster"]], tiny.y)
    for cluster, name in found.names.items():
        assert name.startswith(tiny.manifest.classes[classes[cluster]] + ", ")


def test_what_is_only_assigned_and_the_group_labels_decide_nothing(workspace, tiny, write):
    """The rows of test move, and all groups are shuffled: the weighted rows cluster as before."""
    features = np.array(tiny.features)
    features[tiny.rows_of["test"]] += 5
    order = np.random.default_rng(0).permutation(len(tiny))
    changed = write(workspace, "changed", features=features, membership=tiny.membership[order])
    rows = tiny.rows_of["heldout"]
    for inference in ("grasp", "kmeans", "spare"):
        settings = SETTINGS.get(inference, {})
        one, other = (
            compute_clustering(
                workspace, request_clustering(workspace, bundle, inference, settings)
            )
            for bundle in (tiny, changed)
        )
        np.testing.assert_array_equal(one.clusters_of(rows), other.clusters_of(rows))
        assert one.record.choice == other.record.choice
        assert one.record.agreement["ari"] != other.record.agreement["ari"]


def test_a_request_is_computed_once_and_kept_by_all_that_it_depends_on(
    workspace, tiny, clustered, write
):
    one = clustered()
    before = one.path.stat().st_mtime_ns
    assert clustered().path == one.path
    assert one.path.stat().st_mtime_ns == before
    others = [clustered(seed=1), clustered(space="features"), clustered("spare")]
    assert len({each.name for each in [one, *others]}) == 4
    assert {each.name for each in list_clusterings(workspace, tiny)} == {
        each.name for each in [one, *others]
    }
    other = write(workspace, "other", seed=1)
    assert list_clusterings(workspace, other) == []
    assert request_clustering(workspace, other, "kmeans").name != one.name


def test_the_middle_of_a_cluster_is_nearest_to_its_mean_direction(tiny, clustered):
    """Independent of the implementation: explicit directions of features, class means away."""
    found = clustered(space="features")
    table = found.assigned()
    features = tiny.features.astype(np.float64)
    means = np.array([features[tiny.y == label].mean(axis=0) for label in range(2)])
    directions = features - means[tiny.y]
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    for cluster in found.names:
        inside = (table["cluster"] == cluster).to_numpy()
        mean = directions[inside].mean(axis=0)
        expected = directions[inside] @ (mean / np.linalg.norm(mean))
        np.testing.assert_allclose(table["central"][inside], expected, atol=1e-5)
    near, far = strips(found, 0, tiny.rows_of["test"], 3)
    central = table.set_index("row")["central"]
    inside = [row for row in tiny.rows_of["test"] if table["cluster"][row] == 0]
    assert sorted(inside, key=lambda row: -central[row])[:3] == near.tolist()
    assert sorted(inside, key=lambda row: central[row])[:3] == far.tolist()


def test_a_small_cluster_shows_no_sample_twice(tiny, clustered):
    found = clustered()
    rows = found.assigned().query("cluster == 0")["row"].to_numpy()[:5]
    near, far = strips(found, 0, rows, 4)
    assert sorted([*near, *far]) == sorted(rows)


def test_the_table_says_what_pandas_says(workspace, tiny, clustered):
    found = with_outliers(clustered)
    made = compute_run(workspace, "tiny", "erm", device="cpu")
    samples = sample_table(made, "test")
    table = cluster_table(found, samples, tiny).set_index("cluster")
    assert table.index[-1] == OUTLIER
    joined = samples.merge(found.assigned(), on="row")
    joined["wrong"] = ~joined["correct"]
    rate = joined.groupby("group")["wrong"].mean()
    worst = joined[joined["group"] == rate.idxmax()]
    for cluster, part in joined.groupby("cluster"):
        row = table.loc[cluster]
        assert row["size"] == len(part)
        assert row["accuracy"] == pytest.approx(part["correct"].mean())
        assert row["loss"] == pytest.approx(part["loss"].mean())
        counts = part["group"].value_counts()
        assert counts[row["majority"]] == counts.max()
        assert row["purity"] == pytest.approx(counts.max() / len(part))
        errors = worst.loc[worst["cluster"] == cluster, "wrong"].sum() / worst["wrong"].sum()
        assert row["worst_errors"] == pytest.approx(errors)
    assert table["size"].sum() == len(samples)
    assert table["share"].sum() == pytest.approx(1)
    assert table["worst_errors"].sum() == pytest.approx(1)
    assert "weight" not in table


def test_the_mean_weight_is_there_where_samples_carry_weights(workspace, tiny, clustered):
    found = clustered()
    made = compute_run(workspace, "tiny", "gsr", device="cpu", steps=5)
    samples = sample_table(made, "heldout")
    table = cluster_table(found, samples, tiny)
    assert (table["weight"] * table["size"]).sum() == pytest.approx(len(samples))


def test_a_run_that_infers_groups_has_the_clusters_that_it_trained_with(workspace, tiny):
    made = compute_run(workspace, "tiny", "spare", device="cpu", seed=3)
    found = compute_clustering(workspace, request_of_run(made))
    weights = made.weights()
    np.testing.assert_array_equal(
        found.clusters_of(tiny.rows_of["heldout"]), weights["inferred_group"]
    )
    assert request_of_run(compute_run(workspace, "tiny", "erm", device="cpu")) is None


def test_the_head_of_a_run_takes_the_place_of_the_backbones(workspace, tiny):
    made = compute_run(workspace, "tiny", "gsr", device="cpu", steps=5)
    own, of_run = (
        compute_clustering(
            workspace,
            request_clustering(workspace, tiny, "kmeans", {"reference": "backbone"}, run=each),
        )
        for each in (None, made)
    )
    assert own.name != of_run.name
    assert not np.allclose(own.assigned()["gradient_norm"], of_run.assigned()["gradient_norm"])


def test_a_run_that_went_on_has_other_clusters_and_a_head_not_looked_at_is_refused(workspace, tiny):
    made = compute_run(workspace, "tiny", "gsr", device="cpu", steps=2)
    looked = {"reference": "backbone"}
    before = request_clustering(workspace, tiny, "kmeans", looked, run=made)
    continue_run(made, 8)
    execute(made)
    after = request_clustering(workspace, tiny, "kmeans", looked, run=made)
    assert before.head != after.head
    assert before.name != after.name
    with pytest.raises(SettingError, match="has gone on"):
        compute_clustering(workspace, before)
    for inference, settings in (
        ("grasp", {}),
        ("feasp", {}),
        ("george", looked),
        ("kmeans", {**looked, "space": "features"}),
    ):
        with pytest.raises(SettingError, match="does not look at the backbone's head"):
            request_clustering(workspace, tiny, inference, settings, run=made)


def test_a_cluster_of_noisy_labels_has_the_class_that_was_seen(workspace, tiny):
    run = create_run(
        workspace, "tiny", "spare", {"seed": 1}, device="cpu", variation={"label_noise": 0.4}
    )
    execute(run)
    found = compute_clustering(workspace, request_of_run(run))
    seen = sample_table(run, "heldout")["label seen"].to_numpy()
    classes = np.array(found.record.classes)[found.clusters_of(tiny.rows_of["heldout"])]
    np.testing.assert_array_equal(classes, seen)
    assert len(set(found.names.values())) == len(found.names)


def test_clusters_of_a_run_that_saw_other_groups_are_compared_with_those_of_the_bundle(
    workspace, tiny
):
    seen = {"seen_groups": ["class"]}
    run = compute_run(workspace, "tiny", "spare", device="cpu", variation=seen)
    found = compute_clustering(workspace, request_of_run(run))
    weights = run.weights()
    np.testing.assert_array_equal(
        found.clusters_of(tiny.rows_of["heldout"]), weights["inferred_group"]
    )
    groups = [each["group"] for each in found.record.agreement["groups"]]
    assert set(groups) == set(tiny.group_names)
    assert "seen groups class" in found.label


def test_a_row_that_was_not_looked_at_is_in_no_cluster_and_no_outlier(workspace, tiny, clustered):
    found = clustered()
    table = pd.read_parquet(found.path / "assigned.parquet")
    lost = tiny.rows_of["test"][:7]
    table[~table["row"].isin(lost)].to_parquet(found.path / "assigned.parquet")
    assert (found.clusters_of(lost) == UNASSIGNED).all()
    made = compute_run(workspace, "tiny", "erm", device="cpu")
    rows = cluster_table(found, sample_table(made, "test"), tiny)
    assert OUTLIER not in rows["cluster"].tolist()
    assert rows["size"].sum() == len(tiny.rows_of["test"]) - 7


def test_norms_are_those_of_explicit_gradients(workspace, tiny):
    made = compute_run(workspace, "tiny", "erm", device="cpu")
    found = compute_clustering(
        workspace,
        request_clustering(workspace, tiny, "kmeans", {"reference": "backbone"}, run=made),
    )
    weight, bias = made.head()
    features = tiny.features.astype(np.float64)
    logits = features @ weight.T + bias
    probability = np.exp(logits - logits.max(axis=1, keepdims=True))
    probability /= probability.sum(axis=1, keepdims=True)
    residual = probability - np.eye(2)[tiny.y]
    design = np.hstack([features, np.ones((len(features), 1))])
    explicit = (residual[:, :, None] * design[:, None, :]).reshape(len(features), -1)
    np.testing.assert_allclose(
        found.assigned()["gradient_norm"], np.linalg.norm(explicit, axis=1), rtol=1e-5
    )


# Changing -------------------------------------------------------------------------------------


def test_clusters_are_renamed_and_merged_and_stay_so(workspace, tiny, clustered):
    found = clustered()
    table = found.assigned()
    same = [key for key, label in enumerate(found.record.classes) if label == 0]
    one, other = same[:2]
    rename_cluster(found, one, "  birds on water ")
    merge_clusters(found, one, other)
    again = open_clustering(workspace, found.name)
    assert again.names[one] == "birds on water"
    assert other not in again.names
    sizes = table["cluster"].value_counts()
    assert (again.assigned()["cluster"] == one).sum() == sizes[one] + sizes[other]
    assert set(again.assigned()["cluster"]) == set(again.names)


def test_merging_twice_follows_the_chain(clustered):
    found = clustered(clusters=3)
    a, b, c = [key for key, label in enumerate(found.record.classes) if label == 0]
    merge_clusters(found, b, c)
    merge_clusters(found, a, b)
    assert {b, c}.isdisjoint(found.assigned()["cluster"])
    assert found.names.keys() == {a, *(k for k, y in enumerate(found.record.classes) if y == 1)}


def test_what_cannot_be_changed_is_told(clustered):
    found = clustered()
    zero, one = (found.record.classes.index(label) for label in (0, 1))
    taken = found.names[one]
    for change, said in (
        (lambda: rename_cluster(found, zero, " "), "has 0 characters"),
        (lambda: rename_cluster(found, zero, "x" * 61), "has 61 characters"),
        (lambda: rename_cluster(found, zero, taken), "is called"),
        (lambda: rename_cluster(found, zero, "a\ud800"), "no text that UTF-8 can write"),
        (lambda: rename_cluster(found, zero, "outliers"), "another name"),
        (lambda: rename_cluster(found, 99, "x"), "no cluster 99"),
        (lambda: merge_clusters(found, zero, one), "different classes"),
        (lambda: merge_clusters(found, zero, zero), "with itself"),
    ):
        with pytest.raises(SettingError, match=said):
            change()
    assert not (found.path / "edits.json").exists()


def test_what_cannot_be_asked_for_is_told(workspace, tiny, write):
    other = write(workspace, "other", seed=1)
    with pytest.raises(SettingError, match="did you mean 'grasp'"):
        request_clustering(workspace, tiny, "grsp")
    with pytest.raises(SettingError, match="no setting 'epsilon'"):
        request_clustering(workspace, tiny, "grasp", {"epsilon": 1})
    made = compute_run(workspace, "other", "erm", device="cpu")
    with pytest.raises(BundleError, match="made on other data"):
        request_clustering(workspace, tiny, "grasp", run=made)
    with pytest.raises(RunNotFoundError, match="'gsr cluster' begins one"):
        open_clustering(workspace, "nothing")
    for name in ("../runs", "", "."):
        with pytest.raises(RunNotFoundError):
            open_clustering(workspace, name)
    request = request_clustering(workspace, other, "kmeans")
    write(workspace, "other", seed=2, overwrite=True)
    with pytest.raises(BundleError, match="has changed"):
        compute_clustering(workspace, request)
    assert not workspace.clusterings.exists() or not list(workspace.clusterings.glob("[!.]*"))


# Using ----------------------------------------------------------------------------------------


def test_clusters_become_the_groups_of_a_bundle_that_shares_the_features(
    workspace, tiny, clustered
):
    found = clustered()
    rename_cluster(found, 0, "renamed")
    made = clusters_as_bundle(found, "by-cluster")
    assert made.group_names == list(found.names.values())
    np.testing.assert_array_equal(
        made.membership.argmax(axis=1), found.clusters_of(np.arange(len(tiny)))
    )
    assert (made.path / "features.npy").stat().st_ino == (tiny.path / "features.npy").stat().st_ino
    made.verify()
    pd.testing.assert_frame_equal(made.samples, tiny.samples)
    trained = compute_run(workspace, "by-cluster", "group_dro", device="cpu")
    assert trained.metrics()["group"].isin([*found.names.values(), ""]).all()


def test_a_bundle_of_clusters_keeps_how_its_data_was_made(workspace, write):
    bundle = write(workspace, "recipe", recipe={"reader": "somewhere"})
    request = request_clustering(workspace, bundle, "kmeans", {"space": "features"})
    made = clusters_as_bundle(compute_clustering(workspace, request, device="cpu"), "by-cluster")
    assert made.manifest.recipe == {"reader": "somewhere"}


def test_outliers_are_in_no_group_of_the_new_bundle(tiny, clustered):
    found = with_outliers(clustered)
    classes, in_target = found.record.classes, found.clusters_of(tiny.rows_of["target"])
    for cluster in set(found.names) - set(in_target):
        with_target = (each for each in in_target if classes[each] == classes[cluster])
        merge_clusters(found, int(next(with_target)), cluster)
    made = clusters_as_bundle(found, "by-cluster")
    outlier = found.clusters_of(np.arange(len(made))) == OUTLIER
    np.testing.assert_array_equal(made.membership.any(axis=1), ~outlier)
    assert any("are in no group" in note for note in made.manifest.notes)


def test_a_cluster_without_target_rows_is_no_group(workspace, tiny, clustered):
    found = clustered()
    table = pd.read_parquet(found.path / "assigned.parquet")
    moved = table["row"].isin(tiny.rows_of["target"]) & (table["cluster"] == 0)
    table.loc[moved, "cluster"] = OUTLIER
    table.to_parquet(found.path / "assigned.parquet")
    with pytest.raises(BundleError, match=r"has no sample in target.*merge it"):
        clusters_as_bundle(found, "by-cluster")
    assert not (workspace.bundles / "by-cluster").exists()
    with pytest.raises(BundleError, match="tiny"):
        clusters_as_bundle(found, "tiny")


def test_outliers_go_to_the_flag_list_and_the_file(workspace, tiny, clustered):
    found = with_outliers(clustered)
    outliers = found.assigned().query(f"cluster == {OUTLIER}")["row"]
    assert flag_outliers(found, tiny) == len(outliers)
    flags = flagged(workspace, tiny)
    np.testing.assert_array_equal(flags["row"], outliers)
    assert flags["reason"].str.contains("outlier of ").all()
    table = describe_clusters(found, tiny)
    np.testing.assert_array_equal(table.loc[table["outlier"], "row"], outliers)
    assert (table.loc[table["outlier"], "cluster"] == "").all()
    assert set(table["cluster"]) == {"", *found.names.values()}
    assert table["sample_id"].tolist() == tiny.samples["sample_id"].tolist()


def test_without_known_groups_there_is_nothing_to_agree_with(workspace, tiny, write):
    membership = tiny.membership.copy()
    membership[tiny.rows_of["heldout"]] = False
    unknown = write(workspace, "unknown", membership=membership)
    found = compute_clustering(workspace, request_clustering(workspace, unknown, "kmeans"))
    assert found.record.agreement is None
