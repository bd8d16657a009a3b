"""The interface of a method, and the steps that it yields."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as settings

from gsr_core.data.bundle import Manifest
from gsr_core.methods.selection import SELECTION_RULES, Selection, SelectionRule

if TYPE_CHECKING:
    # Without torch, so that whoever reads about runs need not wait for it.
    from torch import Tensor

    from gsr_core.data.problem import Problem
    from gsr_core.data.stored import FeatureBlocks
    from gsr_core.linear.head import Head
    from gsr_core.linear.influence import Influence

__all__ = [
    "SETTINGS_CONFIG",
    "LabelNeeds",
    "Method",
    "Range",
    "SearchSpace",
    "Step",
    "Values",
    "settings",
]

SETTINGS_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False, validate_default=True)


class LabelNeeds(StrEnum):
    """Which group labels a method reads to train; its value is the text users see."""

    NONE = "no group labels"
    TARGET = "group labels of a small target set"
    TRAIN = "group labels of the weighted rows"


class Values(StrEnum):
    """What a method's per-sample values are; its value is the text users see.

    All are stored alike: one number a row, none negative, with the sum one.
    """

    WEIGHTS = "sample weights"
    PROBABILITIES = "sampling probabilities"
    SUBSET = "shares in the chosen subsets"
    NONE = "none: all samples count alike"


@dataclass(frozen=True)
class Range:
    """Where a sweep looks for a number.

    Attributes:
        low: Smallest value.
        high: Largest value.
        log: Whether equal ratios are equally likely, rather than equal differences.
    """

    low: float
    high: float
    log: bool = True


SearchSpace = Mapping[str, Range | tuple[str | float | bool, ...]]
"""Where a sweep looks, by setting: a range, or the values to choose from."""


@dataclass(frozen=True)
class Step:
    """One iterate of a method.

    Attributes:
        head: The fitted last layer, on raw features.
        sample_weight: (n,) the method's value of each row of `Method.values_on`, under which the
            head was fitted; none is negative, they sum to one. None if it has none.
        objective: Value of what was minimised, nats.
        gradient_norm: Its gradient's norm at the head, nats.
        relative_gradient_norm: The same, relative to the norm at the zero head.
        solved: Whether the inner fit, and the solve behind the weights' next move if there is one,
            reached their tolerance.
        group_weight: (m,) aggregation weights of the groups, sums to one, or None.
        u: (p, c) coordinates of the head, from which the influence can be computed; None where
            there is none.
        measure: Computes the influence, which costs more than the step; None where undefined.
        step_size: Step taken from here, NaN if none was.
        clipped: Whether the step's direction was clipped.
        inferred_group: (n,) int64 group that the method inferred for each of these rows, -1 for
            outliers; None if it infers none.
        inferred_val: (N, m') bool membership of the rows of val in the inferred groups, or None.
            Of these, `inference.base.cells_that_count` says which may choose the step.
        checkpoint: Tensors from which `Method.iterate` goes on as if it had not stopped.
        note: What the user should know about this head, or "".
        terms: Further numbers of the step for its history, by the name of their metric.
        candidate: Whether this head may be the one that is kept.
        network: Where a whole network was trained, its state dict, on the CPU, else None.
        view: Likewise, gives the features of rows of the bundle, by their positions, as that
            network has them until the next step; None where they are the bundle's own.
    """

    head: Head
    sample_weight: Tensor | None
    objective: float = math.nan
    gradient_norm: float = math.nan
    relative_gradient_norm: float = math.nan
    solved: bool = True
    group_weight: Tensor | None = None
    u: Tensor | None = None
    measure: Callable[[], Influence] | None = None
    step_size: float = math.nan
    clipped: bool = False
    inferred_group: Tensor | None = None
    inferred_val: Tensor | None = None
    checkpoint: Mapping[str, Tensor] = field(default_factory=dict)
    note: str = ""
    terms: Mapping[str, float] = field(default_factory=dict)
    candidate: bool = True
    network: Mapping[str, Tensor] | None = None
    view: Callable[[np.ndarray], FeatureBlocks] | None = None

    @cached_property
    def measured(self) -> Influence | None:
        """The influence and how its solves ended, computed when first asked for."""
        return None if self.measure is None else self.measure()

    @property
    def influence(self) -> Tensor | None:
        """(n, m) derivative of each group's target loss by each sample's weight, nats.

        Negative = raising the weight lowers that group's loss. None where undefined.
        """
        return None if self.measured is None else self.measured.values


SelectionField = Annotated[
    Selection,
    Field(
        description="Which step is kept, by val: "
        + "; ".join(f"{name}: {rule.help}" for name, rule in SELECTION_RULES.items())
        + "."
    ),
]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class Method(ABC):
    """A method: its fields are its hyperparameters, and every one has a default.

    The object is its own configuration: a run stores its fields, the registry restores it from
    them, and the dashboard's form and the command line's `--set` are drawn from their types,
    defaults, ranges and descriptions.
    """

    name: ClassVar[str]
    """Key in the registry and in stored runs; never changes."""
    title: ClassVar[str]
    """Name for people."""
    summary: ClassVar[str]
    """What it does, in one sentence."""
    use_when: ClassVar[str]
    """When to use it, in one sentence: what must be there, and what it is good for."""
    needs: ClassVar[LabelNeeds]
    acts_on: ClassVar[Literal["head", "network"]] = "head"
    """What it fits: the last layer on frozen features, or all of the network."""
    values: ClassVar[Values] = Values.WEIGHTS
    """What its per-sample values are; if there are none, all rows count alike."""
    values_on: ClassVar[Literal["weighted", "target"]] = "weighted"
    """Which rows have these values: those of `Problem.weighted` or of `Problem.target`."""
    reads_words: ClassVar[bool] = False
    """Whether it needs `Problem.words`, which only bundles whose network takes phrases have."""
    search: ClassVar[SearchSpace] = {}
    """Where a sweep looks."""
    before: ClassVar[Mapping[str, str | float | bool]] = {}
    """Values of settings that are newer than some stored runs: what these runs did without them."""
    seeded: ClassVar[bool] = True
    """Whether another seed gives another head. A seed redraws target and val, so that this is so
    for all methods but those that look at neither and draw nothing."""

    seed: Annotated[
        int,
        Field(
            ge=0,
            le=2**31 - 1,
            description="0 uses the bundle's own target/val split; any other number redraws the "
            "two from their union, group by group.",
        ),
    ] = 0
    selection: SelectionField = "worst_group"

    @property
    def max_steps(self) -> int:
        """How many steps to take at most: the setting `steps`, or one without it."""
        return getattr(self, "steps", 1)

    @property
    def solves(self) -> bool:
        """Whether the steps only lead to the solution of one problem, which the last one is."""
        return False

    @property
    def rule(self) -> SelectionRule:
        """How the kept step is chosen."""
        chosen = SELECTION_RULES[self.selection]
        return SELECTION_RULES["worst_group"] if chosen.last and not self.solves else chosen

    def gives_up(self, since: int) -> bool:
        """Return whether to end before `max_steps`, so many steps after the best one."""
        return 0 < getattr(self, "patience", 0) <= since

    @property
    def labels_used(self) -> tuple[str, ...]:
        """Which rows' group labels are read: of `weighted`, `target` and `val`."""
        training = {LabelNeeds.NONE: (), LabelNeeds.TARGET: ("target",)}
        choosing = self.rule.labels if self.max_steps > 1 else ()
        return training.get(self.needs, ("weighted",)) + choosing

    @property
    def learns_from(self) -> tuple[str, ...]:
        """Of the rows whose group labels are read, those that do more than choose the step."""
        return tuple(split for split in self.labels_used if split != "val")

    def check_classes(self, classes: Sequence[str]) -> None:  # noqa: B027
        """Refuse settings that do not go together with the classes of the data.

        Args:
            classes: K names.

        Raises:
            SettingError: If there are some.
        """

    def check(self) -> None:  # noqa: B027
        """Refuse settings that are allowed one by one and do not go together.

        Raises:
            SettingError: If there are some.
        """

    @classmethod
    def fitted_split(cls, manifest: Manifest) -> str:
        """Return the split of a bundle whose rows the method fits."""
        on_head = cls.acts_on == "head"
        return manifest.weighted_split if on_head else manifest.trained_split

    @abstractmethod
    def iterate(
        self, problem: Problem, checkpoint: Mapping[str, Tensor] | None = None
    ) -> Iterator[Step]:
        """Yield one step after another.

        Args:
            problem: The data.
            checkpoint: `Step.checkpoint` of the step after which to go on; from the start if None.
        """

    def influence(
        self, problem: Problem, sample_weight: Tensor, u: Tensor | None = None
    ) -> Callable[[], Influence] | None:
        """Return `Step.measure` of a step of an earlier run, None if such steps have none.

        Args:
            problem: The data.
            sample_weight: (n,) of the step.
            u: (p, c) of the step; fitted under these weights if None.
        """
        del problem, sample_weight, u
        return None

    def settings(self) -> dict[str, str | int | float | bool]:
        """Return the hyperparameters by name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}
