r"""The head of a finished run, fitted anew under an edit of its rows, and what that does to groups.

Exactly one problem is solved, that of the run's own head under the weights of its kept step,

.. math::
    \hat\theta = \arg\min_\theta \sum_i \bar w_i \, \ell_i(\theta) + \lambda \lVert\theta\rVert^2 ,
    \qquad \sum_i \bar w_i = 1 ,

once as it was and once after the edit: dropped rows have weight 0, others k times theirs, or
another class. The weights are then divided by their sum, so that the penalty keeps its share;
penalty and standardisation stay those of all rows of the run. What found the weights is not asked
again: the answer is about these rows under these weights, not about another run of the method.

Beside what happened stands what influence predicts of it (`linear.influence.predicted_change`), so
that nobody has to believe a score which can be tested. Koh and Liang (ICML 2017, section 4.1) test
theirs in the same way, row by row.

Changes are of the same rows of val and test before and after. Intervals are of 95 % over these
rows: Tango's for accuracy, Student's t for the loss. They say how far another draw of
rows of the group could differ, not another draw of the rows that were fitted.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from scipy.special import stdtrit
from torch import Tensor

from gsr_core.comparing.mcnemar import judge, paired_interval
from gsr_core.compute import Compute, pick, threads_for
from gsr_core.data.bundle import Bundle
from gsr_core.data.edits import RowEdit, class_of
from gsr_core.data.problem import Rows, load_problem
from gsr_core.data.variation import make_variation
from gsr_core.errors import RunStateError, SettingError
from gsr_core.linear.head import Head
from gsr_core.linear.influence import EXACT, mean_shares, predicted_change
from gsr_core.linear.objective import HeadObjective
from gsr_core.linear.solver import Fit, Solver
from gsr_core.methods.base import Values
from gsr_core.methods.inner import FittedHead, InnerProblem, Scored
from gsr_core.runs.store import Run

__all__ = ["SPLITS", "Answers", "Outcome", "Refits", "open_refits"]

SPLITS = ("test", "val")
"""Splits on which groups are looked at."""

_SAME = 1e-3
"""Relative difference of logits up to which the run's head counts as the minimum: a head is
stored in float32 and fitted to a gradient of 1e-8; one that minimises something else is far off."""
_AT_ONCE = 2**23
"""Numbers that one array over a head and several groups may have."""


@dataclass(frozen=True)
class Answers:
    """What a head says of the rows of one split.

    Attributes:
        losses: (N,) cross-entropy, nats.
        right: (N,) bool.
    """

    losses: np.ndarray
    right: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """A head after an edit.

    Attributes:
        head: On raw features.
        answers: What it says, by split.
        predicted: By split, the (m,) changes of the groups' losses that influence predicts, nats.
        moved: Share of the weight that the edited rows had.
        changed: How many of these the edit changes; those without weight, or of the new class
            already, it does not.
        note: How the fit fell short, or "".
    """

    head: Head
    answers: Mapping[str, Answers]
    predicted: Mapping[str, np.ndarray]
    moved: float
    changed: int
    note: str


@dataclass(frozen=True)
class _Judged:
    """The rows of a split on which groups are looked at."""

    scored: Scored
    position: np.ndarray

    def answers(self, u: Tensor) -> Answers:
        state = self.scored.at(u)
        right = state.logits.argmax(dim=1) == self.scored.losses.labels
        return Answers(state.losses.cpu().numpy(), right.cpu().numpy())


@dataclass(frozen=True)
class Refits:
    """A run's head at its minimum, and the rows that an edit may change.

    Attributes:
        run: The run.
        bundle: Its bundle.
        position: (n,) positions in the bundle of the rows that have weights.
        weight: (n,) of the kept step, with sum one.
        labels: (n,) classes that the method saw.
    """

    run: Run
    bundle: Bundle
    position: np.ndarray
    weight: np.ndarray
    labels: np.ndarray
    _inner: InnerProblem
    _fit: Fit
    _solver: Solver
    _judged: Mapping[str, _Judged]

    @property
    def group_names(self) -> list[str]:
        """The m groups of the bundle, by which runs are judged."""
        return self.bundle.group_names

    @cached_property
    def before(self) -> Mapping[str, Answers]:
        """What the head says as it is, by split."""
        with self._threads():
            return {
                split: judged.answers(self._fit.state.u) for split, judged in self._judged.items()
            }

    @cached_property
    def _directions(self) -> Mapping[str, Tensor]:
        """By split, (p, c, m): the inverse Hessian applied to the gradient of each group's loss."""
        objective, u = self._objective(self.weight, self.labels), self._fit.state.u
        state, solver, found = objective.at(u), copy.copy(self._solver), {}
        at_once = max(_AT_ONCE // u.numel(), 1)
        for split, judged in self._judged.items():
            on_split = judged.scored.at(u)
            shares = mean_shares(judged.scored.groups, u).split(at_once, dim=1)
            rights = (judged.scored.gradients(on_split, share) for share in shares)
            found[split] = torch.cat(
                [solver.solve(objective, state, each, tolerance=EXACT).columns for each in rights],
                dim=2,
            )
        return found

    def places(self, edit: RowEdit) -> np.ndarray:
        """Return (q,) where the edited rows are among the rows that have weights.

        Raises:
            SettingError: If one is not among them.
        """
        places = np.flatnonzero(np.isin(self.position, edit.positions))
        if missing := len(edit.positions) - len(places):
            raise SettingError(
                f"{missing:,} of the {len(edit.positions):,} rows have no weight in run "
                f"'{self.run.run_id}'; choose among the {len(self.position):,} rows of "
                f"{self.run.values_split}"
            )
        return places

    def can_change(self, edit: RowEdit) -> np.ndarray:
        """Return (n,) bool: which rows an edit of this kind would change if it were of them."""
        there = self.weight > 0
        if edit.kind != "relabel":
            return there
        return there & (self.labels != class_of(edit.label, self.bundle.manifest.classes))

    def refit(self, edit: RowEdit) -> Outcome:
        """Return the head after an edit.

        Raises:
            SettingError: If the edit is of rows without a weight, or leaves none.
        """
        return self.refit_places(edit, self.places(edit))

    def refit_places(self, edit: RowEdit, places: np.ndarray) -> Outcome:
        """Return the head after the change that an edit makes, made to other rows.

        Args:
            edit: What is done; not to which rows.
            places: (q,) of the rows among those that have weights.

        Raises:
            SettingError: If no weight is left.
        """
        rows = self.position[places]
        weight = edit.weights(self.weight, self.position, rows)
        labels = self.labels
        if edit.kind == "relabel":
            labels = labels.copy()
            labels[places] = class_of(edit.label, self.bundle.manifest.classes)
        with self._threads():
            objective, u = self._objective(weight, labels), self._fit.state.u
            at_start = objective.at(u)
            predicted = {
                split: predicted_change(objective, at_start, columns).cpu().numpy()
                for split, columns in self._directions.items()
            }
            # A copy: what one refit does to the factor must not change how the next one rounds.
            fit = copy.copy(self._solver).minimise(objective, u, tolerance=EXACT)
            answers = {split: judged.answers(fit.state.u) for split, judged in self._judged.items()}
        return Outcome(
            head=self._inner.head(fit.state.u),
            answers=answers,
            predicted=predicted,
            moved=float(self.weight[places].sum()),
            changed=int(self.can_change(edit)[places].sum()),
            note="" if fit.converged else f"The fit of the head is not solved: {fit.ending}.",
        )

    def changes(self, outcome: Outcome, split: str) -> pd.DataFrame:
        """Return what an edit did to each group of a split, one row a group.

        Returns:
            Columns group; samples; before, after, change, low and high of the accuracy, fractions,
            the last two the ends of the change's interval; fixed and broken, how many samples
            turned right and wrong, and p, p_holm, verdict and needed of `mcnemar.judge`;
            loss_before, loss_after, loss_change, loss_low and loss_high, nats; and predicted, the
            change of the loss that influence predicts. NaN for a group without samples.
        """
        before, after = self.before[split], outcome.answers[split]
        membership = self.members(split)
        samples = membership.sum(axis=0)
        fixed = (membership & (~before.right & after.right)[:, None]).sum(axis=0)
        broken = (membership & (before.right & ~after.right)[:, None]).sum(axis=0)
        low, high = paired_interval(samples, broken, fixed)
        difference = after.losses - before.losses
        accuracy = [self.group_means(each.right, split) for each in (before, after)]
        loss = [self.group_means(each.losses, split) for each in (before, after)]
        loss_low, loss_high = np.array([_t_interval(difference[each]) for each in membership.T]).T
        table = pd.DataFrame(
            {
                "group": self.group_names,
                "samples": samples,
                "before": accuracy[0],
                "after": accuracy[1],
                "change": accuracy[1] - accuracy[0],
                "low": low,
                "high": high,
                "fixed": fixed,
                "broken": broken,
                "loss_before": loss[0],
                "loss_after": loss[1],
                "loss_change": loss[1] - loss[0],
                "loss_low": loss_low,
                "loss_high": loss_high,
                "predicted": np.where(samples > 0, outcome.predicted[split], np.nan),
            }
        )
        return table.join(judge(table))

    def group_means(self, each: np.ndarray, split: str) -> np.ndarray:
        """Return (m,) the means of (N,) numbers over the groups of a split; NaN for one without."""
        membership = self.members(split).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            return each @ membership / membership.sum(axis=0)

    def members(self, split: str) -> np.ndarray:
        """Return the (N, m) membership of a split's rows in the bundle's groups."""
        return self.bundle.membership[self._judged[split].position]

    def _objective(self, weight: np.ndarray, labels: np.ndarray) -> HeadObjective:
        like = self._inner.basis
        objective = self._inner.objective(torch.from_numpy(weight).to(like))
        return objective.relabelled(torch.from_numpy(labels).to(like.device))

    def _threads(self) -> AbstractContextManager[None]:
        return threads_for(len(self.position) * self._fit.state.u.shape[0])


def _t_interval(differences: np.ndarray) -> tuple[float, float]:
    n = len(differences)
    if n < 2:
        return math.nan, math.nan
    half = float(stdtrit(n - 1, 0.975)) * differences.std(ddof=1) / math.sqrt(n)
    return float(differences.mean() - half), float(differences.mean() + half)


def open_refits(run: Run, bundle: Bundle | None = None) -> Refits:
    """Return a run's head, ready to be fitted anew.

    It is computed on the CPU, whatever device computed the run, so that answers are the same
    everywhere.

    Args:
        run: Ended. Its head must be the minimum of the softmax loss under its kept weights with an
            l2 penalty.
        bundle: The run's bundle, if it is open already.

    Raises:
        RunStateError: If it has no such head; the sentence says why.
        GsrError: If the bundle's content is no longer what the run was made on.

    Example:
        >>> run = gsr.run(place, "birds", "gsr", steps=3)
        >>> refits = gsr.open_refits(run)
        >>> len(refits.position), round(float(refits.weight.sum()), 6)
        (40, 1.0)
    """
    config, stored = run.config, run.kept_head()
    method, weights = config.make_method(), run.weights(columns=["row", "weight"])
    _check(run, weights is not None)
    assert isinstance(method, FittedHead)
    assert weights is not None
    bundle, compute = bundle or run.unchanged_bundle(), pick("cpu")
    problem, test = load_problem(
        *(bundle, compute), seed=config.seed, variation=make_variation(config.variation)
    )
    with threads_for(problem.weighted.source.numel()):
        inner = method.inner(problem)
        weight = weights["weight"].to_numpy(np.float64)
        weight = weight / weight.sum()
        objective = inner.objective(torch.from_numpy(weight).to(inner.basis))
        solver = Solver()
        fit = solver.minimise(objective, inner.zero(), tolerance=EXACT)
        # Every refit begins near here, so that this factor serves them all.
        solver.factorise(objective, fit.state.u)
        head = Head(*(torch.from_numpy(part) for part in stored))
        if not fit.converged or not _is_same(head, inner.head(fit.state.u), problem.val, compute):
            raise RunStateError(
                f"the head of run '{run.run_id}' is not the minimum of the loss under its kept "
                f"weights with l2 {method.l2:g}, since {config.method} makes it in another way; "
                "ask a run of gsr, llr, jtt or another method that ends with such a fit"
            )
        judged = {
            split: _Judged(inner.scored(_own_groups(rows, bundle)), rows.position)
            for split, rows in (("test", test), ("val", problem.val))
        }
    return Refits(
        run=run,
        bundle=bundle,
        position=weights["row"].to_numpy(),
        weight=weight,
        labels=problem.weighted.labels.cpu().numpy(),
        _inner=inner,
        _fit=fit,
        _solver=solver,
        _judged=judged,
    )


def _check(run: Run, has_weights: bool) -> None:
    """Refuse a run that has no weighted fit to be done again.

    Raises:
        RunStateError: If it has none.
    """
    config, method = run.config, run.config.make_method()
    if method.acts_on == "network":
        why = f"{config.method} trains a whole network, which no fit of a head does again"
    elif not isinstance(method, FittedHead):
        why = f"{config.method} fits no head under sample weights with an l2 penalty"
    elif method.values is not Values.NONE and method.values_on == "target":
        why = f"the values of {config.method} are of target, on which no head is fitted"
    elif not has_weights:
        why = "its head came with the backbone and was not fitted to the rows that have weights"
    else:
        return
    raise RunStateError(
        f"run '{run.run_id}' cannot be asked what if: {why}; ask a run of gsr, or of llr for equal "
        "weights"
    )


def _is_same(one: Head, other: Head, rows: Rows, compute: Compute) -> bool:
    """Return whether two heads give the same logits, up to one number a row."""
    logits = []
    for head in (one, other):
        each = head.logits(rows.features.to(compute.accumulate_dtype))
        logits.append(each - each.mean(dim=1, keepdim=True))
    return bool((logits[0] - logits[1]).norm() <= _SAME * logits[1].norm())


def _own_groups(rows: Rows, bundle: Bundle) -> Rows:
    """Return rows with the bundle's groups, by which runs are judged."""
    membership = torch.from_numpy(bundle.membership[rows.position])
    return replace(rows, groups=membership.to(rows.labels.device))
