"""Empirical risk minimisation (ERM): the classifier as it came, the reference of every repair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from gsr_core.data.problem import Problem
from gsr_core.linear.head import Head
from gsr_core.methods.base import (
    SETTINGS_CONFIG,
    LabelNeeds,
    SearchSpace,
    Step,
    Values,
    settings,
)
from gsr_core.methods.inner import FittedHead

__all__ = ["ERM"]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class ERM(FittedHead):
    """The backbone's own head; where there is none, one fitted at uniform weights."""

    name: ClassVar[str] = "erm"
    title: ClassVar[str] = "ERM: the classifier as it came"
    summary: ClassVar[str] = (
        "Takes the backbone's own head; if the bundle has none, fits one at uniform weights on "
        "train, else on heldout."
    )
    use_when: ClassVar[str] = "Always: the reference that every repair is held against."
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE
    values: ClassVar[Values] = Values.NONE
    # As it came, it has nothing to tune.
    search: ClassVar[SearchSpace] = {}
    seeded: ClassVar[bool] = False

    def iterate(
        self, problem: Problem, checkpoint: Mapping[str, Tensor] | None = None
    ) -> Iterator[Step]:
        """Yield one step.

        Args:
            problem: The data.
            checkpoint: Not used; there is nothing to go on from.
        """
        if problem.backbone_head is not None:
            weight, bias = problem.backbone_head
            yield Step(Head(weight, bias), None, note="The backbone's own head.")
            return
        on_train = problem.train is not None
        rows = problem.train() if problem.train is not None else problem.weighted
        inner = self.inner(problem, rows)
        step = inner.step(
            inner.uniform(),
            note="The bundle has no head of the backbone; this one was fitted at uniform weights "
            f"on {'train' if on_train else 'heldout'}.",
        )
        # The rows of train are not those whose values are kept.
        yield replace(step, sample_weight=None) if on_train else step
