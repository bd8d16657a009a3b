"""One process's part in training a network: epochs, checkpoints, scores."""

from __future__ import annotations

import json
import math
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from gsr_core.data.inputs import Inputs
from gsr_core.errors import CheckpointError
from gsr_core.features.backbones import Network, save_checkpoint
from gsr_core.features.batches import Batches, automatic_workers
from gsr_core.features.learner import (
    Learner,
    check_finite,
    explain_memory_errors,
    random_states,
    seed_random,
)
from gsr_core.features.presets import Training
from gsr_core.files import replace_file
from gsr_core.progress import Report, ShouldStop

__all__ = ["CHECKPOINT", "NETWORK", "RECORD", "TrainingJob", "epoch_batches", "train_rank"]


NETWORK = "network.safetensors"

CHECKPOINT = "checkpoint.pt"

HISTORY = "history.jsonl"

RECORD = "training.json"

SAVE_EVERY = 300.0
"""Seconds between checkpoints within an epoch."""

LOOK_EVERY = 10
"""Steps between looks at the loss on a GPU, which has to wait for each."""

FORMAT = 1


class TrainingJob:
    """What a process needs to know. No dataclass: Fabric would take one apart and copy it."""

    network: Network
    inputs: Inputs
    labels: np.ndarray
    rows: np.ndarray
    training: Training
    folder: Path
    device: torch.device
    size: int
    dtype: torch.dtype | None
    val_rows: np.ndarray | None
    membership: np.ndarray | None
    digest: str
    report: Report
    should_stop: ShouldStop


def train_rank(fabric: Any, job: TrainingJob) -> bool:
    """Train as one process of `job.size`; return whether training came to its end."""
    device = job.device if fabric is None else fabric.device
    with random_states(device):
        return _Trainer(fabric, job, device).run()


