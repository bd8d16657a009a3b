"""A bundle: one data set with frozen features, as a directory.

```
<name>/manifest.json       what it is, where it came from, digests (`Manifest`)
       samples.parquet     sample_id, split, y, attribute columns, optional path, text and, where
                           texts come in pairs, text_pair
       columns.parquet     of a table, its columns as they came; they are shown, never computed with
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

The module is long because the format, its manifest and all ways to read it are in one place.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file

from gsr_core.data.groups import Group, describe, patterns, training_shares
from gsr_core.errors import BundleError, BundleNotFoundError, SettingError
from gsr_core.files import sha256
from gsr_core.names import is_name
from gsr_core.notebook import as_table
from gsr_core.workspace import Workspace

__all__ = [
    "FORMAT",
    "INFLUENCE",
    "MIN_GROUP_SIZE",
    "OWN_COLUMNS",
    "OWN_FILES",
    "REQUIRED_SPLITS",
    "RESERVED_COLUMNS",
    "SIMILARITY",
    "SPLITS",
    "THUMBNAILS",
    "Bundle",
    "Manifest",
    "bundle_reference",
    "check_split",
    "list_bundles",
    "load_head",
    "open_bundle",
]


FORMAT = 1

SPLITS = ("train", "heldout", "target", "val", "test")

REQUIRED_SPLITS = ("target", "val", "test")

OWN_COLUMNS = ("sample_id", "split", "y", "path", "text", "text_pair")

INFLUENCE = "influence: "
"""Prefix of the columns with the influence on a group, in a run's table of samples."""

SIMILARITY = "similarity to the phrase"
"""Column of a table of samples with the cosine of features and phrase."""

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
    "goal",
    "x",
    "y",
    "z",
    "right or wrong",
    "in words",
    "cluster",
    "inferred group",
    "inferred_group",
    "flagged",
    "gradient norm",
    "isolated",
    SIMILARITY,
)
"""Columns of the bundle, of a run's table of samples and of its charts; no attribute may have one
of these names, or a name that begins with `INFLUENCE`."""

OWN_FILES = (
    "manifest.json",
    "samples.parquet",
    "columns.parquet",
    "groups.parquet",
    "features.npy",
    "head.safetensors",
    "thumbnails.arrow",
)

MIN_GROUP_SIZE = 20
"""Fewer samples than this in target, val or test say little about a group; a note names it."""

_TEXTS = ("text", "text_pair")

_IN_WORDS = 6
"""Columns of a table that a line about a row has."""

