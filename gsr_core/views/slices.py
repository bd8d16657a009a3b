"""Slices: sets of samples that a user picked out, small enough to travel in a URL by name."""

from __future__ import annotations

import hashlib

import numpy as np

from gsr_core.files import replace_file
from gsr_core.workspace import Workspace

__all__ = ["load_slice", "save_slice"]


def save_slice(workspace: Workspace, rows: np.ndarray) -> str:
    """Keep a set of positions in a bundle and return its name, made from its content."""
    positions = np.unique(np.asarray(rows, dtype=np.int64))
    name = hashlib.sha256(positions.tobytes()).hexdigest()[:12]
    workspace.slices.mkdir(parents=True, exist_ok=True)
    with replace_file(workspace.slices / f"{name}.npy") as temporary, temporary.open("wb") as file:
        np.save(file, positions)
    return name


def load_slice(workspace: Workspace, name: str) -> np.ndarray | None:
    """Return the positions of a slice, or None if there is no slice of that name."""
    file = workspace.slices / f"{name}.npy"
    if not name.isalnum() or not file.exists():
        return None
    return np.load(file, allow_pickle=False)
