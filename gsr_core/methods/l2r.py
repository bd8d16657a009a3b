r"""L2R: weights from how each sample's gradient agrees with that of a clean target set.

Ren, Zeng, Yang and Urtasun, "Learning to Reweight Examples for Robust Deep Learning" (ICML 2018).
At every step of the head the weights are those of one step of descent from no weights at all,

.. math::
    \tilde w_i = \max\big(0, \langle \nabla V(u), \nabla \ell_i(u) \rangle\big), \qquad
    w_i = \tilde w_i \Big/ \sum_j \tilde w_j ,

V the mean loss of the target set, of which the classes are read and the groups are not; then the
head takes a step under w, and w is forgotten. If no sample agrees with the target, nothing moves,
and the method ends.

Where we differ: steps are full-batch, one over the curvature's bound, from the zero head, where
they draw batches of both sets. **The values of a step are the mean of w over all steps of the head
so far, and its head is fitted exactly under them.** The w of one moment shows only what the head
lacks then; the head of the dynamics has been fitted to all of them, and is still on its way. A
refit under their mean gives a head that its weights explain, however far a few steps happen to get,
as with every other method here. The dynamics have no end: once the head has learned what target can
teach, the rest of V's gradient is noise, and the weights grow even again, so that `steps` and the
selection stop them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from gsr_core.data.problem import Problem
from gsr_core.methods.base import SETTINGS_CONFIG, LabelNeeds, Range, SearchSpace, Step, settings
from gsr_core.methods.biased import curvature_bound
from gsr_core.methods.inner import FittedHead, InnerProblem, Scored
from gsr_core.methods.lookahead import Descent, agreement

__all__ = ["L2R", "agreeing_weight"]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class L2R(FittedHead):
    """Weight samples by how far their gradient agrees with that of the target set."""

    name: ClassVar[str] = "l2r"
    title: ClassVar[str] = "L2R: learning to reweight"
    summary: ClassVar[str] = (
        "Trains a head under weights that are, at every step, how far each sample's loss gradient "
        "agrees with that of the target set, whose classes alone are read; the head is refitted "
        "under their mean."
    )
    use_when: ClassVar[str] = (
        "A target set that is balanced over groups, though its groups are not named."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE
    search: ClassVar[SearchSpace] = {
        **FittedHead.search,
        "updates": Range(1, 30),
    }

    steps: Annotated[
        int, Field(ge=1, le=100_000, description="Times the head is refitted under the weights.")
    ] = 20
    updates: Annotated[
        int, Field(ge=1, le=100_000, description="Full-batch steps of the head between refits.")
    ] = 5

    def iterate(
        self, problem: Problem, checkpoint: Mapping[str, Tensor] | None = None
    ) -> Iterator[Step]:
        """Yield one refitted head after every `updates` updates; the driver counts.

        Args:
            problem: The data.
            checkpoint: `Step.checkpoint` of the step after which to go on; from the zero head if
                None.
        """
        inner = self.inner(problem)
        target, descent = inner.scored(problem.target), Descent(curvature_bound(inner))
        nothing = torch.zeros_like(inner.uniform())
        stored = inner.resume(checkpoint, u=inner.zero(), total=nothing, done=nothing.sum())
        u, total, done = stored["u"], stored["total"], int(stored["done"])

        agreed = True
        while agreed:
            for _ in range(self.updates):
                weight = agreeing_weight(inner, target, u)
                if weight is None:
                    agreed = False
                    break
                total, done = total + weight, done + 1
                u = descent.step(inner.objective(weight), u)
            inner.forget()
            yield inner.step(
                total / total.sum() if done else inner.uniform(),
                u,
                checkpoint={"u": u, "total": total, "done": total.new_tensor(done)},
                note="" if agreed else "No sample's gradient agrees with the target's any more.",
            )


def agreeing_weight(inner: InnerProblem, target: Scored, u: Tensor) -> Tensor | None:
    """Return the weights (n,) of a head at u, which sum to one; None if no sample agrees.

    Args:
        inner: Has the samples.
        target: The target rows; their groups are not read.
        u: (p, c).
    """
    weight = agreement(inner, target, u, u).clamp(min=0)
    total = weight.sum()
    return weight / total if total > 0 else None
