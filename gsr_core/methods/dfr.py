r"""Deep feature reweighting (DFR): heads refitted on group-balanced subsets of the target set.

Kirichenko, Izmailov and Wilson, "Last Layer Re-Training is Sufficient for Robustness to Spurious
Correlations" (ICLR 2023). Published: logistic regression with an l1 penalty,

.. math:: \min_\theta \lVert\theta\rVert_1 + C \sum_{i \in S} \ell_i(\theta) ,

with C chosen from {1, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01} on one half of the group-labelled rows, then
twenty such heads on balanced subsets S of all of them, averaged. Where we differ, and why:

- The heads learn from `target` and `val` only chooses the strength of the penalty, so that every
  method spends the same group labels in the same way. `final` does as published: with the strength
  that val chose, the heads are fitted once more to both, and what val says of them is of rows that
  they have seen. Val cannot say whether that is better; it is off, because no other method may fit
  to val.
- The penalty is l2 unless asked otherwise, on the mean loss, which the exact solver fits.
- `l1` is scikit-learn's liblinear as published, for more than two classes one against the rest. It
  penalises the bias too. The strengths run from `smallest_c` to `largest_c` evenly in the log,
  where the published grid has uneven gaps.
- Features are standardised on all target rows, where the released code takes the training rows.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from gsr_core.data.problem import Problem, Rows
from gsr_core.errors import SettingError
from gsr_core.linear.feature_map import FeatureMap
from gsr_core.linear.head import Head
from gsr_core.methods.base import (
    SETTINGS_CONFIG,
    LabelNeeds,
    Method,
    SearchSpace,
    Step,
    Values,
    settings,
)
from gsr_core.methods.inner import InnerProblem
from gsr_core.methods.subg import balanced_subset
from gsr_core.metrics import group_scores

__all__ = ["DFR"]

_TOLERANCE = 1e-6
"""Of liblinear, as scikit-learn defines it."""
_MAX_PASSES = 2000
"""Of liblinear over the subset, after which it gives up."""


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class DFR(Method):
    """Average heads that were fitted on group-balanced subsets of the target rows.

    One step is one strength of the penalty, from the strongest to the weakest; selection on val
    picks the strength.
    """

    name: ClassVar[str] = "dfr"
    title: ClassVar[str] = "DFR: deep feature reweighting"
    summary: ClassVar[str] = (
        "Fits heads on group-balanced subsets of the target rows and averages them; each step is "
        "one strength of the penalty."
    )
    use_when: ClassVar[str] = (
        "Dozens of labelled samples of every group: simple, fast and hard to beat."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.TARGET
    values: ClassVar[Values] = Values.SUBSET
    values_on: ClassVar[Literal["weighted", "target"]] = "target"
    search: ClassVar[SearchSpace] = {
        "penalty": ("l2", "l1"),
        "standardise": (True, False),
    }

    steps: Annotated[
        int, Field(ge=1, le=100, description="Strengths of the penalty to try, evenly in the log.")
    ] = 7
    penalty: Annotated[
        Literal["l2", "l1"],
        Field(
            description="l2: softmax, by the exact solver; l1: as published, by liblinear, one "
            "class against the rest where there are more than two."
        ),
    ] = "l2"
    strongest: Annotated[
        float, Field(gt=0, description="l2: first strength, relative to the mean loss.")
    ] = 0.3
    weakest: Annotated[
        float, Field(gt=0, description="l2: last strength, relative to the mean loss.")
    ] = 0.0003
    smallest_c: Annotated[
        float, Field(gt=0, description="l1: first C, the factor on the summed loss; strongest.")
    ] = 0.01
    largest_c: Annotated[
        float, Field(gt=0, description="l1: last C, the factor on the summed loss; weakest.")
    ] = 1.0
    heads: Annotated[int, Field(ge=1, le=100, description="Balanced subsets to average over.")] = 10
    standardise: Annotated[
        bool, Field(description="Standardise the features on the rows that the heads learn from.")
    ] = True
    final: Annotated[
        bool,
        Field(
            description="Fit the heads once more, to target and val, with the strength that val "
            "chose, as published. Scores on val are then of rows that the heads have seen."
        ),
    ] = False

    @property
    def max_steps(self) -> int:
        """How many heads are scored: one for each strength, or the final one."""
        return 1 if self.final else self.steps

    @property
    def labels_used(self) -> tuple[str, ...]:
        """Which rows' group labels are read; the final heads learn from val."""
        return ("target", "val") if self.final else super().labels_used

    @property
    def learns_from(self) -> tuple[str, ...]:
        """Of the rows whose group labels are read, those that do more than choose the step."""
        return self.labels_used if self.final else super().learns_from

    def iterate(
        self, problem: Problem, checkpoint: Mapping[str, Tensor] | None = None
    ) -> Iterator[Step]:
        """Yield one averaged head for each strength of the penalty.

        Args:
            problem: The data.
            checkpoint: Has the number of the last strength.
        """
        heads = _BalancedHeads(self, problem, problem.target)
        if self.final:
            yield self._final(problem, heads)
            return
        done = 0 if checkpoint is None else int(checkpoint["step"])
        for step, strength in enumerate(heads.strengths[done:], start=done + 1):
            yield heads.at(strength, checkpoint={"step": torch.tensor(step)})

    def _final(self, problem: Problem, heads: _BalancedHeads) -> Step:
        """Return the heads fitted to target and val with the strength that is best on val.

        Raises:
            SettingError: If another rule than the worst group of val is to choose it.
        """
        if self.selection != "worst_group":
            raise SettingError(
                f"selection is '{self.selection}' with final=true, whose strength is chosen by the "
                "worst group of val; choose worst_group, or leave out final"
            )
        val, target = problem.val, problem.target

        def score(strength: float) -> tuple[float, float]:
            head = heads.at(strength).head
            found = group_scores(head, val.source, val.labels, val.groups)
            return found.worst_group_accuracy, -found.worst_group_loss

        best = max(heads.strengths, key=score)
        both = Rows(
            torch.cat([target.features, val.features]),
            torch.cat([target.labels, val.labels]),
            torch.cat([target.groups, val.groups]),
            np.concatenate([target.position, val.position]),
        )
        step = _BalancedHeads(self, problem, both).at(best)
        assert step.sample_weight is not None
        share = step.sample_weight[: len(target)]
        note = f"{step.note} Rows of val carry {1 - float(share.sum()):.0%} of the weight."
        return replace(step, sample_weight=share / share.sum(), note=note)


