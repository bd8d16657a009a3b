"""Runs that train a whole network: what they train, and what they leave.

```
<run>/network.safetensors   the kept network, head included: a checkpoint for `--checkpoint`
      features.npy          (N, d) float32, what it makes of every row of the bundle
```
"""

from __future__ import annotations

import shutil

from gsr_core.compute import Compute
from gsr_core.data.bundle import Bundle
from gsr_core.errors import SettingError
from gsr_core.features.checkpoints import save_checkpoint
from gsr_core.features.extract import extract
from gsr_core.features.trainable import Trainable
from gsr_core.ingest.reopen import check_inputs, inputs_of, network_of, training_of
from gsr_core.methods.base import Step
from gsr_core.progress import Report, ShouldStop
from gsr_core.runs.store import Run

__all__ = ["NETWORK", "keep_network", "open_trainable"]

NETWORK = "network.safetensors"


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
    network = trainable.network("random", run.config.seed)
    network.module.load_state_dict(step.network)
    save_checkpoint(
        network.module, run.path / NETWORK, training=f"{run.config.method}, run {run.run_id}"
    )
    folder = run.path / "extraction"
    result = extract(
        network.backbone(),
        trainable.inputs,
        folder,
        device=trainable.device,
        precision="float32",
        progress=lambda now: trainable.report(now.done / max(now.total, 1), f"Features: {now}"),
    )
    if not result.complete:
        raise SettingError("the features of the kept network are not complete; continue the run")
    (folder / "features.npy").replace(run.features_file)
    shutil.rmtree(folder, ignore_errors=True)
