"""Draws that the controlled sets have in common: shares, other classes, splits and colours."""

from __future__ import annotations

import numpy as np

__all__ = ["another", "by_split", "carve", "cells", "paint", "spread"]


def spread(strata: np.ndarray, share: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Choose a share of every stratum at random, to the nearest whole number of rows.

    Args:
        strata: (n,) integers.
        share: (n,) shares in [0, 1], the same within a stratum or a part of it that is meant to
            have a share of its own.
        rng: Of the draw.

    Returns:
        (n,) bool.
    """
    mask = np.zeros(len(strata), dtype=bool)
    _, cell = np.unique(np.stack([strata, share]), axis=1, return_inverse=True)
    for each in range(cell.max() + 1):
        rows = np.flatnonzero(cell == each)
        count = round(float(share[rows[0]]) * len(rows))
        mask[rng.permutation(rows)[:count]] = True
    return mask


def another(values: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return for each value one of the other n - 1, uniformly; (k,) integers below n."""
    return (values + rng.integers(1, n, size=len(values))) % n


def carve(in_test: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Return split words: the test part stays, a share of the others becomes validation."""
    split = np.where(in_test, "test", "train").astype("U10")
    rows = np.flatnonzero(~in_test)
    split[rng.permutation(rows)[: round(share * len(rows))]] = "validation"
    return split


def paint(grey: np.ndarray, ink: np.ndarray) -> np.ndarray:
    """Return grey images in a colour each, the background black.

    Args:
        grey: (n, H, W) uint8.
        ink: (n, 3) uint8.

    Returns:
        (n, H, W, 3) uint8: their product, 255 being one.
    """
    images = np.empty((*grey.shape, 3), dtype=np.uint8)
    for start in range(0, len(grey), 4096):
        part = slice(start, start + 4096)
        product = grey[part, :, :, None] * ink[part, None, None, :].astype(np.uint16)
        images[part] = (product + 127) // 255
    return images


def cells(split: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return an integer for every combination of split and label."""
    return np.unique(split, return_inverse=True)[1] * (label.max() + 1) + label


def by_split(split: np.ndarray, train: float, validation: float, test: float) -> np.ndarray:
    """Return each row's value, given the value of each split."""
    return np.select([split == "train", split == "validation"], [train, validation], test)
