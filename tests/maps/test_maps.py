import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import pdist

from gsr_core.data.bundle import SPLITS
from gsr_core.errors import SettingError
from gsr_core.gradients.graph import neighbour_graph
from gsr_core.gradients.representations import gradients
from gsr_core.linear.head import Head, head_digest
from gsr_core.maps import compute, graphs
from gsr_core.maps.compute import compute_map, load_map, map_path
from gsr_core.maps.config import InfluenceProfile, MapConfig, map_config
from gsr_core.maps.graphs import compute_graph, load_graph
from gsr_core.maps.rows import map_rows


@pytest.fixture
def computed(monkeypatch) -> list[str]:
    """The methods of the maps that were computed; UMAP itself is replaced."""
    done = []

    def pca(representation, seed, **settings):
        done.append("pca")
        return np.asarray(representation)[:, :2].astype(np.float32)

    def umap(representation, *, graph, progress, **settings):
        done.append("umap")
        assert len(graph) == len(representation)
        progress(0.5, "Half")
        return np.asarray(representation)[:, :2].astype(np.float32)

    monkeypatch.setattr(compute, "pca_map", pca)
    monkeypatch.setattr(compute, "umap_map", umap)
    return done


@pytest.fixture
def profile(bundle) -> InfluenceProfile:
    """The influence of the heldout rows on three groups."""
    rows = bundle.rows_of["heldout"][::-1].copy()
    return InfluenceProfile(rows, np.random.default_rng(0).normal(size=(len(rows), 3)))


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("space", ["gradients", "features", "logits"])
def test_a_map_has_a_finite_place_for_each_row_of_its_splits(
    workspace, bundle, head, space, dimensions
):
    config = map_config(bundle, head, space=space, splits=("val", "heldout"), dimensions=dimensions)
    assert load_map(workspace, config) is None
    frame = compute_map(workspace, bundle, head, config)
    expected = np.sort(np.concatenate([bundle.rows_of["heldout"], bundle.rows_of["val"]]))
    np.testing.assert_array_equal(frame["row"], expected)
    columns = {"row": "int64", "x": "float32", "y": "float32", "z": "float32"}
    assert frame.dtypes.astype(str).to_dict() == dict(list(columns.items())[: 1 + dimensions])
    assert np.isfinite(frame).all(axis=None)
    pd.testing.assert_frame_equal(load_map(workspace, config), frame)


def test_a_map_of_influence_draws_the_rows_that_have_one(workspace, bundle, profile):
    config = map_config(
        bundle, None, space="influence", profile=profile, metric="euclidean", dimensions=3
    )
    assert not config.centred
    frame = compute_map(workspace, bundle, None, config, profile=profile)
    np.testing.assert_array_equal(frame["row"], np.sort(profile.rows))
    # Three columns in three dimensions: PCA only turns them.
    order = np.argsort(profile.rows)
    np.testing.assert_allclose(
        pdist(frame[["x", "y", "z"]]), pdist(profile.values[order]), rtol=1e-5
    )
    changed = InfluenceProfile(profile.rows, profile.values + 1)
    other = map_config(bundle, None, space="influence", profile=changed, metric="euclidean")
    assert other.digest != config.digest
    assert other.graph_digest != config.graph_digest


def test_a_map_of_logits_is_that_of_what_classes_differ_by(workspace, bundle, head):
    config = map_config(bundle, head, space="logits")
    assert (config.metric, config.centred) == ("euclidean", False)
    frame = compute_map(workspace, bundle, head, config)
    logits = head.logits(torch.from_numpy(np.array(bundle.features))).numpy()
    margin = (logits[:, 1] - logits[:, 0]) / np.sqrt(2)
    np.testing.assert_allclose(np.abs(frame["x"]), np.abs(margin - margin.mean()), atol=1e-5)
    assert (frame["y"] == 0).all()
    # What is added to all classes alike changes no prediction, and not the map.
    shifted = Head(head.weight + 3, head.bias - 2)
    again = compute_map(workspace, bundle, shifted, map_config(bundle, shifted, space="logits"))
    np.testing.assert_allclose(again, frame, atol=1e-4)


def test_a_graph_is_kept_and_shared_by_all_maps_of_its_space(
    workspace, bundle, head, computed, monkeypatch
):
    config = map_config(bundle, head, splits=("val", "heldout"))
    assert load_graph(workspace, config, 5) is None
    graph = compute_graph(workspace, bundle, head, config, 5)
    assert (len(graph), graph.k) == (20, 5)
    space = gradients(
        head,
        torch.from_numpy(np.array(bundle.features)[map_rows(bundle, config)]),
        labels := torch.from_numpy(bundle.y[map_rows(bundle, config)]),
    ).centred(labels)
    np.testing.assert_array_equal(graph.indices, neighbour_graph(space, 5).indices)

    def computed_again(*arguments, **settings):
        raise AssertionError

    monkeypatch.setattr(graphs, "neighbour_graph", computed_again)
    for drawn in ({"method": "umap"}, {"method": "umap", "seed": None, "dimensions": 3}):
        other = map_config(bundle, head, splits=("heldout", "val"), **drawn)
        assert other.graph_digest == config.graph_digest
        compute_map(workspace, bundle, head, other)
    # There are only nineteen others.
    assert compute_graph(workspace, bundle, head, config, 100).k == 19
    kept = load_graph(workspace, config, 7)
    assert kept is not None
    assert (kept.k, kept.exact) == (7, True)
    assert len(list(workspace.graphs.iterdir())) == 1


