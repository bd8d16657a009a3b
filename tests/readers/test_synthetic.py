"""The sets of random numbers: their laws, recovered from the numbers themselves."""

import numpy as np
import pytest

from gsr_core.data.dataset import define
from gsr_core.readers.registry import make_reader


@pytest.mark.parametrize("name", ["synthetic", "patches"])
def test_a_seed_gives_the_same_set_and_another_seed_another(name):
    one, two, other = (make_reader(name, {"seed": seed}).read() for seed in (3, 3, 4))
    assert one.inputs.digest() == two.inputs.digest()
    assert one.table.equals(two.table)
    assert one.inputs.digest() != other.inputs.digest()


@pytest.mark.parametrize("name", ["synthetic", "patches"])
def test_the_proposed_roles_make_a_data_set_of_four_groups(name):
    source = make_reader(name).read()
    dataset = define(source, source.roles)
    splits, counts = dataset.counts()
    assert splits == ["train", "heldout", "target", "val", "test"]
    assert counts.shape == (5, 4)
    assert (counts > 0).all()


def test_clusters_lie_where_the_paper_puts_them():
    source = make_reader("synthetic", {"points": 2000}).read()
    points, table = source.inputs.array, source.table
    assert points.dtype == np.float32
    expected = {
        "group 1": (1, {(0, 5), (0, 3), (0, 2), (0, 1)}),
        "group 2": (0, {(0, 4)}),
        "group 3": (0, {(1, 5), (1, 3), (1, 2), (1, 1)}),
        "group 4": (1, {(1, 4)}),
    }
    for group, (label, centres) in expected.items():
        rows = table["true_group"].str.startswith(group)
        assert set(table["label"][rows]) == {label}
        nearest = np.rint(points[rows]).astype(int)
        assert {tuple(each) for each in nearest.tolist()} == centres
    for centre, rows in table.groupby("centre").indices.items():
        assert len(rows) == 2000
        mean, covariance = points[rows].mean(axis=0), np.cov(points[rows].T)
        stated = [float(part) for part in centre.strip("()").split(",")]
        assert np.abs(mean - stated).max() < 5 * 0.1 / np.sqrt(2000)
        np.testing.assert_allclose(covariance, 0.01 * np.eye(2), atol=0.0015)


def test_the_plane_has_a_thousand_points_split_three_to_one_to_one():
    table = make_reader("synthetic").read().table
    assert table["split"].value_counts().to_dict() == {"train": 600, "validation": 200, "test": 200}
    # Shuffled before it was split: no centre is missing anywhere.
    assert (table.groupby("split")["centre"].nunique() == 10).all()
    assert not table["flipped"].any()


@pytest.mark.parametrize(("where", "count"), [("all", 50), ("train", 30)])
def test_contamination_flips_one_label_in_twenty_and_moves_nothing(where, count):
    clean = make_reader("synthetic").read()
    flipped = make_reader("synthetic", {"flipped": 0.05, "flip_in": where}).read()
    assert clean.inputs.digest() == flipped.inputs.digest()
    changed = clean.table["label"] != flipped.table["label"]
    assert changed.sum() == count
    assert (changed == flipped.table["flipped"]).all()
    assert (clean.table["true_group"] == flipped.table["true_group"]).all()
    if where == "train":
        assert set(flipped.table["split"][changed]) == {"train"}


def patches_of(source, n_patches, dimension):
    return source.inputs.array.reshape(-1, n_patches, dimension).astype(float)


@pytest.mark.parametrize(("core", "spurious"), [(0.2, 1.0), (1.0, 0.2)])
def test_patches_follow_the_definition(core, spurious):
    source = make_reader("patches", {"beta_core": core, "beta_spurious": spurious}).read()
    table, n = source.table, len(source.table)
    x = patches_of(source, 3, 50)
    rows = np.arange(n)
    y = table["label"].to_numpy()
    a = np.where(table["spurious"] == "a = +1", 1, -1)
    places = table[["core_patch", "spurious_patch"]].to_numpy()

    v_core = (y[:, None] * x[rows, places[:, 0]]) / core
    v_spurious = (a[:, None] * x[rows, places[:, 1]]) / spurious
    for direction in (v_core, v_spurious):
        # One direction for all samples, of length one.
        np.testing.assert_allclose(direction, np.broadcast_to(direction[0], (n, 50)), atol=1e-6)
        assert np.linalg.norm(direction[0]) == pytest.approx(1, abs=1e-6)
    assert v_core[0] @ v_spurious[0] == pytest.approx(0, abs=1e-6)

    noise = x[rows, 3 - places.sum(axis=1)]
    assert noise.mean() == pytest.approx(0, abs=5 * 0.78 / np.sqrt(50 * 50 * n))
    assert (noise**2).sum(axis=1).mean() == pytest.approx(0.78**2, rel=0.01)
    covariance = np.cov(noise.T)
    np.testing.assert_allclose(covariance, 0.78**2 / 50 * np.eye(50), atol=0.0006)

    # Every order of the three patches is as likely.
    orders = table.value_counts(["core_patch", "spurious_patch"])
    assert len(orders) == 6
    assert orders.sub(n / 6).abs().max() < 4 * np.sqrt(n * 5 / 36)


def test_the_spurious_sign_agrees_as_often_as_said():
    table = make_reader("patches").read().table
    assert table["split"].value_counts().to_dict() == {
        "train": 10_000,
        "test": 10_000,
        "validation": 2_000,
    }
    assert abs(table["label"].mean()) < 4 / np.sqrt(len(table))
    agrees = (table["spurious"] == "a = +1") == (table["label"] == 1)
    assert (agrees == (table["alignment"] == "aligned")).all()
    for split, alpha in (("train", 0.98), ("test", 0.98), ("validation", 0.5)):
        share = agrees[table["split"] == split]
        assert abs(share.mean() - alpha) < 4 * np.sqrt(alpha * (1 - alpha) / len(share))


def test_more_patches_hold_more_noise_and_still_one_of_each_feature():
    source = make_reader("patches", {"patches": 5, "dimension": 8, "noise": 1e-3}).read()
    lengths = np.sort(np.linalg.norm(patches_of(source, 5, 8), axis=2), axis=1)
    np.testing.assert_allclose(lengths[:, 3:], np.tile([0.2, 1.0], (len(lengths), 1)), atol=1e-6)
    assert lengths[:, :3].max() < 0.01
