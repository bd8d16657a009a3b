"""SPARE's groups: clusters of each class's early outputs.

Yang et al., "Identifying Spurious Biases Early in Training through the Lens of Simplicity Bias"
(AISTATS 2024): what a network puts out after one or two epochs is governed by the simplest
feature; k-means on the outputs of each class, with k by the silhouette, finds who has it. Here
they are an early head's outputs after softmax, which is what the published silhouettes fit. How
many steps are early enough is chosen without group labels: the number with the best mean
silhouette, the fewest on ties; the published runs chose it by the groups of val.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from scipy.special import softmax

from gsr_core.data.problem import Problem
from gsr_core.inference.base import (
    INFERENCE_CONFIG,
    ClassClusters,
    GroupInference,
    InferredGroups,
    Space,
    numbers_in_words,
    rows_of_class,
    settings,
    within_classes,
)
from gsr_core.inference.kmeans import Centres, best_centres
from gsr_core.inference.references import early_heads, logits_of_splits, reference_head
from gsr_core.linear.head import Head

__all__ = ["MostClusters", "Outputs", "SpareInference"]


Outputs = Annotated[
    Literal["softmax", "logits"],
    Field(description="What is clustered of them; softmax is as published."),
]
MostClusters = Annotated[
    int, Field(ge=2, le=20, description="Most clusters of a class that are tried.")
]


@settings(frozen=True, kw_only=True, config=INFERENCE_CONFIG)
class SpareInference(GroupInference):
    """Cluster each class by what an early head puts out."""

    title: ClassVar[str] = "SPARE: clusters of early outputs"
    summary: ClassVar[str] = (
        "Splits each class by what a head puts out early in training, where a shortcut shows first."
    )
    space: ClassVar[Space] = "logits"

    clustered: Annotated[
        Literal["early", "backbone"],
        Field(
            description="Whose outputs are clustered: those of a head stopped early, or of the "
            "backbone's own head (an early one where there is none)."
        ),
    ] = "early"
    outputs: Outputs = "softmax"
    early_steps: Annotated[
        int,
        Field(
            ge=1,
            le=64,
            description="Most gradient steps of the early head; 1, 2, 4 and so on are tried, and "
            "the best mean silhouette is taken.",
        ),
    ] = 64
    max_clusters: MostClusters = 5

    def partition(self, problem: Problem) -> InferredGroups:
        """Cluster the rows class by class; those of target and val go to the nearest centre.

        Args:
            problem: As `infer` gives it.
        """
        steps, heads = self._heads(problem)
        places = _places(problem)
        outputs = [self._outputs(problem, head) for head in heads]
        tried = self._tried(places, outputs)
        best = _best(tried)
        clusters = {
            label: ClassClusters(
                **{
                    split: centres.assign(outputs[best][split][places[label][split]])
                    for split in places[label]
                }
            )
            for label, centres in tried[best].items()
        }
        choice = numbers_in_words(
            {label: each for label, each in tried[best].items() if each.model is not None}
        )
        if self.clustered == "early":
            choice += f", {steps[best]} gradient steps from zero"
        candidates = [
            {
                "class": label,
                "steps": steps[each],
                "clusters": k,
                "silhouette": score,
                "chosen": each == best and k == centres.k,
            }
            for each, classes in enumerate(tried)
            for label, centres in classes.items()
            for k, score in centres.silhouettes.items()
        ]
        return within_classes(problem, clusters, choice, candidates)

    def reference_of(self, problem: Problem) -> Head:
        """Return the head whose logits are clustered, of the early ones the one that is chosen.

        Args:
            problem: As `infer` gives it.
        """
        _, heads = self._heads(problem)
        if len(heads) == 1:
            return heads[0]
        outputs = [self._outputs(problem, head) for head in heads]
        return heads[_best(self._tried(_places(problem), outputs))]

    def _heads(self, problem: Problem) -> tuple[list[int], list[Head]]:
        """Return how many steps are tried, and the heads after them."""
        if self.clustered == "backbone":
            return [0], [reference_head(problem, "backbone")]
        steps = [2**power for power in range(self.early_steps.bit_length())]
        return steps, early_heads(problem, steps)

    def _outputs(self, problem: Problem, head: Head) -> dict[str, np.ndarray]:
        """Return the (n, K) outputs of a head for the rows of each split."""
        logits = logits_of_splits(problem, head)
        if self.outputs == "logits":
            return dict(logits)
        return {split: softmax(each, axis=1) for split, each in logits.items()}

    def _tried(
        self,
        places: Mapping[int, Mapping[str, np.ndarray]],
        outputs: Sequence[Mapping[str, np.ndarray]],
    ) -> list[dict[int, Centres]]:
        """Return the clustering of each class by the outputs of each head."""
        numbers = range(2, self.max_clusters + 1)
        return [
            {
                label: best_centres(each["weighted"][rows["weighted"]], numbers, self.seed)
                for label, rows in places.items()
            }
            for each in outputs
        ]


def _places(problem: Problem) -> dict[int, dict[str, np.ndarray]]:
    """Return the positions of the rows of each class that has weighted ones."""
    places = {label: rows_of_class(problem, label) for label in range(problem.n_classes)}
    return {label: rows for label, rows in places.items() if len(rows["weighted"])}


def _best(tried: Sequence[Mapping[int, Centres]]) -> int:
    """Return which head has the best mean silhouette, the earliest on ties."""
    return int(np.argmax([_mean_silhouette(each) for each in tried]))


def _mean_silhouette(classes: Mapping[int, Centres]) -> float:
    scores = [max(each.silhouettes.values()) for each in classes.values() if each.silhouettes]
    return float(np.mean(scores)) if scores else -1.0
