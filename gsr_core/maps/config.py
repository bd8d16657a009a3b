"""Which map: of what, in which space and layout; and the digest that it is kept by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from gsr_core.data.bundle import SPLITS, Bundle
from gsr_core.gradients.neighbours import Metric
from gsr_core.gradients.projections import Dimensions
from gsr_core.linear.head import Head, head_digest

__all__ = ["OF_A_HEAD", "InfluenceProfile", "MapConfig", "Method", "Space", "map_config"]


Space = Literal["gradients", "features", "logits", "influence"]

Method = Literal["pca", "umap"]

_VERSION = 2
"""Increased when the same settings begin to give another map or graph."""

OF_A_HEAD = ("gradients", "logits")


@dataclass(frozen=True)
class InfluenceProfile:
    """What the weight of each row does to each group.

    Attributes:
        rows: (n,) int64 positions in the bundle, all different.
        values: (n, m) nats, as `Run.influence`.
    """

    rows: np.ndarray
    values: np.ndarray

    @property
    def digest(self) -> str:
        """SHA-256 of the numbers."""
        state = hashlib.sha256(f"{self.values.shape}".encode())
        state.update(np.ascontiguousarray(self.rows, dtype=np.int64).tobytes())
        state.update(np.ascontiguousarray(self.values, dtype=np.float64).tobytes())
        return state.hexdigest()


class MapConfig(BaseModel):
    """All that a map depends on.

    Attributes:
        bundle: Digest of the bundle's content.
        space: Draw the gradients of a head, the features, a head's logits less their mean over
            the classes, or the influence on each group.
        head: Digest of the head; None for features and influence, which have none.
        profile: Digest of the influence; None for other spaces.
        splits: Whose rows to draw, as the bundle splits them; of influence, the weighted rows are
            drawn, whatever this is.
        method: PCA or UMAP.
        metric: `cosine` looks at directions only: rows are scaled to length one.
        centred: Take each class's mean away first, which removes what its rows have in common.
        dimensions: Coordinates of a point.
        seed: None is an unrepeatable UMAP, on all cores.
        n_neighbors: Neighbours that UMAP keeps close.
        min_dist: How tightly UMAP may pack rows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    bundle: str
    space: Space
    head: str | None = None
    profile: str | None = None
    splits: tuple[str, ...] = SPLITS
    method: Method = "pca"
    metric: Metric = "cosine"
    centred: bool = False
    dimensions: Dimensions = 2
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
        """SHA-256 over what matters to the map: PCA has no neighbours, features have no head."""
        return self._sha256("map", {"n_neighbors", "min_dist"} if self.method == "pca" else set())

    @property
    def graph_digest(self) -> str:
        """SHA-256 over what matters to the neighbours: the space, and not how it is drawn."""
        drawing = {"method", "dimensions", "seed", "n_neighbors", "min_dist"}
        return self._sha256("graph", drawing)

    def _sha256(self, kind: str, unused: set[str]) -> str:
        unused = unused | (set() if self.space in OF_A_HEAD else {"head"})
        unused |= {"splits"} if self.space == "influence" else {"profile"}
        text = f"{kind} {_VERSION} {self.model_dump_json(exclude=unused)}"
        return hashlib.sha256(text.encode()).hexdigest()


def map_config(
    bundle: Bundle,
    head: Head | None,
    *,
    space: Space = "gradients",
    profile: InfluenceProfile | None = None,
    splits: Iterable[str] = SPLITS,
    method: Method = "pca",
    metric: Metric | None = None,
    centred: bool | None = None,
    dimensions: Dimensions = 2,
    seed: int | None = 0,
    n_neighbors: int = 15,
    min_dist: float = 0.1,
) -> MapConfig:
    """Return the configuration of a map of this bundle and head.

    Args:
        bundle: The data.
        head: Whose gradients or logits to draw; other spaces need none.
        space: As in `MapConfig`, and so on.
        profile: The influence to draw; other spaces need none.
        splits: Whose rows to draw; splits that the bundle lacks do not matter.
        method: PCA or UMAP.
        metric: Geometry; None is Euclidean for logits, of which two classes have one number and
            so no direction, and cosine for others.
        centred: None takes the class means away from gradients, as clustering them does, and
            leaves others as they are.
        dimensions: 2 or 3.
        seed: None is an unrepeatable UMAP.
        n_neighbors: Of UMAP.
        min_dist: Of UMAP.
    """
    chosen_splits = set(splits)
    sizes = bundle.manifest.split_sizes
    return MapConfig(
        bundle=bundle.manifest.digest,
        space=space,
        head=head_digest(head) if head is not None and space in OF_A_HEAD else None,
        profile=profile.digest if profile is not None and space == "influence" else None,
        splits=tuple(each for each in chosen_splits if sizes.get(each) or each not in SPLITS),
        method=method,
        metric=metric or ("euclidean" if space == "logits" else "cosine"),
        centred=space == "gradients" if centred is None else centred,
        dimensions=dimensions,
        seed=seed,
        n_neighbors=n_neighbors,
        min_dist=min_dist,
    )
