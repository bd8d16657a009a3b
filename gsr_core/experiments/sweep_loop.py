"""The loop of a sweep: its trials, its winner, and the winner's seeds."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import Any

from gsr_core.errors import RunStateError, SettingError
from gsr_core.experiments.search import Book, Draw, Outcome, Setting, Trial
from gsr_core.experiments.sweep import Sweep, SweepRecord, Winner
from gsr_core.experiments.sweep_workers import trial_workers
from gsr_core.methods.registry import make_method
from gsr_core.methods.selection import Score
from gsr_core.progress import Report, ShouldStop, Status, never, silent
from gsr_core.runs.execute import execute
from gsr_core.runs.protocol import settings_of
from gsr_core.runs.store import Run, create_run, list_runs

__all__ = ["best_trial", "run_sweep"]


_PATIENCE = 0.2
"""Seconds between two calls of `should_stop`."""


def run_sweep(
    sweep: Sweep,
    *,
    jobs: int = 1,
    progress: Report | None = None,
    should_stop: ShouldStop | None = None,
) -> SweepRecord:
    """Compute the missing parts of a sweep: its trials, its winner, and the winner's seeds.

    With one job the outcome depends on the record alone. With more, the trials of `tpe` also
    depend on which of them end first.

    Args:
        sweep: The sweep.
        jobs: Number of trials at a time, each in a process of its own.
        progress: Called with the fraction done and what is being done.
        should_stop: Called now and then; what is done by then is kept.

    Raises:
        RunStateError: If it was stopped, another process has it, no trial succeeded, or a seed's
            run failed.
        SettingError: If `jobs` is not positive.
        BundleError: If the bundle has changed.

    Example:
        >>> sweep = gsr.make_sweep(
        ...     place, "birds", "llr", trials=3, sampler="random", seeds=2, device="cpu"
        ... )
        >>> record = gsr.run_sweep(sweep)
        >>> record.winner.settings, record.winner.score
        ({'l2': 0.0179}, 0.6)
        >>> len(sweep.runs())
        2
    """
    if jobs < 1:
        raise SettingError(f"jobs is {jobs}; ask for at least one")
    report = progress or silent
    stop = should_stop or never
    with sweep.lock():
        record = sweep.record
        sweep.unchanged_bundle()
        trials = _search(sweep, record, jobs, report, stop)
        winner = _winner(record, trials)
        if winner != record.winner:
            record = record.model_copy(update={"winner": winner, "runs": []})
            sweep.write(record)
        return _run_winner(sweep, record, winner, report, stop)


def _search(
    sweep: Sweep, record: SweepRecord, jobs: int, report: Report, stop: ShouldStop
) -> list[Trial]:
    """Compute the missing trials and return all, by place.

    Raises:
        RunStateError: If it was stopped or a process died.
    """
    defaults = record.base.settings()
    book = Book(sweep.journal, record.space, defaults, sampler=record.sampler, seed=record.seed)
    ended = {trial.place: trial for trial in book.trials()}
    free = (place for place in itertools.count() if place not in ended)
    missing = list(itertools.islice(free, record.trials - len(ended)))
    if not missing:
        return [ended[place] for place in sorted(ended)]
    known = {_key(trial.settings): trial.outcome for trial in ended.values()}
    running: dict[Future[Outcome | None], tuple[int, Draw]] = {}
    try:
        with trial_workers(sweep, min(jobs, len(missing)), stop) as (pool, work, stopping):
            while running or (missing and not stopping()):
                report(*_progress(record, ended))
                while missing and len(running) < jobs and not stopping():
                    place = missing.pop(0)
                    draw = book.ask(place)
                    repeated = known.get(_key(draw.settings))
                    future = _again(repeated) if repeated else pool.submit(work, draw.settings)
                    running[future] = place, draw
                for future in wait(running, _PATIENCE, FIRST_COMPLETED).done:
                    place, draw = running.pop(future)
                    outcome = future.result()
                    if outcome is not None:
                        book.tell(draw, outcome)
                        known[_key(draw.settings)] = outcome
                        ended[place] = Trial(place, draw.settings, outcome)
    except BrokenProcessPool:
        raise RunStateError(
            f"a process of sweep '{sweep.name}' died, perhaps for lack of memory; its "
            f"{len(ended)} finished trials are kept, go on with fewer jobs"
        ) from None
    finally:
        # A trial that is half done now will be drawn again.
        book.give_up()
    if len(ended) < record.trials:
        raise RunStateError(
            f"sweep '{sweep.name}' was stopped after {len(ended)} of {record.trials} trials, which "
            "are kept; it can go on"
        )
    return [ended[place] for place in sorted(ended)]


def _key(settings: Mapping[str, Setting]) -> str:
    return json.dumps(settings, sort_keys=True)


def _again(outcome: Outcome) -> Future[Outcome | None]:
    """Return the outcome of an earlier trial of the same settings, as if it were computed now."""
    future: Future[Outcome | None] = Future()
    future.set_result(replace(outcome, seconds=0.0))
    return future


def _progress(record: SweepRecord, ended: Mapping[int, Trial]) -> tuple[float, str]:
    best = best_trial(record, [ended[place] for place in sorted(ended)])
    text = f"Trial {min(len(ended) + 1, record.trials)} of {record.trials}"
    if best is not None and best.outcome is not None:
        text += f" · best so far {best.outcome.score:.1%}, trial {best.place + 1}"
    return len(ended) / (record.trials + record.seeds), text


def best_trial(record: SweepRecord, trials: Sequence[Trial]) -> Trial | None:
    """Return the trial that the method's selection rule prefers on val; None if all failed.

    Args:
        record: Of the sweep.
        trials: By place; the earliest wins a tie.
    """
    rule = record.base.rule
    best, winner = None, None
    for trial in trials:
        outcome = trial.outcome
        if outcome is not None and outcome.score is not None and outcome.loss is not None:
            score = Score(outcome.score, outcome.loss)
            if rule.improves(score, best):
                best, winner = score, trial
    return winner


def _winner(record: SweepRecord, trials: Sequence[Trial]) -> Winner:
    """Return the winner among the trials.

    Raises:
        RunStateError: If all trials failed.
    """
    best = best_trial(record, trials)
    if best is None or best.outcome is None:
        first = next((trial.outcome.message for trial in trials if trial.outcome), "")
        raise RunStateError(
            f"all {len(trials)} trials of sweep '{record.name}' failed; the first: {first}"
        )
    assert best.outcome.score is not None
    assert best.outcome.loss is not None
    return Winner(
        place=best.place,
        settings={**record.fixed, **best.settings},
        score=best.outcome.score,
        loss=best.outcome.loss,
    )


def _run_winner(
    sweep: Sweep, record: SweepRecord, winner: Winner, report: Report, stop: ShouldStop
) -> SweepRecord:
    """Run the winner for the missing seeds.

    Raises:
        RunStateError: If it was stopped or a run failed.
    """
    first, runs = record.base.seed, []
    for seed in range(first, first + record.seeds):
        place = seed - first
        report(
            (record.trials + place) / (record.trials + record.seeds),
            f"The winner, seed {place + 1} of {record.seeds}",
        )
        settings = {**winner.settings, "seed": seed}
        run = _finished_run(sweep, record, settings)
        if run is None:
            if stop():
                raise RunStateError(_stopped_at_winner(sweep, place, record))
            run = create_run(
                sweep.workspace,
                record.bundle,
                record.method,
                settings,
                device=record.device,
                sweep=sweep.name,
            )
            state = execute(run, monitor=lambda progress: stop())
            if state.status is Status.CANCELLED:
                raise RunStateError(_stopped_at_winner(sweep, place, record))
            if state.status is not Status.FINISHED:
                raise RunStateError(
                    f"run '{run.run_id}' of the winning settings failed: {state.message}"
                )
        runs.append(run.run_id)
        record = record.model_copy(update={"winner": winner, "runs": list(runs)})
        sweep.write(record)
    return record


def _stopped_at_winner(sweep: Sweep, place: int, record: SweepRecord) -> str:
    return (
        f"sweep '{sweep.name}' was stopped after {place} of the {record.seeds} seeds of its "
        "winner; it can go on"
    )


def _finished_run(sweep: Sweep, record: SweepRecord, settings: Mapping[str, Any]) -> Run | None:
    """Return an earlier run of this sweep with the same settings that has finished."""
    wanted = make_method(record.method, settings).settings()
    for run in list_runs(sweep.workspace):
        config = run.config
        if (
            config.sweep == sweep.name
            and not config.edited
            and config.bundle_digest == record.bundle_digest
            and settings_of(config) == wanted
            and run.state.status is Status.FINISHED
        ):
            return run
    return None
