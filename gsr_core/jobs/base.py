"""What a job is: a frozen record of what to do, which any worker can carry out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Set
from operator import attrgetter
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

from gsr_core.jobs.command import shell_line
from gsr_core.jobs.lock import BACKGROUND
from gsr_core.progress import Report, ShouldStop
from gsr_core.workspace import Workspace

__all__ = ["Job"]


class Job(BaseModel):
    """Work that outlives a page: its fields are its arguments.

    A kind of job is one subclass, in the package whose work it is, and one line in
    `jobs.registry`. What it takes long to import is imported inside `run`, so that queueing one
    costs nothing.

    Attributes:
        kind: Name of the kind, in files and in the queue.
        queue: Who does it; see `jobs.lock`.
        tracked: Whether `jobs.state` says how it stands; a run says so itself.
        keyed: Field, or field of a field, that tells jobs of a kind apart.
        stored: Fields that are stored besides the key; None stores all.
    """

    model_config = ConfigDict(frozen=True)

    kind: ClassVar[str]
    queue: ClassVar[str] = BACKGROUND
    tracked: ClassVar[bool] = True
    keyed: ClassVar[str]
    stored: ClassVar[Set[str] | None] = None

    @property
    def key(self) -> str:
        """Which job of its kind it is: two of one key are the same work."""
        return attrgetter(self.keyed)(self)

    @abstractmethod
    def run(self, workspace: Workspace, report: Report, should_stop: ShouldStop) -> None:
        """Do the work.

        Args:
            workspace: Where.
            report: Told the fraction done and what is being done.
            should_stop: Asked now and then; True ends the work, and what is done stays.

        Raises:
            RunStateError: If `should_stop` said so.
            GsrError: If something about the work is not right.
        """

    def give_up(self, workspace: Workspace) -> None:
        """Take back what was written down of a job that there is no room to queue."""

    def words(self) -> list[str]:
        """Return what is typed after `gsr` to do the same; nothing if no command does."""
        return []

    def command(self, workspace: Workspace) -> str:
        """Return the line of `gsr` that does the same in a workspace; "" if there is none."""
        words = self.words()
        return shell_line(words, workspace) if words else ""

    def own_queue(self) -> str:
        """Return the queue of this very job: `queue`, unless that depends on its arguments."""
        return self.queue

    def arguments(self) -> dict[str, Any]:
        """Return, in what JSON can hold, what `restore` needs besides the key."""
        return self.model_dump(mode="json", include=None if self.stored is None else {*self.stored})

    def message(self) -> dict[str, Any]:
        """Return what the queue keeps of the job."""
        return {**({"key": self.key} if self.tracked else {}), **self.arguments()}

    @classmethod
    def restore(cls, workspace: Workspace, key: str, arguments: Mapping[str, Any]) -> Self:
        """Return the job that was stored.

        Args:
            workspace: Where it is to be done.
            key: As it was stored.
            arguments: As it was stored.

        Raises:
            ValidationError: If the arguments are not those of this kind.
            GsrError: If what the job goes on with is no longer there.
        """
        return cls.model_validate({cls.keyed: key, **arguments})

    @classmethod
    def waiting(cls, workspace: Workspace, queue: str) -> Iterable[Self]:
        """Return the jobs that wait for a queue's worker, oldest first, queued or lost.

        Asked when a device's worker begins; a page that looks at a tracked job starts it again.
        """
        return ()
