r"""Class scaling (RS): the scores of the classes multiplied so that the worst group does best.

Seo and Han, "Re-evaluating group robustness via adaptive class-specific scaling" (WACV 2025). The
head stays as it is; what is predicted becomes

.. math:: \arg\max_c \; s_c \, p_c(x) = \arg\max_c \; z_c(x) + \beta_c , \qquad
          \beta_c = \log s_c ,

with s = 1 for the most frequent class. The multipliers draw a whole trade-off of the worst group
against the mean, so that this is what every other repair has to beat. *Robust coverage* sums the
trade-off up:

.. math:: \int_0^1 \max \{ \text{worst}(s) : \text{mean}(s) \ge a \} \, \mathrm{d}a ,

worst and mean being accuracies, the mean over all rows, and the maximum 0 where no s reaches a.

**The search.** With the other offsets fixed, predictions change only where the offset of class c
passes

.. math:: t_i = \max_{j \neq c} (z_{ij} + \beta_j) - z_{ic} ,

by which the row i turns to c. So the rows are sorted by t, the counts of right rows in each group
are running sums, and every interval between two t is looked at: all that the class's offset can do,
in O(n log n). Classes go from most to least frequent, until a round gains nothing. An offset moves
only to what is strictly better; of equals, it takes the smallest in magnitude. For two classes one
sweep is the optimum, for more it is a coordinate search, which may end below it. The method looks
for the best worst group; `comparing.operating` also for what lies between that and the best mean.

Where we differ, and why:

- The paper's grid is not known; the sweep needs none. It scales probabilities, as above: a factor
  on a logit acts backwards where that is negative. The coverage is the exact integral over the
  settings that the sweeps passed: all there are for two classes.
- The rows of val choose the multipliers, as in the paper, and no rows of val are put aside: what is
  reported is test. The score on val itself is the best of many; `chosen_on=target` keeps val out of
  it, at the price of another split's labels.
- The paper's instance-wise form (IRS), with other multipliers in each cluster of the features, is
  left out: a method here gives one linear head, which cannot hold several.
- Thresholds that the float32 of the scores cannot tell apart count as one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from gsr_core.data.problem import Problem
from gsr_core.methods.base import SETTINGS_CONFIG, LabelNeeds, Step, settings
from gsr_core.methods.offsets import OffsetMethod, with_offsets
from gsr_core.methods.rwg import groups_with_rows

__all__ = [
    "ClassScaling",
    "Scaling",
    "Tradeoff",
    "choose_offsets",
    "narrowest_of",
    "robust_coverage",
    "sweep",
]

_ROUNDING = 8
"""Units of rounding of the largest logit by which two thresholds may differ and still be one."""
_FEW = 20
"""Rows of a group up to which the note warns that the offsets may fit them by chance."""


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class ClassScaling(OffsetMethod):
    """Shift the decision between classes so that the worst group does best."""

    name: ClassVar[str] = "class_scaling"
    title: ClassVar[str] = "RS: class scaling"
    summary: ClassVar[str] = (
        "Leaves the head as it is and multiplies the score of each class so that the worst group "
        "does best; no fit, only other thresholds between classes."
    )
    use_when: ClassVar[str] = (
        "As the reference for every other repair, and when the groups that fail all belong to "
        "a rare class."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE

    chosen_on: Annotated[
        Literal["val", "target"],
        Field(
            description="Whose rows and groups choose the multipliers. val: its own score is then "
            "optimistic; target: val stays untouched."
        ),
    ] = "val"

    @property
    def labels_used(self) -> tuple[str, ...]:
        """Which rows' group labels are read: those that choose, as there is one step."""
        return (self.chosen_on,)

    @property
    def learns_from(self) -> tuple[str, ...]:
        """Of the rows whose group labels are read, those that do more than choose the step."""
        return self.labels_used

    def iterate(
        self, problem: Problem, checkpoint: Mapping[str, Tensor] | None = None
    ) -> Iterator[Step]:
        """Yield one step.

        Args:
            problem: The data.
            checkpoint: Not used; there is nothing to go on from.
        """
        base = self.base_step(problem)
        rows = problem.val if self.chosen_on == "val" else problem.target
        # In the precision in which heads are scored.
        scored = base.head.logits(rows.features)
        members = rows.groups[:, groups_with_rows(rows)]
        found = choose_offsets(
            scored.to(problem.compute.accumulate_dtype),
            rows.labels,
            members,
            narrowest=narrowest_of(scored),
        )
        low, high = (float(end) for end in found.offset.aminmax())
        note = (
            f"Logits of the classes were shifted by {low:.3g} to {high:.3g}. On {self.chosen_on}, "
            f"which chose this, the worst group went from {found.before:.1%} to {found.after:.1%}; "
            "robust coverage "
            f"{robust_coverage(found.tradeoff.average, found.tradeoff.worst):.3f}."
        )
        smallest = int(members.sum(dim=0).min())
        if smallest <= _FEW:
            note += f" The smallest group has only {smallest} rows there, which may mislead."
        yield Step(with_offsets(base.head, found.offset), None, solved=base.solved, note=note)


