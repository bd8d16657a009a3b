r"""Group distributionally robust optimisation (group DRO) of the whole network.

Sagawa, Koh, Hashimoto and Liang, "Distributionally Robust Neural Networks for Group Shifts" (ICLR
2020), algorithm 1: for each batch, over the groups that are in it,

.. math::
    q_g \leftarrow q_g \exp\bigl(\eta_q (L_g + C / \sqrt{n_g})\bigr), \quad q \leftarrow q / \sum q,
    \qquad \theta \leftarrow \theta - \eta \nabla \sum_g q_g L_g .

Rows are drawn so that all groups come equally often, as in the paper's experiments; a group that a
batch lacks keeps its weight. A row in several groups counts in each, one in none is never drawn.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from gsr_core.linear.influence import mean_shares
from gsr_core.methods.base import (
    SETTINGS_CONFIG,
    LabelNeeds,
    Range,
    SearchSpace,
    settings,
)
from gsr_core.methods.network.base import NetworkMethod
from gsr_core.methods.network.loop import Batch, Epoch, Update
from gsr_core.methods.rwg import group_shares, groups_with_rows

if TYPE_CHECKING:
    from gsr_core.methods.network.loop import Loop

__all__ = ["NetworkGroupDRO", "Robust", "robust_update"]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class Robust(NetworkMethod, ABC):
    """A method that trains the network for the least loss of the worst group, whoever named it."""

    search: ClassVar[SearchSpace] = {
        **NetworkMethod.search,
        "group_lr": Range(1e-3, 1e-1),
        "adjustment": Range(0.0, 5.0, log=False),
    }

    group_lr: Annotated[
        float, Field(gt=0, le=100, description="Step of the group weights' logarithms, per nat.")
    ] = 0.01
    adjustment: Annotated[
        float,
        Field(ge=0, description="C: C over the root of a group's size is added to its loss."),
    ] = 0.0

    def robust(self, loop: Loop, groups: Tensor) -> Iterator[Epoch]:
        """Yield n draws an epoch, all groups equally often.

        Args:
            loop: Where training stands; it keeps the groups' weights, `q`.
            groups: (n, m) bool membership, on the CPU.
        """
        rows = replace(loop.trained, groups=groups)
        probability = group_shares(rows, torch.zeros(0, dtype=torch.float64)).mean(dim=1)
        if "q" not in loop.kept:
            present = groups_with_rows(rows).double()
            loop.kept["q"] = present / present.sum()

        while True:
            yield Epoch(
                loop.drawn(probability),
                update=robust_update(loop, groups, self.group_lr, self.adjustment),
                # What a row counts in the objective, not how often it is drawn.
                values=lambda: mean_shares(groups, loop.kept["q"]) @ loop.kept["q"],
                group_weight=lambda: loop.kept["q"],
            )


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class NetworkGroupDRO(Robust):
    """Train the network for the least loss of the worst group."""

    name: ClassVar[str] = "network_group_dro"
    title: ClassVar[str] = "Network Group DRO: least loss of the worst group"
    summary: ClassVar[str] = (
        "Trains the whole network against group weights that follow, batch by batch, the group "
        "with the highest loss."
    )
    use_when: ClassVar[str] = (
        "Every training row has a group label, and some groups are harder than others, not only "
        "smaller."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.TRAIN

    def epochs(self, loop: Loop) -> Iterator[Epoch]:
        """Yield n draws an epoch, all groups equally often.

        Args:
            loop: Where training stands; it keeps the groups' weights.
        """
        yield from self.robust(loop, loop.groups)


def robust_update(loop: Loop, groups: Tensor, group_lr: float, adjustment: float) -> Update:
    """Return the update of algorithm 1, which moves `loop.kept["q"]`, the groups' weights.

    Args:
        loop: Whose network.
        groups: (n, m) bool membership of its rows, on the CPU.
        group_lr: Step of the weights' logarithms, per nat.
        adjustment: C.
    """
    margin = adjustment / groups.sum(dim=0).double().sqrt()

    def update(batch: Batch) -> Tensor:
        losses = cross_entropy(loop.learner.logits(batch.inputs), batch.labels, reduction="none")
        members = groups[batch.places].to(losses)
        count = members.sum(dim=0)
        present = (count > 0).cpu()
        group_losses = losses @ members / count.clamp(min=1)
        seen = (group_losses.detach().double().cpu() + margin)[present]
        q = loop.kept["q"]
        # Those that are not here keep their share; those that are share theirs anew.
        moved = (q[present].log() + group_lr * seen).exp()
        q = q.clone()
        q[present] = moved
        loop.kept["q"] = q = q / q.sum()
        loop.learner.descend((q.to(group_losses) * group_losses).sum())
        return losses.detach().mean()

    return update
