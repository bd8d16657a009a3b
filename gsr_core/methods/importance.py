r"""SPARE's sampling: rows of small clusters are drawn more often, by a power for each class.

Yang et al., "Identifying Spurious Biases Early in Training through the Lens of Simplicity Bias"
(AISTATS 2024): row i of class c and cluster V is drawn with probability

.. math:: p_i \propto |V|^{-\lambda_c}

within its class, all classes equally often: clusters have mass :math:`\propto |V|^{1 - \lambda}`.
Lambda is 1 where the silhouette says that the clusters are clear-cut, else 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np
from pydantic import Field

from gsr_core.inference.base import InferredGroups
from gsr_core.methods.base import SETTINGS_CONFIG, settings

__all__ = ["Importance", "importance", "importance_in_words"]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class Importance:
    """Which power the sampling takes in which class."""

    clear: Annotated[
        float,
        Field(
            ge=-1,
            le=1,
            description="Importance sampling: silhouette from which clusters are clear-cut.",
        ),
    ] = 0.9
    power_clear: Annotated[
        float,
        Field(
            ge=0,
            le=2,
            description="Importance sampling: power of the inverse cluster size in a class with "
            "clear-cut clusters; 1 makes them equally likely, 0 leaves the class as it is.",
        ),
    ] = 1.0
    power_blurred: Annotated[
        float,
        Field(
            ge=0,
            le=2,
            description="Importance sampling: the same in any other class; 2 makes smaller "
            "clusters likelier, which reverses the imbalance if they are pure.",
        ),
    ] = 2.0

    def powers(self, inferred: InferredGroups, n_classes: int) -> dict[int, float]:
        """Return lambda of each class: by its silhouette, and 1 where there is one cluster."""
        powers = dict.fromkeys(range(n_classes), 1.0)
        for row in inferred.candidates.to_dict("records"):
            if row["chosen"]:
                clear = row["silhouette"] >= self.clear
                powers[row["class"]] = self.power_clear if clear else self.power_blurred
        return powers


def importance(group: np.ndarray, labels: np.ndarray, power: Mapping[int, float]) -> np.ndarray:
    """Return SPARE's sampling probabilities.

    Args:
        group: (n,) cluster of each row, within one class each.
        labels: (n,) classes.
        power: Lambda of each class: 1 makes its clusters equally likely, 2 the smaller ones the
            likelier, 0 makes all its rows equally likely.

    Returns:
        (n,), each class with the same sum, one in all.

    Example:
        >>> group, labels = np.array([0, 0, 0, 1, 2, 2]), np.array([0, 0, 0, 0, 1, 1])
        >>> importance(group, labels, {0: 1.0, 1: 0.0}).round(4)
        array([0.0833, 0.0833, 0.0833, 0.25  , 0.25  , 0.25  ])
    """
    sizes = np.bincount(group)[group].astype(np.float64)
    present = np.unique(labels)
    probability = np.empty(len(group))
    for label in present:
        inside = labels == label
        chance = sizes[inside] ** -power[int(label)]
        probability[inside] = chance / chance.sum() / len(present)
    return probability


def importance_in_words(power: Mapping[int, float], probability: np.ndarray) -> str:
    """Return a sentence about the sampling.

    Args:
        power: Lambda of each class.
        probability: (n,) from `importance`.
    """
    each = ", ".join(f"{power[label]:g}" for label in sorted(power))
    effective = 1 / np.square(probability).sum()
    return (
        f"Drawn by powers {each} of the inverse cluster size; effective sample size "
        f"{effective:,.0f} of {len(probability):,}."
    )
