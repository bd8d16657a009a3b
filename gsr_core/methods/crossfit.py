"""Cross-fitting: logits of rows by heads that did not learn from them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gsr_core.data.problem import Rows
from gsr_core.linear.objective import times
from gsr_core.methods.draws import per_row
from gsr_core.methods.inner import InnerProblem

__all__ = ["crossfitted_logits", "draw_folds"]


def draw_folds(rows: Rows, n_folds: int, generator: np.random.Generator) -> np.ndarray:
    """Deal the rows into folds, each with its share of every class.

    Args:
        rows: (n,) rows; only their labels and positions are read.
        n_folds: At least 2.
        generator: Is advanced.

    Returns:
        (n,) int64 folds in [0, n_folds).
    """
    labels = rows.labels.cpu().numpy()
    by_class = np.lexsort((per_row(rows, generator), labels))
    fold = np.empty(len(rows), dtype=np.int64)
    fold[by_class] = np.arange(len(rows)) % n_folds
    return fold


def crossfitted_logits(inner: InnerProblem, fold: np.ndarray) -> Tensor:
    """Return (n, K) logits of each row by the head fitted without the row's fold.

    All heads share one scaling of the features, which reads no labels.

    Args:
        inner: The inner problem of the rows.
        fold: (n,) int64 from `draw_folds`.
    """
    logits = inner.basis.new_empty(len(fold), inner.basis.shape[0])
    u = inner.zero()
    for number in range(int(fold.max()) + 1):
        out = torch.from_numpy(fold == number).to(inner.labels.device)
        weight = (~out).to(inner.basis)
        u = inner.fit(weight / weight.sum(), u).state.u
        logits[out] = times(inner.design[out], u) @ inner.basis.T
    return logits
