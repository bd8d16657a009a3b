"""Image files as pixels, and pixels as thumbnails."""

from __future__ import annotations

import io
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from gsr_core.errors import InputError

__all__ = ["THUMBNAIL_SIZE", "decode_image", "thumbnail"]

THUMBNAIL_SIZE = 128
"""Longer side of a thumbnail, in pixels."""


def decode_image(file: Path | io.BytesIO) -> np.ndarray:
    """Return an image as (H, W, 3) uint8, upright as its camera noted.

    Palette, grey, CMYK and 16-bit images are converted; transparency is dropped, as torchvision's
    loader does it. 16-bit grey keeps its range: it is divided by 257 rather than cut at 255. Grey
    of floating point is taken for a share of white if no pixel is above 1.

    Raises:
        InputError: If the file is missing, empty, truncated, or no image.
    """
    if isinstance(file, Path):
        # A name that is too long or has a null byte is an error of its own.
        try:
            size = file.stat().st_size if file.is_file() else None
        except (OSError, ValueError) as error:
            raise InputError(f"the file cannot be opened ({error.args[-1]})") from error
        if size is None:
            raise InputError("there is no such file")
        if size == 0:
            raise InputError("the file is empty")
    # Pillow's decoders raise nearly anything for a damaged image.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file) as image:
                image.load()
                # A camera's note may be damaged where the image is not.
                with suppress(Exception):
                    ImageOps.exif_transpose(image, in_place=True)
                if image.mode.startswith(("I", "F")):
                    return _from_deep_grey(
                        np.asarray(image, np.float64), whole=image.mode[0] == "I"
                    )
                # Copied, so that it can be written to: torch warns of arrays that cannot.
                return np.array(image.convert("RGB"))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if "cannot identify" in reason:
            reason = "it is not an image of a known format"
        raise InputError(reason[:150]) from error


def _from_deep_grey(grey: np.ndarray, *, whole: bool) -> np.ndarray:
    if whole:
        scaled = np.clip(grey, 0, 65535) / 257
    else:
        grey = np.nan_to_num(grey)
        scaled = np.clip(grey * 255 if grey.max() <= 1 else grey, 0, 255)
    return np.repeat(scaled.round().astype(np.uint8)[:, :, None], 3, axis=2)


def thumbnail(item: Any) -> bytes | None:
    """Return a small encoded image of one input (WebP bytes); None if it is not an image."""
    if not isinstance(item, np.ndarray) or item.ndim != 3:
        return None
    image = Image.fromarray(item)
    image.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    encoded = io.BytesIO()
    image.save(encoded, "WEBP", quality=80)
    return encoded.getvalue()
