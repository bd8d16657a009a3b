from collections.abc import Callable

import pytest
import torch

from gsr_core.compute import Compute
from gsr_core.linear.objective import Objective, centred_basis


@pytest.fixture
def make_objective(compute: Compute) -> Callable[..., Objective]:
    """Random rows with a column of ones, labels that follow them, and unequal weights."""

    def make(n=60, d=7, n_classes=3, l2=0.05, seed=0, sample_weight=None) -> Objective:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(n, d, generator=generator, dtype=torch.float64)
        truth = torch.randn(d, n_classes, generator=generator, dtype=torch.float64)
        noise = torch.randn(n, n_classes, generator=generator, dtype=torch.float64)
        labels = (rows @ truth + noise).argmax(dim=1)
        design = torch.cat([rows, torch.ones(n, 1, dtype=torch.float64)], dim=1)
        if sample_weight is None:
            sample_weight = torch.rand(n, generator=generator, dtype=torch.float64) + 0.1
            sample_weight /= sample_weight.sum()
        basis = centred_basis(n_classes, design)
        return Objective(
            design.to(compute.device, compute.accumulate_dtype),
            labels.to(compute.device),
            sample_weight.to(compute.device, compute.accumulate_dtype),
            l2,
            basis.to(compute.device, compute.accumulate_dtype),
        )

    return make


@pytest.fixture
def random_columns() -> Callable[..., torch.Tensor]:
    """Random numbers of a shape, on the device of an objective."""

    def make(objective: Objective, *shape: int, seed=1) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(objective.basis)

    return make
