"""Seconds and memory of GraSP's clusters, against the plain way of finding them.

    python benchmarks/clustering.py [--n 20000] [--d 512] [--plain 3000]

The features are a few strong, correlated directions and noise; the class follows one, an attribute
another, and one sample in twenty of each class has the other class's attribute. What is timed is
all of `infer`: the head, distances of gradients within each class, DBSCAN for 5 radii and 6
densities, silhouettes, the choice, and the rows of target and val. The plain way, on `--plain` rows
of one class, is scikit-learn's DBSCAN and silhouette_score on a stored float64 matrix, once for
every radius and density, as GraSP's released code does; ours is given the same rows, and both must
find the same core clusters.
"""

from __future__ import annotations

# Before torch, which reads how threads shall wait.
import gsr_core  # isort: skip  # noqa: F401

import argparse
import resource
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.cluster import DBSCAN
from sklearn.metrics import adjusted_rand_score, silhouette_score
from threadpoolctl import threadpool_limits

from gsr_core.compute import pick
from gsr_core.data.problem import Problem, Rows
from gsr_core.gradients.representations import gradients
from gsr_core.inference.agreement import agreement
from gsr_core.inference.base import OUTLIER
from gsr_core.inference.density import dbscan_grid, silhouettes
from gsr_core.inference.distances import Distances
from gsr_core.inference.grasp import DENSITIES, RADII, GraspInference

MINORITY = 20
"""One in so many."""
STRENGTH = np.array([1.0, 3.0, 0.5, 0.5, 0.3, 0.3, 0.2, 0.2])
"""Of the directions; the first follows the class, the second the attribute."""


@dataclass(frozen=True)
class Clock:
    """Elapsed and processor seconds, and peak memory, since it was started."""

    elapsed: float
    processor: float
    peak: int

    @classmethod
    def start(cls) -> Clock:
        """Return a clock that starts now."""
        return cls(time.perf_counter(), time.process_time(), peak_memory())

    def said(self) -> str:
        """Return what has passed since it was started."""
        elapsed = time.perf_counter() - self.elapsed
        processor = time.process_time() - self.processor
        grown = (peak_memory() - self.peak) / 2**20
        return f"{elapsed:.1f} s elapsed, {processor:.1f} s processor, peak + {grown:,.0f} MiB"


def peak_memory() -> int:
    """Return the most bytes that the process has held; Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def make_problem(n: int, d: int) -> Problem:
    """Return n weighted rows and a tenth as many of target and val."""
    rng = np.random.default_rng(0)
    mixing = np.linalg.qr(rng.normal(size=(d, len(STRENGTH))))[0].T

    def rows(count: int) -> Rows:
        labels = np.arange(count) % 2
        attribute = np.where(np.arange(count) // 2 % MINORITY == 0, 1 - labels, labels)
        latent = rng.normal(size=(count, len(STRENGTH))) * STRENGTH
        latent[:, 0] += 2 * labels - 1
        latent[:, 1] = 3 * (2 * attribute - 1) + 0.3 * latent[:, 1]
        features = latent @ mixing + 0.02 * rng.normal(size=(count, d))
        return Rows(
            torch.from_numpy(features.astype(np.float32)),
            torch.from_numpy(labels),
            torch.from_numpy((2 * labels + attribute)[:, None] == np.arange(4)),
            np.arange(count),
        )

    return Problem(rows(n), rows(n // 10), rows(n // 10), n_classes=2, compute=pick("cpu"))


def whole(problem: Problem) -> None:
    """Print what an inference takes."""
    n, d = problem.weighted.features.shape
    inference = GraspInference(class_limit=max(n, 50))
    sizes = problem.weighted.labels.bincount().tolist()
    predicted = inference.predicted_bytes(sizes, d, problem.n_classes)
    print(f"n {n:,}, d {d}, classes of {sizes}, predicted {predicted / 2**20:,.0f} MiB")
    clock = Clock.start()
    found = inference.infer(problem)
    print(f"infer: {clock.said()}")
    agreed = agreement(found.weighted, problem.weighted.groups.numpy())
    print(f"  {found.choice}; adjusted Rand index {agreed.ari:.2f}", flush=True)
    head = inference.head(problem)
    assert head is not None
    with threadpool_limits(limits=1):
        own = class_rows(problem, head, sizes[0])
        clock = Clock.start()
        distance = Distances(own).matrix()
        print(f"  of which, for one class, distances: {clock.said()}", flush=True)
        clock = Clock.start()
        grid = dbscan_grid(distance, RADII, DENSITIES)
        print(f"  DBSCAN for {len(grid)} choices: {clock.said()}", flush=True)
        clock = Clock.start()
        silhouettes(distance, [each.labels for each in grid])
        print(f"  silhouettes: {clock.said()}", flush=True)


def class_rows(problem: Problem, head, count: int):
    """Return the gradients of the first rows of class 0."""
    index = (problem.weighted.labels == 0).nonzero()[:count, 0]
    return gradients(head, problem.weighted.features[index], problem.weighted.labels[index])


def plain(problem: Problem, count: int) -> None:
    """Print what the same choices take by scikit-learn, and the ratio."""
    head = GraspInference().head(problem)
    own = class_rows(problem, head, count)
    with threadpool_limits(limits=1):
        begun = time.process_time()
        distance = Distances(own).matrix()
        ours = dbscan_grid(distance, RADII, DENSITIES)
        our_scores = silhouettes(distance, [each.labels for each in ours])
        our_seconds = time.process_time() - begun

        begun = time.process_time()
        explicit = own.columns().numpy()
        explicit -= explicit.mean(axis=0)
        explicit /= np.linalg.norm(explicit, axis=1, keepdims=True)
        distance = np.clip(1 - explicit @ explicit.T, 0, 2)
        np.fill_diagonal(distance, 0)
        models = [
            DBSCAN(eps=each.radius, min_samples=each.density + 1, metric="precomputed")
            for each in ours
        ]
        labelings = [model.fit(distance).labels_ for model in models]
        scores = []
        for labels in labelings:
            kept = np.flatnonzero(labels != OUTLIER)
            inside = distance[np.ix_(kept, kept)]
            several = labels.max() > 0
            scores.append(
                silhouette_score(inside, labels[kept], metric="precomputed") if several else -1
            )
        plain_seconds = time.process_time() - begun
    same = all(
        adjusted_rand_score(one.labels[one.core], labels[one.core]) == 1
        for one, labels in zip(ours, labelings, strict=True)
    )
    apart = np.abs(np.array(scores) - our_scores).max()
    print(
        f"one class of {count:,} in processor seconds: plain {plain_seconds:.1f} s, "
        f"ours {our_seconds:.2f} s, {plain_seconds / our_seconds:.0f}x; "
        f"same core clusters: {same}; silhouettes differ by at most {apart:.1e}"
    )


def main() -> None:
    """Print seconds and memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--d", type=int, default=512)
    parser.add_argument("--plain", type=int, default=3_000)
    arguments = parser.parse_args()
    problem = make_problem(arguments.n, arguments.d)
    whole(problem)
    plain(problem, min(arguments.plain, arguments.n // 2))


if __name__ == "__main__":
    main()