class _BalancedHeads:
    """Averaged heads on balanced subsets of some rows, at any strength of the penalty."""

    def __init__(self, method: DFR, problem: Problem, rows: Rows) -> None:
        self.method, self._rows = method, rows
        generator = np.random.default_rng(method.seed)
        self._scaling = FeatureMap.fit(
            rows.features,
            standardise=method.standardise,
            dtype=problem.compute.accumulate_dtype,
            row_space=False,
        )
        drawn = [balanced_subset(rows, generator) for _ in range(method.heads)]
        self._size = int(drawn[0].sum())
        share = np.mean([each / each.sum() for each in drawn], axis=0)
        self._share = self._scaling.mean.new_tensor(share / share.sum())
        l1 = method.penalty == "l1"
        ends = (method.smallest_c, method.largest_c) if l1 else (method.strongest, method.weakest)
        self.strengths = [float(each) for each in np.geomspace(*ends, method.steps)]
        part = _L1Part if l1 else _L2Part
        weakest = min(self.strengths)
        self._parts = [part(problem, rows, self._scaling, each, weakest) for each in drawn]

    def at(self, strength: float, checkpoint: Mapping[str, Tensor] | None = None) -> Step:
        """Return the averaged head at a strength as a step."""
        refits = [part.refit(strength) for part in self._parts]
        # Every head is on the same scaled features, so that averaging it averages logits.
        weight = torch.stack([refit.head.weight for refit in refits]).mean(dim=0)
        bias = torch.stack([refit.head.bias for refit in refits]).mean(dim=0)
        weight = weight / self._scaling.scale
        named = f"C {strength:.2g}" if self.method.penalty == "l1" else f"l2 {strength:.2g}"
        short = [refit.shortfall for refit in refits if refit.shortfall]
        where = "target and val" if self.method.final else "target"
        note = (
            f"{len(refits)} heads, each on {self._size:,} {where} rows balanced over groups; "
            f"{named}."
        )
        if short:
            note += f" {len(short)} of the fits are not solved: {short[0]}."
        return Step(
            head=Head(weight, bias - weight @ self._scaling.mean),
            sample_weight=self._share,
            objective=float(np.mean([refit.objective for refit in refits])),
            gradient_norm=max(refit.gradient_norm for refit in refits),
            relative_gradient_norm=max(refit.relative_gradient_norm for refit in refits),
            solved=not short,
            checkpoint=checkpoint or {},
            note=note,
        )


