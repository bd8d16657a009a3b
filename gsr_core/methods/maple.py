r"""MAPLE: sample weights by projected descent on the target risk of a head fitted to a coreset.

Zhou et al., "Model Agnostic Sample Reweighting for Out-of-Distribution Learning" (ICML 2022), as
stated in Qiao, Wu, Wang, Koh and Low, "Group-robust Sample Reweighting for Subpopulation Shifts via
Influence Functions" (ICLR 2025). Each step draws a coreset of the samples by their weights, fits
the head on it, and moves the weights against the derivative of the target risk V through one step
of that head, under normalised weights,

.. math::
    I_i = -\langle \nabla V, \nabla \ell_i \rangle
        + \sum_j w_j \langle \nabla V, \nabla \ell_j \rangle , \qquad
    w \leftarrow \operatorname{proj}(w - \beta I / n) ,

the update brought to a norm and projected as in `gsr_hf`, which is MAPLE without the coreset, with
GSR's weights of the groups. V is the mean target loss, which reads no groups, or with
`group_dro` the groups' mean losses under weights that follow the worst as in `gsr`.

**The coreset** is the k rows with the largest :math:`\log w_i + G_i`, G_i Gumbel: k draws by
weight without replacement. There a row weighs :math:`w_i / q_i`, with q_i its probability of being
drawn given the (k + 1)-th largest, so that the weighted loss estimates that of all samples without
bias (Kool, van Hoof and Welling, "Stochastic Beams and Where to Find Them", ICML 2019).

Where we differ: the head is fitted exactly where they take steps on batches of the coreset, and the
draw is not differentiated. **The head of a step is fitted exactly under all of w**; the gradients
are those at the heads of the coresets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from gsr_core.data.problem import Problem, Rows
from gsr_core.methods.base import SETTINGS_CONFIG, LabelNeeds, Range, SearchSpace, Step, settings
from gsr_core.methods.draws import per_row
from gsr_core.methods.gsr import project
from gsr_core.methods.gsr_variants import rescale
from gsr_core.methods.inner import FittedHead
from gsr_core.methods.lookahead import target_gradient

__all__ = ["MAPLE", "draw_coreset"]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class MAPLE(FittedHead):
    """Learn weights by one-step derivatives at heads of drawn coresets."""

    name: ClassVar[str] = "maple"
    title: ClassVar[str] = "MAPLE: model-agnostic sample reweighting"
    summary: ClassVar[str] = (
        "Learns a weight for each held-out sample by how its loss gradient agrees with that of the "
        "target set, at heads fitted on coresets that are drawn by these weights."
    )
    use_when: ClassVar[str] = (
        "A target set that is balanced over groups, and no exact influence wanted."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE
    search: ClassVar[SearchSpace] = {
        **FittedHead.search,
        "step_norm": Range(0.03, 10.0),
        "coreset_share": (0.1, 0.25, 0.5, 1.0),
        "risk": ("mean", "group_dro"),
    }

    steps: Annotated[
        int, Field(ge=1, le=100_000, description="Coresets drawn; the weights move in between.")
    ] = 60
    coreset_share: Annotated[
        float, Field(gt=0, le=1, description="Size of a coreset, as a share of the samples.")
    ] = 0.5
    risk: Annotated[
        Literal["mean", "group_dro"],
        Field(
            description="What is lowered on target. mean: the mean loss, which reads no groups; "
            "group_dro: the groups' mean losses, by weights that follow the worst."
        ),
    ] = "mean"
    temperature: Annotated[
        float,
        Field(
            gt=0,
            description="Lower makes the group weights follow the worst group faster (group_dro).",
        ),
    ] = 1.0
    step_norm: Annotated[
        float,
        Field(gt=0, description="Root mean square of the first updates, in units of 1/n."),
    ] = 1.0
    decay: Annotated[
        float, Field(gt=0, le=1, description="Factor on the step size at each decay.")
    ] = 0.1
    decay_every: Annotated[int, Field(ge=1, description="Steps between two decays.")] = 30

    @property
    def labels_used(self) -> tuple[str, ...]:
        """Which rows' group labels are read; the mean target loss reads none."""
        used = super().labels_used
        return ("target", *used) if self.risk == "group_dro" else used

    def iterate(
        self, problem: Problem, checkpoint: Mapping[str, Tensor] | None = None
    ) -> Iterator[Step]:
        """Yield one refitted head a step, without end; the driver counts.

        Args:
            problem: The data.
            checkpoint: `Step.checkpoint` of the step after which to go on; from uniform weights
                if None.
        """
        inner, rows = self.inner(problem), problem.weighted
        target, n = inner.scored(problem.target), len(problem.weighted)
        size = max(round(self.coreset_share * n), 1)
        nothing = inner.basis.new_zeros(problem.n_groups)
        stored = inner.resume(
            checkpoint,
            weight=inner.uniform(),
            u=inner.zero(),
            log_gamma=nothing.log_softmax(dim=0),
            done=nothing.sum(),
        )
        weight, u, log_gamma = stored["weight"], stored["u"], stored["log_gamma"]
        done = int(stored["done"])

        while True:
            inner.forget()
            generator = np.random.default_rng([self.seed, done])
            coreset = draw_coreset(weight, rows, size, generator)
            u = inner.fit(coreset, u).state.u

            if self.risk == "mean":
                slope = target_gradient(target, u)
            else:
                on_target = target.at(u)
                signal = target.group_means(on_target.losses)
                log_gamma = (log_gamma + signal / self.temperature).log_softmax(dim=0)
                share = target.shares(log_gamma.exp())
                slope = target.gradients(on_target, share)

            objective = inner.objective(weight)
            agreement = objective.gradient_products(objective.at(u), slope)[:, 0]
            xi = rescale(weight @ agreement - agreement, self.step_norm)
            moved, taken = project(weight, xi, self.decay ** (done // self.decay_every))
            done += 1
            yield inner.step(
                weight,
                u,
                group_weight=log_gamma.exp() if self.risk == "group_dro" else None,
                step_size=taken,
                checkpoint={
                    "weight": moved,
                    "u": u,
                    "log_gamma": log_gamma,
                    "done": weight.new_tensor(done),
                },
                note=f"The weights moved at a head fitted on {int((coreset > 0).sum()):,} of {n:,} "
                "samples, drawn by weight.",
            )
            weight = moved


def draw_coreset(weight: Tensor, rows: Rows, size: int, generator: np.random.Generator) -> Tensor:
    """Draw rows by weight without replacement, and weight them so that nothing is biased.

    Args:
        weight: (n,), sums to one.
        rows: The n rows; only their positions are read.
        size: How many rows; those of weight zero are never drawn.
        generator: Is advanced.

    Returns:
        (n,), zero off the coreset, sums to one.
    """
    uniform = weight.new_tensor(per_row(rows, generator)).clamp(min=torch.finfo(weight.dtype).tiny)
    key = weight.log() - (-uniform.log()).log()
    if size >= len(key):
        return weight
    threshold = key.sort(descending=True).values[size]
    # P(log w + G > threshold); expm1 keeps it exact where w is small.
    chance = -torch.expm1(-torch.exp(weight.log() - threshold))
    drawn = torch.where(key > threshold, weight / chance.where(chance > 0, 1), 0)
    return drawn / drawn.sum()
