"""The built-in example: real handwritten digits with a colour that misleads.

Nothing is downloaded: the 1,797 digits of 8 x 8 pixels come with scikit-learn (from Alpaydin and
Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998). The
class is whether the digit is at least 5. In training the colour agrees with it 92 times in 100,
so that a network trained plainly leans on colour and fails where the two disagree.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torchvision.transforms.v2 import functional

from gsr_core.compute import threads_for
from gsr_core.data.bundle import SPLITS, Bundle
from gsr_core.data.bundle_writing import bundle_directory, write_bundle
from gsr_core.data.groups import class_by_attribute
from gsr_core.data.inputs import ImageArrays
from gsr_core.errors import SettingError
from gsr_core.features.backbones import load_backbone, load_network, save_checkpoint
from gsr_core.features.extract import extract
from gsr_core.features.presets import Training
from gsr_core.features.training import train
from gsr_core.progress import Report
from gsr_core.workspace import Workspace

__all__ = ["CONFLICTING", "MAX_SEED", "SOURCE", "coloured_digits", "settings_of", "source_text"]

MAX_SEED = 2**32 - 1

CLASSES = ("digit 0-4", "digit 5-9")
COLOURS = ("red", "green")
IMAGE_SIZE = 32
MAX_SHIFT = 2
"""Pixels, in each direction."""
BRIGHTNESS = (0.75, 1.0)
"""Range of the brightest pixel of an image."""

N_TARGET = N_VAL = 300
TRAINING_SHARE = 0.45
"""Of the source images, train and heldout together; test takes what target and val leave."""
HELDOUT_SHARE = 0.2
DRAWS = 4
"""Training images made of each source image; target, val and test have one."""
CONFLICTING = 0.08
"""Share of train and heldout in the other class's colour; of the other splits it is one half."""
TRAINED = ("train", "heldout")

ARCHITECTURE = "simconv1"
EPOCHS = 5
LEARNING_RATE = 2e-3
BATCH_SIZE = 64
WEIGHT_DECAY = 0.0

SOURCE = (
    "1,797 handwritten digits of scikit-learn (UCI Optical Recognition of Handwritten Digits), "
    "upscaled to 32 x 32 pixels, shifted and coloured; seed {seed}"
)
"""The source that a bundle of the example states; another share is added to it."""
NOTES = (
    "The colour agrees with the class for {agreeing:g} % of train and heldout and for 50 % of "
    "target, val and test.",
    "Splits were made by source image before shifting and colouring: no digit of heldout, "
    "target, val or test was seen by the backbone in any form, and no two splits share one.",
    "Train and heldout hold each source image 4 times, each time with a new shift and colour.",
)


@dataclass(frozen=True)
class _Draws:
    """The coloured images, split by split, and what is known about each."""

    images: np.ndarray
    samples: pd.DataFrame


def coloured_digits(
    workspace: Workspace,
    *,
    seed: int = 0,
    name: str = "coloured-digits",
    conflicting: float = CONFLICTING,
    overwrite: bool = False,
    progress: Report | None = None,
) -> Bundle:
    """Make the example: draw the images, train SimConv-1 plainly, extract, write the bundle.

    The trained network is kept as `backbones/<name>.safetensors` in the workspace and is loaded
    back like anyone else's. Everything runs on one core of the CPU, so that the same seed gives
    the same bundle whatever devices a machine has.

    Args:
        workspace: Where to write.
        seed: Of the split, the drawing, the network's start and its training.
        name: Name of the bundle.
        conflicting: Share of train and heldout in the other class's colour, exact to the image.
        overwrite: Replace a bundle of that name.
        progress: Called with the fraction done and what is being done.

    Raises:
        BundleError: If the name is not allowed, or is taken and `overwrite` is false.
        SettingError: If the seed is not one of 0 to `MAX_SEED`, or the share not above 0 and below
            1.
    """
    if not 0 < conflicting < 1:
        raise SettingError(f"conflicting is {conflicting}; allowed are shares above 0 and below 1")
    if not 0 <= seed <= MAX_SEED:
        raise SettingError(f"seed is {seed}; allowed are 0 to {MAX_SEED}")
    directory = bundle_directory(workspace, name, overwrite=overwrite)

    def tell(fraction: float, sentence: str) -> None:
        if progress is not None:
            progress(fraction, sentence)

    tell(0.0, "Drawing coloured digits")
    draws = _draw(seed, conflicting)
    samples = draws.samples

    device = torch.device("cpu")
    images = ImageArrays(draws.images.transpose(0, 2, 3, 1))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = load_network(ARCHITECTURE, n_classes=len(CLASSES))
    with threads_for(0), TemporaryDirectory() as folder:
        train(
            network,
            images,
            samples["y"].to_numpy(),
            np.flatnonzero(samples["split"] == "train"),
            Training(
                optimiser="adam",
                lr=LEARNING_RATE,
                batch_size=BATCH_SIZE,
                weight_decay=WEIGHT_DECAY,
                epochs=EPOCHS,
                workers=0,
                devices=1,
                seed=seed,
            ),
            Path(folder),
            device=device,
            progress=lambda done, _: tell(
                0.05 + 0.8 * done,
                f"Training SimConv-1: epoch {min(int(done * EPOCHS) + 1, EPOCHS)} of {EPOCHS}",
            ),
        )
    checkpoint = workspace.root / "backbones" / f"{name}.safetensors"
    training = f"plain ERM on train: Adam, {EPOCHS} epochs, learning rate {LEARNING_RATE:g}"
    save_checkpoint(network.module, checkpoint, training=training)

    backbone = load_backbone(ARCHITECTURE, checkpoint)
    with threads_for(0):
        features = extract(
            backbone,
            images,
            device=device,
            workers=0,
            progress=lambda now: tell(0.85 + 0.1 * now.done / now.total, "Extracting features"),
        ).features
    tell(0.95, "Writing the bundle")
    groups, membership = class_by_attribute(
        samples,
        "colour",
        [label.removeprefix("digit ") for label in CLASSES],
        dict(zip(COLOURS, COLOURS, strict=True)),
    )
    bundle = write_bundle(
        directory,
        samples=samples,
        membership=membership,
        groups=groups,
        classes=CLASSES,
        features=features,
        source=source_text(seed, conflicting),
        title="Coloured digits",
        head=backbone.head,
        thumbnails=map(_png, draws.images),
        backbone=backbone.facts,
        notes=[text.format(agreeing=100 * (1 - conflicting)) for text in NOTES],
        overwrite=overwrite,
    )
    tell(1.0, "Done")
    return bundle


