"""Data sets of Hugging Face `datasets`: from the hub, or from a directory of `save_to_disk`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import Field

from gsr_core.data.inputs import ImageBlobs, ImageFiles, Inputs, Texts
from gsr_core.data.proposal import propose_roles
from gsr_core.data.source import Source, SplitRule
from gsr_core.errors import SourceError
from gsr_core.extras import require
from gsr_core.readers.base import READER_CONFIG, Reader, settings
from gsr_core.readers.files import need_columns
from gsr_core.readers.texts import choose_texts, empty_texts, second_text, text_column

__all__ = ["HuggingFace"]

SPLIT = "split"
STARTS = {"train": "train", "val": "validation", "dev": "validation", "test": "test"}
"""What the beginning of a split's name means; a split of another name is left out."""
SECONDS = 5
"""Seconds in which the hub must answer whether it has a data set."""


@settings(frozen=True, kw_only=True, config=READER_CONFIG)
class HuggingFace(Reader):
    """A data set of the `datasets` library; images stay encoded until a backbone asks for them."""

    name: ClassVar[str] = "huggingface"
    title: ClassVar[str] = "Hugging Face datasets"
    summary: ClassVar[str] = (
        "A data set of the Hugging Face hub by name, or a directory written by save_to_disk, with "
        "a column of images or of texts."
    )
    path_help: ClassVar[str] = "its name on the hub, or the directory"
    extra: ClassVar[str] = "huggingface"

    config: Annotated[
        str, Field(description="Configuration of a data set on the hub that has several.")
    ] = ""
    image: Annotated[
        str, Field(description="Column of the images; found automatically if empty.")
    ] = ""
    text: Annotated[
        str,
        Field(
            description="Column of the text, or of a pair's first; found automatically if empty."
        ),
    ] = ""
    pair: Annotated[
        str,
        Field(
            description="Column of a pair's second text; found automatically if empty, 'none' for "
            "no pair."
        ),
    ] = ""
    revision: Annotated[
        str, Field(description="Branch, tag or commit on the hub; the newest if empty.")
    ] = ""

    def read(self) -> Source:
        """Read the columns; no image is decoded.

        Raises:
            SourceError: If the hub cannot be reached, there is no such data set, or it has neither
                images nor texts.
            MissingExtraError: If the library is not installed.
        """
        datasets = require("datasets", self.extra)
        content = self._load(datasets)
        splits = content if isinstance(content, datasets.DatasetDict) else {"": content}
        splits = {str(name): dataset for name, dataset in splits.items() if len(dataset)}
        if not splits:
            raise SourceError(f"{self.path} has no rows; there is nothing to import")
        arrow, features = _join(splits, self.path)
        names = {
            column: dict(enumerate(feature.names))
            for column, feature in features.items()
            if isinstance(feature, datasets.ClassLabel)
        }
        images = [c for c, feature in features.items() if isinstance(feature, datasets.Image)]
        table, notes = _table(arrow, images)
        single = list(splits) == [""]
        if not single:
            notes += (f"Column '{SPLIT}' of the data set is not used.",) if SPLIT in table else ()
            table[SPLIT] = np.repeat(list(splits), [len(each) for each in splits.values()])
        inputs, input_columns, more = self._inputs(arrow, table, images)
        roles = propose_roles(table, inputs=input_columns)
        if not single:
            words = {name: _meaning(name) for name in splits}
            roles = roles.model_copy(update={"split": SplitRule(column=SPLIT, words=words)})
            if lost := [name for name, meaning in words.items() if meaning == "none"]:
                more += (f"Left out, because of their names: the splits {', '.join(lost)}.",)
        if roles.label is None and len(names) == 1:
            label = next(iter(names))
            rest = tuple(each for each in roles.attributes if each != label)
            groups = roles.groups.model_copy(update={"columns": rest[:1]})
            roles = roles.model_copy(update={"label": label, "attributes": rest, "groups": groups})
        source = Source(
            table=table,
            inputs=inputs,
            roles=roles,
            origin=f"{self.path}{f' ({self.config})' if self.config else ''}, a data set of "
            "Hugging Face",
            names=names,
            notes=(*notes, *more),
            warnings=second_text(table, input_columns, roles)
            if isinstance(inputs, Texts) and not self.pair
            else (),
        )
        return _drop_unlabelled(source, roles.label)

    def _load(self, datasets: Any) -> Any:
        """Return a `Dataset` or `DatasetDict`.

        Raises:
            SourceError: If it cannot be loaded.
        """
        place = self.location
        if place.is_dir():
            marks = ("dataset_dict.json", "dataset_info.json", "state.json")
            if not any((place / mark).is_file() for mark in marks):
                entries = ", ".join(sorted(each.name for each in place.iterdir())[:5]) or "nothing"
                raise SourceError(
                    f"{place} was not written by save_to_disk: expected {marks[0]}, or {marks[1]} "
                    f"and {marks[2]}, found {entries}; write it with "
                    "dataset.save_to_disk(directory)"
                )
            try:
                return datasets.load_from_disk(str(place))
            # A damaged directory raises nearly anything: from json, Arrow, the library itself.
            except Exception as error:
                raise SourceError(
                    f"{place} cannot be read ({_short(error)}); write it again with "
                    "dataset.save_to_disk(directory)"
                ) from error
        if place.is_absolute() or self.path.startswith((".", "~")) or not self.path:
            raise SourceError(
                f"there is no directory '{self.path}'; give a directory that save_to_disk has "
                "written, or a name on the hub such as stanfordnlp/imdb"
            )
        return self._from_hub(datasets)

    def _from_hub(self, datasets: Any) -> Any:
        hub = require("huggingface_hub", self.extra)
        missing = None
        try:
            hub.HfApi().dataset_info(self.path, revision=self.revision or None, timeout=SECONDS)
        except hub.errors.RepositoryNotFoundError as error:
            raise SourceError(
                f"the hub has no data set '{self.path}', or it is not public; check the name "
                "(OWNER/NAME), or log in with hf auth login"
            ) from error
        except hub.errors.RevisionNotFoundError as error:
            raise SourceError(
                f"'{self.path}' has no revision '{self.revision}'; name a branch, tag or commit"
            ) from error
        except hub.errors.HFValidationError as error:
            raise SourceError(
                f"'{self.path}' is neither a directory nor a name on the hub ({_short(error)})"
            ) from error
        except Exception as error:
            missing = error
        try:
            # The library would try an absent network for half a minute; its cache needs none.
            with _offline(datasets, hub) if missing is not None else _online():
                return datasets.load_dataset(
                    self.path, self.config or None, revision=self.revision or None
                )
        except Exception as error:
            if missing is not None and isinstance(error, OSError):
                raise SourceError(
                    f"'{self.path}' is not a directory here, the hub cannot be reached "
                    f"({_short(missing)}) and its cache has no such data set; on a machine with a "
                    f"network run datasets.load_dataset('{self.path}').save_to_disk('directory'), "
                    "copy that directory here and give it as the path"
                ) from error
            raise SourceError(
                f"'{self.path}' cannot be loaded ({_short(error)}); if it has several "
                "configurations, name one in config"
            ) from error

    def _inputs(
        self, arrow: pa.Table, table: pd.DataFrame, images: list[str]
    ) -> tuple[Inputs, tuple[str, ...], tuple[str, ...]]:
        """Return the inputs, the columns that they are made of, and notes.

        Raises:
            SourceError: If a named column holds something else, or there is none.
        """
        if self.image and self.text:
            raise SourceError(
                f"image is '{self.image}' and text is '{self.text}'; name only one of them"
            )
        if self.image and self.image not in images:
            need_columns(pd.DataFrame(columns=arrow.column_names), [self.image], self.location)
            raise SourceError(
                f"column '{self.image}' of {self.path} holds no images; columns of images are "
                f"{', '.join(images) or 'not there'}"
            )
        if images and not self.text:
            column = self.image or images[0]
            return _images(arrow[column], table), (column,), ()
        where = self.path if images or len(table.columns) else f"{self.path} (no plain columns)"
        names = choose_texts(table, where, text=self.text, pair=self.pair)
        columns = [text_column(table, name, where) for name in names]
        return Texts(*columns), names, empty_texts(columns)


