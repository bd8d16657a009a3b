"""Sweeps: the settings of a method that serve val best, then that choice over several seeds.

```
<name>/sweep.json   what was asked for, and what came out (`SweepRecord`)
       trials.log   every trial (`runs.search`)
       lock         held by the process that computes
```

Each trial is a fit in memory, scored on val at the step it keeps, by the method's own selection
rule; the test split is not looked at, and there is no way to choose by it. The winner is then run
over seeds as ordinary runs, which are the first to report on test.

A sweep goes on where it stopped, however it stopped, until it has the wanted number of trials: one
that failed counts, one that was cut off is drawn again.
"""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import os
import re
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field

from gsr_core.compute import pick
from gsr_core.data.bundle import Bundle, open_bundle
from gsr_core.data.splits import load_problem
from gsr_core.errors import BundleError, GsrError, RunStateError, SettingError
from gsr_core.files import replace_file
from gsr_core.methods.base import Method, Range
from gsr_core.methods.fit import SELECTION_RULES, Progress, Status, fit
from gsr_core.methods.registry import make_method
from gsr_core.runs.execute import execute
from gsr_core.runs.named import check_record, newest_first
from gsr_core.runs.record import versions
from gsr_core.runs.search import (
    Book,
    Draw,
    Outcome,
    Sampler,
    Setting,
    Trial,
    read_trials,
    search_space,
)
from gsr_core.runs.store import Run, create_run, list_runs, now
from gsr_core.runs.summary import overall
from gsr_core.workspace import Workspace

__all__ = [
    "Sweep",
    "SweepRecord",
    "Winner",
    "best_trial",
    "list_sweeps",
    "make_sweep",
    "open_sweep",
    "run_sweep",
]

FORMAT = 1
_PATIENCE = 0.2
"""Seconds between two looks whether somebody asked to stop."""

_LOOK = 0.5
"""Seconds to wait for the lock, which whoever asks how a sweep stands holds for a moment."""

Report = Callable[[float, str], None]


class Winner(BaseModel):
    """The trial that did best on val.

    Attributes:
        place: Its place in the sweep, counted from zero.
        settings: Every setting that differs from the method's defaults or was searched.
        score: Accuracy on val by the method's selection rule.
        loss: The loss on val that breaks ties, nats.
    """

    model_config = ConfigDict(frozen=True)

    place: int
    settings: dict[str, Setting]
    score: float
    loss: float


class SweepRecord(BaseModel):
    """What was asked for, and what came out.

    Attributes:
        format: Version of the directory's format.
        name: Name of the sweep.
        created: ISO 8601, UTC.
        bundle: Name of the bundle, or the path of its directory.
        bundle_digest: Identity of its content; a sweep refuses to go on with anything else.
        method: Key in the registry.
        fixed: Settings that every trial has.
        space: Where to look, by setting.
        sampler: Who draws.
        seed: Decides the draws.
        trials: How many are wanted.
        seeds: Over how many seeds the winner is run.
        device: As asked for: `auto`, `cpu`, `cuda`, ...
        versions: Of Python and the packages that compute.
        winner: Once all trials are done.
        runs: The winner's runs that have finished, by seed.
    """

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    name: str
    created: str
    bundle: str
    bundle_digest: str
    method: str
    fixed: dict[str, Setting]
    space: dict[str, Range | tuple[Setting, ...]]
    sampler: Sampler
    seed: int = Field(ge=0)
    trials: int = Field(ge=1)
    seeds: int = Field(ge=1)
    device: str
    versions: dict[str, str]
    winner: Winner | None = None
    runs: list[str] = []

    @property
    def finished(self) -> bool:
        """Whether all trials and all seeds are done."""
        return self.winner is not None and len(self.runs) >= self.seeds

    @property
    def base(self) -> Method:
        """The method with the fixed settings alone."""
        return make_method(self.method, self.fixed)

    @property
    def score_name(self) -> str:
        """What a score is, for people."""
        accuracy = SELECTION_RULES[self.base.selection].accuracy
        return f"{_SCORE_NAMES[accuracy]} on val"


_SCORE_NAMES = {
    "worst_group_accuracy": "worst-group accuracy",
    "mean_accuracy": "mean accuracy",
    "worst_inferred_group_accuracy": "accuracy of the worst inferred group",
}


