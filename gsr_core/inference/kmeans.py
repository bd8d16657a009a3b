"""Groups by k-means in each class: the plain clustering that the others are measured against.

Zeng et al., "Outlier-Robust Group Inference via Gradient Space Clustering" (2022), compare their
density clusters with k-means of two clusters in each class, on gradients and on features as they
are, without centring or scaling; that is the default here. Gradients of more columns than
`dimensions` are projected onto their leading directions in the class's weighted rows, which
`gradient_representation` finds; what is left out of a squared distance is at most what the
projection leaves of the two rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field

from gsr_core.data.problem import Problem
from gsr_core.gradients.representations import Gradients, gradient_representation
from gsr_core.inference.base import (
    INFERENCE_CONFIG,
    ClassClusters,
    InferredGroups,
    numbers_in_words,
    numbers_tried,
    rows_of_class,
    settings,
    within_classes,
)
from gsr_core.inference.spaces import InSpace, vectors_of
from gsr_core.linear.head import Head

if TYPE_CHECKING:
    from sklearn.cluster import KMeans

__all__ = ["Centres", "KmeansInference", "best_centres"]

_RESTARTS = 10
"""Of k-means, as scikit-learn had it by default; the best is taken."""
_SILHOUETTE_ROWS = 5000
"""The silhouette compares all pairs; of larger classes it is taken over this many rows."""


@dataclass(frozen=True)
class Centres:
    """The k-means of one class; no model where the class could not be split.

    Attributes:
        model: That of the best silhouette.
        silhouettes: By number of clusters, -1 where all scored rows are in one.
    """

    model: KMeans | None
    silhouettes: Mapping[int, float]

    @property
    def k(self) -> int:
        """Number of clusters."""
        return 1 if self.model is None else int(self.model.n_clusters)

    def assign(self, places: np.ndarray) -> np.ndarray:
        """Return the nearest centre of each of (n, r) places."""
        if self.model is None or not len(places):
            return np.zeros(len(places), dtype=np.int64)
        return np.asarray(self.model.predict(places), dtype=np.int64)


def best_centres(places: np.ndarray, numbers: Iterable[int], seed: int) -> Centres:
    """Return the k-means of the best mean silhouette, the fewest clusters on ties.

    Args:
        places: (n, r).
        numbers: Of clusters, rising; those that leave no two different places together are not
            tried.
        seed: Of the starts, and of the rows that are scored if there are many.
    """
    # Not above: importing scikit-learn would keep the dashboard's first page waiting.
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    different = len(np.unique(places, axis=0))
    scored = np.random.default_rng(seed).permutation(len(places))[:_SILHOUETTE_ROWS]
    best, silhouettes = None, {}
    for k in numbers:
        if k >= different:
            break
        model = KMeans(k, random_state=seed)
        labels = model.set_params(n_init=_RESTARTS).fit_predict(places)[scored]
        score = -1.0
        if len(np.unique(labels)) > 1:
            score = float(silhouette_score(places[scored], labels))
        if best is None or score > max(silhouettes.values()):
            best = model
        silhouettes[k] = score
    return Centres(best, silhouettes)


@settings(frozen=True, kw_only=True, config=INFERENCE_CONFIG)
class KmeansInference(InSpace):
    """Cluster each class by k-means."""

    title: ClassVar[str] = "k-means in each class"
    summary: ClassVar[str] = (
        "Splits each class into a number of clusters around their means, as it is or by the "
        "silhouette, and leaves no outliers."
    )

    clusters: Annotated[
        int,
        Field(ge=0, le=20, description="Clusters of each class; 0 chooses by the silhouette."),
    ] = 2
    max_clusters: Annotated[
        int, Field(ge=2, le=20, description="Most clusters of a class that are tried if chosen.")
    ] = 5
    dimensions: Annotated[
        int,
        Field(ge=1, le=500, description="Columns to which longer gradients are projected."),
    ] = 50

    def partition(self, problem: Problem) -> InferredGroups:
        """Cluster the weighted rows class by class; the others go to the nearest centre.

        Args:
            problem: As `infer` gives it.
        """
        numbers = (self.clusters,) if self.clusters else range(2, self.max_clusters + 1)
        head = self.reference_of(problem)
        vectors = vectors_of(problem, self.space, head)
        clusters, candidates, split_up = {}, [], {}
        for label in range(problem.n_classes):
            rows = rows_of_class(problem, label)
            if not len(rows["weighted"]):
                continue
            own = {
                split: vectors[split].rows(
                    torch.from_numpy(index).to(vectors[split].features.device)
                )
                for split, index in rows.items()
            }
            places = self._places(own, head, label)
            centres = best_centres(places["weighted"], numbers, self.seed)
            clusters[label] = ClassClusters(
                **{split: centres.assign(each) for split, each in places.items()}
            )
            candidates += numbers_tried(label, centres)
            if centres.model is not None:
                split_up[label] = centres
        choice = f"{self.clusters} clusters of each class, as set"
        if not self.clusters:
            choice = numbers_in_words(split_up)
        return within_classes(problem, clusters, choice, candidates)

    def predicted_bytes(self, class_sizes: Sequence[int], n_features: int, n_classes: int) -> int:
        """Return the most memory that `infer` will take beyond the data.

        Args:
            class_sizes: Weighted rows of each class.
            n_features: d.
            n_classes: K.
        """
        columns = {
            "features": n_features,
            "logits": n_classes,
            "gradients": (n_classes - 1) * (n_features + 1),
        }[self.space]
        rows = max(class_sizes, default=0)
        if self.space != "gradients" or columns <= self.dimensions:
            return 8 * rows * columns
        return 8 * (rows + 3 * columns) * (self.dimensions + 10)

    def _places(
        self, own: Mapping[str, Gradients], head: Head | None, label: int
    ) -> dict[str, np.ndarray]:
        """Return (n, r) places of the rows of one class, gradients in at most `dimensions`."""
        fitted = own["weighted"]
        if self.space != "gradients":
            return {split: _array(each.features) for split, each in own.items()}
        if fitted.width <= self.dimensions:
            return {split: _array(each.columns()) for split, each in own.items()}
        assert head is not None
        labels = torch.full((len(fitted),), label, device=fitted.features.device)
        projected = gradient_representation(
            head, fitted.features, labels, rank=self.dimensions, seed=self.seed
        )
        # The axes of these coordinates, along which all rows can be placed.
        directions = torch.linalg.qr(fitted.transposed_times(projected.to(fitted.residuals))).Q
        return {split: _array(each.times(directions)) for split, each in own.items()}


def _array(values: torch.Tensor) -> np.ndarray:
    return values.double().cpu().numpy()
