"""Which arrays a `.npz` file of the reader `npz` may hold, and how they are read from it."""

from __future__ import annotations

import difflib
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from gsr_core.data.bundle_checks import check_attribute
from gsr_core.errors import SourceError

__all__ = ["ATTRIBUTE", "SHAPES", "check_shapes", "read_arrays"]

SHAPES = {
    "features": ("(n, d)", "one row of numbers a sample"),
    "y": ("(n,)", "one class index a sample"),
    "split": ("(n,)", "one word a sample"),
    "group": ("(n,)", "one group index a sample (groups that overlap go into 'groups')"),
    "groups": ("(n, m)", "one row a sample, one column a group (one index a row is 'group')"),
    "sample_id": ("(n,)", "one id a sample"),
    "path": ("(n,)", "one path a sample"),
    "class_names": ("(K,)", "one name a class"),
    "group_names": ("(m,)", "one name a group"),
    "head_weight": ("(K, d)", "one row a class, one column a feature"),
    "head_bias": ("(K,)", "one number a class"),
}
REQUIRED = ("features", "y", "split")
OTHER_NAMES = {
    "features": ("x", "embeddings", "embedding", "activations"),
    "y": ("labels", "label", "targets", "classes"),
    "split": ("partition", "subset"),
    "group": ("g", "subgroup"),
}
ATTRIBUTE = "attribute_"


def read_arrays(file: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the arrays of `SHAPES`, and attributes, that are there, and the names of the others.

    Raises:
        SourceError: If the file or an array cannot be read, or the arrays are the wrong ones.
    """
    if file.is_dir():
        raise SourceError(f"{file} is a directory; give the .npz file itself")
    if not file.exists():
        raise SourceError(f"there is no file {file}; check the path")
    # A damaged archive raises nearly anything: from zipfile, zlib, struct, the header's parser.
    try:
        archive = zipfile.ZipFile(file)
    except Exception as error:
        raise SourceError(
            f"{file} is not a whole .npz file ({_short(error)}); write it again with numpy.savez"
        ) from error
    with archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        known = [name for name in members if name in SHAPES or name.startswith(ATTRIBUTE)]
        _check_names(members, known)
        arrays = {name: _read_array(archive, members[name], name, file) for name in known}
    return arrays, [name for name in members if name not in arrays]


def _check_names(members: Iterable[str], known: Sequence[str]) -> None:
    for name in REQUIRED:
        if name not in known:
            raise SourceError(f"array '{name}' is missing{_other_arrays(name, members)}")
    if "group" in known and "groups" in known:
        raise SourceError(
            "arrays 'group' and 'groups' are both there; keep 'group' if every row has one group, "
            "'groups' if they overlap"
        )
    if "group" not in known and "groups" not in known:
        raise SourceError(
            f"array 'group' (or 'groups') is missing{_other_arrays('group', members)}"
        )
    for one, other in (("head_weight", "head_bias"), ("head_bias", "head_weight")):
        if one in known and other not in known:
            raise SourceError(
                f"array '{other}' is missing, though '{one}' is there; a head needs both: add "
                f"'{other}' or leave '{one}' out"
            )
    for name in known:
        if name.startswith(ATTRIBUTE):
            check_attribute(name.removeprefix(ATTRIBUTE), where=f"array '{name}'")


def _other_arrays(missing: str, members: Iterable[str]) -> str:
    lower = {name.lower(): name for name in members if name not in SHAPES}
    names = (missing, *OTHER_NAMES[missing])
    near = [lower[name] for name in names if name in lower]
    near += [lower[name] for name in difflib.get_close_matches(missing, lower)]
    advice = f"rename '{near[0]}' if that is it" if near else "add it"
    return f"; the file has {', '.join(members) or 'no arrays'}: {advice}"


def _read_array(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, file: Path
) -> np.ndarray:
    try:
        with archive.open(member) as stream:
            array = np.lib.format.read_array(stream, allow_pickle=False)
            # Reaching the end is also what checks the archive's checksum.
            if stream.read(1):
                raise EOFError("more bytes than the header says")
            return array
    except MemoryError as error:
        raise SourceError(
            f"array '{name}' of {file} does not fit into memory; write it again with fewer rows"
        ) from error
    except Exception as error:
        if "allow_pickle" in str(error):
            raise SourceError(
                f"array '{name}' has dtype object, which only pickle could read; save it as "
                "numbers or text, for instance with .astype(str)"
            ) from error
        raise SourceError(
            f"array '{name}' of {file} cannot be read ({_short(error)}); write the file again "
            "with numpy.savez"
        ) from error


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:100]


def check_shapes(arrays: Mapping[str, np.ndarray]) -> None:
    """Check that every array has its shape, and all have one row a sample.

    Raises:
        SourceError: If one does not.
    """
    for name, array in arrays.items():
        shape, what = SHAPES.get(name, ("(n,)", "one value a sample"))
        if array.ndim != len(shape.strip("(),").split(",")):
            raise SourceError(f"{name} has shape {array.shape}; expected {shape}: {what}")
    n = len(arrays["y"])
    if n == 0:
        raise SourceError("y has no rows; every array needs one row a sample, and there are none")
    for name, array in arrays.items():
        of_samples = SHAPES.get(name, ("(n,)",))[0].startswith("(n")
        if of_samples and len(array) != n:
            raise SourceError(
                f"{name} has {len(array)} rows, but y has {n}; every array needs one row a sample"
            )
