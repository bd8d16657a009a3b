"""Computing a run and writing it down as it goes."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gsr_core.compute import Compute, pick
from gsr_core.data.problem import load_problem
from gsr_core.data.variation import make_variation
from gsr_core.errors import GsrError, RunStateError, SettingError
from gsr_core.linear.head import Head
from gsr_core.methods.base import Step
from gsr_core.methods.fit import FitResult, fit
from gsr_core.methods.history import HISTORY_COLUMNS, Record
from gsr_core.methods.monitor import Monitor, Progress
from gsr_core.methods.registry import make_method
from gsr_core.progress import Status
from gsr_core.runs.record import RunState
from gsr_core.runs.samples import keep_scores
from gsr_core.runs.store import Run, create_run, kept_arrays, now
from gsr_core.workspace import Workspace

__all__ = ["HISTORY_BUDGET", "continue_run", "execute", "run"]

HISTORY_BUDGET = 2_000 * 200
"""Weights kept of a run, samples times steps; beyond it, evenly spaced steps are kept."""

_PAUSE = 0.5
"""Least seconds between two writes of a running run."""

_WRITE_SHARE = 0.1
"""Largest share of a run's time that writing may take."""


def run(
    workspace: Workspace,
    bundle: str,
    method: str = "gsr",
    *,
    device: str = "auto",
    monitor: Monitor | None = None,
    **settings: Any,
) -> Run:
    """Make a run and compute it here and now.

    Args:
        workspace: Where it is kept.
        bundle: Name of a bundle, or the path of its directory.
        method: A key of the registry.
        device: `auto` or a device name.
        monitor: Follows and may stop the run.
        **settings: Hyperparameters that differ from the defaults.

    Returns:
        The run; `run.state` says how it ended.
    """
    made = create_run(workspace, bundle, method, settings, device=device)
    execute(made, monitor=monitor)
    return made


def continue_run(run: Run, steps: int) -> None:
    """Prepare a run that ended to go on to more steps, as if it had been one long run.

    Args:
        run: Finished, cancelled or failed, with at least one stored step.
        steps: The new total.

    Raises:
        RunStateError: If the run is active or has no stored step.
        SettingError: If its method takes no steps, or has taken that many already.
    """
    _ = run.state  # Marks a run whose process died as ended.
    # Read under the lock: whoever else continued or computed it meanwhile has moved it on.
    with run.lock():
        state, config = run.stored_state(), run.config
        if state.active:
            raise RunStateError(
                f"run '{run.run_id}' is {state.status}; it can be continued once ended"
            )
        if "steps" not in config.settings:
            raise SettingError(
                f"method '{config.method}' has one step; there is nothing to continue"
            )
        if run.checkpoint() is None:
            raise RunStateError(f"run '{run.run_id}' has no stored step; start a new run instead")
        if steps <= state.step:
            raise SettingError(
                f"steps is {steps}, but run '{run.run_id}' has done {state.step}; give a larger "
                "number"
            )
        method = make_method(config.method, {**config.settings, "steps": steps})
        run.write_config(config.model_copy(update={"settings": method.settings()}))
        (run.path / "cancel").unlink(missing_ok=True)
        run.write_state(
            state.model_copy(update={"status": Status.QUEUED, "steps": steps, "message": ""})
        )
        run.log(f"to be continued from step {state.step} to {steps}")


def execute(run: Run, *, monitor: Monitor | None = None) -> RunState:
    """Compute a waiting run, from its last stored step if there is one.

    Whatever goes wrong is written into the run's state and log; only a lock held by another
    process raises.

    Args:
        run: The run.
        monitor: Follows and may stop the run.

    Returns:
        How the run ended.
    """
    with run.lock():
        config, stored = run.config, run.stored_state()
        if not stored.active:
            return stored
        if run.cancel_requested:
            state = stored.model_copy(update={"status": Status.CANCELLED})
            run.write_state(state)
            return state
        state = stored.model_copy(update={"status": Status.RUNNING, "started": now()})
        run.write_state(state)
        recorder: _Recorder | None = None
        try:
            method = make_method(config.method, config.settings)
            compute = pick(config.device)
            bundle = run.unchanged_bundle()
            problem, test = load_problem(
                bundle, compute, seed=config.seed, variation=make_variation(config.variation)
            )
            run.log(f"computing on {compute} in process {os.getpid()}")
            resume = _resume(run, stored, compute)
            recorder = _Recorder(
                run,
                state.model_copy(update={"device": str(compute), "steps": method.max_steps}),
                rows=getattr(problem, method.values_on).position,
                earlier=resume,
                follow=monitor,
            )
            result = fit(
                method, problem, bundle.group_names, test=test, monitor=recorder, resume=resume
            )
            state = _ended(run, state, recorder, result.status, result.message)
        except KeyboardInterrupt:
            state = _ended(run, state, recorder, Status.CANCELLED, "interrupted from the keyboard")
        except GsrError as error:
            state = _ended(run, state, recorder, Status.FAILED, str(error))
        except Exception as error:
            run.log(traceback.format_exc())
            reason = f"{type(error).__name__}: {error} (the run's log has the details)"
            state = _ended(run, state, recorder, Status.FAILED, reason)
        run.log(f"{state.status} at step {state.step} of {state.steps}. {state.message}".rstrip())
        return state