@dataclass(frozen=True)
class Sweep:
    """One sweep on disk."""

    workspace: Workspace
    path: Path

    @property
    def name(self) -> str:
        """Name of the sweep."""
        return self.path.name

    @property
    def journal(self) -> Path:
        """File of the trials."""
        return self.path / "trials.log"

    @property
    def record(self) -> SweepRecord:
        """What was asked for, and what came out."""
        return SweepRecord.model_validate_json((self.path / "sweep.json").read_text())

    def write(self, record: SweepRecord) -> None:
        """Replace the record."""
        with replace_file(self.path / "sweep.json") as temporary:
            temporary.write_text(record.model_dump_json(indent=2) + "\n")

    def trials(self) -> list[Trial]:
        """Return the trials that have ended or are computed, by place."""
        return read_trials(self.journal)

    def runs(self) -> list[Run]:
        """Return the winner's runs that are still there, by seed."""
        runs = (Run(self.workspace, self.workspace.runs / each) for each in self.record.runs)
        return [run for run in runs if (run.path / "config.json").is_file()]

    @property
    def active(self) -> bool:
        """Whether a process works on it."""
        try:
            with self.lock(patience=0):
                return False
        except RunStateError:
            return True

    @contextmanager
    def lock(self, patience: float = _LOOK) -> Iterator[None]:
        """Hold the sweep's lock.

        Args:
            patience: Seconds to wait for it.

        Raises:
            RunStateError: If another process has it.
        """
        try:
            with FileLock(self.path / "lock", timeout=patience):
                yield
        except Timeout:
            raise RunStateError(
                f"sweep '{self.name}' is under way in another process; wait for it or stop it there"
            ) from None

    def unchanged_bundle(self) -> Bundle:
        """Return the sweep's bundle.

        Raises:
            BundleError: If its content is no longer what the sweep began on.
        """
        record = self.record
        bundle = open_bundle(self.workspace, record.bundle)
        if bundle.manifest.digest != record.bundle_digest:
            raise BundleError(
                f"bundle '{bundle.name}' has changed since sweep '{self.name}' began, so that its "
                "trials no longer compare; begin a new sweep under another name"
            )
        return bundle


def make_sweep(
    workspace: Workspace,
    bundle: str,
    method: str = "gsr",
    *,
    fixed: Mapping[str, Any] | None = None,
    ranges: Mapping[str, Range | Sequence[Any]] | None = None,
    trials: int = 30,
    sampler: Sampler = "tpe",
    seed: int = 0,
    seeds: int = 5,
    device: str = "auto",
    name: str = "",
) -> Sweep:
    """Check everything that can be checked, then make a sweep, or one that is there go on.

    Args:
        workspace: Where it is kept.
        bundle: Name of a bundle in the workspace, or the path of its directory.
        method: A key of the registry.
        fixed: Settings that every trial has; its `seed` is the one of all trials.
        ranges: Where to look instead of, or besides, what the method declares.
        trials: How many in all.
        sampler: `tpe` or `random`.
        seed: Decides what is drawn.
        seeds: Over how many seeds to run the winner.
        device: `auto` or a device name.
        name: Of the sweep; made up if "". If there is one of that name it goes on, and only
            `trials`, `seeds` and `device` may differ.

    Raises:
        SettingError: If a setting is not right; then nothing is left behind.
        GsrError: If the bundle or the device is not.
    """
    if not name:
        name = f"{method}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
        raise SettingError(
            f"sweep name '{name}' is not allowed; use up to 100 letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit"
        )
    if sampler not in ("tpe", "random"):
        raise SettingError(f"sampler is '{sampler}'; choose tpe or random")
    for what, count in (("trials", trials), ("seeds", seeds)):
        if count < 1:
            raise SettingError(f"{what} is {count}; ask for at least one")
    if seed < 0:
        raise SettingError(f"seed is {seed}; choose 0 or more")
    opened = open_bundle(workspace, bundle)
    made = make_method(method, fixed)
    # The last seed of the winner, so that one that is too large is refused at once.
    make_method(method, {**dict(fixed or {}), "seed": made.seed + seeds - 1})
    pick(device)
    settings = made.settings()
    inside = opened.path.parent == workspace.bundles
    wanted = SweepRecord(
        name=name,
        created=now(),
        bundle=opened.name if inside else str(opened.path.resolve()),
        bundle_digest=opened.manifest.digest,
        method=method,
        fixed={key: settings[key] for key in fixed or {}},
        space=search_space(method, fixed, ranges),
        sampler=sampler,
        seed=seed,
        trials=trials,
        seeds=seeds,
        device=device,
        versions={**versions(), "optuna": version("optuna")},
    )
    sweep = Sweep(workspace, workspace.sweeps / name)
    if (sweep.path / "sweep.json").is_file():
        _go_on(sweep, wanted)
    else:
        sweep.path.mkdir(parents=True, exist_ok=True)
        sweep.write(wanted)
    return sweep


