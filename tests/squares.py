"""Images of a bright square, narrow or wide, red or green, with a box around it."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gsr_core.data.bundle import Bundle
from gsr_core.features.backbones import SimConv1, save_checkpoint
from gsr_core.ingest.importing import import_data
from gsr_core.ingest.plan import make_plan
from gsr_core.workspace import Workspace

__all__ = ["COLOURS", "import_squares"]

COLOURS = ("red", "green")
_SIZE = 32


def import_squares(
    workspace: Workspace,
    folder: Path,
    counts: Mapping[str, int],
    *,
    agree: Mapping[str, float] | None = None,
    widths: tuple[int, int] = (8, 16),
    attributes: bool = True,
) -> tuple[Bundle, dict[str, str]]:
    """Import such images through an untrained SimConv-1 as the bundle `squares`.

    Args:
        workspace: Where.
        folder: For the images and the network.
        counts: Images of each split, the classes in turn.
        agree: Share of each split whose colour goes with the class; half if None.
        widths: Of the two classes.
        attributes: Whether the colour is a column that defines groups.

    Returns:
        The bundle, and the colour of each image by its file.
    """
    rng, rows = np.random.default_rng(0), []
    for split, count in counts.items():
        for n in range(count):
            y = n % 2
            share = 0.5 if agree is None else agree[split]
            # Half of them exactly, so that few images are enough.
            colour = n // 2 % 2 if share == 0.5 else y if rng.random() < share else 1 - y
            pixels = rng.integers(0, 60, (_SIZE, _SIZE, 3)).astype(np.uint8)
            left, top = rng.integers(0, _SIZE // 2, 2)
            pixels[top : top + 16, left : left + widths[y], colour] = 250
            name = f"{split}-{n}.png"
            Image.fromarray(pixels).save(folder / name)
            box = f"{left} {top} {left + widths[y]} {top + 16}"
            rows.append([name, ("narrow", "wide")[y], COLOURS[colour], split, box])
    head = ["path", "label", "colour", "split", "square"]
    kept = [place for place, name in enumerate(head) if attributes or name != "colour"]
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([each[place] for place in kept] for each in [head, *rows])
    torch.manual_seed(0)
    save_checkpoint(SimConv1(2), folder / "network.safetensors")
    plan = make_plan(
        name="squares",
        reader="images",
        settings={"path": str(folder)},
        roles={"attributes": ["colour"] if attributes else [], "split": {"heldout": 1.0}},
        backbone={"name": "simconv1", "checkpoint": str(folder / "network.safetensors")},
        extraction={"device": "cpu", "workers": 0},
    )
    return import_data(workspace, plan), {row[0]: row[2] for row in rows}
