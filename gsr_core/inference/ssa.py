"""SSA's groups: the predictions of a head that is trained on the few group-labelled rows.

Nam et al., "Spread Spurious Attribute: Improving Worst-group Accuracy with Spurious Attribute
Estimation" (ICLR 2022). The weighted rows are cut into parts; for each, a predictor of the
group is fitted to half of the labelled rows and, in further rounds, to the other parts' rows whose
pseudo-label is confident; the round that does best on the other half of the labelled rows labels
the part. So no row is labelled by a predictor that saw it. Confidence is a probability given the
row's class, at least `threshold`; and no group may overwhelm the others: all have as many labelled
and pseudo-labelled rows together as the rarest has, unless more are labelled.

Where we differ: the predictor is a linear head on the features, fitted exactly; it predicts the
combination of groups a row is in, of those that occur in target with the row's class, so that the
groups may be any. Rows of target keep their own labels; those of val get the predictors' mean.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from scipy.special import softmax

from gsr_core.data.groups import patterns
from gsr_core.data.problem import Problem, Rows
from gsr_core.inference.base import (
    INFERENCE_CONFIG,
    OUTLIER,
    GroupInference,
    InferredGroups,
    Space,
    settings,
)
from gsr_core.inference.references import fitted_head
from gsr_core.linear.head import Head

__all__ = ["SSAInference", "confident_and_balanced"]


@settings(frozen=True, kw_only=True, config=INFERENCE_CONFIG)
class SSAInference(GroupInference):
    """Predict the groups of the weighted rows from those of target."""

    title: ClassVar[str] = "SSA: predicted groups"
    summary: ClassVar[str] = "Predicts the groups of the other samples from those of target."
    space: ClassVar[Space] = "features"

    reads_target_groups: ClassVar[bool] = True

    threshold: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Least probability of a pseudo-label that a predictor learns from.",
        ),
    ] = 0.95
    rounds: Annotated[
        int,
        Field(
            ge=1,
            le=20,
            description="Fits of each predictor; all but the first learn from pseudo-labels too.",
        ),
    ] = 3
    folds: Annotated[int, Field(ge=2, le=10, description="Parts of the weighted rows.")] = 3
    predictor_l2: Annotated[float, Field(gt=0, description="Penalty of a predictor.")] = 0.1

    def partition(self, problem: Problem) -> InferredGroups:
        """Predict the groups of weighted and val.

        Args:
            problem: As `infer` gives it, with the group columns of target.
        """
        known = _known(problem)
        generator = np.random.default_rng(self.seed)
        fold = generator.permutation(len(problem.weighted)) % self.folds
        learns = _half(known.group, generator)
        weighted = np.empty(len(fold), dtype=np.int64)
        in_val = np.zeros((len(problem.val), known.n_groups))
        candidates, accuracies = [], []
        for part in range(self.folds):
            inside = np.flatnonzero(fold == part)
            head, tried = self._predictor(
                problem, known, learns, _part(problem.weighted, np.flatnonzero(fold != part))
            )
            weighted[inside] = known.predict(head, _part(problem.weighted, inside)).argmax(axis=1)
            in_val += known.predict(head, problem.val)
            best = max(row["accuracy"] for row in tried)
            first = next(row["round"] for row in tried if row["accuracy"] == best)
            candidates += [{"part": part, **row, "chosen": row["round"] == first} for row in tried]
            accuracies.append(best)
        groups = {"weighted": weighted, "target": known.group, "val": in_val.argmax(axis=1)}
        present = np.unique(weighted)
        number = np.full(known.n_groups + 1, OUTLIER)
        number[present] = np.arange(len(present))
        choice = (
            f"the predictors of {self.folds} parts are right on {np.mean(accuracies):.1%} of the "
            "labelled samples they were chosen by, on average over groups"
        )
        return InferredGroups(
            # Rows of target without a group, -1, take the last place.
            **{split: number[each] for split, each in groups.items()},
            names=tuple(known.names[group] for group in present),
            choice=choice,
            candidates=pd.DataFrame(candidates),
        )

    def _predictor(
        self, problem: Problem, known: _Known, learns: np.ndarray, others: Rows
    ) -> tuple[Head, list[dict[str, float]]]:
        """Return the predictor that does best on the labelled rows it did not learn from.

        Args:
            problem: Gives the precision.
            known: The labelled rows.
            learns: Those to learn from; the rest choose.
            others: Rows for pseudo-labels.
        """
        labelled = np.flatnonzero(learns & (known.group != OUTLIER))
        held = np.flatnonzero(~learns & (known.group != OUTLIER))
        own = _part(problem.target, labelled)
        counts = np.bincount(known.group[labelled], minlength=known.n_groups)
        best, tried = None, []
        rows, group = own, known.group[labelled]
        for each in range(1, self.rounds + 1):
            labels = torch.from_numpy(group).to(rows.labels)
            head = fitted_head(
                problem,
                replace(rows, labels=labels),
                l2=self.predictor_l2,
                n_classes=max(known.n_groups, 2),
            )
            predicted = known.predict(head, _part(problem.target, held)).argmax(axis=1)
            accuracy = _balanced_accuracy(predicted, known.group[held])
            if best is None or accuracy > max(row["accuracy"] for row in tried):
                best = head
            tried.append(
                {"round": each, "pseudo_labelled": len(group) - len(labelled), "accuracy": accuracy}
            )
            chosen, pseudo = confident_and_balanced(
                known.predict(head, others), counts, self.threshold
            )
            extra = _part(others, chosen)
            rows = Rows(
                torch.cat([own.features, extra.features]),
                torch.cat([own.labels, extra.labels]),
                torch.cat([own.groups[:, :0], extra.groups[:, :0]]),
                np.concatenate([own.position, extra.position]),
            )
            group = np.concatenate([known.group[labelled], pseudo])
        assert best is not None
        return best, tried


def confident_and_balanced(
    probability: np.ndarray, labelled: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Choose the rows to pseudo-label so that no group overwhelms the others.

    Args:
        probability: (n, m) of each group.
        labelled: (m,) labelled rows of each group.
        threshold: Least probability.

    Returns:
        Positions of the rows, in order, and their groups: of each group the most confident, at
        most as many as bring it, with its labelled rows, to what the rarest group could have.
    """
    group, confidence = probability.argmax(axis=1), probability.max(axis=1)
    # By falling confidence, in order on ties.
    order = np.lexsort((np.arange(len(group)), -confidence))
    order = order[confidence[order] >= threshold]
    room = labelled + np.bincount(group[order], minlength=len(labelled))
    taken = [
        order[group[order] == each][: max(room.min() - labelled[each], 0)]
        for each in range(len(labelled))
    ]
    chosen = np.sort(np.concatenate(taken))
    return chosen, group[chosen]


