"""Neighbour graphs of a bundle's rows, kept by the digest of all that they depend on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gsr_core.data.bundle import Bundle
from gsr_core.files import replace_file
from gsr_core.gradients.graph import NeighbourGraph, neighbour_graph
from gsr_core.gradients.neighbours import Space as Rows
from gsr_core.linear.head import Head
from gsr_core.maps.config import InfluenceProfile, MapConfig
from gsr_core.maps.rows import check_given, space_rows
from gsr_core.progress import Report
from gsr_core.workspace import Workspace

__all__ = ["GRAPH_K", "compute_graph", "graph_of_space", "graph_path", "load_graph", "read_graph"]


GRAPH_K = 30
"""Fewest neighbours in a stored graph: enough for a map's default and a panel."""


def graph_path(workspace: Workspace, config: MapConfig) -> Path:
    """Return where the neighbour graph of a map's space is kept."""
    return workspace.graphs / f"{config.graph_digest}.npz"


def load_graph(workspace: Workspace, config: MapConfig, k: int) -> NeighbourGraph | None:
    """Return the neighbour graph of a map's space if one with enough neighbours is stored.

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
        with np.load(file, allow_pickle=False) as arrays:
            return NeighbourGraph(arrays["indices"], arrays["distances"], bool(arrays["exact"]))
    except FileNotFoundError:
        return None


def compute_graph(
    workspace: Workspace,
    bundle: Bundle,
    head: Head | None,
    config: MapConfig,
    k: int = GRAPH_K,
    progress: Report | None = None,
    *,
    profile: InfluenceProfile | None = None,
) -> NeighbourGraph:
    """Return the neighbour graph of a map's space, read if it is stored, else computed and stored.

    At least `GRAPH_K` neighbours are stored, so that all that need a graph share one.

    Args:
        workspace: Where graphs are kept.
        bundle: The data that `config` names.
        head: The head that `config` names, if its space has one.
        config: Names the space; how it is drawn does not matter.
        k: How many neighbours of each row; all others if there are fewer.
        progress: Called with the fraction done and what is being done.
        profile: The influence that `config` names, if that is its space.

    Raises:
        SettingError: As `compute_map`, and if k is below 1.
    """
    check_given(bundle, head, config, profile)
    if (graph := load_graph(workspace, config, k)) is not None:
        return graph
    space = space_rows(bundle, head, config, profile=profile)
    return graph_of_space(workspace, config, space, k, progress)


def graph_of_space(
    workspace: Workspace, config: MapConfig, space: Rows, k: int, progress: Report | None
) -> NeighbourGraph:
    """Return the k nearest neighbours of rows, read if stored, else computed and stored."""
    if (known := load_graph(workspace, config, k)) is not None:
        return known
    graph = neighbour_graph(space, max(k, GRAPH_K), config.metric, progress=progress)
    workspace.graphs.mkdir(parents=True, exist_ok=True)
    with replace_file(graph_path(workspace, config)) as temporary, temporary.open("wb") as file:
        np.savez(file, indices=graph.indices, distances=graph.distances, exact=graph.exact)
    return graph.first(k)
