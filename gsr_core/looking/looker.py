"""One sample as a run's network and head look at it: a map of its image, or marks on its words.

Scores are taken less their mean over the classes, and so are the rows of a head: the probabilities
do not change, and maps of heads that differ by a row which all classes share are the same. With
two classes, what speaks for the one speaks as much against the other.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
import torch

from gsr_core.compute import pick
from gsr_core.data.bundle import Bundle
from gsr_core.errors import InputError, SettingError
from gsr_core.features.forward import Forward
from gsr_core.features.preprocessing import ImagePreprocessing
from gsr_core.looking.layers import Layer, class_maps, find_layer
from gsr_core.looking.words import word_effects
from gsr_core.runs.behind import Behind, open_behind
from gsr_core.runs.store import Run

__all__ = ["ImageLook", "Looker", "TextLook", "centred_head", "look", "network_key", "open_looker"]

_BATCH = 32


@dataclass(frozen=True)
class ImageLook:
    """Where in an image the scores of a head come from.

    Attributes:
        seen: (H, W, 3) uint8, what the network sees of the image.
        maps: (K, h, w) nats: how much each place adds to each class's centred score.
        bias: (K,) of the head, centred.
        pooled: The maps add up to the centred scores less the bias.
        layer: Name of the layer in the network.
    """

    seen: np.ndarray
    maps: np.ndarray
    bias: np.ndarray
    pooled: bool
    layer: str

    @property
    def scores(self) -> np.ndarray:
        """(K,) centred scores, where the maps add up to them."""
        return self.maps.sum(axis=(1, 2)) + self.bias

    def drawn(self, most: int) -> np.ndarray:
        """Return the maps between their places too, by bilinear interpolation.

        Args:
            most: Numbers a side at most; no more than the network sees pixels.

        Returns:
            (K, side, side), nats a place of the layer.
        """
        return stretched(self.maps, min(most, len(self.seen)))


@dataclass(frozen=True)
class TextLook:
    """Which words of a text, or of the two of a pair, the scores of a head come from.

    Attributes:
        pieces: Of each text; joined, they are the text.
        effects: For each text (K, pieces) nats: each class's centred score with the piece less
            the one without it.
    """

    pieces: list[list[str]]
    effects: list[np.ndarray]

    def strongest(self, k: int) -> float:
        """Return the largest effect of a piece on the score of class k, without its sign."""
        return max(float(np.abs(effects[k]).max()) for effects in self.effects)


@dataclass(frozen=True)
class Looker:
    """A network behind runs, opened to be looked into. Only one thread uses it at a time.

    Attributes:
        behind: The network and its inputs.
        layer: Whose places are looked at; None where the inputs are texts.
        seconds: About how long an image takes with one head.
    """

    behind: Behind
    layer: Layer | None
    seconds: float
    device: torch.device
    lock: Lock = field(default_factory=Lock)

    @property
    def preprocessing(self) -> ImagePreprocessing:
        """What the network does to an image; only where it takes images."""
        found = self.behind.backbone.preprocessing
        assert isinstance(found, ImagePreprocessing)
        return found

    def for_heads(self, count: int) -> float:
        """Return about how many seconds an image takes with so many heads.

        Grad-CAM goes back through the network for each class of each head; class activation maps
        of all heads are one product.
        """
        return self.seconds if self.layer is None or self.layer.pooled else count * self.seconds

    def maps(self, images: list[np.ndarray], weight: np.ndarray) -> np.ndarray:
        """Return the maps of images (H, W, 3) uint8 for a head, or for several.

        Args:
            images: At least one.
            weight: (K, d), those of several heads one below the other.

        Returns:
            (n, K, h, w) nats.
        """
        assert self.layer is not None
        prepare, trunk = self.preprocessing, self.behind.backbone.trunk
        with self.lock:
            batch = prepare.collate([prepare.prepare(image) for image in images])
            rows = torch.from_numpy(weight).to(self.device)
            found, _ = class_maps(trunk, self.layer, batch.to(self.device), rows)
        return found.cpu().numpy()


def stretched(maps: np.ndarray, pixels: int) -> np.ndarray:
    """Return maps (K, h, w) as (K, pixels, pixels), by bilinear interpolation."""
    size = (pixels, pixels)
    batch = torch.from_numpy(maps)[None]
    return torch.nn.functional.interpolate(batch, size, mode="bilinear")[0].numpy()


def centred_head(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Return weight (K, d) and bias (K,) of a run's kept head, float32, less their mean over K.

    Raises:
        RunStateError: If it has no head yet.
    """
    weight, bias = run.kept_head()
    return weight - weight.mean(axis=0), bias - bias.mean()


