"""Features and labels as arrays of a NumPy `.npz` file.

Rows are samples: n of them, d features, K classes, m groups. The file holds

| array              | shape  | dtype                | meaning                                    |
|--------------------|--------|----------------------|--------------------------------------------|
| `features`         | (n, d) | any float            | what the backbone gives; stored as float32 |
| `y`                | (n,)   | whole numbers        | class index, from 0                        |
| `split`            | (n,)   | text                 | train, heldout, target, val or test        |
| `group`            | (n,)   | whole numbers        | group index, from 0; -1 is unknown,        |
|                    |        |                      | only allowed in train and heldout          |
| or `groups`        | (n, m) | bool, or 0 and 1     | groups a row belongs to, perhaps none      |
| `sample_id`        | (n,)   | text or integers     | unique; the row number by default          |
| `path`             | (n,)   | text                 | image file, relative to the folder of      |
|                    |        |                      | the `.npz` file; empty for none            |
| `attribute_<name>` | (n,)   | text, integers, bool | becomes the column `<name>`                |
| `class_names`      | (K,)   | text                 | "class 0", "class 1"... by default         |
| `group_names`      | (m,)   | text                 | "group 0", "group 1"... by default         |
| `head_weight`      | (K, d) | numbers              | the backbone's own head; with its bias     |
| `head_bias`        | (K,)   | numbers              | that bias; with the weight                 |

The first three and exactly one of `group` and `groups` are required; other arrays are left out,
with a note. Whole numbers may come in a float or bool dtype, and text as UTF-8 bytes. K is the
number of class names, or else `max(y) + 1`: then every class needs a row in the weighted split.
Pickled objects are never read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import pandas as pd

from gsr_core.data.bundle import SPLITS
from gsr_core.data.groups import Group, membership_from_index
from gsr_core.data.inputs import Numbers
from gsr_core.data.source import Roles, Source, SplitRule
from gsr_core.errors import SourceError
from gsr_core.readers.base import READER_CONFIG, Reader, settings
from gsr_core.readers.npz_archive import ATTRIBUTE, check_shapes, read_arrays
from gsr_core.readers.shown import shown_images

__all__ = ["Npz"]

MAX_COUNT = 10_000
"""More classes or groups than this are taken for a mistake in the numbering."""


@settings(frozen=True, kw_only=True, config=READER_CONFIG)
class Npz(Reader):
    """Features, labels, groups and splits from one `.npz` file; needs no backbone.

    Features are read into memory. That they are finite is checked when the bundle is written.
    """

    name: ClassVar[str] = "npz"
    title: ClassVar[str] = "Arrays (.npz)"
    summary: ClassVar[str] = (
        "A NumPy .npz file with features, y, split, and group or groups: complete as it is."
    )
    path_help: ClassVar[str] = "the .npz file"

    def read(self) -> Source:
        """Read the arrays of the module's table.

        Raises:
            SourceError: If the file or an array is wrong; the sentence names the array, the first
                bad row (counted from 0) and the fix.
            BundleError: If an attribute has a name that the library needs itself.
        """
        file = self.location
        arrays, ignored = read_arrays(file)
        check_shapes(arrays)
        features = arrays["features"]
        if features.dtype.kind != "f":
            raise SourceError(
                f"features has dtype {features.dtype}; expected floating-point numbers: save "
                "features.astype('float32')"
            )
        y = _whole("y", arrays["y"], least=0, what="class indices count from 0")
        split = np.array(_text("split", arrays["split"]))
        classes = _classes(arrays, y, split)
        groups, membership = _groups(arrays, split)
        table = _samples(arrays, y, split)
        belongs = pd.DataFrame(membership, columns=[group.name for group in groups])
        belongs.attrs["definitions"] = {group.name: group.definition for group in groups}

        notes = []
        if ignored:
            notes.append(f"Arrays of {file.name} that were ignored: {', '.join(ignored)}.")
        images, more = None, []
        if "path" in table:
            images, more = shown_images(table["path"], file.parent, where="the .npz file's folder")
        own = ("sample_id", "split", "y", "path")
        return Source(
            table=table,
            inputs=Numbers(features),
            roles=Roles(
                label="y",
                sample_id="sample_id",
                attributes=tuple(column for column in table.columns if column not in own),
                # The file says which rows carry the weights; none are drawn.
                split=SplitRule(column="split", heldout=0),
            ),
            origin=f"arrays of {file.name}",
            names={"y": dict(enumerate(classes))},
            membership=belongs,
            head=_head(arrays, n_classes=len(classes), n_features=features.shape[1]),
            images=images,
            notes=(*notes, *more),
        )


def _whole(name: str, array: np.ndarray, *, least: int, what: str) -> np.ndarray:
    """Return the array as int64.

    Raises:
        SourceError: If a value is not whole or not within [least, MAX_COUNT).
    """
    if array.dtype.kind not in "biuf":
        raise SourceError(f"{name} has dtype {array.dtype}; expected whole numbers: {what}")
    if array.dtype.kind == "f":
        whole = np.isfinite(array) & (np.trunc(array) == array)
    else:
        whole = np.ones(len(array), dtype=bool)
    if (bad := np.flatnonzero(~whole | (array < least))).size:
        raise SourceError(
            f"{name} is {array[bad[0]]} in row {bad[0]}; expected whole numbers from {least} on: "
            f"{what}"
        )
    if (bad := np.flatnonzero(array >= MAX_COUNT)).size:
        raise SourceError(
            f"{name} is {array[bad[0]]} in row {bad[0]}; at most {MAX_COUNT - 1} is allowed: "
            "number them from 0 without gaps"
        )
    return array.astype(np.int64)


def _text(name: str, array: np.ndarray) -> list[str]:
    if array.dtype.kind not in "US":
        raise SourceError(
            f"{name} has dtype {array.dtype}; expected text: save {name}.astype(str), or the words "
            "that the numbers stand for"
        )
    texts = []
    for row in range(len(array)):
        # A bytes array may hold anything, and a text array half a surrogate pair.
        try:
            text = array[row].decode() if array.dtype.kind == "S" else str(array[row])
            text.encode()
        except ValueError as error:
            raise SourceError(
                f"{name} is not valid Unicode text in row {row}; save it as text or UTF-8 bytes"
            ) from error
        texts.append(text)
    return texts


def _names(name: str, array: np.ndarray) -> list[str]:
    names = _text(name, array)
    if not 0 < len(names) <= MAX_COUNT:
        raise SourceError(
            f"{name} has {len(names)} names; give 1 to {MAX_COUNT}, or leave the array out"
        )
    for row, text in enumerate(names):
        if not text:
            raise SourceError(f"{name} is empty in row {row}; give every one a name")
    if (twice := pd.Series(names).duplicated()).any():
        row = int(np.flatnonzero(twice)[0])
        raise SourceError(
            f"{name} has '{names[row]}' in row {row} for the second time; name each differently"
        )
    return names


def _classes(arrays: Mapping[str, np.ndarray], y: np.ndarray, split: np.ndarray) -> list[str]:
    if "class_names" in arrays:
        classes = _names("class_names", arrays["class_names"])
        if (bad := np.flatnonzero(y >= len(classes))).size:
            raise SourceError(
                f"y is {y[bad[0]]} in row {bad[0]}, but class_names has {len(classes)} names, for "
                f"0 to {len(classes) - 1}; name every class"
            )
        return classes
    n_classes = int(y.max()) + 1
    if (gap := np.setdiff1d(np.arange(n_classes), y)).size:
        raise SourceError(
            f"y goes up to {n_classes - 1} in row {y.argmax()}, but no row is {gap[0]}; number the "
            "classes without gaps, or name all of them in class_names"
        )
    weighted = "heldout" if "heldout" in split else "train"
    present = np.unique(y[split == weighted])
    # Where the split itself is wrong, or holds one class, `check_rows` says it better.
    if np.isin(split, SPLITS).all() and 2 <= len(present) < n_classes:
        missing = np.setdiff1d(y, present)[0]
        raise SourceError(
            f"y is {missing} in row {np.flatnonzero(y == missing)[0]}, but in no {weighted} row, "
            f"so no head could learn that class; mark some of its rows as {weighted}, or name all "
            "classes in class_names if this is meant"
        )
    return [f"class {label}" for label in range(n_classes)]


def _groups(arrays: Mapping[str, np.ndarray], split: np.ndarray) -> tuple[list[Group], np.ndarray]:
    names = _names("group_names", arrays["group_names"]) if "group_names" in arrays else None
    if "groups" in arrays:
        membership = _flags(arrays["groups"])
        m = membership.shape[1]
        if names is not None and len(names) != m:
            raise SourceError(
                f"group_names has {len(names)} names, but groups has {m} columns; give one name a "
                "column"
            )
        return _name_groups(names, [f"column {g} of groups" for g in range(m)]), membership

    index = _whole("group", arrays["group"], least=-1, what="groups count from 0, -1 is unknown")
    if (bad := np.flatnonzero((index == -1) & np.isin(split, ("target", "val", "test")))).size:
        raise SourceError(
            f"group is -1 (unknown) in row {bad[0]}, a {split[bad[0]]} row; target, val and test "
            "need known groups: give the group or drop the row"
        )
    m = int(index.max()) + 1 if names is None else len(names)
    if (bad := np.flatnonzero(index >= m)).size:
        raise SourceError(
            f"group is {index[bad[0]]} in row {bad[0]}, but group_names has {m} names, for 0 to "
            f"{m - 1}; name every group"
        )
    return _name_groups(names, [f"group = {g}" for g in range(m)]), membership_from_index(index, m)


def _flags(array: np.ndarray) -> np.ndarray:
    if array.shape[1] > MAX_COUNT:
        raise SourceError(
            f"groups has {array.shape[1]} columns; at most {MAX_COUNT} are allowed: one row a "
            "sample, one column a group"
        )
    if array.dtype.kind not in "biuf":
        raise SourceError(
            f"groups has dtype {array.dtype}; expected bool, or 0 and 1: save groups.astype(bool)"
        )
    if (bad := np.argwhere((array != 0) & (array != 1))).size:
        row, column = bad[0]
        raise SourceError(
            f"groups is {array[row, column]} in row {row}, column {column}; expected bool, or 0 "
            "and 1: whether the row belongs to the column's group"
        )
    return array.astype(bool)


def _name_groups(names: Sequence[str] | None, definitions: Sequence[str]) -> list[Group]:
    names = names or [f"group {g}" for g in range(len(definitions))]
    return [
        Group(name=name, definition=definition)
        for name, definition in zip(names, definitions, strict=True)
    ]


def _samples(arrays: Mapping[str, np.ndarray], y: np.ndarray, split: np.ndarray) -> pd.DataFrame:
    identity = arrays.get("sample_id", np.arange(len(y)))
    columns: dict[str, list[str] | np.ndarray] = {
        "sample_id": (
            [str(number) for number in identity]
            if identity.dtype.kind in "iu"
            else _text("sample_id", identity)
        ),
        "split": split,
        "y": y,
    }
    for name, array in arrays.items():
        if not name.startswith(ATTRIBUTE):
            continue
        if array.dtype.kind not in "biuUS":
            raise SourceError(
                f"{name} has dtype {array.dtype}; expected text, integers or bool: save "
                f"{name}.astype(int), or as text"
            )
        # pyarrow takes numbers of the machine's own byte order only.
        columns[name.removeprefix(ATTRIBUTE)] = (
            _text(name, array)
            if array.dtype.kind in "US"
            else array.astype(array.dtype.newbyteorder("="))
        )
    if "path" in arrays:
        columns["path"] = _text("path", arrays["path"])
    return pd.DataFrame(columns)


def _head(
    arrays: Mapping[str, np.ndarray], *, n_classes: int, n_features: int
) -> tuple[np.ndarray, np.ndarray] | None:
    if "head_weight" not in arrays:
        return None
    parts = []
    for name, shape in (("head_weight", (n_classes, n_features)), ("head_bias", (n_classes,))):
        array = arrays[name]
        if array.dtype.kind not in "iuf":
            raise SourceError(
                f"{name} has dtype {array.dtype}; expected numbers: save {name}.astype('float32')"
            )
        if array.shape != shape:
            raise SourceError(
                f"{name} has shape {array.shape}; expected {shape} for {n_classes} classes and "
                f"{n_features} features: fix it, name every class in class_names, or leave the "
                "head out"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            part = array.astype(np.float32)
        if (bad := np.argwhere(~np.isfinite(part))).size:
            raise SourceError(
                f"{name} is {array[tuple(bad[0])]} in row {bad[0][0]}; every number must be finite "
                "and within float32's range: save the head again or leave it out"
            )
        parts.append(part)
    return parts[0], parts[1]
