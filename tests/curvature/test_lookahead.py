"""The look-ahead of a whole network against differences, and against the closed form of a head."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from gsr_core.curvature.lookahead import weight_slopes
from gsr_core.curvature.network import FlatNetwork

SIZE, L2 = 0.3, 0.05


def rows(n, generator):
    inputs = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(0, 3, (n,), generator=generator)


@pytest.fixture
def awkward():
    """A network whose batches couple and whose units drop out in training, and its rows."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        layers = nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3)
        module = nn.Sequential(*layers).double()
    weight = torch.rand(8, generator=generator, dtype=torch.float64)
    return module, rows(8, generator), weight / weight.sum(), rows(6, generator)


def loss_after_a_step(module, own, weight, judges):
    """V, by taking the step in the modules themselves, in eval mode."""
    before = {name: value.clone() for name, value in module.state_dict().items()}
    parameters = list(module.parameters())
    module.eval()
    loss = weight @ cross_entropy(module(own[0]), own[1], reduction="none")
    loss = loss + L2 * sum(each.square().sum() for each in parameters)
    with torch.no_grad():
        for each, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            each -= SIZE * slope
        value = float(cross_entropy(module(judges[0]), judges[1]))
    module.load_state_dict(before)
    module.train()
    return value


def test_slopes_are_differences_of_the_loss_after_a_step(awkward):
    module, own, weight, judges = awkward
    before = {name: value.clone() for name, value in module.state_dict().items()}
    slopes, loss = weight_slopes(FlatNetwork(module), own, weight, judges, size=SIZE, l2=L2)
    assert float(loss) == pytest.approx(loss_after_a_step(module, own, weight, judges))
    for row in range(len(weight)):
        nudge = torch.zeros_like(weight)
        nudge[row] = 1e-5
        up, down = (
            loss_after_a_step(module, own, weight + sign * nudge, judges) for sign in (1, -1)
        )
        assert float(slopes[row]) == pytest.approx((up - down) / 2e-5, rel=1e-6, abs=1e-10)
    # The network is as it was: its mode, its numbers and what its norms remember.
    assert module.training
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
