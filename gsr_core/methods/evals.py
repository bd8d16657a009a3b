r"""EVaLS: refit on the highest and lowest losses of each class, chosen by inferred environments.

Ghaznavi et al., "Trained Models Tell Us How to Make Them Robust to Spurious Correlation without
Group Annotation" (arXiv 2024, https://arxiv.org/abs/2410.05345). Under the base head, the k rows of
highest and the k of lowest loss of each class c,

.. math::
    S = \bigcup_c \operatorname{top}_k \{\ell_i : y_i = c\} \cup
        \operatorname{bottom}_k \{\ell_i : y_i = c\}, \qquad w_i = 1 / |S| \ (i \in S) ,

hold about as many rows that conflict with a shortcut as rows that follow it. The head is refitted
on them for a path of k, and the k is kept whose worst *environment* by class does best on val,
where EIIL (`gsr_core.inference.eiil`) infers the environments from the base head's logits. So no
group label is read at all; by `selection=worst_group` it is their EVaLS-GL, which reads those of
val.

Where we differ, and why:

- Their two halves of the validation data are the held-out rows here, which are fitted on, and val.
- Each head is fitted exactly, instead of by a hundred epochs of Adam whose best is kept, so the
  steps are the values of k alone. The penalty is l2 unless asked otherwise; `l1` leaves the bias
  free and is a fraction of that at which all weights are zero.
- Losses are of a head that has not fitted the rows: the backbone's, one fitted on train, else
  cross-fitted ones. On rows that a head has fitted, even the conflicting ones have a low loss.
- All classes give equally many rows, so k ends at half of the smallest class; 2k rows of a smaller
  one would be taken twice.
- A cell of val under ten rows does not count, as wherever inferred groups choose a step, because
  the accuracy of a few rows would decide; where all are that small, all count. The note says so.
- One set of environments, by the same search as `eiil`: its optimum does not depend on where it
  starts. On two classes the environments are what the base head gets right and wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from gsr_core.data.groups import membership_from_index
from gsr_core.data.problem import Problem
from gsr_core.inference.base import say_small_cells
from gsr_core.inference.eiil import EIILInference
from gsr_core.linear.head import Head
from gsr_core.methods.base import (
    SETTINGS_CONFIG,
    LabelNeeds,
    SelectionField,
    Step,
    Values,
    settings,
)
from gsr_core.methods.crossfit import unseen_losses
from gsr_core.methods.erm import ERM
from gsr_core.methods.sparse import EitherPenalty

__all__ = ["EVaLS", "extremes_of_each_class"]

_FOLDS = 5
"""Of the cross-fitting."""


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class EVaLS(EitherPenalty):
    """Refit the head on equally many samples of high and of low loss.

    One step is one number of samples, from the smallest to the largest; selection on val picks it.
    """

    name: ClassVar[str] = "evals"
    title: ClassVar[str] = "EVaLS: highest and lowest losses"
    summary: ClassVar[str] = (
        "Refits the head on the held-out samples of highest and of lowest loss, equally many of "
        "each class; each step is one number of them, chosen by environments inferred on val."
    )
    use_when: ClassVar[str] = (
        "No group labels exist, not even on val, and the classifier errs on the samples "
        "that a shortcut misleads; labels should be clean."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE
    values: ClassVar[Values] = Values.SUBSET

    selection: SelectionField = "worst_inferred_group"
    steps: Annotated[
        int, Field(ge=1, le=100, description="Numbers k to try, evenly in the log.")
    ] = 10
    smallest: Annotated[
        int, Field(ge=1, description="First k: samples of highest, and of lowest, loss per class.")
    ] = 5
    largest: Annotated[
        int, Field(ge=1, description="Last k, or half of the smallest class if that is less.")
    ] = 300
    l2: Annotated[
        float,
        Field(gt=0, description="Penalty on the squared norm of the head, bias included."),
    ] = 0.1

    def iterate(
        self, problem: Problem, checkpoint: Mapping[str, Tensor] | None = None
    ) -> Iterator[Step]:
        """Yield one head for each number of samples.

        Args:
            problem: The data.
            checkpoint: Has the number of the last one.
        """
        base = next(ERM(l2=self.l2, standardise=self.standardise).iterate(problem)).head
        losses, judge = unseen_losses(self, problem, base, _FOLDS)
        group, in_val, about = self._environments(problem, base)
        rows, refit = problem.weighted, self.refit(problem)
        done = 0 if checkpoint is None else int(checkpoint["step"])
        for step, k in enumerate(self.counts(rows.labels)[done:], start=done + 1):
            chosen = extremes_of_each_class(losses, rows.labels, rows.position, k)
            weight = chosen.to(losses)
            note = (
                f"{int(chosen.sum()):,} of {len(rows):,} samples: in each class the {k:,} of "
                f"highest and the {k:,} of lowest loss under {judge}. {about}"
            )
            yield replace(
                refit(weight / weight.sum(), note),
                inferred_group=group,
                inferred_val=in_val,
                checkpoint={"step": torch.tensor(step)},
            )

    def counts(self, labels: Tensor) -> list[int]:
        """Return the numbers k to try on rows of these classes (n,), increasing.

        They are fewer than `steps` where the smallest class has too few rows for them.
        """
        sizes = torch.bincount(labels)
        most = max(int(sizes[sizes > 0].min()) // 2, 1)
        ends = min(self.smallest, most), min(self.largest, most)
        return sorted(set(np.geomspace(*ends, self.steps).round().astype(int).tolist()))

    def _environments(self, problem: Problem, base: Head) -> tuple[Tensor, Tensor, str]:
        """Return the inferred cells, environment by class, and what to say about them.

        They are searched on val. Weighted rows are assigned to them, to be looked at.

        Returns:
            (n,) cell of each weighted row and (N, m') membership of each row of val.
        """
        seen = replace(
            problem,
            weighted=problem.val,
            target=problem.weighted,
            backbone_head=(base.weight, base.bias),
        )
        inferred = EIILInference(seed=self.seed, reference="backbone").infer(seen)
        cells, own = inferred.weighted, inferred.target
        in_val = membership_from_index(cells, inferred.n_groups)
        sizes = in_val.sum(axis=0)
        about = f"Val has {len(sizes)} inferred cells of {sizes.min():,} to {sizes.max():,} rows"
        small = say_small_cells(sizes)
        device = problem.weighted.labels.device
        return (
            torch.from_numpy(own).to(device),
            torch.from_numpy(in_val).to(device),
            f"{about}; {small}." if small else f"{about}.",
        )


def extremes_of_each_class(score: Tensor, labels: Tensor, position: np.ndarray, k: int) -> Tensor:
    """Return (n,) bool: the k rows of each class with the highest and the k with the lowest scores.

    Args:
        score: (n,).
        labels: (n,) int64.
        position: (n,) breaks ties, so that the order in memory does not.
        k: A class of fewer than 2k rows gives all it has.
    """
    by_score = np.lexsort((position, score.cpu().numpy()))
    chosen = torch.zeros_like(labels, dtype=torch.bool)
    of = labels.cpu().numpy()[by_score]
    for label in np.unique(of):
        ordered = by_score[of == label]
        ends = torch.from_numpy(np.concatenate([ordered[:k], ordered[-k:]]))
        chosen[ends.to(labels.device)] = True
    return chosen