def test_a_graph_with_too_few_neighbours_gives_way_to_one_with_enough(
    workspace, bundle, head, monkeypatch
):
    monkeypatch.setattr(graphs, "GRAPH_K", 3)
    config = map_config(bundle, head)
    few = compute_graph(workspace, bundle, head, config, 2)
    assert load_graph(workspace, config, 4) is None
    more = compute_graph(workspace, bundle, head, config, 8)
    np.testing.assert_array_equal(more.indices[:, :2], few.indices)
    assert len(list(workspace.graphs.iterdir())) == 1
    kept = load_graph(workspace, config, 8)
    assert kept is not None
    np.testing.assert_array_equal(kept.distances, more.distances)


@pytest.mark.parametrize(
    "changed",
    [{"splits": ("val",)}, {"metric": "euclidean"}, {"centred": False}, {"space": "features"}],
    ids=lambda changed: next(iter(changed)),
)
def test_another_space_has_another_graph(bundle, head, changed):
    config, other = map_config(bundle, head), map_config(bundle, head, **changed)
    assert config.graph_digest != other.graph_digest


def test_an_equal_configuration_is_not_computed_again(workspace, bundle, head, computed):
    config = map_config(bundle, head)
    first = compute_map(workspace, bundle, head, config)
    again = compute_map(workspace, bundle, head, MapConfig(**config.model_dump()))
    assert computed == ["pca"]
    pd.testing.assert_frame_equal(first, again)


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "umap"},
        {"splits": ("val",)},
        {"metric": "euclidean"},
        {"centred": False},
        {"seed": 1},
        {"space": "features"},
        {"space": "logits"},
        {"dimensions": 3},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_changed_configuration_is_computed_anew(workspace, bundle, head, computed, changed):
    compute_map(workspace, bundle, head, map_config(bundle, head))
    compute_map(workspace, bundle, head, map_config(bundle, head, **changed))
    assert len(computed) == 2
    assert len(list(workspace.maps.iterdir())) == 2


def test_another_head_has_another_map_and_features_have_none(bundle, head):
    other = Head(head.weight + 1, head.bias)
    assert map_config(bundle, head).digest != map_config(bundle, other).digest
    assert (
        map_config(bundle, head, space="features").digest
        == map_config(bundle, None, space="features").digest
    )
    assert head_digest(head) == head_digest(Head(head.weight.double(), head.bias.double()))


def test_what_does_not_matter_does_not_change_the_digest(bundle, head):
    config = map_config(bundle, head, splits=("val", "test"))
    assert map_config(bundle, head, splits=("test", "val")).digest == config.digest
    assert map_config(bundle, head, splits=("test", "val"), n_neighbors=5).digest == config.digest
    umap = map_config(bundle, head, method="umap")
    assert map_config(bundle, head, method="umap", n_neighbors=5).digest != umap.digest
    assert map_config(bundle, head, method="umap", seed=None).digest != umap.digest


def test_progress_rises_to_one(workspace, bundle, head, computed):
    told = []
    config = map_config(bundle, head, method="umap")
    compute_map(workspace, bundle, head, config, lambda fraction, _: told.append(fraction))
    assert computed == ["umap"]
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_a_killed_write_leaves_nothing(workspace, bundle, head, monkeypatch):
    def broken(self, path, **settings):
        path.write_bytes(b"PAR1 half of a")
        raise KeyboardInterrupt

    config = map_config(bundle, head)
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", lambda file, **arrays: broken(None, Path(file.name)))
        with pytest.raises(KeyboardInterrupt):
            compute_graph(workspace, bundle, head, config)
    assert list(workspace.graphs.iterdir()) == []
    assert load_graph(workspace, config, 1) is None
    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_parquet", broken)
        with pytest.raises(KeyboardInterrupt):
            compute_map(workspace, bundle, head, config)
    assert list(workspace.maps.iterdir()) == []
    assert load_map(workspace, config) is None
    compute_map(workspace, bundle, head, config)
    assert map_path(workspace, config).exists()


def test_a_map_of_other_data_or_another_head_is_refused(workspace, bundle, head):
    config = map_config(bundle, head)
    with pytest.raises(SettingError, match="other data"):
        compute_map(workspace, bundle, head, config.model_copy(update={"bundle": "0"}))
    with pytest.raises(SettingError, match="needs the head"):
        compute_map(workspace, bundle, Head(head.weight + 1, head.bias), config)
    with pytest.raises(SettingError, match="needs the head"):
        compute_map(workspace, bundle, None, config)
    with pytest.raises(SettingError, match="no row"):
        compute_map(workspace, bundle, head, map_config(bundle, head, splits=()))


def test_a_map_of_other_influence_is_refused(workspace, bundle, head, profile):
    config = map_config(bundle, head, space="influence", profile=profile)
    other = InfluenceProfile(profile.rows, profile.values + 1)
    for given in (None, other):
        with pytest.raises(SettingError, match="needs the influence"):
            compute_map(workspace, bundle, head, config, profile=given)
        with pytest.raises(SettingError, match="needs the influence"):
            compute_graph(workspace, bundle, head, config, profile=given)
    none = InfluenceProfile(profile.rows[:0], profile.values[:0])
    config = map_config(bundle, head, space="influence", profile=none)
    with pytest.raises(SettingError, match="no row"):
        compute_map(workspace, bundle, head, config, profile=none)


def test_an_unknown_split_is_refused(bundle):
    with pytest.raises(ValueError, match="allowed are"):
        MapConfig(bundle="0", space="features", splits=("training",))
    assert MapConfig(bundle="0", space="features").splits == SPLITS


def test_importing_maps_loads_neither_umap_nor_the_dashboard():
    code = (
        "import sys, gsr_core.maps.compute; "
        "heavy = ('umap', 'pynndescent', 'numba', 'streamlit', 'plotly'); "
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
