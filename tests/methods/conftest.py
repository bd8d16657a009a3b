import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from gsr_core.compute import Compute
from gsr_core.data.problem import Problem, Rows
from gsr_core.data.words import Words


def shortcut_rows(rng, n, d, minority, n_classes=2, compute=None) -> Rows:
    """Unit-variance features; 0 follows the class weakly, 1 the attribute strongly."""
    labels = rng.integers(n_classes, size=n)
    attribute = np.where(rng.random(n) < minority, 1 - labels % 2, labels % 2)
    group = labels * 2 + attribute
    group[: 2 * n_classes] = np.arange(2 * n_classes)
    labels, attribute = group // 2, group % 2
    features = rng.normal(size=(n, d))
    features[:, 0] += 2 * labels - (n_classes - 1)
    features[:, 1] += 3 * (2 * attribute - 1)
    return Rows(
        source=torch.from_numpy(features.astype(np.float32)).to(compute.device),
        labels=torch.from_numpy(labels).to(compute.device),
        groups=torch.from_numpy(group[:, None] == np.arange(2 * n_classes)).to(compute.device),
        position=np.arange(n),
    )


def embedded(phrases: Sequence[str], d: int) -> torch.Tensor:
    """Embeddings that say what a phrase names: the class along feature 0, the attribute along 1."""
    found = torch.zeros(len(phrases), d)
    for place, phrase in enumerate(phrases):
        # Like a network's, they are not of the names alone.
        noise = torch.Generator().manual_seed(zlib.crc32(phrase.encode()))
        found[place] = 0.3 * torch.randn(d, generator=noise)
        words = phrase.split()
        found[place, 0] += 2 * ("b" in words) + 4 * ("c" in words) - 1
        found[place, 1] += ("1" in words) - ("0" in words)
    return found


@pytest.fixture
def make_problem(compute: Compute) -> Callable[..., tuple[Problem, Rows]]:
    """A problem whose shortcut fails the minority groups, and its test rows."""

    def make(n=80, n_target=60, d=6, minority=0.1, n_classes=2, seed=0) -> tuple[Problem, Rows]:
        rng = np.random.default_rng(seed)
        shares = np.full(2 * n_classes, 1 / (2 * n_classes))

        def rows(count: int, minority: float) -> Rows:
            return shortcut_rows(rng, count, d, minority, n_classes, compute)

        problem = Problem(
            weighted=rows(n, minority),
            target=rows(n_target, 0.5),
            val=rows(n_target, 0.5),
            n_classes=n_classes,
            compute=compute,
            training_shares=shares,
            words=Words(["a", "b", "c"][:n_classes], ["0", "1"], partial(embedded, d=d), None),
        )
        return problem, rows(n_target, 0.5)

    return make


@pytest.fixture
def with_order() -> Callable[[Problem, torch.Tensor], Problem]:
    """The same problem with its weighted rows in another order."""

    def with_order(problem: Problem, order: torch.Tensor) -> Problem:
        rows = problem.weighted
        moved = Rows(
            rows.features[order], rows.labels[order], rows.groups[order], order.cpu().numpy()
        )
        return replace(problem, weighted=moved)

    return with_order