def source_text(seed: int, conflicting: float = CONFLICTING) -> str:
    """Return the source that a bundle of the example states."""
    more = "" if conflicting == CONFLICTING else f", conflicting {conflicting:g}"
    return SOURCE.format(seed=seed) + more


def settings_of(bundle: Bundle) -> tuple[int, float] | None:
    """Return the seed and the conflicting share that a bundle of the example was made with.

    Returns:
        None if the bundle is not of the example.
    """
    before = SOURCE.partition("{seed}")[0]
    if not bundle.manifest.source.startswith(before):
        return None
    seed, _, share = bundle.manifest.source.removeprefix(before).partition(", conflicting ")
    return int(seed), float(share) if share else CONFLICTING


def _draw(seed: int, conflicting: float) -> _Draws:
    rng = np.random.default_rng(seed)
    pixels, digits = map(np.asarray, load_digits(return_X_y=True))
    small = torch.from_numpy(pixels.reshape(-1, 1, 8, 8) / 16).float()
    grey = functional.resize(small, [IMAGE_SIZE, IMAGE_SIZE], antialias=True)[:, 0].numpy()

    images, tables = [], []
    for split, sources in _split_sources(digits, seed).items():
        draws = DRAWS if split in TRAINED else 1
        source = np.repeat(sources, draws)
        y = (digits[source] >= 5).astype(np.int64)
        agrees = _exact_share(y, 1 - (conflicting if split in TRAINED else 0.5), rng)
        colour = np.where(agrees, y, 1 - y)
        images.append(_paint(_shift(grey[source], rng), colour, rng))
        table = pd.DataFrame(
            {
                "split": split,
                "y": y,
                "colour": np.array(COLOURS)[colour],
                "digit": digits[source],
                "source": source,
            }
        )
        draw = np.tile(np.arange(draws), len(sources))
        table.insert(
            0,
            "sample_id",
            [f"{split}-{s:04d}-{k}" for s, k in zip(source, draw, strict=True)],
        )
        tables.append(table)
    return _Draws(np.concatenate(images), pd.concat(tables, ignore_index=True))


def _split_sources(digits: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Return the positions of each split's source images, stratified by digit."""

    def part(rows: np.ndarray, size: float | int) -> tuple[np.ndarray, np.ndarray]:
        first, rest = train_test_split(
            rows, train_size=size, stratify=digits[rows], random_state=seed
        )
        return np.sort(first), np.sort(rest)

    pool, rest = part(np.arange(len(digits)), TRAINING_SHARE)
    heldout, train = part(pool, HELDOUT_SHARE)
    target, rest = part(rest, N_TARGET)
    val, test = part(rest, N_VAL)
    parts = {"train": train, "heldout": heldout, "target": target, "val": val, "test": test}
    return {split: parts[split] for split in SPLITS}


def _exact_share(y: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Return (n,) bool, true for this share of each class: to the row, not only on average."""
    mask = np.zeros(len(y), bool)
    for label in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == label))
        mask[rows[: round(share * len(rows))]] = True
    return mask


def _shift(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Move each image (n, H, W) by up to `MAX_SHIFT` pixels; pixels that move in are black."""
    n, size = len(grey), grey.shape[1]
    padded = np.zeros((n, size + 2 * MAX_SHIFT, size + 2 * MAX_SHIFT), grey.dtype)
    padded[:, MAX_SHIFT : MAX_SHIFT + size, MAX_SHIFT : MAX_SHIFT + size] = grey
    down, right = rng.integers(0, 2 * MAX_SHIFT + 1, size=(2, n))
    pixel = np.arange(size)
    return padded[
        np.arange(n)[:, None, None],
        (down[:, None] + pixel)[:, :, None],
        (right[:, None] + pixel)[:, None, :],
    ]


def _paint(grey: np.ndarray, colour: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Colour each image (n, H, W) in its own shade of red (0) or green (1): (n, 3, H, W) uint8."""
    n = len(grey)
    shade = np.zeros((n, 3))
    shade[np.arange(n), colour] = rng.uniform(*BRIGHTNESS, size=n)
    return np.round(255 * grey[:, None] * shade[:, :, None, None]).astype(np.uint8)


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(buffer, "PNG")
    return buffer.getvalue()
