"""Computing a run and writing it down as it goes."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gsr_core.compute import Compute, pick
from gsr_core.data.bundle import Bundle
from gsr_core.data.problem import Problem, judged_by, load_problem
from gsr_core.data.seen import seen_groups
from gsr_core.data.variation import Variation, make_variation
from gsr_core.errors import GsrError, RunStateError, SettingError
from gsr_core.files import is_full
from gsr_core.linear.head import Head
from gsr_core.linear.influence import Influence
from gsr_core.methods.base import Method, Step
from gsr_core.methods.edited import edited_refit
from gsr_core.methods.fit import FitResult, fit
from gsr_core.methods.monitor import Monitor
from gsr_core.progress import Report, Status, Stopped, silent
from gsr_core.runs.record import RunConfig, RunState
from gsr_core.runs.recorder import Recorder
from gsr_core.runs.recovery import NETWORK_PREFIX, kept_arrays
from gsr_core.runs.store import Run, create_run, now
from gsr_core.workspace import Workspace

__all__ = ["continue_run", "execute", "run"]


def run(
    workspace: Workspace,
    bundle: str,
    method: str = "gsr",
    *,
    device: str = "auto",
    variation: dict[str, Any] | None = None,
    monitor: Monitor | None = None,
    **settings: Any,
) -> Run:
    """Make a run and compute it here and now.

    Args:
        workspace: Where it is kept.
        bundle: Name of a bundle, or the path of its directory.
        method: A key of the registry.
        device: `auto` or a device name.
        variation: What is changed about the bundle's rows; see `create_run`.
        monitor: Follows and may stop the run.
        **settings: Hyperparameters that differ from the defaults.

    Returns:
        The run; `run.state` says how it ended.

    >>> run = gsr.run(place, "birds", "gsr", steps=5)
    >>> print(run.state.status, run.state.step)
    finished 5
    >>> run.weights().columns.tolist()
    ['sample_id', 'row', 'group', 'y', 'weight']
    """
    new = create_run(workspace, bundle, method, settings, device=device, variation=variation)
    execute(new, monitor=monitor)
    return new


def continue_run(run: Run, steps: int) -> None:
    """Prepare a run that ended to go on to more steps, as if it had been one long run.

    Args:
        run: Finished, cancelled or failed, with at least one stored step.
        steps: The new total.

    Raises:
        RunStateError: If the run is active or has no stored step.
        SettingError: If its method takes no steps, or has taken that many already.

    >>> run = gsr.run(place, "birds", "gsr", steps=5)
    >>> gsr.continue_run(run, 8)
    >>> print(gsr.execute(run).step)
    8
    """
    _ = run.state  # Marks a run whose process died as ended.
    # Read under the lock: whoever else continued or computed it meanwhile has moved it on.
    with run.lock():
        state, config = run.stored_state(), run.config
        if state.active:
            raise RunStateError(
                f"run '{run.run_id}' is {state.status}; it can be continued once ended"
            )
        if config.edited:
            raise SettingError(
                f"run '{run.run_id}' is one head, fitted anew after an edit of another run's rows; "
                "there is nothing to continue"
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
        method = config.make_method(steps=steps)
        run.write_config(config.model_copy(update={"settings": method.settings()}))
        (run.path / "cancel").unlink(missing_ok=True)
        run.write_state(
            state.model_copy(update={"status": Status.QUEUED, "steps": steps, "message": ""})
        )
        run.full_marker.unlink(missing_ok=True)
        run.log(f"to be continued from step {state.step} to {steps}")


def execute(run: Run, *, monitor: Monitor | None = None, report: Report | None = None) -> RunState:
    """Compute a waiting run, from its last stored step if there is one.

    Whatever goes wrong is written into the run's state and log; only a lock held by another
    process raises.

    Args:
        run: The run.
        monitor: Follows and may stop the run.
        report: Told what is going on within a step that takes long.

    Returns:
        How the run ended.

    >>> run = gsr.create_run(place, "birds", "gsr", {"steps": 3})
    >>> print(execute(run).status)
    finished
    """
    with run.lock():
        config, stored = run.config, run.stored_state()
        if not stored.active:
            return stored
        if run.cancel_requested:
            state = stored.model_copy(update={"status": Status.CANCELLED})
            run.write_state(state)
            return state
        try:
            return _compute(run, config, stored, monitor, report or silent)
        except Exception as error:
            if not is_full(error):
                raise
            return run.give_up()


def _compute(
    run: Run, config: RunConfig, stored: RunState, monitor: Monitor | None, report: Report
) -> RunState:
    """Compute a run whose lock is held, and write down how it ends.

    Raises:
        Exception: If there is no room on the disk; anything else is written down.
    """
    state = stored.model_copy(update={"status": Status.RUNNING, "started": now()})
    run.write_state(state)
    recorder: Recorder | None = None
    try:
        variation, method = make_variation(config.variation), config.make_method()
        compute = pick(config.device)
        bundle = run.unchanged_bundle()
        whole = method.acts_on == "network"
        problem, test = load_problem(
            bundle,
            compute,
            seed=config.seed,
            variation=variation,
            weighted_split=method.fitted_split(bundle.manifest),
            # Only the splits and their labels are looked at.
            **({"in_memory": 0} if whole else {}),
        )
        seen = seen_groups(bundle, variation)
        if variation.edits:
            method, problem = edited_refit(method), _with_weights(run, problem, variation)
        if method.reads_words:
            # Here, not on top: other runs need not load what opens networks.
            from gsr_core.runs.words import words_of

            problem = replace(problem, words=words_of(bundle, seen))
        run.log(f"computing on {compute} in process {os.getpid()}")
        resume = _resume(run, stored, compute, method, problem)
        finish = None
        state = state.model_copy(update={"device": str(compute), "steps": method.max_steps})
        if whole:

            def tell(fraction: float, text: str) -> None:
                step = stored.step if recorder is None else recorder.tell(text)
                report((step + fraction) / method.max_steps, text)

            problem, finish = _with_network(run, bundle, compute, problem, tell)
        recorder = Recorder(
            run,
            state,
            rows=getattr(problem, method.values_on).position,
            earlier=resume,
            follow=monitor,
            finish=finish,
        )
        result = fit(
            method,
            problem,
            seen.names,
            test=test,
            judged=None if seen.own else judged_by(bundle, problem),
            monitor=recorder,
            resume=resume,
        )
        state = _ended(run, state, recorder, result.status, result.message)
    except Stopped as stopped:
        state = _ended(run, state, recorder, Status.CANCELLED, str(stopped))
    except KeyboardInterrupt:
        state = _ended(run, state, recorder, Status.CANCELLED, "interrupted from the keyboard")
    except Exception as error:
        if is_full(error):
            raise
        if isinstance(error, GsrError):
            reason = str(error)
        else:
            run.log(traceback.format_exc())
            reason = f"{type(error).__name__}: {error} (the run's log has the details)"
        state = _ended(run, state, recorder, Status.FAILED, reason)
    run.log(f"{state.status} at step {state.step} of {state.steps}. {state.message}".rstrip())
    return state


def _ended(
    run: Run, state: RunState, recorder: Recorder | None, status: Status, message: str
) -> RunState:
    """Write down how a run ended, with the steps that it has done by now."""
    if recorder is not None and recorder.progress is not None:
        return recorder.stop(status, message)
    state = state.model_copy(update={"status": status, "message": message})
    run.write_state(state)
    return state


def _with_weights(run: Run, problem: Problem, variation: Variation) -> Problem:
    """Return the problem with the weights that the last edit leaves."""
    rows = problem.weighted.position
    weight = variation.edits[-1].weights(run.base_weights(), rows)
    compute = problem.compute
    given = torch.from_numpy(weight).to(compute.device, compute.accumulate_dtype)
    return replace(problem, given=given)


def _with_network(
    run: Run,
    bundle: Bundle,
    compute: Compute,
    problem: Problem,
    tell: Report,
) -> tuple[Problem, Callable[[Step], None]]:
    """Return the problem with what is trained, and what writes the kept network down."""
    # Here, not on top: runs of heads need not load what trains networks.
    from gsr_core.runs.network import keep_network, open_trainable

    trainable = open_trainable(bundle, compute, tell, lambda: run.cancel_requested)
    return replace(problem, network=trainable), partial(keep_network, run, trainable)


def _resume(
    run: Run, state: RunState, compute: Compute, method: Method, problem: Problem
) -> FitResult | None:
    """Read back the result so far of a run that is to be continued."""
    stored = run.checkpoint()
    if stored is None:
        return None

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(compute.device)

    kept = {name: tensor(array) for name, array in kept_arrays(stored).items()}
    head, measure = Head(kept["head_weight"], kept["head_bias"]), None
    if "influence" in kept:
        measure = partial(Influence, kept["influence"])
    elif "u" in kept:
        measure = method.influence(problem, kept["sample_weight"].clone(), kept["u"].clone())
    step = Step(
        head=head,
        sample_weight=kept.get("sample_weight"),
        inferred_group=kept.get("inferred_group"),
        u=kept.get("u"),
        measure=measure,
        note=state.note,
        candidate="provisional" not in kept,
        network={
            name.removeprefix(NETWORK_PREFIX): value.cpu()
            for name, value in kept.items()
            if name.startswith(NETWORK_PREFIX)
        }
        or None,
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
