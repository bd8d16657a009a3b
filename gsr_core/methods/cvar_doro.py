r"""Distributionally robust optimisation of a head without groups, with outliers left out.

CVaR and chi-square DRO (Levy et al., "Large-Scale Methods for Distributionally Robust
Optimization", NeurIPS 2020) and DORO (Zhai et al., "DORO: Distributional and Outlier Robust
Optimization", ICML 2021, https://arxiv.org/abs/2106.06142). Of n rows the floor(eps n) of highest
loss are left out as outliers; on the other N

.. math::
    \min_\theta \max_{w \in \mathcal W} \sum_i w_i \ell_i(\theta) + \lambda \lVert\theta\rVert^2 ,

with w on the simplex, and at most 1 / (alpha N) each (`cvar`: the mean of the worst share alpha),
or with :math:`\lVert w \rVert^2 \le C^2 / N, C^2 = 1 + (1 / \alpha - 1)^2` (`chi2`: the loss
:math:`\min_\eta \eta + C (\frac1N \sum_i (\ell_i - \eta)_+^2)^{1/2}`).

**eps = 0** is convex, and solved exactly. By strong duality the maximum over w of the penalised
minimum over the head is the same number; its gradient in w is the losses of the head fitted under
w. Spectral projected gradient (Birgin, Martinez and Raydan, SIAM J. Optim. 2000) climbs it, every
iterate an exact weighted fit, until the duality gap, the worst weights' loss less these weights',
is at most `tolerance`. **eps > 0** is not convex: leaving out the rows of highest loss and solving
the rest take turns. Each lowers the same objective, so they cannot cycle, and end where the
outliers stay the same.

Where we differ: the authors descend stochastic subgradients, with the rows ranked in each batch,
of n1 = floor((eps + alpha (1 - eps)) n) rows less the outliers, whose weights sum to one only up to
that floor; here the rank is among all rows, and the row at the edge takes the fraction left over.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from gsr_core.data.problem import Problem
from gsr_core.linear.objective import State
from gsr_core.linear.solver import ARMIJO
from gsr_core.methods.base import SETTINGS_CONFIG, LabelNeeds, SearchSpace, Step, settings
from gsr_core.methods.inner import FittedHead, InnerProblem

__all__ = ["CVaRDORO", "CappedSimplex", "ChiSquareBall"]

_BISECTIONS = 100
"""Halvings of a range of levels; more than there are digits in a float64."""
_FAR = 1e15
"""Below the losses no level is sought that is further away: rounding would take the losses."""


class Ambiguity(ABC):
    """A set of weights on the simplex, the worst of which counts."""

    @abstractmethod
    def project(self, point: Tensor) -> Tensor:
        """Return the weights (n,) nearest to a point (n,)."""

    @abstractmethod
    def worst(self, losses: Tensor) -> Tensor:
        """Return the weights (n,) under which the mean of the losses (n,) is highest."""


@dataclass(frozen=True)
class CappedSimplex(Ambiguity):
    """Weights of at most `cap`, which is at least 1 / n."""

    cap: float

    def project(self, point: Tensor) -> Tensor:
        """Return the weights (n,) nearest to a point (n,)."""

        def above(level: float) -> Tensor:
            return (point - level).clamp(0, self.cap)

        level = _last_that_holds(
            lambda level: float(above(level).sum()) >= 1,
            float(point.min()) - self.cap,
            float(point.max()),
        )
        weight = above(level)
        return weight / weight.sum()

    def worst(self, losses: Tensor) -> Tensor:
        """Return the weights (n,): the cap from the highest loss down, until they sum to one."""
        order = losses.argsort(descending=True, stable=True)
        before = self.cap * torch.arange(len(losses), device=losses.device).to(losses)
        weight = torch.empty_like(losses)
        weight[order] = (1 - before).clamp(0, self.cap)
        return weight


@dataclass(frozen=True)
class ChiSquareBall(Ambiguity):
    """Weights whose squares sum to at most `bound`, which is at least 1 / n.

    Both the projection and the worst are shares of what exceeds some level, and the more
    concentrated the higher that is.
    """

    bound: float

    def project(self, point: Tensor) -> Tensor:
        """Return the weights (n,) nearest to a point (n,)."""
        return self._highest(point, least=1)

    def worst(self, losses: Tensor) -> Tensor:
        """Return the weights (n,) under which the mean of the losses (n,) is highest."""
        return self._highest(losses, least=0)

    def _highest(self, point: Tensor, *, least: float) -> Tensor:
        """Return the shares above the highest level with an excess of `least` in the ball."""

        def holds(level: float) -> bool:
            excess = (point - level).clamp(min=0)
            total = float(excess.sum())
            # Uniform weights are to lie in the smallest ball in spite of rounding.
            bound = self.bound * (1 + 1e-12)
            return total > 0 and total >= least and float((excess / total).square().sum()) <= bound

        high, distance = float(point.max()), 1.0
        low = float(point.min()) - distance
        while not holds(low) and distance < _FAR:
            low, distance = low - distance, 2 * distance
        excess = (point - _last_that_holds(holds, low, high)).clamp(min=0)
        return excess / excess.sum()


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class CVaRDORO(FittedHead):
    """Fit the head to the worst share of the samples, the very worst left out as outliers."""

    name: ClassVar[str] = "cvar_doro"
    title: ClassVar[str] = "CVaR-DORO: the worst share, without outliers"
    summary: ClassVar[str] = (
        "Fits the head to the held-out samples of highest loss, whichever these then are, with the "
        "very highest left out as outliers."
    )
    use_when: ClassVar[str] = (
        "Nobody labelled groups, and hard samples are the minority rather than noise."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE
    search: ClassVar[SearchSpace] = {
        **FittedHead.search,
        "alpha": (0.1, 0.2, 0.5),
        "eps": (0.005, 0.01, 0.02, 0.1, 0.2),
        "divergence": ("cvar", "chi2"),
    }

    alpha: Annotated[
        float, Field(gt=0, le=1, description="The worst share that counts; 1 is plain fitting.")
    ] = 0.2
    eps: Annotated[
        float, Field(ge=0, lt=1, description="Share of highest loss that is left out as outliers.")
    ] = 0.005
    divergence: Annotated[
        Literal["cvar", "chi2"],
        Field(description="cvar: the worst share counts alike; chi2: more, the higher the loss."),
    ] = "cvar"
    tolerance: Annotated[
        float, Field(gt=0, description="Duality gap at which a fit is done, nats.")
    ] = 1e-4
    fits: Annotated[
        int, Field(ge=1, le=100_000, description="Weighted fits after which to stop regardless.")
    ] = 300
    rounds: Annotated[
        int, Field(ge=1, le=1000, description="Most times that the outliers are chosen anew.")
    ] = 10

    def iterate(
        self, problem: Problem, checkpoint: Mapping[str, Tensor] | None = None
    ) -> Iterator[Step]:
        """Yield one step.

        Args:
            problem: The data.
            checkpoint: Not used; there is nothing to go on from.
        """
        inner = self.inner(problem)
        n = len(inner.labels)
        outliers = int(self.eps * n)
        plain = inner.fit(inner.uniform(), inner.zero()).state
        kept = _lowest(plain.losses, n - outliers)
        weight, state, gap = self._robust(inner, kept, plain.u)
        settled = False
        for _ in range(self.rounds):
            again = _lowest(state.losses, n - outliers)
            settled = torch.equal(again, kept)
            if settled:
                break
            kept = again
            weight, state, gap = self._robust(inner, kept, state.u)

        note = (
            f"{outliers} of {n} samples were left out as outliers, and {int((weight > 0).sum())} "
            f"of the others carry weight; duality gap {max(gap, 0):.1g} nats."
        )
        if not settled:
            note += f" The outliers still changed after {self.rounds} rounds."
        step = inner.step(weight, state.u, inner.scored(problem.target), note=note)
        yield replace(step, solved=step.solved and settled and gap <= self.tolerance)

    def _robust(self, inner: InnerProblem, kept: Tensor, u: Tensor) -> tuple[Tensor, State, float]:
        """Solve the robust problem on the kept rows.

        Args:
            inner: The rows.
            kept: (n,) bool.
            u: Where the first fit begins.

        Returns:
            The worst weights (n,), the head fitted under them, and the duality gap, nats.
        """
        count = int(kept.sum())
        ambiguity = self._ambiguity(count)

        def fitted(weight: Tensor, u: Tensor) -> State:
            return inner.fit(_on(kept, weight), u).state

        weight = inner.basis.new_full((count,), 1 / count)
        state = fitted(weight, u)
        fits, size = 1, 0.0
        while True:
            losses = state.losses[kept]
            gap = float((ambiguity.worst(losses) - weight) @ losses)
            if gap <= self.tolerance or fits >= self.fits:
                break
            if size == 0:
                size = 1 / (self.alpha * count * float(losses.std()))
            direction = ambiguity.project(weight + size * losses) - weight
            slope, length = float(losses @ direction), 1.0
            while True:
                moved = fitted(weight + length * direction, state.u)
                fits += 1
                higher = float(moved.value) - float(state.value)
                if higher >= ARMIJO * length * slope or fits >= self.fits:
                    break
                length /= 2
            if higher <= 0:
                break
            # Barzilai and Borwein's step: the inverse curvature of the secant along the move.
            curved = float(direction @ (losses - moved.losses[kept])) / length
            size = float(direction.square().sum()) / curved if curved > 0 else 2 * size
            weight, state = weight + length * direction, moved
        return _on(kept, weight), state, gap

    def _ambiguity(self, count: int) -> Ambiguity:
        if self.divergence == "cvar":
            return CappedSimplex(max(1 / (self.alpha * count), 1 / count))
        return ChiSquareBall((1 + (1 / self.alpha - 1) ** 2) / count)


def _on(kept: Tensor, weight: Tensor) -> Tensor:
    """Return (n,) weights that are zero off the kept rows."""
    whole = weight.new_zeros(len(kept))
    whole[kept] = weight
    return whole


def _lowest(losses: Tensor, count: int) -> Tensor:
    """Return (n,) bool: the rows of the `count` lowest losses."""
    kept = torch.zeros_like(losses, dtype=torch.bool)
    kept[losses.argsort(stable=True)[:count]] = True
    return kept


def _last_that_holds(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Return the highest level at which a condition holds that fails above it, by bisection."""
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return low
