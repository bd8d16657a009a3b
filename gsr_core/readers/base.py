"""What a reader is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as settings

from gsr_core.data.source import Source

__all__ = ["READER_CONFIG", "Reader", "settings"]

READER_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False, validate_default=True)


@settings(frozen=True, kw_only=True, config=READER_CONFIG)
class Reader(ABC):
    """A reader: its fields are its settings, and every one but the path has a default.

    Like a method, it is its own configuration: the command line's `--set` and the dashboard's
    form are drawn from its fields' types, defaults and descriptions, and a bundle stores them.
    """

    name: ClassVar[str]
    """Key in the registry and in stored bundles; never changes."""
    title: ClassVar[str]
    """Name for people."""
    summary: ClassVar[str]
    """What layout it reads, in one sentence."""
    path_help: ClassVar[str]
    """What `path` has to be, in a few words."""
    extra: ClassVar[str] = ""
    """Extra of this package that it needs, or ""."""

    path: Annotated[str, Field(description="File, folder or name of the data.")] = ""

    @abstractmethod
    def read(self) -> Source:
        """Read the table and find the inputs; images are not opened yet.

        Raises:
            SourceError: If the files are not in the expected layout; the sentence says what was
                expected, what was found and what to do.
            MissingExtraError: If an optional library is needed that is not installed.
        """

    @property
    def location(self) -> Path:
        """The path, with `~` resolved."""
        return Path(self.path).expanduser()

    def settings(self) -> dict[str, Any]:
        """Return the settings by name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}
