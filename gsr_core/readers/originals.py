"""MNIST and CIFAR-10 from what a user has: the originals that the controlled sets are made of.

Either a folder that torchvision filled (`MNIST/raw/...`, `cifar-10-batches-py/...`), or MNIST as
Keras' `mnist.npz` and CIFAR-10 as a parquet file of encoded images. Nothing is unpickled before its
checksum is compared (torchvision does so for CIFAR-10's batches).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gsr_core.data.pixels import decode_image
from gsr_core.errors import InputError, SourceError

__all__ = ["CIFAR10_CLASSES", "Originals", "cifar10", "mnist", "subset"]

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)

MNIST_ARRAYS = {
    "x_train": "(n, 28, 28) uint8",
    "y_train": "(n,) whole numbers",
    "x_test": "(n, 28, 28) uint8",
    "y_test": "(n,) whole numbers",
}


@dataclass(frozen=True)
class Originals:
    """The images of MNIST or CIFAR-10, training part first.

    Attributes:
        labels: (n,) int64, from 0 to 9.
        in_test: (n,) bool, whether a row belongs to the official test part.
        load: Returns the images of some rows, uint8: (k, 28, 28) or (k, 32, 32, 3).
        origin: Where they came from, in words.
    """

    labels: np.ndarray
    in_test: np.ndarray
    load: Callable[[np.ndarray], np.ndarray]
    origin: str

    def ids(self, rows: np.ndarray) -> list[str]:
        """Return unique names of some rows: the official part and the place in it."""
        first = int((~self.in_test).sum())
        return [
            f"test-{row - first:05d}" if row >= first else f"train-{row:05d}"
            for row in rows.tolist()
        ]


def mnist(location: Path, *, download: bool) -> Originals:
    """Return MNIST.

    Args:
        location: `mnist.npz`, a folder that holds it, or a torchvision root.
        download: Let torchvision fetch it into that folder if it is not there.

    Raises:
        SourceError: If it is not there or damaged.
    """
    file = location / "mnist.npz" if location.is_dir() else location
    if file.is_file():
        arrays = _read_npz(file)
        images = np.concatenate([arrays["x_train"], arrays["x_test"]])
        labels = np.concatenate([arrays["y_train"], arrays["y_test"]]).astype(np.int64)
        n_train = len(arrays["y_train"])
    else:
        places = f"{location / 'mnist.npz'} and {location / 'MNIST' / 'raw'}"
        parts = [
            _torchvision("MNIST", location, train, download, places) for train in (True, False)
        ]
        for part, name in zip(parts, ("training", "test"), strict=True):
            if part.data.shape != (len(part.targets), 28, 28):
                raise SourceError(
                    f"the {name} part of MNIST in {location / 'MNIST' / 'raw'} has images of "
                    f"shape {tuple(part.data.shape)} and {len(part.targets)} labels; there must "
                    "be as many images of 28 x 28 pixels as labels: fetch it again"
                )
        images = np.concatenate([part.data.numpy() for part in parts])
        labels = np.concatenate([part.targets.numpy() for part in parts]).astype(np.int64)
        n_train = len(parts[0])
    _check_labels(labels, str(location))
    return Originals(labels, np.arange(len(labels)) >= n_train, images.__getitem__, "MNIST")


def cifar10(location: Path, *, download: bool) -> Originals:
    """Return CIFAR-10; images are decoded when they are asked for.

    Args:
        location: A parquet file with columns `image`, `label` and `split`, a folder that holds
            one named `cifar10.parquet`, or a torchvision root.
        download: Let torchvision fetch it into that folder if it is not there.

    Raises:
        SourceError: If it is not there or damaged.
    """
    file = location / "cifar10.parquet" if location.is_dir() else location
    if file.is_file():
        return _read_parquet(file)
    places = f"{location / 'cifar10.parquet'} and {location / 'cifar-10-batches-py'}"
    parts = [_torchvision("CIFAR10", location, train, download, places) for train in (True, False)]
    images = np.concatenate([part.data for part in parts])
    labels = np.concatenate([np.array(part.targets) for part in parts]).astype(np.int64)
    in_test = np.arange(len(labels)) >= len(parts[0])
    return Originals(labels, in_test, images.__getitem__, "CIFAR-10")


def subset(originals: Originals, limit: int, rng: np.random.Generator) -> np.ndarray:
    """Return the rows to use: all, or `limit` of them drawn at random, in row order.

    The official parts and the labels keep their shares.
    """
    n = len(originals.labels)
    if not 0 < limit < n:
        return np.arange(n)
    # Every n / limit-th row of the rows ordered by part and label.
    order = rng.permutation(n)
    order = order[np.lexsort((originals.labels[order], originals.in_test[order]))]
    return np.sort(order[np.linspace(0, n, limit, endpoint=False).astype(np.int64)])


def _read_npz(file: Path) -> dict[str, np.ndarray]:
    expected = "expected Keras' mnist.npz with " + ", ".join(
        f"{name} {what}" for name, what in MNIST_ARRAYS.items()
    )
    # A damaged archive raises nearly anything: from zipfile, zlib, the header's parser.
    try:
        # NumPy forgets to close a file that it opened and cannot read.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            missing = [name for name in MNIST_ARRAYS if name not in archive]
            if missing:
                raise SourceError(f"{file} has no array {missing[0]}; {expected}")
            arrays = {name: archive[name] for name in MNIST_ARRAYS}
    except SourceError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise SourceError(f"{file} cannot be read ({reason}); {expected}") from error
    for part in ("train", "test"):
        images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if images.dtype != np.uint8 or images.shape[1:] != (28, 28):
            raise SourceError(f"x_{part} of {file} is {images.shape} of {images.dtype}; {expected}")
        if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
            raise SourceError(f"y_{part} of {file} is {labels.shape} of {labels.dtype}; {expected}")
    return arrays


def _read_parquet(file: Path) -> Originals:
    expected = (
        "expected a parquet file with columns image (bytes of an image file), label (0 to 9) and "
        "split (train or test)"
    )
    try:
        table = pq.read_table(file)
    except (pa.ArrowInvalid, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise SourceError(f"{file} cannot be read ({reason}); {expected}") from error
    missing = [name for name in ("image", "label", "split") if name not in table.column_names]
    if missing:
        raise SourceError(
            f"{file} has no column {missing[0]}, but {', '.join(table.column_names)}; {expected}"
        )
    blobs = table["image"].combine_chunks()
    # Hugging Face's files keep the bytes beside the file's name.
    if pa.types.is_struct(blobs.type) and blobs.type.get_field_index("bytes") >= 0:
        blobs = blobs.field("bytes")
    if not (pa.types.is_binary(blobs.type) or pa.types.is_large_binary(blobs.type)):
        raise SourceError(f"column image of {file} has type {blobs.type}; {expected}")
    labels = table["label"].to_numpy()
    if labels.dtype.kind not in "iu":
        raise SourceError(f"column label of {file} has type {table['label'].type}; {expected}")
    parts = table["split"].to_numpy()
    if odd := sorted({str(part) for part in parts} - {"train", "test"}):
        raise SourceError(f"column split of {file} has the value '{odd[0]}'; {expected}")
    _check_labels(labels, str(file))
    order = np.argsort(parts == "test", kind="stable")

    def load(rows: np.ndarray) -> np.ndarray:
        images = np.empty((len(rows), 32, 32, 3), dtype=np.uint8)
        for place, row in enumerate(order[rows].tolist()):
            try:
                image = decode_image(io.BytesIO(blobs[row].as_py() or b""))
            except InputError as error:
                raise SourceError(f"image in row {row} of {file} cannot be read: {error}") from None
            if image.shape != (32, 32, 3):
                raise SourceError(
                    f"image in row {row} of {file} is {image.shape[1]} x {image.shape[0]} pixels; "
                    "CIFAR-10's are 32 x 32"
                )
            images[place] = image
        return images

    return Originals(labels[order].astype(np.int64), (parts == "test")[order], load, "CIFAR-10")


def _torchvision(kind: str, location: Path, train: bool, download: bool, places: str) -> Any:
    name = {"MNIST": "MNIST", "CIFAR10": "CIFAR-10"}[kind]
    if not download and location.suffix in (".npz", ".parquet"):
        raise SourceError(f"there is no file {location}; check the path")
    if download and (location.is_file() or location.suffix in (".npz", ".parquet")):
        raise SourceError(
            f"{location} is not a folder; to download {name}, give the folder to fill"
        )
    # Imported here because it takes seconds, and a file needs none of it.
    from torchvision import datasets

    try:
        with warnings.catch_warnings():
            # NumPy says so of the dtypes inside CIFAR-10's old pickles.
            warnings.filterwarnings("ignore", message=".*align should be passed")
            return getattr(datasets, kind)(str(location), train=train, download=download)
    except (RuntimeError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        if download:
            raise SourceError(
                f"{name} could not be downloaded into {location} ({reason}); fetch it on another "
                "machine with torchvision and copy the folder"
            ) from error
        raise SourceError(
            f"{name} was not found (whole) in {places}; check the path, or let torchvision fetch "
            "it with --set download=true"
        ) from error


def _check_labels(labels: np.ndarray, where: str) -> None:
    if not len(labels):
        raise SourceError(f"{where} has no images")
    if labels.min() < 0 or labels.max() > 9:
        bad = labels[(labels < 0) | (labels > 9)][0]
        raise SourceError(f"a label of {where} is {bad}; expected 0 to 9")
