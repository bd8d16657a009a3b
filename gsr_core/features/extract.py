"""Features of many inputs: read ahead, computed batch by batch, written behind.

Workers prepare batches (`features.prepared`), the network computes (`features.forward`), and a
thread writes (`features.journal`), all at the same time and none more than a few batches ahead of
the next, so that memory does not grow with the number of inputs.

An extraction has a digest, of the inputs, the network's weights, the preprocessing and the
precision. It resumes in a folder whose journal has the same digest, and uses a finished one as it
is.
"""

from __future__ import annotations

import hashlib
import json
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from gsr_core.data.inputs import Inputs
from gsr_core.errors import BadRowsError, SettingError
from gsr_core.features.backbones import Backbone
from gsr_core.features.forward import Forward, Precision, resolve_precision
from gsr_core.features.journal import BadRow, Store, open_store
from gsr_core.features.kinds import weights_digest
from gsr_core.features.pace import ExtractionProgress, Pace
from gsr_core.features.prepared import (
    PreparedBatch,
    default_workers,
    prepared_batches,
    worker_died,
)
from gsr_core.progress import ShouldStop

__all__ = [
    "Extraction",
    "OnBad",
    "check_choices",
    "extract",
    "extraction_digest",
    "record",
    "refuse_bad",
]

OnBad = Literal["stop", "skip"]

BEHIND = 4
"""Batches that wait to be written."""
SURVEY_SECONDS = 30.0
"""Seconds in which to look for more bad rows after the first."""
NAMED = 10


@dataclass(frozen=True)
class Extraction:
    """The features of some inputs.

    Attributes:
        features: (n, d) float32 in row order, NaN in bad rows; memory-mapped if it is in a folder.
            Fewer rows if the extraction was asked to stop.
        bad: Rows that have no features.
        complete: Whether all rows are done; otherwise the same call resumes.
        digest: Of what was computed.
        precision: In which products were computed, such as `float32`.
    """

    features: np.ndarray
    bad: list[BadRow]
    complete: bool
    digest: str
    precision: str
    store: Store
    with_thumbnails: bool

    def thumbnails(self) -> Iterator[bytes | None] | None:
        """Return the thumbnails in row order, None where there is none; None if none were made."""
        return self.store.thumbnails() if self.with_thumbnails else None

    def good_rows(self) -> np.ndarray:
        """Return the positions (n - len(bad),) of the rows that have features."""
        good = np.ones(len(self.features), bool)
        good[[each.row for each in self.bad]] = False
        return np.flatnonzero(good)


