"""Batches for training: rows in a given order, read, changed at random and collated by workers.

How a row is changed follows from the seed, the epoch and the row alone, so that it does not
depend on how many processes read, nor on where training was interrupted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from gsr_core.data.inputs import ImageArrays, Inputs, Numbers
from gsr_core.errors import InputError, SettingError, SourceError
from gsr_core.features.preprocessing import ImagePreprocessing, Preprocessing

__all__ = ["AS_IT_IS", "Batches", "automatic_workers", "to_device"]

AS_IT_IS = -1
"""Epoch without augmentation, in which rows are read to be scored."""

MAX_AUTOMATIC_WORKERS = 8
CROP_AREA = (0.7, 1.0)
"""Share of the area that a crop keeps, as in the group DRO release (Sagawa et al., ICLR 2020)."""
CROP_SHAPE = (3 / 4, 4 / 3)
"""Width by height of a crop, likewise."""


@dataclass(frozen=True)
class _Unreadable:
    name: str
    reason: str


class _Whole(tuple[Any, Tensor]):
    """A batch that needs no collation: inputs and labels (n,)."""

    __slots__ = ()


class _CropFlip:
    """A crop of part of the area, stretched to the network's size, mirrored every other time."""

    def __init__(self, preprocessing: ImagePreprocessing, seed: int) -> None:
        self.seed = seed
        self.stretched = preprocessing.model_copy(update={"resize": None, "fit": "both"})

    def prepare(self, image: np.ndarray, epoch: int, row: int) -> Tensor:
        """Return the network's input (3, size, size) of an image (H, W, 3)."""
        # Here, since pages import this module, and torchvision takes a second.
        from torchvision.transforms import RandomResizedCrop

        state = np.random.SeedSequence((self.seed, epoch, row)).generate_state(1, np.uint64)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(state[0]) >> 1)
            top, left, height, width = RandomResizedCrop.get_params(
                torch.empty(image.shape[:2], device="meta")[None], list(CROP_AREA), list(CROP_SHAPE)
            )
            mirrored = bool(torch.rand(()) < 0.5)
        crop = image[top : top + height, left : left + width]
        return self.stretched.prepare(np.ascontiguousarray(crop[:, ::-1] if mirrored else crop))


class _Samples(Dataset[Any]):
    def __init__(
        self,
        inputs: Inputs,
        labels: np.ndarray,
        preprocessing: Preprocessing,
        crop_flip: _CropFlip | None,
    ) -> None:
        self.inputs = inputs
        self.labels = labels
        self.preprocessing = preprocessing
        self.crop_flip = crop_flip

    def __getitem__(self, index: tuple[int, int]) -> tuple[Any, int] | _Unreadable:
        epoch, row = index
        try:
            item = self.inputs.load(row)
            if self.crop_flip is None or epoch == AS_IT_IS:
                prepared = self.preprocessing.prepare(item)
            else:
                prepared = self.crop_flip.prepare(item, epoch, row)
        except InputError as error:
            return _Unreadable(self.inputs.name(row), str(error))
        return prepared, int(self.labels[row])

    def __getitems__(self, indices: Sequence[tuple[int, int]]) -> Sequence[Any]:
        """Return the items of a batch; small images in memory together, as one."""
        whole = self._at_once(indices)
        return [self[index] for index in indices] if whole is None else whole

    def _at_once(self, indices: Sequence[tuple[int, int]]) -> _Whole | None:
        """Return a batch of images that lie in memory in the network's size, if they do."""
        epochs, rows = {epoch for epoch, _ in indices}, [row for _, row in indices]
        plain = self.crop_flip is None or epochs == {AS_IT_IS}
        if not (
            plain
            and isinstance(self.inputs, ImageArrays)
            and isinstance(self.preprocessing, ImagePreprocessing)
        ):
            return None
        prepared = self.preprocessing.prepare_as_they_are(self.inputs.images[rows])
        return None if prepared is None else _Whole((prepared, torch.tensor(self.labels[rows])))

    def collate(self, items: Sequence[tuple[Any, int] | _Unreadable]) -> Any:
        """Return a batch and its labels (n,), or what could not be read."""
        if isinstance(items, _Whole):
            return tuple(items)
        read = []
        for item in items:
            if isinstance(item, _Unreadable):
                return item
            read.append(item)
        prepared, labels = zip(*read, strict=True)
        return self.preprocessing.collate(prepared), torch.tensor(labels)


class _Order(Sampler[list[tuple[int, int]]]):
    """What to read next; replaced before each pass, while the workers stay."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, int]]] = []

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Batches:
    """Prepared batches of a data set, in any order asked for."""

    def __init__(
        self,
        inputs: Inputs,
        labels: np.ndarray,
        preprocessing: Preprocessing,
        *,
        workers: int,
        augment: str = "none",
        seed: int = 0,
        pin_memory: bool = False,
    ) -> None:
        """Start nothing yet; workers start with the first pass and stay.

        Args:
            inputs: Of all n samples.
            labels: (n,) int.
            preprocessing: Of the network.
            workers: Processes that read; 0 reads in this one.
            augment: `none` or `crop-flip`.
            seed: Of the augmentation.
            pin_memory: Put batches where a CUDA device fetches them fastest.

        Raises:
            SettingError: If the inputs cannot be augmented in this way.
        """
        crop_flip = None
        if augment == "crop-flip":
            if not isinstance(preprocessing, ImagePreprocessing):
                raise SettingError(
                    f"augment is crop-flip, but the inputs are {preprocessing.modality}; only "
                    "images can be cropped and mirrored: set augment to none"
                )
            crop_flip = _CropFlip(preprocessing, seed)
        samples = _Samples(inputs, labels, preprocessing, crop_flip)
        self._order = _Order()
        self._loader = DataLoader(
            samples,
            batch_sampler=self._order,
            num_workers=workers,
            collate_fn=samples.collate,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            # A generator of its own: the loader would otherwise draw from the state that dropout
            # uses.
            generator=torch.Generator(),
        )

    def read(
        self, batches: Sequence[np.ndarray], epoch: int = AS_IT_IS
    ) -> Iterator[tuple[Any, Tensor]]:
        """Yield each batch of rows, prepared and collated, with its labels (n,) int64.

        Args:
            batches: Rows of each batch.
            epoch: Which epoch it is, for augmentation; `AS_IT_IS` changes nothing.

        Raises:
            SourceError: If an input cannot be read.
        """
        self._order.batches = [[(epoch, int(row)) for row in rows] for rows in batches]
        for batch in self._loader:
            if isinstance(batch, _Unreadable):
                raise SourceError(
                    f"input '{batch.name}' cannot be read: {batch.reason}; mend it or leave its "
                    "row out of the table"
                )
            yield batch


def automatic_workers(inputs: Inputs, processes: int) -> int:
    """Return how many workers each of several processes should have.

    Args:
        inputs: What they read; what lies in memory needs none.
        processes: How many processes train on this machine.
    """
    if isinstance(inputs, ImageArrays | Numbers):
        return 0
    available = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(MAX_AUTOMATIC_WORKERS, max(0, available // processes - 1))


def to_device(batch: Any, device: torch.device) -> Any:
    """Return a batch, a tensor or tensors by name, on a device."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}