@dataclass(frozen=True)
class Tradeoff:
    """Accuracies that offsets can reach, in R sweeps.

    Attributes:
        offset: (S,) the offset of the class that was swept.
        average: (S,) fraction of all rows that are right, or the mean of groups that was asked for.
        worst: (S,) fraction of the worst group's rows that are right.
        sweep: (S,) int64, in which sweep.
        which: (R,) int64, the class that each swept.
        start: (R, K) the offsets of all other classes meanwhile.
    """

    offset: Tensor
    average: Tensor
    worst: Tensor
    sweep: Tensor
    which: Tensor
    start: Tensor

    def offsets(self, places: Tensor) -> Tensor:
        """Return the offsets (P, K) of all classes at some settings.

        Args:
            places: (P,) int64.
        """
        of = self.sweep[places]
        offsets = self.start[of].clone()
        offsets[torch.arange(len(of), device=of.device), self.which[of]] = self.offset[places]
        return offsets

    def front(self) -> Tensor:
        """Return the settings that no other beats on both accuracies, (P,) by falling average."""
        order = self.worst.argsort(descending=True, stable=True)
        order = order[self.average[order].argsort(descending=True, stable=True)]
        best = self.worst[order].cummax(dim=0).values
        before = torch.cat([torch.full_like(best[:1], -torch.inf), best[:-1]])
        return order[best > before]

    @staticmethod
    def of(sweeps: Sequence[Tradeoff]) -> Tradeoff:
        """Return several as one."""
        first = torch.tensor([0] + [len(each.which) for each in sweeps[:-1]]).cumsum(0).tolist()
        shifted = [each.sweep + before for each, before in zip(sweeps, first, strict=True)]
        parts = ("offset", "average", "worst", "which", "start")
        joined = {part: torch.cat([getattr(each, part) for each in sweeps]) for part in parts}
        return Tradeoff(sweep=torch.cat(shifted), **joined)


@dataclass(frozen=True)
class Scaling:
    """The offsets that were chosen.

    Attributes:
        offset: (K,) added to the logits; 0 for the most frequent class.
        before: Worst-group accuracy without them.
        after: Worst-group accuracy with them; no lower where nothing else was looked for.
        tradeoff: All that was looked at on the way, and no offsets at all.
    """

    offset: Tensor
    before: float
    after: float
    tradeoff: Tradeoff


def narrowest_of(scored: Tensor) -> float:
    """Return the width of `sweep` below which logits cannot tell two thresholds apart.

    Args:
        scored: (n, K) logits, in the precision in which they were computed.
    """
    return _ROUNDING * torch.finfo(scored.dtype).eps * float(scored.abs().max())


