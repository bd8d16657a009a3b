r"""Project and probe (Pro2): a few directions from many rows, a tiny head on them from few rows.

Chen, Lee, Setlur, Levine and Finn, "Project and Probe: Sample-Efficient Adaptation by
Interpolating Orthogonal Features" (ICLR 2024). Source rows are many and biased, target rows few and
of the wanted distribution. On features x standardised on the source rows:

1. *Project.* For j = 1, 2, ...: fit a head that predicts the class from :math:`P_j x`, with
   :math:`P_j` the projector off the directions so far, and append its row space, orthonormalised.
2. *Probe.* Fit the head on :math:`\Pi_q x` over the target rows, :math:`\Pi_q` being the directions
   of the first q source heads.

The first direction predicts best on the source rows, and so is often the shortcut; later ones are
what else predicts the class, and the few target rows choose among q directions instead of all d.
Each step is one q: 1, 2, 4, ..., then all features. Selection on val picks it. The directions of
a smaller q are the first ones of a larger q, so that all steps cost the fits of the largest.

- For two classes a source head gives one direction, its weight. For K it gives K - 1, an
  orthonormal basis of the class-centred weights, because a softmax head is a subspace.
- The bias is no direction: features are centred, and the probe has its own bias.
- The target rows weigh so that every group has the same mass (as `rwg`, on target), where the paper
  draws equally many rows of each group: no labelled row is thrown away.
- The result is one head on raw features: :math:`\theta \, \Pi_q`, scaled back.

Where we differ, and why:

- The paper learns the directions together by gradient steps under the constraint; here they are
  exact fits one after another, each of which is convex and needs no random start.
- Orthogonality is that of the standardised features. Whitening them would leave nothing for the
  second direction where classes are Gaussian.
- A direction that is at chance on the source rows does not end the path: val does not choose it.
  The path ends early only when the directions span all features that vary.
- All features need no projection: any orthogonal one gives the same penalised head.
- The source rows are by default the weighted ones, which the backbone has not seen. On its own
  training rows the first direction is what it has learned already.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from gsr_core.data.problem import Problem, Rows
from gsr_core.errors import SettingError
from gsr_core.linear.feature_map import FeatureMap
from gsr_core.methods.base import (
    SETTINGS_CONFIG,
    LabelNeeds,
    Method,
    Range,
    SearchSpace,
    Step,
    Values,
    settings,
)
from gsr_core.methods.inner import InnerProblem
from gsr_core.methods.rwg import group_shares

__all__ = ["Pro2", "SourceHeads", "span"]

_NOTHING = 1e-5
"""Singular value below which features do not vary in a direction, relative to the largest."""
_FAINT = 1e-9
"""Size below which a head's weights are rounding: nothing tells the classes apart."""


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class Pro2(Method):
    """Fit a small head on the few directions that predict the class on many rows.

    One step is one number of source heads; selection on val picks it.
    """

    name: ClassVar[str] = "pro2"
    title: ClassVar[str] = "Pro2: project and probe"
    summary: ClassVar[str] = (
        "Finds orthogonal directions that each predict the class on the held-out rows, and fits a "
        "head on the first few of them to the group-balanced target rows; each step is one number "
        "of directions."
    )
    use_when: ClassVar[str] = "Target is so small that refitting the whole head on it overfits."
    needs: ClassVar[LabelNeeds] = LabelNeeds.TARGET
    values: ClassVar[Values] = Values.PROBABILITIES
    values_on: ClassVar[Literal["weighted", "target"]] = "target"
    search: ClassVar[SearchSpace] = {"l2": Range(1e-3, 1.0), "source_l2": Range(1e-4, 0.1)}

    steps: Annotated[
        int,
        Field(
            ge=1,
            le=32,
            description="Numbers of source heads to try: 1, 2, 4, ..., and all features last.",
        ),
    ] = 8
    l2: Annotated[
        float, Field(gt=0, description="Penalty of the head on the target rows, bias included.")
    ] = 0.1
    source_l2: Annotated[
        float, Field(gt=0, description="Penalty of the heads that give the directions.")
    ] = 0.001
    source: Annotated[
        Literal["weighted", "train"],
        Field(
            description="Rows that give the directions. weighted: the held-out ones; train: those "
            "that the backbone was trained on."
        ),
    ] = "weighted"

    def iterate(
        self, problem: Problem, checkpoint: Mapping[str, Tensor] | None = None
    ) -> Iterator[Step]:
        """Yield one head for each number of source heads.

        Args:
            problem: The data.
            checkpoint: Has the number of the last one.

        Raises:
            SettingError: If the rows of train are to give the directions and there are none.
        """
        heads = SourceHeads(problem, self._source(problem), self.source_l2)
        target, scaling = problem.target, heads.scaling
        features = heads.standardised(target.features)
        weight = group_shares(target, features).mean(dim=1)
        weight = weight / weight.sum()
        done = 0 if checkpoint is None else int(checkpoint["step"])
        for step, (basis, about) in enumerate(self._subspaces(heads), start=1):
            if step <= done:
                continue
            seen = features if basis is None else features @ basis
            inner = InnerProblem(
                problem, replace(target, source=seen), l2=self.l2, standardise=False
            )
            note = f"Fitted to {int((weight > 0).sum()):,} target rows on {about}."
            probe = inner.step(weight, note=note)
            theta = probe.head.weight if basis is None else probe.head.weight @ basis.T
            head = scaling.head(torch.cat([theta, probe.head.bias[:, None]], dim=1).T)
            yield replace(probe, head=head, checkpoint={"step": torch.tensor(step)})

    def _subspaces(self, heads: SourceHeads) -> Iterator[tuple[Tensor | None, str]]:
        """Yield the columns (d, q) to fit on, None for all features, and what they are."""
        for power in range(self.steps - 1):
            basis = heads.basis(2**power)
            if basis is None:
                break
            yield (
                basis,
                f"{basis.shape[1]:,} directions; the last source head is right on "
                f"{heads.accuracy[2**power - 1]:.1%} of the rows that it was fitted to",
            )
        yield None, f"all {len(heads.scaling.mean):,} features"

    def _source(self, problem: Problem) -> Rows:
        if self.source == "weighted":
            return problem.weighted
        if problem.train is None:
            raise SettingError(
                "source is 'train', but this bundle has no rows of train; set source=weighted"
            )
        return problem.train()


