from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from gsr_core.compute import Compute


@dataclass
class Case:
    """A network, rows for it, and its objective written down as a function of one vector."""

    module: nn.Module
    inputs: Tensor
    labels: Tensor
    weights: Tensor
    l2: float

    def batches(self, size: int = 1000):
        split = [each.split(size) for each in (self.inputs, self.labels, self.weights)]
        parts = zip(*split, strict=True)
        return lambda rows=tuple(parts): iter(rows)

    @property
    def theta(self) -> Tensor:
        return nn.utils.parameters_to_vector(self.module.parameters()).detach()

    def logits(self, theta: Tensor) -> Tensor:
        at, parts = 0, {}
        for name, each in self.module.named_parameters():
            parts[name] = theta[at : at + each.numel()].view_as(each)
            at += each.numel()
        return functional_call(self.module.eval(), parts, (self.inputs,))

    def losses(self, theta: Tensor) -> Tensor:
        return cross_entropy(self.logits(theta), self.labels, reduction="none")

    def objective(self, theta: Tensor) -> Tensor:
        mean = self.weights @ self.losses(theta) / self.weights.sum()
        return mean + self.l2 * theta.square().sum()

    def hessian(self) -> Tensor:
        """Reverse over reverse, where the engine goes forward over reverse."""
        return torch.func.jacrev(torch.func.jacrev(self.objective))(self.theta)


def convolutional() -> nn.Module:
    """Convolution, batch norm whose statistics are not those of a batch, pooling, dropout."""
    norm = nn.BatchNorm2d(4)
    norm.running_mean.uniform_(-0.5, 0.5)
    norm.running_var.uniform_(0.5, 2)
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3), norm, nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 5, 2), nn.Tanh(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(20, 3)),
    )


@pytest.fixture
def make_case(compute: Compute) -> Callable[..., Case]:
    """Random rows for a network, and unequal weights that do not sum to one."""

    def make(module: Callable[[], nn.Module] = convolutional, shape=(2, 8, 8), n=12) -> Case:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            made = module().to(compute.device, torch.float64)
            inputs, weights = torch.randn(n, *shape), torch.rand(n) + 0.1
        weights[2] = 0
        labels = torch.arange(n, device=compute.device) % 3
        rows = (each.to(compute.device, torch.float64) for each in (inputs, weights))
        inputs, weights = rows
        return Case(made, inputs, labels, weights, l2=0.02)

    return make


@pytest.fixture
def random_columns() -> Callable[..., Tensor]:
    """Random (P, k) for a case."""

    def make(case: Case, k: int) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.randn(len(case.theta), k, generator=generator).to(case.theta)

    return make
