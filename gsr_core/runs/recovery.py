"""Runs whose process died, or found the disk full: marked failed, their last step made readable."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gsr_core.files import is_full
from gsr_core.progress import Status
from gsr_core.runs.record import RunState

if TYPE_CHECKING:
    from gsr_core.runs.store import Run

__all__ = ["NETWORK_PREFIX", "kept_arrays", "recover"]

NETWORK_PREFIX = "network."
"""Of the arrays of a network that was trained, in a kept step."""


def recover(run: Run, state: RunState) -> RunState:
    """Mark a run whose process died as failed and make its last stored step readable.

    Where there is no room for that, the run keeps its marker, so that the next look tries again.

    Raises:
        OSError: If the state cannot be written for another reason.
    """
    trouble, was_full, is_written = "", run.full_marker.exists(), True
    try:
        stored = run.checkpoint()
        if stored is not None:
            state = state.model_copy(
                update={"step": int(stored["step"]), "best_step": int(stored["kept_step"])}
            )
            history, kept = run.metrics(), kept_arrays(stored)
            run.write_metrics(history[history["step"] <= state.step])
            if "sample_weight" in kept:
                _recover_weights(run, state, kept)
            if not any(key.startswith(NETWORK_PREFIX) for key in kept):
                run.write_kept(kept)
            elif (head := run.head()) and not np.array_equal(head[0], kept["head_weight"]):
                # A head needs the features of its network, which are those of an earlier step.
                run.head_file.unlink()
        else:
            # Half of a first step.
            for name in ("metrics.parquet", "weight_history.safetensors"):
                (run.path / name).unlink(missing_ok=True)
    except Exception as error:
        # Whoever asks how the run stands gets an answer, whatever became of its files.
        if is_full(error):
            was_full, is_written = True, False
        else:
            trouble = f"; the kept step cannot be written out: {error}"
    for leftover in run.path.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
    last = f"the last stored step is {state.step}" if state.step else "no step was stored"
    ended = "the process that computed this run ended without a word"
    if was_full:
        again = "continue the run" if state.step else "start it again"
        ended, trouble = "the disk was full", f"{trouble}; make room, then {again}"
    state = state.model_copy(
        update={"status": Status.FAILED, "message": f"{ended}; {last}{trouble}"}
    )
    try:
        run.write_state(state)
    except OSError as error:
        if not is_full(error):
            raise
        is_written = False
    run.log(state.message)
    if is_written:
        run.full_marker.unlink(missing_ok=True)
    else:
        run.full_marker.touch()
    return state


def _recover_weights(run: Run, state: RunState, kept: dict[str, np.ndarray]) -> None:
    """Make the weight history, which is written before the checkpoint, agree with it."""
    steps = [step for step in run.weight_steps().tolist() if step <= state.step]
    stored = {step: run.weights_at(step) for step in steps}
    stored[state.best_step] = kept["sample_weight"].astype(np.float32)
    run.write_weight_history(stored, kept["rows"])


def kept_arrays(stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the kept step's arrays of a stored checkpoint, without their prefix."""
    prefix = "kept."
    return {
        key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)
    }
