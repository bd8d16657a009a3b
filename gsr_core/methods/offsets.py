"""What methods share that leave a head as it is and add an offset to the logit of each class."""

from __future__ import annotations

from abc import ABC
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from gsr_core.data.problem import Problem
from gsr_core.linear.head import Head
from gsr_core.methods.base import SETTINGS_CONFIG, SearchSpace, Step, Values, settings
from gsr_core.methods.erm import ERM
from gsr_core.methods.inner import FittedHead
from gsr_core.methods.llr import LLR

__all__ = ["OffsetMethod", "with_offsets"]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class OffsetMethod(FittedHead, ABC):
    """A method whose head is another one with an offset on the logit of each class."""

    values: ClassVar[Values] = Values.NONE
    search: ClassVar[SearchSpace] = {**FittedHead.search, "base": ("as_it_came", "refit")}

    base: Annotated[
        Literal["as_it_came", "refit"],
        Field(
            description="The head whose classes get offsets. as_it_came: that of erm; refit: that "
            "of llr, fitted on the held-out rows."
        ),
    ] = "as_it_came"

    def base_step(self, problem: Problem) -> Step:
        """Return the step whose head gets the offsets."""
        method = ERM if self.base == "as_it_came" else LLR
        return next(method(l2=self.l2, standardise=self.standardise).iterate(problem))


def with_offsets(head: Head, offset: Tensor) -> Head:
    """Return a head with an offset (K,) added to the logit of each class."""
    return Head(head.weight, head.bias.to(offset) + offset)
