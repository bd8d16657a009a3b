r"""D3M and Auto-D3M: drop the rows that harm the worst groups, as measured by influence.

Jain, Hamidieh, Georgiev, Ilyas, Ghassemi and Madry, "Improving Subgroup Robustness via Data
Selection" (NeurIPS 2024). With the head fitted at uniform weights, its Hessian H, and the gradients
of a row's loss and of group g's mean loss on target,

.. math::
    \tau_{ig} = \tfrac1n \nabla \ell_i^\top H^{-1} \nabla R_g, \qquad
    \omega_g \propto e^{\beta R_g}, \qquad A_i = \sum_g \omega_g \tau_{ig} .

:math:`\tau_{ig}` predicts how much the loss of group g rises when row i is *deleted*: positive
means that the row helps the group. Rows of lowest A are dropped, and the head is refitted at equal
weights on the rest. A needs one solve, along the gradient of :math:`\sum_g \omega_g R_g` with
:math:`\omega` held fixed.

Auto-D3M reads no group: in each class of target it splits the examples by the sign with which each
one's vector :math:`(\tau_{ij})_i`, scaled to length one, projects onto their first principal
component, and takes class by side for groups.

Where we differ, and why:

- The influence is exact instead of by random projections of a network's gradients, and one convex
  head replaces an ensemble.
- How much is dropped is a share, and each step is one; selection on val picks it. The published
  rule, to drop where A < 0, is `drop=negative`. For a head zero is no threshold: with a small
  penalty, as much of A is negative as positive, so that it drops most of the rows.
- Group coefficients are `softmax` by default, which has the worst group as its limit; `loss`,
  proportional to the loss, is that of the released code. They are scaled to the sum one, which
  changes neither the order nor the sign of A.
- The rows of each class with the highest A, `_LEAST` of them, are never dropped.
- In Auto-D3M the component is that of centred vectors and the projection is not centred, as in
  the released code. So the sides are those of zero, where an example's influences change sign,
  however unequal the two sides are. Rows of val have sides too, by a product with one direction a
  class, and so can choose the share without group labels: the default. A component has no sign of
  its own, and which side is which decides nothing.
- Auto-D3M scales to length one exactly, without adding a constant to the length.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from gsr_core.data.problem import Problem, Rows
from gsr_core.errors import SettingError
from gsr_core.inference.base import say_small_cells
from gsr_core.linear.influence import Inverted, shortfall
from gsr_core.linear.iterative import SolveEnding
from gsr_core.linear.objective import HeadObjective
from gsr_core.methods.base import (
    SETTINGS_CONFIG,
    LabelNeeds,
    SearchSpace,
    SelectionField,
    Step,
    Values,
    settings,
)
from gsr_core.methods.inner import Fitted, FittedHead, InnerProblem, invert_exactly

__all__ = [
    "D3M",
    "AutoD3M",
    "coefficients",
    "deletion_effects",
    "first_component",
    "kept_rows",
    "leverages",
]

_LEAST = 5
"""Rows of each class that stay, if it has as many."""
_MOST_EXAMPLES = 8192
"""Examples of a class in target whose effects are compared with each other: 0.5 GiB a matrix."""
_AT_ONCE = 2**26
"""Numbers that one array over the weighted rows and examples of target may have."""

Coefficients = Literal["softmax", "loss", "worst"]


@dataclass(frozen=True)
class _Groups:
    """The groups whose losses count.

    Attributes:
        target: (N, m) bool membership of target's rows.
        inferred: `Step.inferred_group` and `Step.inferred_val`, empty if they were known.
        note: What the user should know about them, a sentence after a blank, or "".
        ending: How the solves behind them ended.
    """

    target: Tensor
    inferred: Mapping[str, Tensor] = field(default_factory=dict)
    note: str = ""
    ending: SolveEnding = SolveEnding.REACHED


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class _DropByInfluence(FittedHead, ABC):
    """Drop the rows of lowest alignment; what a method adds are the groups."""

    values: ClassVar[Values] = Values.SUBSET
    search: ClassVar[SearchSpace] = {
        **FittedHead.search,
        "coefficients": ("softmax", "loss", "worst"),
    }

    steps: Annotated[
        int,
        Field(ge=2, le=1000, description="drop=count: shares to try, evenly from 0 to `most`."),
    ] = 18
    most: Annotated[
        float,
        Field(gt=0, lt=1, description="drop=count: largest share of the samples to drop."),
    ] = 0.85
    drop: Annotated[
        Literal["count", "negative"],
        Field(
            description="count: those of lowest score, as many as a share says, which val chooses; "
            "negative: all with a score below zero, as released; of a head these are most samples."
        ),
    ] = "count"
    coefficients: Annotated[
        Coefficients,
        Field(
            description="How much a group counts. softmax: by exp(beta * loss); loss: by its loss; "
            "worst: only the group of highest loss."
        ),
    ] = "softmax"
    beta: Annotated[
        float,
        Field(
            ge=0, description="softmax: larger follows the worst group more; 0 counts all alike."
        ),
    ] = 1.0
    leverage: Annotated[
        bool,
        Field(
            description="Correct the influence for how far a sample pulls the head towards itself; "
            "for two classes."
        ),
    ] = False

    @property
    def max_steps(self) -> int:
        """How many shares are tried; one where the threshold is zero."""
        return self.steps if self.drop == "count" else 1

    @abstractmethod
    def groups(self, problem: Problem, inner: InnerProblem, at: Fitted) -> _Groups:
        """Return the groups whose losses count.

        Args:
            problem: The data.
            inner: The inner problem of the weighted rows.
            at: The head fitted on them at uniform weights.
        """

    def iterate(
        self, problem: Problem, checkpoint: Mapping[str, Tensor] | None = None
    ) -> Iterator[Step]:
        """Yield one refitted head for each share of the rows that is dropped.

        Args:
            problem: The data.
            checkpoint: Has the number of the last share.

        Raises:
            SettingError: If `leverage` is on and there are more than two classes.
        """
        if self.leverage and problem.n_classes > 2:
            raise SettingError(
                f"leverage is on, but there are {problem.n_classes} classes; the correction is for "
                "2, switch it off"
            )
        inner, rows = self.inner(problem), problem.weighted
        uniform = inner.uniform()
        base = inner.fit(uniform, inner.zero())
        u = base.state.u
        target = inner.scored(problem.target)
        at = Fitted(inner.solver, inner.objective(uniform), base.state, target, target.at(u))
        groups = self.groups(problem, inner, at)
        counted = replace(target, groups=groups.target)
        omega = coefficients(
            counted.group_means(at.on_target.losses),
            groups.target.any(dim=0),
            self.coefficients,
            self.beta,
        )
        effects, ending = deletion_effects(at, counted.shares(omega))
        score = effects[:, 0]
        if self.leverage:
            score = score / (1 - leverages(at, inner.design))
        short = "" if base.converged else f" The first fit is not solved: {base.ending}."
        short += shortfall(ending) or shortfall(groups.ending)

        below = int((score < 0).sum())
        shares = np.linspace(self.most, 0, self.steps)[::-1]
        counts = [below] if self.drop == "negative" else np.rint(shares * len(rows)).astype(int)
        done = 0 if checkpoint is None else int(checkpoint["step"])
        for step, count in enumerate(counts[done:], start=done + 1):
            kept = kept_rows(score, rows, int(count))
            weight = kept.to(uniform) / kept.sum()
            # So that a checkpoint need not hold what the solver remembers of the last share.
            inner.forget()
            fit = inner.fit(weight, u)
            yield inner.as_step(
                fit,
                weight,
                solved=fit.converged and not short,
                note=_about(kept, rows.labels, below) + groups.note + short,
                group_weight=None if groups.inferred else omega,
                u=fit.state.u,
                measure=inner.influence(weight, fit.state.u, target),
                checkpoint={"step": torch.tensor(step)},
                **groups.inferred,
            )


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class D3M(_DropByInfluence):
    """Drop the rows that raise the loss of target's worst groups."""

    name: ClassVar[str] = "d3m"
    title: ClassVar[str] = "D3M: harmful samples dropped"
    summary: ClassVar[str] = (
        "Drops the held-out samples whose deletion is predicted, by influence functions, to lower "
        "the loss of target's worst groups, and refits the head on the rest; each step drops one "
        "share."
    )
    use_when: ClassVar[str] = (
        "A small target set has group labels and the held-out samples have none, and you "
        "would rather leave samples out than weight them."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.TARGET

    def groups(self, problem: Problem, inner: InnerProblem, at: Fitted) -> _Groups:
        """Return the groups of target."""
        del inner, at
        return _Groups(problem.target.groups)


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class AutoD3M(_DropByInfluence):
    """D3M on groups that are found by what helps and harms each example of target."""

    name: ClassVar[str] = "auto_d3m"
    title: ClassVar[str] = "Auto-D3M: harmful samples dropped, groups found"
    summary: ClassVar[str] = (
        "D3M without group labels: splits each class of target by which held-out samples help and "
        "harm its examples, and takes the parts for groups."
    )
    use_when: ClassVar[str] = (
        "Nobody labelled groups but target has many samples of both sides of each class, "
        "as a balanced one has."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE

    selection: SelectionField = "worst_inferred_group"

    def groups(self, problem: Problem, inner: InnerProblem, at: Fitted) -> _Groups:
        """Return class by side as groups, 2 K of them, some of which may have no rows.

        Raises:
            SettingError: If a class of target has too many examples to compare each with each.
        """
        labels = problem.target.labels
        most = int(torch.bincount(labels).max())
        if most > _MOST_EXAMPLES:
            raise SettingError(
                f"a class of target has {most:,} examples; auto_d3m compares each with each and "
                f"takes {_MOST_EXAMPLES:,}: give it a smaller target, or name its groups and use "
                "d3m"
            )
        components = [first_component(at, labels == each) for each in range(problem.n_classes)]
        directions = torch.cat([each.columns for each in components], dim=2)
        short = [each.ending for each in components if each.ending is not SolveEnding.REACHED]

        def group(losses: HeadObjective) -> Tensor:
            along = losses.gradient_products(losses.at(at.state.u), directions)
            own = along.gather(1, losses.labels[:, None])[:, 0]
            return 2 * losses.labels + (own > 0)

        def membership(group: Tensor) -> Tensor:
            return group[:, None] == torch.arange(2 * problem.n_classes, device=group.device)

        in_target = membership(group(at.target.losses))
        smaller = in_target.sum(dim=0).reshape(-1, 2).amin(dim=1)
        in_val = membership(group(inner.scored(problem.val).losses))
        small = say_small_cells(in_val.sum(dim=0).cpu().numpy())
        said = small and self.selection == "worst_inferred_group"
        return _Groups(
            target=in_target,
            inferred={
                "inferred_group": group(at.objective),
                "inferred_val": in_val,
            },
            note=f" The smaller sides of the classes have {int(smaller.sum()):,} of "
            f"{len(labels):,} examples of target." + f" Of those of val, {small}." * bool(said),
            ending=next(iter(short), SolveEnding.REACHED),
        )


def coefficients(losses: Tensor, present: Tensor, kind: Coefficients, beta: float) -> Tensor:
    r"""Return how much each group counts.

    Args:
        losses: (m,) mean loss of each group, nats.
        present: (m,) bool, whether the group has rows; one without does not count.
        kind: softmax, :math:`\propto e^{\beta R_g}`; loss, :math:`\propto R_g`; worst, all on the
            highest loss.
        beta: Of softmax.

    Returns:
        (m,), nonnegative, sums to one.

    Example:
        >>> losses, all_present = torch.tensor([0.1, 0.4]), torch.tensor([True, True])
        >>> coefficients(losses, all_present, "loss", 1.0)
        tensor([0.2000, 0.8000])
        >>> coefficients(losses, all_present, "worst", 1.0)
        tensor([0., 1.])
    """
    if kind == "loss":
        losses = losses * present
        return losses / losses.sum().clamp(min=torch.finfo(losses.dtype).tiny)
    if kind == "worst":
        highest = losses.masked_fill(~present, -1).argmax()
        return torch.zeros_like(losses).index_fill_(0, highest, 1)
    return (beta * losses).masked_fill(~present, -torch.inf).softmax(dim=0)


def deletion_effects(at: Fitted, share: Tensor) -> tuple[Tensor, SolveEnding]:
    """Return by how much deleting each fitted row is predicted to raise sums of target's losses.

    The sum of the other rows' losses is still divided by n, so that the penalty keeps its weight.
    It is -1/n times the influence without the gradient of the penalty.

    Args:
        at: A head fitted at uniform weights.
        share: (N, r) factor of each target row's loss in each sum.

    Returns:
        (n, r) nats, positive where the row helps; and how the solves ended.
    """
    inverted = invert_exactly(at, at.gradients(share))
    products = at.objective.gradient_products(at.state, inverted.columns)
    return products / len(products), inverted.ending


def leverages(at: Fitted, design: Tensor) -> Tensor:
    r"""Return (n,) h: the share of its own curvature that each row has, in [0, 1).

    .. math:: h_i = \tfrac1n \kappa_i \, z_i^\top H^{-1} z_i

    with kappa the curvature of the row's loss in the one coordinate of two classes. To first order
    in the row's own curvature, deleting it moves the head by 1 / (1 - h) of what the gradient says.

    Args:
        at: A head of two classes, fitted at uniform weights.
        design: (n, p) the fitted rows.
    """
    hessian = at.objective.hessian(at.state).to(at.state.u)
    factor = torch.linalg.cholesky(hessian)
    quadratic = torch.cat(
        [
            torch.linalg.solve_triangular(factor, part.to(factor).T, upper=False)
            .square()
            .sum(dim=0)
            for part in design.split(max(_AT_ONCE // design.shape[1], 1))
        ]
    )
    # In the basis, whose entries are the square root of one half, the curvature is 2 p_0 p_1.
    curvature = 2 * at.state.probabilities.prod(dim=1)
    return curvature * quadratic / len(design)


def first_component(at: Fitted, chosen: Tensor) -> Inverted:
    """Return the direction along which an example's gradient says on which side it is.

    Each chosen example of target has a vector, its deletion effects of all fitted rows, which is
    scaled to length one. The projection of an example's vector onto the first principal component
    of the chosen ones' is, but for a positive factor, the product of its loss gradient with this
    direction. Of the (n, N) effects only blocks exist at a time.

    Args:
        at: A head fitted at uniform weights.
        chosen: (N,) bool.

    Returns:
        (p, c, 1), zeros if none is chosen; and how the solves ended.
    """
    index = torch.where(chosen)[0]
    u = at.state.u
    if not len(index):
        return Inverted(torch.zeros_like(u)[:, :, None])
    at_once = max(_AT_ONCE // max(len(at.objective.labels), len(chosen), u.numel()), 1)
    solved = []
    for part in index.split(at_once):
        share = u.new_zeros(len(chosen), len(part))
        share[part, torch.arange(len(part), device=part.device)] = 1
        solved.append(invert_exactly(at, at.gradients(share)))
    gram = _gram_of_effects(at, [each.columns for each in solved])
    length = gram.diagonal().sqrt()
    scale = torch.where(length > 0, 1 / length, 0.0)
    gram = gram * scale * scale[:, None]
    centred = gram - gram.mean(dim=0) - gram.mean(dim=1, keepdim=True) + gram.mean()
    # On the CPU, because not every device has eigenvectors.
    first = torch.linalg.eigh(centred.cpu()).eigenvectors[:, -1].to(gram)
    # The component is a sum of effects, and these are products of gradients on both sides of H.
    summed = torch.cat([each.columns for each in solved], dim=2) @ (scale * first)
    component = at.objective.gradient_products(at.state, summed[:, :, None])
    solved.append(invert_exactly(at, at.objective.loss_gradients(at.state, component)))
    short = (each.ending for each in solved if each.ending is not SolveEnding.REACHED)
    return Inverted(solved[-1].columns, next(short, SolveEnding.REACHED))


def _gram_of_effects(at: Fitted, blocks: Sequence[Tensor]) -> Tensor:
    """Return the inner products of examples' effects, but for a factor.

    Args:
        at: The fitted head.
        blocks: (p, c, b) solutions of the examples, b of them at a time.
    """
    ends = np.cumsum([0, *(block.shape[2] for block in blocks)]).tolist()
    gram = at.state.u.new_empty(ends[-1], ends[-1])
    for i, one in enumerate(blocks):
        effects = at.objective.gradient_products(at.state, one)
        for j, other in enumerate(blocks[: i + 1]):
            # Computed again for each pair of blocks, so that no more than two exist at a time.
            others = effects if i == j else at.objective.gradient_products(at.state, other)
            part = effects.T @ others
            gram[ends[i] : ends[i + 1], ends[j] : ends[j + 1]] = part
            gram[ends[j] : ends[j + 1], ends[i] : ends[i + 1]] = part.T
    return gram


def kept_rows(score: Tensor, rows: Rows, count: int) -> Tensor:
    """Return which rows stay when those of lowest score are dropped.

    The rows of each class with the highest scores, `_LEAST` of them, are not among those that may
    be dropped; if no others are left, fewer than `count` are.

    Args:
        score: (n,).
        rows: The n rows.
        count: How many to drop.

    Returns:
        (n,) bool.
    """
    value, labels = score.cpu().numpy(), rows.labels.cpu().numpy()
    # The position in the bundle decides between equals, not that in memory.
    order = np.lexsort((rows.position, value))
    droppable = np.ones(len(order), dtype=bool)
    for label in np.unique(labels):
        droppable[np.flatnonzero(labels[order] == label)[-_LEAST:]] = False
    kept = np.ones(len(order), dtype=bool)
    kept[order[droppable][:count]] = False
    return torch.from_numpy(kept).to(score.device)


def _about(kept: Tensor, labels: Tensor, below: int) -> str:
    """Return two sentences on the rows that stay."""
    n, dropped = len(kept), int((~kept).sum())
    left = torch.bincount(labels[kept])
    smallest = int(left[left > 0].min())
    return (
        f"{dropped:,} of {n:,} samples are dropped ({dropped / n:.0%}), and the smallest class "
        f"keeps {smallest:,}. {below:,} have a score below zero."
    )
