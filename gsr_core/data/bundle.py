"""A bundle: one data set with frozen features, as a directory.

```
<name>/manifest.json       what it is, where it came from, digests (`Manifest`)
       samples.parquet     sample_id, split, y, attribute columns, optional path and text
       groups.parquet      one bool column a group, same row order
       features.npy        (n, d) float32, memory-mapped
       head.safetensors    weight (K, d) and bias (K,) of the backbone's own head, if it has one
       thumbnails.arrow    one encoded image (JPEG, PNG or WebP bytes) a row, if there are images
       ...                 files of whoever made the bundle, such as `encoder.json`
```

Splits have the roles of the GSR paper: the backbone never sees `heldout`, whose rows carry the
weights; `target` drives the weights; `val` only selects; `test` only reports. Row order is the
same in every file, and a row's position is its identity inside the library (`sample_id` is the
user's). A bundle is written once, whole, and then only read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from gsr_core.data.groups import Group, describe, patterns, training_shares
from gsr_core.errors import BundleError, BundleNotFoundError
from gsr_core.files import new_directory, restore_directory, sha256
from gsr_core.workspace import Workspace

__all__ = [
    "FORMAT",
    "INFLUENCE",
    "RESERVED_COLUMNS",
    "SPLITS",
    "Bundle",
    "Manifest",
    "bundle_directory",
    "check_attribute",
    "check_rows",
    "list_bundles",
    "load_head",
    "open_bundle",
    "write_bundle",
]

FORMAT = 1
SPLITS = ("train", "heldout", "target", "val", "test")
REQUIRED_SPLITS = ("target", "val", "test")
OWN_COLUMNS = ("sample_id", "split", "y", "path", "text")
INFLUENCE = "influence: "
"""Prefix of the columns with the influence on a group, in a run's table of samples."""
RESERVED_COLUMNS = (
    *OWN_COLUMNS,
    "row",
    "group",
    "prediction",
    "correct",
    "confidence",
    "loss",
    "weight",
    "rank",
    "x",
    "y",
    "z",
    "right or wrong",
    "cluster",
    "inferred group",
    "inferred_group",
    "flagged",
    "gradient norm",
    "isolated",
)
"""Columns of the bundle, of a run's table of samples and of its charts; no attribute is so called,
and none begins with `INFLUENCE`."""
OWN_FILES = (
    "manifest.json",
    "samples.parquet",
    "groups.parquet",
    "features.npy",
    "head.safetensors",
    "thumbnails.arrow",
)
MIN_GROUP_SIZE = 20
"""Below this a group's accuracy in target, val or test says little; such groups are noted."""

_CHUNK = 1 << 26
"""Bytes of features that are held at a time while a bundle is checked and written."""

_ROW_GROUP = 8192
"""Rows of `samples.parquet` that one text is read with."""
_THUMBNAILS = 1024
"""Images a batch of `thumbnails.arrow`; readers count on it."""


