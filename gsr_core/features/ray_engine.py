"""The same extraction on a Ray cluster.

Rows are cut into shards. Ray Data hands them to actors, each of which has loaded the network from
the same arguments, and this process writes what they send back, in row order, into the same folder
with the same journal as an extraction on one machine. So one can go on where the other was killed.
When an actor or its machine dies, Ray starts another and gives it the shard again.

Every machine must see the checkpoint and, if the inputs are files, these files at the same paths.
"""

from __future__ import annotations

import logging
import os
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gsr_core.compute import pick
from gsr_core.data.inputs import Inputs
from gsr_core.errors import DeviceError, GsrError, SettingError
from gsr_core.extras import require
from gsr_core.features.backbones import load_backbone
from gsr_core.features.extract import (
    Extraction,
    OnBad,
    check_choices,
    extraction_digest,
    record,
    refuse_bad,
)
from gsr_core.features.forward import Forward, Precision, resolve_precision
from gsr_core.features.journal import BadRow, MemoryStore, open_store
from gsr_core.features.pace import ExtractionProgress
from gsr_core.features.prepared import PreparedBatch, prepared_batches
from gsr_core.progress import ShouldStop

__all__ = ["ShardExtractor", "extract_on_ray"]

BATCHES_A_SHARD = 8
"""What a dead actor can lose; small against the time it takes to load a network."""


def extract_on_ray(
    choice: Mapping[str, Any],
    inputs: Inputs,
    folder: Path | None = None,
    *,
    address: str = "auto",
    actors: int = 2,
    device: str = "auto",
    batch_size: int = 64,
    workers: int = 0,
    precision: Precision = "auto",
    on_bad: OnBad = "stop",
    thumbnails: bool = False,
    progress: Callable[[ExtractionProgress], None] | None = None,
    should_stop: ShouldStop | None = None,
) -> Extraction:
    """Compute the features of inputs on a cluster; see `features.extract.extract`.

    Args:
        choice: The arguments of `load_backbone`; each actor calls it.
        inputs: n inputs of the backbone's modality.
        folder: Where this process writes; the actors need not see it.
        address: Of the cluster: `auto` finds one that runs on this machine, `local` starts one
            that ends with this call, `ray://host:port` or `host:port` connects. A program that is
            connected already stays with its cluster.
        actors: How many hold the network; each needs a CPU, or a GPU where the device is one.
        device: `cpu`, `cuda`, or `auto`: `cuda` if the cluster has GPUs.
        batch_size: Inputs a forward pass.
        workers: How many prepare batches beside each actor's network; they count as CPUs.
        precision: See `extract`; `auto` is bfloat16 on GPUs.
        on_bad: See `extract`.
        thumbnails: See `extract`.
        progress: Called after each shard.
        should_stop: Called after each shard.

    Raises:
        SettingError: If an option is not allowed, or the inputs are not what the network takes.
        DeviceError: If there is no such cluster, or it is too small.
        MissingExtraError: If Ray is not installed.
        BadRowsError: If there are bad rows and `on_bad` is `stop`.
        DiskFullError: If the features do not fit the disk; the finished chunks stay.
    """
    for name, value, least in (("actors", actors, 1), ("workers", workers, 0)):
        if value < least:
            raise SettingError(f"{name} is {value}; it must be at least {least}")
    backbone = load_backbone(**choice)
    check_choices(backbone, inputs, batch_size=batch_size, on_bad=on_bad)
    with _cluster(address) as ray:
        kind = _device(ray, device, actors, workers)
        if precision == "auto" and kind == "cuda":
            precision = "bfloat16"  # This machine may have no GPU to ask.
        product_type = resolve_precision(precision, torch.device(kind))
        digest = extraction_digest(backbone, inputs, product_type, thumbnails=thumbnails)
        n, d = len(inputs), backbone.n_features
        with open_store(folder, digest, n, d, thumbnails=thumbnails) as store:
            refuse_bad(store, on_bad)
            if store.rows < n:
                arguments = {
                    "choice": dict(choice),
                    "inputs": ray.put(inputs),
                    "device": kind,
                    "precision": product_type,
                    "batch_size": batch_size,
                    "workers": workers,
                    "thumbnails": thumbnails,
                }

                def shards(start: int, again: bool) -> Iterator[PreparedBatch]:
                    del again  # Ray restarts workers itself.
                    return _shards(start, n, actors, arguments)

                record(
                    shards,
                    lambda features: lambda: np.asarray(features),
                    inputs,
                    store,
                    on_bad=on_bad,
                    progress=progress,
                    should_stop=should_stop,
                )
            elif progress is not None:
                progress(ExtractionProgress(n, n, 0.0, 0.0))
            complete = store.rows == n
    return Extraction(
        store.features(), store.bad, complete, digest, product_type, store, thumbnails
    )


