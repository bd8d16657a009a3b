"""Runs that train a whole network: what they train, and what they leave.

```
<run>/network.safetensors   the kept network, head included: a checkpoint for `--checkpoint`
      features.npy          (N, d) float32, what it makes of every row of the bundle
```
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from gsr_core.compute import Compute
from gsr_core.data.bundle import Bundle
from gsr_core.data.problem import Problem
from gsr_core.errors import SettingError
from gsr_core.features.batches import Batches, to_device
from gsr_core.features.checkpoints import save_checkpoint
from gsr_core.features.extract import extract
from gsr_core.features.learner import Learner, autocast_dtype, random_states
from gsr_core.features.trainable import Trainable
from gsr_core.ingest.reopen import (
    check_inputs,
    inputs_of,
    network_choice,
    network_of,
    training_of,
)
from gsr_core.methods.base import Step
from gsr_core.methods.network.base import NetworkMethod
from gsr_core.methods.network.gsr import GSRFGN, NetworkGSR
from gsr_core.methods.network.influence import network_influence
from gsr_core.methods.network.loop import Loop
from gsr_core.progress import Report, ShouldStop, never
from gsr_core.runs.cost import Cost
from gsr_core.runs.store import Run

__all__ = [
    "NETWORK",
    "influence_through",
    "keep_network",
    "open_trainable",
    "predict_network",
    "trained_choice",
]

NETWORK = "network.safetensors"

_TRIES = 3
_PROCESS = 1.0e9
"""Bytes of a process that trains, without its network: libraries and batches of usual size."""
_COPIES = 9
"""Arrays of a network's size that a run holds at a time."""


def open_trainable(
    bundle: Bundle, compute: Compute, report: Report, should_stop: ShouldStop
) -> Trainable:
    """Open the inputs and the network behind a bundle.

    Args:
        bundle: The bundle.
        compute: Where to train.
        report: See `Trainable`.
        should_stop: See `Trainable`.

    Raises:
        GsrError: If they are not there, are others now, or cannot be trained.
    """
    report(0.0, "Opening the inputs")
    inputs = inputs_of(bundle)
    check_inputs(bundle, inputs, compute.device)
    return Trainable(
        inputs=inputs,
        network=lambda start, seed: network_of(bundle, start, seed),
        training=training_of(bundle),
        device=compute.device,
        report=report,
        should_stop=should_stop,
    )


def keep_network(run: Run, trainable: Trainable, step: Step) -> None:
    """Write the kept network and the features that it makes of every row of the bundle.

    Args:
        run: The run.
        trainable: What it trained.
        step: The kept step.

    Raises:
        SettingError: If features are not finite.
        SourceError: If an input can no longer be read.
    """
    assert step.network is not None
    config = run.config
    network = trainable.network(config.settings["start"], config.seed)
    network.module.load_state_dict(step.network)
    # Until its head is written the run has none: that of before is of other features.
    run.head_file.unlink(missing_ok=True)
    how = f"{config.method}, run {run.run_id}"
    save_checkpoint(network.module, run.path / NETWORK, training=how)
    folder = run.path / "extraction"
    result = extract(
        network.backbone(),
        trainable.inputs,
        folder,
        device=trainable.device,
        precision="float32",
        progress=lambda now: trainable.report(now.done / max(now.total, 1), str(now)),
    )
    if not result.complete:
        raise SettingError("the features of the kept network are not complete; continue the run")
    (folder / "features.npy").replace(run.features_file)
    shutil.rmtree(folder, ignore_errors=True)