def network_key(run: Run, bundle: Bundle | None = None) -> str:
    """Return what names the network behind a run: that of its bundle, or its own.

    Args:
        run: A run that has ended.
        bundle: One of the same samples and features that stands for its bundle.
    """
    if run.features_file.exists():
        return f"{run.run_id} {run.stored_state().best_step}"
    return run.config.bundle_digest if bundle is None else bundle.manifest.digest


def open_looker(run: Run, bundle: Bundle | None = None, device: str = "auto") -> Looker:
    """Open the network behind a run.

    Args:
        run: A run that has ended.
        bundle: Its bundle, if it is open already.
        device: Where to compute.

    Raises:
        SettingError: If there is no network, or it has no places and takes no texts.
        BundleError: If its inputs have changed.
        GsrError: If its weights, its library or the device are not there.
    """
    bundle = bundle or run.unchanged_bundle()
    behind = open_behind(run, bundle, purpose="look into; import the inputs with --backbone")
    where, backbone = pick(device).device, behind.backbone
    backbone.trunk.to(where)
    if backbone.modality == "text":
        return Looker(behind, None, 0.0, where)
    if not isinstance(backbone.preprocessing, ImagePreprocessing):
        raise SettingError(
            f"the network of bundle '{bundle.name}' takes rows of numbers, which have neither "
            "places nor words; where it looks is shown of images and texts"
        )
    prepare, rows = backbone.preprocessing, behind.rows[:2]
    images = [prepare.prepare(behind.source.inputs.load(int(row))) for row in rows]
    batch = prepare.collate(images).to(where)
    layer = find_layer(backbone.trunk, batch)
    begun = time.perf_counter()
    class_maps(backbone.trunk, layer, batch, torch.from_numpy(centred_head(run)[0]).to(where))
    return Looker(behind, layer, (time.perf_counter() - begun) / len(batch), where)


def look(run: Run, row: int, looker: Looker | None = None) -> ImageLook | TextLook:
    """Return where a run's network looks in one sample.

    Args:
        run: A run that has ended.
        row: Position in its bundle.
        looker: Of its network, if it is open already.

    Raises:
        RunStateError: If the run has no head yet.
        InputError: If the input cannot be read.
        GsrError: As `open_looker`.
    """
    weight, bias = centred_head(run)
    looker = looker or open_looker(run)
    item = load_input(looker.behind, row)
    if looker.layer is None:
        return TextLook(*word_effects(_texts(item), lambda texts: _scores(looker, texts, weight)))
    seen = np.asarray(looker.preprocessing.seen(item))
    maps = looker.maps([item], weight)[0]
    return ImageLook(seen, maps, bias, looker.layer.pooled, looker.layer.name)


def load_input(behind: Behind, row: int) -> Any:
    """Return the input of a row.

    Raises:
        InputError: If it cannot be read; the sentence names it.
    """
    inputs = behind.source.inputs
    try:
        return inputs.load(row)
    except InputError as error:
        raise InputError(
            f"the input {inputs.name(row)} cannot be read: {error}; bring it back"
        ) from error


def _texts(item: str | tuple[str, str]) -> tuple[str, ...]:
    return (item,) if isinstance(item, str) else tuple(item)


def _scores(looker: Looker, texts: list[tuple[str, ...]], weight: np.ndarray) -> np.ndarray:
    """Return (n, K) scores of texts, without the bias, which no word changes."""
    backbone = looker.behind.backbone
    prepare = backbone.preprocessing
    items = [prepare.prepare(each[0] if len(each) == 1 else each) for each in texts]
    found = []
    with looker.lock:
        forward = Forward(backbone, looker.device, "float32")
        with forward.ready():
            for start in range(0, len(items), _BATCH):
                found.append(forward(prepare.collate(items[start : start + _BATCH]))())
    return np.concatenate(found) @ weight.T
