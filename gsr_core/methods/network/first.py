"""A first network, from which a method learns something before it trains the one that counts.

It is trained briefly and plainly, so that it leans on what is easy. What is learned from it is kept
in the checkpoints, so that it is learned once.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

import torch
from pydantic import Field

from gsr_core.data.groups import membership_from_index
from gsr_core.inference.base import GroupInference, InferredGroups, say_small_cells
from gsr_core.methods.base import SETTINGS_CONFIG, SearchSpace, settings
from gsr_core.methods.network.base import NetworkMethod
from gsr_core.methods.network.loop import Epoch, Update

if TYPE_CHECKING:
    from gsr_core.methods.network.loop import Loop

__all__ = ["FirstNetwork", "by_first", "infer_groups", "of_inferred"]

_Inference = TypeVar("_Inference", bound=GroupInference)


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class FirstNetwork(NetworkMethod, ABC):
    """A method with a first network, which is never the one that is kept."""

    search: ClassVar[SearchSpace] = {**NetworkMethod.search, "first_epochs": (1, 2, 3, 5)}

    first_epochs: Annotated[
        int, Field(ge=1, description="Epochs of the first network, among `steps`.")
    ] = 2

    def first(self, loop: Loop, purpose: str, update: Update | None = None) -> Iterator[Epoch]:
        """Yield the epochs of the first network that are still to be done, each row once in each.

        Args:
            loop: Where training stands.
            purpose: What it is for, as a clause: "whose errors are counted".
            update: What is done with a batch; plain descent if None.
        """
        while loop.epoch < self.first_epochs:
            yield Epoch(
                loop.shuffled(),
                update=update,
                note=f"This is the first network, {purpose}.",
                candidate=False,
            )


def infer_groups(
    loop: Loop, inference: GroupInference, space: Literal["features", "logits"]
) -> InferredGroups:
    """Infer groups from the network as it is, keep them, and begin anew with the network.

    Args:
        loop: Keeps `group` (n,) and `in_val` (N, m').
        inference: Its reference head, if it has one, is the backbone's.
        space: What of the network it looks at.
    """
    found = inference.infer(loop.seen(space))
    loop.kept["group"] = torch.from_numpy(found.weighted)
    loop.kept["in_val"] = torch.from_numpy(membership_from_index(found.val, found.n_groups))
    loop.restart()
    return found


def of_inferred(loop: Loop, epoch: Epoch, about: str = "") -> Epoch:
    """Return an epoch with the groups that `infer_groups` kept; weights of them are not shown.

    Args:
        loop: Keeps the groups.
        epoch: The epoch.
        about: What else the user should know.
    """
    group, in_val = loop.kept["group"], loop.kept["in_val"]
    sizes = torch.bincount(group, minlength=in_val.shape[1])
    note = (
        f"{len(sizes)} groups inferred from the first network, of {int(sizes.min()):,} to "
        f"{int(sizes.max()):,} of {len(loop):,} samples."
    )
    small = say_small_cells(in_val.sum(dim=0).numpy())
    if small and loop.method.selection == "worst_inferred_group":
        note += f" Of its groups of val, {small}."
    return replace(
        epoch,
        group_weight=None,
        inferred_group=group,
        inferred_val=in_val,
        note=f"{note} {about}".strip(),
    )


def by_first(method: NetworkMethod, kind: type[_Inference], **settings: Any) -> _Inference:
    """Return an inference with the settings that it shares with a method.

    Args:
        method: Its seed is the inference's too.
        kind: Which inference.
        settings: Those that the method does not have.
    """
    known = {each.name for each in fields(kind)} & set(method.settings())
    return kind(**{name: getattr(method, name) for name in known}, **settings)
