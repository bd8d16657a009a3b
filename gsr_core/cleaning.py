"""What a workspace holds that nothing uses any more, and freeing its room."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gsr_core.data.bundle import open_bundle
from gsr_core.errors import GsrError, SettingError
from gsr_core.files import abandoned, is_free, is_stale, remove, restore_directory
from gsr_core.workspace import Workspace

__all__ = ["Leftover", "free", "leftovers"]

_YOUNG = 600.0
"""Seconds in which a directory without a record may still get one."""


@dataclass(frozen=True)
class Leftover:
    """Something that can be removed.

    Attributes:
        path: Of the file or directory.
        what: What it is, and what is lost with it, in words.
        size: Bytes that its removal frees.
    """

    path: Path
    what: str
    size: int


def leftovers(workspace: Workspace) -> list[Leftover]:
    """Return what nothing uses, the largest first; what somebody is writing is left out.

    - Temporary files and directories of processes that were killed.
    - Directories of runs that were never made.
    - Features that no bundle has: of imports that did not end, which the same import would go on
      with, and of bundles that were removed, which a new import of the same data would use.
    - Measured properties and embeddings of phrases that no bundle of the workspace can use. All
      are kept while one of its bundles cannot be read, since that may be mended.

    Maps and graphs are kept, since nothing in them tells of which bundle they are, and so is what
    the user made: slices, flags, labels and clusterings are of a content, and are there again if it
    is imported again.

    Example:
        >>> temporary = place.bundles / ".birds.01234567.tmp"
        >>> temporary.mkdir()
        >>> temporary.with_suffix(".lock").touch()
        >>> [each.what for each in leftovers(place)]
        ['left behind by a process that was killed']
    """
    found = [
        *_temporaries(workspace),
        *_runs(workspace),
        *_extractions(workspace),
        *_of_no_bundle(workspace),
    ]
    return sorted(found, key=lambda each: each.size, reverse=True)


def free(workspace: Workspace) -> list[Leftover]:
    """Remove what `leftovers` returns, and return what is gone.

    Example:
        >>> (place.runs / "never-made").mkdir(parents=True)
        >>> free(place)  # It may be a run that is just being made.
        []
    """
    found = leftovers(workspace)
    for each in found:
        if each.path.is_dir() and not each.path.name.startswith("."):
            shutil.rmtree(each.path, ignore_errors=True)
        else:
            remove(each.path)
    for each in workspace.root.rglob(".*.????????.old"):
        # A bundle that was set aside for a new one that never came is put back.
        restore_directory(each.with_name(each.name[1:-13]))
    return [each for each in found if not each.path.exists()]


def _temporaries(workspace: Workspace) -> Iterator[Leftover]:
    seen: set[Path] = set()
    for folder in {each.parent for each in workspace.root.rglob(".*.????????.tmp")}:
        seen.update(abandoned(folder))
        seen.update(
            each
            for each in folder.glob(".*.????????.tmp")
            if is_stale(each) and not each.with_suffix(".lock").exists()
        )
    for path in seen:
        if not any(parent in seen for parent in path.parents):
            yield Leftover(path, "left behind by a process that was killed", _size(path))


def _runs(workspace: Workspace) -> Iterator[Leftover]:
    if not workspace.runs.is_dir():
        return
    for path in workspace.runs.iterdir():
        if path.is_dir() and not (path / "config.json").exists() and _age(path) > _YOUNG:
            yield Leftover(path, "a run that was never made", _size(path))


def _extractions(workspace: Workspace) -> Iterator[Leftover]:
    if not workspace.extractions.is_dir():
        return
    for path in workspace.extractions.iterdir():
        arrays = [path / name for name in ("features.npy", "kept.npy")]
        # A bundle shares the file by a hard link, or has a copy where links are not possible.
        shared = any(file.stat().st_nlink > 1 for file in arrays if file.exists())
        lock = path / "lock"
        idle = is_free(lock) or not lock.exists()
        begun = (path / "journal.json").exists() or _age(path) > _YOUNG
        if path.is_dir() and begun and idle and not shared:
            yield Leftover(path, _about(path), _size(path))


def _of_no_bundle(workspace: Workspace) -> Iterator[Leftover]:
    about = {
        workspace.measured: "properties of inputs that no bundle has; a scan would measure them",
        workspace.phrases: "phrases for a network that no bundle has; it would embed them",
    }
    files = [file for folder in about for file in folder.glob("[!.]*") if _age(file) > _YOUNG]
    used = _used(workspace) if files else None
    if used is None:
        return
    for file in files:
        key = file.name.partition(".")[0]
        lock = file.with_name(f".{key}.lock")
        if key not in used and (is_free(lock) or not lock.exists()):
            yield Leftover(file, about[file.parent], _size(file))


def _used(workspace: Workspace) -> set[str] | None:
    """Return the names of what is kept of bundles, without endings; None if one is not readable."""
    # Only here: what opens networks takes seconds to import.
    from gsr_core.phrases.embed import phrases_file
    from gsr_core.scanning.measured import can_be_measured, measured_file

    used = set()
    # Those that are being written, or were set aside for a new one, begin with a dot.
    for manifest in workspace.bundles.glob("*/manifest.json"):
        try:
            bundle = open_bundle(workspace, str(manifest.parent))
            if can_be_measured(bundle):
                used.add(measured_file(workspace, bundle).stem)
            with suppress(SettingError):  # Its network takes no phrases.
                used.add(phrases_file(workspace, bundle).stem)
        except (GsrError, OSError, ValueError):
            return None
    return used


def _about(extraction: Path) -> str:
    try:
        journal = json.loads((extraction / "journal.json").read_text())
        rows, n = int(journal["rows"]), int(journal["n"])
    except (OSError, ValueError, KeyError, TypeError):
        return "features of an import that did not begin"
    if rows < n:
        return (
            f"features of {rows:,} of {n:,} inputs, with which the import that did not end would "
            "go on"
        )
    return "features that no bundle has, which an import of the same data would use"


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _size(path: Path) -> int:
    total = 0
    for file in [path, *path.rglob("*")]:
        with suppress(FileNotFoundError):
            status = file.lstat()
            # What another link keeps is not freed.
            if not file.is_dir() and status.st_nlink == 1:
                total += status.st_size
    return total
