"""The inputs of a backbone: images, texts or rows of numbers, read one sample at a time.

Inputs are lazy and can be sent to another process: a file is opened when its row is asked for.
One bad row raises `InputError` with the reason, and spoils nothing else.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gsr_core.data.pixels import decode_image
from gsr_core.errors import InputError, SourceError

__all__ = [
    "ImageArrays",
    "ImageBlobs",
    "ImageFiles",
    "Inputs",
    "Modality",
    "Numbers",
    "Texts",
    "escapes",
]

Modality = Literal["image", "text", "numbers"]
ESCAPE = r"(?s)^[\\/]|^.:|(?:^|[\\/])\.\.(?:[\\/]|$)"
"""The test of `escapes` as a regular expression of RE2, for a million paths at once."""


class Inputs(ABC):
    """The inputs of n samples, in row order."""

    modality: ClassVar[Modality]

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples n."""

    @abstractmethod
    def load(self, row: int) -> Any:
        """Return one sample's input.

        Returns:
            For images (H, W, 3) uint8; for texts a string, or a tuple of two for a pair; for
            numbers (d,) float32.

        Raises:
            InputError: If it cannot be read.
        """

    @abstractmethod
    def name(self, row: int) -> str:
        """Return what to call one sample in a list of bad ones: its path, or its row."""

    @abstractmethod
    def take(self, rows: np.ndarray) -> Inputs:
        """Return the inputs of some rows, in their order."""

    @abstractmethod
    def digest(self) -> str:
        """Return a SHA-256 that changes when the inputs change.

        Files count by path, size and time of change, so that a large folder need not be read.
        """


class ImageFiles(Inputs):
    """Image files below a folder."""

    modality = "image"

    def __init__(
        self, folder: Path, paths: Sequence[str] | np.ndarray, *, gaps: bool = False
    ) -> None:
        """Keep the paths; no file is opened.

        Args:
            folder: The folder.
            paths: n paths relative to it.
            gaps: Whether a path may be empty: a row without an image.

        Raises:
            SourceError: If a path is missing or leaves the folder.
        """
        self.folder = folder
        self.paths = _strings(paths)
        if not gaps and (bad := _matching(self.paths.fill_null(""), "^$")).size:
            raise SourceError(
                f"there is no path in row {bad[0]} ({len(bad)} rows in all); fill it in, or drop "
                "the rows"
            )
        if (bad := _matching(self.paths, ESCAPE)).size:
            raise SourceError(
                f"path '{self.paths[bad[0]]}' in row {bad[0]} does not stay inside {folder}; give "
                "paths relative to the folder, without '..'"
            )

    def __len__(self) -> int:
        return len(self.paths)

    def load(self, row: int) -> np.ndarray:
        """Return one image; see `decode_image`."""
        return decode_image(self.folder / self.name(row))

    def name(self, row: int) -> str:
        """Return the path."""
        return self.paths[row].as_py() or ""

    def take(self, rows: np.ndarray) -> ImageFiles:
        """Return the images of some rows."""
        images = object.__new__(ImageFiles)
        images.folder, images.paths = self.folder, self.paths.take(pa.array(rows))
        return images

    def digest(self) -> str:
        """Return the digest of every file's path, size and time of change."""
        digest = hashlib.sha256(b"image files")
        for path in self.paths.to_pylist():
            try:
                # Joined as text: a Path for each of a million files takes seconds.
                status = os.stat(os.path.join(self.folder, path or ""))
                digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
            except (OSError, ValueError):
                digest.update(f"{path}\0missing\n".encode())
        return digest.hexdigest()


