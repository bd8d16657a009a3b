"""Rows in memory: what a method sees of a bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from gsr_core.compute import Compute
from gsr_core.data.bundle import Bundle
from gsr_core.data.groups import beside_class, training_shares
from gsr_core.data.seen import SeenGroups, seen_groups
from gsr_core.data.seen_rows import positions_of, seen_labels, seen_membership
from gsr_core.data.stored import StoredFeatures
from gsr_core.data.variation import Variation
from gsr_core.data.words import Words

__all__ = [
    "IN_MEMORY",
    "Judged",
    "Problem",
    "Rows",
    "fit_bytes",
    "judged_by",
    "load_problem",
    "stays_in_file",
]

IN_MEMORY = 2**32
"""Bytes that a fit on the rows of one split may take. It is the same on every machine, because a
fit in blocks rounds differently and a continued run has to give the same bits."""


@dataclass(frozen=True)
class Rows:
    """Some rows of a bundle, on the device of the computation.

    Attributes:
        source: (n, d) float32 features, in memory or, if they are many, where they are stored.
        labels: (n,) int64, classes in [0, K).
        groups: (n, m) bool, overlap allowed.
        position: (n,) int64, positions in the bundle.

    Example:
        >>> _, test = gsr.load_problem(gsr.open_bundle(place, "birds"), gsr.pick("cpu"))
        >>> len(test), test.features.shape
        (40, torch.Size([40, 5]))
    """

    source: Tensor | StoredFeatures
    labels: Tensor
    groups: Tensor
    position: np.ndarray

    @cached_property
    def features(self) -> Tensor:
        """(n, d) float32; stored ones are read and kept."""
        return self.source if isinstance(self.source, Tensor) else self.source.read()

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.labels)


@dataclass(frozen=True)
class Problem:
    """What a method may see. It never sees the test split; the driver scores that.

    Attributes:
        weighted: The rows whose weights are learned.
        target: Group-labelled rows that drive the weights.
        val: Group-labelled rows that only select.
        n_classes: K.
        training_shares: (m,) share of each group among the training rows, or None if unknown.
        backbone_head: weight (K, d) and bias (K,) of the backbone's own head, or None.
        train: Reads the rows of `train`, which may be many; None if there are none.
        weighted_split: Where the weighted rows are from: `heldout`, else `train`.
        compute: Where and how precisely to compute.
        network: What a method trains that acts on the whole network, a
            `features.trainable.Trainable`; None for all others.
        given: (n,) weights of the weighted rows, with sum one, that a head is to be fitted under
            without a method that finds them; None otherwise.
        beside_class: Numbers what each of the m groups is made of beside its class, as
            `groups.beside_class` does; None where nobody knows.
        words: What a method that `reads_words` knows in words; None for all others.

    Example:
        >>> problem, _ = gsr.load_problem(gsr.open_bundle(place, "birds"), gsr.pick("cpu"))
        >>> problem.n_classes, problem.n_groups, problem.weighted_split
        (2, 4, 'heldout')
    """

    weighted: Rows
    target: Rows
    val: Rows
    n_classes: int
    compute: Compute
    training_shares: np.ndarray | None = None
    backbone_head: tuple[Tensor, Tensor] | None = None
    train: Callable[[], Rows] | None = None
    weighted_split: str = "heldout"
    network: object | None = None
    given: Tensor | None = None
    beside_class: Callable[[], np.ndarray | None] | None = None
    words: Words | None = None

    @property
    def n_groups(self) -> int:
        """Number of groups m."""
        return self.target.groups.shape[1]


def load_problem(
    bundle: Bundle,
    compute: Compute,
    *,
    seed: int = 0,
    variation: Variation | None = None,
    in_memory: int = IN_MEMORY,
    weighted_split: str = "",
) -> tuple[Problem, Rows]:
    """Load what a method sees of a bundle, and the test rows that it does not see.

    The test rows have the bundle's groups, whatever groups the method sees.

    Args:
        bundle: The data.
        compute: Where the tensors live.
        seed: 0 takes `target` and `val` as they are in the bundle; any other seed redraws them
            from their union (`seen_rows.redraw`).
        variation: What is changed about the rows; nothing if None.
        in_memory: Bytes that an exact fit on one split may take (`fit_bytes`); features of a split
            that would take more stay in their file.
        weighted_split: The split whose rows are fitted; the bundle's own if "".

    Raises:
        GsrError: If the rows cannot be varied so.

    Example:
        >>> problem, test = gsr.load_problem(gsr.open_bundle(place, "birds"), gsr.pick("cpu"))
        >>> len(problem.weighted), len(problem.target), len(test)
        (40, 40, 40)
    """
    positions = positions_of(bundle, seed, variation)
    y, seen = seen_labels(bundle, seed, variation), seen_groups(bundle, variation)
    weighted_split = weighted_split or bundle.manifest.weighted_split
    seen.check_rows(positions, weighted_split)

    def rows(split: str) -> Rows:
        index = positions[split]
        groups = seen_membership(bundle, seen, split, index, seed, variation)
        source = StoredFeatures(bundle.features, index, compute.device)
        (n, d), n_classes = source.shape, len(bundle.manifest.classes)
        stays = stays_in_file(n, d, n_classes, in_memory)
        return Rows(
            source=source if stays else source.read(),
            labels=torch.from_numpy(y[index]).to(compute.device),
            groups=torch.from_numpy(groups).to(compute.device),
            position=index,
        )

    head = bundle.head
    problem = Problem(
        weighted=rows(weighted_split),
        target=rows("target"),
        val=rows("val"),
        n_classes=len(bundle.manifest.classes),
        training_shares=_training_shares(bundle, seen),
        backbone_head=None
        if head is None
        else (
            torch.from_numpy(head[0]).to(compute.device),
            torch.from_numpy(head[1]).to(compute.device),
        ),
        train=(lambda: rows("train")) if len(positions["train"]) else None,
        compute=compute,
        weighted_split=weighted_split,
        beside_class=lambda: beside_class(
            seen.groups, seen.membership, bundle.y, bundle.manifest.classes
        ),
    )
    return problem, rows("test")


@dataclass(frozen=True)
class Judged:
    """By which groups the steps of a method are judged, where it sees others.

    Attributes:
        names: Names of the groups.
        problem: The rows of the method's problem, with these groups.
    """

    names: list[str]
    problem: Problem


def judged_by(bundle: Bundle, problem: Problem) -> Judged:
    """Return the bundle's groups of a problem whose method sees others.

    Args:
        bundle: The data.
        problem: From `load_problem`.
    """

    def own(rows: Rows) -> Rows:
        groups = torch.from_numpy(bundle.membership[rows.position])
        return replace(rows, groups=groups.to(rows.labels.device))

    return Judged(
        bundle.group_names,
        replace(
            problem,
            weighted=own(problem.weighted),
            target=own(problem.target),
            val=own(problem.val),
            training_shares=bundle.training_shares,
            train=None,
        ),
    )


def fit_bytes(n: int, d: int, n_classes: int) -> int:
    """Return about how many bytes a fit takes on n rows of d features in memory.

    They are float32 features, float64 rows and a float32 copy of these, and five float64 arrays
    over rows and classes.
    """
    return n * (16 * d + 40 * n_classes)


def stays_in_file(n: int, d: int, n_classes: int, in_memory: int) -> bool:
    """Return whether n rows of d features are too many for a fit in so many bytes of memory."""
    # With fewer rows than features a fit works in the rows' span, which takes all of them.
    return n > d and fit_bytes(n, d, n_classes) > in_memory


def _training_shares(bundle: Bundle, seen: SeenGroups) -> np.ndarray | None:
    """Return (m,) the share of each group among the rows of train and heldout."""
    if seen.own:
        return bundle.training_shares
    rows = np.concatenate([bundle.rows_of["train"], bundle.rows_of["heldout"]])
    return training_shares(seen.membership[rows])
