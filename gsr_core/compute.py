"""The one place that decides on which device and in which precision to compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from gsr_core.errors import DeviceError

__all__ = ["Compute", "pick", "threads_for"]

_WORTH_THREADS = 500_000
"""Least size of a matrix, in numbers, for which sharing its products between cores pays."""


@dataclass(frozen=True)
class Compute:
    """Where and how precisely to compute.

    Attributes:
        device: Where all tensors of a fit live.
        design_dtype: Precision in which the rows of the inner problem are kept. float64 on a CPU;
            float32 on a GPU, where memory and float64 matrix products are dear.
        accumulate_dtype: Precision of parameters, weights, residuals and reductions: float64
            wherever the device has it, so that a fit can reach a relative gradient of 1e-8 even
            with float32 rows.
    """

    device: torch.device
    design_dtype: torch.dtype
    accumulate_dtype: torch.dtype

    def __str__(self) -> str:
        """Return the device as a user knows it."""
        return str(self.device)


def pick(prefer: str = "auto") -> Compute:
    """Choose device and precision.

    Args:
        prefer: `auto` (CUDA, then MPS, then CPU) or a device name that torch knows, such as
            `cpu`, `cuda`, `cuda:1` or `mps`.

    Raises:
        DeviceError: If the name is unknown or this machine does not have the device.

    Example:
        >>> str(gsr.pick("cpu")), gsr.pick("cpu").design_dtype
        ('cpu', torch.float64)
    """
    if prefer == "auto":
        prefer = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    try:
        device = torch.device(prefer)
    except RuntimeError:
        raise DeviceError(
            f"device '{prefer}' is not a device name; allowed are auto, cpu, cuda, cuda:N and mps"
        ) from None
    if device.type == "cpu":
        return Compute(device, torch.float64, torch.float64)
    if device.type == "cuda":
        n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= n_devices:
            raise DeviceError(
                f"device '{prefer}' was asked for, but torch sees {n_devices} CUDA devices here; "
                "use --device cpu or --device auto"
            )
        return Compute(device, torch.float32, torch.float64)
    if device.type == "mps":
        if not torch.backends.mps.is_available():
            raise DeviceError(
                "device 'mps' was asked for, but this machine has no Metal device that torch can "
                "use; use --device cpu or --device auto"
            )
        return Compute(device, torch.float32, torch.float32)
    raise DeviceError(
        f"device '{prefer}' is not supported; allowed are auto, cpu, cuda, cuda:N and mps"
    )


@contextmanager
def threads_for(numbers: int) -> Iterator[None]:
    """Let torch use one core while the work is small.

    Sharing small products gains nothing on an idle machine, and on a busy one the threads wait
    for each other: a fit of a second can take half a minute. With one thread sums are also the
    same whatever the number of cores.

    Args:
        numbers: Size of the matrix that the work reads again and again; 0 always means one core.
    """
    before = torch.get_num_threads()
    if numbers < _WORTH_THREADS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
