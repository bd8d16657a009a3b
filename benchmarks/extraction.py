"""How much of the bare forward pass is left when features are also read, prepared and written.

Three rates, in rows a second, in the same process and on the same rows:

* bare: the trunk on batches that are prepared already and lie where the engine finds them;
* engine: `extract` on inputs whose preparing costs nothing, into a folder, so that all it adds is
  its own: handing over, copying to the device and back, writing, the journal;
* files: `extract` from JPEG files on disk, decoded, resized and normalised by worker processes.

Bare and engine take turns, so that other work on the machine disturbs both alike; the ratio is of
the medians. Peak memory is that of a process of its own, at n and at 4 n rows.
"""

from __future__ import annotations

# Before torch, which reads how threads shall wait.
import gsr_core  # isort: skip  # noqa: F401

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from gsr_core.compute import pick
from gsr_core.data.inputs import ImageFiles, Inputs
from gsr_core.features.backbones import Backbone, build, default_preprocessing
from gsr_core.features.extract import extract
from gsr_core.features.forward import Forward, resolve_precision
from gsr_core.features.preprocessing import ImagePreprocessing

PHOTO = (320, 256)
"""Width and height of the files, in pixels."""


class Ready(ImagePreprocessing, frozen=True):
    """Hands on a batch that was prepared before."""

    def prepare(self, item: Any) -> Any:
        """Return the item as it is."""
        return item

    def collate(self, items):
        """Return the batch that the items are of, whole."""
        return items[0][0][: len(items)]


class Prepared(Inputs):
    """n rows, all out of one prepared batch."""

    modality = "image"

    def __init__(self, batch, n):
        self.batch, self.n = batch, n

    def __len__(self):
        return self.n

    def load(self, row):
        """Return the batch, and which row of it."""
        return self.batch, row % len(self.batch)

    def name(self, row):
        """Return the row."""
        return str(row)

    def take(self, rows):
        """Return as many rows."""
        return Prepared(self.batch, len(rows))

    def digest(self):
        """Return what tells the sizes apart."""
        return str(self.n)


def backbone_of(name: str, ready: bool) -> Backbone:
    """Return a network of random weights, without its head."""
    torch.manual_seed(0)
    network = build(f"torchvision:{name}", 2).eval().requires_grad_(False)
    head, layer = [
        (key, each) for key, each in network.named_modules() if isinstance(each, nn.Linear)
    ][-1]
    network.set_submodule(head, nn.Identity())
    preprocessing = default_preprocessing(f"torchvision:{name}")
    if ready:
        preprocessing = Ready(**preprocessing.model_dump())
    return Backbone(network, None, preprocessing, {"n_features": layer.in_features})


def prepared_batch(backbone: Backbone, rows: int) -> torch.Tensor:
    """Return random numbers of the shape that the network takes."""
    preprocessing = backbone.preprocessing
    assert isinstance(preprocessing, ImagePreprocessing)
    return torch.randn(rows, 3, preprocessing.image_size, preprocessing.image_size)


def photos(folder: Path, n: int) -> ImageFiles:
    """Write smooth pictures, which compress as photos do."""
    rng = np.random.default_rng(0)
    for row in range(n):
        small = Image.fromarray(rng.integers(0, 256, (32, 40, 3), dtype=np.uint8))
        small.resize(PHOTO, Image.Resampling.BICUBIC).save(folder / f"{row}.jpg", quality=90)
    return ImageFiles(folder, [f"{row}.jpg" for row in range(n)])


def rates(options: argparse.Namespace) -> dict[str, float | str]:
    """Measure."""
    device = pick(options.device).device
    precision = resolve_precision(options.precision, device)
    backbone = backbone_of(options.network, ready=True)
    batch = prepared_batch(backbone, options.batch_size)
    if device.type == "cuda":
        batch = batch.pin_memory()
    forward = Forward(backbone, device, precision)
    on_device = batch.to(device)
    if forward._layout == torch.channels_last:
        on_device = on_device.contiguous(memory_format=torch.channels_last)
    n_batches = options.n // options.batch_size
    n = n_batches * options.batch_size

    def bare() -> float:
        with forward.ready():
            began = time.perf_counter()
            for _ in range(n_batches):
                backbone.trunk(on_device)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        return n / (time.perf_counter() - began)

    def engine(inputs: Inputs, network: Backbone, workers: int | None) -> float:
        with tempfile.TemporaryDirectory() as folder:
            ends = []
            extract(
                network,
                inputs,
                Path(folder),
                device=device,
                batch_size=options.batch_size,
                workers=workers,
                precision=options.precision,
                progress=lambda now: ends.append((now.done, time.perf_counter())),
            )
            ends.append((len(inputs), time.perf_counter()))
        # From the first batch on: starting processes is paid once, whatever the number of rows.
        return (ends[-1][0] - ends[0][0]) / (ends[-1][1] - ends[0][1])

    bare()
    pairs = [(bare(), engine(Prepared(batch, n), backbone, 1)) for _ in range(options.repeats)]
    alone, with_engine = (statistics.median(column) for column in zip(*pairs, strict=True))
    result: dict[str, float | str] = {
        "device": str(device),
        "precision": precision,
        "bare": alone,
        "engine": with_engine,
        "engine / bare": with_engine / alone,
    }
    if options.files:
        with tempfile.TemporaryDirectory() as folder:
            inputs = photos(Path(folder), n)
            network = backbone_of(options.network, ready=False)
            result["files"] = engine(inputs, network, options.workers)
            result["files / bare"] = float(result["files"]) / alone
    return result


def peak(n: int, options: argparse.Namespace) -> float:
    """Return the peak memory in MiB of a process that extracts n rows into a folder."""
    command = [sys.executable, __file__, "--n", str(n), "--only-memory", str(n)]
    for name in ("device", "network", "batch_size", "precision"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--n", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--files", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--only-memory", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.only_memory:
        backbone = backbone_of(options.network, ready=True)
        batch = prepared_batch(backbone, options.batch_size)
        with tempfile.TemporaryDirectory() as folder:
            extract(
                backbone,
                Prepared(batch, options.only_memory),
                Path(folder),
                device=pick(options.device).device,
                batch_size=options.batch_size,
                workers=1,
            )
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    print(json.dumps(rates(options), indent=2))
    if options.memory:
        for n in (options.n, 4 * options.n):
            print(f"peak memory at {n:,} rows: {peak(n, options):,.0f} MiB")


if __name__ == "__main__":
    main()
