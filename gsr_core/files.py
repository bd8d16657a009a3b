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

from gsr_core.errors import DiskFullError

__all__ = [
    "disk_full",
    "is_full",
    "new_directory",
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

    Args:
        target: The directory to make. Its parent is made if it is missing.
        overwrite: Replace an existing `target`, once the block has succeeded.

    Raises:
        FileExistsError: If `target` exists and `overwrite` is false.
    """
    restore_directory(target)
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        if target.exists() and overwrite:
            retired = temporary.with_suffix(".old")
            os.rename(target, retired)
            os.rename(temporary, target)
            shutil.rmtree(retired, ignore_errors=True)
        else:
            os.rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def restore_directory(target: Path) -> None:
    """Clean up after a process that was killed in `new_directory` for the same `target`.

    A directory that was set aside for a new one that never came is put back; other ones set aside
    are deleted, and so are temporary ones that nobody has written to for a day.
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
        with suppress(FileNotFoundError):  # Whoever wrote it is done.
            if time.time() - each.stat().st_mtime > _STALE:
                shutil.rmtree(each, ignore_errors=True)


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
