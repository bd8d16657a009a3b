"""Stage 1: training a network by empirical risk minimisation (ERM).

Plain training is what makes a network lean on a spurious attribute, and what its features come
from: cross-entropy, no group labels, no weights, no schedule, no early stopping, batch
normalisation in training mode. Only the rows given are ever trained on.

One loop serves a single device and several. Several are driven by Lightning Fabric (an optional
library) as one process each; a batch is shared out among them, so that the settings mean the same
on any number. What is random follows from the seed and is kept in the checkpoint: on a CPU, a
training that was killed and started again gives the same network as one that was not.

```
<folder>/checkpoint.pt         where to go on; gone once training is done
         history.jsonl         one line an epoch
         network.safetensors   the trained network, head included
         training.json         what it was trained on and how
         lock                  held by the process that trains
```
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors.torch import load_file
from torch import Tensor

from gsr_core.data.inputs import Inputs
from gsr_core.errors import DeviceError, RunStateError, SettingError
from gsr_core.features.backbones import Network
from gsr_core.features.launch import launch
from gsr_core.features.learner import autocast_dtype
from gsr_core.features.presets import Training
from gsr_core.features.trainer import (
    CHECKPOINT,
    NETWORK,
    RECORD,
    TrainingJob,
    epoch_batches,
    train_rank,
)
from gsr_core.progress import Report, ShouldStop, never, silent

__all__ = ["train"]


def train(
    network: Network,
    inputs: Inputs,
    labels: np.ndarray,
    rows: np.ndarray,
    training: Training,
    folder: Path,
    *,
    device: torch.device,
    val_rows: np.ndarray | None = None,
    membership: np.ndarray | None = None,
    progress: Report | None = None,
    should_stop: ShouldStop | None = None,
) -> Path | None:
    """Train a network and keep it in a folder; go on where an earlier call stopped.

    An earlier call's checkpoint is used if inputs, labels, rows, settings and architecture are
    the same, and if it was finished nothing is computed. `network.module` is trained in place; it
    is on the CPU and in eval mode afterwards. The random states of torch are left as they were.

    With several devices the function starts a process for each, which import the caller's main
    module: a script must guard its work with `if __name__ == "__main__"`.

    A last batch of an epoch that leaves a device with one row is left out of that epoch, because
    batch normalisation has no variance of one row.

    Args:
        network: What to train, from the weights that it has.
        inputs: Of all n samples.
        labels: (n,) int in [0, K).
        rows: Positions of the rows to train on.
        training: How.
        folder: Where to keep checkpoint, history and result; made if missing.
        device: Where; the kind of device if there are to be several.
        val_rows: Rows to score after each epoch, for information only.
        membership: (n, m) bool, groups of the rows, for the worst group's accuracy.
        progress: Called with the fraction done and how it goes after each step.
        should_stop: Called after each step; True ends the training, and what is done stays.

    Returns:
        The file of the trained network, which `load_backbone` takes; None if it was stopped.

    Raises:
        SettingError: If rows, labels and network do not fit, a batch does not fit into memory, or
            the loss is no longer finite.
        DeviceError: If there are fewer devices than asked for.
        SourceError: If an input cannot be read.
        RunStateError: If another process trains in the folder.
        CheckpointError: If the folder's checkpoint cannot be read.
        MissingExtraError: If several devices are asked for without Lightning Fabric.
    """
    rows = np.asarray(rows, dtype=np.int64)
    labels = np.asarray(labels)
    _check(network, inputs, labels, rows)
    size = _devices(training, device)
    if training.batch_size < 2 * size:
        raise SettingError(
            f"batch_size is {training.batch_size} for {size} devices together; it must be at "
            f"least {2 * size}"
        )
    if len(rows) < 2 * size:
        raise SettingError(f"there are {len(rows)} rows to train on; {2 * size} are the fewest")
    job = TrainingJob()
    job.network, job.inputs, job.labels, job.rows = network, inputs, labels, rows
    job.training, job.folder, job.device, job.size = training, folder, device, size
    job.dtype = autocast_dtype(training.precision, device)
    job.val_rows = None if val_rows is None else np.asarray(val_rows, dtype=np.int64)
    job.membership = membership
    job.digest = _digest(job)
    job.report = progress or silent
    job.should_stop = should_stop or never
    # Fails on augmentation that the inputs do not allow before any process starts.
    epoch_batches(job)

    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        for leftover in folder.glob(f".{CHECKPOINT}.*.tmp"):
            leftover.unlink(missing_ok=True)
        if _is_finished(job):
            job.report(1.0, "Trained already")
        elif not (launch(job) if size > 1 else train_rank(None, job)):
            return None
        network.module.cpu().load_state_dict(load_file(folder / NETWORK))
        network.module.eval()
    return folder / NETWORK


def _check(network: Network, inputs: Inputs, labels: np.ndarray, rows: np.ndarray) -> None:
    """Check that network, inputs and labels fit each other.

    Raises:
        SettingError: If they do not.
    """
    if inputs.modality != network.modality:
        raise SettingError(
            f"the network takes {network.modality} inputs, but these are {inputs.modality}; "
            "choose another network"
        )
    if len(labels) != len(inputs):
        raise SettingError(f"there are {len(labels)} labels for {len(inputs)} inputs")
    if not len(rows):
        raise SettingError("there are no rows to train on; put some into train")
    weight = network.module.get_submodule(network.head_name).weight
    assert isinstance(weight, Tensor)
    n_classes = len(weight)
    targets = labels[rows]
    if targets.min() < 0 or targets.max() >= n_classes:
        raise SettingError(
            f"labels of the rows to train on go from {targets.min()} to {targets.max()}, but the "
            f"network has {n_classes} classes, 0 to {n_classes - 1}; load it for as many classes "
            "as there are"
        )
    counts = np.bincount(targets, minlength=n_classes)
    if not counts.all():
        missing = ", ".join(map(str, np.flatnonzero(counts == 0)))
        raise SettingError(
            f"classes {missing} have no rows to train on; rows by class are {counts.tolist()}: "
            "leave those classes out or put rows of them into train"
        )


def _devices(training: Training, device: torch.device) -> int:
    """Return how many devices to train on.

    Raises:
        DeviceError: If there are not so many.
    """
    several = device.type == "cuda" and device.index is None
    present = torch.cuda.device_count() if several else 1
    if training.devices == "auto":
        return max(present, 1)
    if device.type != "cpu" and training.devices > present:
        raise DeviceError(
            f"{training.devices} devices were asked for, but there {'are' if several else 'is'} "
            f"{present} of '{device}'; set devices to at most that, or to auto"
        )
    return training.devices


def _digest(job: TrainingJob) -> str:
    """Return the SHA-256 of everything that the trained network follows from.

    On how many devices and by how many workers does not belong to it.
    """
    settings = job.training.settings()
    for name in ("workers", "devices"):
        del settings[name]
    about = {
        "settings": settings,
        "network": job.network.facts,
        "preprocessing": job.network.preprocessing.model_dump(mode="json"),
        "shapes": {k: list(v.shape) for k, v in job.network.module.state_dict().items()},
        "inputs": job.inputs.take(job.rows).digest(),
    }
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
    digest.update(job.rows.tobytes())
    digest.update(np.asarray(job.labels[job.rows], dtype=np.int64).tobytes())
    return digest.hexdigest()


def _is_finished(job: TrainingJob) -> bool:
    record = job.folder / RECORD
    if not (record.exists() and (job.folder / NETWORK).exists()):
        return False
    try:
        training_record: Mapping[str, Any] = json.loads(record.read_text())
    except ValueError:
        return False
    return training_record.get("digest") == job.digest


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    try:
        with FileLock(folder / "lock", timeout=0):
            yield
    except Timeout:
        raise RunStateError(
            f"another process trains in {folder}; wait until it is done or stop it first"
        ) from None
