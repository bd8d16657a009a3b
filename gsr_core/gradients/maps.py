"""Maps and neighbour graphs of a bundle, kept by the digest of all that they depend on.

A map is `<workspace>/maps/<digest>.parquet` with the columns `row` (position in the bundle), `x`,
`y` and, in three dimensions, `z`. A graph is `<workspace>/graphs/<digest>.npz` with `indices` and
`distances` of the k nearest others of each row, rows in the order of the map's, and `exact`. The
digests cover the bundle's content, the numbers of the head or of the influence, and the settings,
so that neither is ever out of date and equal requests share one file. All maps of a space share
its graph, which does not depend on how the space is drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator

from gsr_core.data.bundle import SPLITS, Bundle
from gsr_core.errors import SettingError
from gsr_core.files import replace_file
from gsr_core.gradients.graph import NeighbourGraph, Progress, neighbour_graph
from gsr_core.gradients.neighbours import Metric
from gsr_core.gradients.neighbours import Space as Rows
from gsr_core.gradients.projections import FIT_LIMIT, Dimensions, pca_map, umap_map
from gsr_core.gradients.reduction import N_COLUMNS
from gsr_core.gradients.representations import (
    CentredGradients,
    Gradients,
    centre_by_class,
    gradients,
    project,
    unit_rows,
)
from gsr_core.linear.head import Head
from gsr_core.linear.objective import centred_basis
from gsr_core.workspace import Workspace

__all__ = [
    "GRAPH_K",
    "InfluenceProfile",
    "MapConfig",
    "Method",
    "Space",
    "compute_graph",
    "compute_map",
    "graph_path",
    "head_digest",
    "load_graph",
    "load_map",
    "map_config",
    "map_path",
    "map_rows",
    "read_graph",
    "space_rows",
]

Space = Literal["gradients", "features", "logits", "influence"]
Method = Literal["pca", "umap"]

GRAPH_K = 30
"""Neighbours that a kept graph has at least: enough for a map's default and a panel."""

_VERSION = 2
"""Raised when the same settings begin to give another map or graph."""

_OF_A_HEAD = ("gradients", "logits")
_CHUNK = 8192
"""Rows of which logits are computed at a time."""


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
        dimensions: Numbers of a place.
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
        drawn = {"method", "dimensions", "seed", "n_neighbors", "min_dist"}
        return self._sha256("graph", drawn)

    def _sha256(self, kind: str, unused: set[str]) -> str:
        unused = unused | (set() if self.space in _OF_A_HEAD else {"head"})
        unused |= {"splits"} if self.space == "influence" else {"profile"}
        text = f"{kind} {_VERSION} {self.model_dump_json(exclude=unused)}"
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
    chosen = set(splits)
    sizes = bundle.manifest.split_sizes
    return MapConfig(
        bundle=bundle.manifest.digest,
        space=space,
        head=head_digest(head) if head is not None and space in _OF_A_HEAD else None,
        profile=profile.digest if profile is not None and space == "influence" else None,
        splits=tuple(each for each in chosen if sizes.get(each) or each not in SPLITS),
        method=method,
        metric=metric or ("euclidean" if space == "logits" else "cosine"),
        centred=space == "gradients" if centred is None else centred,
        dimensions=dimensions,
        seed=seed,
        n_neighbors=n_neighbors,
        min_dist=min_dist,
    )


def map_path(workspace: Workspace, config: MapConfig) -> Path:
    """Return where a map is kept."""
    return workspace.maps / f"{config.digest}.parquet"


def load_map(workspace: Workspace, config: MapConfig) -> pd.DataFrame | None:
    """Return a map if it was computed before: `row` int64; `x`, `y` and perhaps `z` float32."""
    try:
        return pd.read_parquet(map_path(workspace, config))
    except FileNotFoundError:
        return None


def graph_path(workspace: Workspace, config: MapConfig) -> Path:
    """Return where the neighbour graph of a map's space is kept."""
    return workspace.graphs / f"{config.graph_digest}.npz"