THUMBNAILS = 1024
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
        sizes: Bytes of each file; empty in bundles written before sizes were recorded.
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

    @property
    def trained_split(self) -> str:
        """The split whose rows train a network: `train`, or `heldout` where there is none."""
        return "train" if self.split_sizes.get("train") else "heldout"


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk. Tables are read at first use, features stay memory-mapped.

    Attributes:
        path: Its directory.
        manifest: What it is.
        trained: Directory of a run that trained the network anew, whose features and head are
            taken in place of the bundle's own; see `runs.store.Run.seen`.

    Example:
        >>> bundle = gsr.open_bundle(place, "birds")
        >>> len(bundle), bundle.manifest.classes
        (200, ['cat', 'dog'])
        >>> bundle.group_names
        ['cat, red', 'cat, green', 'dog, red', 'dog, green']
        >>> bundle.manifest.split_sizes
        {'train': 40, 'heldout': 40, 'target': 40, 'val': 40, 'test': 40}
        >>> bundle.samples.loc[0].to_dict()
        {'sample_id': 's0', 'split': 'train', 'y': 0, 'colour': 'red'}
    """

    path: Path
    manifest: Manifest
    trained: Path | None = None

    def __len__(self) -> int:
        """Return the number of rows, all splits together."""
        return sum(self.manifest.split_sizes.values())

    @property
    def name(self) -> str:
        """Name of the bundle."""
        return self.manifest.name

    def _repr_html_(self) -> str:
        """Return the size of each group in each split as a small table, for a notebook."""
        splits = [split for split in SPLITS if self.manifest.split_sizes.get(split)]
        counts = {split: self.membership[self.rows_of[split]].sum(axis=0) for split in splits}
        rows = [
            {"group": name, **{split: f"{counts[split][place]:,}" for split in splits}}
            for place, name in enumerate(self.group_names)
        ]
        sizes = {split: f"{self.manifest.split_sizes[split]:,}" for split in splits}
        title = f"{self.manifest.title}: {len(self):,} rows, {self.manifest.n_features:,} features"
        return as_table(title, ["group", *splits], [{"group": "all rows", **sizes}, *rows])

    @property
    def group_names(self) -> list[str]:
        """Names of the m groups, in the order of the membership's columns."""
        return [group.name for group in self.manifest.groups]

    @cached_property
    def samples(self) -> pd.DataFrame:
        """One row a sample: `sample_id`, `split`, `y`, attributes, optional `path` and `text`.

        This reads the whole table; `column`, `y`, `rows_of` and `text` read far less.
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

    @property
    def text_columns(self) -> list[str]:
        """Names of the columns with texts: none, `text`, or of pairs also `text_pair`."""
        return [name for name in _TEXTS if name in self._metadata.schema.names]

    def text(self, row: int) -> str | None:
        """Return one row's text, a pair with a blank line between, or None if it has none.

        Raises:
            IndexError: If there is no such row.
        """
        texts = self.texts(row)
        return "\n\n".join(texts) if texts else None

    def texts(self, row: int) -> tuple[str, ...]:
        """Return one row's text, the two of a pair, or none; few other rows are read.

        In bundles of before pairs were kept apart, a pair is one text of two lines.

        Raises:
            IndexError: If there is no such row.
        """
        names = self.text_columns
        if not names:
            return ()
        with self._samples_file() as file:
            parts = _read_row(file, names, row).values()
        return tuple(str(part) for part in parts if part is not None)

    def values(self, row: int) -> dict[str, Any]:
        """Return a row of the table that the data came from, by column; empty for other data.

        The columns that became features come first, then the attributes, then all others.

        Raises:
            IndexError: If there is no such row.
        """
        file = self.path / "columns.parquet"
        if not file.exists():
            return {}
        with pq.ParquetFile(file) as opened:
            return _read_row(opened, self._in_order(opened.schema_arrow.names), row)

    def columns(self, most: int | None = None) -> pd.DataFrame | None:
        """Return the table that the data came from, or None for other data.

        Args:
            most: Only so many columns, features and attributes first; None takes all, in the
                file's order.
        """
        file = self.path / "columns.parquet"
        if not file.exists():
            return None
        with pq.ParquetFile(file) as opened:
            names = opened.schema_arrow.names
            return opened.read(
                columns=names if most is None else self._in_order(names)[:most]
            ).to_pandas()

    @cached_property
    def _feature_columns(self) -> list[str]:
        """Columns of the table that became features, in their order; none for other data."""
        file = self.path / "encoder.json"
        encoder = json.loads(file.read_text()) if file.exists() else {}
        kinds = (encoder.get("numeric", []), encoder.get("categorical", []))
        return [column["name"] for kind in kinds for column in kind]

    def _in_order(self, names: Sequence[str]) -> list[str]:
        """Return names of the table's columns: features first, then attributes, then the rest."""
        first = dict.fromkeys([*self._feature_columns, *self.manifest.attributes])
        return list(dict.fromkeys([*(name for name in first if name in names), *names]))

    def in_words(self, rows: np.ndarray, letters: int = 120) -> list[str] | None:
        """Return a line about each of some rows: its text, or its columns; None for other data.

        Args:
            rows: (q,) positions.
            letters: Most letters of a line.
        """
        places = pa.array(rows)
        if names := self.text_columns:
            parts = [self.column(name).take(places).to_pylist() for name in names]
        elif (table := self.columns(_IN_WORDS)) is not None:
            few = table.iloc[rows]
            parts = [[f"{name} {value}" for value in few[name]] for name in few.columns]
        else:
            return None
        joined = (" · ".join(map(str, each)) for each in zip(*parts, strict=True))
        lines = [" ".join(line.split()) for line in joined]
        return [line if len(line) <= letters else f"{line[: letters - 1]}…" for line in lines]

    def search(self, words: str) -> np.ndarray:
        """Return the positions of the rows whose id, text or a value contains some words.

        Upper and lower case are the same. A number has to be the whole value, or to stand by
        itself in an id or a text: 25 is in s25, but not in 250.

        Args:
            words: What to look for, as it stands; in one column alone with its name before a
                colon, as in `age: 25`.
        """
        own = ["sample_id", *self.text_columns]
        columns = [(name, self.column(name)) for name in (*own, *self.manifest.attributes)]
        file = self.path / "columns.parquet"
        if file.exists():
            with pq.ParquetFile(file) as opened:
                table = opened.read()
            names = table.column_names
            columns += zip(names, (each.combine_chunks() for each in table.columns), strict=True)
        # A name may have a colon itself.
        starts = [name for name, _ in columns if words.lower().startswith(f"{name.lower()}:")]
        longest = max(starts, key=len, default="")
        if longest and (value := words[len(longest) + 1 :].strip()):
            columns = [each for each in columns if each[0].lower() == longest.lower()]
            words = value
        found = np.zeros(len(self), dtype=bool)
        for name, column in columns:
            found |= _contains(column, words.strip(), prose=name in own)
        return np.flatnonzero(found)

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
        combinations, which = self.group_patterns
        return pa.array(describe(combinations, self.group_names), pa.string()).take(
            pa.array(which[rows])
        )

    @cached_property
    def group_labels(self) -> np.ndarray:
        """(n,) text: each sample's group or groups, for display."""
        combinations, which = self.group_patterns
        return describe(combinations, self.group_names)[which]

    @cached_property
    def features(self) -> np.ndarray:
        """(n, d) float32, memory-mapped, read-only."""
        file = (self.trained or self.path) / "features.npy"
        return np.load(file, mmap_mode="r", allow_pickle=False)

    @cached_property
    def head(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The backbone's own head: weight (K, d) and bias (K,), or None."""
        file = (self.trained or self.path) / "head.safetensors"
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
        check_sizes(self.path, self.manifest)
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
        batch = self._thumbnails.get_batch(row // THUMBNAILS)
        return batch.column(0)[row % THUMBNAILS].as_py()


def open_bundle(workspace: Workspace, name: str) -> Bundle:
    """Open a bundle by its name in the workspace or by the path of its directory.

    Raises:
        BundleNotFoundError: If there is none; the sentence lists those that are there.
        BundleError: If the directory is not a bundle of a format that this version reads.

    Example:
        >>> gsr.open_bundle(place, "birds").features.shape
        (200, 5)
    """
    inside = [workspace.bundles / name] if is_name(name) else []
    for directory in (*inside, Path(name)):
        if (directory / "manifest.json").is_file():
            return _open(directory)
    present = ", ".join(bundle.name for bundle in list_bundles(workspace)) or "none"
    raise BundleNotFoundError(
        f"no bundle '{name}' in {workspace.bundles} (bundles there: {present}); make the example "
        "with 'gsr demo' or import one with 'gsr import npz'"
    )


def list_bundles(workspace: Workspace) -> list[Bundle]:
    """Return the bundles of a workspace by name; other directories are skipped.

    Example:
        >>> [bundle.name for bundle in gsr.list_bundles(place)]
        ['birds']
    """
    bundles = []
    for file in sorted(workspace.bundles.glob("[!.]*/manifest.json")):
        try:
            bundles.append(_open(file.parent))
        except BundleError:
            continue
    return bundles


def _read_row(file: pq.ParquetFile, names: list[str], row: int) -> dict[str, Any]:
    """Read some columns of one row, and few other rows.

    Raises:
        IndexError: If there is no such row.
    """
    before = 0
    for part in range(file.metadata.num_row_groups):
        size = file.metadata.row_group(part).num_rows
        if 0 <= row < before + size:
            table = file.read_row_group(part, columns=names)
            return {name: table.column(name)[row - before].as_py() for name in names}
        before += size
    raise IndexError(f"row {row} of {before}")


def _contains(column: pa.Array, words: str, *, prose: bool) -> np.ndarray:
    """Return which values of a column contain some words; (n,) bool.

    Args:
        column: The values.
        words: What to look for.
        prose: Whether a number may be a part of a value, between others than digits.
    """
    kind, number = column.type, _number(words)
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if text and number is not None and prose:
        pattern = f"(^|[^0-9]){re.escape(words)}($|[^0-9])"
        options = pc.MatchSubstringOptions(pattern)
        hits = pc.call_function("match_substring_regex", [column], options)
    elif text and number is None:
        options = pc.MatchSubstringOptions(words, ignore_case=True)
        hits = pc.call_function("match_substring", [column], options)
    elif number is not None and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        hits = pc.call_function("equal", [column.cast(pa.float64(), safe=False), pa.scalar(number)])
    else:
        shown = pc.call_function("utf8_lower", [column.cast(pa.string())])
        hits = pc.call_function("equal", [shown, pa.scalar(words.lower())])
    return hits.fill_null(False).to_numpy(zero_copy_only=False)


def _number(words: str) -> float | None:
    try:
        number = float(words)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def check_split(bundle: Bundle, split: str) -> None:
    """See whether a bundle has rows of a split.

    Raises:
        SettingError: If it has not.

    Example:
        >>> check_split(gsr.open_bundle(place, "birds"), "tset")
        Traceback (most recent call last):
        ...
        gsr_core.errors.SettingError: bundle 'birds' has no split 'tset'; its splits are train, ...
    """
    sizes = bundle.manifest.split_sizes
    if not sizes.get(split):
        present = ", ".join(each for each in SPLITS if sizes.get(each))
        raise SettingError(
            f"bundle '{bundle.name}' has no split '{split}'; its splits are {present}"
        )


def bundle_reference(workspace: Workspace, bundle: Bundle) -> str:
    """Return what `open_bundle` opens a bundle by: its name, or its path outside the workspace."""
    inside = bundle.path.parent == workspace.bundles
    return bundle.name if inside else str(bundle.path.resolve())


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
    check_sizes(directory, manifest)
    return Bundle(directory, manifest)


def check_sizes(directory: Path, manifest: Manifest) -> None:
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
