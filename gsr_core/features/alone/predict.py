"""Classify with the network beside this file.

    python predict.py photo.jpg another.png    images
    python predict.py texts.txt                texts, one a line; a pair has a tab in between
    python predict.py rows.npy                 rows of numbers (n, d)

It prints one line a row: which input it is, what it is taken for, and the probability of each
class. `network.py` opens the network and says what it needs; this file needs numpy, Pillow for
images, and transformers for the tokens of texts. `about.json` has the classes and how inputs are
prepared.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["about", "main", "outputs", "probabilities"]

HERE = Path(__file__).parent


def about() -> dict[str, Any]:
    """Return what the network is about: classes, preprocessing and what it gives."""
    return json.loads((HERE / "about.json").read_text())


def outputs(network: Callable[[Any], Any], inputs: list[Any]) -> np.ndarray:
    """Return what the network gives (n, K).

    Args:
        network: As `load` of network.py gives it.
        inputs: Images (H, W, 3) uint8, texts or pairs of texts, or rows of numbers.
    """
    known = about()
    fixed = known["batch_size"]
    parts = []
    for start in range(0, len(inputs), fixed or 32):
        some = inputs[start : start + (fixed or 32)]
        # Some programs take batches of one size alone.
        full = some + some[-1:] * (fixed - len(some) if fixed else 0)
        parts.append(_rows(network(_prepared(full, known)), len(full))[: len(some)])
    return np.concatenate(parts)


def probabilities(given: np.ndarray) -> np.ndarray:
    """Return the probabilities of the classes (n, K) for what the network gives."""
    what = about()["gives"]
    if what == "probabilities":
        return given
    odds = np.exp(given - given.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def _rows(output: Any, n: int) -> np.ndarray:
    """Return the logits, or the first of several outputs, as (n, K)."""
    if isinstance(output, Mapping):
        output = output.get("logits", next(iter(output.values())))
    output = output[0] if isinstance(output, tuple | list) else output
    return np.asarray(output, np.float32).reshape(n, -1)


def _prepared(inputs: list[Any], known: dict[str, Any]) -> Any:
    """Return a batch as the network takes it."""
    how = known["preprocessing"]
    if known["takes"] == "pixels":
        return np.stack([_pixels(image, how) for image in inputs])
    if known["takes"] == "images":
        from PIL import Image

        return [Image.fromarray(image) for image in inputs]
    if known["takes"] == "numbers":
        return np.stack([np.asarray(row, np.float32) for row in inputs])
    texts = [
        tuple(how["prompt"] + part.strip() for part in ((each,) if isinstance(each, str) else each))
        for each in inputs
    ]
    if known["takes"] == "texts":
        return [text if len(text) > 1 else "".join(text) for text in texts]
    columns = [list(column) for column in zip(*texts, strict=True)]
    if how["pairs"] == "siamese":
        return [_tokens(column, known=known) for column in columns]
    return _tokens(*columns, known=known)


def _pixels(image: np.ndarray, how: dict[str, Any]) -> np.ndarray:
    """Return an image (H, W, 3) as (3, s, s): resized, cropped to the centre, normalised."""
    from PIL import Image

    picture, size = Image.fromarray(image), how["image_size"]
    target = how["resize"] or size
    width, height = picture.size
    if how["fit"] == "both":
        shape = (target, target)
    elif how["fit"] == "longest":
        scale = target / max(width, height)
        shape = (max(1, round(scale * width)), max(1, round(scale * height)))
    elif width <= height:
        shape = (target, int(target * height / width))
    else:
        shape = (int(target * width / height), target)
    if picture.size != shape:
        picture = picture.resize(shape, Image.Resampling[how["interpolation"].upper()])
    # What is smaller than the crop gets black around it.
    left, top = (max(size - side, 0) // 2 for side in picture.size)
    if left or top or min(picture.size) < size:
        canvas = Image.new("RGB", (max(size, picture.width), max(size, picture.height)))
        canvas.paste(picture, (left, top))
        picture = canvas
    left, top = round((picture.width - size) / 2), round((picture.height - size) / 2)
    picture = picture.crop((left, top, left + size, top + size))
    scaled = np.asarray(picture, np.float32) / np.float32(255)
    normal = (scaled - np.float32(how["mean"])) / np.float32(how["std"])
    return np.ascontiguousarray(normal.transpose(2, 0, 1))


def _tokens(*columns: list[str], known: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the tokens of texts, or of pairs, by name."""
    from transformers import AutoTokenizer

    folder = str(HERE / known["tokenizer"])
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=known["trust"])
    length = known["preprocessing"]["max_length"]
    encoded = tokenizer(
        *columns, padding=True, truncation=True, max_length=length, return_tensors="np"
    )
    return {name: np.asarray(value) for name, value in encoded.items()}


def _inputs(file: Path) -> dict[str, Any]:
    """Return the inputs of a file by the names to call them."""
    if file.suffix == ".npy":
        rows = np.load(file, allow_pickle=False)
        return {f"{file}:{number}": row for number, row in enumerate(rows)}
    if file.suffix == ".txt":
        lines = enumerate(file.read_text().splitlines(), start=1)
        return {
            f"{file}:{number}": tuple(line.split("\t")) if "\t" in line else line
            for number, line in lines
            if line.strip()
        }
    from PIL import Image, ImageOps

    with Image.open(file) as image:
        return {str(file): np.asarray(ImageOps.exif_transpose(image).convert("RGB"))}


def main(words: list[str] | None = None) -> None:
    """Classify what the command line names, and print a line a row.

    Args:
        words: Of the command line; its own if None.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="+", type=Path)
    given = parser.parse_args(words)
    if missing := [str(file) for file in given.file if not file.is_file()]:
        sys.exit(f"there is no file {', '.join(missing)}; give images, texts or rows of numbers")
    from network import load  # pyright: ignore[reportMissingImports]

    named = {name: each for file in given.file for name, each in _inputs(file).items()}
    classes, found = about()["classes"], probabilities(outputs(load(), list(named.values())))
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(["input", "prediction", *classes])
    for name, row in zip(named, found, strict=True):
        out.writerow([name, classes[row.argmax()], *(f"{value:.6f}" for value in row)])


if __name__ == "__main__":
    main()
