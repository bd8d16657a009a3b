"""The head of a finished run fitted anew, under weights and labels that a user edited.

It is no method of its own: a run of it keeps the name and the settings of the method whose weights
were edited, and nothing chooses it but an edit.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from gsr_core.data.problem import Problem
from gsr_core.errors import SettingError
from gsr_core.methods.base import SETTINGS_CONFIG, LabelNeeds, Method, settings
from gsr_core.methods.inner import FittedHead, InnerProblem, Refit

__all__ = ["EditedRefit", "edited_refit"]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class EditedRefit(Refit):
    """Fit the head under the weights that the problem gives."""

    name: ClassVar[str] = "edited"
    title: ClassVar[str] = "The head of a run after an edit of its rows"
    summary: ClassVar[str] = "Fits the head anew under the edited weights of another run."
    use_when: ClassVar[str] = "To test what some samples do to the groups."
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE

    def weigh(self, problem: Problem, inner: InnerProblem) -> tuple[Tensor, str]:
        """Return the weights (n,) of the problem, and a note."""
        del inner
        assert problem.given is not None
        return problem.given, "The head fitted anew after an edit of the run's rows."


def edited_refit(method: Method) -> EditedRefit:
    """Return what fits the head of a method's run anew.

    Args:
        method: The run's, with its settings.

    Raises:
        SettingError: If it fits no head under sample weights and an l2 penalty.
    """
    if not isinstance(method, FittedHead):
        raise SettingError(
            f"{method.name} fits no head under sample weights and an l2 penalty, so that none can "
            "be fitted anew after an edit; take a run of gsr or llr"
        )
    return EditedRefit(seed=method.seed, l2=method.l2, standardise=method.standardise)
