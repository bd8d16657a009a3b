"""The one driver of network methods: batches, updates, outputs, checkpoints and progress.

What is random follows from the run's seed and the number of the epoch alone, so that a run that
goes on after an epoch draws what one long run would have drawn; on a CPU it gives the same bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from gsr_core.data.problem import Problem, Rows
from gsr_core.errors import SettingError
from gsr_core.features.batches import Batches, automatic_workers, to_device
from gsr_core.features.heads import head_arrays
from gsr_core.features.learner import (
    Learner,
    autocast_dtype,
    check_finite,
    explain_memory_errors,
    seeded,
)
from gsr_core.features.trainable import Trainable
from gsr_core.linear.head import Head
from gsr_core.methods.base import Step
from gsr_core.progress import Stopped

if TYPE_CHECKING:
    from gsr_core.features.backbones import Network
    from gsr_core.methods.network.base import NetworkMethod

__all__ = ["Batch", "Epoch", "Loop", "Rounds", "Update"]

_TRIED = 4
"""Rows that are passed after an epoch to see whether the network still gives finite numbers."""
_LOOK = 0.5
"""Seconds between two looks whether to stop."""
_BLOCK = 256
"""Rows of a forward pass that only looks."""
_MIDDLING = 64
"""Least rows of a pass that differentiates."""
_NETWORK, _OTHER, _KEPT = "network.", "other.", "kept."
"""Prefixes in a checkpoint."""


@dataclass(frozen=True)
class Batch:
    """Some rows, ready for the network.

    Attributes:
        inputs: Prepared and collated.
        labels: (b,) int64, as the run sees them, on the device.
        places: (b,) int64, which of the n trained rows they are.
    """

    inputs: Any
    labels: Tensor
    places: Tensor


Update = Callable[[Batch], Tensor]
"""Does with a batch what a method does, and returns the mean loss of its rows, nats, detached."""


@dataclass(frozen=True)
class Rounds:
    """Batches that are settled as the epoch goes on.

    Attributes:
        size: How many batches there are in all.
        rounds: Gives the next batches once all before them are trained on.
    """

    size: int
    rounds: Iterator[Sequence[np.ndarray]]


@dataclass(frozen=True)
class Epoch:
    """What comes next.

    Attributes:
        batches: Places of the rows of each batch, in the order in which they are trained on.
        update: What is done with a batch; None is plain descent on the mean cross-entropy.
        values: (n,) the method's value of each row, such as the probability of being drawn; they
            sum to one, none is negative. None if all count alike. Called once the epoch is done.
        group_weight: Likewise (m,) weights of the groups, or None.
        inferred_group: (n,) int64 group that the method inferred for each row, or None.
        inferred_val: (N, m') bool membership of the rows of val in these groups, or None.
        note: What the user should know about the network after it, or ""; likewise if it is called.
        candidate: Whether this network may be the one that is kept; a first network may not.
    """

    batches: Sequence[np.ndarray] | Rounds
    update: Update | None = None
    values: Tensor | Callable[[], Tensor] | None = None
    group_weight: Callable[[], Tensor] | None = None
    inferred_group: Tensor | None = None
    inferred_val: Tensor | None = None
    note: str | Callable[[], str] = ""
    candidate: bool = True


class Loop:
    """A network in training, and where it stands.

    Attributes:
        epoch: How many epochs are done.
        kept: What the method keeps from one epoch to the next, tensors by name.
        problem: The data.
        trained: The n rows that are trained on.
        labels: (n,) int64, their classes, on the CPU.
        groups: (n, m) bool, likewise; overlap allowed.
        n_classes: K.
        learner: The network that is scored.
    """

    def __init__(
        self, method: NetworkMethod, problem: Problem, checkpoint: Mapping[str, Tensor] | None
    ) -> None:
        """Load the network and go to where training stands.

        Raises:
            SettingError: If the bundle has no network that can be trained.
        """
        if not isinstance(problem.network, Trainable):
            raise SettingError(
                f"{method.name} trains a whole network, and this problem has none; give it one "
                "by running the method on a bundle that was imported with a network"
            )
        self.source, self.method = problem.network, method
        self.training = method.training(self.source.training)
        self.device = self.source.device
        self.problem, self.trained = problem, problem.weighted
        rows = self.trained
        self.rows, self.n_classes = rows.position, problem.n_classes
        self.labels, self.groups = rows.labels.cpu(), rows.groups.cpu()
        self.epoch, self.kept = 0, {}
        self._others: dict[str, Learner] = {}
        self._stored = dict(checkpoint or {})
        self.network = self._load()
        self.learner = self._learner(self.network)
        self.batches = self._open_batches()
        if self._stored:
            self._restore()

    def __len__(self) -> int:
        """Return the number of trained rows n."""
        return len(self.rows)

    # What methods ask for ------------------------------------------------------------------

    def rng(self, purpose: int = 0) -> np.random.Generator:
        """Return the generator of this epoch's draws; another purpose gives another one."""
        return np.random.default_rng([self.method.seed, self.epoch, purpose])

    def shuffled(self, places: np.ndarray | None = None) -> list[np.ndarray]:
        """Return batches of rows, each once, in random order.

        Args:
            places: Which rows; all by default.
        """
        return self.batched(self.rng().permutation(len(self) if places is None else places))

    def drawn(self, probability: Tensor, draws: int | None = None) -> list[np.ndarray]:
        """Return batches of rows drawn with replacement.

        Args:
            probability: (n,), sums to one.
            draws: How many; n by default.
        """
        chances = probability.double().numpy()
        size = len(self) if draws is None else draws
        return self.batched(self.rng().choice(len(self), size=size, p=chances / chances.sum()))

    def batched(self, places: np.ndarray) -> list[np.ndarray]:
        """Cut rows into batches in their order; a last batch of one row is left out."""
        size = self.training.batch_size
        batches = [places[start : start + size] for start in range(0, len(places), size)]
        # Batch normalisation has no variance of one row.
        return batches[:-1] if batches and len(batches[-1]) < 2 else batches

    def descent(self, weight: Tensor | None = None) -> Update:
        """Return plain descent of the scored network on the cross-entropy.

        Args:
            weight: (n,) what each row's loss is multiplied with; one by default.
        """

        def update(batch: Batch) -> Tensor:
            losses = cross_entropy(
                self.learner.logits(batch.inputs), batch.labels, reduction="none"
            )
            factor = 1.0 if weight is None else weight[batch.places].to(losses)
            self.learner.descend((factor * losses).mean())
            return losses.detach().mean()

        return update

    def logits(self, places: np.ndarray | None = None, learner: Learner | None = None) -> Tensor:
        """Return the logits (n, K) float32 of trained rows in eval mode, on the CPU.

        Args:
            places: Which rows; all by default.
            learner: Whose; those of the scored network by default.
        """
        rows = self.rows if places is None else self.rows[places]
        return self.logits_of(rows, learner)

    def logits_of(self, rows: np.ndarray, learner: Learner | None = None) -> Tensor:
        """Return the logits (b, K) float32 of rows of the bundle in eval mode, on the CPU.

        Args:
            rows: (b,) their positions, such as those of target.
            learner: Whose; those of the scored network by default.
        """
        return torch.cat([logits for _, logits in self._pass(rows, learner or self.learner)])

    def on_device(self, batch: Batch) -> tuple[Any, Tensor]:
        """Return the inputs of a batch and its labels (b,), on the device."""
        return to_device(batch.inputs, self.device), batch.labels

    def features(self, places: np.ndarray | None = None, learner: Learner | None = None) -> Tensor:
        """Return the (n, d) float32 inputs of the head of trained rows in eval mode, on the CPU.

        Args:
            places: Which rows; all by default.
            learner: Whose; those of the scored network by default.
        """
        rows = self.rows if places is None else self.rows[places]
        return torch.cat([features for features, _ in self._pass(rows, learner or self.learner)])

    def read(
        self, rows: np.ndarray, labels: Tensor, weight: Tensor | None = None
    ) -> Iterator[tuple[Any, Tensor, Tensor]]:
        """Yield batches of rows of the bundle as they are: inputs on the device, labels, weights.

        Args:
            rows: (b,) their positions.
            labels: (b,) their classes.
            weight: (b,); one by default.
        """
        weight = torch.ones(len(rows)) if weight is None else weight
        # Derivatives of small batches cost as much as of middling ones.
        size = max(self.training.batch_size, _MIDDLING)
        parts = [rows[at : at + size] for at in range(0, len(rows), size)]
        for at, (inputs, _) in zip(
            range(0, len(rows), size), self.batches.read(parts), strict=True
        ):
            part = slice(at, at + size)
            yield to_device(inputs, self.device), labels[part], weight[part]

    def seen(self, space: Literal["features", "logits"]) -> Problem:
        """Return the data as the scored network has them, for an inference; target has no rows.

        Args:
            space: What an inference looks at: `features`, the inputs of the head, or `logits`,
                which then stand for features, with the identity for a head, as they are fewer.
        """

        def rows(known: Rows) -> Rows:
            passed = self._pass(known.position, self.learner)
            parts = [each[0] if space == "features" else each[1] for each in passed]
            return replace(known, source=torch.cat(parts).to(self.device))

        head = self.head()
        identity = torch.eye(self.n_classes, device=self.device), torch.zeros_like(head.bias)
        trained = rows(self.trained)
        target = (trained.features[:0], trained.labels[:0], trained.groups[:0])
        return replace(
            self.problem,
            weighted=trained,
            target=Rows(*target, trained.position[:0]),
            val=rows(self.problem.val),
            backbone_head=(head.weight, head.bias) if space == "features" else identity,
        )

    def captured(self, learner: Learner) -> Any:
        """Return a context that gives a list, to which each pass adds the head's input (b, d)."""
        return _Captured(learner.module.get_submodule(self.network.head_name))

    def head(self) -> Head:
        """Return a copy of the network's head as it is now, on the device."""
        weight, bias = head_arrays(self.learner.module.get_submodule(self.network.head_name))
        return Head(*(torch.tensor(each, device=self.device) for each in (weight, bias)))

    def other(self, name: str) -> Learner:
        """Return a second network beside the scored one, made at first use from the same start."""
        if name not in self._others:
            learner = self._learner(self._load())
            prefix = f"{_OTHER}{name}."
            if state := _part(self._stored, prefix):
                learner.restore(state)
            self._others[name] = learner
        return self._others[name]

    def restart(self) -> None:
        """Begin anew with the network: from the start, with a new optimiser."""
        self.network = self._load()
        self.learner = self._learner(self.network)

    def refresh(self) -> None:
        """Go on from the network's weights with a new optimiser."""
        self.learner = self._learner(self.network)

    def rate(self, share: float) -> None:
        """Go on at a share of the learning rate, which checkpoints do not have."""
        for group in self.learner.optimiser.param_groups:
            group["lr"] = share * self.training.lr

    # What the driver does ------------------------------------------------------------------

    def train(self, epoch: Epoch) -> Step:
        """Train for an epoch and return the network after it as a step.

        Raises:
            SettingError: If the loss is no longer finite or a batch does not fit into memory.
            Stopped: If it was asked to stop.
        """
        loss, last = self._run(epoch)
        # Finite weights may be too large to give finite outputs.
        usable = bool(self.logits(last[:_TRIED]).isfinite().all())
        self._check(loss if usable else math.nan)
        self.epoch += 1
        values = epoch.values if isinstance(epoch.values, Tensor | None) else epoch.values()
        group_weight = None if epoch.group_weight is None else epoch.group_weight()
        return Step(
            head=self.head(),
            sample_weight=_on(self.device, values),
            objective=loss,
            group_weight=_on(self.device, group_weight),
            inferred_group=_on(self.device, epoch.inferred_group),
            inferred_val=_on(self.device, epoch.inferred_val),
            checkpoint=self._state(),
            note=epoch.note if isinstance(epoch.note, str) else epoch.note(),
            candidate=epoch.candidate,
            network=self.learner.weights(),
            view=self._view,
        )

    def _run(self, epoch: Epoch) -> tuple[float, np.ndarray]:
        """Train on an epoch's batches; return the mean loss, nats, and the last batch.

        Raises:
            SettingError: If there is no batch.
            Stopped: If it was asked to stop.
        """
        update = epoch.update or self.descent()
        planned = epoch.batches
        if not isinstance(planned, Rounds):
            planned = Rounds(len(planned), iter([planned]))
        if not planned.size:
            raise SettingError(
                f"epoch {self.epoch + 1} has fewer than two rows to train on; train on more rows"
            )
        total, rows, places, looked = 0.0, 0, np.empty(0, dtype=np.int64), time.monotonic()
        begun = looked
        least = 2
        with (
            seeded(self.device, self.method.seed, self.epoch),
            explain_memory_errors(self.device, self.training.batch_size, least),
        ):
            for learner in (self.learner, *self._others.values()):
                learner.model.train()
            sums = torch.zeros((), device=self.device)
            for done, (places, inputs, labels) in enumerate(self._read(planned), 1):
                batch = Batch(inputs, labels.to(self.device), torch.from_numpy(places))
                sums += update(batch) * len(places)
                rows += len(places)
                if (now := time.monotonic()) - looked < _LOOK and done < planned.size:
                    continue
                looked = now
                # The one place that waits for a GPU.
                total = float(sums)
                self._check(total / rows)
                if done < planned.size:
                    if self.source.should_stop():
                        raise Stopped(f"stopped within epoch {self.epoch + 1}")
                    rate = rows / max(now - begun, 1e-9)
                    self.source.report(
                        done / planned.size,
                        f"Epoch {self.epoch + 1}: {done / planned.size:.0%}, loss "
                        f"{total / rows:.3f}, {rate:,.0f} rows/s",
                    )
        return total / rows, places

    def _read(self, planned: Rounds) -> Iterator[tuple[np.ndarray, Any, Tensor]]:
        """Yield places, inputs and labels of each batch, augmented."""
        for batches in planned.rounds:
            batches = [np.asarray(each) for each in batches]
            read = self.batches.read([self.rows[places] for places in batches], self.epoch)
            for places, (inputs, labels) in zip(batches, read, strict=True):
                yield places, inputs, labels

    def _check(self, loss: float) -> None:
        finite = loss if self.learner.is_finite() else math.nan
        check_finite(finite, self.epoch + 1, self.training.lr)

    def _pass(self, rows: np.ndarray, learner: Learner) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield features (b, d) and logits (b, K) float32 of rows of the bundle, on the CPU."""
        was_training = learner.model.training
        learner.model.eval()
        parts = [rows[at : at + _BLOCK] for at in range(0, len(rows), _BLOCK)]
        with torch.inference_mode(), self.captured(learner) as captured:
            for inputs, _ in self.batches.read(parts):
                logits = learner.logits(inputs)
                yield captured.pop().float().cpu(), logits.cpu()
        learner.model.train(was_training)

    def _view(self, rows: np.ndarray) -> _PassedFeatures:
        """Return the features of rows of the bundle as the network gives them now."""
        return _PassedFeatures(self, rows)

    def _load(self) -> Network:
        network = self.source.network(self.method.start, self.method.seed)
        if not network.seat.logits:
            raise SettingError(
                f"the network does not end in its layer '{network.head_name}', so that its head "
                "cannot be told from the rest; name its last linear layer at the import"
            )
        return network

    def _learner(self, network: Network) -> Learner:
        dtype = autocast_dtype(self.training.precision, self.device)
        return Learner(network.module, self.training, self.device, dtype)

    def _open_batches(self) -> Batches:
        labels = np.zeros(len(self.source.inputs), dtype=np.int64)
        labels[self.rows] = self.labels.numpy()
        workers = self.training.workers
        return Batches(
            self.source.inputs,
            labels,
            self.network.preprocessing,
            workers=automatic_workers(self.source.inputs, 1) if workers == "auto" else workers,
            augment=self.training.augment,
            seed=self.method.seed,
            pin_memory=self.device.type == "cuda",
        )

    def _state(self) -> dict[str, Tensor]:
        """Return where to go on, as copies."""
        state = {"epoch": torch.tensor(self.epoch)}
        learners = {_NETWORK: self.learner}
        learners |= {f"{_OTHER}{name}.": each for name, each in self._others.items()}
        for prefix, learner in learners.items():
            state |= {f"{prefix}{key}": value for key, value in learner.state().items()}
        return state | {f"{_KEPT}{key}": value.clone() for key, value in self.kept.items()}

    def _restore(self) -> None:
        self.epoch = int(self._stored["epoch"])
        self.learner.restore(_part(self._stored, _NETWORK))
        self.kept = {key: value.cpu() for key, value in _part(self._stored, _KEPT).items()}


class _PassedFeatures:
    """Features of some rows, computed when they are asked for; see `data.stored`."""

    def __init__(self, loop: Loop, rows: np.ndarray) -> None:
        self._loop, self._rows = loop, rows

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        return len(self._rows), self._loop.network.seat.n_features

    def split(self, size: int) -> Iterator[Tensor]:
        """Yield all rows, so many at a time, on the device."""
        loop = self._loop
        for start in range(0, len(self._rows), size):
            part = self._rows[start : start + size]
            blocks = [features for features, _ in loop._pass(part, loop.learner)]
            yield torch.cat(blocks).to(loop.device)


class _Captured:
    """While it is entered, each pass adds the layer's input to a list."""

    def __init__(self, layer: torch.nn.Module) -> None:
        self._layer, self._inputs = layer, []

    def __enter__(self) -> list[Tensor]:
        self._handle = self._layer.register_forward_pre_hook(
            lambda _, inputs: self._inputs.append(inputs[0].flatten(1))
        )
        return self._inputs

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


def _on(device: torch.device, values: Tensor | None) -> Tensor | None:
    return None if values is None else values.to(device)


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
    }
