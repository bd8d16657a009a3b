r"""Properties of one image or text that are cheap to measure and that classifiers often lean on.

Of an image, scaled to at most 256 pixels a side, with R, G, B and the luma :math:`Y = 0.299 R +
0.587 G + 0.114 B` in [0, 1]:

- *brightness* and *contrast*: mean and standard deviation of Y;
- *saturation*: :math:`\sum (\max - \min) / \sum \max` over the pixels and their three channels, in
  [0, 1], so that black pixels do not count;
- *hue*: the part of the colour circle with most chroma :math:`\max - \min`, in words; `none` where
  the mean chroma is below 0.04;
- *sharpness*: the variance of the Laplacian of Y, which blur lowers (Pech-Pacheco et al., "Diatom
  autofocusing in brightfield microscopy", ICPR 2000);
- *border brightness* and *border hue*: the same of the outer twentieth on each side;
- *pixels* and *aspect* (width by height) of the image as it came.

Of a text: *words*, *negation* (English words), *punctuation* and *capitals* (shares of its
characters and of its letters), whether there is a *question mark* or an *exclamation mark*, the
*script* of most letters, and the *language* (its code of ISO 639, `unknown` where the most likely
one has a probability below 0.3) by the model of Lui and Baldwin ("langid.py: An Off-the-shelf
Language Identification Tool", ACL 2012). Of a pair, those of each text, and the *overlap*: the
share of the second one's words that the first has.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

__all__ = ["VERSION", "Value", "image_properties", "text_properties"]

VERSION = 2
"""To be raised when a property is measured in another way: what was kept is then measured anew."""

Value = float | str

_LONGEST = 256
_BORDER = 0.05
"""Share of each side that is border; one pixel at least."""
_COLOURLESS = 0.04
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_STARTS = np.array([15.0, 45.0, 75.0, 165.0, 195.0, 255.0, 330.0])
"""Degrees at which a part of the colour circle ends and the next begins; red goes on over 360."""
_HUES = ("red", "orange", "yellow", "green", "cyan", "blue", "purple")

_NEGATION = re.compile(
    r"\b(?:no|not|never|none|nobody|nothing|nowhere|neither|nor|cannot|without)\b|n['’]t\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"\w+(?:['’]\w+)*")
_LETTERS = 2000
"""Letters by which script and language are told."""
_LEAST_SURE = 0.3
_UNSURE = "und"
"""What the model says of a text below that."""


def image_properties(pixels: np.ndarray, *, original: bool = True) -> dict[str, Value]:
    """Measure an image.

    Args:
        pixels: (H, W, 3) uint8.
        original: Whether it is the image as it came; of a thumbnail, sharpness and pixels say
            nothing and are left out.

    Returns:
        The properties by name; sharpness is NaN below three pixels a side.
    """
    height, width = pixels.shape[:2]
    image = Image.fromarray(pixels)
    image.thumbnail((_LONGEST, _LONGEST), Image.Resampling.BOX)
    colours = np.asarray(image, dtype=np.float32) / 255
    luma = colours @ _LUMA
    high = colours.max(axis=2)
    chroma = high - colours.min(axis=2)
    border = _border(luma.shape)
    total = float(high.sum())
    found: dict[str, Value] = {
        "brightness": float(luma.mean()),
        "contrast": float(luma.std()),
        "saturation": float(chroma.sum()) / total if total else 0.0,
        "hue": _hue(colours, high, chroma),
        "border brightness": float(luma[border].mean()),
        "border hue": _hue(colours[border], high[border], chroma[border]),
        "aspect": width / height,
    }
    if original:
        found |= {"sharpness": _sharpness(luma), "pixels": float(width * height)}
    return found


def text_properties(parts: Sequence[str]) -> dict[str, Value]:
    """Measure a text, or a pair of texts.

    Args:
        parts: One text, or two.

    Returns:
        The properties by name, those of a pair's texts after `first` and `second`.

    Example:
        >>> found = text_properties(["Nobody came?", "Somebody came."])
        >>> found["first negation"], found["second negation"], found["overlap"]
        ('yes', 'no', 0.5)
    """
    if len(parts) == 1:
        return _text(parts[0])
    names = ("first", "second")
    found = {
        f"{name} {key}": value
        for name, part in zip(names, parts, strict=True)
        for key, value in _text(part).items()
    }
    first, second = ([word.lower() for word in _WORD.findall(part)] for part in parts)
    known = set(first)
    shared = sum(word in known for word in second)
    return {**found, "overlap": shared / len(second) if second else float("nan")}


def _text(text: str) -> dict[str, Value]:
    letters = [each for each in text if each.isalpha()]
    marks = sum(unicodedata.category(each).startswith("P") for each in text)
    scripts = Counter(_script(each) for each in letters[:_LETTERS])
    return {
        "words": float(len(_WORD.findall(text))),
        "negation": _yes(_NEGATION.search(text) is not None),
        "punctuation": marks / len(text) if text else 0.0,
        "capitals": sum(map(str.isupper, letters)) / len(letters) if letters else 0.0,
        "question mark": _yes("?" in text),
        "exclamation mark": _yes("!" in text),
        "script": scripts.most_common(1)[0][0] if scripts else "none",
        "language": _language(text[:_LETTERS]),
    }


def _language(text: str) -> str:
    code, _ = _identifier().classify(text)
    return "unknown" if code == _UNSURE else code


@cache
def _identifier() -> LanguageIdentifier:
    # Pages import this module, and few of them measure anything.
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(
        MODEL_FILE, norm_probs=True, min_confidence=_LEAST_SURE
    )


def _script(letter: str) -> str:
    """Return the writing system of a letter: the first word of its name in Unicode."""
    return unicodedata.name(letter, "other").partition(" ")[0].lower()


def _yes(there: bool) -> str:
    return "yes" if there else "no"


def _border(shape: tuple[int, ...]) -> np.ndarray:
    """Return (H, W) bool: which pixels are border."""
    inside = np.ones(shape, dtype=bool)
    for axis, length in enumerate(shape):
        wide = max(round(_BORDER * length), 1)
        along = np.arange(length)
        kept = (along >= wide) & (along < length - wide)
        inside &= np.expand_dims(kept, 1 - axis)
    return ~inside


def _hue(colours: np.ndarray, high: np.ndarray, chroma: np.ndarray) -> str:
    """Return the part of the colour circle with most chroma.

    Args:
        colours: (..., 3) in [0, 1].
        high: (...) their largest channel.
        chroma: (...) their largest less their smallest channel.
    """
    if chroma.mean() < _COLOURLESS:
        return "none"
    coloured = chroma > 0
    red, green, blue = colours[coloured].T
    top, span = high[coloured], chroma[coloured]
    sixth = np.where(
        top == red,
        (green - blue) / span,
        np.where(top == green, 2 + (blue - red) / span, 4 + (red - green) / span),
    )
    part = np.searchsorted(_STARTS, 60 * sixth % 360, side="right") % len(_STARTS)
    return _HUES[int(np.bincount(part, weights=span).argmax())]


def _sharpness(luma: np.ndarray) -> float:
    if min(luma.shape) < 3:
        return float("nan")
    middle = luma[1:-1, 1:-1]
    around = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    return float((around - 4 * middle).var())
