"""The one loop that drives every method: time, scores, selection, progress and stopping."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from torch import Tensor

from gsr_core.compute import threads_for
from gsr_core.data.problem import Problem, Rows
from gsr_core.errors import SettingError
from gsr_core.methods.base import Method, Step
from gsr_core.metrics import GroupScores, group_scores
from gsr_core.progress import Status

__all__ = [
    "HISTORY_COLUMNS",
    "SELECTION_RULES",
    "FitResult",
    "Monitor",
    "Progress",
    "SelectionRule",
    "fit",
]

HISTORY_COLUMNS = ["step", "split", "group", "metric", "value"]

Record = tuple[int, str, str, str, float]


@dataclass(frozen=True)
class Progress:
    """What a monitor is told after each step.

    Attributes:
        step_index: The step, counted from one.
        steps: How many there will be.
        step: The step itself.
        records: This step's rows of the history.
        best_index: The step that would be kept if the fit stopped here.
        seconds: Time since the fit began, earlier parts of a continued fit included.
    """

    step_index: int
    steps: int
    step: Step
    records: list[Record]
    best_index: int
    seconds: float


Monitor = Callable[[Progress], "bool | None"]
"""Called after each step; returning True stops the fit, and the steps done are kept."""


@dataclass(frozen=True)
class FitResult:
    """What a fit leaves behind.

    Attributes:
        step: The kept iterate.
        step_index: Its number, counted from one.
        last: The last iterate.
        last_index: Its number.
        status: How the fit ended.
        message: Why it failed, or "".
        history: Columns step, split, group, metric, value; group "" is for all groups together.
        seconds: Time taken.
    """

    step: Step
    step_index: int
    last: Step
    last_index: int
    status: Status
    message: str
    history: pd.DataFrame
    seconds: float


def _by_accuracy_then_loss(candidate: tuple[float, float], best: tuple[float, float]) -> bool:
    return (candidate[0], -candidate[1]) > (best[0], -best[1])


def _by_accuracy(candidate: tuple[float, float], best: tuple[float, float]) -> bool:
    return candidate[0] > best[0]


@dataclass(frozen=True)
class SelectionRule:
    """How the kept step is chosen.

    Attributes:
        accuracy: The metric of val that is to be high.
        loss: The metric of val that breaks ties, if the rule has it so.
        improves: Whether a step with these (accuracy, loss) replaces the best one.
    """

    accuracy: str
    loss: str
    improves: Callable[[tuple[float, float], tuple[float, float]], bool] = _by_accuracy_then_loss


SELECTION_RULES: dict[str, SelectionRule] = {
    "worst_group": SelectionRule("worst_group_accuracy", "worst_group_loss"),
    "worst_group_earliest": SelectionRule("worst_group_accuracy", "worst_group_loss", _by_accuracy),
    "average": SelectionRule("mean_accuracy", "mean_loss"),
    "worst_inferred_group": SelectionRule(
        "worst_inferred_group_accuracy", "worst_inferred_group_loss"
    ),
}
"""The rules by name, the values of `Selection`."""


def fit(
    method: Method,
    problem: Problem,
    group_names: list[str],
    *,
    test: Rows | None = None,
    monitor: Monitor | None = None,
    resume: FitResult | None = None,
) -> FitResult:
    """Run a method and keep its best step by its selection rule on `val`.

    Args:
        method: What to run; `method.max_steps` steps unless it ends by itself.
        problem: The data that the method may see.
        group_names: m names, for the history.
        test: Rows to report on; they select nothing.
        monitor: Follows and may stop the fit.
        resume: The result of an earlier fit of the same method and problem, from whose last step
            to go on. The outcome is that of one long fit.

    Raises:
        SettingError: If inferred groups are to choose the step and the method infers none.
        FloatingPointError: If the very first step is not finite, so that nothing can be kept.

    Returns:
        The result; `status` is cancelled if the monitor stopped it, failed if a number stopped
        being finite, in which case the last good step is the last kept.
    """
    with threads_for(problem.weighted.features.numel()):
        return _drive(method, problem, group_names, test, monitor, resume)


def _drive(
    method: Method,
    problem: Problem,
    group_names: list[str],
    test: Rows | None,
    monitor: Monitor | None,
    resume: FitResult | None,
) -> FitResult:
    splits = {"target": problem.target, "val": problem.val}
    if test is not None:
        splits["test"] = test
    rule = SELECTION_RULES[method.selection]
    on_target = method.values_on == "target"
    valued = problem.target if on_target else problem.weighted
    valued_split = "target" if on_target else problem.weighted_split
    members = valued.groups.to(problem.compute.accumulate_dtype)

    records: list[Record] = []
    started = time.perf_counter()
    if resume is None:
        index, earlier, best, kept, last = 0, 0.0, (-math.inf, math.inf), None, None
        steps = method.iterate(problem)
    else:
        index, earlier, last = resume.last_index, resume.seconds, resume.last
        kept = (resume.step, resume.step_index)
        best = _val_score(resume.history, resume.step_index, rule)
        steps = method.iterate(problem, resume.last.checkpoint)

    status, message = Status.FINISHED, ""
    while index < method.max_steps:
        begun = time.perf_counter()
        step = next(steps, None)
        if step is None:
            break
        if not _is_finite(step):
            status = Status.FAILED
            message = (
                f"step {index + 1} gave a number that is not finite; try a smaller lr or a larger "
                "l2"
            )
            break
        index += 1
        scores = {
            name: group_scores(step.head, rows.features, rows.labels, rows.groups)
            for name, rows in splits.items()
        }
        now = _score_records(index, scores, group_names, problem.training_shares)
        now += _inferred_records(index, step, problem.val)
        candidate = _candidate(now, rule, method)
        if kept is None or rule.improves(candidate, best):
            best, kept = candidate, (step, index)
        now += _weight_records(index, step, members, group_names, valued_split)
        now += _step_records(index, step, time.perf_counter() - begun)
        records += now
        last = step
        if monitor is not None:
            seconds = earlier + time.perf_counter() - started
            if monitor(Progress(index, method.max_steps, step, now, kept[1], seconds)):
                status = Status.CANCELLED if index < method.max_steps else Status.FINISHED
                break

    if kept is None or last is None:
        raise FloatingPointError(message)
    history = pd.DataFrame(records, columns=HISTORY_COLUMNS)
    if resume is not None:
        history = pd.concat([resume.history, history], ignore_index=True)
    return FitResult(
        step=kept[0],
        step_index=kept[1],
        last=last,
        last_index=index,
        status=status,
        message=message,
        history=history,
        seconds=earlier + time.perf_counter() - started,
    )


def _is_finite(step: Step) -> bool:
    """Return whether a step's numbers are finite; an objective of NaN means that there is none."""
    numbers = [step.head.weight, step.head.bias]
    if step.sample_weight is not None:
        numbers.append(step.sample_weight)
    return not math.isinf(step.objective) and all(bool(each.isfinite().all()) for each in numbers)


