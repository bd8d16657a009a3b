"""What a group inference is, and what it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, Protocol

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
    "by_environment",
    "cells_that_count",
    "in_words",
    "numbers_in_words",
    "numbers_tried",
    "rows_of_class",
    "say_small_cells",
    "settings",
    "splits_of",
    "within_classes",
]

INFERENCE_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False, validate_default=True)

Space = Literal["gradients", "features", "logits"]
"""What is compared: gradients of a head's loss, the features, or the head's logits."""

OUTLIER = -1
"""The group of a row that belongs to none."""

_FEWEST = 10
"""Rows that an inferred cell of val must have to count: the accuracy of fewer is mostly chance."""

CLASSES_IN_WORDS = 3
"""Of more classes than this, a sentence gives only the range."""


@dataclass(frozen=True)
class InferredGroups:
    """A group for each row of three splits, disjoint and within one class each.

    Attributes:
        weighted: (n,) int64 group of each row, `OUTLIER` for a row in none.
        target: Likewise.
        val: Likewise.
        names: A name for each group; every group has a weighted row.
        choice: The choice and its reason, a phrase without a full stop.
        candidates: One row for each candidate, with its score and whether it was `chosen`.
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

    It sees features, labels and the backbone's head, but no group column: `infer` removes them
    first. It sees the rows in an order that follows from their features, so that no other order
    decides anything, not even where a draw is by index.
    """

    title: ClassVar[str]
    """Name for people."""
    summary: ClassVar[str]
    """What it does, in one sentence."""
    space: ClassVar[Space]
    """Where the clusters live; a setting where the user may choose."""
    reads_target_groups: ClassVar[bool] = False
    """Whether it needs the group labels of target; it then sees those and no others."""

    seed: Annotated[int, Field(ge=0, le=2**31 - 1, description="Of everything drawn.")] = 0

    @abstractmethod
    def partition(self, problem: Problem) -> InferredGroups:
        """Infer the groups of rows that are in the order of their features.

        Args:
            problem: Without group columns, except those of target if the inference reads them.
        """

    def infer(self, problem: Problem) -> InferredGroups:
        """Return a group for each row of weighted, target and val; the same for the same data.

        Args:
            problem: Its group columns are not read, except those of target where
                `reads_target_groups` says so.

        Raises:
            SettingError: If it would take more memory than its settings allow.
        """
        labels = problem.weighted.labels.cpu().numpy()
        sizes = np.bincount(labels, minlength=problem.n_classes).tolist()
        self.check_memory(sizes, problem.weighted.features.shape[1], problem.n_classes)
        seen, orders = self._seen(problem)
        # One thread: scikit-learn adds up the results of its threads in the order they end.
        with threadpool_limits(limits=1):
            groups = self.partition(seen)
        back = {split: getattr(groups, split)[np.argsort(order)] for split, order in orders.items()}
        return replace(groups, **back)

    def head(self, problem: Problem) -> Head | None:
        """Return the head whose gradients or logits `infer` uses, None if it uses features only.

        Args:
            problem: As `infer` takes it.
        """
        with threadpool_limits(limits=1):
            return self.reference_of(self._seen(problem)[0])

    def reference_of(self, problem: Problem) -> Head | None:
        """Return the reference head, for rows in the order of their features.

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
        """Refuse settings that would take more memory than they allow; `infer` begins with it.

        Args:
            class_sizes: Weighted rows of each class.
            n_features: d.
            n_classes: K.
        """
        del class_sizes, n_features, n_classes

    def _seen(self, problem: Problem) -> tuple[Problem, dict[str, np.ndarray]]:
        """Return what the inference may see, in an order of its own, and that order."""
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
    """Combine the clusters of the classes.

    In each class they are numbered anew, the largest first, so that an algorithm's own numbering
    does not show. Rows of a class without clusters are outliers.

    Args:
        problem: As the inference saw it.
        clusters: By class.
        choice: As in `InferredGroups`.
        candidates: Rows of the table.
        word: The user's word for a cluster.
    """
    groups = {
        split: np.full(len(rows), OUTLIER, dtype=np.int64)
        for split, rows in splits_of(problem).items()
    }
    names: list[str] = []
    for label in sorted(clusters):
        own = clusters[label]
        inside = own.weighted[own.weighted != OUTLIER]
        ids, first, sizes = np.unique(inside, return_index=True, return_counts=True)
        ids = ids[np.lexsort((first, -sizes))]
        number = np.full(ids.max(initial=-1) + 2, OUTLIER)
        number[ids] = len(names) + np.arange(len(ids))
        for split, rows in rows_of_class(problem, label).items():
            # Outliers, -1, take the last place.
            groups[split][rows] = number[getattr(own, split)]
        names += [f"class {label}, {word} {each}" for each in range(len(ids))]
    return InferredGroups(
        **groups, names=tuple(names), choice=choice, candidates=pd.DataFrame(candidates)
    )


