"""Data sets of WILDS, through its own package.

Koh et al., "WILDS: A Benchmark of in-the-Wild Distribution Shifts" (ICML 2021,
https://arxiv.org/abs/2012.07421). Whatever the package gives as a classification of images,
texts or rows of numbers is read; detection, regression, molecules and code are not.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
from PIL import Image
from pydantic import Field

from gsr_core.data.inputs import ImageFiles, Inputs, Numbers, Texts, escapes
from gsr_core.data.proposal import MAX_VALUES
from gsr_core.data.source import GroupRule, Roles, Source, SplitRule
from gsr_core.errors import InputError, SourceError
from gsr_core.extras import require
from gsr_core.readers.base import READER_CONFIG, Reader, settings
from gsr_core.readers.civilcomments import IDENTITIES
from gsr_core.readers.texts import empty_texts

__all__ = ["Wilds", "WildsImages"]

FOLDERS = ("", "img_align_celeba", "train")
"""Where the package's data sets keep the images that they list."""
OWN_READERS = {"waterbirds": "waterbirds", "celebA": "celeba", "civilcomments": "civilcomments"}
OTHER_KINDS = {
    "bdd100k": "several labels an image",
    "encode": "genome tracks",
    "globalwheat": "boxes in images",
    "ogb-molpcba": "molecules",
    "poverty": "regression",
    "py150": "code",
}
"""Data sets of the package that are not classifications with one label a sample."""
MEANINGS = {"train": "train", "val": "validation", "test": "test"}
LEFT_OUT = "none"


class WildsImages(Inputs):
    """Images that only the package itself can find."""

    modality = "image"

    def __init__(self, dataset: Any, rows: np.ndarray) -> None:
        """Keep the data set; no image is opened.

        Args:
            dataset: A `wilds.datasets.wilds_dataset.WILDSDataset`.
            rows: Its rows.
        """
        self.dataset = dataset
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def load(self, row: int) -> np.ndarray:
        """Return one image (H, W, 3) uint8.

        Raises:
            InputError: If it cannot be read.
        """
        try:
            return np.asarray(self.dataset.get_input(int(self.rows[row])).convert("RGB"))
        except Exception as error:
            raise InputError((str(error).splitlines() or [type(error).__name__])[0]) from error

    def name(self, row: int) -> str:
        """Return the row in the package's data set."""
        return f"row {self.rows[row]}"

    def take(self, rows: np.ndarray) -> WildsImages:
        """Return the images of some rows."""
        return WildsImages(self.dataset, self.rows[rows])

    def digest(self) -> str:
        """Return the digest of the release's name, labels and metadata, not of the files."""
        digest = hashlib.sha256(f"{self.dataset.dataset_name} {self.dataset.version}".encode())
        for array in (self.rows, self.dataset.y_array, self.dataset.metadata_array):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


