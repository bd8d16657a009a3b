"""Slices: sets of samples that a user picked out, and their names.

```
<workspace>/slices/<key>.npy          positions in a bundle, ascending; the key is a digest of both
                   <digest>.json      names of slices of the bundle with that digest
          /flags/<digest>.parquet     row, reason, note, proposed_label, created (`curation.flags`)
```

A set of positions travels in a URL by its key. Keys, names and flags belong to a bundle's content
(`Manifest.digest`). A bundle that is written anew begins without slices and flags, and links to
sets of the old one lead nowhere, because the same positions may be other samples.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np
from filelock import FileLock
from pydantic import BaseModel, ConfigDict

from gsr_core.data.bundle import Bundle
from gsr_core.errors import GsrError, SettingError
from gsr_core.files import replace_file
from gsr_core.names import check_text
from gsr_core.runs.store import now
from gsr_core.settings import suggestion
from gsr_core.workspace import Workspace

__all__ = [
    "NAME_LENGTH",
    "Slice",
    "checked_rows",
    "delete_slice",
    "find_slice",
    "list_slices",
    "load_slice",
    "locked",
    "name_slice",
    "rename_slice",
    "save_slice",
    "slice_key",
]


FORMAT = 1

NAME_LENGTH = 60
"""Most characters of a slice's name."""


@dataclass(frozen=True)
class Slice:
    """A set of samples that has a name.

    Attributes:
        name: For people, unique among the slices of the bundle.
        key: Key of the set, made from its content; it stays when the slice is renamed.
        rows: (q,) positions in the bundle, ascending.
        about: Origin, in words.
        created: Time of naming, ISO 8601, UTC.
    """

    name: str
    key: str
    rows: np.ndarray = field(compare=False, repr=False)
    about: str
    created: str


class _Named(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str
    key: str
    about: str
    created: str


class _Names(BaseModel):
    format: int
    slices: list[_Named]


def save_slice(workspace: Workspace, bundle: Bundle, rows: np.ndarray) -> str:
    """Store a set of positions in a bundle and return its key, made from the content of both."""
    positions = np.unique(np.asarray(rows, dtype=np.int64))
    key = slice_key(bundle, positions)
    file = workspace.slices / f"{key}.npy"
    if not file.exists():
        workspace.slices.mkdir(parents=True, exist_ok=True)
        with replace_file(file) as temporary, temporary.open("wb") as stream:
            np.save(stream, positions)
    return key


def load_slice(workspace: Workspace, bundle: Bundle, key: str) -> np.ndarray | None:
    """Return the positions of a set, or None if the bundle has no readable one of that key."""
    file = workspace.slices / f"{key}.npy"
    if not re.fullmatch(r"[0-9a-f]{12}", key) or not file.exists():
        return None
    try:
        positions = np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError):
        return None
    return positions if key == slice_key(bundle, positions) else None


def slice_key(bundle: Bundle, positions: np.ndarray) -> str:
    """Return the key of a set.

    Args:
        bundle: The data.
        positions: (q,) int64, positions in the bundle, ascending.
    """
    content = bundle.manifest.digest.encode() + positions.tobytes()
    return hashlib.sha256(content).hexdigest()[:12]


def name_slice(
    workspace: Workspace, bundle: Bundle, name: str, rows: np.ndarray, about: str = ""
) -> Slice:
    """Store samples of a bundle under a name.

    Args:
        workspace: Where.
        bundle: Whose samples.
        name: 1 to 60 characters on one line.
        rows: (q,) positions in the bundle; at least one.
        about: Origin of the slice, in words.

    Raises:
        SettingError: If the name is not allowed or is taken, or if rows are not in the bundle.
        GsrError: If the workspace's list of slices cannot be read.

    Example:
        >>> bundle = gsr.open_bundle(place, "birds")
        >>> gsr.name_slice(place, bundle, "dark birds", np.array([3, 5]), about="a first look")
        Slice(name='dark birds', key='eb88a1dfe222', about='a first look', created='...')
    """
    name = _checked_name(name)
    check_text("about", about)
    positions = np.unique(checked_rows(bundle, rows))
    if not len(positions):
        raise SettingError(f"slice '{name}' has no sample; a slice has at least one")
    with locked(workspace.slices, bundle):
        others = _read_names(workspace, bundle)
        _check_free(name, others)
        entry = _Named(
            name=name,
            key=save_slice(workspace, bundle, positions),
            about=" ".join(about.split()),
            created=now(),
        )
        _write_names(workspace, bundle, [*others, entry])
    return Slice(**entry.model_dump(), rows=positions)


def list_slices(workspace: Workspace, bundle: Bundle) -> list[Slice]:
    """Return the slices of a bundle's content, oldest first; one whose rows are lost is left out.

    Raises:
        GsrError: If the workspace's list of slices cannot be read.

    Example:
        >>> bundle = gsr.open_bundle(place, "birds")
        >>> _ = gsr.name_slice(place, bundle, "first four", np.arange(4))
        >>> _ = gsr.name_slice(place, bundle, "a single one", np.array([9]))
        >>> [(each.name, each.rows.tolist()) for each in gsr.list_slices(place, bundle)[-2:]]
        [('first four', [0, 1, 2, 3]), ('a single one', [9])]
    """
    stored = (
        (each, load_slice(workspace, bundle, each.key)) for each in _read_names(workspace, bundle)
    )
    return [Slice(**each.model_dump(), rows=rows) for each, rows in stored if rows is not None]


