r"""XRM's groups: what two heads get wrong that learn from half of the rows each.

Pezeshki et al., "Discovering environments with XRM" (ICML 2024). The rows are dealt at random to
twins a and b. Both take gradient steps on the class-balanced cross-entropy of their own half, and
after each step every row may take the label that the *other* twin gives it, with a probability that
follows that twin's confidence s, of K classes

.. math:: \Pr(y_i \leftarrow c_i) = \frac{K s_i - 1}{K - 1} ,

0 where it knows nothing and 1 where it is certain. So rows that conflict with what a twin relies on
stop to teach the other one about it, and both rely on it more and more. At the end a row is in the
second environment if twin a or twin b gets its *given* label wrong; rows of target and val, from
which neither has learned, likewise. The groups are environment by class. The penalty is chosen by
the number of labels that differ from the given ones at the end: the most win. No group is read.

This follows the paper, not its released code. What it leaves open, and where we differ:

- Classes are balanced by the weights 1 / (K n_c), n_c counted in the twin's half under the labels
  of the moment.
- A label is drawn for at every step but the first `_QUIET`, and stays until the next draw that
  changes it; so it can also return.
- A penalty that leaves a class in one environment is passed over if another does not: two heads
  that each predict one class flip many labels and tell nothing.
- Features are centred and divided by one number, as for the other reference heads (`references`).
  Standardised one by one, a clear shortcut is no larger than noise, and the heads rely on it
  later: on the toy of the tests the second environment then misses up to a third of the rows that
  conflict with it, instead of one in eighteen.
- Steps are of `twin_lr`, or of 1 / L where that is less, L bounding the curvature: with many
  features longer steps would diverge.
- A penalty is done when its number of flips has not changed for `_STEADY` steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import one_hot

from gsr_core.data.problem import Problem
from gsr_core.inference.base import (
    CLASSES_IN_WORDS,
    INFERENCE_CONFIG,
    GroupInference,
    InferredGroups,
    Space,
    by_environment,
    settings,
    splits_of,
)
from gsr_core.inference.references import by_spread, largest_curvature, logits_of_splits
from gsr_core.linear.head import Head
from gsr_core.linear.objective import centred_basis, times, transposed_times

__all__ = ["Twins", "XRMInference", "class_balanced", "flip_chance", "train_twins"]

_PENALTIES = (0.0, 0.001, 0.01, 0.1)
"""On the squared norm of a twin, bias included."""
_QUIET = 10
"""Steps before the first draw of a label."""
_STEADY = 100
"""Steps with as many flips after which a penalty is done."""


@dataclass(frozen=True)
class Twins:
    """Trained twins, for each of S penalties.

    Attributes:
        u: (S, 2, p, c) their coordinates.
        labels: (S, n) the labels at the end.
        steps: (S,) how many steps they took.
    """

    u: Tensor
    labels: Tensor
    steps: list[int]


@dataclass(frozen=True)
class _Chosen:
    """The twins' heads, and the table of what was tried."""

    heads: tuple[Head, Head]
    candidates: list[dict[str, object]]