@contextmanager
def _offline(datasets: Any, hub: Any) -> Iterator[None]:
    constants = hub.constants
    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    logger = logging.getLogger("datasets.load")
    level = logger.level
    try:
        datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
        # It would say that it uses the cache.
        logger.setLevel(logging.ERROR)
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before
        logger.setLevel(level)


@contextmanager
def _online() -> Iterator[None]:
    yield


def _join(splits: Mapping[str, Any], where: str) -> tuple[pa.Table, Mapping[str, Any]]:
    """Return the rows of all splits as they are on disk, and the features they share.

    Raises:
        SourceError: If the splits have different columns.
    """
    first = next(iter(splits.values()))
    for name, dataset in splits.items():
        if dataset.features != first.features:
            differ = sorted(
                column
                for column in {*dataset.features, *first.features}
                if dataset.features.get(column) != first.features.get(column)
            )
            raise SourceError(
                f"the splits of {where} differ in column '{differ[0]}' ({next(iter(splits))}: "
                f"{first.features.get(differ[0])}, {name}: {dataset.features.get(differ[0])}); "
                "make them equal, or save one split with save_to_disk"
            )
    # In Arrow's own form a selection or shuffling of rows counts, and nothing is decoded.
    tables = [dataset.with_format("arrow")[:] for dataset in splits.values()]
    return pa.concat_tables(tables), first.features


