"""What a map costs from features to picture: seconds of each stage, and peak memory.

    python benchmarks/maps.py [--n 100000] [--d 512] [--space gradients] [--method umap]

The rows are a mixture of a hundred clusters in two classes, whose spectrum falls as that of a
network's features does. Stages are those of a worker and of a page: the space's columns, the graph
of 30 neighbours that maps and panels share (of more than 20,000 rows the approximate one),
PCA or UMAP (of more than 50,000 rows fitted to 50,000, the others placed), and the description of
the picture as the browser gets it. Beside elapsed seconds are processor seconds, which a busy
machine changes less; the peak is that of the process up to the end of the stage. `--warm` runs
UMAP and the graph on a few rows first, so that compiling them, half a minute or more a process, is
not counted.
"""

from __future__ import annotations

# Before torch, which reads how threads shall wait.
import gsr_core  # isort: skip  # noqa: F401

import argparse
import json
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch

from gsr_core.figures.scatter import MAX_DRAWN, density_map, point_map
from gsr_core.gradients.graph import neighbour_graph
from gsr_core.gradients.projections import pca_map, umap_map
from gsr_core.gradients.reduction import N_COLUMNS
from gsr_core.gradients.representations import gradients, project, unit_rows
from gsr_core.linear.head import Head


def made(n: int, d: int) -> tuple[torch.Tensor, torch.Tensor, Head]:
    """Return features, labels and a head that separates the classes imperfectly."""
    rng = np.random.default_rng(0)
    scale = (np.arange(1, d + 1) ** -0.7).astype(np.float32)
    centres = 2 * rng.standard_normal((100, d), dtype=np.float32)
    cluster = rng.integers(0, 100, n)
    features = (centres[cluster] + rng.standard_normal((n, d), dtype=np.float32)) * scale
    labels = torch.from_numpy(cluster % 2)
    matrix = torch.from_numpy(features)
    direction = matrix[labels == 1].mean(dim=0) - matrix[labels == 0].mean(dim=0)
    return matrix, labels, Head(torch.stack([-direction, direction]), torch.zeros(2))


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Print how long a stage took, and the peak memory of the process."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{name:44} {wall:8.1f} s {cpu:8.1f} s of processor {peak:6.2f} GiB", flush=True)


def picture(places: np.ndarray, labels: np.ndarray) -> str:
    """Return the description of the picture, as the browser gets it."""
    points = pd.DataFrame(places, columns=["x", "y"]).assign(
        row=np.arange(len(places)), label=labels.astype(str)
    )
    if len(points) <= MAX_DRAWN:
        return json.dumps(point_map(points, colour="label", kind="category"))
    on_top = np.arange(0, len(points), 10)
    return json.dumps(density_map(points, on_top, colour="label", kind="category"))


def main() -> None:
    """Measure one map."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--d", type=int, default=512)
    parser.add_argument("--space", choices=["gradients", "features"], default="gradients")
    parser.add_argument("--method", choices=["pca", "umap"], default="umap")
    parser.add_argument("--fast", action="store_true", help="UMAP without a seed")
    parser.add_argument("--warm", action="store_true", help="compile before measuring")
    parser.add_argument("--graph", action="store_true", help="also the graph of all rows")
    chosen = parser.parse_args()

    features, labels, head = made(chosen.n, chosen.d)
    print(f"{chosen.n:,} x {chosen.d}, {chosen.space}, load {os.getloadavg()[0]:.1f}", flush=True)
    if chosen.warm:
        few = features[:4200, :40].numpy()
        if chosen.method == "umap":
            # Below 4,096 fitted rows UMAP compares all, and compiles less.
            umap_map(few, limit=4100)
        if chosen.graph:
            neighbour_graph(few, 10, exact_limit=100)

    with stage("columns of the space"):
        space = features
        if chosen.space == "gradients":
            space = gradients(head, features, labels).centred(labels)
            columns = project(space.unit(), N_COLUMNS).float()
        else:
            columns = unit_rows(features)
    if chosen.graph:
        with stage("graph of 30 neighbours"):
            graph = neighbour_graph(space, 30)
        print(f"    exact: {graph.exact}")
    if chosen.method == "pca":
        with stage("PCA"):
            places = pca_map(columns)
    else:
        with stage("UMAP"):
            places = umap_map(
                columns,
                seed=None if chosen.fast else 0,
                strata=labels.numpy().astype(str),
                progress=announce(),
            )
    with stage("picture"):
        described = picture(places, labels.numpy())
    print(f"    {len(described) / 2**20:.1f} MiB for the browser")


def announce() -> Callable[[float, str], None]:
    """Return a progress that prints when what is being done changes."""
    begun, last = time.perf_counter(), [""]

    def tell(fraction: float, text: str) -> None:
        if text != last[0]:
            last[0] = text
            print(f"    {time.perf_counter() - begun:6.1f} s {text}", flush=True)

    return tell


if __name__ == "__main__":
    main()
