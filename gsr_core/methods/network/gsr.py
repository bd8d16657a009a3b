r"""Full-network GSR: weights of training rows by influence through all parameters of a network.

Qiao, Wu, Wang, Koh and Low, "Group-robust Sample Reweighting for Subpopulation Shifts via Influence
Functions" (ICLR 2025), the GSR-F ablations: the outer loop of `gsr`, in which the head's exact fit
is replaced by epochs of the whole network under the weights, and the score of a row,

.. math:: I_i = -(\nabla \ell_i + \nabla R)^\top s , \qquad
    s \approx (\nabla^2 F + \delta)^{-1} \sum_g \gamma_g \nabla R_g ,

by the curvature of all parameters (`gsr_core.curvature`). They differ in what stands for the
inverse: conjugate gradients on the Hessian (EH), a truncated Neumann series (AH), the identity
(HF), or conjugate gradients on the Gauss-Newton matrix (GN), which never curves downwards and is
not in the paper.

An outer step is a step of the run: `inner_epochs` epochs under the weights of now, from the network
of the step before, then the weights move. The first `warmup` steps are plain training.

Where we differ, and why. The paper leaves open whether a network is trained anew at each outer
step; it goes on here, which is what can be afforded. The influence function holds at a minimum with
positive curvature; a network is at none, so that a damping is added to the curvature, conjugate
gradients end where it is negative still, and the note says so. The scale of the scores depends on
all of that; so each update is brought to one norm, as `gsr_hf` does (`step_norm`), without which
the four could not be compared under one `weight_lr`. One solve a step along the sum over the groups
is enough, since the weights need no more (see `gsr`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import cross_entropy

from gsr_core.linear.influence import mean_shares
from gsr_core.methods.base import (
    SETTINGS_CONFIG,
    LabelNeeds,
    Range,
    SearchSpace,
    settings,
)
from gsr_core.methods.gsr import project
from gsr_core.methods.gsr_variants import rescale
from gsr_core.methods.network.base import NetworkMethod
from gsr_core.methods.network.influence import group_gradients, weighted_objective
from gsr_core.methods.network.loop import Epoch

if TYPE_CHECKING:
    from gsr_core.curvature.cost import NetworkCost
    from gsr_core.curvature.network import ReadBatches
    from gsr_core.curvature.solving import Solve
    from gsr_core.methods.network.loop import Loop

__all__ = ["GSRFAH", "GSRFEH", "GSRFGN", "GSRFHF", "NetworkGSR"]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class NetworkGSR(NetworkMethod, ABC):
    """The outer loop; what a method adds is what stands for the inverse curvature."""

    needs: ClassVar[LabelNeeds] = LabelNeeds.TARGET
    search: ClassVar[SearchSpace] = {
        **NetworkMethod.search,
        "weight_lr": Range(0.1, 3.0),
        "temperature": Range(0.1, 10.0),
    }

    steps: Annotated[
        int, Field(ge=1, le=100_000, description="Steps, those of the plain training included.")
    ] = 15
    warmup: Annotated[
        int, Field(ge=1, le=100_000, description="First steps, of plain training, an epoch each.")
    ] = 5
    inner_epochs: Annotated[
        int, Field(ge=1, le=1000, description="Epochs between two moves of the weights.")
    ] = 1
    weight_lr: Annotated[float, Field(gt=0, description="Step size of the weights.")] = 1.0
    step_norm: Annotated[
        float,
        Field(
            gt=0,
            description="Every update is brought to this root mean square, in units of 1/n, before "
            "weight_lr.",
        ),
    ] = 0.5
    temperature: Annotated[
        float,
        Field(gt=0, description="Lower makes the group weights follow the worst group faster."),
    ] = 1.0

    @abstractmethod
    def how(self) -> Solve:
        """Return what stands for the inverse curvature."""

    def epochs(self, loop: Loop) -> Iterator[Epoch]:
        """Yield plain epochs, then outer steps.

        Args:
            loop: Where training stands; it keeps the weights, the groups' weights and the last
                solution.
        """
        n, note = len(loop), ""
        target = loop.problem.target
        if "weight" not in loop.kept:
            equal = torch.zeros(target.groups.shape[1], dtype=torch.float64).log_softmax(dim=0)
            loop.kept |= {"weight": torch.full((n,), 1 / n, dtype=torch.float64), "gamma": equal}
        while True:
            if loop.epoch >= self.warmup:
                note = self._move(loop)
            weight = loop.kept["weight"]
            passes = 1 if loop.epoch < self.warmup else self.inner_epochs
            orders = [loop.rng(each).permutation(n) for each in range(passes)]
            yield Epoch(
                [batch for order in orders for batch in loop.batched(order)],
                update=loop.descent(n * weight),
                values=weight,
                group_weight=lambda: loop.kept["gamma"].exp(),
                note=note,
            )

    def move_cost(
        self, module: nn.Module, batches: ReadBatches, l2: float, *, rows: int, target_rows: int
    ) -> NetworkCost:
        """Say what a move of the weights costs, by trying each part of it on a batch.

        Args:
            module: The network.
            batches: A batch or two, as a pass would read them.
            l2: Penalty of the objective.
            rows: n.
            target_rows: Of target.
        """
        from gsr_core.curvature.engine import Curvature

        engine = Curvature(module, batches, l2=l2)
        return engine.predict(1, rows=rows, target_rows=target_rows, how=self.how())

    def _move(self, loop: Loop) -> str:
        """Move the weights by the network as it is now; return what to say of the solve."""
        target, weight = loop.problem.target, loop.kept["weight"]
        losses = cross_entropy(
            loop.logits_of(target.position).double(), target.labels.cpu(), reduction="none"
        )
        signal = losses @ mean_shares(target.groups.cpu(), losses)
        gamma = (loop.kept["gamma"] + signal / self.temperature).log_softmax(dim=0)

        engine, rows = weighted_objective(loop, weight)
        by_group = group_gradients(loop, engine)
        right = by_group @ gamma.exp().to(by_group)
        start = loop.kept.get("solution")
        start = start.to(right) if start is not None and start.shape == right.shape else None
        solved = engine.solve(right, self.how(), start=start)
        along = engine.scores(rows, solved.columns[:, None])
        xi = rescale(along[:, 0].double().cpu(), self.step_norm)
        moved, _ = project(weight, xi, self.weight_lr)
        loop.kept |= {"weight": moved, "gamma": gamma, "solution": solved.columns.cpu()}
        dropped = int((moved == 0).sum())
        return f"{solved.note} {dropped:,} of {len(moved):,} samples have no weight."


_Damping = Annotated[
    float, Field(ge=0, description="Added to every curvature, nats per squared parameter.")
]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class _BySolve(NetworkGSR, ABC):
    """Full-network GSR by conjugate gradients."""

    search: ClassVar[SearchSpace] = {**NetworkGSR.search, "damping": Range(1e-3, 1.0)}
    matrix: ClassVar[Literal["hessian", "gauss_newton"]]

    damping: _Damping = 0.1
    tolerance: Annotated[
        float, Field(gt=0, lt=1, description="Relative residual at which a solve is done.")
    ] = 1e-2
    max_products: Annotated[
        int, Field(ge=1, le=10_000, description="Passes over the rows after which to give up.")
    ] = 30

    def how(self) -> Solve:
        """Return the solve by conjugate gradients."""
        from gsr_core.curvature.solving import Solve

        return Solve(
            method="cg",
            matrix=self.matrix,
            damping=self.damping,
            tolerance=self.tolerance,
            max_products=self.max_products,
        )


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class GSRFEH(_BySolve):
    """Full-network GSR with the exact Hessian."""

    name: ClassVar[str] = "gsr_f_eh"
    title: ClassVar[str] = "Network GSR-F-EH: influence by the exact Hessian"
    summary: ClassVar[str] = (
        "Learns a weight for each training row by influence through the whole network, solving "
        "with its exact Hessian by conjugate gradients."
    )
    use_when: ClassVar[str] = (
        "You have a small set with group labels, the network is small, and its features are the "
        "fault and not only its head."
    )
    matrix = "hessian"


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class GSRFGN(_BySolve):
    """Full-network GSR with the Gauss-Newton matrix."""

    name: ClassVar[str] = "gsr_f_gn"
    title: ClassVar[str] = "Network GSR-F-GN: influence by the Gauss-Newton matrix"
    summary: ClassVar[str] = (
        "Learns a weight for each training row by influence through the whole network, solving "
        "with its Gauss-Newton matrix, which never curves downwards."
    )
    use_when: ClassVar[str] = (
        "As GSR-F-EH, where the Hessian of the network curves downwards and its solves end early."
    )
    matrix = "gauss_newton"


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class GSRFAH(NetworkGSR):
    """Full-network GSR with a truncated series for the inverse Hessian."""

    name: ClassVar[str] = "gsr_f_ah"
    title: ClassVar[str] = "Network GSR-F-AH: influence by LiSSA"
    summary: ClassVar[str] = (
        "Learns a weight for each training row by influence through the whole network, with a "
        "truncated Neumann series (LiSSA) for the inverse Hessian."
    )
    use_when: ClassVar[str] = "To see what the published approximation of the Hessian is worth."
    search: ClassVar[SearchSpace] = {
        **NetworkGSR.search,
        "scaling": ("largest_eigenvalue", "published"),
    }

    damping: _Damping = 0.1
    scaling: Annotated[
        Literal["largest_eigenvalue", "published"],
        Field(
            description="largest_eigenvalue: sigma is 1.1 times the largest eigenvalue by power "
            "iteration; published: sigma 1e4 and 1000 terms, each on one batch, which is nearly "
            "Hessian-free."
        ),
    ] = "largest_eigenvalue"
    max_depth: Annotated[
        int, Field(ge=1, le=100_000, description="Most terms (largest_eigenvalue).")
    ] = 30

    def how(self) -> Solve:
        """Return the series."""
        from gsr_core.curvature.solving import Solve

        return Solve(
            method="lissa",
            damping=self.damping,
            scaling=self.scaling,
            max_depth=self.max_depth,
            one_batch=self.scaling == "published",
        )


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class GSRFHF(NetworkGSR):
    """Full-network GSR without the Hessian."""

    name: ClassVar[str] = "gsr_f_hf"
    title: ClassVar[str] = "Network GSR-F-HF: without the Hessian"
    summary: ClassVar[str] = (
        "Learns a weight for each training row by how its gradient in the whole network agrees "
        "with those of the target groups."
    )
    use_when: ClassVar[str] = (
        "You have a small set with group labels, the network is large, and a pass of gradients a "
        "step is what can be afforded."
    )

    def how(self) -> Solve:
        """Return the identity."""
        from gsr_core.curvature.solving import Solve

        return Solve(method="identity")
