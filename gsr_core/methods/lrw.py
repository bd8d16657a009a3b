r"""Learned reweighting (LRW): a small network weights samples so that a validation part does well.

Jain et al., "Improving Generalization via Meta-Learning on Hard Samples" (CVPR 2024), of whose
heuristics, LRW-Random, LRW-Easy and LRW-Hard, each takes another part of the pool, here of the
held-out rows, as validation: a random one, or that of the highest or the lowest margin

.. math:: m_i = p_{i, y_i} - \max_{k \neq y_i} p_{i, k} .

The rest trains a head u on weights that a network g gives to features, and g learns to lower the
unweighted validation loss V of that head,

.. math::
    w_j = \frac{g_\phi(x_j)}{\sum_k g_\phi(x_k)}, \qquad
    \frac{\mathrm{d} V}{\mathrm{d} w_j} \approx
        -\beta \, \langle \nabla V(\hat u), \nabla \ell_j(u) \rangle , \qquad
    \hat u = u - \beta \nabla \Big( \sum_j w_j \ell_j + \lambda \lVert u \rVert^2 \Big)(u) ,

the derivative through one step of the head (`one_step`, as published), which a linear head has in
closed form. One such step is the first term of a Neumann series of the inverse Hessian, without the
others; `exact` refits the head and takes the influence of each weight instead, which is larger, so
that it needs a smaller `lr`, about a tenth.

Where we differ:

- Steps are full-batch; the head's are one over a bound of the curvature, and it starts at the
  optimum of uniform weights, where the paper warms it up for some epochs.
- Weights are divided by their sum, which keeps the step size of the head.
- Margins are from cross-fitted heads: those of rows that a head learned from are all near 1.
- The head of a step is fitted exactly under the weights of that step, as with every method here.

As published, the validation part only judges: its own weights are 0. Where hard samples are few,
LRW-Hard thereby takes them away from training, which can cost more than the weights gain.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from gsr_core.data.problem import Problem, Rows
from gsr_core.linear.influence import EXACT, influence_along
from gsr_core.linear.objective import times, transposed_times
from gsr_core.linear.solver import Fit
from gsr_core.methods.base import SETTINGS_CONFIG, LabelNeeds, Range, SearchSpace, Step, settings
from gsr_core.methods.biased import curvature_bound
from gsr_core.methods.crossfit import crossfitted_logits, draw_folds
from gsr_core.methods.draws import per_row
from gsr_core.methods.inner import FittedHead, InnerProblem
from gsr_core.methods.lookahead import Descent
from gsr_core.methods.weight_network import (
    Network,
    descend,
    network_inputs,
    network_weight,
)

__all__ = [
    "LRW",
    "Delta",
    "LRWEasy",
    "LRWHard",
    "LRWRandom",
    "Reweighted",
    "Reweighting",
    "choose_validation",
    "exact_influence",
    "lookahead_influence",
    "margins",
]

Delta = Annotated[float, Field(gt=0, lt=1, description="Share of the samples that is validation.")]
"""How much judges, and has no weight of its own."""


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (n,) in [-1, 1]: probability of the label less the largest of another class."""
    probabilities = logits.softmax(dim=1)
    own = probabilities.gather(1, labels[:, None])
    other = probabilities.scatter(1, labels[:, None], -1).amax(dim=1)
    return own.squeeze(1) - other


def choose_validation(score: np.ndarray, labels: np.ndarray, size: int) -> np.ndarray:
    """Choose the rows of the lowest scores, but so that both sides have every class.

    A class without a row in the validation part gives its lowest row, in place of the highest row
    there; a class with all its rows there keeps its highest row for training. A class of one row is
    left to training.

    Args:
        score: (n,).
        labels: (n,).
        size: How many; fewer than there are classes count as that many.

    Returns:
        (n,) bool.
    """
    order = np.argsort(score, kind="stable")
    by_class = [order[labels[order] == label] for label in np.unique(labels)]
    must = [each[0] for each in by_class if len(each) > 1]
    barred = [each[-1] for each in by_class]
    free = order[~np.isin(order, [*must, *barred])]
    chosen = np.zeros(len(score), dtype=bool)
    chosen[must] = True
    chosen[free[: max(size - len(must), 0)]] = True
    return chosen


def exact_influence(
    inner: InnerProblem, fit: Fit, train_weight: Tensor, judge_weight: Tensor
) -> Tensor:
    """Return (n,) dV/dw_j through the refit of the head, nats per unit of weight.

    Args:
        inner: All rows.
        fit: Of the head under `train_weight`.
        train_weight: (n,) w, zero off the training part.
        judge_weight: (n,) weights of the losses that make V.
    """
    judge = inner.objective(judge_weight)
    residuals = judge_weight[:, None] * judge.residuals(fit.state)
    slope = transposed_times(inner.design, residuals)[:, :, None]
    objective = inner.objective(train_weight)
    solution = inner.solver.solve(objective, fit.state, slope, tolerance=EXACT)
    return influence_along(objective, fit.state, solution.columns)[:, 0]


