"""Prepared batches in row order, made ahead of the network by processes or threads.

Inputs in files are read by the worker processes of a DataLoader. Inputs in memory are prepared by
threads of this process: every worker process would need a copy of them all, and what costs time
there, resizing and normalising, runs outside Python's lock.

One input that cannot be read is noted and left out of its batch.
"""

from __future__ import annotations

import multiprocessing
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.context import BaseContext
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from gsr_core.data.inputs import ImageArrays, ImageBlobs, Inputs, Numbers
from gsr_core.data.pixels import thumbnail
from gsr_core.errors import InputError
from gsr_core.features.journal import BadRow
from gsr_core.features.preprocessing import Preprocessing

__all__ = ["PreparedBatch", "default_workers", "prepared_batches", "worker_died"]

FEW_ROWS = 512
"""This few are read here sooner than worker processes start."""
MOST_WORKERS = 16
AHEAD = 2
"""Batches a worker makes ahead."""


@dataclass
class PreparedBatch:
    """Some consecutive rows, ready for the network.

    Attributes:
        rows: Which.
        good: Positions among them that could be read.
        inputs: The batch of the good ones; None if there is none.
        bad: The others.
        thumbnails: One a row, if asked for.
    """

    rows: range
    good: list[int] = field(default_factory=list)
    inputs: Any = None
    bad: list[BadRow] = field(default_factory=list)
    thumbnails: list[bytes | None] = field(default_factory=list)

    def pin_memory(self) -> PreparedBatch:
        """Move the tensors where a GPU fetches them fastest; DataLoader calls this."""
        if isinstance(self.inputs, Tensor):
            self.inputs = self.inputs.pin_memory()
        elif self.inputs is not None:
            self.inputs = {name: value.pin_memory() for name, value in self.inputs.items()}
        return self


class _Rows(Dataset[PreparedBatch]):
    """Inputs by ranges of rows."""

    def __init__(self, inputs: Inputs, preprocessing: Preprocessing, thumbnails: bool) -> None:
        self.inputs = inputs
        self.preprocessing = preprocessing
        self.thumbnails = thumbnails

    def __getitem__(self, rows: range) -> PreparedBatch:
        batch = PreparedBatch(rows)
        prepared = []
        for position, row in enumerate(rows):
            small = None
            try:
                item = self.inputs.load(row)
                prepared.append(self.preprocessing.prepare(item))
                batch.good.append(position)
                if self.thumbnails:
                    small = thumbnail(item)
            except (InputError, OSError) as error:
                reason = error.strerror if isinstance(error, OSError) else None
                batch.bad.append(BadRow(row, self.inputs.name(row), reason or str(error)))
            if self.thumbnails:
                batch.thumbnails.append(small)
        if prepared:
            batch.inputs = self.preprocessing.collate(prepared)
        return batch


class _Ranges(Sampler[range]):
    def __init__(self, ranges: Sequence[range]) -> None:
        self.ranges = ranges

    def __iter__(self) -> Iterator[range]:
        return iter(self.ranges)

    def __len__(self) -> int:
        return len(self.ranges)


class _Cuts(Sequence[range]):
    """The ranges of `size` rows from `start` to `stop`, made when they are asked for."""

    def __init__(self, start: int, stop: int, size: int) -> None:
        self.starts, self.stop, self.size = range(start, stop, size), stop, size

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: Any) -> Any:
        start = self.starts[index]
        return range(start, min(start + self.size, self.stop))


def default_workers(inputs: Inputs, device: torch.device) -> int:
    """Return how many workers keep a network on a device busy.

    A network on the CPU wants the cores for itself; a GPU is rarely kept waiting by too many.
    """
    if len(inputs) <= FEW_ROWS:
        return 0
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    if isinstance(inputs, Numbers):
        return 1
    return min(cores if device.type == "cuda" else max(1, cores // 2), MOST_WORKERS)


def prepared_batches(
    inputs: Inputs,
    preprocessing: Preprocessing,
    *,
    start: int,
    stop: int,
    batch_size: int,
    workers: int,
    thumbnails: bool = False,
    pin_memory: bool = False,
) -> Iterator[PreparedBatch]:
    """Yield the rows from `start` to `stop` in order, `batch_size` at a time.

    Args:
        inputs: Of all rows.
        preprocessing: How an input becomes the network's.
        start: First row.
        stop: Row after the last.
        batch_size: Rows a batch.
        workers: How many prepare at the same time; 0 prepares in this thread.
        thumbnails: Whether to make thumbnails.
        pin_memory: Put batches where a CUDA device fetches them fastest.
    """
    rows = _Rows(inputs, preprocessing, thumbnails)
    threads = (
        isinstance(inputs, ImageArrays | ImageBlobs | Numbers)
        # A daemon, such as a worker of another pool, may not have children.
        or multiprocessing.current_process().daemon
    )
    ranges = _Cuts(start, stop, batch_size)
    make = _by_threads if threads or workers == 0 else _by_processes
    return make(rows, ranges, workers, pin_memory)


def worker_died(error: RuntimeError) -> bool:
    """Return whether an error means that a worker process is gone, rather than what it did.

    DataLoader has no class for this, and may raise it at any point of the main thread.
    """
    return isinstance(error, _WorkerDied) or bool(
        re.search(r"DataLoader worker \(pid.*(by signal|unexpectedly)", str(error))
    )


class _WorkerDied(RuntimeError):
    pass


def _by_threads(
    rows: _Rows, ranges: Iterable[range], workers: int, pin_memory: bool
) -> Iterator[PreparedBatch]:
    def prepare(part: range) -> PreparedBatch:
        batch = rows[part]
        return batch.pin_memory() if pin_memory else batch

    if workers == 0:
        yield from map(prepare, ranges)
        return
    pending: deque[Future[PreparedBatch]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="prepare")
    try:
        for part in ranges:
            pending.append(pool.submit(prepare, part))
            if len(pending) > AHEAD * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _by_processes(
    rows: _Rows, ranges: Sequence[range], workers: int, pin_memory: bool
) -> Iterator[PreparedBatch]:
    loader = DataLoader(
        rows,
        batch_size=None,
        sampler=_Ranges(ranges),
        num_workers=min(workers, len(ranges)),
        collate_fn=_as_it_is,
        pin_memory=pin_memory,
        prefetch_factor=AHEAD,
        multiprocessing_context=_context(),
        # A generator of its own: the loader would otherwise draw from the global random state.
        generator=torch.Generator(),
    )
    try:
        yield from loader
    except (EOFError, ConnectionError, FileNotFoundError) as error:
        # A worker lends its tensors, and died before they were copied.
        raise _WorkerDied from error


def _context() -> BaseContext:
    """Return how processes start: not by fork, whose child may wait for ever for a thread."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # The server imports torch once, for all later workers.
    context.set_forkserver_preload(["__main__", __name__])
    return context


def _as_it_is(batch: Any) -> Any:
    return batch