@dataclass(frozen=True)
class _Known:
    """The labelled rows, and the groups among them.

    Attributes:
        group: (N,) combination of class and groups of each row of target; `OUTLIER` without any.
        class_of: (m,) class of each combination.
        names: Of each combination.
    """

    group: np.ndarray
    class_of: np.ndarray
    names: tuple[str, ...]

    @property
    def n_groups(self) -> int:
        return len(self.names)

    def predict(self, head: Head, rows: Rows) -> np.ndarray:
        """Return (n, m) probabilities of the combinations, given the class.

        Args:
            head: Of the combinations.
            rows: (n,) rows.
        """
        logits = head.logits(rows.features.to(head.weight)).double().cpu().numpy()
        other = rows.labels.cpu().numpy()[:, None] != self.class_of
        return softmax(np.where(other, -np.inf, logits[:, : self.n_groups]), axis=1)


def _known(problem: Problem) -> _Known:
    """Number the combinations of class and groups in target."""
    membership = problem.target.groups.cpu().numpy()
    labels = problem.target.labels.cpu().numpy()
    combinations, pattern = patterns(membership)
    # The first groups first.
    combinations, pattern = combinations[::-1], len(combinations) - 1 - pattern
    code = labels * len(combinations) + pattern
    labelled = membership.any(axis=1)
    codes, index = np.unique(code[labelled], return_inverse=True)
    group = np.full(len(labels), OUTLIER, dtype=np.int64)
    group[labelled] = index
    class_of = codes // len(combinations)
    names = [
        f"class {label}, group {' + '.join(map(str, np.flatnonzero(combinations[each])))}"
        for label, each in zip(class_of, codes % len(combinations), strict=True)
    ]
    # A class without a labelled row is a group of its own, or its rows would be lost.
    alone = np.setdiff1d(np.arange(problem.n_classes), class_of)
    return _Known(
        group,
        np.concatenate([class_of, alone]),
        (*names, *(f"class {label}, group unknown" for label in alone)),
    )


def _half(group: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return which rows to learn from: half of each group, at least one."""
    learns = np.zeros(len(group), dtype=bool)
    order = generator.permutation(len(group))
    for each in np.unique(group):
        members = order[group[order] == each]
        learns[members[: (len(members) + 1) // 2]] = True
    return learns


def _part(rows: Rows, index: np.ndarray) -> Rows:
    return Rows(rows.features[index], rows.labels[index], rows.groups[index], rows.position[index])


def _balanced_accuracy(predicted: np.ndarray, true: np.ndarray) -> float:
    """Return the mean over groups of the share of right predictions; 0 without a row."""
    if not len(true):
        return 0.0
    return float(np.mean([(predicted[true == each] == each).mean() for each in np.unique(true)]))