class _Trainer:
    """One process's part in a training, and where it stands."""

    def __init__(self, fabric: Any, job: TrainingJob, device: torch.device) -> None:
        self.fabric, self.job, self.device = fabric, job, device
        self.rank = 0 if fabric is None else fabric.global_rank
        training = job.training
        seed_random(training.seed + self.rank, device)
        self.order = torch.Generator().manual_seed(training.seed)
        self.order_before = self.order.get_state()
        self.epoch = self.step = 0
        self.loss = math.nan
        self.history: list[dict[str, Any]] = []
        # Loss, rows predicted right, rows: sums over the steps of this epoch in this process.
        exact = torch.float32 if device.type == "mps" else torch.float64
        self.sums = torch.zeros(3, dtype=exact, device=device)
        self.learner = Learner(job.network.module, training, device, job.dtype, fabric)
        self.module = self.learner.module
        self._restore()
        self.batches = epoch_batches(job)
        self.started = self.saved = time.monotonic()
        self.done = 0

    def run(self) -> bool:
        """Train to the end, unless asked to stop; return whether the end was reached."""
        job = self.job
        with explain_memory_errors(self.device, job.training.batch_size, 2 * job.size):
            while self.epoch < job.training.epochs:
                if not self._train_epoch():
                    return False
                self._end_epoch()
        if self.rank == 0:
            save_checkpoint(self.module, job.folder / NETWORK, training=str(job.training))
            record = {
                "digest": job.digest,
                "settings": job.training.settings(),
                "rows": len(job.rows),
                "network": job.network.facts,
            }
            _write_text(job.folder / RECORD, json.dumps(record, indent=1))
            (job.folder / CHECKPOINT).unlink(missing_ok=True)
        return True

    def _train_epoch(self) -> bool:
        job, size = self.job, self.job.size
        self.order_before = self.order.get_state()
        order = torch.randperm(len(job.rows), generator=self.order).numpy()
        starts = range(0, len(order), job.training.batch_size)
        batches = [job.rows[order[start : start + job.training.batch_size]] for start in starts]
        if len(batches[-1]) < 2 * size:
            batches.pop()
        every = 1 if self.device.type == "cpu" else LOOK_EVERY
        self.learner.model.train()
        mine = [batch[self.rank :: size] for batch in batches[self.step :]]
        for batch, targets in self.batches.read(mine, self.epoch):
            self._take_step(batch, targets.to(self.device), len(batches[self.step]))
            self.step += 1
            self.done += len(targets) * size
            last = self.step == len(batches)
            if self.step % every == 0 or last:
                stop = self._look()
                if stop and not last:
                    return False
            if self.rank == 0:
                self._tell(len(batches))
        return True

    def _take_step(self, batch: Any, targets: Tensor, total: int) -> None:
        logits = self.learner.logits(batch)
        loss = cross_entropy(logits, targets)
        # The mean over processes of this is the mean over all rows of the batch.
        share = len(targets) * self.job.size / total
        self.learner.descend(loss * share)
        with torch.no_grad():
            right = (logits.argmax(dim=1) == targets).sum()
            count = torch.tensor(float(len(targets)), device=self.device)
            self.sums += torch.stack([loss.detach() * count, right.to(loss), count])

    def _look(self) -> bool:
        """Check the loss, keep a checkpoint when it is time; return whether to stop."""
        stop = save = False
        if self.rank == 0:
            stop = self.job.should_stop()
            save = time.monotonic() - self.saved > SAVE_EVERY
        wishes = self.sums.new_tensor([stop, save])
        loss, _, rows, stops, saves = self._sum(torch.cat([self.sums, wishes])).tolist()
        self._check_finite(loss)
        self.loss = loss / rows
        if stops or saves:
            self._save()
        return bool(stops)

    def _end_epoch(self) -> None:
        job = self.job
        loss, right, rows = self._sum(self.sums).tolist()
        entry = {"epoch": self.epoch + 1, "loss": loss / rows, "accuracy": right / rows}
        if job.val_rows is not None and len(job.val_rows):
            entry |= self._scores(job.val_rows)
        self.history.append(entry)
        self.epoch, self.step = self.epoch + 1, 0
        self.sums.zero_()
        self.order_before = self.order.get_state()
        self._save()
        if self.rank == 0:
            lines = "".join(json.dumps(each) + "\n" for each in self.history)
            _write_text(job.folder / HISTORY, lines)

    def _scores(self, rows: np.ndarray) -> dict[str, Any]:
        """Return accuracy and worst-group accuracy of the network as it is, over all processes."""
        job = self.job
        members = (
            np.zeros((len(job.labels), 0), bool)
            if job.membership is None
            else np.asarray(job.membership, dtype=bool)
        )
        mine = rows[self.rank :: job.size]
        parts = [mine[at : at + 256] for at in range(0, len(mine), 256)]
        # Rows predicted right and all rows: over the split first, then in each group.
        sums = np.zeros((2, 1 + members.shape[1]))
        self.learner.model.eval()
        with torch.inference_mode():
            for part, (batch, targets) in zip(parts, self.batches.read(parts), strict=True):
                logits = self.learner.logits(batch)
                right = (logits.argmax(dim=1).cpu() == targets).numpy()
                membership = np.column_stack([np.ones(len(part)), members[part]])
                sums += [right @ membership, membership.sum(axis=0)]
        (right, *by_group), (membership, *counts) = self._sum(self.sums.new_tensor(sums)).tolist()
        scores: dict[str, Any] = {"val_accuracy": right / membership}
        accuracy = {
            group: right / count
            for group, (right, count) in enumerate(zip(by_group, counts, strict=True))
            if count
        }
        if accuracy:
            worst = min(accuracy, key=lambda group: accuracy[group])
            scores |= {"val_worst_group": worst, "val_worst_group_accuracy": accuracy[worst]}
        return scores

    def _check_finite(self, loss: float) -> None:
        check_finite(loss, self.epoch + 1, self.job.training.lr)

    def _tell(self, n_batches: int) -> None:
        epochs = self.job.training.epochs
        rate = self.done / max(time.monotonic() - self.started, 1e-9)
        self.job.report(
            (self.epoch + self.step / n_batches) / epochs,
            f"Training: epoch {self.epoch + 1} of {epochs}, loss {self.loss:.3f}, "
            f"{rate:,.0f} rows/s",
        )

    def _sum(self, values: Tensor) -> Tensor:
        """Return the sum over all processes."""
        return (
            values
            if self.fabric is None
            else self.fabric.all_reduce(values.clone(), reduce_op="sum")
        )

    def _every(self, state: Tensor) -> Tensor:
        """Return each process's random state (k,) uint8, one a row."""
        states = torch.zeros((self.job.size, len(state)), dtype=torch.int32, device=self.device)
        states[self.rank] = state.to(self.device, torch.int32)
        return self._sum(states).to("cpu", torch.uint8)

    def _save(self) -> None:
        """Write where to go on: whole, or not at all.

        Raises:
            SettingError: If a parameter is not finite; the file stays as it is.
        """
        self._check_finite(0.0 if self.learner.is_finite() else math.nan)
        cuda = self.device.type == "cuda"
        state = {
            "format": FORMAT,
            "digest": self.job.digest,
            "epoch": self.epoch,
            "step": self.step,
            "order": self.order_before,
            "random": self._every(torch.get_rng_state()),
            "random_cuda": self._every(torch.cuda.get_rng_state(self.device)) if cuda else None,
            "sums": self._sum(self.sums).cpu(),
            "history": self.history,
        }
        self.saved = time.monotonic()
        if self.rank == 0:
            state["module"] = self.module.state_dict()
            state["optimiser"] = self.learner.optimiser.state_dict()
            state["scaler"] = self.learner.scaler.state_dict()
            with replace_file(self.job.folder / CHECKPOINT) as temporary:
                torch.save(state, temporary)

    def _restore(self) -> None:
        """Go on from a checkpoint, if there is one of this very training.

        Raises:
            CheckpointError: If it cannot be read.
        """
        file = self.job.folder / CHECKPOINT
        if not file.exists():
            return
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{file} cannot be read, so training cannot go on from it; delete it to begin anew"
            ) from error
        if state.get("format") != FORMAT or state.get("digest") != self.job.digest:
            return
        self.module.load_state_dict(state["module"])
        self.learner.optimiser.load_state_dict(state["optimiser"])
        self.learner.scaler.load_state_dict(state["scaler"])
        self.epoch, self.step, self.history = state["epoch"], state["step"], state["history"]
        self.order.set_state(state["order"])
        if self.rank == 0:
            self.sums.copy_(state["sums"])
        # On more devices than before the others begin with states of their own.
        if self.rank < len(state["random"]):
            torch.set_rng_state(state["random"][self.rank])
            if state["random_cuda"] is not None and self.device.type == "cuda":
                torch.cuda.set_rng_state(state["random_cuda"][self.rank], self.device)


def epoch_batches(job: TrainingJob) -> Batches:
    """Return the batches of a training's inputs."""
    workers = job.training.workers
    return Batches(
        job.inputs,
        job.labels,
        job.network.preprocessing,
        workers=automatic_workers(job.inputs, job.size) if workers == "auto" else workers,
        augment=job.training.augment,
        seed=job.training.seed,
        pin_memory=job.device.type == "cuda",
    )


def _write_text(file: Path, text: str) -> None:
    with replace_file(file) as temporary:
        temporary.write_text(text)
