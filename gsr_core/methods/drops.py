r"""DROPS: class offsets that do best where an adversary chooses the shares of the groups.

Wei, Narasimhan, Amid, Chu, Liu and Kumar, "Distributionally robust post-hoc classifiers under prior
shifts" (ICLR 2023). The head stays as it is, and its logits z get an offset for each class. With
R_g the mean cross-entropy of target group g, r equal shares of the m groups that have rows, and a
radius delta in nats,

.. math::
    \min_\beta \; \max_{u :\, \mathrm{KL}(u \Vert r) \le \delta} \; \sum_g u_g R_g(\beta) , \qquad
    R_g(\beta) = \operatorname{mean}_{i \in g} \bigl[ -\log
    \operatorname{softmax}(z_i + \beta)_{y_i} \bigr] .

At delta = 0 the groups count alike, from log m on all mass may sit on one of them. Each step is one
delta, and selection on val picks it.

**How it is solved.** The adversary's answer is

.. math:: u_g \propto r_g \, e^{R_g / \mu} , \qquad \mathrm{KL}(u \Vert r) = \delta .

For a fixed temperature mu, the head's answer to it minimises the smooth convex
:math:`\mu \log \sum_g r_g e^{R_g(\beta) / \mu}`, by Newton's method on the K - 1 offsets. There
:math:`\sum_g u_g \nabla R_g = 0`, so that beta is also the best answer to that very u, and
:math:`u \cdot R` a lower bound of the game; the adversary's best value at beta is an upper one.
Their difference, the *gap*, bounds how far the offsets are from the optimum. Along mu the
divergence falls, so that one root of KL = delta is the solution. Where groups tie and all mass may
go to them, mu would be 0; it stops at a value that the gap shows to be enough.

Where we differ, and why:

- The released code alternates for classes: shares of the classes by the formula, a step on mu, and
  :math:`\alpha_y = u_y / \pi_y` as multipliers, pi the prior. These are the best answer for
  calibrated scores only, and the step has no floor: slack drives mu below 0 and turns the adversary
  around. The form for groups here is convex in beta whatever the scores, and comes with a
  certificate. At delta = 0 it calibrates the offsets for equal groups, and is 0 if they are.
- The groups' losses stay cross-entropies of the shifted softmax, where an accuracy would be a step.
- The radii are squares of even steps, because for small ones shares move by their root.
- A class without a target row in a known group keeps its logit, and the others' offsets sum to
  zero: their loss would otherwise fall for ever as that class vanishes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from gsr_core.data.problem import Problem
from gsr_core.linear.objective import centred_basis
from gsr_core.linear.solver import ARMIJO
from gsr_core.methods.base import SETTINGS_CONFIG, LabelNeeds, Step, settings
from gsr_core.methods.offsets import OffsetMethod, with_offsets
from gsr_core.methods.rwg import group_shares, groups_with_rows

__all__ = ["DROPS", "OffsetGame", "Solution", "worst_shares"]

_COLDEST = 1e-7
"""Smallest temperature, nats: the gap that it leaves is no more than this times log m."""
_GAP = 1e-6
"""Largest gap of a solved game, nats; of a loss above one nat, relative to it."""
_TIED = 1e-12
"""The same for given losses, relative to their spread."""
_ROOT = 1e-12
"""Precision of the logarithm of a temperature."""
_DECREMENT = 1e-15
"""Predicted decrease of the objective at which Newton's method ends, nats."""
_MAX_NEWTON = 100
_HALVINGS = 50
_FACTOR = 4.0
"""By which the temperature falls or rises in search of the root: Newton starts near enough then."""
_RIDGE = 1e-13, 1e-10
"""Added to the curvature, relative to its trace and absolute: that of very sure scores vanishes."""


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class DROPS(OffsetMethod):
    """Shift the decision between classes against the worst shares of the groups in a ball."""

    name: ClassVar[str] = "drops"
    title: ClassVar[str] = "DROPS: offsets against the worst group shares"
    summary: ClassVar[str] = (
        "Leaves the head as it is and shifts the logit of each class so that the loss is least "
        "under the worst group shares near equal ones; each step is one size of that "
        "neighbourhood."
    )
    use_when: ClassVar[str] = (
        "The head cannot be refitted and nobody knows how often each group will occur."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.TARGET

    steps: Annotated[
        int,
        Field(
            ge=1,
            le=1000,
            description="Radii to try, from 0, where groups count alike, to where all mass may sit "
            "on one group.",
        ),
    ] = 11

    def iterate(
        self, problem: Problem, checkpoint: Mapping[str, Tensor] | None = None
    ) -> Iterator[Step]:
        """Yield one head for each radius.

        Args:
            problem: The data.
            checkpoint: Has the number of the last radius.
        """
        base, rows = self.base_step(problem), problem.target
        like = torch.zeros(
            (), dtype=problem.compute.accumulate_dtype, device=problem.compute.device
        )
        game = OffsetGame(
            base.head.logits(rows.features).to(like), rows.labels, group_shares(rows, like)
        )
        present = groups_with_rows(rows)
        largest = math.log(int(present.sum()))
        radii = [largest * (k / max(self.steps - 1, 1)) ** 2 for k in range(self.steps)]
        kept_classes = problem.n_classes - int(game.seen.sum())
        done = 0 if checkpoint is None else int(checkpoint["step"])
        for step, radius in enumerate(radii[done:], start=done + 1):
            solution = game.solve(radius)
            share = like.new_zeros(problem.n_groups)
            share[present] = solution.share
            note = (
                f"Shares within {radius:.2g} nats of equal ones: the worst mean loss is "
                f"{solution.value:.3g} nats, at most {max(solution.gap, 0.0):.1g} above the least."
            )
            if kept_classes:
                note += f" {kept_classes} classes without a target row in a group are as they were."
            yield Step(
                head=with_offsets(base.head, solution.offset),
                sample_weight=None,
                objective=solution.value,
                gradient_norm=solution.gradient_norm,
                solved=base.solved and solution.gap <= _GAP * max(solution.value, 1.0),
                group_weight=share,
                checkpoint={"step": torch.tensor(step)},
                note=note,
            )


@dataclass(frozen=True)
class Solution:
    """The end of a game.

    Attributes:
        offset: (K,) added to the logits; sums to zero.
        share: (m,) the adversary's shares, sum to one, within the radius of equal ones.
        value: The largest loss that shares within the radius give these offsets, nats.
        gap: The most by which that exceeds the least possible one, nats.
        gradient_norm: Norm of the gradient by the offsets under these shares, nats.
    """

    offset: Tensor
    share: Tensor
    value: float
    gap: float
    gradient_norm: float


@dataclass(frozen=True)
class _Point:
    """The smoothed worst loss at some offsets, with the shares behind it and Newton's step."""

    value: float
    losses: Tensor
    share: Tensor
    gradient: Tensor
    step: Tensor

    @property
    def decrease(self) -> float:
        """What the step gains by the quadratic model, nats."""
        return -float(self.gradient @ self.step) / 2


class OffsetGame:
    """Class offsets against shares of the groups in a ball around equal ones.

    Attributes:
        seen: (K,) bool, classes with a row in a group.
    """

    def __init__(self, logits: Tensor, labels: Tensor, shares: Tensor) -> None:
        """Take the scores of some rows.

        Args:
            logits: (N, K).
            labels: (N,) int64.
            shares: (N, m) each row's share in each group's mean; columns sum to one.
        """
        self._logits, self._labels, self._shares = logits, labels, shares
        counted = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
        counted[labels[shares.any(dim=1)]] = True
        self.seen = counted
        self._basis = logits.new_zeros(logits.shape[1], int(counted.sum()) - 1)
        self._basis[counted] = centred_basis(int(counted.sum()), logits)
        self._equal = logits.new_full((shares.shape[1],), 1 / shares.shape[1])

    def solve(self, radius: float) -> Solution:
        """Return the offsets that are best against the worst shares within a radius in nats.

        Args:
            radius: Largest KL divergence of the shares from equal ones; not negative.
        """
        free = self._basis.new_zeros(self._basis.shape[1])
        if radius == 0:
            temperature = math.inf
            free = self._minimise(free, temperature)
        else:

            def divergence(temperature: float) -> float:
                nonlocal free
                free = self._minimise(free, temperature)
                return _kl(self._at(free, temperature, self._equal).share, self._equal)

            temperature = _temperature(divergence, radius, _COLDEST)
            free = self._minimise(free, temperature)
        point = self._at(free, temperature, self._equal)
        worst = worst_shares(point.losses, self._equal, radius)
        value = float(worst @ point.losses)
        # The least loss under these shares, by the quadratic model, which is exact this near to it.
        alone = self._at(free, math.inf, point.share)
        least = alone.value - alone.decrease
        return Solution(
            offset=self._basis @ free,
            share=point.share,
            value=value,
            gap=value - least,
            gradient_norm=float(point.gradient.norm()),
        )

    def _minimise(self, free: Tensor, temperature: float) -> Tensor:
        """Minimise the smoothed worst loss over the free coordinates, by Newton's method."""
        point = self._at(free, temperature, self._equal)
        for _ in range(_MAX_NEWTON):
            if point.decrease <= _DECREMENT:
                break
            size = 1.0
            while size > 2.0**-_HALVINGS:
                moved = self._at(free + size * point.step, temperature, self._equal)
                if moved.value <= point.value - 2 * ARMIJO * size * point.decrease:
                    break
                size /= 2
            else:
                # What is left to gain drowns in rounding.
                break
            free, point = free + size * point.step, moved
        return free

    def _at(self, free: Tensor, temperature: float, reference: Tensor) -> _Point:
        """Evaluate the smoothed worst loss with shares near the reference (m,)."""
        basis, shares = self._basis, self._shares
        log_probability = (self._logits + basis @ free).log_softmax(dim=1)
        losses = -log_probability.gather(1, self._labels[:, None])[:, 0] @ shares
        share = _answer(losses, reference, temperature)
        probability = log_probability.exp()
        mean = probability @ basis
        slopes = shares.T @ (mean - basis[self._labels])
        gradient = share @ slopes
        weight = shares @ share
        curvature = basis.T @ ((weight @ probability)[:, None] * basis)
        curvature = curvature - mean.T @ (weight[:, None] * mean)
        value = share @ losses
        if not math.isinf(temperature):
            value = value - temperature * _kl(share, reference)
            spread = (share[:, None] * slopes).T @ slopes - gradient[:, None] * gradient
            curvature = curvature + spread / temperature
        curvature.diagonal().add_(_RIDGE[0] * curvature.trace() + _RIDGE[1])
        step = -torch.linalg.solve(curvature, gradient)
        return _Point(float(value), losses, share, gradient, step)


def worst_shares(losses: Tensor, reference: Tensor, radius: float) -> Tensor:
    r"""Return the shares within a radius of given ones under which the mean loss is largest.

    They are :math:`u_g \propto r_g \exp(L_g / \mu)`, with mu where the divergence is the radius; if
    all mass on the highest loss is within it, that.

    Args:
        losses: (m,) L, one for each group.
        reference: (m,) r, positive, sums to one.
        radius: Largest KL(u || r), nats.

    Example:
        >>> losses, equal = torch.tensor([0.2, 0.5, 0.9]), torch.full((3,), 1 / 3)
        >>> for radius in (0.0, 0.1, 1.1):
        ...     print(worst_shares(losses, equal, radius))
        tensor([0.3333, 0.3333, 0.3333])
        tensor([0.1776, 0.2854, 0.5371])
        tensor([0., 0., 1.])
    """
    spread = float(losses.max() - losses.min())
    if radius == 0 or spread == 0:
        return reference
    temperature = _temperature(
        lambda each: _kl(_answer(losses, reference, each * spread), reference), radius, _TIED
    )
    return _answer(losses, reference, temperature * spread)


def _answer(losses: Tensor, reference: Tensor, temperature: float) -> Tensor:
    """Return the adversary's shares at a temperature; the reference at infinity."""
    return ((losses - losses.max()) / temperature + reference.log()).softmax(dim=0)


def _kl(share: Tensor, reference: Tensor) -> float:
    """Return KL(share || reference), nats."""
    return float(torch.xlogy(share, share / reference).sum())


def _temperature(divergence: Callable[[float], float], radius: float, coldest: float) -> float:
    """Return the temperature at which the divergence is the radius, by bracketing and Brent.

    Args:
        divergence: Falls with the temperature, to 0.
        radius: Positive.
        coldest: Is returned if the divergence does not exceed the radius there either.
    """
    # Not above: importing it would keep the dashboard's first page waiting.
    from scipy.optimize import root_scalar

    high = 1.0
    while divergence(high) > radius:
        high *= _FACTOR
    low = high / _FACTOR
    while divergence(low) <= radius:
        if low <= coldest:
            return low
        high, low = low, max(low / _FACTOR, coldest)
    found = root_scalar(
        lambda log: divergence(math.exp(log)) - radius,
        bracket=(math.log(low), math.log(high)),
        method="brentq",
        xtol=_ROOT,
    )
    return math.exp(found.root)
