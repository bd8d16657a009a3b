"""What a network will see of images, before anything is computed.

A centre crop is silent: the features of what it cuts away are simply not there. So the loss is
shown and, where it is large, said, before an import and among the notes of its bundle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gsr_core.data.inputs import Inputs
from gsr_core.data.pixels import thumbnail
from gsr_core.errors import InputError
from gsr_core.ingest.plan import BackboneChoice

if TYPE_CHECKING:
    from gsr_core.features.preprocessing import ImagePreprocessing

__all__ = ["Sight", "crop_warning", "image_preprocessing", "sights"]

MOST_LOST = 0.15
"""Share of an image that a crop may lose beyond what a square image loses, without a warning."""

USUAL_MARGIN = 0.25
"""Share of a square image that published networks leave out at most: 224 of 256 pixels are 0.23."""

_LOOKED_AT = 48
"""Images whose shapes are looked at."""


@dataclass(frozen=True)
class Sight:
    """One image, and what the network sees of it.

    Attributes:
        name: Of the image.
        image: The whole image, encoded.
        seen: What the network sees, encoded.
        kept: Share of the image that it sees.
    """

    name: str
    image: bytes
    seen: bytes
    kept: float


def image_preprocessing(choice: BackboneChoice, *, load: bool = False) -> ImagePreprocessing | None:
    """Return what a network does to an image; None if it takes something else, or is not known.

    Args:
        choice: The network.
        load: Load it if that is the only way to know, which may take long and download it.

    Raises:
        GsrError: If the network or a setting of its preprocessing is not allowed.
    """
    from gsr_core.features.backbones import default_preprocessing, load_network
    from gsr_core.features.preprocessing import ImagePreprocessing, override

    if choice.name.partition(":")[0] in ("simconv1", "torchvision"):
        found = override(default_preprocessing(choice.name, choice.weights), choice.overrides)
    elif load:
        found = load_network(**choice.call(), n_classes=2).preprocessing
    else:
        return None
    return found if isinstance(found, ImagePreprocessing) else None


def sights(preprocessing: ImagePreprocessing, inputs: Inputs, count: int = 6) -> list[Sight]:
    """Return the first images and what the network sees of them; unreadable ones are left out."""
    found = []
    for row in range(min(count, len(inputs))):
        try:
            pixels = inputs.load(row)
            whole, seen = thumbnail(pixels), thumbnail(np.asarray(preprocessing.seen(pixels)))
        except InputError:
            continue
        if whole is not None and seen is not None:
            height, width = pixels.shape[:2]
            found.append(Sight(inputs.name(row), whole, seen, preprocessing.kept(width, height)))
    return found


def crop_warning(preprocessing: ImagePreprocessing, inputs: Inputs) -> str:
    """Return a sentence if the crop loses much of the images, else "".

    What counts is the loss beyond that of a square image: networks are published with a margin
    around the centre, which they were trained with. A margin that no published network has counts
    as well.

    Args:
        preprocessing: Of the network.
        inputs: Images, of which some, spread over all, are looked at.
    """
    rows = np.unique(np.linspace(0, len(inputs) - 1, min(_LOOKED_AT, len(inputs))).astype(int))
    lost = []
    for row in rows.tolist():
        try:
            height, width = inputs.load(row).shape[:2]
        except InputError:
            continue
        lost.append(1 - preprocessing.kept(width, height))
    square = preprocessing.kept(1000, 1000)
    usual = 1 - square <= USUAL_MARGIN
    limit = 1 - (1 - MOST_LOST) * square if usual else MOST_LOST
    much = [share for share in lost if share > limit]
    if not much:
        return ""
    return (
        f"The centre crop loses up to {max(much):.0%} of an image: of {len(lost)} images looked "
        f"at, {len(much)} lose more than {limit:.0%}. Prepare them with fit=longest to see whole "
        "images with black beside them, or with fit=both to see them without their shape "
        "(--preprocess fit=both)."
    )
