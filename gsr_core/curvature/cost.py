"""What work on a network costs, measured on a batch: seconds, and bytes of tensors at the peak."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["NetworkCost", "measure"]


@dataclass(frozen=True)
class NetworkCost:
    """What a product with the curvature costs, and an outer step.

    Attributes:
        product_seconds: Of one pass over the rows for all right-hand sides, reading included.
        other_seconds: Of a step's rest: the groups' gradients and the rows' scores.
        most_passes: Passes over the rows that a solve may take before it gives up, in units of
            `product_seconds`; conjugate gradients from a good start take far fewer.
        product_bytes: Of tensors that one product makes, at the peak, on the network's device. The
            network and a batch are not among them, nor what kernels take for themselves, which on a
            CPU was up to half as much again.
        step_bytes: The same for a step, with the vectors of the solve and what is kept by row.
    """

    product_seconds: float
    other_seconds: float
    most_passes: float
    product_bytes: int
    step_bytes: int

    @property
    def step_seconds(self) -> float:
        """Seconds of a step whose solve takes all the passes it may."""
        return self.most_passes * self.product_seconds + self.other_seconds


def measure(work: Callable[[], Tensor]) -> tuple[float, int]:
    """Return the seconds that work takes, and the bytes that its tensors take at the peak.

    It is done twice: what is only done the first time does not count, and counting costs time.
    """
    with _LiveBytes() as live:
        work()
    began = time.perf_counter()
    # A number on the CPU is there only when the device has done all of it.
    float(work().sum())
    return time.perf_counter() - began, live.peak


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that are made inside and still alive, on whatever device."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {
            each.untyped_storage()._cdata
            for each in tree_leaves((args, kwargs))
            if isinstance(each, Tensor)
        }
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if not isinstance(each, Tensor):
                continue
            storage = each.untyped_storage()
            # Views, and what is changed in place, take no memory of their own.
            if (key := storage._cdata) in before or key in self._known:
                continue
            self._known.add(key)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key, storage.nbytes())
        return result

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
