from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from gsr_core.data.bundle import SPLITS, Bundle
from gsr_core.data.bundle_writing import write_bundle
from gsr_core.data.groups import Group
from gsr_core.linear.head import Head
from gsr_core.workspace import Workspace


@pytest.fixture
def sampled() -> Callable[..., tuple[Head, Tensor, Tensor]]:
    """A head with features and labels at random, float64."""

    def sampled(n: int = 40, d: int = 6, k: int = 3) -> tuple[Head, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(n + d + k)
        draw = {"generator": generator, "dtype": torch.float64}
        head = Head(torch.randn(k, d, **draw), torch.randn(k, **draw))
        labels = torch.randint(k, (n,), generator=generator)
        return head, torch.randn(n, d, **draw), labels

    return sampled


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.at(tmp_path / "workspace")


@pytest.fixture
def bundle(workspace: Workspace) -> Bundle:
    """Fifty rows in five splits, two classes, two groups, a head."""
    rng = np.random.default_rng(0)
    row = np.arange(50)
    y, group = row % 2, row // 2 % 2
    return write_bundle(
        workspace.bundles / "small",
        samples=pd.DataFrame(
            {
                "sample_id": [f"s{each}" for each in row],
                "split": np.array(SPLITS)[row // 4 % 5],
                "y": y,
            }
        ),
        membership=group[:, None] == np.arange(2),
        groups=[Group(name=name, definition=name) for name in "ab"],
        classes=["cat", "dog"],
        features=rng.normal(size=(50, 4)).astype(np.float32) + y[:, None],
        head=(rng.normal(size=(2, 4)).astype(np.float32), np.zeros(2, np.float32)),
        source="made for a test",
    )


@pytest.fixture
def head(bundle: Bundle) -> Head:
    assert bundle.head is not None
    weight, bias = bundle.head
    return Head(torch.from_numpy(weight), torch.from_numpy(bias))
