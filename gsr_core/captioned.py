"""The second built-in example: coloured digits seen by a network that was trained on captions.

The images are those of the first (`readers.digits`). A small CLIP is trained on the rows of train
with captions of what is on them: digit, colour, both, or the class. Then the data are imported like
anyone's, with that network as the backbone, so that phrases find samples.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from gsr_core.data.bundle import Bundle
from gsr_core.data.bundle_writing import bundle_directory
from gsr_core.errors import SettingError
from gsr_core.features.dual_encoder import train_dual_encoder
from gsr_core.ingest.importing import import_data
from gsr_core.ingest.plan import BackboneChoice, ExtractionChoice, Plan, make_plan
from gsr_core.ingest.read import read
from gsr_core.progress import Report, silent
from gsr_core.workspace import Workspace

__all__ = ["DIGITS", "EPOCHS", "captioned_digits", "captions_of", "seed_of"]

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

EPOCHS = 20

_CLASS = ("a digit below five", "a digit above four")
_MAX_SEED = 2**32 - 1
_READER = "coloured-digits"
_NETWORK = "open_clip:local-dir:"


def captions_of(digit: int, colour: str) -> list[str]:
    """Return the captions that describe an image.

    Args:
        digit: 0 to 9.
        colour: A word.
    """
    name = DIGITS[digit]
    return [
        f"a photo of a {colour} {name}",
        f"a {colour} {name}",
        f"{colour}",
        f"a {colour} digit",
        f"{name}",
        f"a photo of a {name}",
        f"the digit {name}",
        _CLASS[digit >= 5],
    ]


def captioned_digits(
    workspace: Workspace,
    *,
    seed: int = 0,
    name: str = "captioned-digits",
    epochs: int = EPOCHS,
    overwrite: bool = False,
    progress: Report | None = None,
) -> Bundle:
    """Make the example: draw the images, train a small CLIP on captions of train, import.

    The network is kept in the workspace's `backbones`, where open_clip's `local-dir:` finds it, in
    a folder that is named by its training. It is trained once: the same one is taken again, and
    none is replaced, since other bundles may be of it.

    Args:
        workspace: Where to write.
        seed: Of the images and the training.
        name: Name of the bundle.
        epochs: Passes over the images of train.
        overwrite: Replace a bundle of that name.
        progress: Called with the fraction done and what is being done.

    Raises:
        BundleError: If the name is not allowed, or is taken and `overwrite` is false.
        SettingError: If the seed or the number of epochs is not allowed.
        MissingExtraError: If open_clip is not installed.
    """
    if not 0 <= seed <= _MAX_SEED:
        raise SettingError(f"seed is {seed}; allowed are 0 to {_MAX_SEED}")
    tell = progress or silent
    bundle_directory(workspace, name, overwrite=overwrite)
    # No bundle has a name with these signs, so that no import with --train writes there.
    folder = workspace.backbones / f"{_READER},captions,seed={seed},epochs={epochs}"
    plan = make_plan(
        name=name,
        title="Captioned digits",
        reader=_READER,
        settings={"seed": seed},
        backbone=BackboneChoice(name=f"{_NETWORK}{folder}"),
        # On one core of the CPU: the same seed gives the same features on every machine.
        extraction=ExtractionChoice(device="cpu", workers=0, precision="float32"),
    )
    if not folder.exists():
        tell(0.0, "Drawing coloured digits")
        # Another process may have ended the same training meanwhile.
        with suppress(FileExistsError):
            _train(plan, folder, epochs, lambda done, text: tell(0.02 + 0.83 * done, text))
    return import_data(
        workspace,
        plan,
        overwrite=overwrite,
        progress=lambda done, text: tell(0.85 + 0.15 * done, text),
    )


def seed_of(bundle: Bundle) -> int | None:
    """Return the seed that a bundle of this example was made with, None if it is not of it."""
    plan = (bundle.manifest.recipe or {}).get("plan") or {}
    network = (plan.get("backbone") or {}).get("name", "")
    ours = plan.get("reader") == _READER and network.startswith(_NETWORK)
    return int(plan["settings"].get("seed", 0)) if ours else None


def _train(plan: Plan, folder: Path, epochs: int, tell: Report) -> None:
    """Train the network on the train rows of a plan's images and write it."""
    source, _ = read(plan)
    table = source.table
    train = np.flatnonzero(table["split"] == "train")
    inputs = source.inputs
    train_dual_encoder(
        np.stack([inputs.load(int(row)) for row in train]),
        _captions(table.iloc[train]),
        folder,
        epochs=epochs,
        seed=plan.settings["seed"],
        progress=tell,
    )


def _captions(table: pd.DataFrame) -> list[list[str]]:
    return [
        captions_of(digit, colour)
        for digit, colour in zip(table["digit"], table["colour"], strict=True)
    ]
