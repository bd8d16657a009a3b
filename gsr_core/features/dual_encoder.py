r"""A small network of images and texts, trained here by open_clip's own code.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (ICML 2021),
train an encoder of images f and one of texts g so that a picture and its caption agree,

.. math:: L = -\tfrac{1}{2N} \sum_i \Big[ \log \frac{e^{s_{ii}}}{\sum_j e^{s_{ij}}}
          + \log \frac{e^{s_{ii}}}{\sum_j e^{s_{ji}}} \Big], \quad
          s_{ij} = \frac{1}{\tau} \frac{\langle f(x_i), g(t_j) \rangle}{|f(x_i)| |g(t_j)|}.

Network, loss and tokenizer are open_clip's. Where published weights cannot be fetched, this is a
real network to try phrases on; it knows the words of its captions and no others.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gsr_core.compute import threads_for
from gsr_core.errors import SettingError
from gsr_core.extras import require
from gsr_core.features.checkpoints import save_checkpoint
from gsr_core.features.preprocessing import ImagePreprocessing
from gsr_core.files import new_directory
from gsr_core.progress import Report, silent

__all__ = ["train_dual_encoder"]

_EMBEDDING = 32
_TEXT_WIDTH = 16
"""Small, because the table of tokens has a row for each of the 49,408 of open_clip's tokenizer."""
_CONTEXT = 16
"""Tokens read of a phrase."""
_STRIDE = 32
"""Pixels of an image for each place of the network's last layer, in either direction."""
_BATCH = 128
_LEARNING_RATE = 4e-3
_WEIGHT_DECAY = 0.01
_MAX_SCALE = math.log(100)
"""Of the logarithm of the scale, 1 / temperature, as CLIP clamps it."""

_TURN = math.radians(12)
_GROWTH = 0.12
_SHIFT = 0.08
"""Most that a training image is turned, scaled and moved (as a share of half its side)."""


def train_dual_encoder(
    images: np.ndarray,
    captions: Sequence[Sequence[str]],
    folder: Path,
    *,
    epochs: int,
    seed: int = 0,
    progress: Report | None = None,
) -> Path:
    """Train a small CLIP on captioned images and write it as open_clip's `local-dir:` takes it.

    One core computes, so that the same seed gives the same weights on a machine with any number.

    Args:
        images: (n, s, s, 3) uint8, s a multiple of 32.
        captions: Of each image, those that describe it; one is drawn an epoch.
        folder: A new directory; written whole, or not at all.
        epochs: Passes over the images; 1 or more.
        seed: Of the start, the order, the captions drawn and the images' small turns.
        progress: Called with the fraction done and what is being done.

    Returns:
        The folder, for `--backbone open_clip:local-dir:FOLDER`.

    Raises:
        SettingError: If there are no epochs, or images and captions are not as many.
        FileExistsError: If the directory exists.
        MissingExtraError: If open_clip is not installed.
    """
    open_clip = require("open_clip", "open_clip")
    if epochs < 1:
        raise SettingError(f"epochs is {epochs}; train for 1 or more")
    if len(images) != len(captions) or not all(captions):
        raise SettingError(
            f"there are {len(images)} images and {len(captions)} lists of captions; give each "
            "image one caption or more"
        )
    if images.shape[1:] != (images.shape[1], images.shape[1], 3) or images.shape[1] % _STRIDE:
        raise SettingError(
            f"images are {images.shape[1:]}; give squares (s, s, 3) whose side is a multiple of "
            f"{_STRIDE} pixels"
        )
    tell = progress or silent
    with new_directory(folder) as made, threads_for(0):
        config = _config(images.shape[1])
        (made / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            model = open_clip.CLIP(**config["model_cfg"])
            tokenizer = open_clip.SimpleTokenizer(context_length=_CONTEXT)
            words = sorted({caption for each in captions for caption in each})
            number = {caption: index for index, caption in enumerate(words)}
            _train(
                model,
                open_clip.loss.ClipLoss(),
                _prepared(images, config["preprocess_cfg"]),
                tokenizer(words),
                [np.array([number[caption] for caption in each]) for each in captions],
                epochs,
                np.random.default_rng(seed),
                tell,
            )
        save_checkpoint(
            model.eval(),
            made / "open_clip_model.safetensors",
            training=f"contrastive, by open_clip: {len(images):,} captioned images, {epochs} "
            f"epochs, seed {seed}",
        )
    return folder


def _config(size: int) -> dict[str, Any]:
    """Return open_clip's configuration of the network, for images of a size in pixels."""
    return {
        "model_cfg": {
            "embed_dim": _EMBEDDING,
            "vision_cfg": {
                "image_size": size,
                "layers": [1, 1, 1, 1],
                "width": 8,
                "head_width": 32,
            },
            "text_cfg": {
                "context_length": _CONTEXT,
                "vocab_size": 49408,
                "width": _TEXT_WIDTH,
                "heads": 2,
                "layers": 1,
            },
        },
        "preprocess_cfg": {
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bilinear",
            "resize_mode": "squash",
        },
    }


def _prepared(images: np.ndarray, config: dict[str, Any]) -> Tensor:
    prepares = ImagePreprocessing(
        image_size=images.shape[1], mean=config["mean"], std=config["std"], fit="both"
    )
    pixels = prepares.prepare_as_they_are(images)
    assert pixels is not None
    return pixels


def _train(
    model: Any,
    loss: Any,
    images: Tensor,
    tokens: Tensor,
    captions: list[np.ndarray],
    epochs: int,
    rng: np.random.Generator,
    tell: Report,
) -> None:
    """Train in place.

    Args:
        model: open_clip's.
        loss: Of normalised embeddings and the scale.
        images: (n, 3, s, s), prepared.
        tokens: (c, t) of all different captions.
        captions: Of each image, which of them describe it.
        epochs: Passes over the images.
        rng: Of all draws but the start.
        tell: Called after each epoch.
    """
    optimiser = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    steps = max(len(images) // _BATCH, 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, _LEARNING_RATE, total_steps=epochs * steps
    )
    model.train()
    for epoch in range(epochs):
        tell(epoch / epochs, f"Training images and captions: epoch {epoch + 1} of {epochs}")
        order = rng.permutation(len(images))
        for step in range(steps):
            rows = order[step * _BATCH : (step + 1) * _BATCH]
            drawn = np.array([rng.choice(captions[row]) for row in rows])
            batch = _moved(images[torch.from_numpy(rows)], rng)
            # Tuples of embeddings, normalised, and the scale.
            value = loss(*model(batch, tokens[torch.from_numpy(drawn)])[:3])
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0, _MAX_SCALE)


def _moved(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Return images (n, 3, s, s), each a little turned, scaled and moved."""
    turn, growth, right, down = rng.uniform(-1, 1, size=(4, len(images)))
    angle, scale = turn * _TURN, 1 + growth * _GROWTH
    rows = [
        [np.cos(angle) * scale, -np.sin(angle) * scale, right * _SHIFT],
        [np.sin(angle) * scale, np.cos(angle) * scale, down * _SHIFT],
    ]
    maps = torch.from_numpy(np.array(rows).transpose(2, 0, 1)).to(images.dtype)
    places = functional.affine_grid(maps, list(images.shape), align_corners=False)
    return functional.grid_sample(images, places, padding_mode="border", align_corners=False)
