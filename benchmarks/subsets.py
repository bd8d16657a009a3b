"""Methods that train a whole network on a part of the rows, for docs/results.md.

    python benchmarks/subsets.py DIRECTORY [--seeds 3] [--only s2l,epic,crest] [--kept subsets.json]

DIRECTORY has `mnist.npz` and `cifar10.parquet`. Every seed draws rows and weights of the network
anew; what is in the file `--kept` is not computed again.

`s2l`: Coloured MNIST in two classes, 2,000 training images of which 5 % have the other class's
colour: their share of the subset, and the worst group's accuracy after as many epochs on the
subset, on a random one of its size (one cluster a class) and on all rows.
`epic`: MNIST, 2,000 training rows, of which 80 have a wrong label, 80 come twice, and 40 come
twice with the same wrong label: the share of each kind that is dropped, epoch by epoch.
`crest`: CIFAR-10, 2,000 training images: accuracy after ten epochs, after the same descent on
random batches at 20 % of these updates, and after CREST's at 20 %; relative error is the difference
to the ten epochs over their accuracy.
"""

from __future__ import annotations

# Before torch, which reads how threads shall wait.
import gsr_core as gsr  # isort: skip

import argparse
import json
import re
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from gsr_core.data.inputs import ImageArrays
from gsr_core.data.problem import Problem, Rows
from gsr_core.features.backbones import Network
from gsr_core.features.heads import Seat
from gsr_core.features.preprocessing import ImagePreprocessing
from gsr_core.features.presets import Training
from gsr_core.features.trainable import Trainable
from gsr_core.methods.base import Step
from gsr_core.readers.controlled import ColouredMNIST
from gsr_core.readers.originals import cifar10, mnist

Numbers = dict[str, float]
SGD = {"optimiser": "sgd", "lr": 0.02, "momentum": 0.9, "batch_size": 32, "weight_decay": 1e-4}


def small_network(n_classes: int, size: int, seed: int) -> Network:
    """Return three convolutions with batch norms and a linear head, about 6,000 parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        layers: list[nn.Module] = []
        for before, after in ((3, 8), (8, 16), (16, 32)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, n_classes)]
    half = (0.5, 0.5, 0.5)
    return Network(
        nn.Sequential(*layers),
        "14",
        ImagePreprocessing(image_size=size, mean=half, std=half),
        {"architecture": "small"},
        Seat("14", 32, last=True, flat=True, logits=True),
    )


def problem_of(images: np.ndarray, labels: np.ndarray, groups: np.ndarray, n: int) -> Problem:
    """Return a problem whose first n rows are trained on; the others are in its `val`."""
    k, size, compute = int(labels.max()) + 1, images.shape[1], gsr.pick("cpu")

    def rows(position: np.ndarray) -> Rows:
        members = groups[position, None] == np.arange(groups.max() + 1)
        return Rows(
            torch.zeros(len(position), 1),
            torch.from_numpy(labels[position]),
            torch.from_numpy(members),
            position,
        )

    trainable = Trainable(
        inputs=ImageArrays(images),
        network=lambda start, seed: small_network(k, size, seed),
        training=Training(workers=0),
        device=compute.device,
    )
    others = np.arange(n, len(labels))
    return Problem(
        weighted=rows(np.arange(n)),
        target=rows(others[:0]),
        val=rows(others),
        n_classes=k,
        compute=compute,
        weighted_split="train",
        network=trainable,
    )


def trained(problem: Problem, name: str, seed: int, **settings: float | str) -> list[Step]:
    """Train to the end and return each epoch, the last with its view of the inputs."""
    method = gsr.make_method(name, {**SGD, "seed": seed, **settings})
    steps = method.iterate(problem)
    return [next(steps) for _ in range(method.max_steps)]


def accuracy(problem: Problem, step: Step) -> tuple[float, float]:
    """Return the accuracy on `val`, and that of its worst group."""
    rows = problem.val
    assert step.view is not None
    logits = [step.head.logits(each) for each in step.view(rows.position).split(512)]
    correct = (torch.cat(logits).argmax(dim=1) == rows.labels).double()
    groups = rows.groups.double()
    return float(correct.mean()), float(((correct @ groups) / groups.sum(dim=0)).min())


def s2l(directory: Path, seed: int) -> Numbers:
    """Return the minority's share of the subset, and what the networks reach."""
    reader = ColouredMNIST(
        path=str(directory / "mnist.npz"),
        digits=10,
        threshold=5,
        conflicting=0.05,
        n_train=2000,
        n_validation=1,
        n_test=1500,
        seed=seed,
    )
    source = reader.read()
    assert isinstance(source.inputs, ImageArrays)
    label = source.table["label"].to_numpy().astype(np.int64)
    colour = (source.table["colour"] == "green").to_numpy().astype(np.int64)
    images = np.stack([source.inputs.load(row) for row in range(len(label))])
    problem = problem_of(images, label, 2 * label + colour, 2000)
    minority = torch.from_numpy(label[:2000] != colour[:2000])
    found: Numbers = {"minority of the rows": float(minority.double().mean())}
    for name, clusters in (("random", 1), ("S2L", 100)):
        step = trained(problem, "network_s2l", seed, steps=12, first_epochs=4, clusters=clusters)[
            -1
        ]
        assert step.sample_weight is not None
        found[f"{name}: minority of the subset"] = float(step.sample_weight[minority].sum())
        found[f"{name}: mean"], found[f"{name}: worst group"] = accuracy(problem, step)
    step = trained(problem, "network_erm", seed, steps=8)[-1]
    found["all rows: mean"], found["all rows: worst group"] = accuracy(problem, step)
    return found


