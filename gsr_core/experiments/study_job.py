"""A study as a job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field

from gsr_core.data.bundle import open_bundle
from gsr_core.errors import RunStateError
from gsr_core.experiments.study import Kind, Study, make_study, open_study
from gsr_core.jobs.base import Job
from gsr_core.jobs.command import option, pairs
from gsr_core.jobs.lock import STUDIES
from gsr_core.progress import Report, ShouldStop
from gsr_core.workspace import Workspace

__all__ = ["StudyJob"]


class StudyJob(Job):
    """Compute what is missing of a study. Its fields, but for `study`, are those of the record.

    Attributes:
        study: What is varied.
    """

    kind = "study"
    queue = STUDIES
    keyed = "name"
    stored = frozenset()

    study: Kind
    bundle: str
    methods: tuple[str, ...]
    levels: tuple[float, ...]
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    seeds: int
    device: str
    name: str

    @property
    def runs(self) -> int:
        """How many runs the study has."""
        return len(self.methods) * len(self.levels) * self.seeds

    @classmethod
    def of(cls, study: Study) -> Self:
        """Return the job of a study."""
        record = study.record
        fields = record.model_dump(include=set(cls.model_fields))
        return cls(study=record.kind, **fields)

    def begin(self, workspace: Workspace) -> Self:
        """Make the study, or let one of its name go on, and return its job.

        Raises:
            GsrError: As `make_study`.
        """
        from gsr_core.experiments.strength import names_of_levels

        bundles = []
        if self.study == "strength":
            bundles = names_of_levels(open_bundle(workspace, self.bundle), self.levels)
        return self.of(
            make_study(
                workspace,
                self.study,
                bundles=bundles,
                **self.model_dump(exclude={"study"}),
            )
        )

    def run(self, workspace: Workspace, report: Report, should_stop: ShouldStop) -> None:
        """Compute the runs that are missing.

        Raises:
            RunStateError: If it was stopped, or runs failed.
        """
        from gsr_core.experiments.strength import compute_study, failure_message

        study = open_study(workspace, self.name)
        failed = compute_study(study, progress=report, should_stop=should_stop)
        if failed:
            raise RunStateError(failure_message(failed))

    def words(self) -> list[str]:
        """Return the words of `gsr study`."""
        words = ["study", self.study, self.bundle, "--methods", ",".join(self.methods)]
        if self.study != "leak":
            words += option("--levels", ",".join(f"{level:g}" for level in self.levels))
        for method, settings in self.settings.items():
            words += pairs("--set", {f"{method}.{key}": value for key, value in settings.items()})
        return [*words, "--seeds", str(self.seeds), "--name", self.name, "--device", self.device]

    @classmethod
    def restore(cls, workspace: Workspace, key: str, arguments: Mapping[str, Any]) -> Self:
        """Return the job of a study that is there."""
        return cls.of(open_study(workspace, key))
