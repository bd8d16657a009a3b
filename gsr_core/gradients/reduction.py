"""Many columns reduced to few: leading directions of a matrix, with a sign of their own."""

from __future__ import annotations

import numpy as np
from torch import Tensor

__all__ = ["N_COLUMNS", "as_array", "leading", "reduce_columns"]

N_COLUMNS = 50
"""Columns that UMAP and the search for approximate neighbours work on."""

_MAX_EIGH = 1024
"""Up to so many columns it is an eigenvalue problem, solved exactly; above, randomised."""


def as_array(matrix: Tensor | np.ndarray) -> np.ndarray:
    """Return a matrix as a numpy array, wherever it is."""
    return matrix.detach().cpu().numpy() if isinstance(matrix, Tensor) else matrix


def reduce_columns(matrix: np.ndarray, *, centred: bool, seed: int = 0) -> np.ndarray:
    """Return the rows along their 50 leading directions; as they are if they have no more columns.

    Args:
        matrix: (n, r).
        centred: Take the mean row away first: principal components. Not where angles between rows
            matter, which that would change.
        seed: Of the random start that more than 1,024 columns need.

    Returns:
        (n, min(r, 50)) float32.
    """
    if matrix.shape[1] > N_COLUMNS:
        matrix = leading(matrix, N_COLUMNS, centred=centred, seed=seed)
    return np.ascontiguousarray(matrix, dtype=np.float32)


def leading(matrix: np.ndarray, count: int, *, centred: bool, seed: int = 0) -> np.ndarray:
    """Return the (n, count) rows along leading directions; zeros where there are fewer.

    Each direction's largest loading is positive, so that a picture does not flip.

    Args:
        matrix: (n, r).
        count: How many directions.
        centred: Take the mean row away first.
        seed: Of the random start that more than 1,024 columns need; rounding apart, it does not
            show.
    """
    if not matrix.size:
        return np.zeros((len(matrix), count), dtype=matrix.dtype)
    if centred:
        matrix = matrix - matrix.mean(axis=0)
    if matrix.shape[1] <= _MAX_EIGH:
        _, vectors = np.linalg.eigh((matrix.T @ matrix).astype(np.float64))
        directions = vectors[:, ::-1][:, :count]
    else:
        # Not above: importing scikit-learn would keep the dashboard's first page waiting.
        from sklearn.utils.extmath import randomized_svd

        _, _, rows = randomized_svd(matrix, min(count, *matrix.shape), random_state=seed)
        directions = rows.T
    largest = np.abs(directions).argmax(axis=0)
    signs = np.sign(directions[largest, np.arange(directions.shape[1])])
    scores = matrix @ (directions * signs).astype(matrix.dtype)
    return np.pad(scores, ((0, 0), (0, count - scores.shape[1])))