class SourceHeads:
    """Heads that predict the class, each from what the ones before left of the features.

    Attributes:
        scaling: To standardised features and a one.
        accuracy: Of each head so far, on the rows that it was fitted to.
    """

    def __init__(self, problem: Problem, rows: Rows, l2: float) -> None:
        """Standardise the features; nothing is fitted before it is asked for.

        Args:
            problem: Gives the number of classes and the precision.
            rows: The source rows.
            l2: Penalty of the heads.
        """
        self._problem, self._rows, self._l2 = problem, rows, l2
        self.scaling = FeatureMap.fit(
            rows.source,
            standardise=True,
            dtype=problem.compute.accumulate_dtype,
            row_space=False,
        )
        self.accuracy: list[float] = []
        features = self.standardised(rows.features)
        # Off their span the features are rounding, which the weak penalty would blow up from one
        # head to the next.
        self._span = span(features)
        self._left = features @ self._span
        self._directions = features.new_zeros(self._span.shape[1], 0)
        self._ends: list[int] = []

    def standardised(self, features: Tensor) -> Tensor:
        """Return (n, d) features of any rows as the source heads see them, without a one."""
        return self.scaling.design(features, self.scaling.mean.dtype)[:, :-1]

    def basis(self, count: int) -> Tensor | None:
        """Return the directions of the first heads, or None if there are not so many heads.

        Args:
            count: How many heads.

        Returns:
            (d, q) orthonormal columns, the first ones the same for every count.
        """
        while len(self._ends) < count and self._fit_another():
            pass
        if len(self._ends) < count:
            return None
        return self._span @ self._directions[:, : self._ends[count - 1]]

    def _fit_another(self) -> bool:
        """Append the directions of one more head; return whether there were any."""
        rank, done = self._directions.shape
        if done == rank:
            return False
        inner = InnerProblem(
            self._problem,
            replace(self._rows, source=self._left),
            l2=self._l2,
            standardise=False,
        )
        state = inner.fit(inner.uniform(), inner.zero()).state
        _, size, directions = torch.linalg.svd(inner.head(state.u).weight, full_matrices=False)
        new = min(self._problem.n_classes - 1, rank - done)
        directions = directions[:new][size[:new] > _FAINT].T
        if not directions.shape[1]:
            return False
        # Twice, because once leaves what rounding makes of the earlier directions.
        for _ in range(2):
            directions = directions - self._directions @ (self._directions.T @ directions)
            directions, _ = torch.linalg.qr(directions)
        self._directions = torch.cat([self._directions, directions], dim=1)
        self._left = self._left - (self._left @ directions) @ directions.T
        self._ends.append(self._directions.shape[1])
        right = state.logits.argmax(dim=1) == inner.labels
        self.accuracy.append(float(right.to(directions).mean()))
        return True


def span(features: Tensor) -> Tensor:
    """Return (d, r) orthonormal columns: the directions in which features (n, d) vary.

    The last ones are those in which they vary most.
    """
    eigenvalues, vectors = torch.linalg.eigh(features.T @ features)
    return vectors[:, eigenvalues > _NOTHING**2 * eigenvalues[-1]]
