"""What a run will take, before it starts: by earlier runs, or by trying a product on some rows."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

import numpy as np
import torch

from gsr_core.compute import Compute, threads_for
from gsr_core.data.bundle import Bundle
from gsr_core.data.problem import IN_MEMORY, Problem, Rows, fit_bytes, stays_in_file
from gsr_core.data.stored import StoredFeatures
from gsr_core.linear.solver import MAX_FACTOR_WIDTH
from gsr_core.methods.base import Method
from gsr_core.methods.inner import FittedHead
from gsr_core.methods.network.base import NetworkMethod
from gsr_core.methods.registry import make_method
from gsr_core.runs.cost import Cost
from gsr_core.runs.store import Run

__all__ = ["expected_seconds", "predict"]

_RECENT = 10
"""Runs that are judged by, the newest ones."""
_SAMPLE = 4096
"""Rows on which a product is tried."""
_TRIES = 3
_PROCESS = 0.6e9
"""Bytes of a process that has loaded all that a run needs, and no data yet."""
_VECTORS = 16
"""Arrays of the size of a head that a step has at a time: of Newton, conjugate gradients and the
refinement around them."""
_STREAMED_PASSES = 50
"""Passes over rows in their file that a step makes, each about as dear as a product."""
_BLOCKS = 5e8
"""Bytes of the blocks in which rows pass that stay in their file."""


def expected_seconds(runs: Iterable[Run], method: str, settings: Mapping[str, Any]) -> float | None:
    """Return the seconds that a run will take; None if no run of its method tells.

    A step takes the median of what a step took in the newest runs of the method, whatever their
    settings and devices: it is a guess, good to a factor of two or three.

    Args:
        runs: On the same bundle, newest first.
        method: A key of the registry.
        settings: What differs from its defaults.
    """
    known = []
    for run in runs:
        config = run.config
        if config.method != method or config.edited:
            continue
        if (state := run.state).step and state.seconds:
            known.append(state.seconds / state.step)
        if len(known) == _RECENT:
            break
    return median(known) * make_method(method, settings).max_steps if known else None


def predict(bundle: Bundle, method: Method, compute: Compute) -> Cost | None:
    """Predict what a run takes by timing a product with the Hessian on some rows, or a batch.

    Args:
        bundle: The data; of its features, only some thousand rows are read.
        method: With its settings. Those that fit no weighted head and train no network are not
            predicted.
        compute: Where it is to run.

    Raises:
        GsrError: If the method trains a network and the bundle has none that can be trained, or
            its settings do not go together.

    Returns:
        None if the method is not predicted.
    """
    method.check()
    method.check_classes(bundle.manifest.classes)
    if isinstance(method, NetworkMethod):
        # Here, not on top: who predicts heads need not load what trains networks.
        from gsr_core.runs.network import predict_network

        return predict_network(bundle, method, compute) if method.predicted else None
    if not isinstance(method, FittedHead):
        return None
    sizes, n_classes = bundle.manifest.split_sizes, len(bundle.manifest.classes)
    d, weighted = bundle.manifest.n_features, bundle.rows_of[bundle.manifest.weighted_split]
    n = len(weighted)
    streamed = stays_in_file(n, d, n_classes, IN_MEMORY)
    some = weighted[np.unique(np.linspace(0, n - 1, min(n, _SAMPLE)).astype(np.int64))]
    stored = StoredFeatures(bundle.features, some, compute.device)
    rows = Rows(
        stored if streamed else stored.read(),
        torch.from_numpy(bundle.y[some]).to(compute.device),
        torch.from_numpy(bundle.membership[some]).to(compute.device),
        some,
    )
    problem = Problem(rows, rows, rows, n_classes, compute)
    with threads_for(n * d):
        inner = method.inner(problem)
        objective = inner.objective(inner.uniform())
        state, column = objective.at_zero(), torch.ones_like(inner.zero())[:, :, None]
        product = min(
            _timed(lambda: objective.hessian_product(state, column, rough=True))
            for _ in range(_TRIES)
        )
    measured = sum(sizes.get(split, 0) for split in ("target", "val", "test"))
    # Growth laws measured: products over classes, and all of it in rows; scores are half a product.
    # Where rows stream, values and gradients are passes over the file too.
    products = _STREAMED_PASSES if streamed else 10 + 6 * math.log2(n_classes)
    seconds = product * (n / len(some) * products + measured / len(some) / 2)

    width = min(d, n) + 1
    c = n_classes - 1
    factor = (width * c if width * c <= MAX_FACTOR_WIDTH else width) ** 2
    in_memory = 0 if streamed else fit_bytes(n, d, n_classes)
    for split in ("target", "val", "test"):
        rows_there = sizes.get(split, 0)
        if not stays_in_file(rows_there, d, n_classes, IN_MEMORY):
            whole = fit_bytes(rows_there, d, n_classes)
            in_memory += whole if split == "target" else 4 * rows_there * d
    groups = len(bundle.manifest.groups)
    size = _PROCESS + in_memory + 8 * (_VECTORS * width * c + 3 * factor + 2 * n * groups)
    return Cost(seconds, method.max_steps, size + (_BLOCKS if streamed else 0), streamed)


def _timed(work: Any) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
