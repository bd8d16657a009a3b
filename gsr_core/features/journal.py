"""Where features go as they are computed: into memory, or into a folder that survives a kill.

A folder holds

    features.npy       (n, d) float32; the header promises all n rows, which come one after another
    thumbnails.bin     encoded images one after another, if asked for
    thumbnails.sizes   int32, bytes of each image; -1 for a row without one
    bad.jsonl          one line for each row that could not be read
    journal.json       what is computed, and how many rows and bytes of each file are safe

The files only ever grow. After a chunk they are brought to the disk, and only then the journal is
replaced, whole. Whatever happens, the journal tells the truth: to resume is to cut every file to
the length that the journal gives.
"""

from __future__ import annotations

import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from gsr_core.errors import DiskFullError, RunStateError
from gsr_core.files import is_full, replace_file

__all__ = ["BadRow", "FolderStore", "MemoryStore", "Store", "open_store"]

VERSION = 1
JOURNAL = "journal.json"
FEATURES = "features.npy"
IMAGES = "thumbnails.bin"
SIZES = "thumbnails.sizes"
BAD = "bad.jsonl"
LOCK = "lock"

CHUNK_SECONDS = 5.0
"""How long a chunk takes to compute: what a kill can lose."""
NO_THUMBNAIL = -1
READ_ROWS = 4096


@dataclass(frozen=True)
class BadRow:
    """A row that has no features.

    Attributes:
        row: Its position.
        name: Its path, or what else the inputs call it.
        reason: Why.
    """

    row: int
    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class Store(ABC):
    """Takes rows in order.

    Attributes:
        n: Rows there will be.
        d: Features a row.
        rows: Rows that are there.
        bad: Those of them that could not be read.
    """

    n: int
    d: int
    rows: int
    bad: list[BadRow]

    @abstractmethod
    def append(
        self, features: np.ndarray, bad: Sequence[BadRow], thumbnails: Sequence[bytes | None]
    ) -> None:
        """Add the next rows.

        Args:
            features: (k, d) float32, NaN in bad rows.
            bad: The bad rows among them.
            thumbnails: k of them; none if they were not asked for.

        Raises:
            DiskFullError: If there is no room for them; the finished chunks stay.
        """

    @abstractmethod
    def commit(self) -> None:
        """Make all rows so far safe.

        Raises:
            DiskFullError: If there is no room for them.
        """

    @abstractmethod
    def features(self) -> np.ndarray:
        """Return the rows that are there, (rows, d) float32."""

    @abstractmethod
    def thumbnails(self) -> Iterator[bytes | None]:
        """Yield the thumbnails of the rows that are there."""


class MemoryStore(Store):
    """Keeps everything in memory."""

    def __init__(self, n: int, d: int) -> None:
        self.n, self.d, self.rows, self.bad = n, d, 0, []
        self._features = np.empty((n, d), np.float32)
        self._thumbnails: list[bytes | None] = []

    def append(
        self, features: np.ndarray, bad: Sequence[BadRow], thumbnails: Sequence[bytes | None]
    ) -> None:
        """Add the next rows; see `Store.append`."""
        self._features[self.rows : self.rows + len(features)] = features
        self.rows += len(features)
        self.bad.extend(bad)
        self._thumbnails.extend(thumbnails)

    def commit(self) -> None:
        """Do nothing: memory has no disk to reach."""

    def features(self) -> np.ndarray:
        """Return the rows that are there, (rows, d) float32."""
        return self._features[: self.rows]

    def thumbnails(self) -> Iterator[bytes | None]:
        """Yield the thumbnails of the rows that are there."""
        return iter(self._thumbnails)


