from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from gsr_core.compute import Compute
from gsr_core.data.inputs import Numbers
from gsr_core.data.problem import Problem, Rows
from gsr_core.features.backbones import Network
from gsr_core.features.heads import Seat
from gsr_core.features.preprocessing import NumbersPreprocessing
from gsr_core.features.presets import Training
from gsr_core.features.trainable import Trainable

SIZES = {"train": 96, "target": 40, "val": 40, "test": 40}
WIDTH = 6


def two_layers(seed: int) -> Network:
    """A network with what is awkward: batch normalisation, which couples rows, and dropout."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = nn.Sequential(
            nn.Linear(4, WIDTH),
            nn.BatchNorm1d(WIDTH),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(WIDTH, 2),
        )
    return Network(
        module,
        "4",
        NumbersPreprocessing(n_inputs=4),
        {"architecture": "two layers"},
        Seat("4", WIDTH, last=True, flat=True, logits=True),
    )


@pytest.fixture
def make_network_problem(compute: Compute) -> Callable[..., tuple[Problem, Rows]]:
    """A network problem whose shortcut fails the minority groups, and its test rows."""

    def make(minority: float = 0.1, seed: int = 0, **changed) -> tuple[Problem, Rows]:
        rng = np.random.default_rng(seed)
        parts, inputs, start = {}, [], 0
        for split, n in SIZES.items():
            labels = np.arange(n) % 2
            share = minority if split == "train" else 0.5
            attribute = np.where(rng.random(n) < share, 1 - labels, labels)
            attribute[:4] = (0, 1, 1, 0)
            x = rng.normal(size=(n, 4)).astype(np.float32)
            x[:, 0] += 2 * labels - 1
            x[:, 1] += 3 * (2 * attribute - 1)
            group = 2 * labels + attribute
            inputs.append(x)
            parts[split] = Rows(
                source=torch.zeros(n, 1, device=compute.device),
                labels=torch.from_numpy(labels).to(compute.device),
                groups=torch.from_numpy(group[:, None] == np.arange(4)).to(compute.device),
                position=np.arange(start, start + n),
            )
            start += n
        trainable = Trainable(
            inputs=Numbers(np.concatenate(inputs)),
            network=lambda start, seed: two_layers(seed),
            training=Training(
                optimiser="adam", lr=1e-2, batch_size=16, weight_decay=0.0, workers=0
            ),
            device=compute.device,
        )
        problem = Problem(
            weighted=parts["train"],
            target=parts["target"],
            val=parts["val"],
            n_classes=2,
            compute=compute,
            weighted_split="train",
            network=replace(trainable, **changed),
        )
        return problem, parts["test"]

    return make
