"""What a user can get wrong, as exceptions.

Each is a `GsrError`, which the command line turns into exit status 2 and the dashboard into a
message, and also the built-in kind that a library user would expect. The text of every one is
a sentence: the value found, the values allowed, what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = [
    "BadRowsError",
    "BundleError",
    "BundleNotFoundError",
    "CheckpointError",
    "ComparisonError",
    "DeviceError",
    "DiskFullError",
    "GsrError",
    "InputError",
    "MissingExtraError",
    "RunNotFoundError",
    "RunStateError",
    "SettingError",
    "SourceError",
    "TrustError",
]


class GsrError(Exception):
    """Base of every error that a user can cause and mend.

    Example:
        >>> try:
        ...     gsr.pick("tpu")
        ... except gsr.GsrError as error:
        ...     print(error)
        device 'tpu' is not a device name; allowed are auto, cpu, cuda, cuda:N and mps
    """


class BundleError(GsrError, ValueError):
    """The data of a bundle is wrong."""


class BundleNotFoundError(GsrError, FileNotFoundError):
    """There is no bundle of that name."""


class SettingError(GsrError, ValueError):
    """A parameter has a value that is not allowed."""


class RunNotFoundError(GsrError, FileNotFoundError):
    """There is no run of that name."""


class RunStateError(GsrError, RuntimeError):
    """A run is not in a state that allows the request."""


class ComparisonError(GsrError, ValueError):
    """The things to compare have nothing in common."""


class DeviceError(GsrError, RuntimeError):
    """This machine does not have the device."""


class CheckpointError(GsrError, ValueError):
    """A checkpoint does not fit the network it is loaded into."""


class SourceError(GsrError, ValueError):
    """A data set is not in the layout that its reader expects."""


class InputError(GsrError, ValueError):
    """One sample's input cannot be read; its text is the reason, without the sample's name."""


class TrustError(GsrError, PermissionError):
    """A file would run code of its own when it is loaded, and the caller does not trust it."""


class MissingExtraError(GsrError, ImportError):
    """An optional library is needed that is not installed."""


class BadRowsError(GsrError, ValueError):
    """Some inputs cannot be read, and the caller wants to stop in that case.

    Attributes:
        bad: The bad rows, each with `row`, `name` and `reason`.
    """

    def __init__(self, message: str, bad: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.bad = list(bad)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.bad)


class DiskFullError(GsrError, OSError):
    """There is no room on a disk for what must be written."""