def by_environment(
    problem: Problem,
    environment: Mapping[str, np.ndarray],
    choice: str,
    candidates: Sequence[Mapping[str, object]],
) -> InferredGroups:
    """Combine two environments with the classes.

    A class whose weighted rows are all in one environment stays whole.

    Args:
        problem: As the inference saw it.
        environment: (n,) bool for each split.
        choice: As in `InferredGroups`.
        candidates: Rows of the table.
    """
    clusters = {}
    for label in range(problem.n_classes):
        rows = rows_of_class(problem, label)
        parts = {split: environment[split][rows[split]].astype(np.int64) for split in rows}
        present = np.unique(parts["weighted"])
        if len(present) == 1:
            parts = {split: np.full(len(part), present[0]) for split, part in parts.items()}
        if len(present):
            clusters[label] = ClassClusters(**parts)
    return within_classes(problem, clusters, choice, candidates, word="environment")


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


class ByNumber(Protocol):
    """The clustering of one class whose number of clusters was chosen by the silhouette."""

    @property
    def k(self) -> int:
        """Number of clusters; one if the class could not be split."""
        ...

    @property
    def silhouettes(self) -> Mapping[int, float]:
        """Mean silhouette by number of clusters."""
        ...


def numbers_tried(label: int, clustering: ByNumber) -> list[dict[str, object]]:
    """Return the rows of the table of candidates for a class."""
    return [
        {"class": label, "clusters": k, "silhouette": score, "chosen": k == clustering.k}
        for k, score in clustering.silhouettes.items()
    ]


def numbers_in_words(clusterings: Mapping[int, ByNumber]) -> str:
    """Say which silhouette chose how many clusters, of the classes (keys) that were split."""
    return in_words(
        {label: max(each.silhouettes.values()) for label, each in clusterings.items()},
        {label: f"{each.k} clusters" for label, each in clusterings.items()},
    )


def cells_that_count(sizes: np.ndarray) -> np.ndarray:
    """Return which inferred cells of val may choose a step; where all are small, all of them.

    Args:
        sizes: (m,) rows of val in each cell.

    Returns:
        (m,) bool.

    Example:
        >>> cells_that_count(np.array([40, 9, 10]))
        array([ True, False,  True])
    """
    enough = sizes >= _FEWEST
    return enough if enough.any() else np.ones_like(enough)


def say_small_cells(sizes: np.ndarray) -> str:
    """Return what to say of inferred cells of val that are small; "" if none is.

    Args:
        sizes: As for `cells_that_count`.
    """
    enough = sizes >= _FEWEST
    if enough.all():
        return ""
    if not enough.any():
        return f"all are under {_FEWEST}, so that chance plays a part"
    return f"{int((~enough).sum())} of under {_FEWEST} do not count"


def splits_of(problem: Problem) -> dict[str, Rows]:
    """Return the rows that an inference assigns, by the name of their split."""
    return {"weighted": problem.weighted, "target": problem.target, "val": problem.val}


def _order(rows: Rows) -> np.ndarray:
    """Return an order of the rows that does not depend on the one they are in."""
    return np.lexsort((rows.position, rows.features.double().sum(dim=1).cpu().numpy()))


def _taken(rows: Rows, order: np.ndarray, with_groups: bool) -> Rows:
    groups = rows.groups if with_groups else rows.groups[:, :0]
    return Rows(rows.features[order], rows.labels[order], groups[order], rows.position[order])
