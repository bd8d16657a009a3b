"""Groups by HDBSCAN in each class: density clusters at the densities that last longest.

Campello, Moulavi and Sander, "Density-Based Clustering Based on Hierarchical Density Estimates"
(PAKDD 2013): the clusters of DBSCAN at all radii form a tree, of which the clusters count that
last longest while the radius shrinks. There is no radius to choose, and clusters may differ in
density.
The tree is by scikit-learn, from the spanning tree of `density`; lengths are those between unit
vectors, or raw ones with `metric="euclidean"`. A row by which two clusters touch is equally far
from both; it goes with the one that Prim's order came from.

Rows that were not clustered, those of target and val among them, join the cluster of the nearest
clustered row, if they are no further from it than its own m-th nearest row. A class in which
nothing lasts stays whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from scipy.sparse import coo_array

from gsr_core.inference.base import CLASSES_IN_WORDS, INFERENCE_CONFIG, OUTLIER, settings
from gsr_core.inference.density import nearest_others, order, silhouettes
from gsr_core.inference.pairwise import ClassPartition, PairwiseInference
from gsr_core.inference.spaces import InSpace

__all__ = ["HdbscanInference"]

_SHORTEST = 1e-10
"""Of an edge, since a sparse matrix takes zeros for absent ones."""


@settings(frozen=True, kw_only=True, config=INFERENCE_CONFIG)
class HdbscanInference(InSpace, PairwiseInference):  # pyright: ignore[reportIncompatibleVariableOverride]
    """Cluster each class by the density that lasts."""

    title: ClassVar[str] = "HDBSCAN: clusters of any density"
    summary: ClassVar[str] = (
        "Finds the dense regions of each class that last longest while the radius shrinks, and "
        "calls the others outliers."
    )

    min_cluster_size: Annotated[
        int, Field(ge=2, le=100_000, description="Fewest samples of a cluster.")
    ] = 20
    density: Annotated[
        int,
        Field(
            ge=1,
            le=1000,
            description="Other samples that must be near; more give fewer, denser clusters and "
            "more outliers.",
        ),
    ] = 10

    def cluster(self, distance: np.ndarray) -> ClassPartition:
        """Return the clusters that last longest.

        Args:
            distance: (n, n) float32, symmetric, with a diagonal of zeros.
        """
        n = len(distance)
        core = nearest_others(distance, self.density).core(self.density)
        labels = np.full(n, OUTLIER, dtype=np.int64)
        if n >= max(2 * self.min_cluster_size, self.density + 1):
            labels = self._lasting(*order(distance, core, np.inf))
        count = int(labels.max()) + 1
        outliers = float((labels == OUTLIER).mean())
        (score,) = silhouettes(distance, [labels], root=self.metric == "euclidean")
        candidates = [
            {"clusters": count, "outliers": outliers, "silhouette": score, "chosen": count > 0}
        ]
        reach = np.where(labels == OUTLIER, -1.0, core)
        choice = f"{count} clusters, {outliers:.0%} outliers"
        return ClassPartition(labels, reach, score, choice, candidates)

    def in_words(self, chosen: Mapping[int, ClassPartition]) -> str:
        """Say which clusters last.

        Args:
            chosen: Clusters by class.
        """
        if not chosen:
            return "no class could be split"
        if len(chosen) > CLASSES_IN_WORDS:
            counts = [int(each.labels.max()) + 1 for each in chosen.values()]
            return f"from {min(counts)} to {max(counts)} clusters last in {len(chosen)} classes"
        return "; ".join(
            f"{each.choice} in class {label}" for label, each in sorted(chosen.items())
        )

    def _lasting(self, places: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Return HDBSCAN's labels from Prim's order.

        A chain of the samples in that order, with the edges by which they were reached, falls
        apart at every radius as the spanning tree does.
        """
        # Not above: importing scikit-learn would keep the dashboard's pages waiting.
        from sklearn.cluster import HDBSCAN

        n = len(places)
        chain = np.maximum(np.sqrt(2 * lengths[1:].astype(np.float64)), _SHORTEST)
        edges = coo_array((chain, (places[:-1], places[1:])), shape=(n, n)).tocsr()
        # The shortest edge at a sample is no longer than any other there: with a density of one,
        # the lengths stay as they are.
        model = HDBSCAN(min_cluster_size=self.min_cluster_size, min_samples=1, metric="precomputed")
        model.set_params(copy=True)
        return model.fit(edges + edges.T).labels_.astype(np.int64)
