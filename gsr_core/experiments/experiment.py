"""What studies and sweeps share.

Both are directories with a record, `<kind>.json`, and a file `lock`, which is held by the process
that computes. Both keep to the content of one bundle, and an experiment that exists already goes on
when one of its name is asked for again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

from filelock import FileLock, Timeout

from gsr_core.data.bundle import Bundle, open_bundle
from gsr_core.errors import BundleError, DiskFullError, RunStateError, SettingError
from gsr_core.files import disk_full, replace_file
from gsr_core.records import Record, RecordFolder

__all__ = ["Experiment", "ExperimentRecord"]


_PATIENCE = 0.5
"""Seconds to wait for the lock, which `Experiment.active` holds for a moment."""


class ExperimentRecord(Record, Protocol):
    """What the records of studies and sweeps have in common; each stores it in its own order."""

    @property
    def bundle(self) -> str:
        """Name of the bundle, or the path of its directory."""
        ...

    @property
    def bundle_digest(self) -> str:
        """Identity of the bundle's content; the experiment refuses to go on with another."""
        ...

    def model_dump_json(self, *, indent: int | None = None) -> str:
        """Return the record as JSON."""
        ...


R = TypeVar("R", bound=ExperimentRecord)


@dataclass(frozen=True)
class Experiment(RecordFolder[R], ABC):
    """A study or a sweep on disk.

    Attributes:
        parts: What it computes, for people: `runs` or `trials`.
        decisive: Fields of the record that cannot change when it goes on.
    """

    parts: ClassVar[str]
    decisive: ClassVar[tuple[str, ...]]

    def write(self, record: R) -> None:
        """Replace the record."""
        with replace_file(self.file) as temporary:
            temporary.write_text(record.model_dump_json(indent=2) + "\n")

    @property
    def active(self) -> bool:
        """Whether a process works on it."""
        try:
            with self.lock(patience=0):
                return False
        except RunStateError:
            return True

    @contextmanager
    def lock(self, patience: float = _PATIENCE) -> Iterator[None]:
        """Hold the lock.

        Args:
            patience: Seconds to wait for it.

        Raises:
            RunStateError: If another process has it.
        """
        try:
            with FileLock(self.path / "lock", timeout=patience):
                yield
        except Timeout:
            raise RunStateError(
                f"{self.kind} '{self.name}' is under way in another process; wait for it or stop "
                "it there"
            ) from None

    def unchanged_bundle(self) -> Bundle:
        """Return the bundle.

        Raises:
            BundleError: If its content is no longer what the experiment began on.
        """
        record = self.record
        bundle = open_bundle(self.workspace, record.bundle)
        if bundle.manifest.digest != record.bundle_digest:
            raise BundleError(
                f"bundle '{bundle.name}' has changed since {self.kind} '{self.name}' began, so "
                f"that its {self.parts} no longer compare; begin a new {self.kind} under another "
                "name"
            )
        return bundle

    def begin(self, wanted: R) -> None:
        """Write the record, or make the experiment that has this name already go on with it.

        Raises:
            RunStateError: If it is under way.
            SettingError: If a decisive field differs.
            DiskFullError: If there is no room for it; then nothing is left behind.
            GsrError: If its bundle has changed, or this version cannot read it.
        """
        if not self.file.is_file():
            try:
                with disk_full(f"the record of a {self.kind}"):
                    self.path.mkdir(parents=True, exist_ok=True)
                    self.write(wanted)
            except DiskFullError:
                with suppress(OSError):
                    self.path.rmdir()
                raise
            return
        with self.lock():
            before = self.checked().record
            for key in self.decisive:
                old, new = getattr(before, key), getattr(wanted, key)
                if old != new:
                    raise SettingError(
                        f"{self.kind} '{self.name}' was begun with {self.difference(key, old, new)}"
                        "; choose another name to begin a new one"
                    )
            self.unchanged_bundle()
            self.write(self.renewed(before, wanted))

    @abstractmethod
    def difference(self, key: str, old: Any, new: Any) -> str:
        """Return in words which value a decisive field had, and which is wanted instead."""

    @abstractmethod
    def renewed(self, before: R, wanted: R) -> R:
        """Return the record to go on with.

        Args:
            before: The record on disk.
            wanted: The record that is asked for, of which all decisive fields are the same.
        """
