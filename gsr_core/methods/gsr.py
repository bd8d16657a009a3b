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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from gsr_core.data.problem import Problem
from gsr_core.linear.solver import Fit
from gsr_core.methods.base import SETTINGS_CONFIG, LabelNeeds, Range, SearchSpace, Step, settings
from gsr_core.methods.inner import FittedHead, InnerProblem, Scored, shortfall

__all__ = ["GSR", "GroupRobust", "Iterate", "Scores", "clip_norm", "project"]

_CARRIED = "carried."
"""Begins the names of what scores carry from step to step, in a checkpoint."""


@dataclass(frozen=True)
class Iterate:
    """Where the weights are to be scored.

    Attributes:
        inner: The inner problem.
        weight: (n,).
        fit: Of the head under these weights.
        target: The rows whose groups count.
        log_probabilities: (N, K) of these rows at the fit.
        carried: `Scores.carried` of the step before; empty at the first.
    """

    inner: InnerProblem
    weight: Tensor
    fit: Fit
    target: Scored
    log_probabilities: Tensor
    carried: Mapping[str, Tensor]

    def group_gradients(self) -> Tensor:
        """Return (p, c, m): the gradient of each group's target loss."""
        return self.inner.group_gradients(self.target, self.log_probabilities)


@dataclass(frozen=True)
class Scores:
    """How each group's target loss follows each weight, and how that was computed.

    Attributes:
        influence: (n, m) nats; negative = raising the weight lowers that group's loss.
        solved: Whether it is as exact as the method means it to be.
        carried: Tensors from which the scores of the next step start.
        note: What the user should know about them, or "".
    """

    influence: Tensor
    solved: bool = True
    carried: Mapping[str, Tensor] = field(default_factory=dict)
    note: str = ""


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

    @abstractmethod
    def scores(self, at: Iterate) -> Scores:
        """Return how each group's target loss follows each weight."""

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
        carried = {
            key.removeprefix(_CARRIED): value
            for key, value in stored.items()
            if key.startswith(_CARRIED)
        }

        while True:
            fit = inner.fit(weight, u)
            u = fit.state.u
            on_target = inner.log_probabilities(target, u)
            on_watched = on_target if watched is target else inner.log_probabilities(watched, u)
            scores = self.scores(Iterate(inner, weight, fit, target, on_target, carried))
            carried = scores.carried

            temperature = self.temperature if self.gamma_update == "paper" else 1.0
            log_gamma = log_gamma + self._signal(watched, on_watched) / temperature
            log_gamma = log_gamma.log_softmax(dim=0)

            xi, clipped = self.shorten(scores.influence @ log_gamma.exp() / n)
            size = self.lr * self.lr_decay ** (done // self.lr_decay_every)
            moved, size = project(weight, xi, size)

            done += 1
            yield inner.as_step(
                fit,
                weight,
                solved=fit.converged and scores.solved,
                note=scores.note,
                group_weight=log_gamma.exp(),
                influence=scores.influence,
                step_size=size,
                clipped=clipped,
                checkpoint={
                    "weight": moved,
                    "u": u,
                    "log_gamma": log_gamma,
                    **inner.solver.state(),
                    **{f"{_CARRIED}{key}": value for key, value in carried.items()},
                    "done": weight.new_tensor(done),
                },
            )
            weight = moved

    def _signal(self, watched: Scored, log_probabilities: Tensor) -> Tensor:
        """Return each group's mean loss in nats, or error rate, (m,)."""
        if self.group_signal.endswith("loss"):
            each = watched.losses(log_probabilities)
        else:
            each = (log_probabilities.argmax(dim=1) != watched.labels).to(log_probabilities)
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

    def scores(self, at: Iterate) -> Scores:
        """Return the influence, exact to the solver's tolerance."""
        exact = at.inner.influence(at.fit, at.weight, at.target, at.log_probabilities)
        return Scores(exact.values, solved=exact.reached, note=shortfall(exact))


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