def load_graph(workspace: Workspace, config: MapConfig, k: int) -> NeighbourGraph | None:
    """Return the neighbour graph of a map's space if one with enough neighbours is kept.

    Args:
        workspace: Where graphs are kept.
        config: Names the space; how it is drawn does not matter.
        k: How many neighbours of each row; all others if there are fewer.

    Returns:
        Positions in `map_rows`, k of each row.
    """
    graph = read_graph(graph_path(workspace, config))
    if graph is None or graph.k < min(k, len(graph) - 1):
        return None
    return graph.first(k)


def read_graph(file: Path) -> NeighbourGraph | None:
    """Return the graph in a file, or None if there is no file."""
    try:
        with np.load(file, allow_pickle=False) as kept:
            return NeighbourGraph(kept["indices"], kept["distances"], bool(kept["exact"]))
    except FileNotFoundError:
        return None


def compute_graph(
    workspace: Workspace,
    bundle: Bundle,
    head: Head | None,
    config: MapConfig,
    k: int = GRAPH_K,
    progress: Progress | None = None,
    *,
    profile: InfluenceProfile | None = None,
) -> NeighbourGraph:
    """Return the neighbour graph of a map's space, kept or else computed and kept.

    At least `GRAPH_K` neighbours are kept, so that all that need a graph share one.

    Args:
        workspace: Where graphs are kept.
        bundle: The data that `config` names.
        head: The head that `config` names, if its space has one.
        config: Names the space; how it is drawn does not matter.
        k: How many neighbours of each row; all others if there are fewer.
        progress: Told the fraction done and what is being done.
        profile: The influence that `config` names, if that is its space.

    Raises:
        SettingError: As `compute_map`, and if k is below 1.
    """
    _check(bundle, head, config, profile)
    if (known := load_graph(workspace, config, k)) is not None:
        return known
    space = space_rows(bundle, head, config, profile=profile)
    return _kept_graph(workspace, config, space, k, progress)


def _kept_graph(
    workspace: Workspace, config: MapConfig, space: Rows, k: int, progress: Progress | None
) -> NeighbourGraph:
    if (known := load_graph(workspace, config, k)) is not None:
        return known
    graph = neighbour_graph(space, max(k, GRAPH_K), config.metric, progress=progress)
    workspace.graphs.mkdir(parents=True, exist_ok=True)
    with replace_file(graph_path(workspace, config)) as temporary, temporary.open("wb") as file:
        np.savez(file, indices=graph.indices, distances=graph.distances, exact=graph.exact)
    return graph.first(k)


def compute_map(
    workspace: Workspace,
    bundle: Bundle,
    head: Head | None,
    config: MapConfig,
    progress: Progress | None = None,
    *,
    profile: InfluenceProfile | None = None,
) -> pd.DataFrame:
    """Return a map, from the workspace if it is there; else compute it and keep it.

    Args:
        workspace: Where maps are kept.
        bundle: The data that `config` names.
        head: The head that `config` names, if its space has one.
        config: What to draw.
        progress: Told the fraction done and what is being done.
        profile: The influence that `config` names, if that is its space.

    Raises:
        SettingError: If bundle, head or influence is not the one of `config`, or no row is left to
            draw.
    """
    _check(bundle, head, config, profile)
    if (known := load_map(workspace, config)) is not None:
        return known
    tell = progress or (lambda fraction, text: None)
    rows = map_rows(bundle, config, profile=profile)
    tell(0.0, f"Computing {config.space} of {len(rows):,} rows")
    space = space_rows(bundle, head, config, profile=profile)
    matrix = _columns(space, config)
    if config.method == "pca":
        tell(0.5, "Computing PCA")
        places = pca_map(matrix, config.seed or 0, dimensions=config.dimensions)
    else:
        graph = None
        if 1 < len(rows) <= FIT_LIMIT:
            graph = _kept_graph(
                workspace,
                config,
                space,
                config.n_neighbors - 1,
                lambda fraction, text: tell(0.1 + 0.2 * fraction, text),
            )
        places = umap_map(
            matrix,
            metric=config.metric,
            n_neighbors=config.n_neighbors,
            min_dist=config.min_dist,
            dimensions=config.dimensions,
            seed=config.seed,
            graph=graph,
            strata=bundle.group_labels[rows].astype(str),
            progress=lambda fraction, text: tell(0.3 + 0.7 * fraction, text),
        )
    columns: dict[str, Any] = dict(zip("xyz", places.T, strict=False))
    frame = pd.DataFrame({"row": rows, **columns})
    workspace.maps.mkdir(parents=True, exist_ok=True)
    with replace_file(map_path(workspace, config)) as temporary:
        frame.to_parquet(temporary, index=False)
    tell(1.0, "Done")
    return frame


