"""Files and directories that are either complete or absent."""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["new_directory", "replace_file", "restore_directory", "sha256"]

_UMASK = os.umask(0)
"""Read once: the only way to read it changes it for a moment, for all threads."""
os.umask(_UMASK)

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


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