@dataclass(frozen=True)
class _Refit:
    """A head on scaled features, and how well it was fitted; NaN where nothing was measured.

    `shortfall` says why the fit is not solved, and is empty if it is.
    """

    head: Head
    objective: float
    shortfall: str
    gradient_norm: float = math.nan
    relative_gradient_norm: float = math.nan


class _L2Part:
    """One subset, for fits at any strength of the l2 penalty by the exact solver."""

    def __init__(
        self,
        problem: Problem,
        rows: Rows,
        scaling: FeatureMap,
        drawn: np.ndarray,
        weakest: float,
    ) -> None:
        subset, self._weight = _subset(rows, scaling, drawn)
        self._inner = InnerProblem(problem, subset, l2=weakest, standardise=False)

    def refit(self, strength: float) -> _Refit:
        inner = self._inner
        inner.l2 = strength
        inner.forget()
        fit = inner.fit(self._weight, inner.zero())
        return _Refit(
            head=inner.head(fit.state.u),
            objective=float(fit.state.value),
            shortfall="" if fit.converged else str(fit.ending),
            gradient_norm=fit.gradient_norm,
            relative_gradient_norm=fit.relative_gradient_norm,
        )


class _L1Part:
    """One subset, for fits at any strength of the l1 penalty by liblinear."""

    def __init__(
        self,
        problem: Problem,
        rows: Rows,
        scaling: FeatureMap,
        drawn: np.ndarray,
        weakest: float,
    ) -> None:
        del weakest
        subset, _ = _subset(rows, scaling, drawn)
        n, d = subset.features.shape
        self._like = scaling.mean
        # Two rows of zeros, one right and one wrong: no head changes their loss, and liblinear
        # needs both even where the subset lacks a class.
        self._design = np.zeros((n + 2, d + 1))
        self._design[:n, :d] = subset.features.cpu().numpy()
        self._design[:n, d] = 1
        self._count = np.append(drawn[drawn > 0], [1, 1])
        labels = subset.labels.cpu().numpy()
        classes = [1] if problem.n_classes == 2 else range(problem.n_classes)
        self._right = [np.append(labels == label, [True, False]) for label in classes]

    def refit(self, strength: float) -> _Refit:
        # Not above: importing scikit-learn would keep the dashboard's first page waiting.
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        models = []
        for right in self._right:
            model = LogisticRegression(
                l1_ratio=1.0,
                C=strength,
                solver="liblinear",
                fit_intercept=False,
                tol=_TOLERANCE,
                max_iter=_MAX_PASSES,
                random_state=0,
            )
            with warnings.catch_warnings():
                # The step's note says so.
                warnings.simplefilter("ignore", ConvergenceWarning)
                models.append(model.fit(self._design, right, sample_weight=self._count))
        coefficients = np.concatenate([model.coef_ for model in models])
        margins = (2 * np.stack(self._right) - 1) * (coefficients @ self._design.T)
        losses = np.logaddexp(0, -margins)[:, :-2].sum(axis=0)
        count = self._count[:-2]
        objective = (count @ losses + np.abs(coefficients).sum() / strength) / count.sum()
        if len(models) == 1:
            coefficients = np.concatenate([-coefficients, coefficients]) / 2
        theta = self._like.new_tensor(coefficients)
        return _Refit(
            head=Head(theta[:, :-1], theta[:, -1]),
            objective=float(objective),
            shortfall=""
            if all(bool((model.n_iter_ < _MAX_PASSES).all()) for model in models)
            else f"liblinear made all its {_MAX_PASSES:,} passes",
        )


def _subset(rows: Rows, scaling: FeatureMap, drawn: np.ndarray) -> tuple[Rows, Tensor]:
    """Return the drawn rows, scaled, and their weights."""
    chosen = np.flatnonzero(drawn)
    index = torch.from_numpy(chosen).to(rows.labels.device)
    scaled = (rows.features[index].to(scaling.mean) - scaling.mean) / scaling.scale
    weight = scaling.mean.new_tensor(drawn[chosen] / drawn.sum())
    return Rows(scaled, rows.labels[index], rows.groups[index], rows.position[chosen]), weight
