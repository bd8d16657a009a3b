"""The status of a job, and how a job reports its progress."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum

__all__ = ["Report", "ShouldStop", "Status", "Stopped", "duration", "never", "silent"]


class Status(StrEnum):
    """Status of a run or another job; its value is the text that users see."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def active(self) -> bool:
        """Whether the work waits or is under way."""
        return self in (Status.QUEUED, Status.RUNNING)


class Stopped(Exception):
    """Somebody asked the work to stop, and it did; what was done before is kept."""


Report = Callable[[float, str], None]
"""Called with the fraction done, in [0, 1], and what is being done."""

ShouldStop = Callable[[], bool]
"""Called now and then; true means to stop and keep what is done so far."""


def silent(fraction: float, text: str) -> None:
    """Report to nobody."""


def never() -> bool:
    """Never stop."""
    return False


def duration(seconds: float) -> str:
    """Return a time in words: whole seconds, minutes, or hours.

    >>> duration(41.2), duration(700), duration(9000)
    ('42 s', '12 min', '2.5 h')
    """
    whole = math.ceil(seconds)
    if whole < 100:
        return f"{whole} s"
    return f"{whole / 60:.0f} min" if whole < 6000 else f"{whole / 3600:.1f} h"