def map_rows(
    bundle: Bundle, config: MapConfig, *, profile: InfluenceProfile | None = None
) -> np.ndarray:
    """Return the (n,) int64 positions in the bundle of the rows that a map or a graph has.

    Args:
        bundle: The data that `config` names.
        config: Whose rows.
        profile: The influence that `config` names, if that is its space.
    """
    if config.space == "influence" and profile is not None:
        return np.sort(profile.rows).astype(np.int64)
    parts = [bundle.rows_of[split] for split in config.splits]
    return np.sort(np.concatenate([*parts, np.empty(0, np.int64)]))


def space_rows(
    bundle: Bundle,
    head: Head | None,
    config: MapConfig,
    *,
    profile: InfluenceProfile | None = None,
) -> Rows:
    """Return what a map and a graph see of `map_rows`: a matrix, or gradients in factored form.

    Args:
        bundle: The data that `config` names.
        head: The head that `config` names, if its space has one.
        config: The space, and whether it is centred.
        profile: The influence that `config` names, if that is its space.

    Raises:
        SettingError: If bundle, head or influence is not the one of `config`, or no row is left.
    """
    _check(bundle, head, config, profile)
    rows = map_rows(bundle, config, profile=profile)
    labels = torch.from_numpy(bundle.y[rows])
    if config.space == "influence":
        assert profile is not None
        values = np.array(profile.values, dtype=np.float32)[np.argsort(profile.rows)]
        matrix = torch.from_numpy(values)
        return centre_by_class(matrix, labels) if config.centred else matrix
    features = torch.from_numpy(np.asarray(bundle.features)[rows])
    if config.space == "features":
        return centre_by_class(features, labels) if config.centred else features
    assert head is not None
    head = Head(head.weight.cpu(), head.bias.cpu())
    if config.space == "gradients":
        found = gradients(head, features, labels)
        return found.centred(labels) if config.centred else found
    # Whatever all classes have in common changes no prediction.
    basis = centred_basis(len(head.bias), features.new_empty(0, dtype=torch.float64))
    matrix = torch.cat([head.logits(part.double()) @ basis for part in features.split(_CHUNK)])
    return centre_by_class(matrix, labels) if config.centred else matrix


def _columns(space: Rows, config: MapConfig) -> torch.Tensor | np.ndarray:
    """Return the matrix to draw: rows at length one where the metric is cosine."""
    cosine = config.metric == "cosine"
    if isinstance(space, Gradients | CentredGradients):
        columns = project(space.unit() if cosine else space, N_COLUMNS, config.seed or 0)
        return columns.float()
    matrix = torch.as_tensor(space)
    return unit_rows(matrix) if cosine else matrix


def _check(
    bundle: Bundle, head: Head | None, config: MapConfig, profile: InfluenceProfile | None
) -> None:
    if config.bundle != bundle.manifest.digest:
        raise SettingError(
            f"this map is of other data than bundle '{bundle.name}' holds now; ask for a new map"
        )
    if config.space in _OF_A_HEAD and (head is None or config.head != head_digest(head)):
        raise SettingError(
            f"a map of {config.space} needs the head that it was asked for; pass that head, or ask "
            "for a map of features"
        )
    if config.space == "influence":
        if profile is None or config.profile != profile.digest:
            raise SettingError(
                "a map of influence needs the influence that it was asked for; pass that of a run "
                "that has one, or ask for a map of features"
            )
        if not len(profile.rows):
            raise SettingError("this influence has no row; pass that of a run that has weights")
    elif not any(bundle.manifest.split_sizes.get(split) for split in config.splits):
        raise SettingError(
            f"splits {list(config.splits)} have no row in bundle '{bundle.name}'; choose some of "
            f"{', '.join(bundle.manifest.split_sizes)}"
        )
