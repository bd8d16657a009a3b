"""Maps of a bundle, kept by the digest of all that they depend on.

A map is `<workspace>/maps/<digest>.parquet` with the columns `row` (position in the bundle), `x`
and `y`. The digest covers the bundle's content, the head's numbers and the settings, so a map is
never out of date and equal requests share one file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator

from gsr_core.data.bundle import SPLITS, Bundle
from gsr_core.errors import SettingError
from gsr_core.files import replace_file
from gsr_core.gradients.neighbours import Metric
from gsr_core.gradients.projections import Progress, pca_map, umap_map
from gsr_core.gradients.representations import (
    centre_by_class,
    gradient_representation,
    unit_rows,
)
from gsr_core.linear.head import Head
from gsr_core.workspace import Workspace

__all__ = [
    "MapConfig",
    "Method",
    "Space",
    "compute_map",
    "head_digest",
    "load_map",
    "map_config",
    "map_path",
]

Space = Literal["gradients", "features"]
Method = Literal["pca", "umap"]

_VERSION = 1
"""Raised when the same settings begin to give another map."""


class MapConfig(BaseModel):
    """All that a map depends on.

    Attributes:
        bundle: Digest of the bundle's content.
        space: Draw the gradients of a head, or the features.
        head: Digest of the head; None for features, which have none.
        splits: Whose rows to draw, as the bundle splits them.
        method: PCA or UMAP.
        metric: `cosine` looks at directions only: rows are scaled to length one.
        centred: Take each class's mean away first, which removes what its rows have in common.
        seed: None is an unrepeatable UMAP, on all cores.
        n_neighbors: Neighbours that UMAP keeps close.
        min_dist: How tightly UMAP may pack rows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    bundle: str
    space: Space
    head: str | None = None
    splits: tuple[str, ...] = SPLITS
    method: Method = "pca"
    metric: Metric = "cosine"
    centred: bool = False
    seed: int | None = Field(default=0, ge=0, le=2**31 - 1)
    n_neighbors: int = Field(default=15, ge=2, le=500)
    min_dist: float = Field(default=0.1, ge=0, le=1)

    @field_validator("splits")
    @classmethod
    def _in_order(cls, splits: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := set(splits) - set(SPLITS):
            raise ValueError(f"splits {sorted(unknown)} are unknown; allowed are {SPLITS}")
        return tuple(split for split in SPLITS if split in splits)

    @property
    def digest(self) -> str:
        """SHA-256 over what matters: PCA has no neighbours, features have no head."""
        unused = {"n_neighbors", "min_dist"} if self.method == "pca" else set()
        unused |= {"head"} if self.space == "features" else set()
        text = f"map {_VERSION} {self.model_dump_json(exclude=unused)}"
        return hashlib.sha256(text.encode()).hexdigest()


def head_digest(head: Head) -> str:
    """Return the SHA-256 of a head's numbers, whatever device and precision hold them."""
    state = hashlib.sha256(f"{tuple(head.weight.shape)}".encode())
    for part in (head.weight, head.bias):
        state.update(part.detach().cpu().double().contiguous().numpy().tobytes())
    return state.hexdigest()


def map_config(
    bundle: Bundle,
    head: Head | None,
    *,
    space: Space = "gradients",
    splits: Iterable[str] = SPLITS,
    method: Method = "pca",
    metric: Metric = "cosine",
    centred: bool | None = None,
    seed: int | None = 0,
    n_neighbors: int = 15,
    min_dist: float = 0.1,
) -> MapConfig:
    """Return the configuration of a map of this bundle and head.

    Args:
        bundle: The data.
        head: Whose gradients to draw; features need none.
        space: As in `MapConfig`, and so on.
        splits: Whose rows to draw; splits that the bundle lacks do not matter.
        method: PCA or UMAP.
        metric: Geometry.
        centred: None takes the class means away from gradients, as clustering them does, and
            leaves features as they are.
        seed: None is an unrepeatable UMAP.
        n_neighbors: Of UMAP.
        min_dist: Of UMAP.
    """
    chosen = set(splits)
    sizes = bundle.manifest.split_sizes
    return MapConfig(
        bundle=bundle.manifest.digest,
        space=space,
        head=None if head is None or space == "features" else head_digest(head),
        splits=tuple(each for each in chosen if sizes.get(each) or each not in SPLITS),
        method=method,
        metric=metric,
        centred=space == "gradients" if centred is None else centred,
        seed=seed,
        n_neighbors=n_neighbors,
        min_dist=min_dist,
    )


def map_path(workspace: Workspace, config: MapConfig) -> Path:
    """Return where a map is kept."""
    return workspace.maps / f"{config.digest}.parquet"


def load_map(workspace: Workspace, config: MapConfig) -> pd.DataFrame | None:
    """Return a map if it was computed before: `row` int64, `x` and `y` float32."""
    try:
        return pd.read_parquet(map_path(workspace, config))
    except FileNotFoundError:
        return None


def compute_map(
    workspace: Workspace,
    bundle: Bundle,
    head: Head | None,
    config: MapConfig,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Return a map, from the workspace if it is there; else compute it and keep it.

    Args:
        workspace: Where maps are kept.
        bundle: The data that `config` names.
        head: The head that `config` names; features need none.
        config: What to draw.
        progress: Told the fraction done and what is being done.

    Raises:
        SettingError: If bundle or head is not the one of `config`, or no row is left to draw.
    """
    _check(bundle, head, config)
    if (known := load_map(workspace, config)) is not None:
        return known
    tell = progress or (lambda fraction, text: None)
    rows = np.sort(np.concatenate([bundle.rows_of[split] for split in config.splits]))
    tell(0.0, f"Computing {config.space} of {len(rows):,} rows")
    representation = _representation(bundle, head, config, rows)
    if config.method == "pca":
        tell(0.5, "Computing PCA")
        places = pca_map(representation, config.seed or 0)
    else:
        places = umap_map(
            representation,
            metric=config.metric,
            n_neighbors=config.n_neighbors,
            min_dist=config.min_dist,
            seed=config.seed,
            strata=bundle.group_labels[rows].astype(str),
            progress=lambda fraction, text: tell(0.2 + 0.75 * fraction, text),
        )
    frame = pd.DataFrame({"row": rows.astype(np.int64), "x": places[:, 0], "y": places[:, 1]})
    workspace.maps.mkdir(parents=True, exist_ok=True)
    with replace_file(map_path(workspace, config)) as temporary:
        frame.to_parquet(temporary, index=False)
    tell(1.0, "Done")
    return frame


def _check(bundle: Bundle, head: Head | None, config: MapConfig) -> None:
    if config.bundle != bundle.manifest.digest:
        raise SettingError(
            f"this map is of other data than bundle '{bundle.name}' holds now; ask for a new map"
        )
    if config.space == "gradients" and (head is None or config.head != head_digest(head)):
        raise SettingError(
            "a map of gradients needs the head that it was asked for; pass that head, or ask for "
            "a map of features"
        )
    if not any(bundle.manifest.split_sizes.get(split) for split in config.splits):
        raise SettingError(
            f"splits {list(config.splits)} have no row in bundle '{bundle.name}'; choose some of "
            f"{', '.join(bundle.manifest.split_sizes)}"
        )


def _representation(
    bundle: Bundle, head: Head | None, config: MapConfig, rows: np.ndarray
) -> torch.Tensor:
    features = torch.from_numpy(np.asarray(bundle.features)[rows])
    labels = torch.from_numpy(bundle.y[rows])
    if config.space == "features" or head is None:
        matrix = centre_by_class(features, labels) if config.centred else features
        return unit_rows(matrix) if config.metric == "cosine" else matrix
    return gradient_representation(
        Head(head.weight.cpu(), head.bias.cpu()),
        features,
        labels,
        seed=config.seed or 0,
        centred=config.centred,
        unit=config.metric == "cosine",
    )
