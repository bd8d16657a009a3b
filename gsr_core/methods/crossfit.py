"""Cross-fitting: logits and losses of rows by heads that did not learn from them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from gsr_core.data.problem import Problem, Rows
from gsr_core.linear.head import Head
from gsr_core.linear.objective import times
from gsr_core.methods.draws import per_row
from gsr_core.methods.inner import FittedHead, InnerProblem

__all__ = ["crossfitted_logits", "draw_folds", "unseen_losses"]

_BLOCK = 2**24
"""Numbers that an array over rows and features may have."""


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


def unseen_losses(
    method: FittedHead, problem: Problem, base: Head, n_folds: int
) -> tuple[Tensor, str]:
    """Return the (n,) losses of the weighted rows under a head that did not learn from them.

    That is the base head, unless it was fitted to them or the backbone was trained on them, and
    else heads that are fitted without a part of the rows each.

    Args:
        method: Its penalty, scaling and seed are those of the fits.
        problem: The data.
        base: The classifier as it came.
        n_folds: Parts of the rows.

    Returns:
        The losses, nats, and the name of the head.
    """
    rows = problem.weighted
    elsewhere = problem.backbone_head is not None or problem.train is not None
    if elsewhere and problem.weighted_split != "train":
        dtype, size = problem.compute.accumulate_dtype, max(_BLOCK // rows.source.shape[1], 1)
        parts = zip(rows.source.split(size), rows.labels.split(size), strict=True)
        losses = [
            cross_entropy(base.logits(features.to(dtype)), labels, reduction="none")
            for features, labels in parts
        ]
        name = "a head of train" if problem.backbone_head is None else "the backbone's own head"
        return torch.cat(losses), name
    fold = draw_folds(rows, n_folds, np.random.default_rng(method.seed))
    logits = crossfitted_logits(method.inner(problem), fold)
    losses = cross_entropy(logits, rows.labels, reduction="none")
    return losses, "heads that did not learn from them"
