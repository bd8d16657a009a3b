import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from gsr_core.data.bundle import SPLITS
from gsr_core.errors import SettingError
from gsr_core.gradients import maps
from gsr_core.gradients.maps import (
    MapConfig,
    compute_map,
    head_digest,
    load_map,
    map_config,
    map_path,
)
from gsr_core.linear.head import Head


@pytest.fixture
def computed(monkeypatch) -> list[str]:
    """The methods of the maps that were computed; UMAP itself is replaced."""
    done = []

    def pca(representation, seed):
        done.append("pca")
        return np.asarray(representation)[:, :2].astype(np.float32)

    def umap(representation, *, progress, **settings):
        done.append("umap")
        progress(0.5, "Half")
        return np.asarray(representation)[:, :2].astype(np.float32)

    monkeypatch.setattr(maps, "pca_map", pca)
    monkeypatch.setattr(maps, "umap_map", umap)
    return done


@pytest.mark.parametrize("space", ["gradients", "features"])
def test_a_map_has_a_finite_place_for_each_row_of_its_splits(workspace, bundle, head, space):
    config = map_config(bundle, head, space=space, splits=("val", "heldout"))
    assert load_map(workspace, config) is None
    frame = compute_map(workspace, bundle, head, config)
    expected = np.sort(np.concatenate([bundle.rows_of["heldout"], bundle.rows_of["val"]]))
    np.testing.assert_array_equal(frame["row"], expected)
    assert frame.dtypes.astype(str).to_dict() == {"row": "int64", "x": "float32", "y": "float32"}
    assert np.isfinite(frame).all(axis=None)
    pd.testing.assert_frame_equal(load_map(workspace, config), frame)


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


def test_an_unknown_split_is_refused(bundle):
    with pytest.raises(ValueError, match="allowed are"):
        MapConfig(bundle="0", space="features", splits=("training",))
    assert MapConfig(bundle="0", space="features").splits == SPLITS


def test_importing_maps_loads_neither_umap_nor_the_dashboard():
    code = (
        "import sys, gsr_core.gradients.maps; "
        "print([m for m in ('umap', 'numba', 'streamlit', 'plotly') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
