"""A head put back into a network, for the tests of each kind of network."""

import json

import numpy as np
import pytest
import torch

from gsr_core.features.backbones import load_backbone
from gsr_core.features.merged import TOLERANCE, write_merged
from gsr_core.features.merging import Merge

CLASSES = ["land bird", "water bird", "fish", "frog"]


@pytest.fixture
def photos():
    """Images of odd sizes, taller and wider than a square."""
    rng = np.random.default_rng(5)
    sizes = [(48, 41), (37, 64), (70, 70)]
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


@pytest.fixture
def put_back():
    """Put a drawn head back and return where it went with its logits (n, K), float64.

    The folder's own scripts are run on the inputs by `write_merged`; here it is their account that
    is looked at, and the caller opens the folder by the library itself.
    """

    def put_back(name, to, inputs, checkpoint=None, *, classes=4, gives="logits", **choice):
        backbone = load_backbone(name, checkpoint, **choice)
        prepare, collate = backbone.preprocessing.prepare, backbone.preprocessing.collate
        with torch.inference_mode():
            features = backbone.trunk(collate([prepare(each) for each in inputs])).numpy()
        rng = np.random.default_rng(3)
        weight = rng.normal(size=(classes, features.shape[1])).astype(np.float32)
        bias = rng.normal(size=classes).astype(np.float32)
        merge = Merge(
            architecture=name,
            file=checkpoint,
            arguments=dict(choice.get("arguments", {})),
            trust=choice.get("trust", False),
            backbone=backbone,
            weight=weight,
            bias=bias,
            classes=CLASSES[:classes],
        )
        done = write_merged(merge, to, inputs, features, {})
        text = (to / "about.json").read_text()
        assert str(to.parent) not in text.replace(name, "")
        known = json.loads(text)
        assert known["classes"] == CLASSES[:classes]
        assert known["gives"] == done.gives == gives
        assert known["checked"]["deviation"] == done.deviation <= TOLERANCE
        return features.astype(np.float64) @ weight.T + bias

    return put_back
