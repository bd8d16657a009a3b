r"""LRWOpt (MOLERE): the validation part of learned reweighting is itself learned.

Jain et al., "Improving Generalization via Meta-Learning on Hard Samples" (CVPR 2024). A splitter
Theta, a network of features and label, says how likely a sample is on the training side. It learns
to predict whether the head is right on the sample while *raising* the validation loss, so that what
is hard becomes validation, and the weight network of `lrw` has to make the head good at that.

**Which form of the splitter's step.** As printed, the step descends the splitter's cross-entropy
less the validation loss, and the latter has no gradient in Theta: the split is a threshold and the
loss is the head's. The form used here weights the loss with the soft share of validation,

.. math::
    \frac1N \sum_i \Big[ \mathrm{CE}(\Theta_i, c_i) - (1 - \Theta_i) \, \ell_i \Big]
    + a_1 \, \mathrm{KL}\big(\bar z \,\Vert\, \delta\big)
    + a_2 \sum_{z} \mathrm{KL}\big(P(y \mid z) \,\Vert\, P(y)\big) ,

c_i = 1 where the head is right, z-bar the mean of 1 - Theta, and P(y | z) the classes of the two
soft sides; over all samples, because a full-batch step on the few of validation would never learn
of the others.

Where we differ otherwise:

- Validation is the share delta of lowest Theta, with every class on both sides, instead of
  Theta < 1/2 with delta only in a penalty: a head that is right nearly everywhere has next to
  nothing below one half. So it never exceeds delta N, and the first split is a random one.
- One sentence of the paper has low Theta as training; here, as in its main part, low is validation.
- It stops when the generalisation gap, mean validation less mean training loss, has shrunk in
  `patience` consecutive steps, not at the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from gsr_core.data.problem import Problem
from gsr_core.methods.base import SETTINGS_CONFIG, Step, settings
from gsr_core.methods.draws import per_row
from gsr_core.methods.lrw import Reweighted, Reweighting, choose_validation
from gsr_core.methods.weight_network import Network, descend, network_inputs

__all__ = ["LRWOpt", "Splitter", "Splitting", "splitter_loss"]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class Splitting:
    """How the splitter learns."""

    splitter_lr: Annotated[float, Field(gt=0, description="Step size of the splitter.")] = 1.0
    splitter_hidden: Annotated[
        int, Field(ge=0, le=1000, description="Hidden units of the splitter; 0 is a linear one.")
    ] = 16
    ratio_penalty: Annotated[
        float, Field(ge=0, description="Keeps the soft share of validation at delta.")
    ] = 1.0
    label_penalty: Annotated[
        float, Field(ge=0, description="Keeps the classes of both sides like those of all.")
    ] = 1.0


class Splitter:
    """What says of each row how likely it is on the training side.

    Attributes:
        theta: The parameters of its network.
        velocity: Of the descent with momentum.
    """

    def __init__(
        self, settings: Splitting, problem: Problem, features: Tensor, *, delta: float, seed: int
    ) -> None:
        """Begin where every row is on the training side with a chance of 1 - delta.

        Args:
            settings: How it learns.
            problem: The data, of which the weighted rows are split.
            features: (n, i) what it sees of them, beside their classes.
            delta: Share that is validation.
            seed: Of its first parameters, and of the order of rows that it tells no apart.
        """
        rows = problem.weighted
        self._settings, self._delta = settings, delta
        self._labels = rows.labels.cpu().numpy()
        self._truth = one_hot(rows.labels, problem.n_classes).to(features)
        self._inputs = torch.cat([features, self._truth], dim=1)
        self._network = Network(self._inputs.shape[1], settings.splitter_hidden)
        self._tie = per_row(rows, np.random.default_rng(seed))
        self.theta = self._network.start(seed, features)
        self.theta[-1] = float(np.log((1 - delta) / delta))
        self.velocity = torch.zeros_like(self.theta)

    def validation(self) -> Tensor:
        """Return (n,) bool: the share of the lowest chances, with every class on both sides."""
        outputs = self._network(self.theta, self._inputs).cpu().numpy()
        order = np.lexsort((self._tie, outputs))
        size = int(self._delta * len(order))
        chosen = choose_validation(np.argsort(order), self._labels, size)
        return torch.from_numpy(chosen).to(self._inputs.device)

    def update(self, right: Tensor, losses: Tensor) -> None:
        """Take one step of the descent over all rows.

        Args:
            right: (n,) bool, whether each is classified rightly.
            losses: (n,) its cross-entropy, nats.
        """
        moving = self.theta.detach().requires_grad_()
        loss = splitter_loss(
            self._network(moving, self._inputs),
            right,
            losses,
            self._truth,
            delta=self._delta,
            ratio_penalty=self._settings.ratio_penalty,
            label_penalty=self._settings.label_penalty,
        )
        (slope,) = torch.autograd.grad(loss, moving)
        lr = self._settings.splitter_lr
        self.theta, self.velocity = descend(self.theta, self.velocity, slope, lr)


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class LRWOpt(Splitting, Reweighted):
    """Learn which samples judge, and the weights of the others."""

    name: ClassVar[str] = "lrwopt"
    title: ClassVar[str] = "LRWOpt (MOLERE): learned reweighting, learned validation"
    summary: ClassVar[str] = (
        "Learns which held-out samples are hard, by a splitter whose step weights each loss with "
        "its soft share of validation, and a network that weights the others so that a head "
        "trained on them does well on the hard ones."
    )
    use_when: ClassVar[str] = "As LRW-Hard, when what is hard should be learned as well."

    patience: Annotated[
        int,
        Field(ge=1, description="Steps in a row with a smaller generalisation gap; then stop."),
    ] = 3

    def iterate(
        self, problem: Problem, checkpoint: Mapping[str, Tensor] | None = None
    ) -> Iterator[Step]:
        """Yield one refitted head after every `updates` updates, until the gap keeps shrinking.

        Args:
            problem: The data.
            checkpoint: `Step.checkpoint` of the step after which to go on; from uniform weights if
                None.
        """
        inner, rows = self.inner(problem), problem.weighted
        features = network_inputs(
            rows, standardise=self.standardise, dtype=problem.compute.accumulate_dtype
        )
        splitter = Splitter(self, problem, features, delta=self.delta, seed=self.seed)
        stored = inner.resume(
            checkpoint,
            theta=splitter.theta,
            theta_velocity=splitter.velocity,
            gap=torch.tensor(-torch.inf),
            shrunk=torch.tensor(0),
        )
        splitter.theta, splitter.velocity = stored["theta"], stored["theta_velocity"]
        gap, shrunk = float(stored["gap"]), int(stored["shrunk"])
        reweighting = Reweighting(self, problem, inner, stored)
        if checkpoint is None:
            reweighting.warm_up(~splitter.validation())

        while shrunk < self.patience:
            inner.forget()
            validation = splitter.validation()
            judge = inner.objective(validation.to(inner.basis) / validation.sum())
            for _ in range(self.updates):
                state = judge.at(reweighting.u)
                right = state.probabilities.argmax(dim=1) == inner.labels
                splitter.update(right, state.losses)
                reweighting.update(~validation, judge.sample_weight)

            losses = judge.at(reweighting.u).losses
            before, gap = gap, float(losses[validation].mean() - losses[~validation].mean())
            shrunk = shrunk + 1 if gap < before else 0
            inner.forget()
            yield inner.step(
                reweighting.weight(~validation),
                reweighting.u,
                checkpoint={
                    **reweighting.checkpoint(),
                    "theta": splitter.theta,
                    "theta_velocity": splitter.velocity,
                    "gap": inner.basis.new_tensor(gap),
                    "shrunk": torch.tensor(shrunk),
                },
                note=f"{int(validation.sum())} of {len(rows)} samples are the learned validation "
                "part: they judge the weights of the others and have none themselves. The "
                "splitter's step weights each loss with its soft share of validation. "
                f"Generalisation gap {gap:.3f} nats.",
            )


def splitter_loss(
    outputs: Tensor,
    right: Tensor,
    losses: Tensor,
    truth: Tensor,
    *,
    delta: float,
    ratio_penalty: float,
    label_penalty: float,
) -> Tensor:
    """Return the loss that the splitter descends, nats.

    Args:
        outputs: (n,) of the splitter; their sigmoid is the chance of being training.
        right: (n,) bool, whether the head is right.
        losses: (n,) of the head, nats.
        truth: (n, K) one-hot labels.
        delta: Share that is to be validation.
        ratio_penalty: Of the divergence of the soft share from `delta`.
        label_penalty: Of the divergence of each side's classes from those of all.
    """
    aside, kept = torch.sigmoid(-outputs), torch.sigmoid(outputs)
    judged = binary_cross_entropy_with_logits(outputs, right.to(outputs))
    share = torch.stack([aside.mean(), kept.mean()])
    ratio = _divergence(share, share.new_tensor([delta, 1 - delta]))
    of_all = truth.mean(dim=0)
    label = sum(_divergence(side @ truth / side.sum(), of_all) for side in (aside, kept))
    return judged - (aside * losses).mean() + ratio_penalty * ratio + label_penalty * label


def _divergence(one: Tensor, two: Tensor) -> Tensor:
    """Return KL(one, two) of two distributions, nats; a class that neither has adds nothing."""
    tiny = torch.finfo(one.dtype).tiny
    return (one * (one.clamp(min=tiny).log() - two.clamp(min=tiny).log())).sum()
