"""Features that somebody computed already: npy, parquet or safetensors, and a table beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field
from safetensors import SafetensorError, safe_open

from gsr_core.data.inputs import Inputs, Numbers
from gsr_core.data.proposal import propose_roles
from gsr_core.data.source import Source
from gsr_core.errors import SourceError
from gsr_core.readers.base import READER_CONFIG, Reader, settings
from gsr_core.readers.files import TABLE_SUFFIXES, need_file, read_table
from gsr_core.readers.shown import shown_images

__all__ = ["Embeddings"]

CHUNK = 2**24
"""Numbers that are checked at a time."""


@settings(frozen=True, kw_only=True, config=READER_CONFIG)
class Embeddings(Reader):
    """One row of numbers a sample, and a table of the same rows; needs no backbone.

    A `.npy` file stays on disk and is memory-mapped, as is a `.safetensors` file; a column of a
    `.parquet` file is read into memory. Pickles are never read.
    """

    name: ClassVar[str] = "embeddings"
    title: ClassVar[str] = "Embeddings"
    summary: ClassVar[str] = (
        "Features computed elsewhere: a .npy or .safetensors file with a table of the same rows "
        "beside it, or a parquet file with a column of lists."
    )
    path_help: ClassVar[str] = "the .npy, .parquet or .safetensors file"

    metadata: Annotated[
        str,
        Field(
            description="Table of the same rows: .csv, .tsv, .parquet or .jsonl. By default the "
            "one of the same name, or called metadata, beside the file."
        ),
    ] = ""
    column: Annotated[
        str, Field(description="Column of lists of numbers in a parquet file, if it has several.")
    ] = ""
    tensor: Annotated[
        str, Field(description="Name of the 2-D tensor in a .safetensors file, if it has several.")
    ] = ""

    def read(self) -> Source:
        """Map the embeddings and read the table.

        Raises:
            SourceError: If a file is missing or damaged, its rows do not match the table's, or a
                number is not finite; the sentence names the row (counted from 0) and the fix.
        """
        file = self.location
        need_file(file)
        kind = file.suffix.lower()
        if kind == ".npy":
            array, own, notes = _read_npy(file)
        elif kind == ".parquet":
            array, own, notes = self._read_parquet(file)
        elif kind == ".safetensors":
            array, own, notes = self._read_safetensors(file)
        else:
            raise SourceError(
                f"{file.name} is not a .npy, .parquet or .safetensors file; {_hint(kind)}"
            )
        if array.ndim != 2 or 0 in array.shape:
            raise SourceError(
                f"the embeddings of {file.name} have shape {array.shape}; expected (n, d) with at "
                "least one row and one column: one row of numbers a sample"
            )
        if array.dtype.kind not in "fiu":
            raise SourceError(
                f"the embeddings of {file.name} have dtype {array.dtype}; expected real numbers: "
                "save them with .astype('float32')"
            )
        _check_finite(array, file)

        # A parquet file with columns of its own is complete; named tensors may not be.
        alone = kind == ".parquet" and len(own.columns) > 0
        beside = self._metadata(file, look=not alone, needed=not len(own.columns))
        table = own if beside is None else _join(own, beside, n=len(array), file=file)
        folder = file.parent if beside is None else beside.parent
        images: Inputs | None = None
        if "path" in table:
            images, more = shown_images(table["path"], folder, where=f"the folder {folder.name}")
            notes += more
        return Source(
            table=table,
            inputs=Numbers(array),
            roles=propose_roles(table, inputs=("path", "text")),
            origin=f"embeddings of {file.name}" + (f" and {beside.name}" if beside else ""),
            images=images,
            notes=tuple(notes),
        )

    def _metadata(self, file: Path, *, look: bool, needed: bool) -> Path | None:
        """Return the table beside the embeddings; None if there is none.

        Raises:
            SourceError: If it does not exist though it is named or needed, or there are several.
        """
        if self.metadata:
            path = Path(self.metadata).expanduser()
            for place in (path, file.parent / path):
                if place.is_file():
                    return place
            raise SourceError(f"there is no metadata file {path}, nor in {file.parent}")
        for stem in dict.fromkeys((file.stem, "metadata")) if look else ():
            places = [file.parent / (stem + end) for end in TABLE_SUFFIXES]
            tables = [place for place in places if place.is_file() and place != file]
            if len(tables) > 1:
                raise SourceError(
                    f"{' and '.join(each.name for each in tables)} are both beside {file.name}; "
                    "choose one with metadata=..."
                )
            if tables:
                return tables[0]
        if not needed:
            return None
        raise SourceError(
            f"there is no table of labels beside {file.name}: expected {file.stem}.csv or "
            "metadata.csv (or .tsv, .parquet, .jsonl) with one row for each of its rows; give its "
            "path with metadata=..."
        )

    def _read_parquet(self, file: Path) -> tuple[np.ndarray, pd.DataFrame, list[str]]:
        try:
            schema = pq.read_schema(file)
        except (pa.ArrowException, OSError) as error:
            raise SourceError(f"{file} is not a complete parquet file ({_short(error)})") from error
        lists = [field.name for field in schema if _is_list(field.type)]
        name = self.column or (lists[0] if len(lists) == 1 else "")
        if self.column and self.column not in lists:
            there = "is not a list of numbers" if self.column in schema.names else "is not there"
            raise SourceError(
                f"column '{self.column}' of {file.name} {there}; columns of lists are "
                f"{', '.join(lists) or 'none'}"
            )
        if not name:
            raise SourceError(
                f"{file.name} has {len(lists)} columns of lists of numbers"
                f"{' (' + ', '.join(lists) + ')' if lists else ''}; "
                + (
                    "choose one with column=..."
                    if lists
                    else "one number a column is what the reader 'table' takes"
                )
            )
        others = [column for column in schema.names if column not in lists]
        try:
            column = pq.read_table(file, columns=[name]).column(0)
            table = pq.read_table(file, columns=others).to_pandas()
        except (pa.ArrowException, OSError) as error:
            raise SourceError(f"{file} cannot be read ({_short(error)})") from error
        notes = []
        if others := [each for each in lists if each != name]:
            notes.append(f"Columns of {file.name} that were ignored: {', '.join(others)}.")
        return _stack(column, name, file), table.reset_index(drop=True), notes

    def _read_safetensors(self, file: Path) -> tuple[np.ndarray, pd.DataFrame, list[str]]:
        # NumPy has no bfloat16; torch maps the file too.
        try:
            with safe_open(file, framework="pt") as tensors:
                names = tensors.keys()
                shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in names}
                matrices = [name for name, shape in shapes.items() if len(shape) == 2]
                name = self.tensor or (matrices[0] if len(matrices) == 1 else "")
                if name not in shapes:
                    listing = ", ".join(f"{each} {shape}" for each, shape in shapes.items())
                    problem = (
                        f"there is no tensor '{name}' in {file.name}"
                        if name
                        else f"{file.name} has {len(matrices)} tensors of two dimensions"
                    )
                    raise SourceError(
                        f"{problem}; it has {listing or 'none'}: choose one of shape (n, d) with "
                        "tensor=..."
                    )
                array = _numpy(tensors.get_tensor(name))
                columns = (
                    [each for each, shape in shapes.items() if shape == (len(array),)]
                    if array.ndim == 2
                    else []
                )
                own = pd.DataFrame({each: _numpy(tensors.get_tensor(each)) for each in columns})
        except (SafetensorError, OSError) as error:
            raise SourceError(
                f"{file} is not a complete safetensors file ({_short(error)})"
            ) from error
        others = [each for each in shapes if each not in (name, *columns)]
        notes = []
        if others:
            notes.append(f"Tensors of {file.name} that were ignored: {', '.join(others)}.")
        return array, own, notes


def _read_npy(file: Path) -> tuple[np.ndarray, pd.DataFrame, list[str]]:
    # A damaged header raises nearly anything.
    try:
        array = np.lib.format.open_memmap(file, mode="r")
    except Exception as error:
        if "Python objects" in str(error):
            raise SourceError(
                f"{file.name} holds Python objects, which only pickle could read; save numbers, "
                "for instance with numpy.save(file, numpy.stack(rows).astype('float32'))"
            ) from error
        raise SourceError(
            f"{file} is not a complete .npy file ({_short(error)}); write it again with numpy.save"
        ) from error
    if array.dtype.kind == "V" and array.dtype.itemsize == 2 and array.dtype.names is None:
        # bfloat16 is the upper half of float32, and NumPy knows it as two bytes of anything.
        wide = array.view(np.uint16).astype(np.uint32) << 16
        return wide.view(np.float32), pd.DataFrame(), [f"{file.name} was read as bfloat16."]
    return array, pd.DataFrame(), []


def _is_list(kind: pa.DataType) -> bool:
    lists = (pa.ListType, pa.LargeListType, pa.FixedSizeListType)
    return isinstance(kind, lists) and (
        pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)
    )


def _stack(column: pa.ChunkedArray, name: str, file: Path) -> np.ndarray:
    """Return a column of lists as a matrix.

    Raises:
        SourceError: If a row has none, or the lists differ in length.
    """
    lengths = pc.call_function("list_value_length", [column]).to_numpy()
    if column.null_count:
        row = int(np.flatnonzero(np.isnan(lengths))[0])
        raise SourceError(
            f"column '{name}' of {file.name} has no list in row {row} ({column.null_count} rows in "
            "all); drop those rows"
        )
    if not len(lengths):
        return np.empty((0, 0), np.float32)
    if (bad := np.flatnonzero(lengths != lengths[0])).size:
        raise SourceError(
            f"column '{name}' of {file.name} has {lengths[bad[0]]} numbers in row {bad[0]}, but "
            f"{lengths[0]} in row 0; every row needs as many"
        )
    # A gap within a list becomes NaN, which is refused with the others.
    parts = [
        chunk.flatten().to_numpy(zero_copy_only=False).reshape(len(chunk), -1)
        for chunk in column.chunks
        if len(chunk)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _numpy(tensor: Any) -> np.ndarray:
    """Return a torch tensor as an array; of a type that NumPy lacks as float32."""
    try:
        return tensor.numpy()
    except TypeError:
        return tensor.float().numpy()


def _check_finite(array: np.ndarray, file: Path) -> None:
    bad, first, n = 0, None, max(1, CHUNK // array.shape[1])
    for start in range(0, len(array), n):
        # Too large a number for float32 becomes infinite.
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(np.asarray(array[start : start + n], dtype=np.float32))
        if not finite.all():
            bad += int((~finite.all(axis=1)).sum())
            if first is None:
                row, column = np.argwhere(~finite)[0]
                first = (start + int(row), int(column))
    if first is not None:
        raise SourceError(
            f"the embeddings of {file.name} are {array[first]} in row {first[0]}, column "
            f"{first[1]} ({bad} bad rows in all); every number must be finite and within float32's "
            "range: compute those rows again, or leave them out here and in the table"
        )


def _join(own: pd.DataFrame, beside: Path, *, n: int, file: Path) -> pd.DataFrame:
    table = read_table(beside)
    if len(table) != n:
        raise SourceError(
            f"{file.name} has {n} rows, but {beside.name} has {len(table)}; row i of the one must "
            "be row i of the other"
        )
    for name in own:
        if name in table:
            raise SourceError(
                f"'{name}' is in {file.name} and a column of {beside.name}; rename or drop one"
            )
    return pd.concat([own, table], axis=1)


def _hint(suffix: str) -> str:
    if suffix == ".npz":
        return "the reader 'npz' takes .npz files"
    if suffix in TABLE_SUFFIXES:
        return "one number a column is what the reader 'table' takes"
    return "save the embeddings as one of these, for instance with numpy.save"


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:100]