@settings(frozen=True, kw_only=True, config=INFERENCE_CONFIG)
class XRMInference(GroupInference):
    """Split each class into what two heads get right that did not learn from it, and the rest."""

    title: ClassVar[str] = "XRM: errors of cross-correcting twins"
    summary: ClassVar[str] = (
        "Splits each class by what either of two heads gets wrong that each learn from half of the "
        "samples, while their labels give way to the other's confident predictions."
    )
    space: ClassVar[Space] = "logits"

    twin_steps: Annotated[
        int, Field(ge=1, le=100_000, description="Most gradient steps of the two heads.")
    ] = 1000
    twin_lr: Annotated[
        float,
        Field(gt=0, description="Size of these steps; less where it would diverge."),
    ] = 0.1

    def reference_of(self, problem: Problem) -> Head:
        """Return the head whose logits are the mean of the two heads'.

        Args:
            problem: As `infer` gives it.
        """
        one, two = self._chosen(problem).heads
        return Head((one.weight + two.weight) / 2, (one.bias + two.bias) / 2)

    def predicted_bytes(self, class_sizes: Sequence[int], n_features: int, n_classes: int) -> int:
        """Return the size of the arrays over rows, classes and heads that a step makes.

        Args:
            class_sizes: Weighted rows of each class.
            n_features: d.
            n_classes: K.
        """
        del n_features
        return 4 * 8 * sum(class_sizes) * n_classes * 2 * len(_PENALTIES)

    def partition(self, problem: Problem) -> InferredGroups:
        """Train the twins on the weighted rows, and see what they get wrong of all.

        Args:
            problem: As `infer` gives it.
        """
        chosen = self._chosen(problem)
        wrong = [_wrong(problem, head) for head in chosen.heads]
        environment = {split: wrong[0][split] | wrong[1][split] for split in splits_of(problem)}
        (best,) = (each for each in chosen.candidates if each["chosen"])
        choice = (
            f"the penalty {best['penalty']:g} was chosen of {len(chosen.candidates)} and flips "
            f"{best['flipped']:,} of {len(problem.weighted):,} labels; "
            + _sizes_in_words(environment["weighted"], problem.weighted.labels.cpu().numpy())
        )
        if problem.weighted_split == "train":
            choice += (
                "; the backbone was trained on these samples, which hides errors that tell the "
                "environments apart"
            )
        return by_environment(problem, environment, choice, chosen.candidates)

    def _chosen(self, problem: Problem) -> _Chosen:
        """Train twins for every penalty, and choose one."""
        compute, rows = problem.compute, problem.weighted
        labels = rows.labels
        to_design = by_spread(rows.features, compute.accumulate_dtype)
        design = to_design.design(rows.features, compute.design_dtype)
        basis = centred_basis(problem.n_classes, to_design.mean)
        generator = torch.Generator().manual_seed(self.seed)
        first = torch.rand(len(rows), generator=generator) < 0.5
        held_in = torch.stack([first, ~first], dim=1).to(labels.device)
        balanced = class_balanced(labels[None], held_in, basis)[0]
        steepest = max(
            largest_curvature(design * (len(rows) * weight).sqrt()[:, None].to(design), basis)
            for weight in balanced.T
        )
        twins = train_twins(
            design,
            labels,
            held_in,
            basis,
            _PENALTIES,
            lr=min(self.twin_lr, 1 / (steepest + 2 * max(_PENALTIES))),
            steps=self.twin_steps,
            generator=generator,
        )
        heads = [(to_design.head(a @ basis.T), to_design.head(b @ basis.T)) for a, b in twins.u]
        given, candidates = labels.cpu().numpy(), []
        for number, penalty in enumerate(_PENALTIES):
            wrong = [_wrong(problem, head)["weighted"] for head in heads[number]]
            cells = np.unique(2 * given + (wrong[0] | wrong[1]))
            candidates.append(
                {
                    "penalty": penalty,
                    "flipped": int((twins.labels[number] != labels).sum()),
                    "whole": 2 * len(np.unique(given)) - len(cells),
                    "steps": twins.steps[number],
                }
            )
        best = min(
            range(len(heads)), key=lambda s: (candidates[s]["whole"], -candidates[s]["flipped"])
        )
        for number, each in enumerate(candidates):
            each["chosen"] = number == best
        return _Chosen(heads[best], candidates)


