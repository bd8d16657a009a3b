r"""Optimised group weights (OptWeights): one weight per group, by the gradient of a target risk.

Holstege, Wouters, van Giersbergen and Diks, "Optimizing importance weighting in the presence of
sub-population shifts" (ICLR 2025). Weights that make all groups equal remove bias but add variance:
a group of twenty rows is trusted as much as one of thousands. So the groups' shares p are learned,

.. math::
    \hat\theta(p) = \arg\min_\theta \sum_g p_g R_g^{\mathrm{fit}}(\theta)
        + \lambda \lVert\theta\rVert^2, \qquad
    \min_p F(p) = \sum_g r_g R_g^{\mathrm{target}}(\hat\theta(p)) ,

where R_g is the mean loss of group g, so that :math:`w_i = \sum_{g \ni i} p_g / n_g`. From equal
shares, which is RWG, each step takes

.. math::
    D_g = \frac{\partial F}{\partial p_g} = -\nabla F^\top H^{-1} \nabla R_g^{\mathrm{fit}}, \qquad
    v \leftarrow (1 - \mu)(D - p^\top D) + \mu v, \qquad
    p_g \propto \max(p_g e^{-\eta v_g}, \mathrm{floor}) .

`mean` has equal r over the groups that target has; `dro` lets r follow the groups that do badly
there, :math:`r_g \propto r_g e^{\rho R_g}`. D is the mean over each group of the influences of
`gsr_core.linear.influence`, summed with r: this is GSR with weights that are tied in a group. Their
normalisation adds a constant to D, which the step takes away again.

Where we differ, and why:

- The authors keep the p of the lowest F, of target. Here val chooses, as with every method, since F
  is what is minimised; the note of each step has its F, of `dro` the largest target loss.
- The authors' code takes minus the sum of the other entries for the step of the last group, so that
  its result changes with the groups' numbers; the constant is to leave no trace.
- It also rounds p to four decimals, and has twice the penalty in the Hessian than in the fit.
- Any number of classes, groups that overlap, and an l2 penalty only: the fit with an l1 penalty has
  no derivative where a coefficient enters.

A group without held-out rows has no share but counts in F; one without target rows has a share, and
does not count. A row in no known group has weight zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from gsr_core.data.problem import Problem
from gsr_core.linear.influence import EXACT, Influence, influence_along, shortfall
from gsr_core.linear.iterative import SolveEnding
from gsr_core.methods.base import SETTINGS_CONFIG, LabelNeeds, Range, SearchSpace, Step, settings
from gsr_core.methods.inner import Fitted, FittedHead, invert_exactly
from gsr_core.methods.rwg import group_shares, groups_with_rows

__all__ = ["OptWeights", "move_shares"]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class OptWeights(FittedHead):
    """Learn one weight per group of the held-out rows so that the target groups do best."""

    name: ClassVar[str] = "optweights"
    title: ClassVar[str] = "OptWeights: optimised group weights"
    summary: ClassVar[str] = (
        "Learns one weight for each group of the held-out rows, by the derivative of the target "
        "groups' losses through the fit, from equal weights on."
    )
    use_when: ClassVar[str] = (
        "Held-out and target rows have group labels, and some groups are so small that "
        "equal weights trust them too much."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.TRAIN
    search: ClassVar[SearchSpace] = {
        **FittedHead.search,
        "lr": Range(0.01, 3.0),
        "risk": ("mean", "dro"),
    }

    steps: Annotated[
        int, Field(ge=1, le=100_000, description="Fits of the head; the weights move in between.")
    ] = 200
    lr: Annotated[float, Field(gt=0, description="Step size of the logarithms of p.")] = 0.1
    momentum: Annotated[
        float, Field(ge=0, lt=1, description="Share of the last direction that is kept.")
    ] = 0.5
    risk: Annotated[
        Literal["mean", "dro"],
        Field(
            description="What is lowered on target. mean: the mean of the groups' losses; dro: "
            "their mean by weights that follow the worst."
        ),
    ] = "mean"
    dro_rate: Annotated[
        float,
        Field(gt=0, description="dro: step size of these weights, per nat of group loss."),
    ] = 0.1
    floor: Annotated[
        float, Field(ge=0, lt=1, description="Least weight of a group, before they are normalised.")
    ] = 1e-3

    @property
    def labels_used(self) -> tuple[str, ...]:
        """Which rows' group labels are read; those of target drive the weights."""
        weighted, *choosing = super().labels_used
        return (weighted, "target", *choosing)

    def iterate(
        self, problem: Problem, checkpoint: Mapping[str, Tensor] | None = None
    ) -> Iterator[Step]:
        """Yield one refitted head a step, without end; the driver counts.

        Args:
            problem: The data.
            checkpoint: `Step.checkpoint` of the step after which to go on; from equal shares if
                None.

        Raises:
            SettingError: If no held-out row, or no target row, is in a known group.
        """
        inner = self.inner(problem)
        target = inner.scored(problem.target)
        present, judged = (groups_with_rows(rows) for rows in (problem.weighted, problem.target))
        shares = group_shares(problem.weighted, inner.basis)
        equal = shares.new_full((shares.shape[1],), 1 / shares.shape[1])
        stored = inner.resume(
            checkpoint,
            p=equal,
            velocity=equal - equal,
            log_r=judged.to(equal).log().log_softmax(dim=0),
            u=inner.zero(),
        )
        p, velocity, log_r, u = (stored[key] for key in ("p", "velocity", "log_r", "u"))
        solution = stored.get("solution")

        while True:
            weight = shares @ p
            fit = inner.fit(weight, u)
            u = fit.state.u
            on_target = target.at(u)
            risks = target.group_means(on_target.losses)
            if self.risk == "dro":
                log_r = (log_r + self.dro_rate * risks).log_softmax(dim=0)
            r = log_r.exp()
            value = r @ risks if self.risk == "mean" else risks[judged].max()

            # D needs the influence only summed over the groups: one solve, as in GSR.
            at = Fitted(inner.solver, inner.objective(weight), fit.state, target, on_target)
            right = at.gradients(target.shares(r))
            inverted = invert_exactly(at, right, tolerance=EXACT, start=solution)
            solution = inverted.columns
            slope = influence_along(at.objective, at.state, solution)[:, 0] @ shares
            velocity = (1 - self.momentum) * (slope - p @ slope) + self.momentum * velocity
            moved = move_shares(p, velocity, self.lr, self.floor)

            everywhere = p.new_zeros(len(present))
            everywhere[present] = p
            yield inner.as_step(
                fit,
                weight,
                solved=fit.converged and inverted.ending is SolveEnding.REACHED,
                note=self._note(float(value)) + shortfall(inverted.ending),
                group_weight=everywhere,
                u=u,
                measure=inner.influence(weight, u, target),
                step_size=self.lr,
                checkpoint={
                    "p": moved,
                    "velocity": velocity,
                    "log_r": log_r,
                    "u": u,
                    "solution": solution,
                    **inner.solver.state(),
                },
            )
            p = moved

    def influence(
        self, problem: Problem, sample_weight: Tensor, u: Tensor | None = None
    ) -> Callable[[], Influence]:
        """Return `Step.measure` of a step of an earlier run.

        Args:
            problem: The data.
            sample_weight: (n,) of the step.
            u: (p, c) of the step; fitted under these weights if None.
        """
        return self.influence_of_refit(problem, sample_weight, u)

    def _note(self, value: float) -> str:
        of = "mean loss of the target groups" if self.risk == "mean" else "largest target loss"
        return f"The {of} is {value:.5g} nats."


def move_shares(p: Tensor, velocity: Tensor, size: float, floor: float) -> Tensor:
    """Return shares after one exponentiated step.

    Args:
        p: (m,) shares, positive with sum one.
        velocity: (m,) direction, to be stepped against; a constant in it changes nothing.
        size: Step size.
        floor: What no share is below before all are normalised.

    Example:
        >>> import torch
        >>> p = torch.tensor([0.5, 0.25, 0.25])
        >>> move_shares(p, torch.tensor([0.0, 1.0, 9.0]), 1.0, 0.01)
        tensor([0.8363, 0.1538, 0.0099])
    """
    moved = (p.log() - size * velocity).softmax(dim=0).clamp(min=floor)
    return moved / moved.sum()