KINDS = ("clean", "wrong label", "twice", "wrong label, twice")


def epic(directory: Path, seed: int) -> Numbers:
    """Return the share of each kind of row that is dropped by the end and half way."""
    originals, rng = mnist(directory, download=False), np.random.default_rng(seed)
    rows = rng.permutation(np.flatnonzero(~originals.in_test))[:2000]
    test = rng.permutation(np.flatnonzero(originals.in_test))[:1500]
    kind = np.zeros(2000, dtype=np.int64)
    kind[:80], kind[80:240], kind[240:320] = 1, 2, 3
    # The second half of what comes twice is a copy of the first.
    rows[160:240], rows[280:320] = rows[80:160], rows[240:280]
    label = originals.labels[np.concatenate([rows, test])].copy()
    wrong = (label[:2000] + rng.integers(1, 10, size=2000)) % 10
    wrong[280:320] = wrong[240:280]
    label[:2000] = np.where((kind == 1) | (kind == 3), wrong, label[:2000])
    grey = originals.load(np.concatenate([rows, test]))
    problem = problem_of(np.repeat(grey[..., None], 3, axis=3), label, label, 2000)
    settings = {"steps": 20, "warmup": 5, "every": 1}
    steps = trained(problem, "network_epic", seed, **settings)
    found: Numbers = {}
    for epoch in (10, 20):
        share = steps[epoch - 1].sample_weight
        assert share is not None
        for number, name in enumerate(KINDS):
            dropped = share[torch.from_numpy(kind == number)] == 0
            found[f"epoch {epoch}: {name}"] = float(dropped.double().mean())
    found["mean"] = accuracy(problem, steps[-1])[0]
    found["mean, nothing dropped"] = accuracy(
        problem, trained(problem, "network_erm", seed, steps=20)[-1]
    )[0]
    return found


def crest(directory: Path, seed: int) -> Numbers:
    """Return accuracies at the whole and at a fifth of the budget."""
    originals, rng = cifar10(directory, download=False), np.random.default_rng(seed)
    rows = rng.permutation(np.flatnonzero(~originals.in_test))[:2000]
    test = rng.permutation(np.flatnonzero(originals.in_test))[:1500]
    rows = np.concatenate([rows, test])
    label = originals.labels[rows]
    problem = problem_of(originals.load(rows), label, label, 2000)
    runs: Mapping[str, tuple[str, dict[str, float]]] = {
        "ten epochs": ("network_erm", {"steps": 10}),
        "random, 20 %": ("network_erm", {"steps": 2}),
        "CREST, 20 %": ("network_crest", {"steps": 10, "budget": 0.2}),
        "CREST, 20 %, h = 4": ("network_crest", {"steps": 10, "budget": 0.2, "h": 4.0}),
    }
    found: Numbers = {}
    for name, (method, settings) in runs.items():
        begun = time.perf_counter()
        steps = trained(problem, method, seed, **settings)
        found[f"{name}: seconds"] = time.perf_counter() - begun
        found[f"{name}: accuracy"] = accuracy(problem, steps[-1])[0]
        if method == "network_crest":
            renewed = [
                int(re.findall(r"choices of coresets: (\d+)", each.note)[0]) for each in steps
            ]
            found[f"{name}: renewals"] = float(sum(renewed))
    whole = found["ten epochs: accuracy"]
    for name in list(runs)[1:]:
        found[f"{name}: relative error"] = abs(found[f"{name}: accuracy"] - whole) / whole
    return found


PARTS: dict[str, Callable[[Path, int], Numbers]] = {"s2l": s2l, "epic": epic, "crest": crest}


def main() -> None:
    """Compute what is not there yet, and print mean and deviation over seeds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--kept", type=Path, default=Path("subsets.json"))
    arguments = parser.parse_args()
    kept: dict[str, Numbers] = (
        json.loads(arguments.kept.read_text()) if arguments.kept.exists() else {}
    )
    for part in arguments.only.split(","):
        for seed in range(arguments.seeds):
            if (key := f"{part} {seed}") not in kept:
                begun = time.perf_counter()
                found = PARTS[part](arguments.directory, seed)
                kept[key] = {**found, "seconds in all": time.perf_counter() - begun}
                arguments.kept.write_text(json.dumps(kept, indent=1))
        seeds = [kept[f"{part} {seed}"] for seed in range(arguments.seeds)]
        print(f"\n{part}")
        for name in seeds[0]:
            values = [each[name] for each in seeds]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            print(f"  {name}: {statistics.mean(values):.3f} ± {spread:.3f}")


if __name__ == "__main__":
    main()
