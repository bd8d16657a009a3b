"""Where clusters can live: gradients, features, or a head's logits."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from gsr_core.data.problem import Problem
from gsr_core.gradients.representations import Gradients, gradients
from gsr_core.inference.base import (
    INFERENCE_CONFIG,
    GroupInference,
    Space,
    settings,
    splits_of,
)
from gsr_core.inference.references import Reference, logits_of_splits, reference_head
from gsr_core.linear.head import Head

__all__ = ["InSpace", "vectors_of"]


@settings(frozen=True, kw_only=True, config=INFERENCE_CONFIG)
class InSpace(GroupInference):
    """An inference whose space can be chosen."""

    space: Annotated[  # pyright: ignore[reportIncompatibleVariableOverride]
        Space,
        Field(
            description="What is clustered: gradients of the loss by the reference head, the "
            "features, or the reference head's logits."
        ),
    ] = "gradients"
    reference: Annotated[
        Reference,
        Field(
            description="The head whose gradients or logits are taken: one fitted to the end on "
            "the weighted rows, one stopped early, or the backbone's own (an early one where there "
            "is none)."
        ),
    ] = "converged"
    reference_l2: Annotated[
        float,
        Field(gt=0, description="Penalty of a head fitted to the end; the gradients have none."),
    ] = 1e-4

    def reference_of(self, problem: Problem) -> Head | None:
        """Return the head whose gradients or logits are clustered.

        Args:
            problem: As `infer` gives it.
        """
        if self.space == "features":
            return None
        return reference_head(problem, self.reference, self.reference_l2)


def vectors_of(problem: Problem, space: Space, head: Head | None) -> dict[str, Gradients]:
    """Return the rows in a space, split by split, all in factored form.

    Features and logits have a one appended there, which changes no distance.

    Args:
        problem: As `infer` gives it.
        space: What is compared.
        head: Whose gradients or logits; None for features.
    """
    wide = problem.compute.accumulate_dtype
    splits = splits_of(problem)
    if space == "gradients":
        assert head is not None
        return {
            split: gradients(head, rows.features, rows.labels) for split, rows in splits.items()
        }
    columns = {split: rows.features for split, rows in splits.items()}
    if space == "logits":
        assert head is not None
        columns = {
            split: torch.from_numpy(each).to(problem.weighted.features.device, wide)
            for split, each in logits_of_splits(problem, head).items()
        }
    return {
        split: Gradients(each.new_ones(len(each), 1, dtype=wide), each)
        for split, each in columns.items()
    }