class FolderStore(Store):
    """Keeps everything in a folder, and goes on where the journal of the same digest ends."""

    def __init__(self, folder: Path, digest: str, n: int, d: int, *, thumbnails: bool) -> None:
        """Find what is there, or start anew; see `open_store`, which also locks the folder.

        Raises:
            DiskFullError: If there is no room even for a beginning.
        """
        self.folder, self.digest, self.n, self.d = folder, digest, n, d
        self.rows, self.bad = 0, []
        self._names = [FEATURES, BAD, *([IMAGES, SIZES] if thumbnails else [])]
        self._files: dict[str, FileIO] = {}
        sizes = self._resume()
        self._header = _header(n, d)
        with self._room():
            if sizes is None:
                for name in (JOURNAL, FEATURES, BAD, IMAGES, SIZES):
                    # Not cut to zero: a bundle may share the file by a hard link.
                    (folder / name).unlink(missing_ok=True)
                self._open("wb", dict.fromkeys(self._names, 0))
                self._write(FEATURES, self._header)
                self.commit()
            elif self.rows < n:
                self._open("r+b", sizes)
        self._committed = time.monotonic()

    def append(
        self, features: np.ndarray, bad: Sequence[BadRow], thumbnails: Sequence[bytes | None]
    ) -> None:
        """Add the next rows; see `Store.append`."""
        with self._room():
            # Not through the memory map, where a full disk kills the process without a word.
            self._write(FEATURES, np.ascontiguousarray(features, np.float32).data.cast("B"))
            if bad:
                lines = [json.dumps(asdict(each)) + "\n" for each in bad]
                self._write(BAD, "".join(lines).encode())
            if thumbnails:
                images = [image for image in thumbnails if image is not None]
                sizes = [NO_THUMBNAIL if image is None else len(image) for image in thumbnails]
                self._write(IMAGES, b"".join(images))
                self._write(SIZES, np.array(sizes, np.int32).tobytes())
            self.rows += len(features)
            self.bad.extend(bad)
            if time.monotonic() - self._committed >= CHUNK_SECONDS:
                self.commit()

    def commit(self) -> None:
        """Bring the files to the disk, then replace the journal.

        Raises:
            DiskFullError: If there is no room for them.
        """
        if not self._files:
            return
        with self._room():
            for file in self._files.values():
                os.fsync(file.fileno())
            journal = {
                "version": VERSION,
                "digest": self.digest,
                "n": self.n,
                "d": self.d,
                "rows": self.rows,
                "sizes": {name: file.tell() for name, file in self._files.items()},
            }
            with replace_file(self.folder / JOURNAL) as temporary, temporary.open("w") as file:
                json.dump(journal, file)
                file.flush()
                os.fsync(file.fileno())
        self._committed = time.monotonic()

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
        self._files = {}

    def features(self) -> np.ndarray:
        """Return the rows that are there, (rows, d) float32, memory-mapped."""
        file = self.folder / FEATURES
        if self.rows == 0:
            return np.empty((0, self.d), np.float32)
        if self.rows == self.n:
            return np.load(file, mmap_mode="r", allow_pickle=False)
        return np.memmap(file, np.float32, "r", len(self._header), (self.rows, self.d))

    def thumbnails(self) -> Iterator[bytes | None]:
        """Yield the thumbnails of the rows that are there, reading as it goes."""
        with (self.folder / SIZES).open("rb") as sizes, (self.folder / IMAGES).open("rb") as images:
            for start in range(0, self.rows, READ_ROWS):
                count = min(READ_ROWS, self.rows - start)
                for size in np.frombuffer(sizes.read(4 * count), np.int32).tolist():
                    yield None if size == NO_THUMBNAIL else images.read(size)

    def _resume(self) -> dict[str, int] | None:
        """Take over the journal of the same digest; return what it says, None without one."""
        try:
            journal: dict[str, Any] = json.loads((self.folder / JOURNAL).read_text())
            same = (VERSION, self.digest, self.n, self.d) == tuple(
                journal[key] for key in ("version", "digest", "n", "d")
            )
            sizes = {name: int(journal["sizes"][name]) for name in self._names}
            if not same or any(
                (self.folder / name).stat().st_size < size for name, size in sizes.items()
            ):
                return None
            with (self.folder / BAD).open("rb") as file:
                lines = file.read(sizes[BAD]).splitlines()
            self.bad = [BadRow(**json.loads(line)) for line in lines]
            self.rows = int(journal["rows"])
        except (OSError, ValueError, KeyError, TypeError):
            # No journal, or none that this version wrote.
            self.bad = []
            return None
        return sizes

    def _open(self, mode: str, sizes: dict[str, int]) -> None:
        for name, size in sizes.items():
            file = FileIO(self.folder / name, mode)
            file.truncate(size)
            file.seek(size)
            self._files[name] = file

    def _write(self, name: str, content: bytes | memoryview) -> None:
        rest = memoryview(content)
        while rest:  # A nearly full disk takes a part.
            rest = rest[self._files[name].write(rest) :]

    @contextmanager
    def _room(self) -> Iterator[None]:
        try:
            yield
        except DiskFullError:
            raise
        except OSError as error:
            if not is_full(error):
                raise
            raise DiskFullError(
                f"the disk of {self.folder} is full ({error.strerror}); all {self.n:,} rows of "
                f"{self.d} features need {4 * self.n * self.d / 1e6:,.0f} MB. What is computed is "
                "kept: make room and start again, and it goes on from there"
            ) from error


@contextmanager
def open_store(
    folder: Path | None, digest: str, n: int, d: int, *, thumbnails: bool
) -> Iterator[Store]:
    """Yield where features go; appended rows are safe when the block ends, error or not.

    Args:
        folder: Where, made if it is missing; None keeps them in memory. Content of another digest
            is deleted.
        digest: Of what is computed.
        n: Rows there will be.
        d: Features a row.
        thumbnails: Whether thumbnails come along.

    Raises:
        RunStateError: If another process writes to the folder.
        DiskFullError: If there is no room even for a beginning.
    """
    if folder is None:
        yield MemoryStore(n, d)
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        raise RunStateError(
            f"another process extracts features into {folder}; wait until it is done or stop it"
        ) from None
    try:
        store = FolderStore(folder, digest, n, d, thumbnails=thumbnails)
        try:
            yield store
            store.commit()
        except DiskFullError:
            raise  # There is no room for another journal; the last one holds.
        except BaseException:
            store.commit()
            raise
        finally:
            store.close()
            if not store.rows:
                # Nothing to go on with; what made it fail may well make it another extraction.
                _forget(folder)
    finally:
        lock.release()


def _forget(folder: Path) -> None:
    """Remove an extraction, and its folder if there is nothing else in it."""
    for name in (JOURNAL, FEATURES, BAD, IMAGES, SIZES, LOCK):
        with suppress(OSError):
            (folder / name).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _header(n: int, d: int) -> bytes:
    """Return what stands before the numbers of a .npy file."""
    header = BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (n, d)}
    )
    return header.getvalue()
