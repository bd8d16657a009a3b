"""Files and directories that are either complete or absent."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from gsr_core.errors import DiskFullError

__all__ = [
    "abandoned",
    "disk_full",
    "is_free",
    "is_full",
    "is_stale",
    "new_directory",
    "remove",
    "replace_file",
    "restore_directory",
    "sha256",
]

_UMASK = os.umask(0)
"""Read once: the only way to read it changes it for a moment, for all threads."""
os.umask(_UMASK)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_FULL_TEXT = re.compile(
    "no space left|quota exceeded|file too large|disk is full|StorageFull|FileTooLarge|"
    r"QuotaExceeded|\d+ requested and \d+ written",
    re.IGNORECASE,
)
"""How libraries say so whose errors have no number: safetensors, SQLite, NumPy."""

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp", re.DOTALL)

_STALE = 24 * 3600.0
"""Seconds after which nobody is still writing a temporary directory."""


@contextmanager
def replace_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target` that replaces it when the block succeeds.

    A reader sees the old file or the new one, never a part. If the block raises, `target` is
    untouched and nothing stays behind.
    """
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        # Some writers make files that only their owner may read; a workspace can be shared.
        temporary.chmod(0o666 & ~_UMASK)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_directory(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary directory that becomes `target` when the block succeeds.

    A lock beside it is held meanwhile, so that others can tell it from what a process that was
    killed left behind; such directories beside `target` are removed first.

    Args:
        target: The directory to make. Its parent is made if it is missing.
        overwrite: Replace an existing `target`, once the block has succeeded.

    Raises:
        FileExistsError: If `target` exists and `overwrite` is false, or somebody else made it
            meanwhile.
    """
    restore_directory(target)
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists")
    target.parent.mkdir(parents=True, exist_ok=True)
    for each in abandoned(target.parent):
        remove(each)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    with FileLock(_lock_of(temporary)):
        temporary.mkdir()
        try:
            yield temporary
            retired = temporary.with_suffix(".old")
            if overwrite:
                with suppress(FileNotFoundError):
                    os.rename(target, retired)
            _put_in_place(temporary, target)
            shutil.rmtree(retired, ignore_errors=True)
        finally:
            remove(temporary)


def _put_in_place(temporary: Path, target: Path) -> None:
    try:
        os.rename(temporary, target)
    except OSError as error:
        # Systems say in several ways that it is there.
        raise FileExistsError(f"{target} exists") if target.exists() else error from None


def _lock_of(temporary: Path) -> Path:
    return temporary.with_suffix(".lock")


def abandoned(folder: Path) -> list[Path]:
    """Return the temporary directories in a folder whose process was killed."""
    return [
        each
        for each in folder.glob(".*.tmp")
        # One of an earlier version has no lock, and could be anybody's.
        if _TEMPORARY.fullmatch(each.name) and is_free(_lock_of(each))
    ]


def remove(temporary: Path) -> None:
    """Remove a temporary file or directory and its lock, if they are there."""
    shutil.rmtree(temporary, ignore_errors=True)
    # Windows does so itself when the lock is let go.
    for file in (temporary, _lock_of(temporary)):
        with suppress(OSError):
            file.unlink()


def is_free(lock: Path) -> bool:
    """Return whether a lock is there and nobody holds it."""
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return True
    except (Timeout, OSError):
        return False


def restore_directory(target: Path) -> None:
    """Clean up after a process that was killed in `new_directory` for the same `target`.

    A directory that was set aside for a new one that never came is put back; other ones set aside
    are deleted, and so are temporary ones of earlier versions, which have no lock, that nobody has
    written to for a day.
    """

    def leftovers(suffix: str) -> list[Path]:
        # Eight characters, so that the leftovers of `a.b` are not taken for those of `a`.
        return list(target.parent.glob(f".{glob.escape(target.name)}.????????.{suffix}"))

    retired = leftovers("old")
    if not target.exists() and len(retired) == 1:
        os.rename(retired.pop(), target)
    for each in retired if target.exists() else []:
        shutil.rmtree(each, ignore_errors=True)
    for each in leftovers("tmp"):
        if is_stale(each) and not _lock_of(each).exists():
            remove(each)


def is_stale(temporary: Path) -> bool:
    """Return whether nobody has written to a temporary file or directory for a day."""
    try:
        return time.time() - temporary.stat().st_mtime > _STALE
    except FileNotFoundError:  # Whoever wrote it is done.
        return False


def is_full(error: BaseException | None) -> bool:
    """Return whether an error, or one that it came from, means that there is no room on a disk."""
    while error is not None:
        if isinstance(error, DiskFullError):
            return True
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if _FULL_TEXT.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def disk_full(what: str) -> Iterator[None]:
    """Turn any error that means a full disk into one sentence.

    Args:
        what: What cannot be written, for the sentence.

    Raises:
        DiskFullError: If the block fails because there is no room; other errors pass.
    """
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        if not is_full(error):
            raise
        raise DiskFullError(
            f"the disk is full: {what} cannot be written; make room, for instance with 'gsr "
            "clean', and start again"
        ) from error


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
