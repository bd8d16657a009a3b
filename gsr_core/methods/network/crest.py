r"""Coresets for mini-batches (CREST), the whole network: few batches that stand for many rows.

Yang, Kang and Mirzasoleiman, "Towards Sustainable Learning: Coresets for Data-efficient Deep
Learning" (ICML 2023). From the rows that are not learned yet, P random subsets of r rows are drawn.
Of each, m medoids by the gradients of the last layer (`gsr_core.gradients.coresets`) are a batch,
in which a medoid's weight is the size of its cluster over r, so that the batch has nearly the
subset's gradient. They are trained on, drawn with replacement, until a local model of the loss,

.. math:: F(\delta) = \tfrac12 \delta^\top \operatorname{diag}(\bar H) \delta
    + \bar g^\top \delta + L, \qquad \delta = w_t - w_l,

made at :math:`w_l` from the chosen rows, no longer holds: every :math:`T_1` steps

.. math:: \rho = \lvert F(\delta) - L_r(w_t) \rvert / L_r(w_t)

is computed on a new random subset, and where it is above :math:`\tau`, coresets and model are made
anew, :math:`T_1 = h \lVert \bar H_0 \rVert / \lVert \bar H_t \rVert` and :math:`P = b T_1`. The
gradient and the diagonal of the Hessian, by Hutchinson's estimate
:math:`E[z \circ (H z)]` of random signs z, are averaged over the renewals,

.. math:: \bar g = \frac{(1 - \beta_1) \sum_s \beta_1^{t - s} g_s}{1 - \beta_1^t}, \qquad
    \bar H = \sqrt{\frac{(1 - \beta_2) \sum_s \beta_2^{t - s} h_s \circ h_s}{1 - \beta_2^t}}.

Every :math:`T_2` steps a row is left out for good if a loss that was computed for one of the random
subsets in these steps was at most :math:`\alpha`. Under a shortcut the majority is learned first,
and left out first.

Where we differ or had to choose: an epoch is as many batches as the budget has, so that `steps`
epochs cost that share of plain training's updates, at a constant learning rate. L is the mean loss
of the random subsets at :math:`w_l`. All but the updates is computed in eval mode, without
augmentation. A subset has at least four batches of rows, :math:`T_1` is at most an epoch,
:math:`L_r` at least 0.01 in the denominator, and no row is left out where fewer than a batch would
be left. The paper does not give the two decays; they are those of Adam. The square root makes every
curvature positive.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from gsr_core.curvature.engine import Curvature
from gsr_core.curvature.network import FlatNetwork
from gsr_core.gradients.coresets import medoids
from gsr_core.gradients.representations import residuals
from gsr_core.linear.head import Head
from gsr_core.linear.objective import centred_basis
from gsr_core.methods.base import (
    SETTINGS_CONFIG,
    LabelNeeds,
    Range,
    SearchSpace,
    Values,
    settings,
)
from gsr_core.methods.network.base import NetworkMethod
from gsr_core.methods.network.loop import Batch, Epoch, Rounds

if TYPE_CHECKING:
    from gsr_core.methods.network.loop import Loop

__all__ = [
    "LocalModel",
    "NetworkCREST",
    "hutchinson_diagonal",
    "last_layer_points",
    "weighted_medoids",
]

LastLayer = Literal["logits", "inputs", "layer"]
"""By what the loss is differentiated: the logits, the inputs of the head, or the head itself, whose
gradients are taken for as long as they are and as directed as those by the logits."""

_LEAST_BATCHES = 4
"""Batches in a random subset, as in the paper's 500 rows for 128."""
_LEAST_LOSS = 0.01
"""Nats; below, rho would follow the noise of a loss that is nearly zero."""


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class NetworkCREST(NetworkMethod):
    """Train the network on weighted batches that stand for random subsets."""

    name: ClassVar[str] = "network_crest"
    title: ClassVar[str] = "Network CREST: coresets for mini-batches"
    summary: ClassVar[str] = (
        "Trains the whole network on few weighted batches whose gradients match those of larger "
        "random subsets, renewed where a local model of the loss stops to hold; learned samples "
        "are left out."
    )
    use_when: ClassVar[str] = (
        "A pass over all rows is too expensive and accuracy on the whole is what counts."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE
    values: ClassVar[Values] = Values.WEIGHTS
    # How often coresets and model are renewed is known afterwards only.
    predicted: ClassVar[bool] = False
    search: ClassVar[SearchSpace] = {
        **NetworkMethod.search,
        "budget": Range(0.05, 0.5),
        "tau": (0.1, 0.05, 0.01, 0.005, 0.001),
        "h": (1.0, 2.0, 4.0, 8.0, 10.0),
        "subset": Range(0.005, 0.1),
        "learned": Range(0.01, 0.5),
    }

    budget: Annotated[
        float,
        Field(gt=0, le=1, description="Batches an epoch, as a share of those of a whole pass."),
    ] = 0.1
    subset: Annotated[
        float,
        Field(gt=0, le=1, description="r over n: rows of a random subset; at least four batches."),
    ] = 0.01
    tau: Annotated[
        float, Field(gt=0, le=10, description="Coresets are renewed where rho is above this.")
    ] = 0.05
    h: Annotated[
        float, Field(gt=0, le=1000, description="Steps from one look at rho to the next, at first.")
    ] = 1.0
    coresets: Annotated[
        int, Field(ge=1, le=100, description="b: coresets for each step between two looks.")
    ] = 5
    learned: Annotated[
        float,
        Field(ge=0, description="alpha: a sample whose loss, nats, is this or less is left out."),
    ] = 0.1
    window: Annotated[
        int, Field(ge=1, description="T2: steps from one leaving out to the next.")
    ] = 20
    gradient: Annotated[
        LastLayer,
        Field(
            description="Gradients that coresets match: by the logits, by the inputs of the head, "
            "or those by the logits times the length of these inputs, as the layer's are."
        ),
    ] = "logits"
    by_class: Annotated[
        bool,
        Field(description="Choose medoids class by class, so that no class is without one."),
    ] = False
    gradient_decay: Annotated[
        float, Field(ge=0, lt=1, description="beta 1: share of the past in the mean gradient.")
    ] = 0.9
    curvature_decay: Annotated[
        float, Field(ge=0, lt=1, description="beta 2: share of the past in the mean curvature.")
    ] = 0.999
    probes: Annotated[
        int, Field(ge=1, le=100, description="Random vectors of an estimate of the curvature.")
    ] = 1

    def epochs(self, loop: Loop) -> Iterator[Epoch]:
        """Yield the budget's batches an epoch.

        Args:
            loop: Where training stands; it keeps the coresets, the model and what is left out.
        """
        while True:
            yield _Selection(self, loop).epoch()


class _Selection:
    """What goes on in one epoch; whatever must outlive it is in `Loop.kept`.

    `members`, `coreset` and `weight` are the rows of all coresets, in which one they are, and their
    weight there; `left` steps are to be taken before the next look, `taken` were taken, `windows`
    of them had their leaving out.
    """

    def __init__(self, method: NetworkCREST, loop: Loop) -> None:
        self.method, self.loop, self.kept = method, loop, loop.kept
        self.m, self.rng = loop.training.batch_size, loop.rng()
        self.size = max(1, round(method.budget * len(loop) / self.m))
        self.weights: deque[Tensor] = deque()
        self.share = torch.zeros(len(loop), dtype=torch.float64)
        self.rho, self.looks, self.renewals = float("nan"), 0, 0
        if "left" not in self.kept:
            self.kept |= {name: torch.tensor(0) for name in ("left", "taken", "windows", "models")}
            self.kept["active"] = torch.ones(len(loop), dtype=torch.bool)
            self.kept["learned"] = torch.zeros(len(loop), dtype=torch.bool)

    def epoch(self) -> Epoch:
        """Return the epoch, whose batches are settled as it goes on."""
        return Epoch(
            Rounds(self.size, self._rounds()),
            update=self._update,
            values=lambda: self.share / self.share.sum(),
            note=self._note,
        )

    def _rounds(self) -> Iterator[list[np.ndarray]]:
        done, kept = 0, self.kept
        while done < self.size:
            if not int(kept["left"]):
                self._look()
            steps = min(int(kept["left"]), self.size - done)
            done += steps
            kept["left"], kept["taken"] = kept["left"] - steps, kept["taken"] + steps
            batches = []
            for number in self.rng.integers(int(kept["coreset"].max()) + 1, size=steps):
                own = kept["coreset"] == int(number)
                batches.append(kept["members"][own].numpy())
                self.weights.append(kept["weight"][own])
            yield batches

    def _update(self, batch: Batch) -> Tensor:
        """Descend the loss of a coreset; its weights sum to one."""
        weight = self.weights.popleft()
        self.share[batch.places] += weight
        losses = cross_entropy(
            self.loop.learner.logits(batch.inputs), batch.labels, reduction="none"
        )
        self.loop.learner.descend((weight.to(losses) * losses).sum())
        return losses.detach().mean()

    def _look(self) -> None:
        """Leave out what is learned, and renew coresets and model if the model does not hold."""
        kept, method = self.kept, self.method
        windows = kept["taken"] // method.window
        if windows > kept["windows"]:
            left = kept["active"] & ~kept["learned"]
            if int(left.sum()) >= self.m:
                kept["active"] = left
            kept["learned"], kept["windows"] = torch.zeros_like(left), windows
        if kept["models"]:
            _, losses = self._observed(self._subset())
            reached = float(losses.mean())
            self.looks += 1
            self.rho = abs(self._model().at(self._theta()) - reached) / max(reached, _LEAST_LOSS)
            if self.rho <= method.tau:
                kept["left"] = kept["period"].clone()
                return
        self._renew()

    def _renew(self) -> None:
        """Choose coresets and make the local model where the network is."""
        kept, method = self.kept, self.method
        period = 1
        if kept["models"]:
            ratio = float(kept["first_norm"] / self._model().curvature.norm().clamp(min=1e-30))
            period = int(np.clip(round(method.h * ratio), 1, self.size))
        subsets = [self._subset() for _ in range(method.coresets * period)]
        rows, places = np.unique(np.concatenate(subsets), return_inverse=True)
        points, losses = self._observed(rows)
        parts = torch.from_numpy(places).split([len(each) for each in subsets])
        chosen = [
            weighted_medoids(
                points[part],
                self.m,
                self.loop.labels[rows[part]] if method.by_class else None,
            )
            for part in parts
        ]
        kept["members"] = torch.cat(
            [
                torch.from_numpy(rows)[part[each]]
                for part, (each, _) in zip(parts, chosen, strict=True)
            ]
        )
        kept["weight"] = torch.cat([weight for _, weight in chosen])
        kept["coreset"] = torch.arange(len(chosen)).repeat_interleave(
            torch.tensor([len(weight) for _, weight in chosen])
        )
        kept["loss"] = losses[places].double().mean()
        self._differentiate()
        kept["left"] = kept["period"] = torch.tensor(period)
        self.renewals += 1

    def _differentiate(self) -> None:
        """Take gradient and curvature of the coresets' loss into their means."""
        kept, method = self.kept, self.method
        places, inverse = kept["members"].unique(return_inverse=True)
        weight = torch.zeros(len(places)).index_add_(0, inverse, kept["weight"].float())
        rows, labels = self.loop.rows[places.numpy()], self.loop.labels[places]
        reads = partial(self.loop.read, rows, labels, weight)
        curvature = Curvature(self.loop.learner.module, reads, l2=0.0)
        generator = torch.Generator().manual_seed(int(self.rng.integers(2**31)))
        gradient = curvature.gradient().cpu()
        diagonal = hutchinson_diagonal(curvature, method.probes, generator).cpu()
        nothing = torch.zeros_like(gradient)
        kept["gradients"] = torch.lerp(
            gradient, kept.get("gradients", nothing), method.gradient_decay
        )
        kept["squares"] = torch.lerp(
            diagonal.square(), kept.get("squares", nothing), method.curvature_decay
        )
        kept["models"], kept["origin"] = kept["models"] + 1, self._theta()
        if kept["models"] == 1:
            kept["first_norm"] = self._model().curvature.norm()

    def _model(self) -> LocalModel:
        kept, made = self.kept, int(self.kept["models"])
        return LocalModel(
            kept["origin"],
            float(kept["loss"]),
            kept["gradients"] / (1 - self.method.gradient_decay**made),
            (kept["squares"] / (1 - self.method.curvature_decay**made)).sqrt(),
        )

    def _theta(self) -> Tensor:
        """Return the network's parameters (P,), on the CPU."""
        return FlatNetwork(self.loop.learner.module).theta().cpu()

    def _subset(self) -> np.ndarray:
        """Draw the places of a random subset of the rows that are not left out."""
        active = self.kept["active"].nonzero().squeeze(1).numpy()
        r = max(round(self.method.subset * len(self.loop)), _LEAST_BATCHES * self.m)
        return self.rng.choice(active, size=min(r, len(active)), replace=False)

    def _observed(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return points (b, r) in gradient space and losses (b,), which are remembered."""
        features, head, labels = self.loop.features(rows), self.loop.head(), self.loop.labels[rows]
        head = Head(head.weight.cpu(), head.bias.cpu())
        losses = cross_entropy(head.logits(features), labels, reduction="none")
        self.kept["learned"][rows] |= losses <= self.method.learned
        return last_layer_points(head, features, labels, self.method.gradient), losses

    def _note(self) -> str:
        n, active = len(self.loop), int(self.kept["active"].sum())
        rho = f", rho {self.rho:.3f} at the last" if self.looks else ""
        return (
            f"Batches: {self.size:,}; new choices of coresets: {self.renewals:,}; looks at the "
            f"model: {self.looks:,}{rho}. {n - active:,} of {n:,} samples are left out as learned."
        )


@dataclass(frozen=True)
class LocalModel:
    """A loss around a point, with the diagonal of its curvature.

    Attributes:
        origin: (P,) where it was made.
        loss: There, nats.
        gradient: (P,).
        curvature: (P,).
    """

    origin: Tensor
    loss: float
    gradient: Tensor
    curvature: Tensor

    def at(self, theta: Tensor) -> float:
        """Return the loss that it predicts at (P,) parameters, nats."""
        delta = (theta - self.origin).double()
        slope = self.gradient.double() + 0.5 * self.curvature.double() * delta
        return self.loss + float(delta @ slope)


def hutchinson_diagonal(curvature: Curvature, probes: int, generator: torch.Generator) -> Tensor:
    """Estimate the diagonal of the Hessian, (P,), without bias.

    Args:
        curvature: Of the objective.
        probes: Random vectors of signs; the error falls with their root.
        generator: On the CPU; is advanced.
    """
    like = curvature.network.theta()
    signs = torch.randint(2, (len(like), probes), generator=generator).to(like) * 2 - 1
    return (signs * curvature.product(signs)).mean(dim=1)


def last_layer_points(head: Head, features: Tensor, labels: Tensor, gradient: LastLayer) -> Tensor:
    """Return points (n, r) whose distances are those of gradients of the last layer, float64.

    Args:
        head: K classes.
        features: (n, d).
        labels: (n,) int64.
        gradient: Which; see `LastLayer`.
    """
    points = residuals(head.logits(features), labels)
    if gradient == "inputs":
        return points @ (centred_basis(len(head.bias), points).T @ head.weight.to(points))
    if gradient == "layer":
        return points * (1 + features.to(points).square().sum(dim=1, keepdim=True)).sqrt()
    return points


def weighted_medoids(points: Tensor, m: int, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Choose a weighted batch that stands for a subset.

    Args:
        points: (r, c) in gradient space.
        m: Rows of the batch; all if there are fewer.
        labels: (r,) classes, to give each its part of m, at least one row, or None.

    Returns:
        Which rows (m,) int64, and their weights (m,) float64: sizes of clusters over r.
    """
    groups = [torch.arange(len(points))]
    if labels is not None:
        groups = [(labels == each).nonzero().squeeze(1) for each in labels.unique()]
    rows, sizes = [], []
    for own in groups:
        share = max(1, round(m * len(own) / len(points)))
        found = medoids(points[own], min(share, len(own)))
        rows.append(own[found.chosen])
        sizes.append(found.sizes)
    return torch.cat(rows), torch.cat(sizes).double() / len(points)