class Manifest(BaseModel):
    """What a bundle is and where it came from.

    Attributes:
        format: Version of the directory's format.
        name: Name of the bundle: its directory.
        title: Name for people.
        created: Time of writing, ISO 8601, UTC.
        source: Where the rows came from, in words.
        classes: K class names; `y` counts them from 0.
        groups: m groups, in the order of the membership's columns.
        attributes: Names of the attribute columns of `samples.parquet`.
        n_features: d.
        split_sizes: Number of rows of each split that is there.
        backbone: Facts about the network behind the features, for people.
        notes: What a user should know about this data, one sentence each.
        digests: SHA-256 of each file.
        sizes: Bytes of each file; empty in bundles that were written before sizes were kept.
        recipe: How the bundle was made (reader, settings, roles, backbone, preprocessing), so
            that its inputs can be opened again; None where they cannot be.
    """

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    name: str
    title: str
    created: str
    source: str
    classes: list[str]
    groups: list[Group]
    attributes: list[str]
    n_features: int
    split_sizes: dict[str, int]
    backbone: dict[str, str | int | float | None]
    notes: list[str]
    digests: dict[str, str]
    sizes: dict[str, int] = {}
    recipe: dict[str, Any] | None = None

    @property
    def digest(self) -> str:
        """SHA-256 over the files' digests and the names: the identity of the content."""
        content = self.model_dump(include={"digests", "classes", "groups"}, mode="json")
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def weighted_split(self) -> str:
        """The split whose rows carry the weights: `heldout`, or `train` where there is none."""
        return "heldout" if self.split_sizes.get("heldout") else "train"


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk. Tables are read at first use, features stay memory-mapped."""

    path: Path
    manifest: Manifest

    def __len__(self) -> int:
        """Return the number of rows, all splits together."""
        return sum(self.manifest.split_sizes.values())

    @property
    def name(self) -> str:
        """Name of the bundle."""
        return self.manifest.name

    @property
    def group_names(self) -> list[str]:
        """Names of the m groups, in the order of the membership's columns."""
        return [group.name for group in self.manifest.groups]

    @cached_property
    def samples(self) -> pd.DataFrame:
        """One row a sample: `sample_id`, `split`, `y`, attributes, optional `path` and `text`.

        The whole table; of many rows, `column`, `y`, `rows_of` and `text` read far less.
        """
        return pd.read_parquet(self.path / "samples.parquet")

    @cached_property
    def _metadata(self) -> pq.FileMetaData:
        return pq.read_metadata(self.path / "samples.parquet")

    @cached_property
    def _columns(self) -> dict[str, pa.Array]:
        return {}

    def column(self, name: str) -> pa.Array:
        """One column of `samples` as an Arrow array, read without the others and kept.

        Raises:
            KeyError: If there is no such column.
        """
        if name not in self._columns:
            if name not in self._metadata.schema.names:
                raise KeyError(name)
            with self._samples_file() as file:
                self._columns[name] = file.read(columns=[name]).column(name).combine_chunks()
        return self._columns[name]

    def _samples_file(self, **options: Any) -> pq.ParquetFile:
        # Not `pq.read_table`, whose first call alone takes seconds for what it imports.
        file = self.path / "samples.parquet"
        return pq.ParquetFile(file, metadata=self._metadata, **options)

    @cached_property
    def y(self) -> np.ndarray:
        """(n,) int64: each sample's class."""
        return self.column("y").to_numpy().astype(np.int64, copy=False)

    def text(self, row: int) -> str | None:
        """Return one row's text, or None if it has none; few others are read with it.

        Raises:
            IndexError: If there is no such row.
        """
        if "text" not in self._metadata.schema.names:
            return None
        before = 0
        for part in range(self._metadata.num_row_groups):
            size = self._metadata.row_group(part).num_rows
            if row < before + size:
                break
            before += size
        else:
            raise IndexError(f"row {row} of {len(self)}")
        with self._samples_file() as file:
            return file.read_row_group(part, columns=["text"]).column("text")[row - before].as_py()

    @cached_property
    def membership(self) -> np.ndarray:
        """(n, m) bool: which sample belongs to which group."""
        with pq.ParquetFile(self.path / "groups.parquet") as file:
            table = file.read()
        return np.stack([column.to_numpy() for column in table.columns], axis=1)

    @cached_property
    def group_patterns(self) -> tuple[np.ndarray, np.ndarray]:
        """The combinations of groups, (p, m) bool, and which of them each sample has, (n,)."""
        return patterns(self.membership)

    def labels_at(self, rows: np.ndarray) -> pa.Array:
        """Return each row's group or groups, for display, as an Arrow array of text."""
        found, which = self.group_patterns
        return pa.array(describe(found, self.group_names), pa.string()).take(pa.array(which[rows]))

    @cached_property
    def group_labels(self) -> np.ndarray:
        """(n,) text: each sample's group or groups, for display."""
        found, which = self.group_patterns
        return describe(found, self.group_names)[which]

    @cached_property
    def features(self) -> np.ndarray:
        """(n, d) float32, memory-mapped, read-only."""
        return np.load(self.path / "features.npy", mmap_mode="r", allow_pickle=False)

    @cached_property
    def head(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The backbone's own head: weight (K, d) and bias (K,), or None."""
        file = self.path / "head.safetensors"
        return load_head(file) if file.exists() else None

    @cached_property
    def rows_of(self) -> Mapping[str, np.ndarray]:
        """Positions of each split's rows, in row order."""
        with self._samples_file(read_dictionary=["split"]) as file:
            encoded = file.read(columns=["split"]).column("split").combine_chunks()
        words, codes = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
        return {
            name: np.flatnonzero(codes == (words.index(name) if name in words else -1))
            for name in SPLITS
        }

    @cached_property
    def training_shares(self) -> np.ndarray | None:
        """(m,) share of each group among the train and heldout rows with a known group."""
        rows = np.concatenate([self.rows_of["train"], self.rows_of["heldout"]])
        return training_shares(self.membership[rows])

    @cached_property
    def _thumbnails(self) -> pa.ipc.RecordBatchFileReader | None:
        file = self.path / "thumbnails.arrow"
        # Memory-mapped: opening reads nothing, and one row is one slice of the file.
        return pa.ipc.open_file(pa.memory_map(str(file))) if file.exists() else None

    @property
    def has_images(self) -> bool:
        """Whether there are images; single rows may still have none."""
        return self._thumbnails is not None

    def verify(self) -> None:
        """Read every file and compare it with the digest that the manifest keeps of it.

        Raises:
            BundleError: If a file is missing or is not what was written.
        """
        _check_sizes(self.path, self.manifest)
        for name, digest in self.manifest.digests.items():
            if sha256(self.path / name) != digest:
                raise BundleError(
                    f"{self.path / name} is not what was written with the bundle (its SHA-256 "
                    "differs from the manifest's); import the data again"
                )

    def thumbnail(self, row: int) -> bytes | None:
        """Return one row's encoded image, or None if it has none."""
        if self._thumbnails is None:
            return None
        batch = self._thumbnails.get_batch(row // _THUMBNAILS)
        return batch.column(0)[row % _THUMBNAILS].as_py()


def write_bundle(
    directory: Path,
    *,
    samples: pd.DataFrame,
    membership: np.ndarray,
    groups: Sequence[Group],
    classes: Sequence[str],
    features: np.ndarray,
    source: str,
    title: str | None = None,
    head: tuple[np.ndarray, np.ndarray] | None = None,
    thumbnails: Iterable[bytes | None] | None = None,
    backbone: Mapping[str, str | int | float | None] | None = None,
    notes: Sequence[str] = (),
    recipe: dict[str, Any] | None = None,
    files: Mapping[str, bytes] | None = None,
    adopt_features: bool = False,
    overwrite: bool = False,
) -> Bundle:
    """Check everything, then write a bundle: whole, or not at all.

    Args:
        directory: Where; its last part is the bundle's name.
        samples: One row a sample: `sample_id` (unique text), `split` (one of `SPLITS`), `y`
            (class index), attribute columns, optional `path` and `text`.
        membership: (n, m) bool.
        groups: m groups.
        classes: K class names.
        features: (n, d) finite numbers; stored as float32.
        source: Where the rows came from, in words.
        title: Name for people; the directory's name by default.
        head: weight (K, d) and bias (K,) of the backbone's own head.
        thumbnails: Encoded images in row order, None for a row without one.
        backbone: Facts about the network behind the features.
        notes: What a user should know about this data.
        recipe: How the bundle was made, in what JSON can hold; kept in the manifest.
        files: More files to keep in the bundle, by name.
        adopt_features: Whoever made `features` gives it up: where it is a whole `.npy` file of
            float32 in row order, memory-mapped, the bundle takes a hard link of that file rather
            than a copy, so nobody may write to it again.
        overwrite: Replace a bundle of that name.

    Raises:
        BundleError: If a check fails; the sentence names the array, the row and the fix.
    """
    name = directory.name
    _check_name(name)
    _check_free(directory, overwrite=overwrite)
    check_rows(samples, membership, groups, classes, features)
    if head is not None:
        _check_head(head, n_classes=len(classes), n_features=features.shape[1])
    _check_extra(recipe, files or {})

    attributes = [column for column in samples.columns if column not in OWN_COLUMNS]
    counts = samples["split"].value_counts()
    split_sizes = {split: int(counts[split]) for split in SPLITS if split in counts}
    notes = [*notes, *_notes_on_groups(_split_codes(samples), membership, groups)]
    if "heldout" not in split_sizes:
        notes.insert(
            0,
            "There is no heldout split, so the weights live on train, the rows that the backbone "
            "was trained on; a fit there tends to be optimistic.",
        )

    with new_directory(directory, overwrite=overwrite) as temporary:
        samples.reset_index(drop=True).to_parquet(
            temporary / "samples.parquet", index=False, row_group_size=_ROW_GROUP
        )
        columns = [pa.array(membership[:, g]) for g in range(len(groups))]
        pq.write_table(
            pa.table(columns, names=[group.name for group in groups]),
            temporary / "groups.parquet",
        )
        whole = _whole_file(features) if adopt_features else None
        if whole is None:
            _write_features(temporary / "features.npy", features)
        else:
            _link(whole, temporary / "features.npy")
        if head is not None:
            weight, bias = (np.ascontiguousarray(part, dtype=np.float32) for part in head)
            save_file({"weight": weight, "bias": bias}, temporary / "head.safetensors")
        if thumbnails is not None:
            _write_thumbnails(temporary / "thumbnails.arrow", thumbnails)
        for file, content in (files or {}).items():
            (temporary / file).write_bytes(content)
        written = sorted(temporary.iterdir())
        manifest = Manifest(
            name=name,
            title=title or name,
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            source=source,
            classes=list(classes),
            groups=list(groups),
            attributes=attributes,
            n_features=int(features.shape[1]),
            split_sizes=split_sizes,
            backbone=dict(backbone or {}),
            notes=notes,
            digests={file.name: sha256(file) for file in written},
            sizes={file.name: file.stat().st_size for file in written},
            recipe=recipe,
        )
        (temporary / "manifest.json").write_text(manifest.model_dump_json(indent=2) + "\n")
    return Bundle(directory, manifest)


def bundle_directory(workspace: Workspace, name: str, *, overwrite: bool = False) -> Path:
    """Return where a new bundle goes, after checking what can be checked before it is made.

    Args:
        workspace: The workspace.
        name: Name of the new bundle.
        overwrite: Whether it may replace a bundle of that name.

    Raises:
        BundleError: If the name is not allowed or is taken.
    """
    _check_name(name)
    directory = workspace.bundles / name
    _check_free(directory, overwrite=overwrite)
    return directory


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
        raise BundleError(
            f"bundle name '{name}' is not allowed; use up to 100 letters, digits, '.', '_' and "
            "'-', beginning with a letter or digit"
        )


def _check_free(directory: Path, *, overwrite: bool) -> None:
    name = directory.name
    restore_directory(directory)
    if directory.exists() and not (directory / "manifest.json").is_file():
        raise BundleError(
            f"{directory} exists and is not a bundle; choose another name or take it away"
        )
    if directory.exists() and not overwrite:
        raise BundleError(
            f"bundle '{name}' exists already; choose another name or replace it with --overwrite"
        )


def open_bundle(workspace: Workspace, name: str) -> Bundle:
    """Open a bundle by its name in the workspace or by the path of its directory.

    Raises:
        BundleNotFoundError: If there is none; the sentence lists those that are there.
        BundleError: If the directory is not a bundle of a format that this version reads.
    """
    for directory in (workspace.bundles / name, Path(name)):
        if (directory / "manifest.json").is_file():
            return _open(directory)
    present = ", ".join(bundle.name for bundle in list_bundles(workspace)) or "none"
    raise BundleNotFoundError(
        f"no bundle '{name}' in {workspace.bundles} (bundles there: {present}); make the example "
        "with 'gsr demo' or import one with 'gsr import npz'"
    )


def list_bundles(workspace: Workspace) -> list[Bundle]:
    """Return the bundles of a workspace by name; directories that are no bundle are passed over."""
    bundles = []
    for file in sorted(workspace.bundles.glob("[!.]*/manifest.json")):
        try:
            bundles.append(_open(file.parent))
        except BundleError:
            continue
    return bundles


def _open(directory: Path) -> Bundle:
    try:
        manifest = Manifest.model_validate_json((directory / "manifest.json").read_text())
    except (ValidationError, UnicodeDecodeError) as error:
        raise BundleError(
            f"{directory / 'manifest.json'} is not a bundle's manifest ({type(error).__name__}); "
            "import the data again"
        ) from error
    if manifest.format != FORMAT:
        raise BundleError(
            f"bundle '{directory.name}' has format {manifest.format}; this version reads format "
            f"{FORMAT}: import the data again"
        )
    _check_sizes(directory, manifest)
    return Bundle(directory, manifest)


def _check_sizes(directory: Path, manifest: Manifest) -> None:
    for name in manifest.digests:
        file = directory / name
        if not file.is_file():
            raise BundleError(f"{file} is missing; restore it or import the data again")
        size, expected = file.stat().st_size, manifest.sizes.get(name)
        if expected is not None and size != expected:
            raise BundleError(
                f"{file} has {size:,} bytes, but {expected:,} were written; restore it or import "
                "the data again"
            )


def check_rows(
    samples: pd.DataFrame,
    membership: np.ndarray,
    groups: Sequence[Group],
    classes: Sequence[str],
    features: np.ndarray,
) -> None:
    """Check that the parts of a bundle fit together.

    Raises:
        BundleError: If they do not; the sentence names the array, the first bad row (counted
            from 0) and the fix.
    """
    n = len(samples)
    if features.ndim != 2 or features.shape[1] == 0:
        raise BundleError(
            f"features has shape {features.shape}; expected (n, d) with d at least 1: one row of "
            "numbers a sample"
        )
    if len(features) != n:
        raise BundleError(
            f"features has {len(features)} rows, but y has {n}; every array needs one row a sample"
        )
    if membership.shape != (n, len(groups)):
        raise BundleError(
            f"groups has shape {membership.shape}; expected ({n}, {len(groups)}): one row a "
            "sample, one column a group"
        )
    if not groups:
        raise BundleError("there are no groups; give at least one group of samples")
    if len(names := [group.name for group in groups]) != len(set(names)):
        raise BundleError(f"group names {names} are not unique; name each group differently")

    if len(set(classes)) != len(classes):
        raise BundleError(
            f"class names {list(classes)} are not unique; name each class differently"
        )
    for column in samples.columns:
        if column not in OWN_COLUMNS:
            check_attribute(str(column))

    split = _split_codes(samples)
    if (bad := np.flatnonzero(split < 0)).size:
        raise BundleError(
            f"split has the unknown word '{samples['split'].iloc[bad[0]]}' in row {bad[0]}; "
            f"allowed are {', '.join(SPLITS)}"
        )
    present = {SPLITS[code] for code in np.unique(split)}
    for name in REQUIRED_SPLITS:
        if name not in present:
            raise BundleError(
                f"split has no '{name}' row; target, val and test are required, and at least one "
                "of heldout and train: mark some rows with that word"
            )
    if not present & {"heldout", "train"}:
        raise BundleError(
            "split has neither 'heldout' nor 'train' rows; the weights need rows to live on: mark "
            "the rows that the backbone did not see as heldout"
        )

    y = samples["y"].to_numpy()
    if (bad := np.flatnonzero((y < 0) | (y >= len(classes)))).size:
        raise BundleError(
            f"y is {y[bad[0]]} in row {bad[0]}; allowed are the class indices 0 to "
            f"{len(classes) - 1}"
        )
    weighted = "heldout" if "heldout" in present else "train"
    if len(found := np.unique(y[split == SPLITS.index(weighted)])) < 2:
        raise BundleError(
            f"y has only class {found[0]} in the {weighted} split; a head needs samples of at "
            "least two classes there"
        )
    identity = samples["sample_id"]
    if (twice := identity.duplicated()).any():
        row = int(np.flatnonzero(twice.to_numpy())[0])
        raise BundleError(
            f"sample_id '{identity.iloc[row]}' in row {row} is there twice; ids must be unique: "
            "rename or drop the duplicate"
        )

    empty = np.flatnonzero(membership[split == SPLITS.index("target")].sum(axis=0) == 0)
    if empty.size:
        raise BundleError(
            f"group '{groups[empty[0]].name}' has no sample in the target split, so nothing could "
            "drive its weights: move labelled samples of it to target, or merge it with another "
            "group"
        )
    for name in ("val", "test"):
        if not membership[split == SPLITS.index(name)].any():
            raise BundleError(
                f"split {name} has no sample of any group ({', '.join(names)}), so nothing could "
                "be measured there: move labelled samples to it"
            )
    # In chunks, so that a memory-mapped array is never read as a whole.
    for start, chunk in _chunks(features):
        if not (finite := np.isfinite(chunk)).all():
            row, column = np.argwhere(~finite)[0]
            raise BundleError(
                f"features is {features[start + row, column]} in row {start + row}, column "
                f"{column}; every feature must be a finite number within float32's range: drop "
                "the row or extract it again"
            )


def _split_codes(samples: pd.DataFrame) -> np.ndarray:
    """Return each row's split as its place in `SPLITS`, -1 for an unknown word."""
    codes, words = pd.factorize(samples["split"])
    # One place more, so that a missing word, which has the code -1, is unknown too.
    places = [SPLITS.index(word) if word in SPLITS else -1 for word in words]
    return np.array([*places, -1])[codes]


def _chunks(features: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the first row and the rows, as float32, of parts of about 64 MB."""
    size = max(_CHUNK // (4 * features.shape[1]), 1)
    for start in range(0, len(features), size):
        # Too large a number becomes infinite, which `check_rows` reports.
        with np.errstate(over="ignore", invalid="ignore"):
            yield start, np.ascontiguousarray(features[start : start + size], dtype=np.float32)


def check_attribute(name: str, *, where: str = "a column of samples") -> None:
    """Check that an attribute's column does not take the place of one of the library's own.

    Args:
        name: Of the column.
        where: What it was found in, for the sentence.

    Raises:
        BundleError: If it does.
    """
    if not name or name in RESERVED_COLUMNS or name.startswith(INFLUENCE):
        raise BundleError(
            f"{where} cannot become an attribute '{name}'; call it something else than "
            f"{', '.join(RESERVED_COLUMNS)}, and begin it with something else than '{INFLUENCE}'"
        )


def _check_head(head: tuple[np.ndarray, np.ndarray], *, n_classes: int, n_features: int) -> None:
    weight, bias = head
    if weight.shape != (n_classes, n_features) or bias.shape != (n_classes,):
        raise BundleError(
            f"the head has shapes {weight.shape} and {bias.shape}; expected "
            f"({n_classes}, {n_features}) and ({n_classes},) for these classes and features"
        )


def _check_extra(recipe: dict[str, Any] | None, files: Mapping[str, bytes]) -> None:
    for file in files:
        if file in OWN_FILES or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", file):
            raise BundleError(
                f"a bundle cannot hold a file '{file}'; use a plain file name other than "
                f"{', '.join(OWN_FILES)}"
            )
    try:
        json.dumps(recipe, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BundleError(
            f"the recipe cannot be written as JSON ({error}); give text, finite numbers, lists "
            "and dictionaries"
        ) from error


def _whole_file(features: np.ndarray) -> Path | None:
    """Return the `.npy` file that holds just this array as the bundle would write it, or None."""
    # Changes of a copy-on-write mapping are not in the file.
    if not isinstance(features, np.memmap) or not features.filename or features.mode == "c":
        return None
    file = Path(features.filename)
    try:
        stored = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    same = (
        stored.dtype == np.float32
        and features.dtype == np.float32
        and stored.shape == features.shape
        and stored.strides == features.strides
        and stored.flags.c_contiguous
        # The file of that name may be another by now, or hold more than the array.
        and file.stat().st_size == stored.offset + stored.nbytes
        and all(np.array_equal(stored[row], features[row]) for row in (0, -1))
    )
    if not same:
        return None
    features.flush()
    return file


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # On another disk, or on one without links.
        shutil.copyfile(source, target)


def _write_features(file: Path, features: np.ndarray) -> None:
    # Written rather than mapped, so that the pages need not stay in memory.
    header = {"descr": "<f4", "fortran_order": False, "shape": features.shape}
    with file.open("wb") as sink:
        np.lib.format.write_array_header_1_0(sink, header)
        for _, chunk in _chunks(features):
            sink.write(chunk.astype("<f4", copy=False).data)


def _notes_on_groups(
    split: np.ndarray, membership: np.ndarray, groups: Sequence[Group]
) -> list[str]:
    notes = []
    for name in REQUIRED_SPLITS:
        counts = membership[split == SPLITS.index(name)].sum(axis=0)
        for group, count in zip(groups, counts, strict=True):
            if count < MIN_GROUP_SIZE:
                notes.append(
                    f"Group '{group.name}' has {count} samples in {name}: its accuracy there "
                    f"{'cannot be measured' if count == 0 else 'is very uncertain'}."
                )
    return notes


def _write_thumbnails(file: Path, thumbnails: Iterable[bytes | None]) -> None:
    schema = pa.schema([("image", pa.large_binary())])
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        chunk: list[bytes | None] = []
        for image in thumbnails:
            chunk.append(image)
            if len(chunk) == _THUMBNAILS:
                writer.write_batch(pa.record_batch([pa.array(chunk, pa.large_binary())], schema))
                chunk = []
        if chunk:
            writer.write_batch(pa.record_batch([pa.array(chunk, pa.large_binary())], schema))


def load_head(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a head's weight (K, d) and bias (K,) from a safetensors file.

    Raises:
        BundleError: If the file is not safetensors or lacks either array.
    """
    try:
        arrays = load_file(file)
        return arrays["weight"], arrays["bias"]
    except (SafetensorError, KeyError) as error:
        raise BundleError(
            f"{file} is not a head: expected a safetensors file with 'weight' and 'bias' ({error})"
        ) from error
