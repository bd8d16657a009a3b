import pytest
import torch

from gsr_core.methods.weight_network import Network, network_inputs


@pytest.mark.parametrize("hidden", [0, 7])
def test_a_network_begins_at_equal_weights_and_knows_no_places(hidden):
    network = Network(4, hidden)
    parameters = network.start(3, torch.zeros(0, dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    assert torch.equal(network(parameters, inputs), torch.zeros(9, dtype=torch.float64))
    moved = parameters + torch.randn(len(parameters), generator=generator, dtype=torch.float64)
    torch.testing.assert_close(network(moved, inputs.flip(0)), network(moved, inputs).flip(0))


@pytest.mark.parametrize("hidden", [0, 7])
def test_of_several_outputs_each_row_has_its_own(hidden):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    network, single = Network(4, hidden, outputs=3), Network(4, hidden)
    parameters = torch.randn(
        len(network.start(3, inputs)), generator=generator, dtype=torch.float64
    )
    shared = len(network.start(3, inputs)) - 3 * ((hidden or 4) + 1)
    which = torch.arange(9) % 3
    found = network(parameters, inputs, which)
    for row in range(9):
        last = parameters[shared:].chunk(3)[which[row]]
        alone = single(torch.cat([parameters[:shared], last]), inputs[row : row + 1])
        torch.testing.assert_close(found[row : row + 1], alone)


def test_inputs_have_length_one_whatever_the_number_of_features(make_problem):
    for d in (6, 200):
        rows = make_problem(n=40, d=d)[0].weighted
        inputs = network_inputs(rows, standardise=True, dtype=torch.float64)
        assert inputs.shape == (40, d)
        assert float(inputs.square().sum(dim=1).mean()) == pytest.approx(1)
