"""What a group inference is, and what it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as settings
from threadpoolctl import threadpool_limits

from gsr_core.data.problem import Problem, Rows
from gsr_core.linear.head import Head

__all__ = [
    "CLASSES_IN_WORDS",
    "INFERENCE_CONFIG",
    "OUTLIER",
    "ClassClusters",
    "GroupInference",
    "InferredGroups",
    "Space",
    "in_words",
    "rows_of_class",
    "settings",
    "splits_of",
    "within_classes",
]

INFERENCE_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False, validate_default=True)

Space = Literal["gradients", "features", "logits"]
"""What is compared: gradients of a head's loss, the features, or what the head puts out."""

OUTLIER = -1
"""The group of a row that belongs to none."""

CLASSES_IN_WORDS = 3
"""Of more classes than this, a sentence gives the range."""


@dataclass(frozen=True)
class InferredGroups:
    """A group for each row of three splits, disjoint and within one class each.

    Attributes:
        weighted: (n,) int64 group of each row, `OUTLIER` for a row in none.
        target: Likewise.
        val: Likewise.
        names: A name for each group; every group has a weighted row.
        choice: What was chosen and why, a phrase without a full stop.
        candidates: What was tried: a row each, with its score and whether it was `chosen`.
    """

    weighted: np.ndarray
    target: np.ndarray
    val: np.ndarray
    names: tuple[str, ...]
    choice: str
    candidates: pd.DataFrame

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(self.names)

    @property
    def n_outliers(self) -> int:
        """Number of weighted rows in no group."""
        return int((self.weighted == OUTLIER).sum())


@settings(frozen=True, kw_only=True, config=INFERENCE_CONFIG)
class GroupInference(ABC):
    """An inference: its fields are its settings, and every one has a default.

    It sees features, labels and the backbone's head, but no group column: `infer` takes them
    away before. It sees the rows in an order that follows from their features, so that no other
    order decides anything, not even where a draw is by index.
    """

    title: ClassVar[str]
    """Name for people."""
    summary: ClassVar[str]
    """What it does, in one sentence."""
    space: ClassVar[Space]
    """Where the clusters live; a setting of those that leave the choice."""
    reads_target_groups: ClassVar[bool] = False
    """Whether it needs the group labels of target; those it then sees, and no other."""

    seed: Annotated[int, Field(ge=0, le=2**31 - 1, description="Of everything drawn.")] = 0

    @abstractmethod
    def partition(self, problem: Problem) -> InferredGroups:
        """Infer the groups of rows that are in the order of their features.

        Args:
            problem: Without group columns, but for those of target if it reads them.
        """

    def infer(self, problem: Problem) -> InferredGroups:
        """Return a group for each row of weighted, target and val; the same for the same data.

        Args:
            problem: Its group columns are not read, but for those of target where the inference
                says so.

        Raises:
            SettingError: If it would take more memory than its settings allow.
        """
        labels = problem.weighted.labels.cpu().numpy()
        sizes = np.bincount(labels, minlength=problem.n_classes).tolist()
        self.check_memory(sizes, problem.weighted.features.shape[1], problem.n_classes)
        seen, orders = self._seen(problem)
        # One thread: scikit-learn adds up what its threads find in the order they end.
        with threadpool_limits(limits=1):
            found = self.partition(seen)
        back = {split: getattr(found, split)[np.argsort(order)] for split, order in orders.items()}
        return replace(found, **back)

    def head(self, problem: Problem) -> Head | None:
        """Return the head whose gradients or logits `infer` looks at, None if only features.

        Args:
            problem: As `infer` takes it.
        """
        with threadpool_limits(limits=1):
            return self.reference_of(self._seen(problem)[0])

    def reference_of(self, problem: Problem) -> Head | None:
        """Return the head to look with at rows that are in the order of their features.

        Args:
            problem: As `partition` takes it.
        """
        del problem
        return None

    def predicted_bytes(self, class_sizes: Sequence[int], n_features: int, n_classes: int) -> int:
        """Return the most memory that `infer` will take beyond the data, 0 where that is little.

        Args:
            class_sizes: Weighted rows of each class.
            n_features: d.
            n_classes: K.
        """
        del class_sizes, n_features, n_classes
        return 0

    def check_memory(self, class_sizes: Sequence[int], n_features: int, n_classes: int) -> None:
        """Refuse settings that would take more memory than they allow; `infer` does it first.

        Args:
            class_sizes: Weighted rows of each class.
            n_features: d.
            n_classes: K.
        """
        del class_sizes, n_features, n_classes

    def _seen(self, problem: Problem) -> tuple[Problem, dict[str, np.ndarray]]:
        """Return what may be seen, in an order of its own, and that order."""
        orders = {split: _order(rows) for split, rows in splits_of(problem).items()}
        seen = {
            split: _taken(rows, orders[split], split == "target" and self.reads_target_groups)
            for split, rows in splits_of(problem).items()
        }
        return replace(problem, **seen, train=None, training_shares=None), orders


