"""Image files to show beside features that were computed elsewhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from gsr_core.data.inputs import ImageFiles, escapes

__all__ = ["shown_images"]

SUSPICIOUS = re.compile(r"\.\.|:|^[/\\]")
"""Matches every path that leaves its folder, and few others."""


def shown_images(
    paths: Sequence[str] | pd.Series, folder: Path, *, where: str
) -> tuple[ImageFiles | None, list[str]]:
    """Return the images of a column of paths; a path that leaves the folder is left out.

    Args:
        paths: n paths relative to the folder; empty or missing for none.
        folder: The folder.
        where: What to call it in a note.

    Returns:
        n images, with an empty name where there is none, or None if there are none at all; and
        notes for the user.
    """
    names = [path if isinstance(path, str) else "" for path in paths]
    # Parsing a million paths takes ten seconds, and hardly one can leave its folder.
    away = {path for path in names if path and SUSPICIOUS.search(path) and escapes(path)}
    outside = [path for path in names if path in away]
    inside = ["" if path in away else path for path in names] if away else names
    notes = []
    if outside:
        notes.append(
            f"Images outside {where}, so without a thumbnail: {len(outside)} (first: {outside[0]})."
        )
    return (ImageFiles(folder, inside, gaps=True) if any(inside) else None), notes
