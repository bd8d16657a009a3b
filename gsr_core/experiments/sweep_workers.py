"""Computing the trials of a sweep, in this process or in several."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from gsr_core.compute import pick
from gsr_core.data.problem import load_problem
from gsr_core.errors import GsrError
from gsr_core.experiments.search import Outcome, Setting
from gsr_core.experiments.sweep import Sweep
from gsr_core.methods.fit import fit
from gsr_core.methods.monitor import Progress
from gsr_core.methods.registry import make_method
from gsr_core.progress import ShouldStop, Status
from gsr_core.runs.summary import overall
from gsr_core.workspace import Workspace

__all__ = ["trial_workers"]


class _Scorer:
    """Computes one trial after another on data that it loads once."""

    def __init__(self, sweep: Sweep, stop: ShouldStop) -> None:
        record = sweep.record
        bundle = sweep.unchanged_bundle()
        self.record, self.stop = record, stop
        self.group_names = bundle.group_names
        # The test rows end here: no trial can see them.
        self.problem, _ = load_problem(bundle, pick(record.device), seed=record.base.seed)

    def __call__(self, settings: Mapping[str, Setting]) -> Outcome | None:
        """Return the outcome of settings on val; None if the sweep is being stopped."""
        stopped = False

        def monitor(progress: Progress) -> bool:
            nonlocal stopped
            stopped = self.stop()
            return stopped

        start = time.perf_counter()
        try:
            method = make_method(self.record.method, {**self.record.fixed, **settings})
            result = fit(method, self.problem, self.group_names, monitor=monitor)
        except Exception as error:
            # Settings that fail in any way leave the others to be tried.
            known = isinstance(error, GsrError | FloatingPointError)
            message = str(error) if known else f"{type(error).__name__}: {error}"
            return Outcome(None, seconds=time.perf_counter() - start, message=message)
        if stopped and result.status is Status.CANCELLED:
            return None
        if result.status is not Status.FINISHED:
            return Outcome(None, seconds=result.seconds, message=result.message)
        rule = method.rule
        score = rule.score_of(overall(result.history, "val", result.step_index))
        if score is None or not all(map(math.isfinite, score)):
            message = f"its {rule.metric.replace('_', ' ')} on val cannot be measured"
            return Outcome(None, seconds=result.seconds, message=message)
        return Outcome(*score, result.step_index, result.seconds)


class _Here(Executor):
    """Computes in this process, at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Compute and return the result."""
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@contextmanager
def trial_workers(
    sweep: Sweep, jobs: int, stop: ShouldStop
) -> Iterator[tuple[Executor, Callable[..., Outcome | None], ShouldStop]]:
    """Yield an executor, the function that it calls for a trial, and whether the sweep stops."""
    if jobs == 1:
        yield _Here(), _Scorer(sweep, stop), stop
        return
    # Not forked: torch's threads and a GPU do not survive a fork.
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
"""The scorer of a worker process."""


def _begin(workspace: Workspace, path: Path, jobs: int, halt: Any) -> None:
    """Prepare a worker process."""
    global _scorer
    # An interrupt from the keyboard reaches all processes; the first one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(max((os.cpu_count() or 1) // jobs, 1))
    _scorer = _Scorer(Sweep(workspace, path), halt.is_set)


def _leave_with_parent() -> None:
    """End this process when its parent has ended, however it ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _score(settings: Mapping[str, Setting]) -> Outcome | None:
    assert _scorer is not None
    return _scorer(settings)
