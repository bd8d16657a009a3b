"""The one loop that drives every method: time, scores, selection, progress and stopping."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import pandas as pd

from gsr_core.compute import threads_for
from gsr_core.data.problem import Judged, Problem, Rows
from gsr_core.errors import SettingError
from gsr_core.linear.influence import Influence
from gsr_core.methods.base import Method, Step
from gsr_core.methods.history import (
    HISTORY_COLUMNS,
    Record,
    choosing_metrics,
    records_at,
    step_records,
)
from gsr_core.methods.monitor import Monitor, Progress
from gsr_core.methods.scoring import StepScorer
from gsr_core.methods.selection import Score
from gsr_core.progress import Status, Stopped

__all__ = ["FitResult", "fit"]


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


def fit(
    method: Method,
    problem: Problem,
    group_names: list[str],
    *,
    test: Rows | None = None,
    judged: Judged | None = None,
    monitor: Monitor | None = None,
    resume: FitResult | None = None,
) -> FitResult:
    """Run a method and keep its best step by its selection rule on `val`.

    Args:
        method: What to run; `method.max_steps` steps unless it ends by itself.
        problem: The data that the method may see.
        group_names: m names, for the history.
        test: Rows to report on; they select nothing. Their groups are those of `judged`.
        judged: By which groups the history reports, if not by those of the problem; they select
            nothing.
        monitor: Follows and may stop the fit.
        resume: The result of an earlier fit of the same method and problem, from whose last step
            to go on. The outcome is that of one long fit.

    Raises:
        SettingError: If inferred groups are to choose the step and the method infers none.
        FloatingPointError: If the very first step is not finite, so that nothing can be kept.
        Stopped: If it was asked to stop within the very first step.

    Returns:
        The result; `status` is cancelled if the monitor stopped it, failed if a number stopped
        being finite, in which case the last good step is the last kept.

    >>> bundle = gsr.open_bundle(place, "birds")
    >>> problem, test = gsr.load_problem(bundle, gsr.pick("cpu"))
    >>> result = fit(gsr.make_method("gsr", {"steps": 3}), problem, bundle.group_names)
    >>> print(result.status, result.last_index)
    finished 3
    """
    with threads_for(problem.weighted.source.numel()):
        scorer = StepScorer(method, problem, group_names, test, judged)
        return _drive(method, problem, scorer, monitor, resume)


def _drive(
    method: Method,
    problem: Problem,
    scorer: StepScorer,
    monitor: Monitor | None,
    resume: FitResult | None,
) -> FitResult:
    records: list[Record] = []
    started, earlier = time.perf_counter(), 0.0
    index, best, kept, last = 0, None, None, None
    if resume is not None:
        index, earlier, last = resume.last_index, resume.seconds, resume.last
        kept = _alike(resume.step, problem), resume.step_index
        if resume.step.candidate:
            best = _val_score(method, records_at(resume.history, resume.step_index))
    steps = method.iterate(problem, None if resume is None else resume.last.checkpoint)
    rule = method.rule

    status, message = Status.FINISHED, ""
    while index < method.max_steps:
        begun = time.perf_counter()
        try:
            step = next(steps, None)
        except Stopped:
            if kept is None:
                raise
            status = Status.CANCELLED
            break
        if step is None:
            break
        if not _is_finite(step):
            status = Status.FAILED
            message = (
                f"step {index + 1} gave a number that is not finite; try a smaller lr or a larger "
                "l2"
            )
            break
        step = _alike(step, problem)
        index, last = index + 1, step
        scores = scorer(index, step)
        # What may not be kept need not have what the rule looks at, such as inferred groups.
        score = _val_score(method, scores) if step.candidate else None
        if (
            kept is None
            or not kept[0].candidate
            or (score is not None and (rule.last or rule.improves(score, best)))
        ):
            best, kept = score, (step, index)
        scores += step_records(index, step, time.perf_counter() - begun)
        records += scores
        if monitor is not None:
            seconds = earlier + time.perf_counter() - started
            if monitor(Progress(index, method.max_steps, step, scores, kept[1], seconds)):
                status = Status.CANCELLED if index < method.max_steps else Status.FINISHED
                break
        if kept[0].candidate and method.gives_up(index - kept[1]):
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


def _alike(step: Step, problem: Problem) -> Step:
    """Return a step whose influence is computed as the step was, whenever that may be."""
    measure = step.measure
    if measure is None:
        return step

    def in_threads() -> Influence:
        with threads_for(problem.weighted.source.numel()):
            return measure()

    return replace(step, measure=in_threads)


def _is_finite(step: Step) -> bool:
    """Return whether a step's numbers are finite; an objective of NaN means that there is none."""
    numbers = [step.head.weight, step.head.bias]
    if step.sample_weight is not None:
        numbers.append(step.sample_weight)
    return not math.isinf(step.objective) and all(bool(each.isfinite().all()) for each in numbers)


def _val_score(method: Method, records: list[Record]) -> Score:
    """Return what the method's selection rule looks at of a step.

    Raises:
        SettingError: If there are no inferred groups to look at.
    """
    score = method.rule.score_of(choosing_metrics(records))
    if score is None:
        raise SettingError(
            f"selection is '{method.selection}', but {method.name} infers no groups; choose "
            "worst_group or average"
        )
    return score
