"""Directories of the workspace that have a name and a record: studies, sweeps and clusterings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from pydantic import BaseModel

from gsr_core.errors import GsrError, RunNotFoundError
from gsr_core.names import is_name
from gsr_core.workspace import Workspace

__all__ = ["Record", "RecordFolder", "newest_first", "open_folder"]


class Record(Protocol):
    """What every record says."""

    @property
    def format(self) -> int:
        """Version of the directory's format."""
        ...

    @property
    def created(self) -> str:
        """Time, ISO 8601, UTC."""
        ...


R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class RecordFolder(Generic[R]):
    """A directory whose file `<kind>.json` says what it is.

    Attributes:
        kind: For people and for the file's name: `study`, `sweep` or `clustering`.
        model: Class of the record.
        readable: Format that this version reads.
        command: Of `gsr`, which begins one.
    """

    workspace: Workspace
    path: Path

    kind: ClassVar[str]
    model: ClassVar[type[BaseModel]]
    readable: ClassVar[int]
    command: ClassVar[str]

    @property
    def name(self) -> str:
        """Name of the directory."""
        return self.path.name

    @property
    def file(self) -> Path:
        """File of the record."""
        return self.path / f"{self.kind}.json"

    @property
    def record(self) -> R:
        """What is written down about it."""
        record: Any = self.model.model_validate_json(self.file.read_text())
        return record

    def checked(self) -> Self:
        """Return this, after a check that it is there and that this version can read it.

        Raises:
            RunNotFoundError: If there is none of that name.
            GsrError: If it has no record, or one of another format.
        """
        if not self.file.is_file():
            raise RunNotFoundError(_not_there(type(self), self.path.parent, self.name))
        try:
            record = self.record
        except ValueError as error:
            raise GsrError(
                f"{self.file} is not a {self.kind}'s record; restore it or remove the directory"
            ) from error
        if record.format != self.readable:
            raise GsrError(
                f"{self.kind} '{self.name}' has format {record.format}; this version reads format "
                f"{self.readable}"
            )
        return self


F = TypeVar("F", bound=RecordFolder[Any])


def open_folder(kind: type[F], workspace: Workspace, parent: Path, name: str) -> F:
    """Return the directory of a kind by its name.

    Args:
        kind: What to open.
        workspace: Where.
        parent: The directory that it is in.
        name: Its name, from wherever.

    Raises:
        RunNotFoundError: If there is none of that name.
        GsrError: If it has no record, or one of another format.
    """
    if not is_name(name):
        raise RunNotFoundError(_not_there(kind, parent, name))
    return kind(workspace, parent / name).checked()


def _not_there(kind: type[RecordFolder[Any]], parent: Path, name: str) -> str:
    return f"no {kind.kind} '{name}' in {parent}; 'gsr {kind.command}' begins one"


def newest_first(kind: type[F], workspace: Workspace, parent: Path) -> list[F]:
    """Return the directories of a kind, newest first; those that `checked` refuses are left out.

    Args:
        kind: What to look for.
        workspace: Where.
        parent: The directory that they are in.
    """

    def readable() -> Iterator[tuple[str, str, F]]:
        for file in parent.glob(f"*/{kind.kind}.json"):
            try:
                folder = kind(workspace, file.parent).checked()
            except GsrError:
                continue
            yield folder.record.created, folder.name, folder

    return [each for *_, each in sorted(readable(), key=lambda entry: entry[:2], reverse=True)]
