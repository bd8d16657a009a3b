r"""Group-robust Sample Reweighting (GSR) with last-layer retraining.

Qiao, Wu, Wang, Koh and Low, "Group-robust Sample Reweighting for Subpopulation Shifts via
Influence Functions" (ICLR 2025), algorithm 1:

.. math::
    \min_w \max_g R_g(\hat\theta(w)) \quad \text{with} \quad
    \hat\theta(w) = \arg\min_\theta \sum_i \bar w_i \ell_i(\theta) + \lambda \lVert\theta\rVert^2 ,

where R_g is the mean loss of group g on the target set. Each step fits the head to stationarity,
raises the aggregation weights of the groups that do badly, :math:`\gamma_g \leftarrow \gamma_g
e^{r_g/\tau}`, and moves the sample weights against :math:`\xi = I\gamma / n`, projected onto the
simplex as in the paper (cut at zero, then renormalised).

Where we differ from the paper: the influence is the derivative of the objective with *normalised*
weights, which adds a constant to each group's column (see `gsr_core.linear.influence`); it is
divided by n, as in the authors' released code, so that `lr` does not depend on the size of the
held-out set; the penalty is `l2 * ||theta||^2`, as there, not half of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from gsr_core.data.problem import Problem
from gsr_core.linear.influence import EXACT, Influence, Inverted, influence_along, shortfall
from gsr_core.linear.iterative import SolveEnding
from gsr_core.linear.objective import State
from gsr_core.methods.base import SETTINGS_CONFIG, LabelNeeds, Range, SearchSpace, Step, settings
from gsr_core.methods.inner import Fitted, FittedHead, Scored, invert_exactly

__all__ = ["GSR", "GroupRobust", "clip_norm", "project"]

_ACCURACY = 1e-9
"""Largest relative residual of a solve, in units of the share of the weights that it moves, so that
the error of a step's weights is about this share of them. A hundred steps can amplify it a
thousandfold; and some settings, a large `lr` without `clip`, amplify any rounding to everything."""
_LOOSEST = 1e-4
"""Largest relative residual when the weights hardly move."""


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class GroupRobust(FittedHead, ABC):
    """The outer loop of GSR; what a method adds is how the weights are scored."""

    needs: ClassVar[LabelNeeds] = LabelNeeds.TARGET
    search: ClassVar[SearchSpace] = {
        **FittedHead.search,
        "lr": Range(0.03, 10.0),
        "temperature": Range(0.1, 10.0),
    }

    steps: Annotated[
        int, Field(ge=1, le=100_000, description="Fits of the head; the weights move in between.")
    ] = 100
    lr: Annotated[float, Field(gt=0, description="Step size of the weights.")] = 1.0
    temperature: Annotated[
        float,
        Field(gt=0, description="Lower makes the group weights follow the worst group faster."),
    ] = 1.0
    clip: Annotated[
        float, Field(ge=0, description="Largest norm of a weight update; 0 switches it off.")
    ] = 1.0
    lr_decay: Annotated[
        float, Field(gt=0, le=1, description="Factor on the step size at each decay.")
    ] = 0.1
    lr_decay_every: Annotated[int, Field(ge=1, description="Steps between two decays.")] = 30
    patience: Annotated[
        int,
        Field(
            ge=0,
            description="End after so many steps without a better one on val; 0 takes all steps.",
        ),
    ] = 0
    group_signal: Annotated[
        Literal["target_loss", "target_error", "val_loss", "val_error"],
        Field(
            description="What raises a group's weight. The val signals let the selection set into "
            "training and are there to compare with."
        ),
    ] = "target_loss"
    gamma_update: Annotated[
        Literal["paper", "reference"],
        Field(
            description="paper: group weights times exp(signal / temperature); reference: times "
            "exp(signal), what the authors' released code amounts to."
        ),
    ] = "paper"

    @property
    def labels_used(self) -> tuple[str, ...]:
        """Which rows' group labels are read; a signal on val reads those of val in training too."""
        used = super().labels_used
        on_val = self.group_signal.startswith("val") and "val" not in used
        return (*used, "val") if on_val else used

    @abstractmethod
    def invert(
        self, at: Fitted, right: Tensor, *, tolerance: float, start: Tensor | None = None
    ) -> Inverted:
        """Apply the inverse Hessian to columns (p, c, r), or what the method takes for it.

        Args:
            at: Whose Hessian.
            right: (p, c, r).
            tolerance: Relative residual of each column that the weights need.
            start: (p, c, r) what is near to the solution, if known.
        """

    def shorten(self, xi: Tensor) -> tuple[Tensor, bool]:
        """Return the direction (n,) of the step, and whether it was clipped."""
        return clip_norm(xi, self.clip)

    def iterate(
        self, problem: Problem, checkpoint: Mapping[str, Tensor] | None = None
    ) -> Iterator[Step]:
        """Yield one refitted head a step, without end; the driver counts.

        Args:
            problem: The data.
            checkpoint: `Step.checkpoint` of the step after which to go on; from uniform weights
                if None.
        """
        inner = self.inner(problem)
        target = inner.scored(problem.target)
        watched = target if self.group_signal.startswith("target") else inner.scored(problem.val)
        n = len(inner.labels)

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
        # Checkpoints of earlier versions have neither.
        solution, length = stored.get("solution"), stored.get("length")

        while True:
            fit = inner.fit(weight, u)
            u = fit.state.u
            on_target = target.at(u)
            on_watched = on_target if watched is target else watched.at(u)

            temperature = self.temperature if self.gamma_update == "paper" else 1.0
            log_gamma = log_gamma + self._signal(watched, on_watched) / temperature
            log_gamma = log_gamma.log_softmax(dim=0)

            # The update needs the influence only summed over the groups, which by linearity is one
            # solve, along the gradient of the sum.
            size = self.lr * self.lr_decay ** (done // self.lr_decay_every)
            gamma = log_gamma.exp()
            at = Fitted(inner.solver, inner.objective(weight), fit.state, target, on_target)
            inverted = self.invert(
                at,
                at.gradients(target.shares(gamma)),
                tolerance=EXACT if length is None else _tolerance(weight, size * float(length)),
                start=solution,
            )
            solution = inverted.columns
            along = influence_along(at.objective, at.state, solution)[:, 0]
            xi, clipped = self.shorten(along / n)
            length = xi.norm()
            moved, size = project(weight, xi, size)

            done += 1
            yield inner.as_step(
                fit,
                weight,
                solved=fit.converged and inverted.ending is SolveEnding.REACHED,
                note=inverted.note + shortfall(inverted.ending),
                group_weight=gamma,
                u=u,
                measure=inner.influence(weight, u, target, partial(self.invert, tolerance=EXACT)),
                step_size=size,
                clipped=clipped,
                checkpoint={
                    "weight": moved,
                    "u": u,
                    "log_gamma": log_gamma,
                    "solution": solution,
                    "length": length,
                    **inner.solver.state(),
                    "done": weight.new_tensor(done),
                },
            )
            weight = moved

    def influence(
        self, problem: Problem, sample_weight: Tensor, u: Tensor | None = None
    ) -> Callable[[], Influence]:
        """Return `Step.measure` of a step of an earlier run.

        Args:
            problem: The data.
            sample_weight: (n,) of the step.
            u: (p, c) of the step; fitted under these weights if None.
        """
        invert = partial(self.invert, tolerance=EXACT)
        return self.influence_of_refit(problem, sample_weight, u, invert)

    def _signal(self, watched: Scored, state: State) -> Tensor:
        """Return each group's mean loss in nats, or error rate, (m,)."""
        each = state.losses
        if self.group_signal.endswith("error"):
            each = watched.losses.wrong(state).to(each)
        # A group may be absent from val; it then gives no signal.
        return watched.group_means(each)


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class GSR(GroupRobust):
    """Learn one weight per held-out sample so that the worst target group does best."""

    name: ClassVar[str] = "gsr"
    title: ClassVar[str] = "GSR: group-robust sample reweighting"
    summary: ClassVar[str] = (
        "Learns a weight for each held-out sample, by influence functions, so that a head fitted "
        "under these weights does best on the worst group of the target set."
    )
    use_when: ClassVar[str] = (
        "You have a small set with group labels, and the rows to fit on have none: what "
        "influence can do with them, sample by sample."
    )

    def invert(
        self, at: Fitted, right: Tensor, *, tolerance: float, start: Tensor | None = None
    ) -> Inverted:
        """Solve to the tolerance."""
        return invert_exactly(at, right, tolerance=tolerance, start=start)


def _tolerance(weight: Tensor, moving: float) -> float:
    """Return the relative residual that leaves the next weights as exact as they need to be.

    Args:
        weight: (n,).
        moving: Norm of their next update, about.
    """
    if moving == 0:
        return _LOOSEST
    return min(max(_ACCURACY * (1 + float(weight.norm()) / moving), EXACT), _LOOSEST)


def clip_norm(xi: Tensor, largest: float) -> tuple[Tensor, bool]:
    """Return xi (n,), shortened if its norm exceeds the largest (0: none), and whether it was."""
    norm = float(xi.norm())
    if 0 < largest < norm:
        return xi * (largest / norm), True
    return xi, False


def project(weight: Tensor, xi: Tensor, size: float) -> tuple[Tensor, float]:
    """Return the projected, renormalised step and the step size that it took.

    A step that would leave no weight above zero is halved until one is. If a derivative is not
    finite the weights are not either, which ends the fit at the next step.

    Args:
        weight: (n,), sums to one.
        xi: (n,) direction, to be stepped against.
        size: Step size.

    Example:
        >>> weight, xi = torch.tensor([0.5, 0.5]), torch.tensor([1.0, -1.0])
        >>> project(weight, xi, 0.25)
        (tensor([0.2500, 0.7500]), 0.25)
    """
    if not bool(xi.isfinite().all()):
        return torch.full_like(weight, torch.nan), size
    while True:
        moved = torch.clamp(weight - size * xi, min=0)
        total = moved.sum()
        if 0 < total < torch.inf:
            return moved / total, size
        size /= 2
