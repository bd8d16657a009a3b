r"""MWN: a small network from a sample's loss to its weight, learned on a clean target set.

Shu et al., "Meta-Weight-Net: Learning an Explicit Mapping For Sample Weighting" (NeurIPS 2019).
A network g of one hidden layer with a sigmoid at its end maps the loss of a sample, a constant to
the gradient, to its weight, and learns to lower the mean loss V of the target set, of which the
classes are read and the groups are not, after one step of the head u:

.. math::
    w_j = \frac{g_\phi(\ell_j(u))}{\sum_k g_\phi(\ell_k(u))}, \qquad
    \nabla_\phi V(\hat u) = -\eta \sum_j \langle \nabla V(\hat u), \nabla \ell_j(u) \rangle
        \nabla_\phi w_j .

Then the head takes a step under the new weights. With flipped classes among the samples the map
falls with the loss; with rare groups it rises.

Where we differ: steps are full-batch, the head's one over the curvature's bound from the zero head;
hidden units are tanh instead of ReLU, without an initial offset, and the last layer starts at zero,
so that all weights are equal at first. **The head of a step is fitted exactly under the weights of
that step**; it is not that of the dynamics. The two agree where the dynamics rest, and in between
the exact one is the head of these weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from gsr_core.data.problem import Problem
from gsr_core.methods.base import SETTINGS_CONFIG, LabelNeeds, Range, SearchSpace, Step, settings
from gsr_core.methods.biased import curvature_bound
from gsr_core.methods.inner import FittedHead, InnerProblem, Scored
from gsr_core.methods.lookahead import Descent, agreement
from gsr_core.methods.weight_network import Network, descend, network_weight

__all__ = ["MWN", "map_gradient", "mapped_weight"]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class MWN(FittedHead):
    """Learn a map from loss to weight that serves the target set."""

    name: ClassVar[str] = "mwn"
    title: ClassVar[str] = "MWN: meta-weight-net"
    summary: ClassVar[str] = (
        "Learns a small network that maps each sample's loss to its weight so that a head trained "
        "under these weights does well on the target set, whose classes alone are read."
    )
    use_when: ClassVar[str] = "As L2R, when a sample's loss alone should decide its weight."
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE
    search: ClassVar[SearchSpace] = {
        **FittedHead.search,
        "lr": Range(0.1, 100.0),
    }

    steps: Annotated[
        int, Field(ge=1, le=100_000, description="Times the head is refitted under the weights.")
    ] = 20
    updates: Annotated[
        int, Field(ge=1, le=100_000, description="Steps of network and head between refits.")
    ] = 10
    lr: Annotated[float, Field(gt=0, description="Step size of the network.")] = 3.0
    hidden: Annotated[int, Field(ge=1, le=10_000, description="Hidden units of the network.")] = 100

    def iterate(
        self, problem: Problem, checkpoint: Mapping[str, Tensor] | None = None
    ) -> Iterator[Step]:
        """Yield one refitted head after every `updates` updates, without end; the driver counts.

        Args:
            problem: The data.
            checkpoint: `Step.checkpoint` of the step after which to go on; from equal weights if
                None.
        """
        inner, network = self.inner(problem), Network(1, self.hidden)
        target, descent = inner.scored(problem.target), Descent(curvature_bound(inner))
        phi = network.start(self.seed, inner.basis)
        stored = inner.resume(checkpoint, u=inner.zero(), phi=phi, velocity=torch.zeros_like(phi))
        u, phi, velocity = stored["u"], stored["phi"], stored["velocity"]

        losses = inner.objective(inner.uniform()).at(u).losses
        while True:
            for _ in range(self.updates):
                slope = map_gradient(network, phi, inner, target, u, descent)
                phi, velocity = descend(phi, velocity, slope, self.lr)
                objective = inner.objective(mapped_weight(network, phi, losses))
                u = descent.step(objective, u)
                losses = objective.at(u).losses
            inner.forget()
            yield inner.step(
                mapped_weight(network, phi, losses),
                u,
                checkpoint={"u": u, "phi": phi, "velocity": velocity},
            )


def mapped_weight(network: Network, phi: Tensor, losses: Tensor) -> Tensor:
    """Return the weights (n,), summing to one, of samples with these losses (n,), nats."""
    return network_weight(network(phi, losses[:, None]))


def map_gradient(
    network: Network,
    phi: Tensor,
    inner: InnerProblem,
    target: Scored,
    u: Tensor,
    descent: Descent,
) -> Tensor:
    """Return the gradient by phi of the mean target loss after one step of the head, nats.

    Args:
        network: From loss to output.
        phi: Its parameters.
        inner: Has the samples.
        target: The target rows; their groups are not read.
        u: (p, c) the head, a constant.
        descent: Its steps; the step size is a constant too.
    """
    losses = inner.objective(inner.uniform()).at(u).losses
    free = phi.detach().requires_grad_()
    weight = mapped_weight(network, free, losses)
    objective = inner.objective(weight.detach())
    ahead = descent.step(objective, u)
    by_weight = -descent.size(objective) * agreement(inner, target, u, ahead)
    # Of a number: of a vector, torch first imports a computer algebra system, for seconds.
    (slope,) = torch.autograd.grad(weight @ by_weight.detach(), free)
    return slope
