"""GraSP's groups and outliers: density clusters of each class's gradient directions.

Zeng et al., "Outlier-Robust Group Inference via Gradient Space Clustering" (2022): the
gradients of the unregularised loss by a linear head, centred in each class and compared by
cosine, are clustered by DBSCAN; radius and density are chosen in each class by the silhouette,
without group labels. FeaSP is the same on features.

Where we differ: the silhouette is the cosine one, of the rows in clusters (the released code takes
the Euclidean one on unit vectors and counts the outliers as a cluster; both can be chosen);
choices that make too many rows outliers are left out, because the silhouette alone favours a
small radius; and rows of target and val are not clustered with the others but join the cluster
of the nearest core sample within the radius. A class of which no choice is left stays whole.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from sklearn.cluster import DBSCAN
from sklearn.metrics import silhouette_score
from torch import Tensor

from gsr_core.data.splits import Problem
from gsr_core.gradients.representations import Gradients, gradients, gram
from gsr_core.inference.base import (
    INFERENCE_CONFIG,
    OUTLIER,
    ClassClusters,
    GroupInference,
    InferredGroups,
    in_words,
    rows_of_class,
    settings,
    splits_of,
    within_classes,
)
from gsr_core.inference.distances import centred_cosine, centred_cosine_to
from gsr_core.inference.references import Reference, reference_head

__all__ = ["DENSITIES", "RADII", "DensityClusters", "FeaspInference", "GraspInference"]

RADII = (0.1, 0.2, 0.3, 0.5, 0.7)
DENSITIES = (10, 20, 30, 50, 70, 100)
"""The published grid: radius of a neighbourhood, and other samples in it of a core sample."""

_BLOCK = 2**24
"""Distances to new rows held at a time."""


@dataclass(frozen=True)
class _Clustering:
    radius: float
    density: int
    labels: np.ndarray
    core: np.ndarray
    silhouette: float


@settings(frozen=True, kw_only=True, config=INFERENCE_CONFIG)
class DensityClusters(GroupInference):
    """Density clusters of directions, class by class."""

    silhouette: Annotated[
        Literal["cosine", "euclidean"],
        Field(description="Distance of the silhouette; euclidean is that of the unit vectors."),
    ] = "cosine"
    count_outliers: Annotated[
        bool, Field(description="Count the outliers as a cluster in the silhouette.")
    ] = False
    max_outliers: Annotated[
        float,
        Field(ge=0, le=1, description="Largest share of a class that may become outliers."),
    ] = 0.2
    class_limit: Annotated[
        int,
        Field(
            ge=50,
            le=20_000,
            description="Most rows of a class that are clustered, drawn at random; the others "
            "join the nearest core sample. Memory grows with the square.",
        ),
    ] = 3000

    def partition(self, problem: Problem) -> InferredGroups:
        """Cluster the rows class by class.

        Args:
            problem: As `infer` gives it.
        """
        vectors = self.vectors(problem)
        draws = np.random.default_rng(self.seed).random(len(problem.weighted))
        clusters, candidates, chosen, limited = {}, [], {}, 0
        for label in range(problem.n_classes):
            rows = rows_of_class(problem, label)
            n = len(rows["weighted"])
            if not n:
                continue
            drawn = np.argsort(draws[rows["weighted"]])[: self.class_limit]
            sample = np.sort(drawn)
            limited += n > self.class_limit
            own = _rows(vectors["weighted"], rows["weighted"][sample])
            inner = gram(own, own)
            best, tried = self._best(centred_cosine(inner).cpu().numpy())
            candidates += [{"class": label, **each} for each in tried]
            if best is None:
                clusters[label] = ClassClusters(
                    **{split: np.zeros(len(index), dtype=np.int64) for split, index in rows.items()}
                )
                continue
            chosen[label] = best
            found = {
                split: _join(_rows(vectors[split], index), own, inner, best)
                for split, index in rows.items()
            }
            # What was clustered keeps its cluster; only the others join the nearest.
            found["weighted"][sample] = best.labels
            clusters[label] = ClassClusters(**found)
        choice = in_words(
            {label: each.silhouette for label, each in chosen.items()},
            {label: f"eps {each.radius:g}, m {each.density}" for label, each in chosen.items()},
        )
        if limited:
            choice += f", clustered on {self.class_limit} rows of a class"
        return within_classes(problem, clusters, choice, candidates)

    @abstractmethod
    def vectors(self, problem: Problem) -> dict[str, Gradients]:
        """Return what is compared, in factored form, split by split.

        Args:
            problem: As `infer` gives it.
        """

    def _best(self, distance: np.ndarray) -> tuple[_Clustering | None, list[dict[str, object]]]:
        """Return the clustering of the best silhouette, if any is left, and what was tried."""
        best, tried = None, []
        scored = distance if self.silhouette == "cosine" else np.sqrt(2 * distance)
        for radius in RADII:
            # The sample itself is among them, which scikit-learn counts and the paper does not.
            neighbours = (distance <= radius).sum(axis=1)
            core, labels, score = None, np.empty(0), -1.0
            for density in DENSITIES:
                if core is None or ((neighbours > density) != core).any():
                    core = neighbours > density
                    model = DBSCAN(eps=radius, min_samples=density + 1, metric="precomputed")
                    labels = model.fit(distance).labels_
                    score = self._score(scored, labels)
                share = float((labels == OUTLIER).mean())
                allowed = score > -1 and share <= self.max_outliers
                if allowed and (best is None or score > best.silhouette):
                    best = _Clustering(radius, density, labels, np.flatnonzero(core), score)
                tried.append(
                    {
                        "eps": radius,
                        "m": density,
                        "clusters": int(labels.max()) + 1,
                        "outliers": share,
                        "silhouette": score,
                    }
                )
        for row in tried:
            row["chosen"] = best is not None and (best.radius, best.density) == (
                row["eps"],
                row["m"],
            )
        return best, tried

    def _score(self, distance: np.ndarray, labels: np.ndarray) -> float:
        """Return the silhouette, -1 of fewer than two clusters."""
        if labels.max() < 1:
            return -1.0
        if not self.count_outliers:
            kept = np.flatnonzero(labels != OUTLIER)
            distance, labels = distance[np.ix_(kept, kept)], labels[kept]
        return float(silhouette_score(distance, labels, metric="precomputed"))


@settings(frozen=True, kw_only=True, config=INFERENCE_CONFIG)
class GraspInference(DensityClusters):
    """Cluster each class by the direction of its gradients."""

    reference: Annotated[
        Reference,
        Field(
            description="The head whose gradients are taken: one fitted to the end on the "
            "weighted rows, one stopped early, or the backbone's own (an early one where there is "
            "none)."
        ),
    ] = "converged"
    reference_l2: Annotated[
        float,
        Field(gt=0, description="Penalty of a head fitted to the end; the gradients have none."),
    ] = 1e-4

    def vectors(self, problem: Problem) -> dict[str, Gradients]:
        """Return the gradients of the unregularised loss, in factored form, split by split.

        Args:
            problem: As `infer` gives it.
        """
        head = reference_head(problem, self.reference, self.reference_l2)
        return {
            split: gradients(head, rows.features, rows.labels)
            for split, rows in splits_of(problem).items()
        }


@settings(frozen=True, kw_only=True, config=INFERENCE_CONFIG)
class FeaspInference(DensityClusters):
    """Cluster each class by the direction of its features."""

    def vectors(self, problem: Problem) -> dict[str, Gradients]:
        """Return the features with a one appended, which centring takes away, split by split.

        Args:
            problem: As `infer` gives it.
        """
        wide = problem.compute.accumulate_dtype
        return {
            split: Gradients(rows.features.new_ones(len(rows), 1, dtype=wide), rows.features)
            for split, rows in splits_of(problem).items()
        }


def _rows(vectors: Gradients, index: np.ndarray) -> Gradients:
    return vectors.rows(torch.from_numpy(index).to(vectors.features.device))


def _join(others: Gradients, own: Gradients, inner: Tensor, clustering: _Clustering) -> np.ndarray:
    """Return the cluster of the nearest core sample within the radius, for each other row.

    Args:
        others: q rows.
        own: The n rows that were clustered.
        inner: (n, n) inner products of these.
        clustering: Of these.

    Returns:
        (q,) clusters, `OUTLIER` where no core sample is near enough.
    """
    core = torch.from_numpy(clustering.core).to(inner.device)
    squares = others.norms().square()
    found = np.full(len(others), OUTLIER, dtype=np.int64)
    size = max(1, _BLOCK // len(own))
    for start in range(0, len(others), size):
        index = np.arange(start, min(start + size, len(others)))
        block = _rows(others, index)
        distance = centred_cosine_to(gram(block, own), squares[start : start + size], inner)
        nearest, which = distance[:, core].min(dim=1)
        near = (nearest <= clustering.radius).cpu().numpy()
        found[index[near]] = clustering.labels[clustering.core[which.cpu().numpy()[near]]]
    return found
