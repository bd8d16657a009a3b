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

__all__ = ["MAX_PIXELS", "THUMBNAIL_SIZE", "decode_image", "thumbnail"]

MAX_PIXELS = 2**26
"""Most pixels of an image that is read (8,192 × 8,192).

A file of some kilobytes can claim many more, and each process that reads images needs up to 14
bytes for every pixel, at this limit a gigabyte.
"""

THUMBNAIL_SIZE = 128
"""Longer side of a thumbnail, in pixels."""


def decode_image(file: Path | io.BytesIO) -> np.ndarray:
    """Return an image as (H, W, 3) uint8, upright as its camera noted.

    Palette, grey, CMYK and 16-bit images are converted; transparency is dropped, as torchvision's
    loader does it. 16-bit grey keeps its range: it is divided by 257 rather than cut at 255. Grey
    of floating point is taken for a share of white if no pixel is above 1.

    Raises:
        InputError: If the file is missing, empty, truncated, no image, or has more pixels than
            `MAX_PIXELS`.
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
                _check_size(*image.size)
                image.load()
                # A camera's note may be damaged where the image is not.
                with suppress(Exception):
                    ImageOps.exif_transpose(image, in_place=True)
                if image.mode.startswith(("I", "F")):
                    return _from_deep_grey(np.asarray(image), whole=image.mode[0] == "I")
                # Copied, so that it can be written to: torch warns of arrays that cannot.
                return np.array(image.convert("RGB"))
    except InputError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if "cannot identify" in reason:
            reason = "it is not an image of a known format"
        raise InputError(reason[:150]) from error


def _check_size(width: int, height: int) -> None:
    """Check that an image can be read in reasonable memory.

    Raises:
        InputError: If it cannot.
    """
    if width * height > MAX_PIXELS:
        raise InputError(
            f"it has {width:,} × {height:,} pixels; at most {MAX_PIXELS:,} in all are read: make "
            "it smaller"
        )


def _from_deep_grey(grey: np.ndarray, *, whole: bool) -> np.ndarray:
    # A share of white, unless a pixel is above 1.
    factor = 255 if not whole and np.nanmax(grey, initial=0) <= 1 else 1
    image = np.empty((*grey.shape, 3), np.uint8)
    # In strips: in float64, all at once would take several times the memory of the image.
    for start in range(0, len(grey), _STRIP):
        strip = grey[start : start + _STRIP].astype(np.float64)
        if whole:
            scaled = np.clip(strip, 0, 65535) / 257
        else:
            scaled = np.clip(np.nan_to_num(strip) * factor, 0, 255)
        image[start : start + _STRIP] = scaled.round()[:, :, None]
    return image


_STRIP = 256


def thumbnail(item: Any) -> bytes | None:
    """Return a small encoded image of one input (WebP bytes); None if it is not an image."""
    if not isinstance(item, np.ndarray) or item.ndim != 3:
        return None
    image = Image.fromarray(item)
    image.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    encoded = io.BytesIO()
    image.save(encoded, "WEBP", quality=80)
    return encoded.getvalue()
