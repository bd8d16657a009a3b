"""Making the built-in example, as a job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from gsr_core.jobs.base import Job
from gsr_core.progress import Report, ShouldStop
from gsr_core.workspace import Workspace

__all__ = ["ExampleJob"]


class ExampleJob(Job):
    """Make the example.

    Attributes:
        name: Of the bundle.
        seed: See `examples.coloured_digits`.
    """

    kind: ClassVar[str] = "example"

    name: str = "coloured-digits"
    seed: int = 0

    @property
    def key(self) -> str:
        """Name of the bundle."""
        return self.name

    def run(self, workspace: Workspace, report: Report, should_stop: ShouldStop) -> None:
        """Make the bundle."""
        from gsr_core.examples import coloured_digits

        coloured_digits(workspace, seed=self.seed, name=self.name, progress=report)

    def words(self) -> list[str]:
        """Return the words of `gsr demo`."""
        return ["demo", "--seed", str(self.seed), "--name", self.name]

    def arguments(self) -> dict[str, Any]:
        """Return the seed; the name is the key."""
        return {"seed": self.seed}

    @classmethod
    def restore(cls, workspace: Workspace, key: str, arguments: Mapping[str, Any]) -> Self:
        """Return the job of the example of this name."""
        return cls.model_validate({"name": key, **arguments})
