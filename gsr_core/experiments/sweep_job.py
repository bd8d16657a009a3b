"""A sweep as a job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field

from gsr_core.experiments.search import Sampler, Setting, search_text
from gsr_core.experiments.sweep import Sweep, make_sweep, open_sweep
from gsr_core.jobs.base import Job
from gsr_core.jobs.command import pairs
from gsr_core.jobs.lock import STUDIES
from gsr_core.methods.base import Range
from gsr_core.methods.registry import METHODS
from gsr_core.progress import Report, ShouldStop
from gsr_core.workspace import Workspace

__all__ = ["SweepJob"]


class SweepJob(Job):
    """Compute what is missing of a sweep.

    Attributes:
        bundle: As in `SweepRecord`, and so on.
        method: A key of the registry.
        fixed: Settings that every trial has.
        ranges: Where to look instead of, or besides, what the method declares.
        trials: How many in all.
        sampler: Who draws.
        seed: Decides the draws.
        seeds: Over how many seeds to run the winner.
        jobs: Trials at a time.
        device: As asked for.
        name: Of the sweep; "" until there is one.
    """

    kind = "sweep"
    queue = STUDIES
    keyed = "name"
    stored = frozenset({"jobs"})

    bundle: str
    method: str
    fixed: dict[str, Setting] = Field(default_factory=dict)
    ranges: dict[str, Range | tuple[Setting, ...]] = Field(default_factory=dict)
    trials: int
    sampler: Sampler
    seed: int
    seeds: int
    jobs: int = 1
    device: str
    name: str = ""

    @classmethod
    def of(cls, sweep: Sweep, jobs: int = 1) -> Self:
        """Return the job of a sweep."""
        record = sweep.record
        usual = METHODS[record.method].search
        ranges = {key: where for key, where in record.space.items() if where != usual.get(key)}
        fields = record.model_dump(include=set(cls.model_fields))
        return cls(**fields, ranges=ranges, jobs=jobs)

    def begin(self, workspace: Workspace) -> Self:
        """Make the sweep, or let one of its name go on, and return its job.

        Raises:
            GsrError: As `make_sweep`.
        """
        return self.of(
            make_sweep(
                workspace, **self.model_dump(exclude={"jobs", "ranges"}), ranges=self.ranges
            ),
            self.jobs,
        )

    def run(self, workspace: Workspace, report: Report, should_stop: ShouldStop) -> None:
        """Compute the trials and runs that are missing."""
        from gsr_core.experiments.sweep_loop import run_sweep

        sweep = open_sweep(workspace, self.name)
        run_sweep(sweep, jobs=self.jobs, progress=report, should_stop=should_stop)

    def words(self) -> list[str]:
        """Return the words of `gsr sweep`."""
        words = ["sweep", self.bundle, "--method", self.method, *pairs("--set", self.fixed)]
        words += pairs("--search", {key: search_text(each) for key, each in self.ranges.items()})
        words += ["--trials", str(self.trials), "--sampler", self.sampler]
        words += ["--seed", str(self.seed), "--seeds", str(self.seeds)]
        words += ["--jobs", str(self.jobs), "--device", self.device]
        return words + (["--name", self.name] if self.name else [])

    @classmethod
    def restore(cls, workspace: Workspace, key: str, arguments: Mapping[str, Any]) -> Self:
        """Return the job of a sweep that is there."""
        return cls.of(open_sweep(workspace, key), **arguments)