def train_twins(
    design: Tensor,
    labels: Tensor,
    held_in: Tensor,
    basis: Tensor,
    penalties: Sequence[float],
    *,
    lr: float,
    steps: int,
    generator: torch.Generator,
    quiet: int = _QUIET,
    steady: int = _STEADY,
) -> Twins:
    """Train twins from zero, for several penalties at once.

    All penalties share the draws, so that none depends on the others.

    Args:
        design: (n, p) rows.
        labels: (n,) int64 given classes.
        held_in: (n, 2) bool, from which rows each twin learns.
        basis: (K, c) from `centred_basis`.
        penalties: S penalties on the squared norm.
        lr: Size of the gradient steps.
        steps: Most steps.
        generator: Draws which labels change.
        quiet: Steps before the first draw.
        steady: Steps with as many flips after which a penalty is done.
    """
    (n, p), (n_classes, c) = design.shape, basis.shape
    l2 = basis.new_tensor(penalties)[:, None, None, None]
    u = basis.new_zeros(len(penalties), 2, p, c)
    current = labels.expand(len(penalties), n).clone()
    flips, unchanged = torch.zeros(2, len(penalties), dtype=torch.int64, device=labels.device)
    taken = [0] * len(penalties)
    running = list(range(len(penalties)))
    for step in range(1, steps + 1):
        now, y = u[running], current[running]
        columns = now.permute(2, 0, 1, 3).reshape(p, -1)
        logits = times(design, columns).reshape(n, -1, 2, c) @ basis.T
        probabilities = logits.softmax(dim=3)
        truth = one_hot(y.T, n_classes)[:, :, None]
        weight = class_balanced(y, held_in, basis).transpose(0, 1)
        spread = weight[:, :, :, None] * ((probabilities - truth) @ basis)
        gradient = transposed_times(design, spread.reshape(n, -1)).reshape(p, -1, 2, c)
        u[running] = now - lr * (gradient.permute(1, 2, 0, 3) + 2 * l2[running] * now)
        if step > quiet:
            # By the twin that does not learn from the row.
            unseen = torch.where(held_in[:, 1, None, None], *probabilities.unbind(dim=2))
            confidence, predicted = unseen.max(dim=2)
            drawn = torch.rand(n, 1, generator=generator).to(confidence)
            y = torch.where(drawn < flip_chance(confidence, n_classes), predicted, y.T).T
            current[running] = y
        count = (y != labels).sum(dim=1)
        unchanged[running] = torch.where(count == flips[running], unchanged[running] + 1, 0)
        flips[running] = count
        for each in running:
            taken[each] = step
        running = [each for each in running if unchanged[each] < steady]
        if not running:
            break
    return Twins(u, current, taken)


def class_balanced(labels: Tensor, held_in: Tensor, like: Tensor) -> Tensor:
    """Return the weights that give every class of a twin's half the same sum.

    Args:
        labels: (S, n) int64.
        held_in: (n, 2) bool, from which rows each twin learns.
        like: A tensor whose precision to use.

    Returns:
        (S, n, 2), zero off a twin's half; each twin's sum to one.
    """
    inside = held_in.to(like)
    members = one_hot(labels).to(like)
    count = torch.einsum("snk,nt->skt", members, inside)
    share = torch.where(count > 0, 1 / count, 0.0) / (count > 0).sum(dim=1, keepdim=True)
    return inside * torch.einsum("snk,skt->snt", members, share)


def flip_chance(confidence: Tensor, n_classes: int) -> Tensor:
    """Return the probability with which a prediction replaces a label.

    Args:
        confidence: Probability of the predicted class, in [1 / K, 1].
        n_classes: K.

    Example:
        >>> flip_chance(torch.tensor([0.25, 0.625, 1.0]), 4)
        tensor([0.0000, 0.5000, 1.0000])
    """
    return (n_classes * confidence - 1) / (n_classes - 1)


def _wrong(problem: Problem, head: Head) -> dict[str, np.ndarray]:
    """Return whose given label a head gets wrong, (n,) bool for each split."""
    logits = logits_of_splits(problem, head)
    return {
        split: logits[split].argmax(axis=1) != rows.labels.cpu().numpy()
        for split, rows in splits_of(problem).items()
    }


def _sizes_in_words(environment: np.ndarray, labels: np.ndarray) -> str:
    """Say how many rows of each class are in the second environment."""
    sizes = {int(label): int(environment[labels == label].sum()) for label in np.unique(labels)}
    if len(sizes) > CLASSES_IN_WORDS:
        low, high = min(sizes.values()), max(sizes.values())
        return f"either head is wrong on {low:,} to {high:,} samples of a class"
    each = " and ".join(f"{size:,} of class {label}" for label, size in sizes.items())
    return f"either head is wrong on {each}"
