"""Folders of images whose names are the classes, as torchvision's `ImageFolder` has them.

`class/image`, or `split/class/image` with split folders such as `train`, `val` and `test`. A
class folder may have folders of its own; their names become the attribute `folder`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import ClassVar

import pandas as pd

from gsr_core.data.inputs import ImageFiles
from gsr_core.data.proposal import MAX_VALUES
from gsr_core.data.source import GroupRule, Roles, Source, SplitRule
from gsr_core.data.splits import WORDS
from gsr_core.errors import SourceError
from gsr_core.readers.base import READER_CONFIG, Reader, settings
from gsr_core.readers.files import IMAGE_SUFFIXES, list_images, need_folder

__all__ = ["ImageFolder"]

SPLIT_FOLDERS = frozenset(
    word
    for word, meaning in WORDS.items()
    if meaning in ("train", "validation", "test", "heldout") and not word.isdigit()
)


@settings(frozen=True, kw_only=True, config=READER_CONFIG)
class ImageFolder(Reader):
    """Images in a folder for each class, with or without a folder for each split above."""

    name: ClassVar[str] = "imagefolder"
    title: ClassVar[str] = "Folders named after classes"
    summary: ClassVar[str] = (
        "torchvision's ImageFolder: class/image.jpg, or train/class/image.jpg with val and test "
        "folders beside."
    )
    path_help: ClassVar[str] = "the folder above the class or split folders"

    def read(self) -> Source:
        """List the images.

        Raises:
            SourceError: If there are no class folders with images, or fewer than two of them.
        """
        folder = need_folder(self.location)
        steps = [path.split("/") for path in list_images(folder)]
        if not steps:
            raise SourceError(
                f"{folder} has no images; expected class folders with files that end in "
                f"{', '.join(IMAGE_SUFFIXES)}"
            )
        splits = _split_folders(steps)
        depth = 2 if splits else 1
        images = [each for each in steps if len(each) > depth and (not splits or each[0] in splits)]
        notes = _notes(folder, steps, images, splits)
        table = pd.DataFrame(
            {
                "path": ["/".join(each) for each in images],
                "class": [each[depth - 1] for each in images],
                "folder": ["/".join(each[depth:-1]) for each in images],
            }
        )
        if splits:
            table["split"] = [each[0] for each in images]
        classes = sorted(table["class"].unique())
        if len(classes) < 2:
            raise SourceError(
                f"{folder} has {_classes(classes)}; expected a folder of images for each of two "
                "classes or more, or such folders below train, val and test"
            )
        attributes = ("folder",) if 2 <= table["folder"].nunique() <= MAX_VALUES else ()
        if not attributes:
            table = table.drop(columns="folder")
            notes += ("There are no attributes in folders of classes: the classes are the groups.",)
        return Source(
            table=table,
            inputs=ImageFiles(folder, table["path"].to_numpy(object)),
            roles=Roles(
                label="class",
                sample_id="path",
                attributes=attributes,
                groups=GroupRule(columns=attributes),
                split=SplitRule(column="split" if splits else None),
            ),
            origin=f"class folders of {folder.name}",
            # Folders called 0 to 9 are classes "0" to "9", not "class 0"; others need no names.
            names={"class": {name: name for name in classes}}
            if any(name.isdigit() for name in classes)
            else {},
            notes=notes,
        )


def _split_folders(steps: list[list[str]]) -> set[str]:
    """Return the top folders that are splits: by their names, and with folders instead of images.

    A class may be called "train"; then its images are in it.
    """
    candidates = {each[0] for each in steps if len(each) > 1 and each[0].lower() in SPLIT_FOLDERS}
    return candidates - {each[0] for each in steps if len(each) == 2}


def _notes(
    folder: Path, steps: list[list[str]], images: list[list[str]], splits: set[str]
) -> tuple[str, ...]:
    notes: tuple[str, ...] = ()
    if lost := len(steps) - len(images):
        places = Counter(each[0] if len(each) > 1 else "." for each in steps)
        outside = sorted(set(places) - (splits or {each[0] for each in images}))
        where = f" (in {', '.join(outside[:5])})" if outside else ""
        notes += (f"{lost:,} images in no class folder were left out{where}.",)
    tops = [folder / split for split in sorted(splits)] or [folder]
    full = {tuple(each[: 2 if splits else 1]) for each in images}
    empty = [
        each.relative_to(folder).as_posix()
        for top in tops
        for each in sorted(top.iterdir())
        if each.is_dir()
        and not each.name.startswith(".")
        and each.relative_to(folder).parts not in full
    ]
    if empty:
        notes += (f"Folders without images: {', '.join(empty[:5])}.",)
    return notes


def _classes(classes: list[str]) -> str:
    return f"one class folder, '{classes[0]}'" if classes else "no class folders with images"
