"""A run as a job of its device's worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from gsr_core.data.edits import RowEdit
from gsr_core.data.variation import CLASS, Variation, make_variation
from gsr_core.errors import DeviceError, RunStateError
from gsr_core.jobs.base import Job
from gsr_core.jobs.command import option, pairs, shell_line
from gsr_core.jobs.queue import enqueue, ensure_worker
from gsr_core.methods.registry import make_method
from gsr_core.progress import Report, ShouldStop, Status
from gsr_core.runs.record import RunConfig
from gsr_core.runs.store import Run, create_run, list_runs, open_run
from gsr_core.workspace import Workspace

__all__ = ["RunJob", "device_queue", "ensure_run_worker", "run_commands", "submit"]


class RunJob(Job):
    """Compute a run.

    Attributes:
        bundle: As in `RunConfig`.
        method: A key of the registry.
        settings: What differs from the method's defaults, and the seed.
        device: As asked for.
        seen_groups: As in `Variation`; other variations are of studies, which make their own runs,
            or are edits.
        edits: Likewise; of a refit, whose run is made by `what_if.keep.keep_refit`.
        run_id: Name of the run; "" until there is one.
    """

    kind = "run"
    tracked = False
    keyed = "run_id"
    stored = frozenset({"run_id"})

    bundle: str
    method: str
    settings: dict[str, Any]
    device: str = "auto"
    seen_groups: tuple[str, ...] | None = None
    edits: tuple[RowEdit, ...] = ()
    run_id: str = ""

    @classmethod
    def of(cls, config: RunConfig) -> Self:
        """Return the job of a run."""
        defaults = make_method(config.method).settings()
        variation = make_variation(config.variation)
        return cls(
            bundle=config.bundle,
            method=config.method,
            settings={
                key: value
                for key, value in config.settings.items()
                if key == "seed" or value != defaults.get(key)
            },
            device=config.device,
            seen_groups=variation.seen_groups,
            edits=variation.edits,
            run_id=config.run_id,
        )

    def begin(self, workspace: Workspace) -> Self:
        """Make the run and return its job.

        Raises:
            GsrError: As `create_run`.
        """
        variation = Variation(seen_groups=self.seen_groups).changes()
        made = create_run(
            *(workspace, self.bundle, self.method, self.settings),
            device=self.device,
            variation=variation,
        )
        return self.of(made.config)

    def give_up(self, workspace: Workspace) -> None:
        """Mark the run failed, so that it does not wait for a worker that is not told of it."""
        run = open_run(workspace, self.run_id)
        with run.lock():
            run.give_up()

    def own_queue(self) -> str:
        """Return the queue of the run's device."""
        return device_queue(self.device)

    def run(self, workspace: Workspace, report: Report, should_stop: ShouldStop) -> None:
        """Compute the run, which writes down itself how it stands; `cancel` in it stops it."""
        from gsr_core.runs.execute import execute

        try:
            execute(open_run(workspace, self.run_id))
        except RunStateError:
            return  # Another process has it.

    def words(self, seeds: int = 1) -> list[str]:
        """Return the words of `gsr run` for so many seeds, from the job's own on.

        Those of an edit are `gsr whatif`.
        """
        if self.edits:
            return [*self.edits[-1].command, "--keep"]
        settings = {key: value for key, value in self.settings.items() if key != "seed"}
        words = ["run", self.bundle, "--method", self.method, *pairs("--set", settings)]
        words += ["--seed", str(self.settings["seed"])]
        words += ["--seeds", str(seeds)] if seeds > 1 else []
        if self.seen_groups is not None:
            words += option("--seen-groups", *(self.seen_groups or (CLASS,)))
        return [*words, "--device", self.device]

    @classmethod
    def restore(cls, workspace: Workspace, key: str, arguments: Mapping[str, Any]) -> Self:
        """Return the job of a run that is there."""
        return cls.of(open_run(workspace, arguments["run_id"]).config)

    @classmethod
    def waiting(cls, workspace: Workspace, queue: str) -> Iterator[Self]:
        """Return the runs that wait for this device."""
        # Imported before the first run, so that it starts at once.
        import gsr_core.runs.execute  # noqa: F401

        for run in reversed(list_runs(workspace)):
            config = run.config
            # Whoever makes the study computes it.
            part_of_study = config.part_of.startswith("study:")
            if run.state.status is Status.QUEUED and not part_of_study:
                job = cls.of(config)
                try:
                    mine = job.own_queue() == queue
                except DeviceError:
                    mine = False  # The workspace came from a machine that has it.
                if mine:
                    yield job


def run_commands(jobs: Sequence[RunJob], workspace: Workspace) -> str:
    """Return the lines of `gsr run` that make some runs: rising seeds of equal runs are one."""
    stretches: list[tuple[RunJob, int]] = []
    for job in jobs:
        if stretches:
            first, count = stretches[-1]
            following = {**first.settings, "seed": first.settings["seed"] + count}
            if job == first.model_copy(update={"settings": following}):
                stretches[-1] = first, count + 1
                continue
        stretches.append((job, 1))
    return "\n".join(shell_line(job.words(count), workspace) for job, count in stretches)


def device_queue(device: str) -> str:
    """Return the queue of the device that `device`, perhaps `auto`, means on this machine."""
    from gsr_core.compute import pick

    chosen = pick(device).device
    return f"cuda:{chosen.index or 0}" if chosen.type == "cuda" else chosen.type


def submit(run: Run) -> None:
    """Queue a waiting run on its device and see that a worker is there."""
    enqueue(run.workspace, RunJob.of(run.config))


def ensure_run_worker(run: Run) -> None:
    """See that a waiting run has a worker: the one it was queued for may have died since.

    A new worker takes up by itself every run that waits on its device. A run that waits on a
    device which this machine does not have is left to the machine that has it.
    """
    try:
        ensure_worker(run.workspace, device_queue(run.config.device))
    except DeviceError:
        return
