r"""The curvature of a whole network's objective, and what follows from it for weights of rows.

.. math::
    F(\theta) = \frac{\sum_i w_i \, \ell_i(\theta)}{\sum_i w_i} + \lambda \lVert \theta \rVert^2 ,

over the P parameters that are trained, as `gsr_core.linear.objective` has it for the last layer:
the penalty is not halved, counts once whatever the batches are, and is on biases and on the scales
of norms too (a `weight_decay` of torch's SGD is twice lambda). Rows pass in batches: memory holds
one of them, vectors of P numbers, and what is asked for by row.

Influence and its sign are those of `gsr_core.linear.influence`, along
:math:`s_g = (\nabla^2 F)^{-1} \nabla R_g`: **negative means that raising the weight of the sample
lowers the loss of the group.** It is exact at a minimum only.

The published library of curvature operators for torch, curvlinops (3.0), multiplies by the same two
matrices with the same transforms, but takes no weights of rows and no penalty, leaves eval mode to
the caller, does not check the curvature in its solvers, and brings five more libraries; it would
spare the fifty lines of `products`, and not the scores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gsr_core.curvature.cost import NetworkCost, measure
from gsr_core.curvature.network import FlatNetwork, ReadBatches
from gsr_core.curvature.products import (
    PRODUCTS,
    Matrix,
    gradient_products,
    loss_gradients,
)
from gsr_core.curvature.solving import SOLVE_VECTORS, Solve, Solved, invert, most_passes
from gsr_core.errors import SettingError
from gsr_core.linear.influence import mean_shares
from gsr_core.linear.iterative import Operator

__all__ = ["Curvature"]


@dataclass
class _Seen:
    """What went by in a pass: rows, their weights, and losses that are not finite."""

    rows: int = 0
    weight: Tensor | float = 0.0
    bad: Tensor | int = 0

    def add(self, losses: Tensor, weights: Tensor) -> None:
        self.rows += len(losses)
        self.weight = self.weight + weights.sum()
        self.bad = self.bad + (~losses.isfinite()).sum()

    def checked_weight(self) -> float:
        """Return the sum of the weights.

        Raises:
            SettingError: If it is not above zero.
        """
        if not 0 < (weight := float(self.weight)) < float("inf"):
            raise SettingError(
                f"the weights of {self.rows:,} rows sum to {weight:g}; allowed are weights of 0 "
                "and above, of which at least one is above 0"
            )
        return weight

    def check(self, result: Tensor) -> None:
        """Check that all losses and what was made of them are finite.

        Raises:
            SettingError: If one is not.
        """
        if bad := int(self.bad):
            raise SettingError(
                f"the network's loss is not finite on {bad:,} of {self.rows:,} rows, where it has "
                "no curvature; go back to a checkpoint from before and train at a smaller learning "
                "rate, or take the rows out whose inputs are not finite"
            )
        if not bool(result.isfinite().all()):
            raise SettingError(
                f"the network's losses on {self.rows:,} rows are finite and their derivatives are "
                "not; in float32 they can overflow: convert the network and its inputs with "
                ".double()"
            )


class Curvature:
    """The objective of a network on weighted rows, and its derivatives.

    It keeps no numbers of the network: each call is about the parameters as they then are.
    """

    def __init__(
        self, module: nn.Module, batches: ReadBatches, *, l2: float, at_once: int = 8
    ) -> None:
        """Describe an objective.

        Args:
            module: Maps inputs to logits. It is taken in eval mode and left in the mode it is in.
                Its parameters that require gradients are trained, in float32 or float64.
            batches: Begins a pass over the weighted rows.
            l2: lambda, on all trained parameters.
            at_once: Directions that go through the network together. Memory grows with it; with
                fewer than there are, the forward pass of a batch is made several times.

        Raises:
            SettingError: If nothing is trained, the parameters differ in precision or device, or
                a number is out of range.
        """
        if not 0 <= l2 < float("inf"):
            raise SettingError(f"l2 is {l2}; allowed are 0 and above")
        if at_once < 1:
            raise SettingError(f"at_once is {at_once}; allowed are 1 and above")
        self.network = FlatNetwork(module)
        self.batches = batches
        self.l2 = l2
        self.at_once = at_once

    def gradient(self) -> Tensor:
        """Return (P,): the gradient of the objective; its norm says how far from a minimum it is.

        Raises:
            SettingError: If a loss or a derivative is not finite, or all weights are zero.
        """
        theta = self.network.theta()

        def part(rows: tuple[Any, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            inputs, labels, weights = rows
            return loss_gradients(self.network, theta, (inputs, labels), weights[None])

        return self._mean(part, theta[None])[0].add_(theta, alpha=2 * self.l2)

    def product(self, columns: Tensor, matrix: Matrix = "hessian") -> Tensor:
        """Multiply the curvature of the objective by columns, in one pass over the rows.

        Args:
            columns: (P,) or (P, k).
            matrix: The Hessian, or the Gauss-Newton matrix and the penalty's curvature.

        Returns:
            As `columns`.

        Raises:
            SettingError: If the columns do not fit, a loss or a derivative is not finite, or all
                weights are zero.
        """
        across = self._across(columns)
        theta = self.network.theta()

        def part(rows: tuple[Any, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return self._split(PRODUCTS[matrix], theta, rows, across)

        total = self._mean(part, across).add_(across, alpha=2 * self.l2)
        return total.T if columns.ndim == 2 else total[0]

    def group_gradients(self, batches: ReadBatches, membership: Tensor) -> Tensor:
        """Differentiate the mean, unregularised loss of each group, in one pass.

        Args:
            batches: Begins a pass over N target rows; their weights are not used.
            membership: (N, m) bool; groups may overlap. One without a row has a zero gradient.

        Returns:
            (P, m): right-hand sides for `solve`.

        Raises:
            SettingError: If there are not N rows, or a loss or a derivative is not finite.
        """
        theta = self.network.theta()
        share = mean_shares(membership, theta)
        total = theta.new_zeros(share.shape[1], len(theta))
        seen = _Seen()
        with self.network.settled():
            for inputs, labels, weights in self._read(batches):
                part = share[seen.rows : seen.rows + len(labels)].T
                if part.shape[1] == len(labels):
                    moved, losses = self._split(
                        loss_gradients, theta, (inputs, labels), part.contiguous()
                    )
                    total += moved
                else:
                    losses = weights
                seen.add(losses, weights)
        if seen.rows != len(membership):
            raise SettingError(
                f"the target batches have {seen.rows:,} rows and membership has "
                f"{len(membership):,}; both must be of the same rows, in one order"
            )
        seen.check(total)
        return total.T

    def solve(
        self, right: Tensor, how: Solve | None = None, *, start: Tensor | None = None
    ) -> Solved:
        """Apply the inverse curvature, or what stands for it, to right-hand sides.

        Args:
            right: (P,) or (P, k), such as `group_gradients`.
            how: By what; conjugate gradients on the Hessian by default.
            start: As `right`: an earlier solution of nearly the same system to go on from; not
                used by the identity.

        Returns:
            Columns as `right`, how well they solve, and why the solve ended: negative curvature
            is an ending, whose columns are not the solution.

        Raises:
            SettingError: If the shapes do not fit, a loss or a derivative is not finite, all
                weights are zero, or a series has nothing to bound its depth.
        """
        how = how or Solve()
        if start is not None and start.shape != right.shape:
            raise SettingError(
                f"start is {tuple(start.shape)} and the right-hand side {tuple(right.shape)}; both "
                "must have one shape"
            )
        solved = invert(
            how,
            self._operator(how, self.product),
            self._across(right).T[:, None],
            start=None if start is None else self._across(start).T[:, None],
            smallest=2 * self.l2 + how.damping,
            one_batch=lambda: self._operator(how, self._by_batch()),
        )
        columns = solved.columns[:, 0]
        return replace(solved, columns=columns if right.ndim == 2 else columns[:, 0])

    def scores(self, batches: ReadBatches, solutions: Tensor) -> Tensor:
        r"""Return the influence of each row's weight along solutions, in one pass.

        By forward mode, so that no gradient of a row is ever stored:
        :math:`-(\nabla \ell_i + \nabla R)^\top s_g`, R the penalty, as
        `gsr_core.linear.influence.influence_along`.

        Args:
            batches: Begins a pass over n rows; their weights are not used, so that a row of weight
                zero has an influence too.
            solutions: (P, m) of `solve`.

        Returns:
            (n, m) nats, in the order of the rows: the derivative of each group's loss by each
            weight, the weights being normalised. Negative where raising it lowers the loss.

        Raises:
            SettingError: If the solutions do not fit, or a loss or a derivative is not finite.
        """
        across = self._across(solutions)
        theta = self.network.theta()
        penalty = 2 * self.l2 * (across @ theta)
        parts, seen = [theta.new_zeros(0, len(across))], _Seen()
        with self.network.settled():
            for inputs, labels, weights in self._read(batches):
                moved, losses = self._split(gradient_products, theta, (inputs, labels), across)
                seen.add(losses, weights)
                parts.append(-(moved.T + penalty))
        values = torch.cat(parts)
        seen.check(values)
        return values

    def predict(
        self, groups: int, *, rows: int, target_rows: int, how: Solve | None = None
    ) -> NetworkCost:
        """Say what a product and an outer step will cost, by trying each part on one batch.

        Args:
            groups: m, the number of right-hand sides.
            rows: n, in a whole pass over the weighted rows.
            target_rows: N, in a pass over the target rows.
            how: The solve of a step.

        Raises:
            SettingError: If there is no row.
        """
        how, theta = how or Solve(), self.network.theta()
        reader = iter(self._read(self.batches))
        if (batch := next(reader, None)) is None:
            raise SettingError("there is no row to measure on; the batches must have at least one")
        began = time.perf_counter()
        # What begins a pass, such as worker processes, is not part of reading a batch.
        reading = time.perf_counter() - began if next(reader, None) is not None else 0.0
        inputs, labels, _ = batch
        directions = torch.randn(groups, len(theta), generator=torch.Generator().manual_seed(0))
        directions = directions.to(theta)
        share = theta.new_full((groups, len(labels)), 1 / len(labels))
        parts = [
            (PRODUCTS[how.matrix], batch, directions),
            (loss_gradients, (inputs, labels), share),
            (gradient_products, (inputs, labels), directions),
        ]
        with self.network.settled():
            tried = [
                measure(lambda part=part: self._split(part[0], theta, *part[1:])[0])
                for part in parts
            ]
        (product, product_bytes), (gradients, _), (scores, _) = tried
        n_batches, n_target = rows / len(labels), target_rows / len(labels)
        peak = max(size for _, size in tried)
        # The directions of a pass, the sum that it makes, and then what a step holds besides.
        pass_bytes = 2 * len(theta) * groups * theta.element_size()
        kept = (SOLVE_VECTORS * len(theta) + rows + target_rows) * groups * theta.element_size()
        return NetworkCost(
            product_seconds=n_batches * (reading + product),
            other_seconds=n_target * (reading + gradients) + n_batches * (reading + scores),
            most_passes=most_passes(how, n_batches),
            product_bytes=product_bytes + pass_bytes,
            step_bytes=peak + pass_bytes + kept,
        )

    def _mean(
        self,
        part: Callable[[tuple[Any, Tensor, Tensor]], tuple[Tensor, Tensor]],
        like: Tensor,
    ) -> Tensor:
        """Add up what batches give over a pass, and divide by the sum of the weights."""
        total, seen = torch.zeros_like(like), _Seen()
        with self.network.settled():
            for rows in self._read(self.batches):
                moved, losses = part(rows)
                total += moved
                seen.add(losses, rows[2])
        weight = seen.checked_weight()
        seen.check(total)
        return total.div_(weight)

    def _read(self, batches: ReadBatches) -> Iterator[tuple[Any, Tensor, Tensor]]:
        """Yield batches, labels and weights beside the parameters and the weights like them."""
        like = self.network.like
        for inputs, labels, weights in batches():
            yield inputs, labels.to(like.device), weights.to(like)

    def _split(
        self,
        compute: Callable[..., tuple[Tensor, Tensor]],
        theta: Tensor,
        rows: tuple[Any, ...],
        directions: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Compute for some directions at a time; return the results (k, ...) and the losses."""
        parts = [
            compute(self.network, theta, rows, some) for some in directions.split(self.at_once)
        ]
        return torch.cat([moved for moved, _ in parts]), parts[0][1]

    def _across(self, columns: Tensor) -> Tensor:
        """Return columns (P,) or (P, k) as (k, P), each of them contiguous.

        Raises:
            SettingError: If their shape is another.
        """
        size = self.network.size
        if columns.ndim not in (1, 2) or len(columns) != size or not columns.numel():
            raise SettingError(
                f"the columns are {tuple(columns.shape)}; the network has {size:,} trained "
                f"parameters: allowed are ({size},) and ({size}, k)"
            )
        return (columns[:, None] if columns.ndim == 1 else columns).T.contiguous()

    def _operator(self, how: Solve, product: Callable[[Tensor, Matrix], Tensor]) -> Operator:
        """Return what multiplies (P, 1, k) by the damped curvature."""
        return lambda columns: product(columns[:, 0], how.matrix)[:, None] + how.damping * columns

    def _by_batch(self) -> Callable[[Tensor, Matrix], Tensor]:
        """Return a product that takes one batch after another for all rows, pass after pass."""
        every = _Seen()
        for _, _, weights in self._read(self.batches):
            every.add(weights, weights)
        mean_weight = every.checked_weight() / every.rows
        theta = self.network.theta()
        endless = (rows for _ in iter(int, 1) for rows in self._read(self.batches))

        def product(columns: Tensor, matrix: Matrix) -> Tensor:
            across, rows = self._across(columns), next(endless)
            here = _Seen()
            with self.network.settled():
                moved, losses = self._split(PRODUCTS[matrix], theta, rows, across)
            here.add(losses, rows[2])
            here.check(moved)
            # The weights add up over all rows: a batch stands for n / b times its own.
            return (moved / (mean_weight * len(losses)) + 2 * self.l2 * across).T

        return product
