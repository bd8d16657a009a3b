r"""Learned reweighting (LRW), the whole network.

Jain et al., "Improving Generalization via Meta-Learning on Hard Samples" (CVPR 2024): a first
network says how hard each row is; the easiest, the hardest or a random share `delta` of the rows
becomes validation; a second network is trained from the start on the others, under weights that a
weight network g gives, which learns to lower the unweighted validation loss V. After every
`weight_every` batches it takes one step, with momentum, against

.. math::
    \nabla_\phi \sum_j w_j(\phi) \, \frac{s_j}{\mathrm{rms}(s)} , \qquad
    w_j = \frac{g_\phi(x_j, y_j)}{\sum_k g_\phi(x_k, y_k)} , \qquad
    s_j = \frac{\mathrm{d} V(\hat\theta)}{\mathrm{d} w_j} ,

over the rows j of a batch, with the network one step ahead (`gsr_core.curvature.lookahead`). The
margins, the choice of validation and the weight network are those of `gsr_core.methods.lrw`.

Where we differ, and why:

- g is a small network of what the first network makes of a row, with an output a class, of which
  the row's own counts; as published it is a network of full size, of the input alone, which has to
  learn both class and attribute from it. An epoch costs about twice one of plain training.
- The slopes of a batch are brought to one root mean square: they grow by orders of magnitude with V
  and with the network, so that no one step size of g would do.
- The look-ahead is a step of plain descent at the learning rate, in eval mode, whatever the
  optimiser, on the last batch that was trained on.
- The share is taken of each class alike (`within_class`): a brief network is often lopsided, with
  the hardest rows all of one class, whose weights then rise as a whole.
- Weights have the mean one within a batch, which keeps the learning rate what it is.

As published, the validation part only judges. Where the hard rows are the minority and fewer than
`delta`, LRW-Hard takes all of them away from training, and nothing is left to be weighted up. What
the first network makes of all rows stays in memory, four bytes a number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from gsr_core.errors import SettingError
from gsr_core.methods.base import SETTINGS_CONFIG, LabelNeeds, Range, SearchSpace, settings
from gsr_core.methods.draws import per_row
from gsr_core.methods.lrw import Delta, choose_validation, margins
from gsr_core.methods.network.first import FirstNetwork
from gsr_core.methods.network.loop import Batch, Epoch
from gsr_core.methods.weight_network import (
    Network,
    descend,
    network_inputs,
    network_weight,
)

if TYPE_CHECKING:
    from gsr_core.methods.network.loop import Loop

__all__ = [
    "NetworkLRW",
    "NetworkLRWEasy",
    "NetworkLRWHard",
    "NetworkLRWRandom",
    "NetworkReweighted",
    "Weigher",
]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class NetworkReweighted(FirstNetwork, ABC):
    """Shared by the methods that learn a network of weights."""

    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE
    search: ClassVar[SearchSpace] = {
        **FirstNetwork.search,
        "delta": (0.05, 0.1, 0.2),
        "weight_lr": Range(0.003, 0.3),
        "hidden": (0, 8, 32, 128),
    }

    delta: Delta = 0.1
    weight_every: Annotated[
        int,
        Field(ge=1, le=100_000, description="Batches to train on for each step of the weights."),
    ] = 5
    weight_lr: Annotated[float, Field(gt=0, description="Step size of the weight network.")] = 0.03
    hidden: Annotated[
        int,
        Field(
            ge=0,
            le=1000,
            description="Hidden units of the weight network; 0 is a linear one for each class.",
        ),
    ] = 32


class Weigher:
    """The weight network, and epochs under the weights that it gives.

    Attributes:
        inputs: (n, i) what it looks at, on the device: features of the first network.
        phi: Its parameters; it has an output a class.
        velocity: Of its descent with momentum.
    """

    def __init__(self, method: NetworkReweighted, loop: Loop) -> None:
        """Begin at equal weights, or where a run was stopped; the first network is done.

        Args:
            method: Its settings.
            loop: Where training stands; it keeps the first network, `phi` and `velocity`.
        """
        self._method, self._loop = method, loop
        first = loop.other("first")
        if "phi" not in loop.kept:
            first.module.load_state_dict(loop.learner.module.state_dict())
        seen = replace(loop.trained, source=loop.features(learner=first).to(loop.device))
        self.inputs = network_inputs(seen, standardise=True, dtype=torch.float32)
        self._labels = loop.labels.to(loop.device)
        self._network = Network(self.inputs.shape[1], method.hidden, loop.n_classes)
        phi = self._network.start(method.seed, self.inputs)
        self.phi = loop.kept.get("phi", phi).to(phi)
        self.velocity = loop.kept.get("velocity", torch.zeros_like(phi)).to(phi)
        self._keep()

    def weight(self, validation: Tensor) -> Tensor:
        """Return (n,) float64 weights, zero on the validation part (n,) and one in all."""
        outputs = self._network(self.phi, self.inputs, self._labels)
        return network_weight(outputs.double().cpu(), ~validation)

    def epoch(self, validation: Tensor, note: str) -> Epoch:
        """Return an epoch over all other rows, in which rows of the validation part judge.

        Args:
            validation: (n,) bool, on the CPU.
            note: What the user should know.

        Raises:
            SettingError: If the epoch has fewer batches than it takes for a step of the weights.
        """
        loop, every = self._loop, self._method.weight_every
        trained = loop.shuffled(np.flatnonzero(~validation))
        if not (moves := len(trained) // every):
            raise SettingError(
                f"weight_every is {every} and an epoch has {len(trained)} batches, so that the "
                f"weights would never move; set it to {max(len(trained), 1)} or less"
            )
        judges = iter(self._judges(np.flatnonzero(validation), moves))
        batches = []
        for done, places in enumerate(trained, 1):
            batches.append(places)
            if done % every == 0:
                batches.append(next(judges))
        self._judged = torch.zeros((), device=loop.device)

        def update(batch: Batch) -> Tensor:
            if validation[batch.places[0]]:
                return self._move(batch)
            return self._train(batch)

        def values() -> Tensor:
            self._keep()
            return self.weight(validation)

        def said() -> str:
            return f"{note} Their loss one step ahead was {float(self._judged) / moves:.3f} nats."

        return Epoch(batches, update=update, values=values, note=said)

    def _judges(self, places: np.ndarray, number: int) -> np.ndarray:
        """Return batches (number, b) of validation rows, each row as often as any other."""
        size = min(self._loop.training.batch_size, len(places))
        rng = self._loop.rng(1)
        rounds = [rng.permutation(places) for _ in range(-(-number * size // len(places)))]
        return np.concatenate(rounds)[: number * size].reshape(number, size)

    def _train(self, batch: Batch) -> Tensor:
        """Take a step of the network under the weights."""
        self._last = batch
        learner = self._loop.learner
        losses = cross_entropy(learner.logits(batch.inputs), batch.labels, reduction="none")
        weight = network_weight(self._network(self.phi, self._of(batch), batch.labels))
        learner.descend(weight @ losses)
        self._loss = losses.detach().mean()
        return self._loss

    def _move(self, judges: Batch) -> Tensor:
        """Take a step of the weight network.

        Returns:
            The loss of the batch before: nothing is trained on these rows, whose own loss would
            pass for that of training.
        """
        # Here, not on top: whoever lists the methods need not load what differentiates networks.
        from gsr_core.curvature.lookahead import weight_slopes
        from gsr_core.curvature.network import FlatNetwork

        loop, last = self._loop, self._last
        phi = self.phi.detach().requires_grad_()
        weight = network_weight(self._network(phi, self._of(last), last.labels))
        slopes, loss = weight_slopes(
            FlatNetwork(loop.learner.module),
            loop.on_device(last),
            weight.detach(),
            loop.on_device(judges),
            size=loop.training.lr,
            # Torch halves the penalty.
            l2=loop.training.weight_decay / 2,
        )
        self._judged += loss
        norm = slopes.square().mean().sqrt().clamp(min=torch.finfo(slopes.dtype).tiny)
        (slope,) = torch.autograd.grad(weight @ (slopes / norm), phi)
        lr = self._method.weight_lr
        self.phi, self.velocity = descend(self.phi, self.velocity, slope, lr)
        return self._loss

    def _of(self, batch: Batch) -> Tensor:
        return self.inputs[batch.places.to(self.inputs.device)]

    def _keep(self) -> None:
        self._loop.kept |= {"phi": self.phi.cpu(), "velocity": self.velocity.cpu()}


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class NetworkLRW(NetworkReweighted, ABC):
    """Weight the rows that train for the sake of those that a first network set aside."""

    within_class: Annotated[
        bool,
        Field(description="Take the share of each class alike; off: of all rows, as published."),
    ] = True

    @abstractmethod
    def rank(self, loop: Loop) -> np.ndarray:
        """Return (n,) numbers; the rows with the lowest make the validation part."""

    def epochs(self, loop: Loop) -> Iterator[Epoch]:
        """Yield the first network's epochs, then the second's under learned weights.

        Args:
            loop: Where training stands; it keeps the validation part and the weight network.
        """
        yield from self.first(loop, "whose features the weights are made of")
        weigher = Weigher(self, loop)
        if "validation" not in loop.kept:
            labels, size = loop.labels.numpy(), int(self.delta * len(loop))
            score = self.rank(loop)
            if self.within_class:
                score = _share_below(score, labels)
            chosen = choose_validation(score, labels, size)
            loop.kept["validation"] = torch.from_numpy(chosen)
            loop.restart()
        validation = loop.kept["validation"]
        note = (
            f"{int(validation.sum()):,} of {len(loop):,} samples are validation: they judge the "
            "weights of the others and have none themselves."
        )
        while True:
            yield weigher.epoch(validation, note)


def _share_below(score: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return (n,) in [0, 1) the share of each row's class that has a lower score."""
    share = np.empty(len(score))
    for label in np.unique(labels):
        own = labels == label
        share[own] = np.argsort(np.argsort(score[own], kind="stable")) / own.sum()
    return share


