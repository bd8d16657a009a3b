r"""RAD-UW: the errors of a head that may use only the easiest features count many times.

Stromberg, Ayyagari, Welfert, Koyejo, Nock and Sankar, "For Robust Worst-Group Accuracy, Ignore
Group Annotations" (TMLR 2024): a head with so strong an l1 penalty that it can only follow what is
easiest, the *annotator*, errs on the samples that conflict with it,

.. math::
    E = \{i : \arg\max_k f_k(x_i) \neq y_i\}, \qquad w_i \propto 1 + (\mathrm{up} - 1) [i \in E] ,

and a second head is fitted under w. No group label is read, so none can be wrong.

Where we differ, and why:

- The published annotator takes a few epochs of stochastic subgradient steps at a small rate, so it
  is as much under-trained as sparse, and none of its weights is zero. Ours is the exact optimum:
  another method, which is the same on every machine. Its penalty is a fraction of that at which
  all weights are zero.
- The weights sum to one, so that the second penalty means the same whatever `up` is.
- E never weighs more than the rest: `up` ends at (n - |E|) / |E|. Beyond that E alone decides, and
  under label noise most of E is mislabelled.
- The second head has the l2 penalty unless asked otherwise, on which influences are defined; `l1`
  is as published, for more than two classes too that of the softmax. It leaves the bias free.

The note gives |E| of each class. At a fraction of 1 the annotator names the largest class, E is
every other one, and what follows only balances classes; where it is near 0, E is empty or noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from gsr_core.data.problem import Problem
from gsr_core.methods.base import (
    SETTINGS_CONFIG,
    LabelNeeds,
    Range,
    SearchSpace,
    Step,
    settings,
)
from gsr_core.methods.sparse import EitherPenalty, SparseProblem

__all__ = ["RAD"]

_ALIKE = 0.9
"""Overlap of E with the classes but the largest, of all that is in either, which is warned of."""
_CLASSES_NAMED = 5
"""Of more classes than this, the note gives the errors of those that have most."""


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class RAD(EitherPenalty):
    """Refit the head with the errors of a sparse head counted many times."""

    name: ClassVar[str] = "rad"
    title: ClassVar[str] = "RAD-UW: errors of a sparse head upweighted"
    summary: ClassVar[str] = (
        "Finds the held-out samples that a head of very few features gets wrong, and refits the "
        "head with each of them counted many times."
    )
    use_when: ClassVar[str] = (
        "Nobody labelled groups, or their labels are noisy, and few features carry the shortcut."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE
    search: ClassVar[SearchSpace] = {
        **EitherPenalty.search,
        "annotator_rho": (0.01, 0.05, 0.2, 0.5, 0.8),
        "up": Range(4, 40),
    }

    annotator_rho: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="Penalty of the first head, as a fraction of that at which it uses no "
            "feature; larger uses fewer.",
        ),
    ] = 0.2
    up: Annotated[
        float,
        Field(
            ge=1,
            description="How many times a misclassified sample counts; all of them together never "
            "more than the rest.",
        ),
    ] = 20.0

    def iterate(
        self, problem: Problem, checkpoint: Mapping[str, Tensor] | None = None
    ) -> Iterator[Step]:
        """Yield one step.

        Args:
            problem: The data.
            checkpoint: Not used; there is nothing to go on from.
        """
        sparse = SparseProblem(problem, problem.weighted, standardise=self.standardise)
        annotator = sparse.fit(sparse.uniform(), self.annotator_rho)
        wrong = (sparse.design @ annotator.theta).argmax(dim=1) != sparse.labels
        n, errors = len(wrong), int(wrong.sum())
        most = max((n - errors) / max(errors, 1), 1.0)
        up = min(self.up, most)
        weight = 1 + (up - 1) * wrong.to(sparse.design)
        note = (
            f"{errors:,} of {n:,} samples ({_by_class(wrong, sparse.labels)}) were misclassified "
            f"by a head of {annotator.n_features:,} features and count {up:.3g} times"
        )
        note += f", not {self.up:g}, so as to weigh no more than the rest." if up < self.up else "."
        note += _warning(wrong, sparse.labels)
        if not annotator.converged:
            note += f" The first head is not solved: {annotator.ending}."
        yield self.refit(problem)(weight / weight.sum(), note)


def _by_class(wrong: Tensor, labels: Tensor) -> str:
    """Say how many samples of each class are wrong, those of the classes with most if many."""
    count = torch.bincount(labels[wrong], minlength=int(labels.max()) + 1)
    order = count.argsort(descending=True, stable=True)[:_CLASSES_NAMED].sort().values
    text = ", ".join(f"{int(count[label]):,} of class {label}" for label in order.tolist())
    return text if len(order) == len(count) else f"most: {text}"


def _warning(wrong: Tensor, labels: Tensor) -> str:
    """Return what to change where the errors single nothing out, else ""."""
    if not bool(wrong.any()):
        return " Without an error all samples count alike: raise annotator_rho."
    small = labels != torch.bincount(labels).argmax()
    overlap = int((wrong & small).sum()) / int((wrong | small).sum())
    if overlap < _ALIKE:
        return ""
    return (
        " These are nearly the samples outside the largest class, so that only classes are "
        "balanced: lower annotator_rho."
    )