@dataclass(frozen=True)
class ClassClusters:
    """The clusters of one class, numbered from 0.

    Attributes:
        weighted: Cluster of each weighted row of the class, or `OUTLIER`.
        target: Of each of its target rows.
        val: Of each of its val rows.
    """

    weighted: np.ndarray
    target: np.ndarray
    val: np.ndarray


def rows_of_class(problem: Problem, label: int) -> dict[str, np.ndarray]:
    """Return the positions of a class's rows in `weighted`, `target` and `val`."""
    return {
        split: np.flatnonzero(rows.labels.cpu().numpy() == label)
        for split, rows in splits_of(problem).items()
    }


def within_classes(
    problem: Problem,
    clusters: Mapping[int, ClassClusters],
    choice: str,
    candidates: Sequence[Mapping[str, object]],
    word: str = "cluster",
) -> InferredGroups:
    """Put the clusters of the classes together.

    In each class they are numbered anew, the largest first, so that no numbering of an algorithm
    shows. Rows of a class without clusters are outliers.

    Args:
        problem: As the inference saw it.
        clusters: By class.
        choice: As in `InferredGroups`.
        candidates: Rows of the table.
        word: What a cluster is called.
    """
    groups = {
        split: np.full(len(rows), OUTLIER, dtype=np.int64)
        for split, rows in splits_of(problem).items()
    }
    names: list[str] = []
    for label in sorted(clusters):
        found = clusters[label]
        kept = found.weighted[found.weighted != OUTLIER]
        ids, first, sizes = np.unique(kept, return_index=True, return_counts=True)
        ids = ids[np.lexsort((first, -sizes))]
        number = np.full(ids.max(initial=-1) + 2, OUTLIER)
        number[ids] = len(names) + np.arange(len(ids))
        for split, rows in rows_of_class(problem, label).items():
            # The last place is that of outliers, -1.
            groups[split][rows] = number[getattr(found, split)]
        names += [f"class {label}, {word} {each}" for each in range(len(ids))]
    return InferredGroups(
        **groups, names=tuple(names), choice=choice, candidates=pd.DataFrame(candidates)
    )


def in_words(scores: Mapping[int, float], choices: Mapping[int, str]) -> str:
    """Say which silhouette chose what, class by class or, of many classes, as a range."""
    if not scores:
        return "no class could be split"
    if len(scores) > CLASSES_IN_WORDS:
        low, high = min(scores.values()), max(scores.values())
        return f"silhouettes from {low:.2f} to {high:.2f} over {len(scores)} classes"
    return "; ".join(
        f"silhouette {scores[label]:.2f} chose {choices[label]} in class {label}"
        for label in sorted(scores)
    )


def splits_of(problem: Problem) -> dict[str, Rows]:
    """Return the rows that an inference assigns, by the name of their split."""
    return {"weighted": problem.weighted, "target": problem.target, "val": problem.val}


def _order(rows: Rows) -> np.ndarray:
    """Return an order of the rows that does not depend on the one they are in."""
    return np.lexsort((rows.position, rows.features.double().sum(dim=1).cpu().numpy()))


def _taken(rows: Rows, order: np.ndarray, with_groups: bool) -> Rows:
    groups = rows.groups if with_groups else rows.groups[:, :0]
    return Rows(rows.features[order], rows.labels[order], groups[order], rows.position[order])