def network_margins(loop: Loop) -> np.ndarray:
    """Return (n,) the probabilistic margins of the rows by the network as it is."""
    return margins(loop.logits(), loop.labels).numpy()


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class NetworkLRWRandom(NetworkLRW):
    """Learned reweighting of a network with a random validation part."""

    name: ClassVar[str] = "network_lrw_random"
    title: ClassVar[str] = "Network LRW-Random: learned reweighting, random validation"
    summary: ClassVar[str] = (
        "Trains the whole network under weights that a small network learns to give so that it "
        "does well on a random part of the rows."
    )
    use_when: ClassVar[str] = "To see what choosing the validation part adds to network LRW."

    def rank(self, loop: Loop) -> np.ndarray:
        """Return (n,) random numbers."""
        return per_row(loop.trained, np.random.default_rng(self.seed))


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class NetworkLRWEasy(NetworkLRW):
    """Learned reweighting of a network with the easiest rows as validation part."""

    name: ClassVar[str] = "network_lrw_easy"
    title: ClassVar[str] = "Network LRW-Easy: learned reweighting, easy validation"
    summary: ClassVar[str] = (
        "Trains the whole network under weights that a small network learns to give so that it "
        "does well on the rows that were easiest for a first network."
    )
    use_when: ClassVar[str] = "To see what choosing the validation part adds to network LRW."

    def rank(self, loop: Loop) -> np.ndarray:
        """Return (n,) the margins, negated."""
        return -network_margins(loop)


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class NetworkLRWHard(NetworkLRW):
    """Learned reweighting of a network with the hardest rows as validation part."""

    name: ClassVar[str] = "network_lrw_hard"
    title: ClassVar[str] = "Network LRW-Hard: learned reweighting, hard validation"
    summary: ClassVar[str] = (
        "Trains the whole network under weights that a small network learns to give so that it "
        "does well on the rows that were hardest for a first network."
    )
    use_when: ClassVar[str] = (
        "Nobody labelled groups, labels are clean, and new data will look like the rows that a "
        "briefly trained network finds hard."
    )

    def rank(self, loop: Loop) -> np.ndarray:
        """Return (n,) the margins."""
        return network_margins(loop)
