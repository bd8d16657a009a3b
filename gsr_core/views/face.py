"""How a sample looks: its image, its text, or the values of its row, the same on every page."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from PIL import Image

from gsr_core.data.bundle import Bundle
from gsr_core.views.charts import plain, show_rows

__all__ = ["face", "face_in_full", "picture", "strip"]

_SHARP = 96
"""Images whose shorter side is below this are enlarged by whole pixels, to stay sharp."""

_PAIR = ("First text", "Second text")

_LETTERS = 160
"""Letters of a text, or of each of a pair, on a card."""

_VALUES = 5
"""Values of a row on a card."""


def picture(bundle: Bundle, row: int) -> bytes | None:
    """Return a sample's image as encoded bytes, large enough to look at, or None."""
    return _enlarged(str(bundle.path), bundle.manifest.digest, row, bundle)


@st.cache_data(max_entries=4096, show_spinner=False)
def _enlarged(path: str, digest: str, row: int, _bundle: Bundle) -> bytes | None:
    encoded = _bundle.thumbnail(row)
    if encoded is None:
        return None
    image = Image.open(io.BytesIO(encoded))
    shorter = min(image.size)
    if shorter >= _SHARP:
        return encoded
    factor = -(-2 * _SHARP // shorter)
    enlarged = image.convert("RGB").resize(
        (image.width * factor, image.height * factor), Image.Resampling.NEAREST
    )
    output = io.BytesIO()
    enlarged.save(output, "PNG")
    return output.getvalue()


def face(bundle: Bundle, row: int, *, alt: str, width: int | None = None) -> bool:
    """Draw a sample in small; return whether there was anything to draw.

    Args:
        bundle: The data.
        row: Position in the bundle.
        alt: What an image shows, for those who cannot see it.
        width: Of an image, in pixels; as wide as there is room if None.
    """
    image = picture(bundle, row)
    if image is not None:
        st.image(image, width=width or "stretch", alt=alt)
        return True
    if texts := bundle.texts(row):
        for place, text in enumerate(texts):
            if len(texts) > 1:
                st.caption(_PAIR[place])
            st.text(text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…")
        return True
    values = _values(bundle, row)
    if values:
        lines = [f"{plain(name)} **{plain(value)}**" for name, value in [*values.items()][:_VALUES]]
        more = [f"and {len(values) - _VALUES} more"] * (len(values) > _VALUES)
        st.caption("  \n".join([*lines, *more]))
    return bool(values)


def face_in_full(bundle: Bundle, row: int, *, alt: str) -> None:
    """Draw all that there is of a sample: its image, its texts, the values of its row."""
    image, texts, values = picture(bundle, row), bundle.texts(row), _values(bundle, row)
    if image is not None:
        st.image(image, width="stretch", alt=alt)
    for place, text in enumerate(texts):
        if len(texts) > 1:
            st.caption(_PAIR[place])
        st.text(text)
    if values:
        show_rows(
            {"column": list(values), "value": [str(value) for value in values.values()]},
            height="content" if len(values) <= 12 else 440,
            key=f"values of {row}",
        )
    if image is None and not texts and not values:
        st.caption("This bundle has no image, text or table of the sample.")


def strip(bundle: Bundle, rows: np.ndarray, label: str, *, width: int) -> None:
    """Draw some samples side by side: their images, or a table of their texts or values.

    Args:
        bundle: The data.
        rows: (q,) positions in the bundle.
        label: What they are, for those who cannot see them.
        width: Of an image, in pixels.
    """
    images = [image for row in rows if (image := picture(bundle, int(row))) is not None]
    if images:
        # In one element: each costs server and browser more than its image does.
        st.image(images, width=width, alt=[f"{label}, {n}" for n in range(1, len(images) + 1)])
        return
    if len(rows) and (words := bundle.in_words(rows, letters=200)):
        texts = bundle.texts(int(rows[0]))
        heading = " · ".join(_PAIR) if len(texts) > 1 else "text" if texts else "values"
        names = bundle.column("sample_id").take(rows).to_pandas()
        show_rows(
            pd.DataFrame({"sample": names, heading: words}),
            height="content",
            key=f"strip of {label}",
            alt=label,
        )


def _values(bundle: Bundle, row: int) -> dict[str, Any]:
    """Return the values of a sample's row; "–" where there is none."""
    values = bundle.values(row)
    return {name: "–" if value in (None, "") else value for name, value in values.items()}
