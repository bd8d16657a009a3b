"""What our loop costs beside a plain torch loop that trains the same network on the same rows.

    python benchmarks/network_epoch.py [--rounds 5] [--network simconv1] [--rows 2000] [--size 32]

*Plain*: images prepared in advance as one tensor, torch's own shuffled DataLoader, and a loop of
forward, loss, backward and step. *Ours*: `network_erm`, an epoch as a run makes it: reading and
preparing images, training, looks at the loss, and the copies of weights and optimiser for
checkpoint and kept step; not the scores of the splits. Rounds alternate in one process; seconds are
of the processor, which other work on the machine disturbs less, in the median over rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import gsr_core as gsr
from gsr_core.data.inputs import ImageArrays
from gsr_core.data.problem import Problem, Rows
from gsr_core.features.backbones import Network, load_network
from gsr_core.features.presets import Training
from gsr_core.features.trainable import Trainable
from gsr_core.methods.network.balanced import NetworkERM
from gsr_core.methods.network.loop import Loop

BATCH = 64


def main() -> None:
    """Print the seconds of both and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--network", default="simconv1")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    compute = gsr.pick(arguments.device)
    rng, n = np.random.default_rng(0), arguments.rows
    images = rng.integers(0, 256, (n, arguments.size, arguments.size, 3), dtype=np.uint8)
    labels = torch.from_numpy(rng.integers(0, 2, n))
    size = {"image_size": arguments.size, "resize": arguments.size}
    training = Training(optimiser="adam", lr=1e-3, batch_size=BATCH, weight_decay=0.0, workers=0)

    def network() -> Network:
        return load_network(arguments.network, n_classes=2, overrides=size)

    rows = Rows(torch.zeros(n, 1), labels, torch.ones(n, 1, dtype=torch.bool), np.arange(n))
    trainable = Trainable(ImageArrays(images), lambda *_: network(), training, compute.device)
    problem = Problem(rows, rows, rows, 2, compute, network=trainable)
    method = NetworkERM(steps=1_000)
    loop = Loop(method, problem, None)
    epochs = method.epochs(loop)

    plain = network()
    prepared = torch.stack([plain.preprocessing.prepare(image) for image in images])
    loader = DataLoader(TensorDataset(prepared, labels), batch_size=BATCH, shuffle=True)
    module = plain.module.to(compute.device)
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-3)

    def plain_epoch() -> None:
        module.train()
        for batch, target in loader:
            loss = cross_entropy(module(batch.to(compute.device)), target.to(compute.device))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    def our_epoch() -> None:
        loop.train(next(epochs))

    for work in (plain_epoch, our_epoch):
        work()
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    for _ in range(arguments.rounds):
        for name, work in (("plain", plain_epoch), ("ours", our_epoch)):
            seconds[name].append(_timed(work))
    middle = {name: statistics.median(each) for name, each in seconds.items()}
    print(
        f"{arguments.network}, {n} images of {arguments.size} pixels on {compute}: plain "
        f"{middle['plain']:.2f} s, ours {middle['ours']:.2f} s an epoch, ratio "
        f"{middle['ours'] / middle['plain']:.2f}"
    )


def _timed(work: Callable[[], None]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    begun = clock()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - begun


if __name__ == "__main__":
    main()
