"""MetaShift's cats and dogs, indoor and outdoor.

Liang and Zou, "MetaShift: A Dataset of Datasets for Evaluating Contextual Distribution Shifts and
Training Conflicts" (ICLR 2022, https://arxiv.org/abs/2202.06523). Three layouts are read:

1. What the authors' script `subpopulation_shift_cat_dog_indoor_outdoor.py` calls mixed
   (`MetaShift-subpopulation-shift`): `train/cat/ID.jpg`, `val_out_of_domain/dog/ID.jpg`, and the
   contexts in `imageID_to_group.pkl`, from `ID` to `["cat(indoor)"]` or from a group to its IDs.
   `val_out_of_domain` is the balanced set that the paper tests on.
2. What it calls unmixed (`MetaShift-Cat-Dog-indoor-outdoor`): `train/cat/cat(indoor)/ID.jpg`,
   `test/dog/dog(indoor)/ID.jpg` and so on. Each context of a class is in one of the folders
   only, so that the folders are no splits; new ones are drawn over all images. Their script for
   domain generalisation, and the full MetaShift (`cat/cat(sofa)/ID.jpg`), nest folders likewise.
3. The same with the table `metadata_metashift.csv` (`filename, y, a, split`) that SubpopBench
   (Yang et al., ICML 2023) makes of it, in the folder or beside it: its splits are taken.

The pickle of the first is opened by a reader that knows lists, dictionaries and text, and
nothing that could run.
"""

from __future__ import annotations

import collections
import pickle
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pandas as pd
from pydantic import Field

from gsr_core.data.inputs import ImageFiles
from gsr_core.data.source import GroupRule, Roles, Source, SplitRule
from gsr_core.errors import SourceError, TrustError
from gsr_core.readers.base import READER_CONFIG, Reader, settings
from gsr_core.readers.files import list_images, need_columns, need_folder, read_table
from gsr_core.readers.images import image_files

__all__ = ["MetaShift"]

GROUPS = "imageID_to_group.pkl"
TABLE = "metadata_metashift.csv"
UNMIXED = "MetaShift-Cat-Dog-indoor-outdoor"
MIXED = "MetaShift-subpopulation-shift"
SUBSET = re.compile(r"(?P<kind>[^()/]+)\((?P<context>[^()/]+)\)")
WORDS = {"train": "train", "val_out_of_domain": "test", "test": "test", "val": "validation"}


@settings(frozen=True, kw_only=True, config=READER_CONFIG)
class MetaShift(Reader):
    """MetaShift's subpopulation shift: cats and dogs, indoor and outdoor; 4 groups."""

    name: ClassVar[str] = "metashift"
    title: ClassVar[str] = "MetaShift cats and dogs"
    summary: ClassVar[str] = (
        "The folder that MetaShift's own script makes (train/cat/cat(indoor)/*.jpg, or "
        "train/cat/*.jpg with imageID_to_group.pkl), or SubpopBench's copy with its table."
    )
    path_help: ClassVar[str] = f"the folder above train, such as {UNMIXED}"

    classes: Annotated[
        str, Field(description="Classes to keep, by comma and in their order; all if empty.")
    ] = "cat, dog"
    contexts: Annotated[
        str, Field(description="Contexts to keep, by comma and in their order; all if empty.")
    ] = "indoor, outdoor"

    def read(self) -> Source:
        """Find the images and their contexts.

        Raises:
            SourceError: If the folder has none of the three layouts, or none of the classes or
                contexts.
            TrustError: If the pickle holds more than lists, dictionaries and text.
        """
        top = need_folder(self.location)
        below = [top / name for name in (UNMIXED, MIXED) if (top / name).is_dir()]
        folder = below[0] if len(below) == 1 else top
        tables = [each / TABLE for each in (folder, folder.parent) if (each / TABLE).is_file()]
        notes: tuple[str, ...] = ()
        column: str | None = "split"
        if tables:
            table, inputs, notes = _from_table(tables[0], folder)
        elif (folder / GROUPS).is_file() and not _is_nested(folder):
            table, notes = _read_mixed(folder)
            inputs = ImageFiles(folder, table["path"].to_numpy(object))
        else:
            table, notes = _read_unmixed(folder)
            inputs = ImageFiles(folder, table["path"].to_numpy(object))
            column = None
        rows, classes, contexts = self._select(table)
        return Source(
            table=table[rows].reset_index(drop=True),
            inputs=inputs.take(rows.to_numpy().nonzero()[0]),
            roles=Roles(
                label="class",
                sample_id="path",
                attributes=("context",),
                groups=GroupRule(columns=("context",)),
                split=SplitRule(column=column, words=WORDS if column else {}),
            ),
            origin="MetaShift (Liang and Zou 2022)",
            names={
                "class": {name: name for name in classes},
                "context": {name: name for name in contexts},
            },
            title="MetaShift: " + ", ".join(classes),
            notes=notes,
        )

    def _select(self, table: pd.DataFrame) -> tuple[pd.Series, list[str], list[str]]:
        """Return the mask of the rows to keep, and the wanted classes and contexts in order.

        Raises:
            SourceError: If one of them does not occur.
        """
        rows = pd.Series(True, index=table.index)
        orders = []
        for column, setting in (("class", self.classes), ("context", self.contexts)):
            values = sorted(table[column].dropna().unique())
            order = [name for each in setting.split(",") if (name := each.strip())] or values
            if lost := [name for name in order if name not in values]:
                raise SourceError(
                    f"there are no images of the {column} '{lost[0]}'; found "
                    f"{', '.join(values[:20])}: correct the setting "
                    f"{'classes' if column == 'class' else 'contexts'}, or leave it empty for all"
                )
            rows &= table[column].isin(order)
            orders.append(order)
        return rows, orders[0], orders[1]