def extract(
    backbone: Backbone,
    inputs: Inputs,
    folder: Path | None = None,
    *,
    device: torch.device,
    batch_size: int = 64,
    workers: int | None = None,
    precision: Precision = "auto",
    on_bad: OnBad = "stop",
    thumbnails: bool = False,
    progress: Callable[[ExtractionProgress], None] | None = None,
    should_stop: ShouldStop | None = None,
) -> Extraction:
    """Compute the features of inputs, in their order.

    The batch size does not change the features beyond rounding, and the backbone's own head
    applied to them gives the full network's logits.

    Args:
        backbone: The trained network; its trunk is moved to `device`.
        inputs: n inputs of the backbone's modality.
        folder: Where to write; an interrupted extraction goes on there, a finished one is used
            as it is, and one of something else is replaced. None keeps everything in memory.
        device: Where to compute.
        batch_size: Inputs a forward pass; halved when memory runs out.
        workers: Processes (for files and texts) or threads (for what is in memory) that read and
            prepare; None decides by the machine, 0 does both between batches. Processes import the
            program's main module: a script needs `if __name__ == "__main__"`.
        precision: `float32`, or `bfloat16` or `float16` for the products of autocast; `auto` is
            bfloat16 on a GPU that has it, else float32.
        on_bad: What to do about rows that cannot be read or whose features are not finite: `skip`
            leaves them out; `stop` looks for more of them for up to half a minute, to name them
            too, and raises. The good rows before them stay in the folder.
        thumbnails: Whether to make thumbnails of images on the way.
        progress: Called after each batch.
        should_stop: Called after each batch; True ends the extraction, and what is done stays.

    Raises:
        SettingError: If an option is not allowed, or the inputs are not what the network takes.
        BadRowsError: If there are bad rows and `on_bad` is `stop`.
        DiskFullError: If the features do not fit the disk; the finished chunks stay.
        DeviceError: If memory does not suffice for a single sample.
        CheckpointError: If the trunk gives something other than features.
        RunStateError: If another process extracts into the folder.

    Example:
        >>> from pathlib import Path
        >>> from gsr_core.data.inputs import ImageArrays
        >>> from gsr_core.features.backbones import load_network, save_checkpoint
        >>> save_checkpoint(load_network("simconv1", n_classes=2).module, Path("net.safetensors"))
        >>> backbone = gsr.load_backbone("simconv1", Path("net.safetensors"))
        >>> images = ImageArrays(np.zeros((3, 32, 32, 3), dtype=np.uint8))
        >>> result = gsr.extract(backbone, images, device=gsr.pick("cpu").device, workers=0)
        >>> result.features.shape, result.complete, result.bad
        ((3, 64), True, [])
    """
    check_choices(backbone, inputs, batch_size=batch_size, on_bad=on_bad)
    if workers is not None and workers < 0:
        raise SettingError(f"workers is {workers}; it must be at least 0")
    precision_used = resolve_precision(precision, device)
    digest = extraction_digest(backbone, inputs, precision_used, thumbnails=thumbnails)
    workers_now = default_workers(inputs, device) if workers is None else workers

    with open_store(
        folder, digest, len(inputs), backbone.n_features, thumbnails=thumbnails
    ) as store:
        refuse_bad(store, on_bad)
        complete = store.rows == store.n
        if not complete:
            forward = Forward(backbone, device, precision_used)

            def batches(start: int, again: bool) -> Iterator[PreparedBatch]:
                nonlocal workers_now
                workers_now = workers_now // 2 if again else workers_now
                return prepared_batches(
                    inputs,
                    backbone.preprocessing,
                    start=start,
                    stop=len(inputs),
                    batch_size=batch_size,
                    workers=workers_now,
                    thumbnails=thumbnails,
                    pin_memory=device.type == "cuda",
                )

            with forward.ready():
                complete = record(
                    batches,
                    forward,
                    inputs,
                    store,
                    on_bad=on_bad,
                    progress=progress,
                    should_stop=should_stop,
                )
        elif progress is not None:
            progress(ExtractionProgress(store.n, store.n, 0.0, 0.0))
    return Extraction(
        store.features(), store.bad, complete, digest, precision_used, store, thumbnails
    )


def check_choices(backbone: Backbone, inputs: Inputs, *, batch_size: int, on_bad: str) -> None:
    """Refuse what cannot work, before anything is computed.

    Raises:
        SettingError: If an option is not allowed, or the inputs are not what the network takes.
    """
    if on_bad not in get_args(OnBad):
        raise SettingError(f"on_bad is '{on_bad}'; allowed are {', '.join(get_args(OnBad))}")
    if batch_size < 1:
        raise SettingError(f"batch_size is {batch_size}; it must be at least 1")
    if backbone.modality != inputs.modality:
        raise SettingError(
            f"the network takes {backbone.modality} inputs, but these are {inputs.modality}; "
            f"choose a network for {inputs.modality}"
        )