class ImageBlobs(Inputs):
    """Encoded images (the bytes of files) in an Arrow column, such as a parquet file's."""

    modality = "image"

    def __init__(
        self,
        blobs: pa.ChunkedArray | pa.Array,
        names: Sequence[str] | np.ndarray,
        rows: np.ndarray | None = None,
    ) -> None:
        """Keep the column.

        Args:
            blobs: Bytes of image files; more of them than n if `rows` is given.
            names: What to call each of the n images.
            rows: (n,) the place of each image in the column; in order by default. Taking rows
                out of the column itself would copy it, and fail beyond 2 GiB.
        """
        self.blobs = blobs
        self.names = _strings(names)
        self.rows = np.arange(len(blobs)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def load(self, row: int) -> np.ndarray:
        """Return one image; see `decode_image`.

        Raises:
            InputError: If there is none or it cannot be read.
        """
        blob = self.blobs[int(self.rows[row])].as_py()
        if not blob:
            raise InputError("there is no image")
        return decode_image(io.BytesIO(blob))

    def name(self, row: int) -> str:
        """Return the sample's name."""
        return self.names[row].as_py() or ""

    def take(self, rows: np.ndarray) -> ImageBlobs:
        """Return the images of some rows."""
        return ImageBlobs(self.blobs, self.names.take(pa.array(rows)), self.rows[rows])

    def digest(self) -> str:
        """Return the digest of all bytes."""
        digest = hashlib.sha256(b"image blobs")
        for row in self.rows:
            content = self.blobs[int(row)].as_py() or b""
            digest.update(len(content).to_bytes(8, "little"))
            digest.update(content)
        return digest.hexdigest()


class ImageArrays(Inputs):
    """Images in memory (or memory-mapped)."""

    modality = "image"

    def __init__(self, images: np.ndarray) -> None:
        """Keep the images.

        Args:
            images: (n, H, W, 3) uint8.
        """
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def load(self, row: int) -> np.ndarray:
        """Return one image (H, W, 3)."""
        return self.images[row]

    def name(self, row: int) -> str:
        """Return the row."""
        return f"row {row}"

    def take(self, rows: np.ndarray) -> ImageArrays:
        """Return the images of some rows."""
        return ImageArrays(self.images[rows])

    def digest(self) -> str:
        """Return the digest of all pixels."""
        digest = hashlib.sha256(f"image arrays {self.images.shape}".encode())
        for start in range(0, len(self.images), 1024):
            digest.update(self.images[start : start + 1024].tobytes())
        return digest.hexdigest()


class Texts(Inputs):
    """Texts, or pairs of texts."""

    modality = "text"

    def __init__(
        self, texts: Sequence[str] | np.ndarray, pairs: Sequence[str] | np.ndarray | None = None
    ) -> None:
        """Keep the texts.

        Args:
            texts: n texts, or the first ones of n pairs.
            pairs: The second ones.
        """
        self.texts = _strings(texts)
        self.pairs = None if pairs is None else _strings(pairs)

    def __len__(self) -> int:
        return len(self.texts)

    def load(self, row: int) -> str | tuple[str, str]:
        """Return one text or pair.

        Raises:
            InputError: If it is missing or blank.
        """
        parts = self._parts(row)
        if not all(part.strip() for part in parts):
            raise InputError("the text is empty")
        return parts[0] if len(parts) == 1 else (parts[0], parts[1])

    def name(self, row: int) -> str:
        """Return the row."""
        return f"row {row}"

    def columns(self) -> dict[str, list[str]]:
        """Return all texts as people read them: `text`, and of pairs the second `text_pair`."""
        texts = {"text": self.texts.fill_null("").to_pylist()}
        if self.pairs is not None:
            texts["text_pair"] = self.pairs.fill_null("").to_pylist()
        return texts

    def take(self, rows: np.ndarray) -> Texts:
        """Return the texts of some rows."""
        index = pa.array(rows)
        return Texts(self.texts.take(index), None if self.pairs is None else self.pairs.take(index))

    def digest(self) -> str:
        """Return the digest of all texts."""
        digest = hashlib.sha256(f"texts {self.pairs is not None}".encode())
        for row in range(len(self)):
            for part in self._parts(row):
                content = part.encode()
                digest.update(len(content).to_bytes(8, "little"))
                digest.update(content)
        return digest.hexdigest()

    def _parts(self, row: int) -> list[str]:
        columns = [self.texts] if self.pairs is None else [self.texts, self.pairs]
        return [column[row].as_py() or "" for column in columns]


class Numbers(Inputs):
    """Rows of numbers: features computed elsewhere, or a table's encoded columns."""

    modality = "numbers"

    def __init__(self, array: np.ndarray) -> None:
        """Keep the array.

        Args:
            array: (n, d) of a float type; may be memory-mapped.
        """
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def load(self, row: int) -> np.ndarray:
        """Return one row (d,) as float32."""
        return np.asarray(self.array[row], dtype=np.float32)

    def name(self, row: int) -> str:
        """Return the row."""
        return f"row {row}"

    def take(self, rows: np.ndarray) -> Numbers:
        """Return some rows."""
        return Numbers(self.array[rows])

    def digest(self) -> str:
        """Return the digest of all numbers."""
        digest = hashlib.sha256(f"numbers {self.array.shape} {self.array.dtype}".encode())
        for start in range(0, len(self.array), 65536):
            digest.update(self.array[start : start + 65536].tobytes())
        return digest.hexdigest()


def escapes(path: str) -> bool:
    """Return whether a relative path is absolute or leaves its folder, on any system.

    Windows' rules contain POSIX's: both slashes separate, a drive is absolute.
    """
    steps = re.split(r"[\\/]", path)
    return ".." in steps or path[1:2] == ":" or path[:1] in ("/", "\\")


def _strings(values: Sequence[str] | np.ndarray | pa.Array) -> pa.Array:
    """Return strings as one buffer; anything else becomes null.

    Python's own strings count their references, so that each worker process that reads them would
    copy the whole list.
    """
    if isinstance(values, pa.Array):
        return values
    # Through NumPy, because going through a pandas column one by one is slow.
    objects = np.asarray(values, dtype=object).tolist()
    clean = [value if isinstance(value, str) else None for value in objects]
    try:
        return pa.array(clean, pa.large_string())
    except UnicodeEncodeError:
        # Halves of a pair that JSON can write and UTF-8 cannot, or a file name of another encoding.
        return pa.array(
            [value and value.encode("utf-8", "replace").decode() for value in clean],
            pa.large_string(),
        )


def _matching(strings: pa.Array, pattern: str) -> np.ndarray:
    """Return the rows whose string has a match of a regular expression; null has none."""
    options = pc.MatchSubstringOptions(pattern)
    mask = pc.call_function("match_substring_regex", [strings], options)
    return np.flatnonzero(mask.fill_null(False).to_numpy(zero_copy_only=False))