def _is_nested(folder: Path) -> bool:
    return any(folder.glob("*/*/*(*)"))


def _read_unmixed(folder: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    rows = [row for path in list_images(folder) if (row := _row(path))]
    if not rows:
        entries = sorted(each.name for each in folder.iterdir())
        raise SourceError(
            f"{folder} has no images in folders such as train/cat/cat(indoor), nor {GROUPS} beside "
            f"train/cat; found {', '.join(entries[:8]) or 'nothing'}: give the folder above train"
        )
    table = pd.DataFrame(rows)
    notes = (
        "Each context of a class is in one folder of train and test only, so those are no splits; "
        "new ones are drawn over all images.",
    )
    if twice := int(table["path"].str.rsplit("/", n=1).str[-1].duplicated().sum()):
        notes += (f"{twice:,} images are there more than once, in several contexts or classes.",)
    return table, notes


def _row(path: str) -> dict[str, str] | None:
    """Return what the path says of an image in `.../class(context)/image`."""
    steps = path.split("/")
    subset = SUBSET.fullmatch(steps[-2]) if len(steps) > 1 else None
    return subset and {"path": path, "class": subset["kind"], "context": subset["context"]}


def _read_mixed(folder: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    contexts = _contexts(folder / GROUPS)
    rows = []
    for path in list_images(folder):
        steps = path.split("/")
        if len(steps) == 3 and steps[0] in WORDS:
            split, kind, file = steps
            context = contexts.get(file.rsplit(".", 1)[0], {}).get(kind)
            rows.append({"path": path, "split": split, "class": kind, "context": context})
    if not rows:
        raise SourceError(
            f"{folder} has {GROUPS}, but no images in folders such as train/cat; the script makes "
            "links to Visual Genome's images, which must be there too"
        )
    table = pd.DataFrame(rows)
    if not table["context"].notna().any():
        raise SourceError(
            f"{folder / GROUPS} names none of the {len(table):,} images below {folder}; it belongs "
            "to other images"
        )
    lost = table["context"].isna()
    notes: tuple[str, ...] = ()
    if lost.any():
        notes = (
            f"{int(lost.sum()):,} images without a context in {GROUPS} were left out (first: "
            f"{table['path'][lost].iloc[0]}).",
        )
    return table, notes


def _contexts(file: Path) -> dict[str, dict[str, str]]:
    """Return the context of each image by class.

    Raises:
        SourceError: If the pickle is damaged, or maps no images to groups.
        TrustError: If it holds more than lists, dictionaries and text.
    """
    try:
        with file.open("rb") as stream:
            groups = _Plain(stream).load()
    except TrustError:
        raise
    except Exception as error:  # A damaged pickle raises nearly anything.
        raise SourceError(
            f"{file} cannot be read ({type(error).__name__}: {error}); make it again"
        ) from error
    contexts: dict[str, dict[str, str]] = {}
    for key, values in groups.items() if isinstance(groups, dict) else ():
        for value in values if isinstance(values, list | tuple | set) else [values]:
            image, group = (value, key) if SUBSET.fullmatch(str(key)) else (key, value)
            if subset := SUBSET.fullmatch(str(group)):
                contexts.setdefault(str(image), {})[subset["kind"]] = subset["context"]
    if not contexts:
        raise SourceError(
            f"{file} does not map images to groups such as 'cat(indoor)'; make it again with "
            "MetaShift's script"
        )
    return contexts


class _Plain(pickle.Unpickler):
    """Reads a pickle of plain values and loads nothing else, so that no code can run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("builtins", "set"), ("__builtin__", "set"), ("builtins", "list")):
            return {"set": set, "list": list}[name]
        if (module, name) == ("collections", "defaultdict"):
            return collections.defaultdict
        raise TrustError(
            f"{GROUPS} would run {module}.{name}; MetaShift's own holds lists, dictionaries and "
            "text only: make it again from a source that you trust"
        )


def _from_table(file: Path, folder: Path) -> tuple[pd.DataFrame, ImageFiles, tuple[str, ...]]:
    listing = read_table(file)
    need_columns(listing, ["filename", "split"], file)
    rows = []
    for number, name in enumerate(listing["filename"].to_numpy(object).tolist()):
        # The table has the paths of the machine that it was made on; the last four steps are ours.
        row = _row("/".join(str(name).replace("\\", "/").split("/")[-4:]))
        if row is None:
            raise SourceError(
                f"file name '{name}' in row {number} of {file} is in no folder such as "
                "train/cat/cat(indoor); make the table again"
            )
        rows.append(row)
    table = pd.DataFrame(rows).assign(split=listing["split"])
    inputs, notes = image_files(folder, table["path"].tolist(), where=f"'filename' of {file.name}")
    return table, inputs, (*notes, f"Splits are those of {file.name}.")
