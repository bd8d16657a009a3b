"""Writing a run down while it is computed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from gsr_core.errors import GsrError
from gsr_core.linear.influence import shortfall
from gsr_core.methods.base import Step
from gsr_core.methods.fit import FitResult
from gsr_core.methods.history import HISTORY_COLUMNS, Record, choosing_split
from gsr_core.methods.monitor import Monitor, Progress
from gsr_core.progress import Status
from gsr_core.runs.influence import LONGEST, influence_seconds, left_out
from gsr_core.runs.record import RunState
from gsr_core.runs.recovery import NETWORK_PREFIX
from gsr_core.runs.samples import keep_scores
from gsr_core.runs.store import Run

__all__ = ["HISTORY_BUDGET", "Recorder"]

HISTORY_BUDGET = 2_000 * 200
"""Weights kept of a run, samples times steps; beyond it, evenly spaced steps are kept."""

_PAUSE = 0.5
"""Least seconds between two writes of a running run."""

_WRITE_SHARE = 0.1
"""Largest share of a run's time that writing may take."""

_WORTH_INFLUENCE = 0.5
"""Seconds that the influence of a step may take while the run goes on, in case the process dies;
what takes longer is computed when the run ends."""


class Recorder:
    """Writes a run down while it goes on, and stops it when somebody asked for it."""

    def __init__(
        self,
        run: Run,
        state: RunState,
        *,
        rows: np.ndarray,
        earlier: FitResult | None,
        follow: Monitor | None,
        finish: Callable[[Step], None] | None = None,
    ) -> None:
        """Begin to follow a run.

        Args:
            run: Its lock is held.
            state: As it is now.
            rows: Positions in the bundle of the rows that have values.
            earlier: What is stored of it already.
            follow: Told after each step too.
            finish: Writes what else the kept step leaves, when the run ends.
        """
        self.finish = finish
        self.run, self.state, self.follow = run, state, follow
        self.rows = rows
        self.progress: Progress | None = None
        self.kept: tuple[int, Step] | None = None
        self.records: list[Record] = []
        self.earlier = earlier
        # A power of two, so that a continued run keeps the steps that one long run would.
        times_too_many = -(-state.steps * len(rows) // HISTORY_BUDGET)
        self.stride = 1 << max(times_too_many - 1, 0).bit_length()
        self.history: dict[int, np.ndarray] = {}
        self.best_weight: tuple[int, np.ndarray] | None = None
        if earlier is not None:
            self.kept = (earlier.step_index, earlier.step)
            for step in run.weight_steps().tolist():
                if step <= earlier.last_index and self._in_stride(step):
                    self.history[step] = run.weights_at(step)
            if earlier.step.sample_weight is not None:
                self.best_weight = (earlier.step_index, _stored_weight(earlier.step.sample_weight))
        self._written = self._told = -float("inf")
        self._cost = 0.0

    def __call__(self, progress: Progress) -> bool:
        """Take in a step; return whether to stop."""
        self.progress = progress
        self.records += progress.records
        if progress.best_index == progress.step_index:
            self.kept = (progress.step_index, progress.step)
        weight = progress.step.sample_weight
        if weight is not None:
            array = _stored_weight(weight)
            if progress.best_index == progress.step_index:
                self.best_weight = (progress.step_index, array)
            if self._in_stride(progress.step_index):
                self.history[progress.step_index] = array
        pause = max(_PAUSE, self._cost / _WRITE_SHARE)
        if time.perf_counter() - self._written >= pause:
            self.write()
        stop = bool(self.follow(progress)) if self.follow is not None else False
        return self.run.cancel_requested or stop

    def tell(self, text: str) -> int:
        """Write down what is going on within a step; return how many are written down."""
        if time.perf_counter() - self._told >= _PAUSE:
            self._told = time.perf_counter()
            self.run.write_state(self.state.model_copy(update={"doing": text}))
        return self.state.step

    def write(self, **changes: Any) -> RunState:
        """Write everything up to the step in hand, the state last."""
        assert self.progress is not None
        assert self.kept is not None
        begun = time.perf_counter()
        self.run.write_metrics(self._metrics())
        self._write_history()
        kept_step, kept = self.kept
        arrays = {
            **{f"method.{key}": _array(value) for key, value in self._checkpoint().items()},
            **{
                f"kept.{key}": value
                for key, value in _step_arrays(kept, self.rows, self._may_measure()).items()
            },
            "step": np.array(self.progress.step_index),
            "kept_step": np.array(kept_step),
        }
        self.run.write_arrays("checkpoint.safetensors", arrays)
        self.state = self.state.model_copy(
            update={
                "step": self.progress.step_index,
                "best_step": kept_step,
                "seconds": self.progress.seconds,
                "note": _note(kept) if self._may_measure() else kept.note,
                **changes,
            }
        )
        self.run.write_state(self.state)
        self._written = time.perf_counter()
        self._cost = self._written - begun
        return self.state

    def stop(self, status: Status, message: str) -> RunState:
        """Write everything and the files of the kept step."""
        assert self.kept is not None
        try:
            if self.finish is not None:
                self.finish(self.kept[1])
            measure = self._influence_seconds() <= LONGEST
            self.run.write_kept(_step_arrays(self.kept[1], self.rows, measure=measure))
            # Pages that need the scores make them if they are not there.
            with suppress(GsrError, OSError):
                keep_scores(self.run, self.run.unchanged_bundle())
        except GsrError as error:
            # The bundle changed or went away meanwhile.
            status, message = Status.FAILED, f"the kept step cannot be written out: {error}"
        changes: dict[str, Any] = {}
        if self.kept[1].measure is not None and self._influence_seconds() > LONGEST:
            note = left_out(self._influence_seconds(), self.run.run_id)
            changes["note"] = f"{self.kept[1].note} {note}".strip()
        return self.write(status=status, message=message, **changes)

    def _may_measure(self) -> bool:
        """Return whether the kept step's influence is there, or quickly would be."""
        assert self.progress is not None
        assert self.kept is not None
        return self._influence_seconds() <= _WORTH_INFLUENCE

    def _influence_seconds(self) -> float:
        """Return about how long the kept step's influence takes; 0 if it is there."""
        assert self.progress is not None
        assert self.kept is not None
        if "measured" in vars(self.kept[1]):
            return 0.0
        records = self.progress.records
        seen = choosing_split({split for _, split, *_ in records})
        groups = {name for _, split, name, *_ in records if split == seen and name}
        return influence_seconds(self.progress.seconds, self.progress.step_index, len(groups))

    def _in_stride(self, step: int) -> bool:
        return (step - 1) % self.stride == 0

    def _checkpoint(self) -> Mapping[str, Tensor]:
        assert self.progress is not None
        return self.progress.step.checkpoint

    def _metrics(self) -> pd.DataFrame:
        history = pd.DataFrame(self.records, columns=HISTORY_COLUMNS)
        if self.earlier is not None:
            history = pd.concat([self.earlier.history, history], ignore_index=True)
        return history

    def _write_history(self) -> None:
        """Write the weights of evenly spaced steps, and of the first, the kept and the last."""
        assert self.progress is not None
        assert self.kept is not None
        if self.progress.step.sample_weight is None:
            return
        stored = dict(self.history)
        if self.best_weight is not None:
            stored[self.best_weight[0]] = self.best_weight[1]
        stored[self.progress.step_index] = _stored_weight(self.progress.step.sample_weight)
        self.run.write_weight_history(stored, self.rows)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _stored_weight(tensor: Tensor) -> np.ndarray:
    return _array(tensor).astype(np.float32)


def _note(step: Step) -> str:
    """Return what the user should know about a step, how its influence was solved included."""
    short = "" if step.measured is None else shortfall(step.measured.ending)
    return step.note if short in step.note else step.note + short


def _step_arrays(step: Step, rows: np.ndarray, measure: bool) -> dict[str, np.ndarray]:
    """Return what is stored of the kept step; its influence if it may be computed."""
    arrays = {"head_weight": _array(step.head.weight), "head_bias": _array(step.head.bias)}
    if step.sample_weight is not None:
        arrays |= {"sample_weight": _array(step.sample_weight), "rows": rows}
        if step.inferred_group is not None:
            arrays["inferred_group"] = _array(step.inferred_group)
    if step.u is not None:
        arrays["u"] = _array(step.u)
    if step.network is not None:
        arrays |= {f"{NETWORK_PREFIX}{key}": _array(each) for key, each in step.network.items()}
    if not step.candidate:
        arrays["provisional"] = np.array(1)
    if measure and step.influence is not None:
        arrays["influence"] = _array(step.influence)
    return arrays
