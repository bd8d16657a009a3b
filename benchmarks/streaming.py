"""What GSR takes on rows that stay in their file: predicted before the start, and measured.

    python benchmarks/streaming.py [--shape classes|rows|all] [--steps 2] [--threads N]

*classes*: 1,000 classes and 2,000 groups on 2,048 features, at n and 2 n weighted rows, to see that
memory does not grow with n. *rows*: a million weighted rows of 512 features in two classes. Each
runs in a process of its own on a bundle that is written for it, with every split made to stream
whatever its size. Printed are seconds by the clock and of processor time of the last step, and the
largest anonymous memory of the process: pages of the feature file, which the system takes back when
it needs them, do not count. Features are random, with a signal and a stronger shortcut.
"""

from __future__ import annotations

# Before torch, which reads how threads shall wait.
import gsr_core  # isort: skip  # noqa: F401

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from gsr_core.compute import pick
from gsr_core.data.bundle import Bundle
from gsr_core.data.bundle_writing import write_bundle
from gsr_core.data.groups import Group
from gsr_core.data.problem import load_problem
from gsr_core.methods.fit import fit
from gsr_core.methods.gsr import GSR
from gsr_core.methods.monitor import Progress
from gsr_core.runs import expected

_BLOCK = 8192


@dataclass(frozen=True)
class Shape:
    """Sizes of a data set; its groups are class by one of two attributes."""

    n: int
    n_target: int
    d: int
    n_classes: int


SHAPES = {
    "classes": [Shape(8_000, 4_000, 2048, 1000), Shape(16_000, 4_000, 2048, 1000)],
    "rows": [Shape(250_000, 10_000, 512, 2), Shape(1_000_000, 10_000, 512, 2)],
}


def make_bundle(directory: Path, shape: Shape) -> Bundle:
    """Write a bundle of this shape, its features block by block."""
    rng = np.random.default_rng(0)
    sizes = {"heldout": shape.n, **dict.fromkeys(("target", "val", "test"), shape.n_target)}
    total, k = sum(sizes.values()), shape.n_classes
    split = np.repeat(list(sizes), list(sizes.values()))
    label = rng.integers(k, size=total)
    attribute = np.where(rng.random(total) < 0.9, label % 2, 1 - label % 2)
    group = 2 * label + attribute
    for name in sizes:  # Every group is in every split.
        rows = np.flatnonzero(split == name)[: 2 * k]
        group[rows] = np.arange(2 * k)
    label, attribute = group // 2, group % 2
    signal = 0.1 * rng.normal(size=(k, shape.d)).astype(np.float32)
    shortcut = 0.2 * rng.normal(size=(2, shape.d)).astype(np.float32)
    features = np.lib.format.open_memmap(directory / "made.npy", "w+", np.float32, (total, shape.d))
    for start in range(0, total, _BLOCK):
        rows = slice(start, min(start + _BLOCK, total))
        part = rng.standard_normal((rows.stop - start, shape.d), dtype=np.float32)
        features[rows] = part + signal[label[rows]] + shortcut[attribute[rows]]
    return write_bundle(
        directory / "bundle",
        samples=pd.DataFrame(
            {"sample_id": [str(row) for row in range(total)], "split": split, "y": label}
        ),
        membership=group[:, None] == np.arange(2 * k),
        groups=[Group(name=f"g{g}", definition=f"group = {g}") for g in range(2 * k)],
        classes=[f"c{c}" for c in range(k)],
        features=features,
        source="made",
    )


class Peak(threading.Thread):
    """Watches how much anonymous memory the process has."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes = 0

    def run(self) -> None:
        """Look twenty times a second."""
        while True:
            status = Path("/proc/self/status").read_text()
            line = next(each for each in status.splitlines() if each.startswith("RssAnon"))
            self.bytes = max(self.bytes, 1024 * int(line.split()[1]))
            time.sleep(0.05)


def measure(directory: Path, shape: Shape, steps: int) -> None:
    """Predict, run and report one shape."""
    bundle, method = make_bundle(directory, shape), GSR(steps=steps)
    peak = Peak()
    expected.IN_MEMORY = 0  # What is predicted streams, too.
    cost = expected.predict(bundle, method, pick("cpu"))
    assert cost is not None
    peak.start()
    clock, cpu = [], [time.process_time()]

    def follow(progress: Progress) -> None:
        clock.extend(value for *_, metric, value in progress.records if metric == "seconds")
        cpu.append(time.process_time())

    problem, test = load_problem(bundle, pick("cpu"), in_memory=0)
    result = fit(method, problem, bundle.group_names, test=test, monitor=follow)
    assert result.last_index == steps
    assert result.history.query("metric == 'solved'")["value"].all()
    print(
        f"{shape.n:9,} {shape.d:6,} {shape.n_classes:6,} {2 * shape.n_classes:6,}"
        f"{cost.step_seconds:12.1f} {clock[0]:8.1f} {clock[-1]:8.1f} {cpu[-1] - cpu[-2]:8.1f}"
        f"{cost.bytes / 2**30:12.2f} {peak.bytes / 2**30:8.2f}",
        flush=True,
    )


def main() -> None:
    """Read the command line and report each shape from a process of its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shape", choices=[*SHAPES, "all"], default="all")
    parser.add_argument("--steps", type=int, default=2, help="at least 2")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--one", nargs=4, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.one:
        with tempfile.TemporaryDirectory() as directory:
            measure(Path(directory), Shape(*arguments.one), arguments.steps)
        return
    print(
        f"torch {torch.__version__}, {arguments.threads} threads; seconds a step, GiB at the peak"
    )
    print(
        "        n      d      K      m   predicted    first     last      cpu   predicted     peak"
    )
    for name, shapes in SHAPES.items():
        if arguments.shape not in (name, "all"):
            continue
        for shape in shapes:
            sizes = [str(size) for size in asdict(shape).values()]
            options = ["--steps", str(arguments.steps), "--threads", str(arguments.threads)]
            subprocess.run([sys.executable, __file__, *options, "--one", *sizes], check=True)


if __name__ == "__main__":
    main()
