r"""Progressive data expansion (PDE) of the last layer.

Deng, Yang, Mirzasoleiman and Gu, "Robust Learning with Progressive Data Expansion Against Spurious
Correlation" (NeurIPS 2023). A warm-up trains on a small group-balanced subset, so that the momentum
settles on what tells the classes apart in every group; then a few of the remaining rows join at
each stage, with a lower learning rate and the momentum kept. Which stage is kept, val decides.

.. math::
    v \leftarrow \mu v + \nabla F_k(\theta), \qquad \theta \leftarrow \theta - \eta v, \qquad
    F_k(\theta) = \frac{1}{|S_k|} \sum_{i \in S_k} \ell_i(\theta) + \lambda \lVert\theta\rVert^2 .

Where we differ, and why:

- The momentum is PyTorch's, as above. The paper writes :math:`v \leftarrow \mu v + (1 - \mu)
  \nabla F`, in whose terms our learning rate is 1 / (1 - mu) times as large.
- Each update sees the whole current set, so a stage counts updates and not epochs. The published
  Waterbirds warm-up, 140 epochs of 224 rows in batches of 64, is about 500 updates.
- Rows join without replacement, each for the group that has the fewest rows in the set, among those
  with rows left; the released code draws with replacement and regardless of groups.
- A row in no known group never joins. Where groups overlap, a row that the warm-up draws for two of
  them is in the set once.

On frozen features the problem is convex and its solution forgets where it started, so what differs
from a fit on all rows is early stopping on a path of data sets. That is why this method descends
step by step and does not solve.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from gsr_core.data.problem import Problem, Rows
from gsr_core.linear.objective import Objective
from gsr_core.methods.base import (
    SETTINGS_CONFIG,
    LabelNeeds,
    Range,
    SearchSpace,
    Step,
    Values,
    settings,
)
from gsr_core.methods.draws import per_row
from gsr_core.methods.inner import FittedHead
from gsr_core.methods.subg import balanced_subset

__all__ = ["PDE", "Expansion", "joining_order", "stage_in_words"]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class Expansion:
    """How the set grows after the warm-up."""

    add: Annotated[int, Field(ge=1, description="Samples that join at each stage.")] = 10
    expansion_lr: Annotated[
        float, Field(gt=0, le=1, description="Factor on the learning rate after the warm-up.")
    ] = 0.01


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class PDE(Expansion, FittedHead):
    """Descend on a balanced subset first, then on sets that grow by a few rows a stage.

    Step 1 is the warm-up, every further step one stage of expansion.
    """

    name: ClassVar[str] = "pde"
    title: ClassVar[str] = "PDE: progressive data expansion"
    summary: ClassVar[str] = (
        "Trains the head on a group-balanced subset of the held-out rows, then lets the others "
        "join a few at a time; each step is one stage."
    )
    use_when: ClassVar[str] = "As SUBG, when the rest of the rows is too good to throw away."
    needs: ClassVar[LabelNeeds] = LabelNeeds.TRAIN
    values: ClassVar[Values] = Values.SUBSET
    search: ClassVar[SearchSpace] = {
        **FittedHead.search,
        "lr": Range(1e-3, 0.1),
        "expansion_lr": Range(1e-3, 1.0),
        "add": (5, 10, 50),
    }

    steps: Annotated[
        int,
        Field(ge=1, le=100_000, description="Stages, the warm-up included; fewer if rows run out."),
    ] = 200
    warmup_updates: Annotated[
        int, Field(ge=1, le=1_000_000, description="Updates of the head in the warm-up.")
    ] = 500
    stage_updates: Annotated[
        int, Field(ge=1, le=1_000_000, description="Updates of the head in each later stage.")
    ] = 10
    lr: Annotated[float, Field(gt=0, description="Learning rate of the warm-up.")] = 0.01
    momentum: Annotated[
        float, Field(ge=0, lt=1, description="Share of the last update that is kept.")
    ] = 0.9

    def iterate(
        self, problem: Problem, checkpoint: Mapping[str, Tensor] | None = None
    ) -> Iterator[Step]:
        """Yield the head after each stage, until all rows have joined.

        Args:
            problem: The data.
            checkpoint: `Step.checkpoint` of the stage after which to go on; from the zero head if
                None.
        """
        inner = self.inner(problem)
        order, warm = joining_order(problem.weighted, np.random.default_rng(self.seed))
        zero = inner.zero()
        stored = inner.resume(checkpoint, u=zero, velocity=zero, done=zero.sum())
        u, velocity, done = stored["u"], stored["velocity"], int(stored["done"])

        while done == 0 or warm + (done - 1) * self.add < len(order):
            size = min(warm + done * self.add, len(order))
            index = torch.from_numpy(np.sort(order[:size])).to(inner.labels.device)
            objective = Objective(
                inner.design[index],
                inner.labels[index],
                inner.basis.new_full((size,), 1 / size),
                inner.l2,
                inner.basis,
            )
            lr = self.lr if done == 0 else self.lr * self.expansion_lr
            for _ in range(self.warmup_updates if done == 0 else self.stage_updates):
                velocity = self.momentum * velocity + objective.gradient(objective.at(u))
                u = u - lr * velocity
            done += 1

            state = objective.at(u)
            norm = float(objective.gradient(state).norm())
            start = objective.gradient(objective.at(inner.zero())).norm()
            weight = torch.zeros_like(inner.uniform())
            weight[index] = 1 / size
            yield Step(
                head=inner.head(u),
                sample_weight=weight,
                objective=float(state.value),
                gradient_norm=norm,
                relative_gradient_norm=norm / max(float(start), torch.finfo(u.dtype).tiny),
                step_size=lr,
                checkpoint={"u": u, "velocity": velocity, "done": u.new_tensor(done)},
                note=stage_in_words(done, size, len(weight)),
            )


def joining_order(rows: Rows, generator: np.random.Generator) -> tuple[np.ndarray, int]:
    """Return the order in which the rows join.

    Args:
        rows: n rows, one of them in a group.
        generator: Is advanced.

    Returns:
        The rows that are in a group, first those of the balanced warm-up set, and the number of
        these.
    """
    members = rows.groups.cpu().numpy()
    in_set = balanced_subset(rows, generator) > 0
    order = list(np.flatnonzero(in_set))
    warm = len(order)
    # What is left of each group, in random order; the next row is last.
    shuffled = np.argsort(per_row(rows, generator))
    waiting = [list(shuffled[column[shuffled] & ~in_set[shuffled]]) for column in members.T]
    size = members[in_set].sum(axis=0)
    while True:
        for left in waiting:
            while left and in_set[left[-1]]:
                left.pop()
        ready = [g for g, left in enumerate(waiting) if left]
        if not ready:
            return np.array(order), warm
        row = waiting[min(ready, key=lambda g: size[g])].pop()
        in_set[row] = True
        size += members[row]
        order.append(row)


def stage_in_words(stage: int, size: int, n: int) -> str:
    """Return a sentence about a stage, of which the warm-up is number 1.

    Args:
        stage: Its number.
        size: Rows in the set.
        n: Rows in all.
    """
    name = "Warm-up" if stage == 1 else f"Stage {stage}"
    return f"{name}: {size:,} of {n:,} samples are in the set."
