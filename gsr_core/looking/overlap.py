r"""AIoU: whether the map of the right class lies on the object more than those of the others do.

From the UCLA thesis "Data-efficient and Robust Deep Learning from Large Vision and Language Data",
chapter 7: of maps :math:`M_k` in [0, 1] and the object's region B in {0, 1},

.. math:: \mathrm{IoU}(M, B) = \frac{\sum \min(M, B)}{\sum \max(M, B)}, \qquad
          \mathrm{AIoU} = \frac{\mathrm{IoU}(M_y, B)}
          {\mathrm{IoU}(M_y, B) + \max_{k \ne y} \mathrm{IoU}(M_k, B)}.

It is in [0, 1]; 0.5 says that another class explains the region as well as the right one. The
paper leaves open how maps are scaled and what 0 / 0 is: here each map is cut at zero and brought
from its own least and largest value to 0 and 1, a map without contrast is zero everywhere, and
AIoU is 0.5 where both overlaps are 0.
"""

from __future__ import annotations

import numpy as np

__all__ = ["aiou", "iou", "scaled"]


def scaled(maps: np.ndarray) -> np.ndarray:
    """Return maps (..., h, w) without what is below zero, each from its own least to 0 to 1."""
    positive = np.maximum(maps, 0)
    least = positive.min(axis=(-2, -1), keepdims=True)
    spread = positive.max(axis=(-2, -1), keepdims=True) - least
    return np.divide(positive - least, spread, out=np.zeros_like(positive), where=spread > 0)


def iou(maps: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Return the overlap of maps (..., h, w) in [0, 1] with a region (h, w), each in [0, 1].

    Two that are empty do not overlap: 0.
    """
    common = np.minimum(maps, region).sum(axis=(-2, -1))
    either = np.maximum(maps, region).sum(axis=(-2, -1))
    return np.divide(common, either, out=np.zeros_like(either, dtype=float), where=either > 0)


def aiou(maps: np.ndarray, region: np.ndarray, y: int) -> tuple[float, int]:
    """Return AIoU of one sample and the class whose map rivals the right one.

    Args:
        maps: (K, h, w) in [0, 1], as `scaled` gives them; at least two classes.
        region: (h, w) bool, where the object is.
        y: The right class.

    Example:
        >>> left, right = np.eye(2)[:, None]
        >>> aiou(np.stack([left, right]), left > 0, 0)
        (1.0, 1)
    """
    overlaps = iou(maps, region.astype(float))
    rivals = overlaps.copy()
    rivals[y] = -1
    rival = int(rivals.argmax())
    total = overlaps[y] + overlaps[rival]
    return float(overlaps[y] / total) if total > 0 else 0.5, rival
