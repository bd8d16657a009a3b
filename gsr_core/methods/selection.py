"""Selection rules: by what score on val the kept step is chosen, and which labels that reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

__all__ = ["SELECTION_RULES", "Score", "Selection", "SelectionRule"]

Selection = Literal[
    "worst_group",
    "worst_group_earliest",
    "worst_group_loss",
    "worst_group_auroc",
    "average",
    "worst_inferred_group",
    "solution",
]
"""Names of the rules."""


class Score(NamedTuple):
    """What a rule looks at of a step: a share, to be high, and a loss in nats, to be low."""

    share: float
    loss: float


@dataclass(frozen=True)
class SelectionRule:
    """How the kept step is chosen on val.

    Attributes:
        title: What is looked at, for people: the step is "chosen by" it.
        score: Name of the share, for people.
        help: What wins and what breaks ties, in a phrase.
        metric: The metric of val that is to be high, a share. A loss in its place, which is to be
            low, counts as :math:`e^{-loss}`, the geometric mean of the probabilities of the true
            classes.
        loss: The metric of val that is to be low where shares are equal.
        ties: Whether the loss breaks ties; the earlier step does otherwise.
        last: Whether the last step is kept, whatever its score.
        labels: Splits whose group labels the rule reads.
    """

    title: str
    score: str
    help: str
    metric: str
    loss: str
    ties: bool = True
    last: bool = False
    labels: tuple[str, ...] = ("val",)

    def score_of(self, metrics: Mapping[str, float]) -> Score | None:
        """Return the score in the metrics of val over all groups; None if it is not among them."""
        if self.metric not in metrics:
            return None
        value = metrics[self.metric]
        share = math.exp(-value) if self.metric.endswith("_loss") else value
        return Score(share, metrics[self.loss])

    def improves(self, score: Score, best: Score | None) -> bool:
        """Return whether a later step of this score replaces the best one so far.

        >>> rule = SELECTION_RULES["worst_group"]
        >>> rule.improves(Score(0.8, 0.4), Score(0.8, 0.5))
        True
        >>> SELECTION_RULES["worst_group_earliest"].improves(Score(0.8, 0.4), Score(0.8, 0.5))
        False
        """
        if best is None:
            return True
        if score.share == best.share:
            return self.ties and score.loss < best.loss
        return score.share > best.share


SELECTION_RULES: dict[Selection, SelectionRule] = {
    "worst_group": SelectionRule(
        title="worst group of val",
        score="worst-group accuracy",
        help="highest worst-group accuracy, ties by lower worst-group loss",
        metric="worst_group_accuracy",
        loss="worst_group_loss",
    ),
    "worst_group_earliest": SelectionRule(
        title="worst group of val, the earliest of equals",
        score="worst-group accuracy",
        help="ties by the earlier step",
        metric="worst_group_accuracy",
        loss="worst_group_loss",
        ties=False,
    ),
    "worst_group_loss": SelectionRule(
        title="worst group of val, by its loss",
        score="geometric mean of the worst group's probabilities",
        help="lowest worst-group loss, which moves where a few samples leave the accuracy as it is",
        metric="worst_group_loss",
        loss="worst_group_loss",
    ),
    "worst_group_auroc": SelectionRule(
        title="worst group of val, by its AUROC",
        score="worst-group AUROC",
        help="highest worst-group AUROC of a group's samples against those of other classes, "
        "whatever the threshold, ties by lower worst-group loss",
        metric="worst_group_auroc",
        loss="worst_group_loss",
    ),
    "average": SelectionRule(
        title="mean accuracy of val",
        score="mean accuracy",
        help="highest mean accuracy, which reads no group labels of val",
        metric="mean_accuracy",
        loss="mean_loss",
        labels=(),
    ),
    "worst_inferred_group": SelectionRule(
        title="worst inferred group of val",
        score="accuracy of the worst inferred group",
        help="the worst of the groups that the method inferred, of ten rows or more",
        metric="worst_inferred_group_accuracy",
        loss="worst_inferred_group_loss",
        labels=(),
    ),
    "solution": SelectionRule(
        title="none: the last step is the solution",
        score="worst-group accuracy",
        help="the last step where steps only lead to a solution, as with group DRO's exact one; "
        "else as worst_group",
        metric="worst_group_accuracy",
        loss="worst_group_loss",
        last=True,
        labels=(),
    ),
}
"""The rules by name."""