def _val_score(history: pd.DataFrame, step: int, rule: SelectionRule) -> tuple[float, float]:
    """Return what a rule looks at of a step on val, from the history."""
    rows = history[
        (history["step"] == step) & (history["split"] == "val") & (history["group"] == "")
    ]
    values = rows.set_index("metric")["value"]
    return float(values[rule.accuracy]), float(values[rule.loss])


def _candidate(records: list[Record], rule: SelectionRule, method: Method) -> tuple[float, float]:
    """Return what a rule looks at of a step on val, from the step's records.

    Raises:
        SettingError: If there are no inferred groups to look at.
    """
    found = {
        metric: value
        for _, split, group, metric, value in records
        if split == "val" and group == ""
    }
    if rule.accuracy not in found:
        raise SettingError(
            f"selection is '{method.selection}', but {method.name} infers no groups; choose "
            "worst_group or average"
        )
    return found[rule.accuracy], found[rule.loss]


def _inferred_records(index: int, step: Step, val: Rows) -> list[Record]:
    """Return how val fares on the groups that the method inferred."""
    if step.inferred_val is None:
        return []
    score = group_scores(step.head, val.features, val.labels, step.inferred_val)
    return [
        (index, "val", "", "worst_inferred_group_accuracy", score.worst_group_accuracy),
        (index, "val", "", "worst_inferred_group_loss", score.worst_group_loss),
    ]


def _score_records(
    index: int,
    scores: dict[str, GroupScores],
    group_names: list[str],
    training_shares: np.ndarray | None,
) -> list[Record]:
    records: list[Record] = []
    for split, score in scores.items():
        for g, group in enumerate(group_names):
            records += [
                (index, split, group, "accuracy", float(score.accuracy[g])),
                (index, split, group, "loss", float(score.loss[g])),
                (index, split, group, "count", float(score.count[g])),
            ]
        records += [
            (index, split, "", "worst_group_accuracy", score.worst_group_accuracy),
            (index, split, "", "worst_group_loss", score.worst_group_loss),
            (index, split, "", "mean_accuracy", score.mean_accuracy),
            (index, split, "", "mean_loss", score.mean_loss),
            (index, split, "", "adjusted_accuracy", score.adjusted_accuracy(training_shares)),
        ]
    return records


def _weight_records(
    index: int, step: Step, members: Tensor, group_names: list[str], split: str
) -> list[Record]:
    records: list[Record] = []
    if step.sample_weight is not None:
        weight = step.sample_weight.to(members)
        total = (weight @ members).cpu().numpy()
        squares = (weight.square() @ members).cpu().numpy()
        count = members.sum(dim=0).cpu().numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            mean, effective = total / count, total**2 / squares
        for g, group in enumerate(group_names):
            records += [
                (index, split, group, "count", float(count[g])),
                (index, split, group, "weight_sum", float(total[g])),
                (index, split, group, "weight_mean", float(mean[g])),
                (index, split, group, "effective_sample_size", float(effective[g])),
            ]
        size = float(weight.sum() ** 2 / weight.square().sum())
        records.append((index, split, "", "effective_sample_size", size))
    if step.group_weight is not None:
        records += [
            (index, "target", group, "group_weight", value)
            for group, value in zip(group_names, step.group_weight.tolist(), strict=True)
        ]
    return records


def _step_records(index: int, step: Step, seconds: float) -> list[Record]:
    return [
        (index, "", "", "objective", step.objective),
        (index, "", "", "gradient_norm", step.gradient_norm),
        (index, "", "", "relative_gradient_norm", step.relative_gradient_norm),
        (index, "", "", "solved", float(step.solved)),
        (index, "", "", "step_size", step.step_size),
        (index, "", "", "clipped", float(step.clipped)),
        (index, "", "", "seconds", seconds),
    ]