@settings(frozen=True, kw_only=True, config=READER_CONFIG)
class Wilds(Reader):
    """A data set of the `wilds` package, with the package's own fields and splits."""

    name: ClassVar[str] = "wilds"
    title: ClassVar[str] = "WILDS"
    summary: ClassVar[str] = (
        "A classification data set of the wilds package (waterbirds, celebA, civilcomments, "
        "camelyon17, ...), from a folder such as waterbirds_v1.0."
    )
    path_help: ClassVar[str] = "its name, such as waterbirds, or its folder NAME_vVERSION"
    extra: ClassVar[str] = "wilds"

    root: Annotated[
        str, Field(description="Folder that has the data sets' folders, where path is a name.")
    ] = "data"
    download: Annotated[
        bool, Field(description="Download it if it is not there; some are hundreds of gigabytes.")
    ] = False

    def read(self) -> Source:
        """Read the labels, fields and splits through the package.

        Raises:
            SourceError: If there is no such data set, it is not there, or it is no classification.
            MissingExtraError: If the package is not installed.
        """
        wilds = require("wilds", self.extra)
        name, version, root = self._place(tuple(wilds.supported_datasets))
        dataset = self._open(wilds, name, version, root)
        inputs, notes = _inputs(dataset)
        table, names = _table(dataset)
        left_out = sorted(set(table["split"]) - set(MEANINGS))
        for word in left_out:
            count = int((table["split"] == word).sum())
            notes += (
                f"{count:,} rows of {name}'s split '{word}' are left out, as WILDS measures on val "
                "and test.",
            )
        fields = [each for each in dataset.metadata_fields if each in table]
        fields = [each for each in fields if each not in ("y", "from_source_domain")]
        return Source(
            table=table,
            inputs=inputs,
            roles=Roles(
                label="y",
                attributes=tuple(fields),
                groups=_groups(dataset, table, fields),
                split=SplitRule(
                    column="split", words={**MEANINGS, **dict.fromkeys(left_out, LEFT_OUT)}
                ),
            ),
            origin=f"{name} {dataset.version} of WILDS",
            names=names,
            title=f"{name} (WILDS)",
            notes=notes,
        )

    def _place(self, known: tuple[str, ...]) -> tuple[str, str | None, Path]:
        """Return the data set's name, its version if stated, and the folder above its folder.

        Raises:
            SourceError: If the package has no such data set, or the folder is not there.
        """
        location, root, version = self.location, Path(self.root).expanduser(), None
        name = location.name
        if match := re.fullmatch(r"(.+)_v(\d+\.\d+)", name):
            name, version = match.groups()
            # A whole path counts from here, a mere folder's name from the root if it is there.
            root = location.parent if location.is_dir() or str(location) != location.name else root
        if name not in known:
            raise SourceError(
                f"WILDS has no data set '{name}'; it has {', '.join(known)}: give one of these "
                "names, or its folder such as waterbirds_v1.0"
            )
        if name in OTHER_KINDS:
            fit = ", ".join(each for each in known if each not in OTHER_KINDS)
            raise SourceError(
                f"{name} of WILDS is not a classification with one label a sample "
                f"({OTHER_KINDS[name]}); those that are: {fit}"
            )
        # The package would make the folder.
        if not root.is_dir() and not self.download:
            raise SourceError(
                f"there is no folder {root} to look for {name} in; set root to the folder that "
                f"has {name}_v1.0, or download to yes"
            )
        return name, version, root

    def _open(self, wilds: Any, name: str, version: str | None, root: Path) -> Any:
        try:
            with _text_as_objects(), warnings.catch_warnings():
                # Its own measures, which are not used, see groups without rows.
                warnings.filterwarnings("ignore", message="Minimum metadata value for")
                # It only reads the columns that pandas 3 protects.
                warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
                return wilds.get_dataset(
                    name, version=version, root_dir=str(root), download=self.download
                )
        except FileNotFoundError as error:
            if self.download or "download=True" not in str(error):
                raise SourceError(
                    f"{name} in {root} is not whole ({error}); get it again"
                ) from error
            folder = root / f"{name}_v{version or '1.0'}"
            raise SourceError(
                f"{name} is not in {root}: expected {folder} with "
                "its RELEASE file; put it there, set root to where it is, or set download to yes"
            ) from error
        except (ImportError, ModuleNotFoundError) as error:
            raise SourceError(
                f"{name} needs a further package ({error}); install it beside wilds"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            own = OWN_READERS.get(name)
            raise SourceError(
                f"the wilds package {wilds.__version__} with pandas {pd.__version__} cannot read "
                f"{name} in {root} ({type(error).__name__}: {str(error)[:200]}); check that the "
                "folder is the unchanged release"
                + (f", or use the reader {own}, which does not need the package" if own else "")
            ) from error


@contextmanager
def _text_as_objects() -> Iterator[None]:
    """Let wilds 2.0 put numbers into columns of text, which pandas 3 forbids otherwise."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*future.infer_string.*")
        try:
            context = pd.option_context("future.infer_string", False)
            context.__enter__()
        except (KeyError, AttributeError):
            # A pandas without the option.
            context = None
    try:
        yield
    finally:
        if context is not None:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*future.infer_string.*")
                context.__exit__(None, None, None)


def _inputs(dataset: Any) -> tuple[Inputs, tuple[str, ...]]:
    """Return the inputs and notes on them.

    Raises:
        SourceError: If they are of a kind that no backbone here reads.
    """
    n = len(dataset)
    if not n:
        raise SourceError(f"{dataset.dataset_name} of WILDS has no rows; there is nothing to read")
    paths = getattr(dataset, "_input_array", None)
    if paths is None:
        paths = getattr(dataset, "_input_image_paths", None)
    folder = Path(dataset.data_dir)
    if paths is not None and len(paths) == n and isinstance(paths[0], str):
        for inside in FOLDERS:
            if not escapes(paths[0]) and (folder / inside / paths[0]).is_file():
                return ImageFiles(folder / inside, list(paths)), ()
    try:
        first = dataset.get_input(0)
    except OSError as error:
        raise SourceError(
            f"the first image of {dataset.dataset_name} cannot be opened ({error}); check that "
            f"{folder} is the whole release"
        ) from error
    if isinstance(first, Image.Image):
        return WildsImages(dataset, np.arange(n)), ()
    if isinstance(first, str) or (isinstance(first, float) and np.isnan(first)):
        values = [dataset.get_input(row) for row in range(n)]
        texts = np.array([v if isinstance(v, str) else None for v in values], dtype=object)
        return Texts(texts), empty_texts([texts])
    if getattr(first, "ndim", None) == 1:
        rows = [np.asarray(dataset.get_input(row), dtype=np.float32) for row in range(n)]
        return Numbers(np.stack(rows)), ()
    raise SourceError(
        f"{dataset.dataset_name} of WILDS gives inputs of type {type(first).__name__}; images, "
        "texts and rows of numbers can be read"
    )


def _table(dataset: Any) -> tuple[pd.DataFrame, dict[str, dict[int, str]]]:
    """Return fields, label and split as columns, and the names of their values."""
    metadata = np.asarray(dataset.metadata_array)
    if metadata.dtype.kind == "f" and (metadata == np.trunc(metadata)).all():
        metadata = metadata.astype(np.int64)
    table = pd.DataFrame(metadata, columns=list(dataset.metadata_fields))
    table["y"] = np.asarray(dataset.y_array).reshape(-1).astype(np.int64)
    words = {number: word for word, number in dataset.split_dict.items()}
    table["split"] = [words.get(int(number), LEFT_OUT) for number in dataset.split_array]
    names = {
        field: {code: str(value).strip() for code, value in enumerate(values)}
        for field, values in (dataset.metadata_map or {}).items()
        if field in table and field != "from_source_domain"
    }
    if dataset.dataset_name == "civilcomments":
        names["y"] = {0: "non-toxic", 1: "toxic"}
    return table.drop(columns="from_source_domain", errors="ignore"), names


def _groups(dataset: Any, table: pd.DataFrame, fields: list[str]) -> GroupRule:
    """Return the groups on which WILDS measures, where there are few enough of them."""
    if dataset.dataset_name == "civilcomments":
        return GroupRule(kind="overlapping", columns=IDENTITIES)
    grouper = getattr(dataset, "_eval_grouper", None)
    eval_fields = [str(each) for each in getattr(grouper, "groupby_fields", None) or ()]
    columns = [each for each in eval_fields if each in fields]
    few = [each for each in fields if 2 <= table[each].nunique() <= MAX_VALUES]
    if columns and set(columns) <= set(few):
        return GroupRule(columns=tuple(columns), with_class="y" in eval_fields)
    return GroupRule(columns=tuple(few[:1]))
