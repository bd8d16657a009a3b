"""Making the built-in example, as a job."""

from __future__ import annotations

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

    kind = "example"
    keyed = "name"
    stored = frozenset({"seed"})

    name: str = "coloured-digits"
    seed: int = 0

    def run(self, workspace: Workspace, report: Report, should_stop: ShouldStop) -> None:
        """Make the bundle."""
        from gsr_core.examples import coloured_digits

        coloured_digits(workspace, seed=self.seed, name=self.name, progress=report)

    def words(self) -> list[str]:
        """Return the words of `gsr demo`."""
        return ["demo", "--seed", str(self.seed), "--name", self.name]