def _table(arrow: pa.Table, images: list[str]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the plain columns, and a note on those that are not."""
    plain = [
        field.name
        for field in arrow.schema
        if field.name not in images
        and not pa.types.is_nested(field.type)
        # Bytes and the library's own types make no attribute.
        and not pa.types.is_binary(field.type)
        and not isinstance(field.type, pa.ExtensionType)
    ]
    other = [name for name in arrow.column_names if name not in plain and name not in images]
    notes = (f"Columns of lists, bytes or records are not kept: {', '.join(other)}.",)
    frame = arrow.select(plain).to_pandas()
    if not plain:
        frame = pd.DataFrame(index=range(len(arrow)))
    return frame, notes if other else ()


def _images(column: pa.ChunkedArray, table: pd.DataFrame) -> Inputs:
    """Return the images of a column of records (bytes, path)."""
    parts = dict(zip((field.name for field in column.type), column.flatten(), strict=True))
    blobs, paths = parts["bytes"], parts["path"].to_pylist()
    if blobs.null_count == len(blobs) and all(path and os.path.isabs(path) for path in paths):
        folder = Path(os.path.commonpath([os.path.dirname(path) for path in paths]))
        return ImageFiles(folder, [Path(path).relative_to(folder).as_posix() for path in paths])
    splits = table[SPLIT] if SPLIT in table else [""] * len(paths)
    names = [
        os.path.basename(path) if path else f"{split} row {row}".strip()
        for row, (path, split) in enumerate(zip(paths, splits, strict=True))
    ]
    return ImageBlobs(blobs, names)


def _meaning(name: str) -> str:
    lower = name.lower()
    return next((meaning for start, meaning in STARTS.items() if lower.startswith(start)), "none")


def _drop_unlabelled(source: Source, label: str | None) -> Source:
    """Leave out rows whose class the data set keeps to itself, which it marks by -1.

    Raises:
        SourceError: If that is every row.
    """
    if label is None or label not in source.names:
        return source
    codes = source.table[label]
    rows = np.flatnonzero(codes.notna() & (codes >= 0))
    if len(rows) == len(codes):
        return source
    if not len(rows):
        raise SourceError(f"column '{label}' is -1 in every row: the data set keeps its labels")
    hidden = len(codes) - len(rows)
    return Source(
        table=source.table.iloc[rows].reset_index(drop=True),
        inputs=source.inputs.take(rows),
        roles=source.roles,
        origin=source.origin,
        names=source.names,
        notes=(*source.notes, f"{hidden:,} rows without a label (-1 or missing) are left out."),
    )


def _short(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