def _ended(
    run: Run, state: RunState, recorder: _Recorder | None, status: Status, message: str
) -> RunState:
    """Write down how a run ended, with the steps that it has done by now."""
    if recorder is not None and recorder.progress is not None:
        return recorder.stop(status, message)
    state = state.model_copy(update={"status": status, "message": message})
    run.write_state(state)
    return state


class _Recorder:
    """Writes a run down while it goes on, and stops it when somebody asked for it."""

    def __init__(
        self,
        run: Run,
        state: RunState,
        *,
        rows: np.ndarray,
        earlier: FitResult | None,
        follow: Monitor | None,
    ) -> None:
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
        self._written = -float("inf")
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
            **{f"kept.{key}": value for key, value in _step_arrays(kept, self.rows).items()},
            "step": np.array(self.progress.step_index),
            "kept_step": np.array(kept_step),
        }
        self.run.write_arrays("checkpoint.safetensors", arrays)
        self.state = self.state.model_copy(
            update={
                "step": self.progress.step_index,
                "best_step": kept_step,
                "seconds": self.progress.seconds,
                "note": kept.note,
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
            self.run.write_kept(_step_arrays(self.kept[1], self.rows))
            # Pages that need the scores make them if they are not there.
            with suppress(GsrError, OSError):
                keep_scores(self.run, self.run.unchanged_bundle())
        except GsrError as error:
            # The bundle changed or went away meanwhile.
            status, message = Status.FAILED, f"the kept step cannot be written out: {error}"
        return self.write(status=status, message=message)

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
        self.run.write_weight_history(stored)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _stored_weight(tensor: Tensor) -> np.ndarray:
    return _array(tensor).astype(np.float32)


def _step_arrays(step: Step, rows: np.ndarray) -> dict[str, np.ndarray]:
    arrays = {"head_weight": _array(step.head.weight), "head_bias": _array(step.head.bias)}
    if step.sample_weight is not None:
        arrays |= {"sample_weight": _array(step.sample_weight), "rows": rows}
        if step.inferred_group is not None:
            arrays["inferred_group"] = _array(step.inferred_group)
    if step.influence is not None:
        arrays["influence"] = _array(step.influence)
    return arrays


def _resume(run: Run, state: RunState, compute: Compute) -> FitResult | None:
    """Read back the result so far of a run that is to be continued."""
    stored = run.checkpoint()
    if stored is None:
        return None

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(compute.device)

    kept = kept_arrays(stored)
    head = Head(tensor(kept["head_weight"]), tensor(kept["head_bias"]))
    step = Step(
        head=head,
        sample_weight=tensor(kept["sample_weight"]) if "sample_weight" in kept else None,
        inferred_group=tensor(kept["inferred_group"]) if "inferred_group" in kept else None,
        influence=tensor(kept["influence"]) if "influence" in kept else None,
        note=state.note,
    )
    checkpoint = {
        key.removeprefix("method."): tensor(value)
        for key, value in stored.items()
        if key.startswith("method.")
    }
    index = int(stored["step"])
    history = run.metrics()
    return FitResult(
        step=step,
        step_index=int(stored["kept_step"]),
        last=Step(head=head, sample_weight=None, checkpoint=checkpoint),
        last_index=index,
        status=Status.RUNNING,
        message="",
        history=history[history["step"] <= index],
        seconds=state.seconds,
    )
