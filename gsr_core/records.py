"""Opening and listing what a workspace keeps by name: studies, sweeps and clusterings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

from gsr_core.errors import GsrError, RunNotFoundError

__all__ = ["check_record", "newest_first"]


class _Record(Protocol):
    @property
    def format(self) -> int: ...

    @property
    def created(self) -> str: ...


class _Named(Protocol):
    @property
    def path(self) -> Path: ...

    @property
    def record(self) -> Any: ...


T = TypeVar("T", bound=_Named)


def check_record(kind: str, entry: _Named, readable: int, *, command: str = "") -> None:
    """Check that a directory is there and that this version can read its record.

    Args:
        kind: `study`, `sweep` or `clustering`; its record is `<kind>.json`.
        entry: The requested object, whether it exists or not.
        readable: Format that this version reads.
        command: Of `gsr`, which makes one; named like the kind by default.

    Raises:
        RunNotFoundError: If there is none of that name.
        GsrError: If it has no record, or one of another format.
    """
    name, file = entry.path.name, entry.path / f"{kind}.json"
    if not file.is_file():
        raise RunNotFoundError(
            f"no {kind} '{name}' in {entry.path.parent}; 'gsr {command or kind}' begins one"
        )
    try:
        record: _Record = entry.record
    except ValueError as error:
        raise GsrError(
            f"{file} is not a {kind}'s record; restore it or remove the directory"
        ) from error
    if record.format != readable:
        raise GsrError(
            f"{kind} '{name}' has format {record.format}; this version reads format {readable}"
        )


def newest_first(kind: str, folder: Path, open_one: Callable[[str], T]) -> list[T]:
    """Return what a folder holds of a kind, newest first, without those that cannot be opened.

    Args:
        kind: `study`, `sweep` or `clustering`.
        folder: Where the directories are.
        open_one: Opens one by its name, or raises a `GsrError`.
    """

    def readable() -> Iterator[T]:
        for file in folder.glob(f"*/{kind}.json"):
            try:
                yield open_one(file.parent.name)
            except GsrError:
                continue

    return sorted(readable(), key=lambda each: (each.record.created, each.path.name), reverse=True)