class ShardExtractor:
    """An actor: a network that computes the features of the shards it is given."""

    def __init__(
        self,
        choice: Mapping[str, Any],
        inputs: Any,
        device: str,
        precision: str,
        batch_size: int,
        workers: int,
        thumbnails: bool,
    ) -> None:
        """Load the network.

        Args:
            choice: The arguments of `load_backbone`.
            inputs: Reference to the inputs of all rows.
            device: Where to compute.
            precision: As `resolve_precision` gives it.
            batch_size: Inputs a forward pass.
            workers: How many prepare batches.
            thumbnails: Whether to make thumbnails.
        """
        self.inputs: Inputs = require("ray", "ray").get(inputs)
        self.backbone = load_backbone(**choice)
        self.device = pick(device).device
        self.forward = Forward(self.backbone, self.device, precision)
        self.batch_size, self.workers, self.thumbnails = batch_size, workers, thumbnails

    def __call__(self, shards: dict[str, np.ndarray]) -> dict[str, list[bytes]]:
        """Return the shards' features, each pickled as a `PreparedBatch` that holds them.

        Args:
            shards: First row and row after the last, by `start` and `stop`.
        """
        both = zip(shards["start"], shards["stop"], strict=True)
        return {"shard": [pickle.dumps(self._shard(int(start), int(stop))) for start, stop in both]}

    def _shard(self, start: int, stop: int) -> PreparedBatch:
        part = self.inputs.take(np.arange(start, stop))
        store = MemoryStore(stop - start, self.backbone.n_features)
        with self.forward.ready():
            record(
                lambda done, _: prepared_batches(
                    part,
                    self.backbone.preprocessing,
                    start=done,
                    stop=len(part),
                    batch_size=self.batch_size,
                    workers=self.workers,
                    thumbnails=self.thumbnails,
                    pin_memory=self.device.type == "cuda",
                ),
                self.forward,
                part,
                store,
                on_bad="skip",
                progress=None,
                should_stop=None,
            )
        lost = {each.row for each in store.bad}
        good = [row for row in range(stop - start) if row not in lost]
        return PreparedBatch(
            range(start, stop),
            good,
            store.features()[good],
            [BadRow(start + each.row, each.name, each.reason) for each in store.bad],
            list(store.thumbnails()),
        )


def _shards(
    start: int, stop: int, actors: int, arguments: Mapping[str, Any]
) -> Iterator[PreparedBatch]:
    """Yield what the actors make of the rows from `start` to `stop`, in order.

    Raises:
        GsrError: If an actor raised it.
        Exception: If an actor fails otherwise.
    """
    data = require("ray.data", "ray")
    size = BATCHES_A_SHARD * arguments["batch_size"]
    cuts = [{"start": first, "stop": min(first + size, stop)} for first in range(start, stop, size)]
    shards = data.from_items(cuts, override_num_blocks=len(cuts))
    # The journal counts rows from the first; Ray holds back what comes early.
    shards.context.execution_options.preserve_order = True
    shards.context.enable_progress_bars = False
    results = shards.map_batches(
        ShardExtractor,
        batch_size=1,
        fn_constructor_kwargs=dict(arguments),
        compute=data.ActorPoolStrategy(size=min(actors, len(cuts))),
        num_cpus=max(1, arguments["workers"]),
        num_gpus=1 if arguments["device"] == "cuda" else 0,
    )
    try:
        for row in results.iter_rows():
            yield pickle.loads(row["shard"])
    except GsrError:
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, GsrError):
                raise cause from error
            cause = getattr(cause, "cause", None) or cause.__cause__
        raise


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """Yield Ray, connected.

    Raises:
        DeviceError: If there is no such cluster.
    """
    # By default Ray reports its use, and hides GPUs from what asks for none.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray = require("ray", "ray")
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    if ray.is_initialized():
        yield ray
        return
    local = {"include_dashboard": False} if address == "local" else {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(address, logging_level=logging.WARNING, log_to_driver=False, **local)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise DeviceError(
            f"there is no Ray cluster at '{address}' ({str(error).splitlines()[0]}); start one "
            "with `ray start --head`, or take 'local'"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _device(ray: Any, device: str, actors: int, workers: int) -> str:
    """Return on what kind of device the actors compute.

    Raises:
        SettingError: If there is no such kind.
        DeviceError: If the cluster has too few.
    """
    has = ray.cluster_resources()
    cpus, gpus = int(has.get("CPU", 0)), int(has.get("GPU", 0))
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    if device not in ("cpu", "cuda"):
        raise SettingError(f"device is '{device}'; on a cluster allowed are auto, cpu and cuda")
    if device == "cuda" and gpus < actors:
        raise DeviceError(
            f"{actors} actors need as many GPUs, but the cluster has {gpus}; ask for fewer, or "
            "take device cpu"
        )
    # Ray Data needs a CPU beside the actors, to feed them.
    needed = actors * max(1, workers) + 1
    if cpus < needed:
        raise DeviceError(
            f"{actors} actors need {needed} CPUs, one of them to feed the others, but the cluster "
            f"has {cpus}; ask for fewer, or tell Ray of more with `ray start --num-cpus`"
        )
    return device
