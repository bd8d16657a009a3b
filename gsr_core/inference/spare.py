"""SPARE's groups: clusters of each class's early outputs.

Yang et al., "Identifying Spurious Biases Early in Training through the Lens of Simplicity Bias"
(AISTATS 2024): what a network puts out after one or two epochs is governed by the simplest
feature; k-means on the outputs of each class, with k by the silhouette, finds who has it. Here
the outputs are an early head's logits. How many steps are early enough is chosen without group
labels: the number with the best mean silhouette, the fewest on ties; the published runs chose it
by the groups of val.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

from gsr_core.data.splits import Problem
from gsr_core.inference.base import (
    INFERENCE_CONFIG,
    ClassClusters,
    GroupInference,
    InferredGroups,
    in_words,
    rows_of_class,
    settings,
    within_classes,
)
from gsr_core.inference.references import early_heads, logits_of_splits, reference_head

__all__ = ["SpareInference"]

_RESTARTS = 10
_SILHOUETTE_ROWS = 5000
"""The silhouette compares all pairs; of larger classes it is that of so many rows."""


@dataclass(frozen=True)
class _Clustering:
    """The best clustering of one class; no model where the class could not be split."""

    model: KMeans | None
    silhouettes: Mapping[int, float]

    @property
    def k(self) -> int:
        return 1 if self.model is None else max(self.silhouettes, key=self.silhouettes.__getitem__)

    def assign(self, outputs: np.ndarray) -> np.ndarray:
        if self.model is None or not len(outputs):
            return np.zeros(len(outputs), dtype=np.int64)
        return np.asarray(self.model.predict(outputs), dtype=np.int64)


@settings(frozen=True, kw_only=True, config=INFERENCE_CONFIG)
class SpareInference(GroupInference):
    """Cluster each class by what an early head puts out."""

    clustered: Annotated[
        Literal["early", "backbone"],
        Field(
            description="Whose logits are clustered: those of a head stopped early, or of the "
            "backbone's own head (an early one where there is none)."
        ),
    ] = "early"
    early_steps: Annotated[
        int,
        Field(
            ge=1,
            le=64,
            description="Most gradient steps of the early head; 1, 2, 4 and so on are tried, and "
            "the best mean silhouette is taken.",
        ),
    ] = 4
    max_clusters: Annotated[
        int, Field(ge=2, le=20, description="Most clusters of a class that are tried.")
    ] = 5

    def partition(self, problem: Problem) -> InferredGroups:
        """Cluster the rows class by class; those of target and val go to the nearest centre.

        Args:
            problem: As `infer` gives it.
        """
        if self.clustered == "backbone":
            steps, heads = [0], [reference_head(problem, "backbone")]
        else:
            steps = [2**power for power in range(self.early_steps.bit_length())]
            heads = early_heads(problem, steps)
        places = {
            label: rows
            for label in range(problem.n_classes)
            for rows in [rows_of_class(problem, label)]
            if len(rows["weighted"])
        }
        outputs = [logits_of_splits(problem, head) for head in heads]
        tried = [
            {
                label: self._cluster(each["weighted"][rows["weighted"]])
                for label, rows in places.items()
            }
            for each in outputs
        ]
        best = int(np.argmax([_mean_silhouette(each) for each in tried]))
        clusters = {
            label: ClassClusters(
                **{
                    split: found.assign(outputs[best][split][places[label][split]])
                    for split in places[label]
                }
            )
            for label, found in tried[best].items()
        }
        choice = in_words(
            {
                label: max(found.silhouettes.values())
                for label, found in tried[best].items()
                if found.model is not None
            },
            {label: f"{found.k} clusters" for label, found in tried[best].items()},
        )
        if self.clustered == "early":
            choice += f", {steps[best]} gradient steps from zero"
        candidates = [
            {
                "class": label,
                "steps": steps[each],
                "clusters": k,
                "silhouette": score,
                "chosen": each == best and k == found.k,
            }
            for each, classes in enumerate(tried)
            for label, found in classes.items()
            for k, score in found.silhouettes.items()
        ]
        return within_classes(problem, clusters, choice, candidates)

    def _cluster(self, outputs: np.ndarray) -> _Clustering:
        """Return the clustering (n, K) of the best mean silhouette, the fewest clusters on ties."""
        different = len(np.unique(outputs, axis=0))
        best, silhouettes = None, {}
        for k in range(2, min(self.max_clusters, different - 1) + 1):
            model = KMeans(k, random_state=self.seed)
            model.set_params(n_init=_RESTARTS).fit(outputs)
            score = silhouette_score(
                outputs,
                model.labels_,
                sample_size=min(_SILHOUETTE_ROWS, len(outputs)),
                random_state=self.seed,
            )
            if score > max(silhouettes.values(), default=-np.inf):
                best = model
            silhouettes[k] = float(score)
        return _Clustering(best, silhouettes)


def _mean_silhouette(classes: Mapping[int, _Clustering]) -> float:
    scores = [max(found.silhouettes.values()) for found in classes.values() if found.silhouettes]
    return float(np.mean(scores)) if scores else -1.0
