"""The influence of each weight on each group at any stored step of a run, computed on request.

A run stores that of its kept step when it ends, unless it would take too long.
"""

from __future__ import annotations

import numpy as np
import torch

from gsr_core.compute import pick, threads_for
from gsr_core.data.problem import load_problem
from gsr_core.data.variation import make_variation
from gsr_core.errors import RunStateError
from gsr_core.files import replace_file
from gsr_core.progress import Report, duration, silent
from gsr_core.runs.store import Run

__all__ = ["LONGEST", "influence_at", "influence_seconds", "left_out"]

LONGEST = 1800.0
"""Seconds that the influence of the kept step may take at the end of a run; what would take longer
is left to who asks for it."""


def influence_seconds(seconds: float, steps: int, n_groups: int) -> float:
    """Return about how long the influence of one step takes.

    Args:
        seconds: What a run took.
        steps: How many steps that were.
        n_groups: m; the influence on a group takes about what a step does.
    """
    return seconds / max(steps, 1) * n_groups


def left_out(seconds: float, run_id: str) -> str:
    """Return the sentence that says that the influence was not computed.

    Args:
        seconds: How long it would take.
        run_id: Of the run.
    """
    return (
        f"The influence on each group would take about {duration(seconds)} and was left out; "
        f"'gsr influence {run_id}' computes it."
    )


def influence_at(run: Run, step: int | None = None, report: Report = silent) -> np.ndarray:
    """Return the influence of each weight on each group's target loss at a stored step.

    What was computed once is kept with the run. The head is fitted anew under the step's weights,
    which are stored in float32; where the run trained a network, the influence is through all of
    its parameters as they are at the kept step (`network_influence`).

    Args:
        run: Ended, with weights, or of a network.
        step: One of `run.weight_steps()`; the kept one if None.
        report: Told how far it is, where it is through a network.

    Raises:
        RunStateError: If the run has no such step, or its method has no influence there.
        GsrError: If the bundle's content is no longer what the run was made on, or a network and
            its inputs cannot be opened.

    Returns:
        (n, m) float32 nats, rows as in `run.weighted_rows()`. Negative: more weight on the sample
        lowers the group's loss.

    >>> run = gsr.run(place, "birds", "gsr", steps=3)
    >>> influence_at(run, 1).shape
    (40, 4)
    """
    config = run.config
    step = run.state.best_step if step is None else step
    if (stored := run.influence_of(step)) is not None:
        return stored
    method = config.make_method()
    values = _of_network(run, step, report) if method.acts_on == "network" else _of_head(run, step)
    file = run.influence_file(step)
    file.parent.mkdir(exist_ok=True)
    with replace_file(file) as temporary, temporary.open("wb") as sink:
        np.save(sink, values)
    return values


def _of_head(run: Run, step: int) -> np.ndarray:
    config, weight = run.config, run.weights_at(step)
    bundle, compute = run.unchanged_bundle(), pick(config.device)
    variation = make_variation(config.variation)
    problem, _ = load_problem(bundle, compute, seed=config.seed, variation=variation)
    with threads_for(problem.weighted.source.numel()):
        given = torch.from_numpy(weight.astype(np.float64))
        given = given.to(compute.device, compute.accumulate_dtype)
        measure = config.make_method().influence(problem, given / given.sum())
        if measure is None:
            raise RunStateError(
                f"run '{run.run_id}' has no influence at step {step}; it is defined for the steps "
                "of gsr and its variants, and for runs of networks"
            )
        return measure().values.cpu().numpy().astype(np.float32)


def _of_network(run: Run, step: int, report: Report) -> np.ndarray:
    # Here, not on top: who asks about heads need not load what trains networks.
    from gsr_core.runs.network import influence_through

    run.kept_head()
    if step != run.state.best_step:
        raise RunStateError(
            f"run '{run.run_id}' has kept the network of step {run.state.best_step} alone, and the "
            f"influence at step {step} is through that of step {step}; leave the step out"
        )
    config, bundle, compute = run.config, run.unchanged_bundle(), pick(run.config.device)
    problem, _ = load_problem(
        bundle,
        compute,
        seed=config.seed,
        variation=make_variation(config.variation),
        weighted_split=run.values_split,
        # Only labels and groups are looked at.
        in_memory=0,
    )
    return influence_through(run, bundle, compute, problem, report)
