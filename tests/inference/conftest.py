from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from gsr_core.compute import Compute
from gsr_core.data.problem import Problem, Rows
from gsr_core.inference.registry import INFERENCES, make_inference
from gsr_core.inference.ssa import SSAInference

SETTINGS = {"spare": {"early_steps": 1}, "george": {"max_clusters": 3}}
"""Of what would take long otherwise."""


@pytest.fixture(params=[*INFERENCES, "ssa"])
def inference(request):
    """Each inference."""
    if request.param == "ssa":
        return SSAInference()
    return make_inference(request.param, SETTINGS.get(request.param))


@pytest.fixture
def make_rows(compute: Compute) -> Callable[..., Rows]:
    """Rows of features (n, d), classes (n,) and groups (n,) or (n, m)."""

    def make_rows(features, labels, groups, position=None) -> Rows:
        groups = np.asarray(groups)
        if groups.ndim == 1:
            groups = groups[:, None] == np.arange(groups.max(initial=0) + 1)
        return Rows(
            source=torch.from_numpy(np.asarray(features, dtype=np.float32)).to(compute.device),
            labels=torch.from_numpy(np.asarray(labels)).to(compute.device),
            groups=torch.from_numpy(groups).to(compute.device),
            position=np.arange(len(groups)) if position is None else position,
        )

    return make_rows


@pytest.fixture
def make_problem(compute: Compute) -> Callable[..., Problem]:
    """A problem of three splits; without a backbone's head."""

    def make_problem(weighted: Rows, target: Rows, val: Rows, n_classes: int = 2) -> Problem:
        return Problem(weighted, target, val, n_classes=n_classes, compute=compute)

    return make_problem


@pytest.fixture
def blobs(make_rows, make_problem) -> Problem:
    """Two noisy classes that a clear shortcut follows but for a fifth of each."""
    rng = np.random.default_rng(0)

    def rows(size: int) -> Rows:
        labels = np.arange(size) % 2
        attribute = np.where(np.arange(size) % 10 < 8, labels, 1 - labels)
        features = rng.normal(size=(size, 3)) * 0.3
        features[:, 0] += labels + rng.normal(size=size)
        features[:, 1] += 6 * attribute
        return make_rows(features, labels, 2 * labels + attribute)

    return make_problem(rows(120), rows(40), rows(40))


@pytest.fixture
def reordered() -> Callable[[Problem, int], Problem]:
    """The same problem with the rows of each split in another order in memory."""

    def reordered(problem: Problem, seed: int) -> Problem:
        rng = np.random.default_rng(seed)

        def moved(rows: Rows) -> Rows:
            order = rng.permutation(len(rows))
            parts = (rows.features, rows.labels, rows.groups, rows.position)
            return Rows(*(part[order] for part in parts))

        return replace(
            problem,
            weighted=moved(problem.weighted),
            target=moved(problem.target),
            val=moved(problem.val),
        )

    return reordered
