"""Draw a small data set in the layout of Waterbirds, to try an import without a download.

    python examples/make_birds.py FOLDER [--images 1200] [--size 96] [--seed 0]

Writes `metadata.csv` (img_id, img_filename, y, split, place, place_filename) and PNG files, one
folder a species as in the original. Waterbirds have long necks and legs, landbirds are round; the
background is a wood or a sea. In train 95 % of each class stand before their own background, in
validation and test half of them do. Nothing in it is real; the files and columns are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFilter

SHARES = {0: 0.6, 1: 0.2, 2: 0.2}
"""Of train (0), validation (1) and test (2)."""
AGREEMENT = {0: 0.95, 1: 0.5, 2: 0.5}
SPECIES = ("001.Roundbird", "002.Longneck")


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=1200)
    parser.add_argument("--size", type=int, default=96, help="pixels a side")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    make_birds(arguments.folder, arguments.images, arguments.size, arguments.seed)
    print(f"{arguments.folder}: metadata.csv and {arguments.images} images")


def make_birds(folder: Path, images: int = 1200, size: int = 96, seed: int = 0) -> pd.DataFrame:
    """Write the folder; return its metadata.

    Args:
        folder: Where; made if missing.
        images: Number of images.
        size: Height and width, in pixels.
        seed: Of everything drawn.
    """
    draw = np.random.default_rng(seed)
    rows = []
    for split, share in SHARES.items():
        count = round(images * share)
        y = np.arange(count) % 2
        agrees = np.zeros(count, bool)
        for label in (0, 1):
            inside = draw.permutation(np.flatnonzero(y == label))
            agrees[inside[: round(AGREEMENT[split] * len(inside))]] = True
        place = np.where(agrees, y, 1 - y)
        rows += [(int(a), split, int(b)) for a, b in zip(y, place, strict=True)]
    table = []
    for number in draw.permutation(len(rows)):
        y, split, place = rows[number]
        name = f"{SPECIES[y]}/{SPECIES[y][4:]}_{number:04d}.png"
        table.append((len(table) + 1, name, y, split, place, f"/{('forest', 'ocean')[place]}.png"))
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        _paint(y, place, size, draw).save(file)
    columns = ["img_id", "img_filename", "y", "split", "place", "place_filename"]
    metadata = pd.DataFrame(table, columns=columns)
    metadata.to_csv(folder / "metadata.csv", index=False)
    return metadata


def _paint(y: int, place: int, size: int, draw: np.random.Generator) -> Image.Image:
    image = _background(place, size, draw)
    pen = ImageDraw.Draw(image)
    grey = int(draw.integers(20, 235))
    colour = tuple(int(np.clip(grey + draw.normal(0, 12), 0, 255)) for _ in range(3))
    x, top = draw.uniform(0.3, 0.6) * size, draw.uniform(0.4, 0.6) * size
    unit = draw.uniform(0.1, 0.15) * size
    pen.ellipse((x - 1.5 * unit, top - unit, x + 1.5 * unit, top + unit), fill=colour)
    neck = 1.8 * unit if y else 0.6 * unit
    head = (x + 1.3 * unit, top - 0.6 * unit - neck)
    pen.line((x + unit, top - 0.3 * unit, *head), fill=colour, width=max(int(0.35 * unit), 1))
    radius = 0.35 * unit if y else 0.75 * unit
    pen.ellipse((head[0] - radius, head[1] - radius, head[0] + radius, head[1] + radius), colour)
    beak = 1.1 * unit if y else 0.4 * unit
    tip = (head[0] + radius + beak, head[1] + 0.1 * unit)
    pen.polygon([(head[0], head[1] - radius / 2), (head[0], head[1] + radius / 2), tip], colour)
    leg = (2.2 if y else 0.8) * unit
    for shift in (-0.5, 0.4):
        foot = x + shift * unit
        pen.line((foot, top + 0.8 * unit, foot, top + 0.8 * unit + leg), fill=colour, width=2)
    return image


def _background(place: int, size: int, draw: np.random.Generator) -> Image.Image:
    base = np.array([(60, 110, 50), (50, 90, 160)][place], float)
    base = base + draw.normal(0, 18, 3)
    noise = draw.normal(0, 40, (size, size, 1))
    if place:  # Waves are horizontal, trees are not.
        noise = noise.mean(axis=1, keepdims=True) * 3 + 0.4 * noise
    else:
        noise = noise.mean(axis=0, keepdims=True) * 3 + 0.4 * noise
    pixels = np.clip(base + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(size / 96))


if __name__ == "__main__":
    main()
