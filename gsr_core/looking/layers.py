r"""Class activation maps: the places of an image that a head's scores come from.

Where the features are the mean of a layer F over its h x w places, the score of class k is

.. math:: s_k = \sum_{h, w} M_k(h, w) + b_k, \qquad
          M_k(h, w) = \frac{1}{hw} \sum_q \theta_{kq} F_q(h, w),

the class activation map of Zhou et al., "Learning Deep Features for Discriminative Localization"
(CVPR 2016). For any other trunk it is Grad-CAM of Selvaraju et al. (ICCV 2017),

.. math:: M_k(h, w) = \sum_q F_q(h, w) \; \frac{1}{hw} \sum_{h', w'} \partial s_k / \partial
          F_q(h', w'),

of the last layer with places that the features depend on; of pooled features the two are the
same. Maps keep their sign here: what speaks against a class is evidence too.

The few lines are our own: libraries for this give maps without their sign and scale, from which no
score can be added up, and ask for the layer by its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gsr_core.errors import SettingError

__all__ = ["Layer", "class_maps", "find_layer"]

_MOST_BEFORE = 8
"""Tokens that a transformer may have before those of its places: of the class, of registers."""

_PASSED_OVER = (nn.Dropout, nn.Softmax, nn.Linear, torch.jit.ScriptModule)
"""Of attention itself the last axes are a square of tokens, which are no places; its queries and
keys say less than what they are made of. Compiled programs cannot be watched."""


@dataclass(frozen=True)
class Layer:
    """The layer of a trunk whose places are looked at.

    Attributes:
        name: Dotted name of the module within the trunk.
        layout: How its output is laid out: (n, C, h, w), (n, h, w, C) or (n, tokens, C).
        before: Tokens before those of the places; 0 in the other layouts.
        pooled: The features are the mean over the places, so that maps add up to scores.
    """

    name: str
    layout: Literal["channels first", "channels last", "tokens"]
    before: int
    pooled: bool

    def places(self, output: Tensor) -> Tensor:
        """Return the layer's output as (n, C, h, w)."""
        if self.layout == "channels first":
            return output
        if self.layout == "channels last":
            return output.permute(0, 3, 1, 2)
        tokens = output[:, self.before :].transpose(1, 2)
        return tokens.unflatten(2, (isqrt(tokens.shape[2]), -1))


def find_layer(trunk: nn.Module, batch: Tensor) -> Layer:
    """Find the layer whose places say where a trunk looks, by trying it.

    Args:
        trunk: Maps images to features (n, d); in eval mode.
        batch: A few of its inputs, (n, 3, H, W).

    Raises:
        SettingError: If no layer that can be watched has places.
    """
    with torch.no_grad():
        features, outputs = _watched(trunk, batch)
    found = [layer for name in reversed(outputs) if (layer := _layer(name, outputs[name]))]
    for layer in found:
        mean = layer.places(outputs[layer.name]).mean(dim=(2, 3))
        close = 1e-4 * float(features.abs().max())
        if mean.shape == features.shape and torch.allclose(mean, features, atol=close):
            return Layer(layer.name, layer.layout, layer.before, pooled=True)
    if found:
        with torch.enable_grad():
            features, outputs = _watched(trunk, batch.detach().requires_grad_())
            # In no direction that a normalisation takes away.
            ways = torch.randn(features.shape[1], generator=torch.Generator().manual_seed(0))
            score = (features @ ways.to(features)).sum()
        tried = [outputs[layer.name] for layer in found]
        # None where the network computes without gradients, whoever asks.
        gradients: Sequence[Tensor | None] = [None] * len(tried)
        if score.requires_grad:
            gradients = torch.autograd.grad(score, tried, allow_unused=True)
        for layer, gradient in zip(found, gradients, strict=True):
            # After the last attention, only the token of the class still counts.
            if gradient is not None and bool(layer.places(gradient).any()):
                return layer
    raise SettingError(
        "the network has no layer with places that can be watched (a program such as ONNX or "
        "TorchScript hides its layers, and some networks have none), so nothing says where in an "
        "image it looks; import the data through the network itself"
    )


def _watched(trunk: nn.Module, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the features and the outputs of all modules that may have places, the last one last.

    What a layer gives may be changed in place by the next, here as in the network.
    """
    outputs: dict[str, Tensor] = {}

    def note(name: str, output: Any) -> None:
        # Windows and heads of attention may stand in the place of samples.
        if isinstance(output, Tensor) and output.ndim in (3, 4) and len(output) == len(batch):
            # Again at its end, since a module may be called more than once.
            outputs.pop(name, None)
            outputs[name] = output

    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: note(name, output))
        for name, module in trunk.named_modules()
        if not isinstance(module, _PASSED_OVER)
    ]
    try:
        return trunk(batch), outputs
    finally:
        for handle in handles:
            handle.remove()


def _layer(name: str, output: Tensor) -> Layer | None:
    """Return how a module's output is laid out, None if it has not several places in a square.

    Inputs are square, and so are their places.
    """
    if output.ndim == 4:
        _, first, second, third = output.shape
        if second == third > 1:
            return Layer(name, "channels first", 0, pooled=False)
        return Layer(name, "channels last", 0, pooled=False) if first == second > 1 else None
    for before in range(min(_MOST_BEFORE, output.shape[1] - 3)):
        if isqrt(output.shape[1] - before) ** 2 == output.shape[1] - before:
            return Layer(name, "tokens", before, pooled=False)
    return None


@torch.enable_grad()
def class_maps(
    trunk: nn.Module, layer: Layer, batch: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Return how much each place adds to each class's score.

    Args:
        trunk: Maps images to features (n, d); in eval mode.
        layer: As `find_layer` found it.
        batch: (n, 3, H, W).
        weight: (K, d) of the head, or of several heads one below the other.

    Returns:
        Maps (n, K, h, w), nats, and the features (n, d). Of a layer that is pooled, a map's sum is
        the score without its bias; of another, only its sign and shape mean something.
    """
    caught: list[Tensor] = []

    def catch(_: nn.Module, __: Any, output: Tensor) -> Tensor | None:
        if layer.pooled:
            caught.append(output)
            return None
        caught.append(output.detach().requires_grad_())
        # A copy, because what follows may change it in place.
        return caught[-1].clone()

    with trunk.get_submodule(layer.name).register_forward_hook(catch):
        features = trunk(batch)
    places = layer.places(caught[-1])
    if layer.pooled:
        size = places.shape[2] * places.shape[3]
        return torch.einsum("nchw,kc->nkhw", places, weight).detach() / size, features.detach()
    scores = (features @ weight.T).sum(dim=0)
    maps = []
    for score in scores:
        (gradient,) = torch.autograd.grad(score, caught[-1], retain_graph=True)
        slope = layer.places(gradient).mean(dim=(2, 3))
        maps.append(torch.einsum("nchw,nc->nhw", places.detach(), slope))
    return torch.stack(maps, dim=1), features.detach()
