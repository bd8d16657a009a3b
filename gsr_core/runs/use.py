"""Classify with the head that was exported beside this file.

    python use.py features.npy             rows of features, (n, d)
    python use.py photo.jpg another.png    images, through the network
    python use.py texts.txt                texts, one a line; a pair has a tab in between
    python use.py rows.csv                 rows of a table with the columns of the first one

It prints one line a row: which input it is (a file; of several rows with the number of the row,
from 0, or of the line, from 1), what it is taken for, and the probability of each class. Features
need numpy and safetensors alone. All else also needs gsr-core, to prepare the input as it was
prepared then, and for images and texts the network, where `about.json` or --checkpoint says it is.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

__all__ = ["about", "main", "network_features", "predict"]

HERE = Path(__file__).parent
_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


def about() -> dict[str, Any]:
    """Return what the head is about: classes, features, network and preprocessing."""
    return json.loads((HERE / "about.json").read_text())


def predict(features: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Return each row's class and the probabilities of all classes.

    Args:
        features: (n, d) as the network gives them.

    Returns:
        n names, and (n, K) probabilities in the order of the classes.
    """
    head, classes = load_file(HERE / "head.safetensors"), about()["classes"]
    if features.ndim != 2 or features.shape[1] != head["weight"].shape[1]:
        sys.exit(
            f"the features have shape {features.shape}; the head takes (n, "
            f"{head['weight'].shape[1]}): give those of the network that it was fitted to"
        )
    logits = features.astype(np.float64) @ head["weight"].T + head["bias"]
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    return [classes[best] for best in probabilities.argmax(axis=1)], probabilities


def network_features(inputs: list[Any], checkpoint: str = "", batch: int = 64) -> np.ndarray:
    """Return the features of images (H, W, 3) uint8, texts or pairs of texts, by the network.

    Args:
        inputs: n of them.
        checkpoint: Where the network's weights are now, if not where they were.
        batch: Inputs at a time.
    """
    import torch

    from gsr_core.features.backbones import load_backbone

    network = about()["network"]
    if network is None:
        sys.exit("about.json does not say which network gave the features; give features instead")
    # A checkpoint that came along stands beside this file.
    file = checkpoint or (network["checkpoint"] and str(HERE / network["checkpoint"]))
    print(f"Loading the network {network['name']} ...", file=sys.stderr, flush=True)
    backbone = load_backbone(
        **{**network, "checkpoint": Path(file) if file else None}, n_classes=None
    )
    expected = about()["network_sha256"]
    if expected and backbone.facts["sha256"] != expected:
        sys.exit(
            f"the weights in {file or network['name']} are not those that the features came from "
            "(their SHA-256 differs); give the right file with --checkpoint"
        )
    prepare, collate = backbone.preprocessing.prepare, backbone.preprocessing.collate
    with torch.inference_mode():
        parts = [
            backbone.trunk(collate([prepare(each) for each in inputs[start : start + batch]]))
            for start in range(0, len(inputs), batch)
        ]
    return torch.cat(parts).numpy()


def _table_features(file: Path) -> np.ndarray:
    import pandas as pd

    from gsr_core.data.encoding import Encoder

    encoder = Encoder.model_validate_json((HERE / "encoder.json").read_text())
    return encoder.transform(pd.read_csv(file))


def _inputs(files: list[Path]) -> tuple[list[str], list[Any]]:
    """Return what to call each input, and the inputs."""
    from gsr_core.data.pixels import decode_image

    names: list[str] = []
    inputs: list[Any] = []
    for file in files:
        if file.suffix.lower() in _IMAGES:
            names.append(str(file))
            inputs.append(decode_image(file))
            continue
        for number, line in enumerate(file.read_text().splitlines(), start=1):
            if line.strip():
                names.append(f"{file}:{number}")
                inputs.append(tuple(line.split("\t")) if "\t" in line else line)
    return names, inputs


def _check(files: list[Path]) -> None:
    """Leave with a sentence if a file is of a kind that the head does not take."""
    kind = (about()["preprocessing"] or {}).get("modality")
    takes = {"image": _IMAGES, "text": (".txt",)}.get(str(kind), ())
    if (HERE / "encoder.json").is_file():
        takes = (".csv",)
    for file in files:
        if file.suffix.lower() not in (".npy", *takes):
            sys.exit(
                f"{file} ends in '{file.suffix}'; this head takes {', '.join([*takes, '.npy'])}: "
                "convert it, as --help says"
            )
    if len({file.suffix.lower() == ".npy" for file in files}) > 1:
        sys.exit("some files are features (.npy) and some are not; give them one after the other")


def main(words: list[str] | None = None) -> None:
    """Classify what the command line names, and print a line a row.

    Args:
        words: Of the command line; its own if None.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="+", type=Path)
    parser.add_argument("--checkpoint", default="", help="where the network's weights are now")
    given = parser.parse_args(words)
    if missing := [str(file) for file in given.file if not file.is_file()]:
        sys.exit(f"there is no file {', '.join(missing)}; give features, images, texts or a table")
    _check(given.file)
    features_of = _table_features
    if given.file[0].suffix.lower() == ".npy":
        features_of = partial(np.load, allow_pickle=False)
    elif not (HERE / "encoder.json").is_file():
        features_of = None
    if features_of is None:
        inputs, samples = _inputs(given.file)
        features = network_features(samples, given.checkpoint)
    else:
        parts = [features_of(file) for file in given.file]
        inputs = [
            f"{file}:{row}"
            for file, part in zip(given.file, parts, strict=True)
            for row in range(len(part))
        ]
        features = np.concatenate(parts)
    classes, probabilities = predict(features)
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(["input", "prediction", *about()["classes"]])
    for name, taken_for, row in zip(inputs, classes, probabilities, strict=True):
        out.writerow([name, taken_for, *(f"{value:.6f}" for value in row)])


if __name__ == "__main__":
    main()
