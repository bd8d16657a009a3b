"""How work under way stands, and how it reports how far it is."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

__all__ = ["Report", "ShouldStop", "Status", "never", "silent"]


class Status(StrEnum):
    """How a run or another job stands or ended; its value is the text shown."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def active(self) -> bool:
        """Whether the work waits or is under way."""
        return self in (Status.QUEUED, Status.RUNNING)


Report = Callable[[float, str], None]
"""Called with the fraction done, in [0, 1], and what is being done."""

ShouldStop = Callable[[], bool]
"""Asked now and then whether to stop; what is done by then is kept."""


def silent(fraction: float, text: str) -> None:
    """Report to nobody."""


def never() -> bool:
    """Stop for nobody."""
    return False
