"""A network as a function of one vector, its trained parameters.

It is taken in eval mode, so that its batch norms use their stored statistics and nothing drops out:
the loss of a row is then a function of the parameters and that row alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from gsr_core.errors import SettingError
from gsr_core.features.heads import first_tensor

__all__ = ["FlatNetwork", "ReadBatches"]

ReadBatches = Callable[[], Iterable[tuple[Any, Tensor, Tensor]]]
"""Begins a pass over rows, the same ones in the same order each time: batches of inputs as the
network takes them and on its device, labels (b,) int64, and weights (b,), not negative."""


class FlatNetwork:
    """A network whose trained parameters are one vector, which is read anew for each use.

    Attributes:
        module: Maps inputs to logits (b, K).
        names: Of the parameters that are trained, in the order of the vector.
    """

    def __init__(self, module: nn.Module) -> None:
        """Take a network.

        Args:
            module: It is left in the mode it is in, and none of its tensors changes.

        Raises:
            SettingError: If nothing in it is trained, or not all of that is float32 or all
                float64, on one device.
        """
        self.module = module
        trained = self._trained()
        self.names = list(trained)
        self._shapes = [each.shape for each in trained.values()]
        self._sizes = [each.numel() for each in trained.values()]
        if not trained:
            raise SettingError(
                "no parameter of the network is trained; set requires_grad of at least one"
            )
        found = {f"{each.dtype} on {each.device}" for each in trained.values()}
        if len(found) > 1 or self.like.dtype not in (torch.float32, torch.float64):
            raise SettingError(
                f"the trained parameters are {' and '.join(sorted(found))}; curvature takes all "
                "float32 or all float64, on one device: convert the network with .float() or .to()"
            )

    def _trained(self) -> dict[str, Tensor]:
        named = self.module.named_parameters()
        return {name: each.detach() for name, each in named if each.requires_grad}

    @property
    def size(self) -> int:
        """P, the number of trained parameters."""
        return sum(self._sizes)

    @property
    def like(self) -> Tensor:
        """A tensor of the device and precision of the trained parameters."""
        return next(iter(self._trained().values()))

    def theta(self) -> Tensor:
        """Return (P,): a copy of the trained parameters as they are now."""
        return torch.cat([each.reshape(-1) for each in self._trained().values()])

    def logits(self, theta: Tensor, inputs: Any) -> Tensor:
        """Return (b, K): the network's output under the parameters theta (P,)."""
        parts = zip(self.names, theta.split(self._sizes), self._shapes, strict=True)
        parameters = {name: part.view(shape) for name, part, shape in parts}
        return first_tensor(functional_call(self.module, parameters, (inputs,)))

    def losses(self, theta: Tensor, inputs: Any, labels: Tensor) -> Tensor:
        """Return (b,): cross-entropy of each row, nats."""
        return cross_entropy(self.logits(theta, inputs), labels, reduction="none")

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Put the network in eval mode, by operations that have derivatives of second order.

        Raises:
            SettingError: If one of its operations has no forward-mode derivative.
        """
        _load_forward_rules()
        modes = {each: each.training for each in self.module.modules()}
        fused = torch.backends.mha.get_fastpath_enabled()
        self.module.eval()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
                yield
        except NotImplementedError as error:
            reason = str(error).split("\n")[0]
            raise SettingError(
                f"the network cannot be differentiated twice ({reason}); take another network, or "
                "train its last layer only"
            ) from error
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)
            for each, training in modes.items():
                each.training = training


def _load_forward_rules() -> None:
    """Load torch's own rules of forward mode, which warn about how they are written."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch._decomp.decompositions_for_jvp  # noqa: F401
