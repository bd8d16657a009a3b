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
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from gsr_core.curvature.engine import Curvature
    from gsr_core.curvature.network import ReadBatches
    from gsr_core.curvature.solving import Solve
    from gsr_core.methods.network.loop import Loop

__all__ = ["Lever", "network_influence"]


class Lever(NamedTuple):
    """What the weights of rows and the losses of groups are held against each other by.

    Attributes:
        engine: The network's objective under the weights.
        rows: Begins a pass over the trained rows.
        by_group: (P, m) gradient of each group's mean loss on target.
    """

    engine: Curvature
    rows: ReadBatches
    by_group: Tensor

    @classmethod
    def of(
        cls, loop: Loop, weight: Tensor, *, at_a_pass: Callable[[], object] = lambda: None
    ) -> Lever:
        """Differentiate the groups' losses by the network of a loop.

        Args:
            loop: Where training stands.
            weight: (n,) of the trained rows, with the sum one.
            at_a_pass: Called when a pass over the trained rows begins.
        """
        # Here, not on top: whoever lists the methods need not load what differentiates networks.
        from gsr_core.curvature.engine import Curvature

        def rows() -> Iterator[tuple[Any, Tensor, Tensor]]:
            at_a_pass()
            return loop.read(loop.rows, loop.labels, len(loop) * weight)

        engine = Curvature(
            loop.learner.module,
            rows,
            # Torch halves the penalty.
            l2=loop.training.weight_decay / 2,
        )
        target = loop.problem.target
        reads = partial(loop.read, target.position, target.labels.cpu())
        return cls(engine, rows, engine.group_gradients(reads, target.groups.cpu()))


def network_influence(loop: Loop, weight: Tensor, how: Solve) -> tuple[Tensor, str]:
    """Return the influence of each trained row's weight on each group, and what to say of it.

    `loop.source.report` is told of each pass over the rows.

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

    passes, most = count(1), ceil(most_passes(how, 1)) + 1

    def tell() -> None:
        now = next(passes)
        loop.source.report(min(now / most, 1.0), f"Pass {now} over the rows, of at most {most}")

    lever = Lever.of(loop, weight, at_a_pass=tell)
    solved = lever.engine.solve(lever.by_group, how)
    return lever.engine.scores(lever.rows, solved.columns), solved.note
