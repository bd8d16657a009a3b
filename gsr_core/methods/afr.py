r"""Automatic feature reweighting (AFR): what a base head is unsure of counts more in the next.

Qiu, Potapczynski, Izmailov and Wilson, "Simple and Fast Group Robustness by Automatic Feature
Reweighting" (ICML 2023). A base head :math:`\theta_0` gives each held-out row the probability
:math:`q_i` of its own class, and with n_y rows in class y

.. math::
    w_i \propto \frac{1}{n_{y_i}} e^{-\gamma q_i}, \qquad
    \min_\theta \sum_i w_i \ell_i(\theta) + \lambda \lVert\theta - \theta_0\rVert^2 .

- `path` is the released algorithm: full-batch gradient steps from the base head, the gradient
  clipped, and the step that is best on val is kept. Where it stops is part of the method.
- `exact` is the minimum, which only the pull keeps near the base head.

The coordinates of a fit are what it has beyond the base head, so that zero stands for that head in
both solvers; the authors' notebooks leave that rest at a random start.

Where we differ, and why:

- q of a row has to come from a head that has not fitted it: on rows of its own, q is near 1 for all
  and the weights are near equal. Where there is no such head, q is from cross-fitted heads.
- The base head is the classifier as it came, which the bundle need not have; then one is fitted.
- Steps and distances are in standardised features, unless asked otherwise.
- Val scores every `every`-th step rather than every one.

gamma has no natural ceiling: the larger it is, the fewer rows have all the weight, which the note
counts. Rows with wrong labels are the first of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from gsr_core.data.problem import Problem
from gsr_core.methods.base import SETTINGS_CONFIG, LabelNeeds, Range, SearchSpace, Step, settings
from gsr_core.methods.crossfit import unseen_losses
from gsr_core.methods.erm import ERM
from gsr_core.methods.gsr import clip_norm
from gsr_core.methods.inner import TOLERANCE, FittedHead, InnerProblem

__all__ = ["AFR", "unsure_weight"]

_FEW = 5
"""Effective rows a class, below which the note warns."""


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class AFR(FittedHead):
    """Move the base head towards the rows of whose class it is unsure.

    With `path`, step 1 is the base head and each further step some gradient steps more.
    """

    name: ClassVar[str] = "afr"
    title: ClassVar[str] = "AFR: automatic feature reweighting"
    summary: ClassVar[str] = (
        "Weights held-out samples by how unsure a base head is of their class, and moves that head "
        "towards them without letting it go far."
    )
    use_when: ClassVar[str] = (
        "Nobody labelled groups, the base head errs on the minority, and class labels are clean."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE
    search: ClassVar[SearchSpace] = {
        "gamma": Range(1.0, 32.0),
        "pull": Range(1e-3, 1.0),
        "solver": ("path", "exact"),
        "standardise": (True, False),
    }

    l2: Annotated[
        float,
        Field(
            gt=0,
            description="Penalty of the base head, where it has to be fitted, and of cross-fitted "
            "ones.",
        ),
    ] = 0.01
    gamma: Annotated[
        float,
        Field(
            ge=0,
            description="How much more unsure rows count: e^gamma times from certain to hopeless.",
        ),
    ] = 8.0
    class_balance: Annotated[
        bool, Field(description="Divide each weight by the number of rows of its class.")
    ] = True
    pull: Annotated[
        float,
        Field(ge=0, description="Penalty on the squared distance from the base head."),
    ] = 0.1
    solver: Annotated[
        Literal["path", "exact"],
        Field(
            description="path: gradient steps from the base head, of which val keeps one, as "
            "published; exact: the minimum."
        ),
    ] = "path"
    steps: Annotated[
        int,
        Field(ge=1, le=100_000, description="path: heads that are scored, the base head first."),
    ] = 101
    every: Annotated[
        int, Field(ge=1, le=100_000, description="path: gradient steps between two of them.")
    ] = 5
    lr: Annotated[float, Field(gt=0, description="path: size of the gradient steps.")] = 0.01
    clip: Annotated[
        float, Field(ge=0, description="path: largest norm of a gradient; 0 switches it off.")
    ] = 1.0
    folds: Annotated[
        int,
        Field(
            ge=2,
            le=50,
            description="Folds of the cross-fitting, where the base head has fitted the rows.",
        ),
    ] = 5

    @property
    def max_steps(self) -> int:
        """How many heads there are: one if it is the minimum."""
        return self.steps if self.solver == "path" else 1

    def iterate(
        self, problem: Problem, checkpoint: Mapping[str, Tensor] | None = None
    ) -> Iterator[Step]:
        """Yield the minimum, or the base head and what it moves to, without end.

        Args:
            problem: The data.
            checkpoint: `Step.checkpoint` of the step after which to go on; from the base head if
                None.
        """
        base = next(ERM(l2=self.l2, standardise=self.standardise).iterate(problem)).head
        rows, standardise = problem.weighted, self.standardise
        inner = InnerProblem(problem, rows, l2=self.pull, standardise=standardise, base=base)
        losses, judge = unseen_losses(self, problem, base, self.folds)
        weight = unsure_weight(losses, rows.labels, self.gamma, class_balance=self.class_balance)
        note = f"The weights are by {judge}; {_worth(weight, problem.n_classes)}"
        if self.solver == "path":
            yield from self._path(inner, weight, note, checkpoint)
            return
        if self.pull == 0:
            note += " Nothing pulls: where classes can be separated, there is no minimum."
        yield inner.step(weight, target=inner.scored(problem.target), note=note)

    def _path(
        self,
        inner: InnerProblem,
        weight: Tensor,
        note: str,
        checkpoint: Mapping[str, Tensor] | None,
    ) -> Iterator[Step]:
        """Yield the base head, and then the head after every `every` gradient steps."""
        stored = inner.resume(checkpoint, u=inner.zero(), done=inner.zero().sum())
        u, done, objective = stored["u"], int(stored["done"]), inner.objective(weight)
        while True:
            clipped = False
            for _ in range(self.every if done else 0):
                gradient, clipped = clip_norm(objective.gradient(objective.at(u)), self.clip)
                u = u - self.lr * gradient
            taken = done * self.every
            done += 1
            yield inner.as_step(
                inner.solver.minimise(objective, u, tolerance=TOLERANCE, max_iterations=0),
                weight,
                solved=True,
                note=f"{taken:,} gradient steps from the base head. {note}",
                step_size=self.lr,
                clipped=clipped,
                checkpoint={"u": u, "done": weight.new_tensor(done)},
            )


def unsure_weight(losses: Tensor, labels: Tensor, gamma: float, *, class_balance: bool) -> Tensor:
    """Return weights that fall with the probability that a head gives the row's own class.

    Args:
        losses: (n,) cross-entropy of the head, nats.
        labels: (n,) int64 classes.
        gamma: How fast they fall, at least 0.
        class_balance: Whether each is divided by the number of rows of its class.

    Returns:
        (n,), sums to one.

    Example:
        >>> losses = -torch.tensor([0.75, 0.5, 0.25]).log()
        >>> unsure_weight(losses, torch.tensor([0, 0, 1]), 4.0, class_balance=True)
        tensor([0.0541, 0.1470, 0.7990])
    """
    score = -gamma * torch.exp(-losses)
    if class_balance:
        score = score - torch.bincount(labels).to(losses)[labels].log()
    return torch.softmax(score, dim=0)


def _worth(weight: Tensor, n_classes: int) -> str:
    """Return how many equal weights these are worth, and a warning where that is too few."""
    size = 1 / float(weight.square().sum())
    worth = f"they are worth {size:,.0f} equal ones of {len(weight):,}."
    if size < _FEW * n_classes:
        worth += f" That is below {_FEW} for each class: lower gamma."
    return worth
