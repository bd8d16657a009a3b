"""GraSP's groups and outliers: density clusters of each class's gradient directions.

Zeng et al., "Outlier-Robust Group Inference via Gradient Space Clustering" (2022): the
gradients of the unregularised loss by a linear head, centred in each class and compared by
cosine, are clustered by DBSCAN; radius and density are chosen in each class by the silhouette,
without group labels. FeaSP is the same on features.

Where we differ: the silhouette is the cosine one, of the rows in clusters (the released code takes
the Euclidean one on unit vectors and counts the outliers as a cluster; both can be chosen);
choices that make too many rows outliers are left out, because the silhouette alone favours a
small radius; and rows of target and val are not clustered with the others but join the cluster
of the nearest core sample within the radius. A class without a permitted choice stays whole.

The paper's other column, DBSCAN on Euclidean distances of raw vectors, is `metric="euclidean"`.
It does not say in what unit the radii are meant. Here they are those of the grid in squared
distances relative to their mean in the class (`distances`): where all rows are equally long this
is the cosine grid, and no unit of the features changes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from gsr_core.data.problem import Problem
from gsr_core.inference.base import INFERENCE_CONFIG, OUTLIER, Space, in_words, settings
from gsr_core.inference.density import dbscan_grid, silhouettes
from gsr_core.inference.pairwise import ClassPartition, PairwiseInference
from gsr_core.inference.references import Reference, reference_head
from gsr_core.linear.head import Head

__all__ = ["DENSITIES", "RADII", "DensityClusters", "FeaspInference", "GraspInference"]

RADII = (0.1, 0.2, 0.3, 0.5, 0.7)
DENSITIES = (10, 20, 30, 50, 70, 100)
"""The published grid: radius of a neighbourhood, and how many others a core sample has there."""


@settings(frozen=True, kw_only=True, config=INFERENCE_CONFIG)
class DensityClusters(PairwiseInference):
    """DBSCAN's clusters of each class, radius and density by the silhouette."""

    silhouette: Annotated[
        Literal["cosine", "euclidean"],
        Field(
            description="Distance of the silhouette with metric cosine; euclidean is that of the "
            "unit vectors. With metric euclidean it is the Euclidean one."
        ),
    ] = "cosine"
    count_outliers: Annotated[
        bool, Field(description="Count the outliers as a cluster in the silhouette.")
    ] = False
    max_outliers: Annotated[
        float,
        Field(ge=0, le=1, description="Largest share of a class that may become outliers."),
    ] = 0.2

    def cluster(self, distance: np.ndarray) -> ClassPartition:
        """Return the clusters of the best silhouette over the published grid.

        Args:
            distance: (n, n) float32, symmetric, with a diagonal of zeros.
        """
        grid = dbscan_grid(distance, RADII, DENSITIES)
        labelings = [each.labels for each in grid]
        if self.count_outliers:
            labelings = [_with_outliers(labels) for labels in labelings]
        root = "euclidean" in (self.metric, self.silhouette)
        # The outliers alone are no second cluster.
        scores = [
            score if each.labels.max() > 0 else -1.0
            for each, score in zip(grid, silhouettes(distance, labelings, root=root), strict=True)
        ]
        shares = [float((each.labels == OUTLIER).mean()) for each in grid]
        allowed = [
            place
            for place, (score, share) in enumerate(zip(scores, shares, strict=True))
            if score > -1 and share <= self.max_outliers
        ]
        best = max(allowed, key=scores.__getitem__, default=None)
        candidates = [
            {
                "eps": each.radius,
                "m": each.density,
                "clusters": int(each.labels.max()) + 1,
                "outliers": shares[place],
                "silhouette": scores[place],
                "chosen": place == best,
            }
            for place, each in enumerate(grid)
        ]
        if best is None:
            none = np.full(len(distance), OUTLIER)
            return ClassPartition(none, np.full(len(distance), -1.0), -1.0, "", candidates)
        chosen = grid[best]
        reach = np.where(chosen.core, chosen.radius, -1.0)
        choice = f"eps {chosen.radius:g}, m {chosen.density}"
        return ClassPartition(chosen.labels, reach, scores[best], choice, candidates)

    def in_words(self, chosen: Mapping[int, ClassPartition]) -> str:
        """Say which silhouette chose what.

        Args:
            chosen: Clusters by class.
        """
        return in_words(
            {label: each.score for label, each in chosen.items()},
            {label: each.choice for label, each in chosen.items()},
        )


def _with_outliers(labels: np.ndarray) -> np.ndarray:
    """Return the labels with the outliers as one more cluster."""
    return np.where(labels == OUTLIER, labels.max() + 1, labels)


@settings(frozen=True, kw_only=True, config=INFERENCE_CONFIG)
class GraspInference(DensityClusters):
    """Cluster each class by the direction of its gradients."""

    title: ClassVar[str] = "GraSP: density clusters of gradients"
    summary: ClassVar[str] = (
        "Finds where in each class many samples move the head in the same direction, and calls the "
        "others outliers."
    )
    space: ClassVar[Space] = "gradients"

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

    def reference_of(self, problem: Problem) -> Head:
        """Return the head whose gradients are clustered.

        Args:
            problem: As `infer` gives it.
        """
        return reference_head(problem, self.reference, self.reference_l2)


@settings(frozen=True, kw_only=True, config=INFERENCE_CONFIG)
class FeaspInference(DensityClusters):
    """Cluster each class by the direction of its features."""

    title: ClassVar[str] = "FeaSP: density clusters of features"
    summary: ClassVar[str] = (
        "GraSP on features instead of gradients: dense regions of each class are its clusters."
    )
    space: ClassVar[Space] = "features"