def sweep(
    logits: Tensor,
    labels: Tensor,
    members: Tensor,
    which: int,
    *,
    narrowest: float = 0.0,
    shares: Tensor | None = None,
) -> Tradeoff:
    """Return all that the offset of one class can do, with the other logits as they are.

    Args:
        logits: (n, K).
        labels: (n,) int64.
        members: (n, m) bool, overlap allowed; every group has a row.
        which: The class whose logit gets the offset.
        narrowest: Width that an interval between two thresholds must exceed to be looked at.
        shares: (m,) weights of the groups' accuracies in the average, which sum to one; every row
            counts the same if None.

    Returns:
        One offset for each interval, in ascending order: 0 in the one around it, else its middle.

    Example:
        >>> logits = torch.tensor([[0.0, 1.0], [0.0, -1.0], [0.0, -3.0]], dtype=torch.float64)
        >>> groups = torch.tensor([[True, False], [False, True], [False, True]])
        >>> found = sweep(logits, torch.tensor([0, 1, 1]), groups, 1)
        >>> [each.tolist() for each in (found.offset, found.worst)]
        [[-2.0, 0.0, 2.0, 4.0], [0.0, 0.0, 0.0, 0.0]]
        >>> (3 * found.average).tolist()
        [1.0, 0.0, 1.0, 2.0]
    """
    rivals = logits.clone()
    rivals[:, which] = -torch.inf
    strongest, rival = rivals.max(dim=1)
    threshold, order = (strongest - logits[:, which]).sort(stable=True)
    # The last column counts all rows. Integers, so that sums are exact in any order.
    counted = torch.cat([members, torch.ones_like(members[:, :1])], dim=1).long()
    rival_right = (rival == labels).long()[:, None]
    # What it brings that a row turns from its rival to the class.
    turned = ((labels == which).long()[:, None] - rival_right) * counted
    right = (rival_right * counted).sum(dim=0) + torch.cat(
        [torch.zeros_like(turned[:1]), turned[order].cumsum(dim=0)]
    )
    accuracy = right.to(logits) / counted.sum(dim=0).to(logits)
    average = accuracy[:, -1] if shares is None else accuracy[:, :-1] @ shares.to(logits)

    beyond = 2 * (1 + narrowest)
    low = torch.cat([threshold[:1] - beyond, threshold])
    high = torch.cat([threshold, threshold[-1:] + beyond])
    wide = high - low > narrowest
    outer_low, outer_high = low.clone(), high.clone()
    outer_low[0], outer_high[-1] = -torch.inf, torch.inf
    offset = torch.where((outer_low < 0) & (outer_high > 0), 0.0, (low + high) / 2)
    worst, none = accuracy[wide, :-1].amin(dim=1), torch.zeros_like(labels[:1])
    start = logits.new_zeros(1, logits.shape[1])
    of = none.expand(len(worst))
    return Tradeoff(offset[wide], average[wide], worst, of, none + which, start)


def choose_offsets(
    logits: Tensor,
    labels: Tensor,
    members: Tensor,
    *,
    narrowest: float = 0.0,
    trade: float = 1.0,
    shares: Tensor | None = None,
) -> Scaling:
    """Return offsets under which the worst group has the highest accuracy, by exact sweeps.

    Args:
        logits: (n, K).
        labels: (n,) int64.
        members: (n, m) bool, overlap allowed; every group has a row.
        narrowest: As in `sweep`.
        trade: Weight of the worst group in what is to be highest, from 0 to 1; the average has the
            rest.
        shares: As in `sweep`.
    """
    n_classes = logits.shape[1]
    frequent = torch.bincount(labels, minlength=n_classes).argsort(descending=True, stable=True)
    offset = logits.new_zeros(n_classes)
    right = (logits.argmax(dim=1) == labels).to(logits)
    of_groups = right @ members.to(logits) / members.sum(dim=0)
    average = right.mean() if shares is None else of_groups @ shares.to(logits)
    zero, none = torch.zeros_like(offset), torch.zeros_like(frequent[:1])
    nothing = Tradeoff(
        zero[:1], average[None], of_groups.amin()[None], none, frequent[:1], zero[None]
    )
    before = after = float(nothing.worst)
    passed = [nothing]

    def goal(found: Tradeoff) -> Tensor:
        return trade * found.worst + (1 - trade) * found.average

    best, gained = float(goal(nothing)), True
    while gained:
        gained = False
        for which in frequent[1:].tolist():
            moved = logits + offset
            moved[:, which] = logits[:, which]
            found = sweep(moved, labels, members, which, narrowest=narrowest, shares=shares)
            passed.append(replace(found, start=offset[None].clone()))
            reached = goal(found)
            if float(reached.max()) > best:
                best, gained = float(reached.max()), True
                size = found.offset.abs().where(reached == best, torch.inf)
                offset[which] = found.offset[size.argmin()]
                after = float(found.worst[size.argmin()])
    return Scaling(offset, before, after, Tradeoff.of(passed))


def robust_coverage(average: Tensor, worst: Tensor) -> float:
    """Return the mean over a in [0, 1] of the best worst-group accuracy at an average of a or more.

    It is 0 where no setting reaches a, and the integral of a step function, which is exact.

    Args:
        average: (S,) average accuracy of each setting, in [0, 1].
        worst: (S,) its worst-group accuracy.

    Example:
        >>> robust_coverage(torch.tensor([0.5, 0.75]), torch.tensor([0.5, 0.25]))
        0.3125
    """
    average, order = average.sort(descending=True, stable=True)
    best = worst[order].cummax(dim=0).values
    below = torch.cat([average[1:], average.new_zeros(1)])
    return float(best @ (average - below))
