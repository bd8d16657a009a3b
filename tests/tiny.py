"""A tiny bundle and runs on it, for all tests above `gsr_core.data`."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gsr_core.data.bundle import Bundle
from gsr_core.data.bundle_writing import write_bundle
from gsr_core.data.groups import Group
from gsr_core.files import sha256
from gsr_core.runs import recorder
from gsr_core.runs.execute import execute
from gsr_core.runs.store import Run, create_run
from gsr_core.workspace import Workspace

__all__ = ["contents", "done", "every_step", "make", "same_outcome", "workspace", "write"]

N = 40
"""Rows of each split."""


def write_tiny(workspace: Workspace, name: str = "tiny", *, seed: int = 0, **changed) -> Bundle:
    """Two classes by two colours, 40 rows a split; feature 1 is the shortcut."""
    rng = np.random.default_rng(seed)
    splits = ("train", "heldout", "target", "val", "test")
    y = np.tile([0, 0, 1, 1], len(splits) * N // 4)
    colour = np.tile([0, 1, 0, 1], len(splits) * N // 4)
    split = np.repeat(splits, N)
    trained = np.isin(split, ["train", "heldout"])
    colour = np.where(trained & (rng.random(len(y)) < 0.6), y, colour)
    features = rng.normal(size=(len(y), 5))
    features[:, 0] += 2 * y - 1
    features[:, 1] += 3 * (2 * colour - 1)
    samples = pd.DataFrame(
        {
            "sample_id": [f"s{row}" for row in range(len(y))],
            "split": split,
            "y": y,
            "colour": np.array(["red", "green"])[colour],
        }
    )
    names = ["cat, red", "cat, green", "dog, red", "dog, green"]
    parts = {
        "samples": samples,
        "membership": (2 * y + colour)[:, None] == np.arange(4),
        "groups": [Group(name=name, definition=name) for name in names],
        "classes": ["cat", "dog"],
        "features": features.astype(np.float32),
        "source": "made for a test",
    }
    return write_bundle(workspace.bundles / name, **{**parts, **changed})


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A workspace with the bundle `tiny`."""
    workspace = Workspace.at(tmp_path / "workspace")
    write_tiny(workspace)
    return workspace


@pytest.fixture(scope="session")
def write() -> Callable[..., Bundle]:
    """`write_tiny`, for tests: they cannot import from here."""
    return write_tiny


@pytest.fixture
def make(workspace: Workspace) -> Callable[..., Run]:
    """A run that waits; five steps of GSR unless told otherwise."""

    def make(method: str = "gsr", **settings) -> Run:
        few = {"steps": 5} if method == "gsr" else {}
        return create_run(workspace, "tiny", method, {**few, **settings}, device="cpu")

    return make


@pytest.fixture
def done(make: Callable[..., Run]) -> Callable[..., Run]:
    """A run that has ended."""

    def done(method: str = "gsr", **settings) -> Run:
        run = make(method, **settings)
        execute(run)
        return run

    return done


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a run down after every step."""
    monkeypatch.setattr(recorder, "_PAUSE", 0)
    monkeypatch.setattr(recorder, "_WRITE_SHARE", 1e9)


@pytest.fixture
def contents() -> Callable[[Path], dict[str, str]]:
    """The digest of every file below a directory, hidden ones too."""

    def contents(folder: Path) -> dict[str, str]:
        files = (file for file in folder.rglob("*") if file.is_file())
        return {str(file.relative_to(folder)): sha256(file) for file in files}

    return contents


@pytest.fixture
def same_outcome() -> Callable[..., None]:
    """Assert that two runs left the same behind, bit by bit, times aside."""

    def same_outcome(one: Run, two: Run, *, weight_history: bool = True) -> None:
        for mine, other in zip(one.head(), two.head(), strict=True):
            np.testing.assert_array_equal(mine, other)
        pd.testing.assert_frame_equal(one.weights(), two.weights(), check_exact=True)
        np.testing.assert_array_equal(one.influence(), two.influence())
        pd.testing.assert_frame_equal(
            *(
                run.metrics().query("metric != 'seconds'").reset_index(drop=True)
                for run in (one, two)
            ),
            check_exact=True,
        )
        assert one.state.status == two.state.status
        assert (one.state.step, one.state.best_step) == (two.state.step, two.state.best_step)
        if weight_history:
            assert one.weight_steps().tolist() == two.weight_steps().tolist()
        for step in set(one.weight_steps().tolist()) & set(two.weight_steps().tolist()):
            np.testing.assert_array_equal(one.weights_at(step), two.weights_at(step))

    return same_outcome