def lookahead_influence(
    inner: InnerProblem, u: Tensor, train_weight: Tensor, judge_weight: Tensor, size: float
) -> Tensor:
    """Return (n,) dV/dw_j through one step of the head, nats per unit of weight.

    Args:
        inner: All rows.
        u: (p, c) where the head stands.
        train_weight: (n,) w, zero off the training part.
        judge_weight: (n,) weights of the losses that make V.
        size: Step size of the head.
    """
    objective, judge = inner.objective(train_weight), inner.objective(judge_weight)
    state = objective.at(u)
    ahead = judge.at(u - size * objective.gradient(state))
    slope = transposed_times(inner.design, judge_weight[:, None] * judge.residuals(ahead))
    return -size * (objective.residuals(state) * times(inner.design, slope)).sum(dim=1)


class Reweighting:
    """A head and the weight network, as they are trained together.

    Attributes:
        u: (p, c) the head.
        phi: The parameters of the network.
        velocity: Of the network's descent with momentum.
    """

    def __init__(
        self,
        settings: Reweighted,
        problem: Problem,
        inner: InnerProblem,
        stored: Mapping[str, Tensor],
    ) -> None:
        """Begin where a checkpoint was taken, else at the zero head and equal weights.

        Args:
            settings: The method.
            problem: The data.
            inner: The inner problem of the weighted rows.
            stored: What `checkpoint` returned, as `InnerProblem.resume` gives it; may be empty.
        """
        self._settings, self._inner = settings, inner
        self._inputs = network_inputs(
            problem.weighted, standardise=settings.standardise, dtype=inner.basis.dtype
        )
        self._network = Network(self._inputs.shape[1], settings.hidden)
        self._descent = Descent(curvature_bound(inner))
        phi = self._network.start(settings.seed, inner.basis)
        self.u = stored.get("u", inner.zero())
        self.phi = stored.get("phi", phi)
        self.velocity = stored.get("velocity", torch.zeros_like(phi))

    def warm_up(self, training: Tensor) -> None:
        """Put the head at its optimum under uniform weights of the training part (n,)."""
        self.u = self._inner.fit(training.to(self.u) / training.sum(), self.u).state.u

    def checkpoint(self) -> dict[str, Tensor]:
        """Return what it takes to go on from here."""
        return {"u": self.u, "phi": self.phi, "velocity": self.velocity}

    def weight(self, training: Tensor, phi: Tensor | None = None) -> Tensor:
        """Return the weights (n,) that the network gives to the training part (n,), zero off it."""
        outputs = self._network(self.phi if phi is None else phi, self._inputs)
        return network_weight(outputs, training)

    def update(self, training: Tensor, judge_weight: Tensor) -> None:
        """Update the network once, and then the head several times.

        Args:
            training: (n,) bool rows that have weights.
            judge_weight: (n,) weights of the losses that the network is to lower; sum to one.
        """
        phi = self.phi.detach().requires_grad_()
        weight = self.weight(training, phi)
        by_weight = self._influence(weight.detach(), judge_weight)
        # Of a number: of a vector, torch first imports a computer algebra system, for seconds.
        (slope,) = torch.autograd.grad(weight @ by_weight, phi)
        self.phi, self.velocity = descend(self.phi, self.velocity, slope, self._settings.lr)

        if self._settings.lookahead == "exact":
            return
        objective = self._inner.objective(self.weight(training))
        for _ in range(self._settings.head_updates):
            self.u = self._descent.step(objective, self.u)

    def _influence(self, weight: Tensor, judge_weight: Tensor) -> Tensor:
        if self._settings.lookahead == "one_step":
            size = self._descent.size(self._inner.objective(weight))
            return lookahead_influence(self._inner, self.u, weight, judge_weight, size)
        fit = self._inner.fit(weight, self.u)
        self.u = fit.state.u
        return exact_influence(self._inner, fit, weight, judge_weight)


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class Reweighted(FittedHead, ABC):
    """Shared by the methods that learn a network of weights."""

    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE
    search: ClassVar[SearchSpace] = {
        **FittedHead.search,
        "delta": (0.05, 0.1, 0.2),
        "lr": Range(10.0, 3000.0),
        "hidden": (0, 8, 32, 128),
        "lookahead": ("one_step", "exact"),
    }

    steps: Annotated[
        int, Field(ge=1, le=100_000, description="Times the head is refitted under the weights.")
    ] = 20
    updates: Annotated[
        int, Field(ge=1, le=100_000, description="Updates of the weight network between refits.")
    ] = 5
    delta: Delta = 0.1
    lookahead: Annotated[
        Literal["one_step", "exact"],
        Field(
            description="How the validation loss follows the weights. one_step: through one step "
            "of the head, as published; exact: through its refit."
        ),
    ] = "one_step"
    lr: Annotated[float, Field(gt=0, description="Step size of the weight network.")] = 300.0
    hidden: Annotated[
        int,
        Field(
            ge=0,
            le=1000,
            description="Hidden units of the weight network; 0 is a linear one, which cannot give "
            "more weight to a combination of class and attribute.",
        ),
    ] = 32
    head_updates: Annotated[
        int,
        Field(
            ge=1,
            le=1000,
            description="Steps of the head for each update of the network (one_step).",
        ),
    ] = 5


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class LRW(Reweighted, ABC):
    """Learn a network that weights the training part for the sake of the validation part."""

    folds: Annotated[
        int, Field(ge=2, le=50, description="Folds of the cross-fitting that gives the margins.")
    ] = 5

    @abstractmethod
    def rank(self, rows: Rows, inner: InnerProblem) -> np.ndarray:
        """Return (n,) numbers; the rows with the lowest make the validation part."""

    def margins(self, rows: Rows, inner: InnerProblem) -> np.ndarray:
        """Return (n,) the cross-fitted probabilistic margins of the rows."""
        fold = draw_folds(rows, self.folds, np.random.default_rng(self.seed))
        return margins(crossfitted_logits(inner, fold), rows.labels).cpu().numpy()

    def iterate(
        self, problem: Problem, checkpoint: Mapping[str, Tensor] | None = None
    ) -> Iterator[Step]:
        """Yield one refitted head after every `updates` updates, without end; the driver counts.

        Args:
            problem: The data.
            checkpoint: `Step.checkpoint` of the step after which to go on; from uniform weights if
                None.
        """
        inner, rows = self.inner(problem), problem.weighted
        labels = rows.labels.cpu().numpy()
        chosen = choose_validation(self.rank(rows, inner), labels, int(self.delta * len(rows)))
        validation = torch.from_numpy(chosen).to(rows.labels.device)
        judge_weight = validation.to(inner.basis) / validation.sum()
        reweighting = Reweighting(self, problem, inner, inner.resume(checkpoint))
        if checkpoint is None:
            reweighting.warm_up(~validation)
        while True:
            inner.forget()
            for _ in range(self.updates):
                reweighting.update(~validation, judge_weight)
            inner.forget()
            yield inner.step(
                reweighting.weight(~validation),
                reweighting.u,
                checkpoint=reweighting.checkpoint(),
                note=f"{int(validation.sum())} of {len(rows)} samples are validation: they judge "
                "the weights of the others and have none themselves.",
            )


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class LRWRandom(LRW):
    """Learned reweighting with a random validation part."""

    name: ClassVar[str] = "lrw_random"
    title: ClassVar[str] = "LRW-Random: learned reweighting, random validation"
    summary: ClassVar[str] = (
        "Learns a network that weights held-out samples so that a head trained on them does well "
        "on a random part of them."
    )
    use_when: ClassVar[str] = "To see what choosing the validation part adds to LRW."

    def rank(self, rows: Rows, inner: InnerProblem) -> np.ndarray:
        """Return (n,) random numbers."""
        return per_row(rows, np.random.default_rng(self.seed))


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class LRWEasy(LRW):
    """Learned reweighting with the easiest samples as validation part."""

    name: ClassVar[str] = "lrw_easy"
    title: ClassVar[str] = "LRW-Easy: learned reweighting, easy validation"
    summary: ClassVar[str] = (
        "Learns a network that weights held-out samples so that a head trained on them does well "
        "on the easiest part of them."
    )
    use_when: ClassVar[str] = "To see what choosing the validation part adds to LRW."

    def rank(self, rows: Rows, inner: InnerProblem) -> np.ndarray:
        """Return (n,) the margins, negated."""
        return -self.margins(rows, inner)


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class LRWHard(LRW):
    """Learned reweighting with the hardest samples as validation part."""

    name: ClassVar[str] = "lrw_hard"
    title: ClassVar[str] = "LRW-Hard: learned reweighting, hard validation"
    summary: ClassVar[str] = (
        "Learns a network that weights held-out samples so that a head trained on them does well "
        "on the hardest part of them."
    )
    use_when: ClassVar[str] = (
        "Nobody labelled groups, and new data will look like the hard samples."
    )

    def rank(self, rows: Rows, inner: InnerProblem) -> np.ndarray:
        """Return (n,) the margins."""
        return self.margins(rows, inner)