def _go_on(sweep: Sweep, wanted: SweepRecord) -> None:
    """Make an earlier sweep want what is wanted now.

    Raises:
        RunStateError: If it is under way.
        SettingError: If something differs that decides its trials.
    """
    with sweep.lock():
        before = open_sweep(sweep.workspace, sweep.name).record
        for key in ("bundle", "method", "fixed", "space", "sampler", "seed"):
            was, now_ = getattr(before, key), getattr(wanted, key)
            if was != now_:
                raise SettingError(
                    f"sweep '{sweep.name}' was begun with another {key}: {_told(was)}, not "
                    f"{_told(now_)}; choose another name to begin a new one"
                )
        sweep.unchanged_bundle()
        done = sum(trial.outcome is not None for trial in sweep.trials())
        if wanted.trials < done:
            raise SettingError(
                f"sweep '{sweep.name}' has done {done} trials, more than {wanted.trials}; ask for "
                "at least as many"
            )
        changes = {"trials": wanted.trials, "seeds": wanted.seeds, "device": wanted.device}
        if wanted.trials != before.trials:
            changes |= {"winner": None, "runs": []}
        sweep.write(before.model_copy(update=changes))


def _told(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_told(each)}" for key, each in value.items()) or "nothing"
    if isinstance(value, Range):
        return f"{value.low:g} to {value.high:g}" + ", log" * value.log
    return "/".join(map(str, value)) if isinstance(value, tuple) else str(value)


def open_sweep(workspace: Workspace, name: str) -> Sweep:
    """Open a sweep by its name.

    Raises:
        RunNotFoundError: If there is none.
        GsrError: If the directory is not that of a sweep that this version reads.
    """
    sweep = Sweep(workspace, workspace.sweeps / name)
    check_record("sweep", sweep, FORMAT)
    return sweep


def list_sweeps(workspace: Workspace) -> list[Sweep]:
    """Return the sweeps of a workspace, newest first; what `open_sweep` refuses is passed over."""
    return newest_first("sweep", workspace.sweeps, partial(open_sweep, workspace))


# Computing -----------------------------------------------------------------------------------


def run_sweep(
    sweep: Sweep,
    *,
    jobs: int = 1,
    progress: Report | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> SweepRecord:
    """Compute what is missing of a sweep: its trials, its winner, and the winner's seeds.

    With one job the outcome depends on the record alone. With more, the trials of `tpe` also
    depend on which of them end first.

    Args:
        sweep: The sweep.
        jobs: Trials to compute at a time, each in a process of its own.
        progress: Told the fraction done and what is being done.
        should_stop: Asked now and then; what is done by then is kept.

    Raises:
        RunStateError: If it was stopped, another process has it, no trial succeeded, or a seed's
            run failed.
        SettingError: If `jobs` is not positive.
        BundleError: If the bundle has changed.
    """
    if jobs < 1:
        raise SettingError(f"jobs is {jobs}; ask for at least one")
    report = progress or (lambda fraction, text: None)
    stop = should_stop or (lambda: False)
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
    sweep: Sweep, record: SweepRecord, jobs: int, report: Report, stop: Callable[[], bool]
) -> list[Trial]:
    """Compute the trials that are missing and return all, by place.

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
        with _workers(sweep, min(jobs, len(missing)), stop) as (pool, work, stopping):
            while running or (missing and not stopping()):
                report(*_progress(record, ended))
                while missing and len(running) < jobs and not stopping():
                    place = missing.pop(0)
                    draw = book.ask(place)
                    repeated = known.get(_key(draw.settings))
                    future = _done(repeated) if repeated else pool.submit(work, draw.settings)
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
        # Whatever is half-done now will be drawn again.
        book.give_up()
    if len(ended) < record.trials:
        raise RunStateError(
            f"sweep '{sweep.name}' was stopped after {len(ended)} of {record.trials} trials, which "
            "are kept; it can go on"
        )
    return [ended[place] for place in sorted(ended)]


def _key(settings: Mapping[str, Setting]) -> str:
    return json.dumps(settings, sort_keys=True)


def _done(outcome: Outcome) -> Future[Outcome | None]:
    """Return what a trial of the same settings brought, as if it had been computed."""
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
        trials: By place; of equals the earliest is the best.
    """
    rule = SELECTION_RULES[record.base.selection]
    best, kept = (-math.inf, math.inf), None
    for trial in trials:
        found = trial.outcome
        if found is not None and found.score is not None and found.loss is not None:
            candidate = found.score, found.loss
            if kept is None or rule.improves(candidate, best):
                best, kept = candidate, trial
    return kept


