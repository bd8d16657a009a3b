"""Selection rules: by what score on val the kept step is chosen, and which labels that reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

__all__ = ["SELECTION_RULES", "Score", "Selection", "SelectionRule"]

Selection = Literal[
    "worst_group", "worst_group_earliest", "average", "worst_inferred_group", "solution"
]
"""Names of the rules."""


class Score(NamedTuple):
    """What a rule looks at of a step: an accuracy, to be high, and a loss in nats, to be low."""

    accuracy: float
    loss: float


@dataclass(frozen=True)
class SelectionRule:
    """How the kept step is chosen on val.

    Attributes:
        title: What is looked at, for people: the step is "chosen by" it.
        score: Name of the accuracy, for people.
        help: What wins and what breaks ties, in a phrase.
        of: What the metrics of val are of: `worst_group` for `worst_group_accuracy`, which is to be
            high, and `worst_group_loss`, which is to be low where accuracies are equal.
        ties: Whether the loss breaks ties; the earlier step does otherwise.
        last: Whether the last step is kept, whatever its score.
        labels: Splits whose group labels the rule reads.
    """

    title: str
    score: str
    help: str
    of: str
    ties: bool = True
    last: bool = False
    labels: tuple[str, ...] = ("val",)

    @property
    def accuracy(self) -> str:
        """The metric that is to be high."""
        return f"{self.of}_accuracy"

    def score_of(self, metrics: Mapping[str, float]) -> Score | None:
        """Return the score in the metrics of val over all groups; None if it is not among them."""
        if self.accuracy not in metrics:
            return None
        return Score(metrics[self.accuracy], metrics[f"{self.of}_loss"])

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
        if score.accuracy == best.accuracy:
            return self.ties and score.loss < best.loss
        return score.accuracy > best.accuracy


SELECTION_RULES: dict[Selection, SelectionRule] = {
    "worst_group": SelectionRule(
        title="worst group of val",
        score="worst-group accuracy",
        help="highest worst-group accuracy, ties by lower worst-group loss",
        of="worst_group",
    ),
    "worst_group_earliest": SelectionRule(
        title="worst group of val, the earliest of equals",
        score="worst-group accuracy",
        help="ties by the earlier step",
        of="worst_group",
        ties=False,
    ),
    "average": SelectionRule(
        title="mean accuracy of val",
        score="mean accuracy",
        help="highest mean accuracy, which reads no group labels of val",
        of="mean",
        labels=(),
    ),
    "worst_inferred_group": SelectionRule(
        title="worst inferred group of val",
        score="accuracy of the worst inferred group",
        help="the worst of the groups that the method inferred",
        of="worst_inferred_group",
        labels=(),
    ),
    "solution": SelectionRule(
        title="none: the last step is the solution",
        score="worst-group accuracy",
        help="the last step where steps only lead to a solution, as with group DRO's exact one; "
        "else as worst_group",
        of="worst_group",
        last=True,
        labels=(),
    ),
}
"""The rules by name."""
