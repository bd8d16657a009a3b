r"""The influence of trained rows on groups through all parameters of a network.

.. math:: I_{ig} = -(\nabla \ell_i + \nabla R)^\top s_g , \qquad
    s_g \approx (\nabla^2 F + \delta)^{-1} \nabla R_g ,

for the network as it is, F its objective under the rows' weights, R the penalty, R_g the mean loss
of a group's target rows (`gsr_core.curvature`). It is the derivative at a minimum, at which no
network is; what stands for the inverse, and how far its solve got, is said with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from math import ceil
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from gsr_core.curvature.engine import Curvature
    from gsr_core.curvature.network import ReadBatches
    from gsr_core.curvature.solving import Solve
    from gsr_core.methods.network.loop import Loop

__all__ = ["group_gradients", "network_influence", "weighted_objective"]

_AT_ONCE = 2**28
"""Numbers that an array over parameters and groups may have; a solve holds several of them."""


def weighted_objective(
    loop: Loop, weight: Tensor, *, at_a_pass: Callable[[], object] = lambda: None
) -> tuple[Curvature, ReadBatches]:
    """Return the objective of a loop's network under weights, and what begins a pass over its rows.

    Args:
        loop: Where training stands.
        weight: (n,) of the trained rows, with the sum one.
        at_a_pass: Called when a pass begins.
    """
    # Here, not on top: whoever lists the methods need not load what differentiates networks.
    from gsr_core.curvature.engine import Curvature

    def rows() -> Iterator[tuple[Any, Tensor, Tensor]]:
        at_a_pass()
        return loop.read(loop.rows, loop.labels, len(loop) * weight)

    # Torch halves the penalty.
    return Curvature(loop.learner.module, rows, l2=loop.training.weight_decay / 2), rows


def group_gradients(loop: Loop, engine: Curvature, groups: slice = slice(None)) -> Tensor:
    """Return (P, m): the gradient of each group's mean loss on target.

    Args:
        loop: Whose target.
        engine: Of its network.
        groups: Which groups; all by default.
    """
    target = loop.problem.target
    reads = partial(loop.read, target.position, target.labels.cpu())
    return engine.group_gradients(reads, target.groups[:, groups].cpu())


def network_influence(loop: Loop, weight: Tensor, how: Solve) -> tuple[Tensor, str]:
    """Return the influence of each trained row's weight on each group, and what to say of it.

    All groups are solved for together, unless these are too many for the memory that a network
    of this size leaves; then some of them at a time. `loop.source.report` is told of each pass.

    Args:
        loop: With the network.
        weight: (n,) of the trained rows, with the sum one.
        how: What stands for the inverse curvature.

    Returns:
        (n, m) nats: the derivative of each group's mean target loss by each weight, the weights
        being normalised. Negative where raising it lowers the loss. And a sentence on the solve.
    """
    # Here, not on top, as above.
    from gsr_core.curvature.solving import most_passes

    def tell() -> None:
        now = next(passes)
        loop.source.report(min(now / most, 1.0), f"Pass {now} over the rows, of at most {most}")

    engine, rows = weighted_objective(loop, weight, at_a_pass=tell)
    m, size = loop.problem.target.groups.shape[1], max(_AT_ONCE // engine.network.size, 1)
    parts = [slice(at, at + size) for at in range(0, m, size)]
    passes, most = count(1), len(parts) * (ceil(most_passes(how, 1)) + 1)
    values, notes = [], []
    for part in parts:
        solved = engine.solve(group_gradients(loop, engine, part), how)
        values.append(engine.scores(rows, solved.columns))
        notes.append(solved.note)
    return torch.cat(values, dim=1), " ".join(dict.fromkeys(notes))
