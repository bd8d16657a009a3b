"""Clusters from all distances within a class, which are held in memory up to a stated limit."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from gsr_core.data.problem import Problem
from gsr_core.errors import SettingError
from gsr_core.gradients.representations import Gradients
from gsr_core.inference.base import (
    INFERENCE_CONFIG,
    OUTLIER,
    ClassClusters,
    GroupInference,
    InferredGroups,
    rows_of_class,
    settings,
    within_classes,
)
from gsr_core.inference.distances import BLOCK, Distances, Metric
from gsr_core.inference.spaces import vectors_of

__all__ = ["ClassPartition", "PairwiseInference"]

_FEWEST = 50
"""The smallest `class_limit`."""
_TEMPORARIES = 6
"""Blocks in full precision that exist at a time."""
_PER_ROW = 10_000
"""Bytes for each row: its nearest others, sums over clusters, and labels on a grid."""


@dataclass(frozen=True)
class ClassPartition:
    """The clusters of a class, and how they were chosen.

    Attributes:
        labels: (n,) int64 clusters from 0, `OUTLIER` for none; all of them if the class is to stay
            whole.
        reach: (n,) how near to a row another one must be to join its cluster; negative if none can.
        score: By which they were chosen.
        choice: The choice in words.
        candidates: Rows of the table of candidates.
    """

    labels: np.ndarray
    reach: np.ndarray
    score: float
    choice: str
    candidates: Sequence[Mapping[str, object]]


@settings(frozen=True, kw_only=True, config=INFERENCE_CONFIG)
class PairwiseInference(GroupInference):
    """Clusters of each class from the distances between its rows.

    Rows that were not clustered, those of target and val among them, join the cluster of the
    nearest row that others may join, if they are within its reach.
    """

    metric: Annotated[
        Metric,
        Field(
            description="cosine compares directions from the class's mean; euclidean the rows as "
            "they are, its squared distances in units of their mean in the class."
        ),
    ] = "cosine"
    class_limit: Annotated[
        int,
        Field(
            ge=_FEWEST,
            le=100_000,
            description="Most rows of a class that are clustered, drawn at random; the others "
            "join the nearest. Memory and time grow with the square.",
        ),
    ] = 10_000
    memory_gb: Annotated[
        float,
        Field(
            gt=0,
            description="Memory limit in GiB; a clustering that would exceed it is refused before "
            "it starts.",
        ),
    ] = 4.0

    def partition(self, problem: Problem) -> InferredGroups:
        """Cluster the rows class by class.

        Args:
            problem: As `infer` gives it.
        """
        vectors = vectors_of(problem, self.space, self.reference_of(problem))
        draws = np.random.default_rng(self.seed).random(len(problem.weighted))
        clusters, candidates, chosen, limited = {}, [], {}, False
        for label in range(problem.n_classes):
            rows = rows_of_class(problem, label)
            n = len(rows["weighted"])
            if not n:
                continue
            sample = np.sort(np.argsort(draws[rows["weighted"]])[: self.class_limit])
            limited |= n > self.class_limit
            own = _rows(vectors["weighted"], rows["weighted"][sample])
            distances = Distances(own, self.metric)
            partition = self.cluster(distances.matrix())
            candidates += [{"class": label, **each} for each in partition.candidates]
            if partition.labels.max() < 0:
                clusters[label] = ClassClusters(
                    **{split: np.zeros(len(index), dtype=np.int64) for split, index in rows.items()}
                )
                continue
            chosen[label] = partition
            # What was clustered keeps its cluster; only the others join the nearest.
            others = {**rows, "weighted": np.delete(rows["weighted"], sample)}
            joined = {
                split: _joined(_rows(vectors[split], index), distances, partition)
                for split, index in others.items()
            }
            weighted = np.empty(n, dtype=np.int64)
            weighted[sample] = partition.labels
            weighted[np.delete(np.arange(n), sample)] = joined["weighted"]
            clusters[label] = ClassClusters(weighted, joined["target"], joined["val"])
        choice = self.in_words(chosen)
        if limited:
            choice += f", clustered on {self.class_limit:,} rows of a class"
        return within_classes(problem, clusters, choice, candidates)

    @abstractmethod
    def cluster(self, distance: np.ndarray) -> ClassPartition:
        """Return the clusters of a class.

        Args:
            distance: (n, n) float32, symmetric, with a diagonal of zeros.
        """

    @abstractmethod
    def in_words(self, chosen: Mapping[int, ClassPartition]) -> str:
        """Say what was chosen and why, a phrase without a full stop.

        Args:
            chosen: Clusters by class, of the classes that did not stay whole.
        """

    def predicted_bytes(self, class_sizes: Sequence[int], n_features: int, n_classes: int) -> int:
        """Return the most memory that `infer` will take beyond the data.

        Args:
            class_sizes: Weighted rows of each class.
            n_features: d.
            n_classes: K.
        """
        n = min(max(class_sizes, default=0), self.class_limit)
        columns = n_classes if self.space == "logits" else n_features
        free = n_classes - 1 if self.space == "gradients" else 1
        stored = 4 * n * n
        blocks = 8 * _TEMPORARIES * min(n * n, BLOCK)
        vectors = n * (12 * columns + 16 * free) + 24 * free * (columns + 1)
        return stored + blocks + vectors + _PER_ROW * n

    def check_memory(self, class_sizes: Sequence[int], n_features: int, n_classes: int) -> None:
        """Refuse a clustering that would take more than `memory_gb`.

        Args:
            class_sizes: Weighted rows of each class.
            n_features: d.
            n_classes: K.

        Raises:
            SettingError: If it would; the sentence names settings that fit.
        """

        def needed(rows: int) -> float:
            """Return the GiB for this many rows of the largest class."""
            return self.predicted_bytes([rows], n_features, n_classes) / 2**30

        rows = min(max(class_sizes, default=0), self.class_limit)
        if needed(rows) <= self.memory_gb:
            return
        # Rounded to two digits, for a number that somebody types.
        fits = bisect_right(range(rows), self.memory_gb, key=needed) - 1
        fits -= fits % 10 ** max(len(str(fits)) - 2, 0)
        more = np.ceil(needed(rows) * 10) / 10
        advice = f"raise memory_gb to {more:g}"
        if fits >= _FEWEST:
            advice = f"lower class_limit to {fits} or {advice}"
        raise SettingError(
            f"clustering {rows:,} rows of a class would take {more:g} GiB of memory, and "
            f"memory_gb allows {self.memory_gb:g}; {advice}"
        )


def _joined(others: Gradients, distances: Distances, partition: ClassPartition) -> np.ndarray:
    """Return (q,) clusters of q rows: that of the nearest within its reach, else `OUTLIER`."""
    taking = np.flatnonzero(partition.reach >= 0)
    distances = distances.among(taking)
    joined = np.full(len(others), OUTLIER, dtype=np.int64)
    size = max(1, BLOCK // len(taking))
    for start in range(0, len(others), size):
        index = np.arange(start, min(start + size, len(others)))
        nearest, which = distances.to(_rows(others, index)).min(dim=1)
        row = taking[which.cpu().numpy()]
        near = nearest.cpu().numpy() <= partition.reach[row]
        joined[index[near]] = partition.labels[row[near]]
    return joined


def _rows(vectors: Gradients, index: np.ndarray) -> Gradients:
    return vectors.rows(torch.from_numpy(index).to(vectors.features.device))
