"""What a run is expected to take, in numbers and in words."""

from __future__ import annotations

from dataclasses import dataclass

from gsr_core.progress import duration

__all__ = ["Cost"]


@dataclass(frozen=True)
class Cost:
    """What a run is expected to take.

    Attributes:
        step_seconds: A step, good to a factor of two or three.
        steps: How many there will be.
        bytes: Of memory, the whole process at its peak.
        streamed: Whether the rows stay in their file, so that memory does not grow with them.
    """

    step_seconds: float
    steps: int
    bytes: float
    streamed: bool

    @property
    def seconds(self) -> float:
        """All steps together."""
        return self.step_seconds * self.steps

    def in_words(self, runs: int = 1) -> str:
        """Return the cost of some runs, one after another, as a part of a sentence.

        Example:
            >>> Cost(step_seconds=0.025, steps=100, bytes=0.7 * 2**30, streamed=False).in_words(5)
            'about 0.025 s a step, 3 s for 100 steps, 13 s for 5 such runs (good to a factor of ...
        """
        step = self.step_seconds
        each = f"{step:.2g} s" if step < 60 else duration(step)
        every = f", {duration(self.seconds * runs)} for {runs} such runs" if runs > 1 else ""
        where = ", with features read from their file" if self.streamed else ""
        return (
            f"about {each} a step, {duration(self.seconds)} for {self.steps:,} steps{every} (good "
            f"to a factor of two or three), and {self.bytes / 2**30:.1f} GiB of memory{where}"
        )
