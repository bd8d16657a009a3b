r"""LRWOpt (MOLERE), the whole network: the validation part of learned reweighting is learned too.

Jain et al., "Improving Generalization via Meta-Learning on Hard Samples" (CVPR 2024). The network
goes on from the first one, and between two epochs a pass over all rows says which it gets right and
with what loss; the splitter of `gsr_core.methods.lrwopt`, in the form that is given there, learns
from both, and the share `delta` of the rows that it finds hardest judges in the next epoch, as in
`gsr_core.methods.network.lrw`.

Where we differ: the splitter learns between epochs from all rows, not within them from the few of a
validation batch. Theta looks at what the first network makes of a row, and at its class.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from pydantic import Field
from torch.nn.functional import cross_entropy

from gsr_core.methods.base import SETTINGS_CONFIG, settings
from gsr_core.methods.lrwopt import Splitter, Splitting
from gsr_core.methods.network.loop import Epoch
from gsr_core.methods.network.lrw import NetworkReweighted, Weigher

if TYPE_CHECKING:
    from gsr_core.methods.network.loop import Loop

__all__ = ["NetworkLRWOpt"]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class NetworkLRWOpt(Splitting, NetworkReweighted):
    """Learn which rows judge, and the weights of those that train the network."""

    name: ClassVar[str] = "network_lrwopt"
    title: ClassVar[str] = "Network LRWOpt (MOLERE): learned reweighting, learned validation"
    summary: ClassVar[str] = (
        "Trains the whole network while a splitter learns which rows are hard, and a small network "
        "to weight the others so that it does well on these."
    )
    use_when: ClassVar[str] = "As network LRW-Hard, when what is hard should be learned as well."

    splitter_updates: Annotated[
        int, Field(ge=1, le=100_000, description="Steps of the splitter between two epochs.")
    ] = 20
    gap_patience: Annotated[
        int,
        Field(ge=1, description="Epochs in a row with a smaller generalisation gap; then stop."),
    ] = 3

    def epochs(self, loop: Loop) -> Iterator[Epoch]:
        """Yield the first epochs, then those under learned weights, until the gap keeps shrinking.

        Args:
            loop: Where training stands; it keeps splitter, validation part and weight network.
        """
        yield from self.first(loop, "which is gone on with under learned weights")
        weigher = Weigher(self, loop)
        splitter = Splitter(self, loop.problem, weigher.inputs, delta=self.delta, seed=self.seed)
        if "theta" in loop.kept:
            splitter.theta, splitter.velocity = (
                loop.kept[each].to(weigher.inputs) for each in ("theta", "theta_velocity")
            )
        else:
            loop.kept |= {
                "validation": splitter.validation().cpu(),
                "gap": torch.tensor(-torch.inf),
                "shrunk": torch.tensor(0),
            }
        while True:
            logits = loop.logits()
            losses = cross_entropy(logits, loop.labels, reduction="none")
            validation, before = loop.kept["validation"], loop.kept["gap"]
            gap = losses[validation].mean() - losses[~validation].mean()
            shrunk = int(loop.kept["shrunk"]) + 1 if gap < before else 0
            if shrunk >= self.gap_patience:
                return
            right = logits.argmax(dim=1) == loop.labels
            for _ in range(self.splitter_updates):
                splitter.update(right.to(loop.device), losses.to(loop.device))
            validation = splitter.validation().cpu()
            loop.kept |= {
                "validation": validation,
                "gap": gap,
                "shrunk": torch.tensor(shrunk),
                "theta": splitter.theta.cpu(),
                "theta_velocity": splitter.velocity.cpu(),
            }
            yield weigher.epoch(
                validation,
                f"The generalisation gap was {float(gap):.3f} nats before this epoch. "
                f"{int(validation.sum()):,} of {len(loop):,} samples are the learned validation "
                "part: they judge the weights of the others and have none themselves.",
            )
