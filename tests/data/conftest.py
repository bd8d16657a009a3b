from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gsr_core.data.bundle import Bundle
from gsr_core.data.bundle_writing import write_bundle
from gsr_core.data.groups import Group
from gsr_core.workspace import Workspace


def small_arrays() -> dict[str, np.ndarray]:
    """Five splits, two classes, three groups, every combination once, shuffled: 30 rows."""
    rng = np.random.default_rng(0)
    split, y, group = (
        axis.ravel()
        for axis in np.meshgrid(
            ["train", "heldout", "target", "val", "test"], [0, 1], [0, 1, 2], indexing="ij"
        )
    )
    order = rng.permutation(len(y))
    return {
        "features": rng.normal(size=(len(y), 4)).astype(np.float32),
        "y": y[order],
        "group": group[order],
        "split": split[order],
    }


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    return small_arrays()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.at(tmp_path / "workspace")


@pytest.fixture
def parts() -> dict:
    """Arguments of `write_bundle`, without the directory."""
    arrays = small_arrays()
    return {
        "samples": pd.DataFrame(
            {
                "sample_id": [f"s{row}" for row in range(len(arrays["y"]))],
                "split": arrays["split"],
                "y": arrays["y"],
                "place": arrays["group"],
            }
        ),
        "membership": arrays["group"][:, None] == np.arange(3),
        "groups": [Group(name=name, definition=f"place = {name}") for name in "abc"],
        "classes": ["cat", "dog"],
        "features": arrays["features"],
        "source": "made for a test",
    }


@pytest.fixture
def write(workspace: Workspace, parts: dict) -> Callable[..., Bundle]:
    def write(name: str = "small", **changed) -> Bundle:
        return write_bundle(workspace.bundles / name, **{**parts, **changed})

    return write


@pytest.fixture
def left_behind(workspace: Workspace) -> Callable[[], list[str]]:
    """Names in the bundles' directory, hidden ones too."""

    def left_behind() -> list[str]:
        folder = workspace.bundles
        return sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []

    return left_behind
