"""How far an extraction is, and how fast it goes."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from gsr_core.progress import duration

__all__ = ["ExtractionProgress", "Pace"]

SMOOTHING = 10.0
"""Seconds over which the rate is averaged."""


@dataclass(frozen=True)
class ExtractionProgress:
    """How far an extraction is.

    Attributes:
        done: Rows done, those of earlier attempts included.
        total: Rows to do.
        rate: Rows a second, lately.
        seconds_left: At that rate; None before there is one.
    """

    done: int
    total: int
    rate: float
    seconds_left: float | None

    def __str__(self) -> str:
        """Return the sentence for people."""
        text = f"Extracting features: {self.done:,} of {self.total:,}"
        if self.seconds_left is None or self.done == self.total:
            return text
        left = duration(self.seconds_left)
        return f"{text} ({self.rate:,.{0 if self.rate >= 10 else 1}f} a second, {left} left)"


class Pace:
    """Rows a second, mostly of the last seconds."""

    def __init__(self, done: int, total: int) -> None:
        """Start the clock.

        Args:
            done: Rows done already.
            total: Rows to do.
        """
        self.done, self.total = done, total
        self.rows = self.seconds = 0.0
        self.last = time.monotonic()

    def at(self, done: int) -> ExtractionProgress:
        """Note that so many rows are done now."""
        now = time.monotonic()
        seconds = now - self.last
        decay = math.exp(-seconds / SMOOTHING)
        self.rows = self.rows * decay + done - self.done
        self.seconds = self.seconds * decay + seconds
        self.done, self.last = done, now
        rate = self.rows / self.seconds if self.seconds > 0 else 0.0
        seconds_left = (self.total - done) / rate if rate > 0 else None
        return ExtractionProgress(done, self.total, rate, seconds_left)
