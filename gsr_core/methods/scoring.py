"""The scores of a method's steps, as records of its history."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from gsr_core.data.problem import Judged, Problem, Rows
from gsr_core.data.stored import FeatureBlocks
from gsr_core.inference.base import cells_that_count
from gsr_core.methods.base import Method, Step, Values
from gsr_core.methods.history import SEEN_VAL, Record
from gsr_core.metrics import GroupScores, group_scores
from gsr_core.quality import group_auroc

__all__ = ["StepScorer"]

_BLOCK = 2**24
"""Numbers that an array over rows and groups may have."""


class StepScorer:
    """Scores the steps of a method on target, val and, to report only, on test.

    Groups are those by which the steps are judged. Where the method sees others, `SEEN_VAL` has
    the scores by these, of which one chooses the step, and the weights of groups in the method's
    goal are of these.
    """

    def __init__(
        self,
        method: Method,
        problem: Problem,
        group_names: list[str],
        test: Rows | None,
        judged: Judged | None = None,
    ) -> None:
        self.seen, self.seen_names = problem, group_names
        self.seen_split = "val" if judged is None else SEEN_VAL
        if judged is not None:
            problem, group_names = judged.problem, judged.names
        self.names, self.val, self.shares = group_names, self.seen.val, problem.training_shares
        self.splits = {"target": problem.target, "val": problem.val}
        self.ranks = method.rule.metric == "worst_group_auroc"
        if test is not None:
            self.splits["test"] = test
        on_target = method.values_on == "target"
        self.valued_split = "target" if on_target else problem.weighted_split
        valued = problem.target if on_target else problem.weighted
        self.members = valued.groups
        # Of heads it would be new to stored runs that go on, and bars at zero show it.
        self.leaves_out = method.values is Values.SUBSET and method.acts_on == "network"

    def __call__(self, index: int, step: Step) -> list[Record]:
        """Return the records of a step: scores of each split, and weights of each group."""
        records: list[Record] = []
        of_val = _features(step, self.val)
        for split, rows in self.splits.items():
            features = of_val if split == "val" else _features(step, rows)
            score = group_scores(step.head, features, rows.labels, rows.groups)
            records += self._of_split(index, split, score, self.names, self.shares)
        if self.seen_split == SEEN_VAL:
            score = group_scores(step.head, of_val, self.val.labels, self.val.groups)
            seen = self.seen_names, self.seen.training_shares
            records += self._of_split(index, SEEN_VAL, score, *seen)
        records += self._of_ranking(index, step, of_val) if self.ranks else []
        records += self._of_inferred_groups(index, step, of_val)
        return records + self._of_weights(index, step)

    def _of_split(
        self,
        index: int,
        split: str,
        score: GroupScores,
        names: list[str],
        shares: np.ndarray | None,
    ) -> list[Record]:
        records: list[Record] = []
        for g, group in enumerate(names):
            records += [
                (index, split, group, "accuracy", float(score.accuracy[g])),
                (index, split, group, "loss", float(score.loss[g])),
                (index, split, group, "count", float(score.count[g])),
            ]
        return [
            *records,
            (index, split, "", "worst_group_accuracy", score.worst_group_accuracy),
            (index, split, "", "worst_group_loss", score.worst_group_loss),
            (index, split, "", "mean_accuracy", score.mean_accuracy),
            (index, split, "", "mean_loss", score.mean_loss),
            (index, split, "", "adjusted_accuracy", score.adjusted_accuracy(shares)),
        ]

    def _of_ranking(self, index: int, step: Step, features: Tensor | FeatureBlocks) -> list[Record]:
        """Return the lowest AUROC of a group of val, which only some rules of selection want."""
        parts = features.split(max(_BLOCK // features.shape[1], 1))
        logits = torch.cat([step.head.logits(part) for part in parts])
        probability = logits.double().softmax(dim=1).cpu().numpy()
        labels, groups = self.val.labels.cpu().numpy(), self.val.groups.cpu().numpy()
        each = [
            group_auroc(probability, labels, member, interval=False).value
            for member in groups.T
            if member.any()
        ]
        known = [value for value in each if not math.isnan(value)]
        return [(index, self.seen_split, "", "worst_group_auroc", min(known, default=math.nan))]

    def _of_inferred_groups(
        self, index: int, step: Step, features: Tensor | FeatureBlocks
    ) -> list[Record]:
        if step.inferred_val is None:
            return []
        counts = cells_that_count(step.inferred_val.sum(dim=0).cpu().numpy())
        cells = step.inferred_val[:, torch.from_numpy(counts).to(step.inferred_val.device)]
        score = group_scores(step.head, features, self.val.labels, cells)
        return [
            (index, "val", "", "worst_inferred_group_accuracy", score.worst_group_accuracy),
            (index, "val", "", "worst_inferred_group_loss", score.worst_group_loss),
        ]

    def _of_weights(self, index: int, step: Step) -> list[Record]:
        records: list[Record] = []
        split = self.valued_split
        if step.sample_weight is not None:
            weight = step.sample_weight
            size = max(_BLOCK // self.members.shape[1], 1)
            parts = zip(weight.split(size), self.members.split(size), strict=True)
            sums = torch.stack(
                [torch.stack([w, w.square()]) @ members.to(w) for w, members in parts]
            )
            total, squares = sums.sum(dim=0).cpu().numpy()
            count = self.members.sum(dim=0).cpu().numpy()
            with np.errstate(divide="ignore", invalid="ignore"):
                mean, effective = total / count, total**2 / squares
            for g, group in enumerate(self.names):
                records += [
                    (index, split, group, "count", float(count[g])),
                    (index, split, group, "weight_sum", float(total[g])),
                    (index, split, group, "weight_mean", float(mean[g])),
                    (index, split, group, "effective_sample_size", float(effective[g])),
                ]
            if self.leaves_out:
                records += self._of_left_out(index, weight == 0)
            size = float(weight.sum() ** 2 / weight.square().sum())
            records.append((index, split, "", "effective_sample_size", size))
        if step.group_weight is not None:
            records += [
                (index, "target", group, "group_weight", value)
                for group, value in zip(self.seen_names, step.group_weight.tolist(), strict=True)
            ]
        return records

    def _of_left_out(self, index: int, left_out: Tensor) -> list[Record]:
        """Return the share of each group's rows that are in no subset."""
        members = self.members & left_out[:, None]
        count, out = self.members.sum(dim=0).tolist(), members.sum(dim=0).tolist()
        return [
            (index, self.valued_split, group, "left_out", part / whole if whole else math.nan)
            for group, part, whole in zip(self.names, out, count, strict=True)
        ]


def _features(step: Step, rows: Rows) -> Tensor | FeatureBlocks:
    """Return the features of rows that a step's head is for.

    What a network makes of few rows is computed once, since it may be looked at several times.
    """
    if step.view is None:
        return rows.source
    features = step.view(rows.position)
    n, d = features.shape
    return torch.cat(list(features.split(max(n, 1)))) if 0 < n * d <= _BLOCK else features