def _winner(record: SweepRecord, trials: Sequence[Trial]) -> Winner:
    """Return what is run over seeds.

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
    sweep: Sweep, record: SweepRecord, winner: Winner, report: Report, stop: Callable[[], bool]
) -> SweepRecord:
    """Run the winner over the seeds that are missing.

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
            and config.bundle_digest == record.bundle_digest
            and config.settings == wanted
            and run.state.status is Status.FINISHED
        ):
            return run
    return None


# Trials --------------------------------------------------------------------------------------


class _Scorer:
    """Computes trials, one after another, on data that it loads once."""

    def __init__(self, sweep: Sweep, stop: Callable[[], bool]) -> None:
        record = sweep.record
        bundle = sweep.unchanged_bundle()
        self.record, self.stop = record, stop
        self.group_names = bundle.group_names
        # The test rows are left behind here, whatever else is done.
        self.problem, _ = load_problem(bundle, pick(record.device), seed=record.base.seed)

    def __call__(self, settings: Mapping[str, Setting]) -> Outcome | None:
        """Return what settings bring on val; None if the sweep is being stopped."""
        stopped = False

        def monitor(progress: Progress) -> bool:
            nonlocal stopped
            stopped = self.stop()
            return stopped

        begun = time.perf_counter()
        try:
            method = make_method(self.record.method, {**self.record.fixed, **settings})
            result = fit(method, self.problem, self.group_names, monitor=monitor)
        except Exception as error:
            # Whatever goes wrong with some settings, others may do.
            known = isinstance(error, GsrError | FloatingPointError)
            message = str(error) if known else f"{type(error).__name__}: {error}"
            return Outcome(None, seconds=time.perf_counter() - begun, message=message)
        if stopped and result.status is Status.CANCELLED:
            return None
        if result.status is not Status.FINISHED:
            return Outcome(None, seconds=result.seconds, message=result.message)
        rule = SELECTION_RULES[method.selection]
        found = overall(result.history, "val", result.step_index)
        score, loss = found[rule.accuracy], found[rule.loss]
        if not (math.isfinite(score) and math.isfinite(loss)):
            message = f"its {rule.accuracy.replace('_', ' ')} on val cannot be measured"
            return Outcome(None, seconds=result.seconds, message=message)
        return Outcome(score, loss, result.step_index, result.seconds)


class _Here(Executor):
    """Computes in this process, at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Compute and return the result."""
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@contextmanager
def _workers(
    sweep: Sweep, jobs: int, stop: Callable[[], bool]
) -> Iterator[tuple[Executor, Callable[..., Outcome | None], Callable[[], bool]]]:
    """Yield where trials are computed, by what, and whether the sweep is being stopped."""
    if jobs == 1:
        yield _Here(), _Scorer(sweep, stop), stop
        return
    # Not forked: torch's threads and a GPU do not survive that.
    context = multiprocessing.get_context("spawn")
    halt = context.Event()

    def stopping() -> bool:
        if stop():
            halt.set()
        return halt.is_set()

    pool = ProcessPoolExecutor(jobs, context, _begin, (sweep.workspace, sweep.path, jobs, halt))
    try:
        yield pool, _score, stopping
    finally:
        halt.set()
        pool.shutdown(cancel_futures=True)


_scorer: _Scorer | None = None
"""That of a worker process."""


def _begin(workspace: Workspace, path: Path, jobs: int, halt: Any) -> None:
    """Prepare a worker process."""
    global _scorer
    # An interrupt from the keyboard reaches all processes; the first one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(max((os.cpu_count() or 1) // jobs, 1))
    _scorer = _Scorer(Sweep(workspace, path), halt.is_set)


def _leave_with_parent() -> None:
    """End this process when the one that began it is gone, however it went."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _score(settings: Mapping[str, Setting]) -> Outcome | None:
    assert _scorer is not None
    return _scorer(settings)
