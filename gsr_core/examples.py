"""The built-in example: real handwritten digits with a colour that misleads.

Nothing is downloaded: the 1,797 digits of 8 x 8 pixels come with scikit-learn (from Alpaydin and
Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998). The
class is whether the digit is at least 5. In training the colour agrees with it 92 times in 100,
so that a network trained plainly leans on colour and fails where the two disagree.
"""

from __future__ import annotations

import io
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from gsr_core.compute import threads_for
from gsr_core.data.bundle import Bundle
from gsr_core.data.bundle_writing import bundle_directory, write_bundle
from gsr_core.data.groups import class_by_attribute
from gsr_core.errors import SettingError
from gsr_core.features.backbones import load_backbone, load_network, save_checkpoint
from gsr_core.features.extract import extract
from gsr_core.features.presets import make_training
from gsr_core.features.training import train
from gsr_core.ingest.plan import BackboneChoice, Plan, TrainingChoice, make_plan
from gsr_core.ingest.read import read
from gsr_core.progress import Report
from gsr_core.readers.digits import CLASSES, COLOURS, CONFLICTING
from gsr_core.workspace import Workspace

__all__ = ["CONFLICTING", "MAX_SEED", "SOURCE", "coloured_digits", "settings_of", "source_text"]

MAX_SEED = 2**32 - 1

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
    plan = _plan(name, seed, conflicting)
    source, roles = read(plan)
    samples, images = source.table, source.inputs
    assert plan.training is not None

    device = torch.device("cpu")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = load_network(ARCHITECTURE, n_classes=len(CLASSES))
    with threads_for(0), TemporaryDirectory() as folder:
        train(
            network,
            images,
            samples["y"].to_numpy(),
            np.flatnonzero(samples["split"] == "train"),
            make_training(plan.training.preset, plan.training.settings),
            Path(folder),
            device=device,
            progress=lambda done, _: tell(
                0.05 + 0.8 * done,
                f"Training SimConv-1: epoch {min(int(done * EPOCHS) + 1, EPOCHS)} of {EPOCHS}",
            ),
        )
    checkpoint = workspace.backbones / f"{name}.safetensors"
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
        thumbnails=(_png(images.load(row)) for row in range(len(images))),
        backbone=backbone.facts,
        notes=source.notes,
        recipe={
            "plan": plan.model_dump(mode="json"),
            "roles": roles.model_dump(mode="json"),
            "preprocessing": backbone.preprocessing.model_dump(mode="json"),
            "network": {"name": ARCHITECTURE, "checkpoint": str(checkpoint)},
        },
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


def _plan(name: str, seed: int, conflicting: float) -> Plan:
    """Return the import that would make the same images and train the same kind of network."""
    settings = {
        "optimiser": "adam",
        "lr": LEARNING_RATE,
        "batch_size": BATCH_SIZE,
        "weight_decay": WEIGHT_DECAY,
        "epochs": EPOCHS,
        "workers": 0,
        "devices": 1,
        "seed": seed,
    }
    return make_plan(
        name=name,
        reader="coloured-digits",
        settings={"seed": seed, "conflicting": conflicting},
        backbone=BackboneChoice(name=ARCHITECTURE),
        training=TrainingChoice(preset="quick", settings=settings),
    )


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