def find_slice(workspace: Workspace, bundle: Bundle, name: str) -> Slice:
    """Return the slice of a bundle by its name.

    Raises:
        SettingError: If there is none; the sentence names the nearest.
        GsrError: If the workspace's list of slices cannot be read.

    Example:
        >>> bundle = gsr.open_bundle(place, "birds")
        >>> _ = gsr.name_slice(place, bundle, "night", np.array([1, 2]))
        >>> gsr.find_slice(place, bundle, "night").rows
        array([1, 2])
        >>> gsr.find_slice(place, bundle, "nigth")
        Traceback (most recent call last):
        gsr_core.errors.SettingError: bundle 'birds' has no slice 'nigth' (did you mean ...
    """
    slices = list_slices(workspace, bundle)
    wanted = unicodedata.normalize("NFC", name).strip()
    for each in slices:
        if each.name == wanted:
            return each
    known = [each.name for each in slices]
    listed = ", ".join(f"'{each}'" for each in known) or "none"
    raise SettingError(
        f"bundle '{bundle.name}' has no slice '{name}'{suggestion(name, known)}; its slices are "
        f"{listed}"
    )


def rename_slice(workspace: Workspace, bundle: Bundle, name: str, new: str) -> Slice:
    """Rename a slice; its key, and so every address that has it, stays.

    Args:
        workspace: Where.
        bundle: Whose slice.
        name: The present name.
        new: 1 to 60 characters on one line.

    Raises:
        SettingError: If there is no such slice, or if the new name is not allowed or is taken.
        GsrError: If the workspace's list of slices cannot be read.
    """
    new = _checked_name(new)
    with locked(workspace.slices, bundle):
        old, names = find_slice(workspace, bundle, name), _read_names(workspace, bundle)
        _check_free(new, [each for each in names if each.name != old.name])
        _write_names(
            workspace,
            bundle,
            [
                each.model_copy(update={"name": new}) if each.name == old.name else each
                for each in names
            ],
        )
        return find_slice(workspace, bundle, new)


def delete_slice(workspace: Workspace, bundle: Bundle, name: str) -> None:
    """Delete a slice's name; its samples stay, so that addresses with its key still work.

    Raises:
        SettingError: If there is no such slice.
        GsrError: If the workspace's list of slices cannot be read.
    """
    with locked(workspace.slices, bundle):
        old, names = find_slice(workspace, bundle, name), _read_names(workspace, bundle)
        _write_names(workspace, bundle, [each for each in names if each.name != old.name])


def _checked_name(name: str) -> str:
    # One form for texts that look the same, such as a letter with an accent and the two apart.
    name = unicodedata.normalize("NFC", name).strip()
    kinds = [unicodedata.category(character) for character in name]
    # Control characters, halves of surrogate pairs, ends of lines; and names that show nothing.
    wrong = any(kind in ("Cc", "Cs", "Zl", "Zp") for kind in kinds)
    if wrong or len(name) > NAME_LENGTH or all(kind[0] in "CZ" for kind in kinds):
        raise SettingError(
            f"slice name {name!r} has {len(name)} characters; use 1 to {NAME_LENGTH} on one line, "
            "at least one of them visible"
        )
    return name


def _check_free(name: str, others: Sequence[_Named]) -> None:
    taken = {each.name for each in others}
    if name in taken:
        endings = (f" {number}" for number in count(2))
        tries = (f"{name[: NAME_LENGTH - len(end)].rstrip()}{end}" for end in endings)
        free = next(each for each in tries if each not in taken)
        raise SettingError(f"a slice '{name}' exists already; choose another name, as '{free}'")


def checked_rows(bundle: Bundle, rows: np.ndarray) -> np.ndarray:
    """Return row numbers as (k,) int64, none of which is outside the bundle.

    Raises:
        SettingError: If they are not whole numbers, or not in the bundle.
    """
    positions = np.asarray(rows)
    if not positions.size:
        return np.zeros(0, dtype=np.int64)
    if positions.dtype.kind not in "iu" or positions.ndim != 1:
        raise SettingError(
            f"rows are {positions.dtype} of shape {positions.shape}; give one whole number a "
            "sample, its position in the bundle"
        )
    for bad in (positions.min(), positions.max()):
        if not 0 <= bad < len(bundle):
            raise SettingError(
                f"row {bad} is not in bundle '{bundle.name}'; its rows are 0 to {len(bundle) - 1}"
            )
    return positions.astype(np.int64)


def _read_names(workspace: Workspace, bundle: Bundle) -> list[_Named]:
    file = workspace.slices / f"{bundle.manifest.digest}.json"
    if not file.exists():
        return []
    try:
        names = _Names.model_validate_json(file.read_bytes())
    except ValueError as error:
        raise GsrError(f"{file} is not a list of slices; restore it or remove it") from error
    if names.format != FORMAT:
        raise GsrError(f"{file} has format {names.format}; this version reads format {FORMAT}")
    # A name whose samples are lost is free again.
    return [each for each in names.slices if (workspace.slices / f"{each.key}.npy").exists()]


def _write_names(workspace: Workspace, bundle: Bundle, names: Sequence[_Named]) -> None:
    content = _Names(format=FORMAT, slices=list(names))
    with replace_file(workspace.slices / f"{bundle.manifest.digest}.json") as temporary:
        temporary.write_text(content.model_dump_json(indent=2) + "\n", encoding="utf-8")


@contextmanager
def locked(folder: Path, bundle: Bundle) -> Iterator[None]:
    """Let one process at a time change what a folder holds of a bundle."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{bundle.manifest.digest}.lock"):
        yield
