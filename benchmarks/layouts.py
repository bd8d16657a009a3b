"""Small, good data sets in the layout of each reader, for `torture.py` to damage."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from gsr_core.readers.civilcomments import IDENTITIES

__all__ = ["arrays", "layouts"]

_N = 40
_ATTRIBUTES = ("Blond_Hair", "Male", "Smiling", "Young")


def arrays(seed: int = 0, rows: int = 400) -> dict[str, Any]:
    """Return a small data set as `gsr import npz` reads it."""
    rng = np.random.default_rng(seed)
    group = np.tile([0, 1, 2, 3], rows // 4)
    return {
        "features": rng.normal(size=(rows, 16)) + group[:, None],
        "y": group // 2,
        "group": group,
        "split": np.repeat(["heldout", "target", "val", "test"], rows // 4),
    }


def layouts(root: Path) -> Iterator[tuple[str, Path]]:
    """Write a good data set for each reader that needs no extra; yield reader and its path."""
    for write in (_files, _images, _waterbirds, _celeba, _metashift, _texts, _mnist):
        folder = root / write.__name__.strip("_")
        folder.mkdir()
        yield from write(folder)


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Readers of single files."""
    table = pd.DataFrame(
        {
            "text": [f"a text of some length, the {row}th" for row in range(_N)],
            "y": np.tile([0, 1], _N // 2),
            "place": np.tile(["land", "water"], _N // 2),
            "age": np.arange(_N) / 3,
            "split": np.repeat(["train", "validation", "test", "train"], _N // 4),
        }
    )
    np.savez(folder / "a.npz", **arrays(rows=80))
    yield "npz", folder / "a.npz"
    for reader in ("table", "texts"):
        for suffix in ("csv", "tsv", "parquet", "jsonl"):
            file = folder / f"{reader}.{suffix}"
            if suffix == "parquet":
                table.to_parquet(file)
            elif suffix == "jsonl":
                table.to_json(file, orient="records", lines=True)
            else:
                table.to_csv(file, sep="\t" if suffix == "tsv" else ",", index=False)
            yield reader, file
    vectors = [[float(row), row / 3, 1.0] for row in range(_N)]
    table.drop(columns=["text", "age"]).assign(vector=pd.Series(vectors)).to_parquet(
        folder / "e.parquet"
    )
    yield "embeddings", folder / "e.parquet"


def _paint(file: Path, level: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 6, 3), level % 256, dtype=np.uint8)).save(file)


def _images(folder: Path) -> Iterator[tuple[str, Path]]:
    table = pd.DataFrame(
        {
            "path": [f"pictures/{row}.png" for row in range(_N)],
            "y": np.tile(["cat", "dog"], _N // 2),
            "place": np.repeat(["land", "water"], _N // 2),
        }
    )
    for row, path in enumerate(table["path"]):
        _paint(folder / "images" / path, row)
        split, label = ("train", "val", "test")[row % 3], table["y"][row]
        _paint(folder / "imagefolder" / split / label / f"{row}.jpg", row)
    table.to_csv(folder / "images" / "metadata.csv", index=False)
    yield "images", folder / "images"
    yield "imagefolder", folder / "imagefolder"


def _waterbirds(folder: Path) -> Iterator[tuple[str, Path]]:
    row = np.arange(_N)
    table = pd.DataFrame(
        {
            "img_id": row + 1,
            "img_filename": [f"{each % 4:03}.Bird/Bird_{each:04}.jpg" for each in row],
            "y": row % 2,
            "split": row % 3,
            "place": row // 2 % 2,
            "place_filename": [f"/o/ocean/{each:08}.jpg" for each in row],
        }
    )
    for each, path in enumerate(table["img_filename"]):
        _paint(folder / path, each)
    table.to_csv(folder / "metadata.csv", index=False)
    yield "waterbirds", folder


def _celeba(folder: Path) -> Iterator[tuple[str, Path]]:
    files = [f"{row + 1:06}.jpg" for row in range(_N)]
    values = np.where(np.random.default_rng(0).random((_N, len(_ATTRIBUTES))) < 0.5, -1, 1)
    lines = [f"{file} {' '.join(map(str, row))}" for file, row in zip(files, values, strict=True)]
    (folder / "list_attr_celeba.txt").write_text(
        "\n".join([str(_N), " ".join(_ATTRIBUTES), *lines, ""])
    )
    (folder / "list_eval_partition.txt").write_text(
        "".join(f"{file} {row % 3}\n" for row, file in enumerate(files))
    )
    for row, file in enumerate(files):
        _paint(folder / "img_align_celeba" / file, row)
    yield "celeba", folder


def _metashift(folder: Path) -> Iterator[tuple[str, Path]]:
    groups, number = {}, 2315400
    for split in ("train", "val_out_of_domain"):
        for kind in ("cat", "dog"):
            for context in ("indoor", "outdoor"):
                for _ in range(5):
                    number += 1
                    _paint(folder / "mixed" / split / kind / f"{number}.jpg", number)
                    groups[str(number)] = [f"{kind}({context})"]
    (folder / "mixed" / "imageID_to_group.pkl").write_bytes(pickle.dumps(groups))
    for split, kind, context in (
        ("train", "cat", "indoor"),
        ("train", "dog", "outdoor"),
        ("test", "cat", "outdoor"),
        ("test", "dog", "indoor"),
    ):
        for _ in range(8):
            number += 1
            name = f"{kind}({context})"
            _paint(folder / "unmixed" / split / kind / name / f"{number}.jpg", number)
    yield "metashift", folder / "mixed"
    yield "metashift", folder / "unmixed"


def _texts(folder: Path) -> Iterator[tuple[str, Path]]:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "comment_text": [f"Comment {row}, with a comma\nand a line" for row in range(120)],
            "split": [("train", "val", "test")[row % 3] for row in range(120)],
            "toxicity": rng.choice([0.0, 0.4, 0.6, 1.0], 120),
            **{name: rng.choice([0.0, 0.5, 1.0], 120) for name in IDENTITIES},
        }
    )
    (folder / "civilcomments").mkdir()
    table.to_csv(folder / "civilcomments" / "all_data_with_identities.csv")
    yield "civilcomments", folder / "civilcomments"

    raw, data = folder / "multinli" / "multinli_1.0", folder / "multinli" / "data"
    raw.mkdir(parents=True)
    data.mkdir()
    rows = []
    for name, count in (("train", 80), ("dev_matched", 20), ("dev_mismatched", 20)):
        part = [
            {
                "gold_label": str(rng.choice(["contradiction", "entailment", "neutral"])),
                "sentence1": f"Premise {row}",
                "sentence2": f"{rng.choice(['No', 'the'])} one saw {row}.",
                "pairID": f"{name}{row}",
                "promptID": str(row),
                "genre": "fiction",
            }
            for row in range(count)
        ]
        (raw / f"multinli_1.0_{name}.jsonl").write_text(
            "".join(f"{json.dumps(each)}\n" for each in part)
        )
        rows += part
    labels = ["contradiction", "entailment", "neutral"]
    pd.DataFrame(
        {
            "gold_label": [labels.index(each["gold_label"]) for each in rows],
            "sentence2_has_negation": [int(each["sentence2"].startswith("No")) for each in rows],
            "split": np.arange(len(rows)) % 3,
        }
    ).to_csv(data / "metadata_random.csv")
    yield "multinli", folder / "multinli"


def _mnist(folder: Path) -> Iterator[tuple[str, Path]]:
    """MNIST as torchvision leaves it, and as Keras has it."""
    rng = np.random.default_rng(0)
    raw = folder / "torchvision" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    kept = {}
    for part, word, n in (("train", "train", 1500), ("test", "t10k", 400)):
        images = rng.integers(0, 256, (n, 28, 28)).astype(np.uint8)
        labels = rng.integers(0, 10, n).astype(np.uint8)
        header = struct.pack(">4i", 0x0803, *images.shape)
        (raw / f"{word}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = struct.pack(">2i", 0x0801, n)
        (raw / f"{word}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
        kept |= {f"x_{part}": images, f"y_{part}": labels}
    (folder / "keras").mkdir()
    np.savez(folder / "keras" / "mnist.npz", **kept)
    yield "coloured-mnist-10", folder / "torchvision"
    yield "coloured-mnist-10", folder / "keras" / "mnist.npz"