def influence_through(
    run: Run, bundle: Bundle, compute: Compute, problem: Problem, report: Report
) -> np.ndarray:
    """Return the influence of trained rows on groups through the network that a run kept.

    What stands for the inverse curvature is what the method has for it, and for methods that have
    nothing, conjugate gradients on the Gauss-Newton matrix, as GSR-F-GN. What there is to say of
    the solve goes into the run's log.

    Args:
        run: A run of a network that has ended.
        bundle: Its bundle.
        compute: Where to compute.
        problem: The rows, as the run saw them.
        report: Told of each pass over the rows.

    Returns:
        (n, m) float32 nats, rows as in `Run.weighted_rows`; see `network_influence`.

    Raises:
        GsrError: If inputs or network cannot be opened, or the network not be differentiated.
    """
    method, n = run.config.make_method(), len(problem.weighted)
    assert isinstance(method, NetworkMethod)
    trainable = open_trainable(bundle, compute, report, never)
    loop = Loop(method, replace(problem, network=trainable), None)
    loop.learner.module.load_state_dict(load_file(run.path / NETWORK))
    if run.weights(["row"]) is None:
        weight = torch.full((n,), 1 / n, dtype=torch.float64)
    else:
        weight = torch.from_numpy(run.weights_at(run.state.best_step).astype(np.float64))
    how = (method if isinstance(method, NetworkGSR) else GSRFGN()).how()
    values, note = network_influence(loop, weight / weight.sum(), how)
    run.log(f"influence through the network: {note}")
    return values.cpu().numpy().astype(np.float32)


def trained_choice(bundle: Bundle, checkpoint: Path) -> dict[str, Any]:
    """Return the choice of the network behind a bundle with other weights, as JSON.

    Args:
        bundle: The bundle.
        checkpoint: The file with the weights.
    """
    changes = {"checkpoint": str(checkpoint), "weights": ""}
    return network_choice(bundle, "trained").model_copy(update=changes).model_dump(mode="json")


def predict_network(bundle: Bundle, method: NetworkMethod, compute: Compute) -> Cost:
    """Predict what a run takes by training on a batch of its inputs, on a copy of the network.

    A move of full-network GSR's weights counts with all the passes that its solve may take. What
    methods do once, such as clustering, does not count.

    Args:
        bundle: The data.
        method: With its settings.
        compute: Where it is to run.

    Raises:
        GsrError: If the bundle has no network that can be trained.
    """
    inputs = inputs_of(bundle)
    network = network_of(bundle, method.start, method.seed)
    training = method.training(training_of(bundle))
    device = compute.device
    learner = Learner(network.module, training, device, autocast_dtype(training.precision, device))
    rows = bundle.rows_of[method.fitted_split(bundle.manifest)]
    batch = rows[: training.batch_size]
    batches = Batches(inputs, bundle.y, network.preprocessing, workers=0)
    seconds: dict[bool, float] = {}
    with random_states(device):
        for trains in (True, False):
            learner.model.train(trains)
            tries = []
            for _ in range(_TRIES):
                begun = time.perf_counter()
                for prepared, labels in batches.read([batch]):
                    with torch.set_grad_enabled(trains):
                        loss = cross_entropy(learner.logits(prepared), labels.to(device))
                    if trains:
                        learner.descend(loss)
                    float(loss.detach())
                tries.append(time.perf_counter() - begun)
            seconds[trains] = min(tries) / len(batch)
    sizes = bundle.manifest.split_sizes
    looked_at = sum(sizes.get(split, 0) for split in ("target", "val", "test"))
    training_seconds = seconds[True] * len(rows)
    if isinstance(method, NetworkGSR):

        def two_batches() -> Iterator[tuple[Any, Tensor, Tensor]]:
            for prepared, labels in batches.read([batch, batch]):
                yield to_device(prepared, device), labels, torch.ones(len(labels))

        move = method.move_cost(
            learner.module,
            two_batches,
            training.weight_decay / 2,
            rows=len(rows),
            target_rows=sizes.get("target", 0),
        )
        outer = (method.max_steps - method.warmup) / method.max_steps
        training_seconds *= 1 + outer * (method.inner_epochs - 1)
        training_seconds += outer * move.step_seconds
    numbers = sum(each.numel() for each in network.module.state_dict().values())
    return Cost(
        step_seconds=training_seconds + seconds[False] * looked_at,
        steps=method.max_steps,
        # Weights, gradients, two moments, and copies of them for the checkpoint and the kept step.
        bytes=_PROCESS + 4 * _COPIES * numbers,
        streamed=False,
    )
