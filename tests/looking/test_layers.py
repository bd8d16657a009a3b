"""Maps of classes: what they add up to, what they do not depend on, and where there are none."""

import pytest
import torch
from torch import nn

from gsr_core.errors import SettingError
from gsr_core.looking.layers import Layer, class_maps, find_layer


class Pooled(nn.Module):
    """A trunk whose features are the mean of its last layer over the places."""

    def __init__(self, *, inplace: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2)
        self.act = nn.ReLU(inplace=inplace)
        self.last = nn.Sequential(nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5))
        self.after = nn.ReLU(inplace=inplace)

    def forward(self, x):
        return self.after(self.last(self.act(self.first(x)))).mean(dim=(2, 3))


class Nonlinear(Pooled):
    """Pooled to two places a side, and then a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.dense = nn.AdaptiveAvgPool2d(2), nn.Linear(20, 7)

    def forward(self, x):
        places = self.after(self.last(self.act(self.first(x))))
        return torch.tanh(self.dense(self.pool(places).flatten(1)))


class Tokens(nn.Module):
    """A token of the class that attends to those of nine places."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, stride=4)
        self.before, self.end = nn.LayerNorm(8), nn.LayerNorm(8)
        self.values, self.drop = nn.Linear(8, 8), nn.Dropout(0.5)

    def forward(self, x):
        places = self.embed(x).flatten(2).transpose(1, 2)
        tokens = self.before(torch.cat([places.mean(dim=1, keepdim=True), places], dim=1))
        attention = self.drop((tokens @ tokens.transpose(1, 2)).softmax(dim=2)[:, None])[:, 0]
        return self.end(tokens + attention @ self.values(tokens))[:, 0]


def made(cls, **words):
    torch.manual_seed(0)
    return cls(**words).double().eval().requires_grad_(False)


def drawn(size, n=3):
    return torch.randn(n, 3, size, size, dtype=torch.float64, generator=torch.manual_seed(1))


@pytest.fixture
def head():
    return torch.randn(4, 5, dtype=torch.float64, generator=torch.manual_seed(2)), 0.3


@pytest.mark.parametrize("inplace", [False, True])
def test_maps_of_pooled_features_add_up_to_the_logits_less_the_bias(head, inplace):
    trunk, batch, (weight, bias) = made(Pooled, inplace=inplace), drawn(13), head
    layer = find_layer(trunk, batch)
    assert layer.pooled
    maps, features = class_maps(trunk, layer, batch, weight)
    assert maps.shape == (3, 4, 4, 4)
    logits = trunk(batch) @ weight.T + bias
    torch.testing.assert_close(maps.sum(dim=(2, 3)), logits - bias)
    torch.testing.assert_close(features, trunk(batch))
    # Grad-CAM of the same layer is the same map.
    by_gradient, _ = class_maps(
        trunk, Layer(layer.name, layer.layout, 0, pooled=False), batch, weight
    )
    torch.testing.assert_close(by_gradient, maps)


def test_a_map_goes_with_its_sample_and_its_class(head):
    trunk, batch, (weight, _) = made(Pooled), drawn(13), head
    layer = find_layer(trunk, batch)
    maps, _ = class_maps(trunk, layer, batch, weight)
    order, classes = torch.tensor([2, 0, 1]), torch.tensor([3, 1, 0, 2])
    moved, _ = class_maps(trunk, layer, batch[order], weight[classes])
    torch.testing.assert_close(moved, maps[order][:, classes])
    twice, _ = class_maps(trunk, layer, batch, torch.cat([weight, 2 * weight]))
    torch.testing.assert_close(twice, torch.cat([maps, 2 * maps], dim=1))


def test_grad_cam_is_that_of_its_formula():
    trunk, batch = made(Nonlinear), drawn(13)
    weight = torch.randn(2, 7, dtype=torch.float64, generator=torch.manual_seed(2))
    layer = find_layer(trunk, batch)
    assert (layer.name, layer.pooled) == ("pool", False)
    maps, features = class_maps(trunk, layer, batch, weight)
    torch.testing.assert_close(features, trunk(batch))
    places = trunk.pool(trunk.after(trunk.last(trunk.act(trunk.first(batch)))))

    def score(values, k):
        return torch.tanh(trunk.dense(values.flatten(1))) @ weight[k]

    for k in range(2):
        slope, step = torch.zeros_like(places), 1e-6
        for place in range(20):
            moved = torch.zeros(20, dtype=torch.float64)
            moved[place] = step
            ends = [score(places + sign * moved.view(1, 5, 2, 2), k) for sign in (1, -1)]
            slope.view(3, 20)[:, place] = (ends[0] - ends[1]) / (2 * step)
        expected = (slope.mean(dim=(2, 3), keepdim=True) * places).sum(dim=1)
        torch.testing.assert_close(maps[:, k], expected, rtol=1e-6, atol=1e-8)


def test_of_a_transformer_the_tokens_of_the_places_are_looked_at():
    trunk, batch = made(Tokens), drawn(12)
    layer = find_layer(trunk, batch)
    # Behind the attention only the token of the class counts, and what it drops is no image.
    assert (layer.name, layer.layout, layer.before) == ("before", "tokens", 1)
    weight = torch.randn(2, 8, dtype=torch.float64, generator=torch.manual_seed(2))
    maps, _ = class_maps(trunk, layer, batch, weight)
    assert maps.shape == (3, 2, 3, 3)
    turned, _ = class_maps(trunk, layer, batch.flip(3), weight)
    assert not torch.allclose(turned, maps)


def test_channels_may_come_last(head):
    class Last(Pooled):
        def __init__(self):
            super().__init__()
            self.turn = nn.Identity()

        def forward(self, x):
            places = self.after(self.last(self.act(self.first(x))))
            return self.turn(places.permute(0, 2, 3, 1)).mean(dim=(1, 2))

    trunk, batch, (weight, _) = made(Last), drawn(13), head
    layer = find_layer(trunk, batch)
    assert (layer.layout, layer.pooled) == ("channels last", True)
    maps, features = class_maps(trunk, layer, batch, weight)
    torch.testing.assert_close(maps.sum(dim=(2, 3)), features @ weight.T)
    plain, _ = class_maps(trunk, Layer("after", "channels first", 0, True), batch, weight)
    torch.testing.assert_close(maps, plain)


def test_a_network_without_places_says_so():
    trunk = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 4)).double()
    with pytest.raises(SettingError, match="no layer with places that can be watched"):
        find_layer(trunk, drawn(4))


def test_a_program_that_hides_its_layers_says_so():
    class Program(nn.Module):
        def __init__(self):
            super().__init__()
            self.run = made(Pooled).forward

        def forward(self, x):
            return self.run(x)

    with pytest.raises(SettingError, match="ONNX or TorchScript hides its layers"):
        find_layer(Program(), drawn(13))