def extraction_digest(
    backbone: Backbone, inputs: Inputs, precision: str, *, thumbnails: bool = False
) -> str:
    """Return the SHA-256 of everything that the features follow from.

    Args:
        backbone: The network; its weights count, not only the file's name.
        inputs: The inputs.
        precision: As `resolve_precision` gives it.
        thumbnails: Whether thumbnails come along.
    """
    about = {
        "inputs": inputs.digest(),
        "facts": backbone.facts,
        "weights": weights_digest(backbone.trunk),
        "preprocessing": backbone.preprocessing.model_dump(mode="json"),
        "precision": precision,
        "thumbnails": thumbnails,
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()


def record(
    batches: Callable[[int, bool], Iterable[PreparedBatch]],
    forward: Callable[[object], Callable[[], np.ndarray]],
    inputs: Inputs,
    store: Store,
    *,
    on_bad: OnBad,
    progress: Callable[[ExtractionProgress], None] | None,
    should_stop: ShouldStop | None,
) -> bool:
    """Compute and write the rows that a store lacks; return whether all are there.

    Args:
        batches: Returns the batches from a row on, given whether workers died before.
        forward: Starts to compute a batch's content; returns a function that waits for the
            features.
        inputs: Names the rows.
        store: Where the rows go.
        on_bad: See `extract`.
        progress: See `extract`.
        should_stop: See `extract`.

    Raises:
        BadRowsError: If there are bad rows and `on_bad` is `stop`.
        RuntimeError: If the network fails.
    """
    bad_rows: list[BadRow] = []
    position = store.rows
    survey_ends = math.inf
    pace = Pace(store.rows, store.n)
    stopped = again = False
    with _Writer(store, inputs) as writer:
        while not stopped and position < store.n:
            try:
                for batch in batches(position, again):
                    if batch.bad and on_bad == "stop":
                        bad_rows += batch.bad
                        survey_ends = min(survey_ends, time.monotonic() + SURVEY_SECONDS)
                    if not bad_rows:
                        writer.put(batch, forward(batch.inputs) if batch.good else None)
                        if progress is not None:
                            progress(pace.at(batch.rows.stop))
                    position = batch.rows.stop
                    stopped = (
                        (should_stop is not None and should_stop())
                        or time.monotonic() > survey_ends
                        # Features can be bad though the row could be read.
                        or (on_bad == "stop" and len(store.bad) > 0)
                    )
                    if stopped:
                        break
            except RuntimeError as error:
                if not worker_died(error):
                    raise
                again = True
    if bad_rows:
        _refuse(bad_rows, position, store.n)
    refuse_bad(store, on_bad)
    return store.rows == store.n


class _Writer:
    """A thread that appends to a store while the next batches are computed."""

    def __init__(self, store: Store, inputs: Inputs) -> None:
        self.store, self.inputs = store, inputs
        self._queue: queue.Queue[tuple[PreparedBatch, Callable[[], np.ndarray] | None] | None]
        self._queue = queue.Queue(BEHIND)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="write features", daemon=True)

    def __enter__(self) -> _Writer:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if self._error is not None and exception[1] is None:
            raise self._error

    def put(self, batch: PreparedBatch, features: Callable[[], np.ndarray] | None) -> None:
        """Hand over a batch, waiting while too many wait already."""
        if self._error is not None:
            raise self._error
        self._queue.put((batch, features))

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._append(*item)
                except BaseException as error:
                    self._error = error

    def _append(self, batch: PreparedBatch, features: Callable[[], np.ndarray] | None) -> None:
        if batch.rows.start < self.store.rows:
            return  # Handed over just before its worker died, and then again.
        block = np.full((len(batch.rows), self.store.d), np.nan, np.float32)
        bad = list(batch.bad)
        if features is not None:
            block[batch.good] = features()
            finite = np.isfinite(block[batch.good]).all(axis=1)
            for position in np.asarray(batch.good)[~finite]:
                row = batch.rows[int(position)]
                reason = "the network gives a number that is not finite"
                bad.append(BadRow(row, self.inputs.name(row), reason))
                block[position] = np.nan
        self.store.append(block, sorted(bad, key=lambda each: each.row), batch.thumbnails)


def refuse_bad(store: Store, on_bad: OnBad) -> None:
    """Raise for the bad rows of a store.

    Raises:
        BadRowsError: If there are any and `on_bad` is `stop`.
    """
    if store.bad and on_bad == "stop":
        _refuse(store.bad, store.rows, store.n)


def _refuse(bad: list[BadRow], n_checked: int, total: int) -> None:
    """Say which rows are bad.

    Raises:
        BadRowsError: Always.
    """
    listing = "; ".join(map(str, bad[:NAMED]))
    more = f"; and {len(bad) - NAMED:,} more" if len(bad) > NAMED else ""
    rest = "" if n_checked == total else f" (of which {n_checked:,} were looked at)"
    raise BadRowsError(
        f"{len(bad):,} of {total:,} inputs{rest} cannot be used: {listing}{more}; mend or remove "
        "them, or leave them out with on_bad 'skip'",
        bad,
    )
