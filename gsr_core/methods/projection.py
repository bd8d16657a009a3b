r"""A projection of the features, trained by contrasts between classes and groups, then the head.

Yang, Nushi, Palangi and Mirzasoleiman, "Mitigating Spurious Correlations in Multi-modal Models
during Fine-tuning" (ICML 2023), keep the encoders of an image-text network as they are and train
its two projections. This is their part that needs no text, for features of any network: x is
standardised and projected, z = x W, and over batches of rows

.. math::
    a \, L_{vc} + b \, L_{vs}, \qquad s_{ij} = \frac{\cos(z_i, z_j)}{\tau},

is descended, both terms being contrasts (`contrast`): in L_vc rows of the same class belong
together and rows of others do not, in L_vs rows of the same group. After each pass over the rows
the head is fitted exactly on z. Since z is linear in x, projection and head are one head on the
features, which is what a run keeps.

- *Group* is the class with its attribute, `grouping=class_attribute`: the method's groups, and the
  class where these leave it out. Their definition groups by the attribute alone, their wording and
  examples by both. By the attribute alone rows of all classes with the same shortcut belong
  together, which rewards the shortcut: `grouping=attribute` has it to be compared.
- Batches are dealt so that every group is in each while its rows last. How many rows were no
  anchor of a term, because their group was alone or they were alone in it, is in the history.
- :math:`1/\tau` is trained as CLIP trains it: its logarithm descends too, and it stays at 100 or
  below.
- Step 1 is the projection before any training: the directions in which the features vary most. So
  val can keep it, and without a dimension to leave out its head is that of all features.

Where we differ, and why:

- Their L_CLIP, L_lc and L_ls need a text encoder, as does their classification by the texts'
  embeddings, in whose place the head is here; `text_projection` has them.
- The head sees z before it is normalised: a head on :math:`z / \lVert z \rVert` is not linear in x
  and could not be put back into the network. z is centred and scaled by one number, not by one for
  each dimension, which would undo what the projection makes small.
- The head's rows weigh by default so that every group has the same mass, as in `rwg`: the method
  reads their groups anyway. What the projection adds is the difference from `rwg`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from gsr_core.data.groups import patterns
from gsr_core.data.problem import Problem, Rows
from gsr_core.errors import SettingError
from gsr_core.linear.feature_map import FeatureMap
from gsr_core.linear.head import Head
from gsr_core.methods.base import (
    SETTINGS_CONFIG,
    LabelNeeds,
    Range,
    SearchSpace,
    Step,
    Values,
    settings,
)
from gsr_core.methods.contrast import Contrast, alike, contrast, group_batches
from gsr_core.methods.contrastive_training import (
    SHARPEST,
    Pass,
    TrainedProjection,
    Training,
)
from gsr_core.methods.inner import InnerProblem
from gsr_core.methods.pro2 import span
from gsr_core.methods.rwg import group_shares

__all__ = ["Projection", "check_contrast", "grouped", "image_terms"]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class Projection(TrainedProjection):
    """Train a linear projection by contrasts between classes and groups, and a head on it.

    One step is one pass over the rows; selection on val picks it.
    """

    name: ClassVar[str] = "projection"
    title: ClassVar[str] = "Projection: contrasts of classes and groups"
    summary: ClassVar[str] = (
        "Trains a linear projection of the features in which held-out rows of a class, and of a "
        "group, come near each other and away from others, and fits the head on it; each step is "
        "one pass over the rows."
    )
    use_when: ClassVar[str] = (
        "The features are of an image-text network, where it was published; elsewhere, only "
        "beside RWG, which is the same without the projection."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.TRAIN
    values: ClassVar[Values] = Values.PROBABILITIES
    search: ClassVar[SearchSpace] = {
        "l2": Range(1e-4, 1.0),
        "lr": Range(0.01, 1.0),
        "class_weight": (0.0, 0.5, 1.0),
        "group_weight": (0.25, 0.5, 1.0, 2.0),
        "width": (16, 64, 256),
    }

    width: Annotated[
        int,
        Field(
            ge=1,
            le=4096,
            description="Dimensions of the projection; at most as many as the features vary in.",
        ),
    ] = 64
    class_weight: Annotated[
        float, Field(ge=0, description="Weight of the term L_vc, between classes.")
    ] = 1.0
    group_weight: Annotated[
        float, Field(ge=0, description="Weight of the term L_vs, between groups.")
    ] = 1.0
    temperature: Annotated[
        float,
        Field(ge=1 / SHARPEST, le=1, description="Tau at the start, by which cosines are divided."),
    ] = 0.07
    l2: Annotated[
        float, Field(gt=0, description="Penalty on the squared norm of the head, bias included.")
    ] = 0.01
    balance: Annotated[
        Literal["groups", "rows"],
        Field(
            description="How rows weigh when the head is fitted. groups: every group the same "
            "mass; rows: all alike."
        ),
    ] = "groups"

    def check(self) -> None:
        """Refuse to train by nothing.

        Raises:
            SettingError: If both terms have weight zero.
        """
        if self.class_weight == self.group_weight == 0:
            raise SettingError(
                "class_weight and group_weight are both 0, so that nothing trains the projection; "
                "set one of them above 0, or take the method rwg"
            )

    def iterate(
        self, problem: Problem, checkpoint: Mapping[str, Tensor] | None = None
    ) -> Iterator[Step]:
        """Yield one head after each pass over the rows, without end; the driver counts.

        Args:
            problem: The data.
            checkpoint: `Step.checkpoint` of the step after which to go on; from the directions of
                most variance if None.

        Raises:
            SettingError: If a term of positive weight has nothing to contrast, or the groups have
                no attribute to group by.
        """
        self.check()
        rows = problem.weighted
        group = grouped(problem, self.grouping)
        labels, known = rows.labels.cpu().numpy(), group[group >= 0]
        if self.class_weight:
            check_contrast("class_weight", self.class_weight, labels, "classes", len(rows))
        if self.group_weight:
            check_contrast("group_weight", self.group_weight, known, "groups", len(rows))
        space = _Space(rows, problem.compute.accumulate_dtype)
        training = Training(
            self,
            {"class_term": self.class_weight, "group_term": self.group_weight},
            lambda: {"projection": space.directions(self.width)},
            self.temperature,
            space.features,
            checkpoint,
        )
        codes = torch.from_numpy(group).to(rows.labels.device)
        weight = self._weight(rows, space.features)
        alone = int((np.bincount(known) == 1).sum())

        while True:
            generator = np.random.default_rng([self.seed, training.passes])
            passed = Pass()
            for batch in group_batches(rows, group, self.batch_size, generator):
                place = torch.from_numpy(batch).to(rows.labels.device)
                seen = space.features[place], rows.labels[place], codes[place]
                passed.add(training.step(partial(_terms, *seen)))
            training.passes += 1
            terms = {**passed.numbers(), "temperature": training.temperature}
            note = _note(training.passes - 1, terms, alone)
            yield replace(
                self._step(problem, space, training["projection"], weight, note),
                terms=terms,
                checkpoint=training.checkpoint(),
            )

    def _step(
        self, problem: Problem, space: _Space, projection: Tensor, weight: Tensor, note: str
    ) -> Step:
        """Return the head that is fitted on the projected rows, as one on raw features."""
        projected = space.features @ projection
        size = projected.square().mean().sqrt().clamp(min=torch.finfo(projected.dtype).tiny)
        inner = InnerProblem(
            problem,
            replace(problem.weighted, source=projected / size),
            l2=self.l2,
            standardise=False,
        )
        step = inner.step(weight, note=note)
        return replace(step, head=space.head(step.head, projection / size))

    def _weight(self, rows: Rows, like: Tensor) -> Tensor:
        """Return the weights (n,) under which the head is fitted."""
        if self.balance == "rows":
            return like.new_full((len(rows),), 1 / len(rows))
        weight = group_shares(rows, like).mean(dim=1)
        return weight / weight.sum()


def check_contrast(name: str, weight: float, numbers: np.ndarray, what: str, rows: int) -> None:
    """Refuse rows of which no two can be contrasted.

    Args:
        name: The setting that gives the term its weight.
        weight: Its value, above 0.
        numbers: The class, or group, of each row that has one.
        what: What these are, as in "classes".
        rows: How many rows there are.

    Raises:
        SettingError: If the term has no anchor, whatever the batches.
    """
    counts = np.unique(numbers, return_counts=True)[1]
    if len(counts) < 2 or counts.max() < 2:
        raise SettingError(
            f"{name} is {weight:g}, but the number of {what} in the {rows:,} rows to fit on is "
            f"{len(counts)}, with {counts.max(initial=0):,} rows in the largest; a contrast needs "
            f"two {what} and two rows of one: set {name}=0, or take data with more of them"
        )


def _terms(
    features: Tensor,
    labels: Tensor,
    group: Tensor,
    values: Mapping[str, Tensor],
    sharpness: Tensor,
) -> dict[str, Contrast]:
    """Return the terms of a batch, given its rows, the parameters and 1 / tau."""
    unit = normalize(features @ values["projection"], dim=1)
    return image_terms(unit, labels, group, sharpness)


def image_terms(
    unit: Tensor, labels: Tensor, group: Tensor | None, sharpness: Tensor
) -> dict[str, Contrast]:
    """Return L_vc and L_vs of a batch.

    Args:
        unit: (b, e) projected rows, each of length 1.
        labels: (b,) classes.
        group: (b,) the group of each, -1 for none; None if groups are not to be read, which leaves
            L_vs out.
        sharpness: 1 / tau.
    """
    similarity = unit @ unit.T * sharpness
    terms = {"class_term": contrast(similarity, *alike(labels))}
    if group is not None:
        terms["group_term"] = contrast(similarity, *alike(group))
    return terms


def _note(passes: int, terms: Mapping[str, float], alone: int) -> str:
    """Return how the terms were trained, for people."""
    trained = f"after {passes:,} passes" if passes else "before it is trained"
    note = (
        f"The projection {trained}; {terms['class_term_skipped']:.1%} of the rows were skipped by "
        f"the term between classes and {terms['group_term_skipped']:.1%} by that between groups; "
        f"temperature {terms['temperature']:.3g}."
    )
    if alone:
        note += f" Groups of a single row, which no other row is to be near: {alone}."
    return note


class _Space:
    """The standardised features of rows, a row's length about one."""

    def __init__(self, rows: Rows, dtype: torch.dtype) -> None:
        plain = FeatureMap.fit(rows.source, standardise=True, dtype=dtype, row_space=False)
        features = plain.design(rows.features, dtype)[:, :-1]
        length = features.square().sum(dim=1).mean().sqrt().clamp(min=torch.finfo(dtype).tiny)
        self._scaling = replace(plain, scale=plain.scale * length)
        self.features = features / length

    def directions(self, width: int) -> Tensor:
        """Return (d, e) the directions in which the features vary most, e at most `width`."""
        return span(self.features)[:, -width:]

    def head(self, head: Head, projection: Tensor) -> Head:
        """Return the head on raw features that equals one on their projection (d, e)."""
        weight = head.weight @ projection.T.to(head.weight)
        return self._scaling.head(torch.cat([weight, head.bias[:, None]], dim=1).T)


def grouped(problem: Problem, grouping: str) -> np.ndarray:
    """Return (n,) the group of each weighted row in the term between groups, -1 for none.

    Rows in several groups are together with those in the same ones.

    Args:
        problem: The data.
        grouping: `class_attribute` or `attribute`.

    Raises:
        SettingError: If the groups are not made of an attribute, and that is grouped by.
    """
    rows = problem.weighted
    members = rows.groups.cpu().numpy()
    if grouping == "attribute":
        attribute = None if problem.beside_class is None else problem.beside_class()
        if attribute is None:
            raise SettingError(
                "grouping is 'attribute', but the groups of this data are not made of an "
                "attribute, with or without the class; set grouping=class_attribute, or let the "
                "method see groups of an attribute (--seen-groups)"
            )
        values = np.arange(attribute.max(initial=-1) + 1)
        kinds = members @ (attribute[:, None] == values)
    else:
        labels = rows.labels.cpu().numpy()
        kinds = np.column_stack([members, labels[:, None] == np.arange(problem.n_classes)])
    _, codes = patterns(kinds)
    return np.where(members.any(axis=1), codes, -1)
