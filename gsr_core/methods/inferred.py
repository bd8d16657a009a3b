r"""Infer groups, then train with them as if they were known: one composition for all inferences.

A method here has the fields of its inference (`gsr_core.inference`, where each module names its
paper) and of the training after it. The inferred groups replace the group columns of the problem,
and a group-aware method runs on that unchanged. It reads no true group unless its inference does.

- Outliers are left out of the fit, as in GraSP, and their weight is zero; those of target and val
  belong to no group.
- A step's group weights and influences would be those of inferred groups, so there are none.
- What reads groups and gives the weighted rows values can follow. Left out are DFR, whose
  values are on target, and GSR-CG and GSR-LiSSA, which are GSR by other solves. MAPLE follows the
  worst group (`risk=group_dro`), since otherwise it would read no groups.
- The inference is repeated when a run goes on, with the same result to the bit.

SPARE's own training draws rows by `importance`; as everywhere here, the head is fitted under these
probabilities instead of to draws from them.

The module is long because it lists the settings of seven methods.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from gsr_core.data.groups import membership_from_index
from gsr_core.data.problem import Problem, Rows
from gsr_core.inference.base import OUTLIER, GroupInference, InferredGroups, say_small_cells
from gsr_core.inference.eiil import EIILInference
from gsr_core.inference.george import GeorgeInference
from gsr_core.inference.grasp import FeaspInference, GraspInference
from gsr_core.inference.spare import SpareInference
from gsr_core.inference.ssa import SSAInference
from gsr_core.inference.xrm import XRMInference
from gsr_core.methods.base import (
    SETTINGS_CONFIG,
    LabelNeeds,
    Method,
    SearchSpace,
    SelectionField,
    Step,
    Values,
    settings,
)
from gsr_core.methods.group_dro import GroupDRO
from gsr_core.methods.gsr import GSR
from gsr_core.methods.gsr_variants import GSRHF
from gsr_core.methods.importance import Importance, importance, importance_in_words
from gsr_core.methods.inner import FittedHead
from gsr_core.methods.maple import MAPLE
from gsr_core.methods.pde import PDE
from gsr_core.methods.rwg import RWG
from gsr_core.methods.subg import SUBG

__all__ = [
    "EIIL",
    "SSA",
    "XRM",
    "FeaSP",
    "George",
    "GraSP",
    "InferThenTrain",
    "Spare",
    "with_inferred",
]

_TRAINING: dict[str, type[Method]] = {
    method.name: method for method in (GroupDRO, RWG, SUBG, PDE, GSR, GSRHF, MAPLE)
}
_WITH_GROUPS = {"maple": {"risk": "group_dro"}}
"""Settings without which a method would read no groups."""
_Then = Annotated[
    Literal["group_dro", "rwg", "subg", "pde", "gsr", "gsr_hf", "maple"],
    Field(
        description="What is trained with the inferred groups: group_dro, rwg, subg or pde on the "
        "weighted rows; with gsr, gsr_hf or maple the inferred groups of target drive the weights."
    ),
]
_SHARED = [each.name for each in fields(FittedHead)]


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class InferThenTrain(FittedHead, GroupInference):
    """A group inference, followed by a group-aware method on the inferred groups."""

    selection: SelectionField = "solution"
    then: str = "group_dro"
    steps: Annotated[
        int,
        Field(ge=1, le=100_000, description="Steps of the training; rwg and subg take only one."),
    ] = 200

    @property
    def max_steps(self) -> int:
        """How many steps the training takes at most."""
        return self.training().max_steps if self.then in _TRAINING else 1

    @property
    def solves(self) -> bool:
        """Whether the last step of the training is the optimum, and the others the way to it."""
        return self.then in _TRAINING and self.training().solves

    def training(self) -> Method:
        """Return the method that follows, with the settings that it shares with this one."""
        method = _TRAINING[self.then]
        shared = {"steps", *_SHARED}.intersection(each.name for each in fields(method))
        given = {name: getattr(self, name) for name in shared}
        return method(**{**given, **_WITH_GROUPS.get(self.then, {})})

    def iterate(
        self, problem: Problem, checkpoint: Mapping[str, Tensor] | None = None
    ) -> Iterator[Step]:
        """Yield the steps of the method that follows, with the inferred groups.

        Args:
            problem: The data.
            checkpoint: That of the method that follows.
        """
        inferred = self.infer(problem)
        known, kept = with_inferred(problem, inferred)
        device = problem.weighted.labels.device
        group = torch.from_numpy(inferred.weighted).to(device)
        in_val = torch.from_numpy(membership_from_index(inferred.val, inferred.n_groups)).to(device)
        about = _about(inferred)
        small = say_small_cells(in_val.sum(dim=0).cpu().numpy())
        if small and self.selection == "worst_inferred_group":
            about += f" Of its groups of val, {small}."
        for step in self.train(known, inferred, checkpoint):
            weight = step.sample_weight
            if weight is not None:
                weight = weight.new_zeros(len(group)).index_copy_(0, kept, weight)
            yield replace(
                step,
                sample_weight=weight,
                group_weight=None,
                u=None,
                measure=None,
                inferred_group=group,
                inferred_val=in_val,
                note=f"{about} {step.note}".strip(),
            )

    def train(
        self,
        known: Problem,
        inferred: InferredGroups,
        checkpoint: Mapping[str, Tensor] | None,
    ) -> Iterator[Step]:
        """Yield the steps of the training.

        Args:
            known: The data with the inferred groups as its own, without the outliers.
            inferred: The groups, and how they were chosen.
            checkpoint: Where to go on from, or None.
        """
        del inferred
        return self.training().iterate(known, checkpoint)


def with_inferred(problem: Problem, inferred: InferredGroups) -> tuple[Problem, Tensor]:
    """Return the problem with the inferred groups as its own.

    Args:
        problem: The data; its own group columns are dropped.
        inferred: A group for each row of its three splits.

    Returns:
        The problem, its weighted rows without the outliers, and the positions of those rows.
    """
    kept = np.flatnonzero(inferred.weighted != OUTLIER)

    def rows(known: Rows, groups: np.ndarray, index: np.ndarray) -> Rows:
        membership = membership_from_index(groups[index], inferred.n_groups)
        return Rows(
            known.features[index],
            known.labels[index],
            torch.from_numpy(membership).to(known.labels.device),
            known.position[index],
        )

    replaced = replace(
        problem,
        weighted=rows(problem.weighted, inferred.weighted, kept),
        target=rows(problem.target, inferred.target, np.arange(len(problem.target))),
        val=rows(problem.val, inferred.val, np.arange(len(problem.val))),
        training_shares=None,
        train=None,
    )
    return replaced, torch.from_numpy(kept).to(problem.weighted.labels.device)


def _about(inferred: InferredGroups) -> str:
    """Return a sentence about the inferred groups."""
    text = f"{inferred.n_groups} groups inferred"
    if inferred.n_outliers:
        text += (
            f", {inferred.n_outliers:,} of {len(inferred.weighted):,} samples are outliers of "
            "weight zero"
        )
    return f"{text}; {inferred.choice}."


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class Spare(Importance, InferThenTrain, SpareInference):
    """Clusters of early outputs, drawn inversely to a power of their size."""

    name: ClassVar[str] = "spare"
    title: ClassVar[str] = "SPARE: early clusters, drawn inversely to size"
    summary: ClassVar[str] = (
        "Clusters each class by what a head puts out early in training, where a shortcut shows "
        "first, and counts small clusters more."
    )
    use_when: ClassVar[str] = (
        "Nobody labelled groups, and the shortcut shows in the outputs of an early head."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE
    before: ClassVar[Mapping[str, str | float | bool]] = {"outputs": "logits"}
    values: ClassVar[Values] = Values.PROBABILITIES
    search: ClassVar[SearchSpace] = {
        **FittedHead.search,
        "early_steps": (1, 4, 16, 64),
        "power_clear": (0.0, 1.0, 2.0),
        "power_blurred": (0.0, 1.0, 2.0),
    }

    then: Annotated[
        Literal["importance", "group_dro", "rwg", "subg", "pde", "gsr", "gsr_hf", "maple"],
        Field(
            description="What is trained with the clusters: importance, SPARE's own sampling; or "
            "what takes the clusters for groups, group_dro, rwg, subg or pde on the weighted rows, "
            "gsr, gsr_hf or maple by those of target."
        ),
    ] = "importance"

    def train(
        self,
        known: Problem,
        inferred: InferredGroups,
        checkpoint: Mapping[str, Tensor] | None,
    ) -> Iterator[Step]:
        """Yield the steps of the training.

        Args:
            known: The data with the clusters as groups.
            inferred: The groups, and how they were chosen.
            checkpoint: Where to go on from, or None.
        """
        if self.then != "importance":
            yield from super().train(known, inferred, checkpoint)
            return
        inner = self.inner(known)
        labels = known.weighted.labels.cpu().numpy()
        power = self.powers(inferred, known.n_classes)
        drawn = importance(known.weighted.groups.cpu().numpy().argmax(axis=1), labels, power)
        yield inner.step(inner.basis.new_tensor(drawn), note=importance_in_words(power, drawn))


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class EIIL(InferThenTrain, EIILInference):
    """Environments under which a reference head differs most, by class."""

    name: ClassVar[str] = "eiil"
    title: ClassVar[str] = "EIIL: inferred environments"
    summary: ClassVar[str] = (
        "Splits the held-out rows so that a reference head differs most between the two parts, "
        "and trains with part and class as groups."
    )
    use_when: ClassVar[str] = (
        "Nobody labelled groups, and a reference head fails just where the shortcut fails."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE
    search: ClassVar[SearchSpace] = {**FittedHead.search, "reference": ("early", "backbone")}

    then: _Then = "group_dro"


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class George(InferThenTrain, GeorgeInference):
    """Gaussian mixtures of each class's reduced features."""

    name: ClassVar[str] = "george"
    title: ClassVar[str] = "GEORGE: mixtures of features"
    summary: ClassVar[str] = (
        "Fits a Gaussian mixture to the reduced features of each class, and trains with its "
        "components as groups."
    )
    use_when: ClassVar[str] = (
        "Nobody labelled groups, and they form clumps in the features of their class."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE
    search: ClassVar[SearchSpace] = {
        **FittedHead.search,
        "reduce": ("umap", "pca"),
        "overcluster": (1, 2, 5, 10),
    }

    then: _Then = "group_dro"


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class GraSP(InferThenTrain, GraspInference):
    """Density clusters of each class's gradient directions, without the outliers."""

    name: ClassVar[str] = "grasp"
    title: ClassVar[str] = "GraSP: clusters of gradients"
    summary: ClassVar[str] = (
        "Clusters each class by the direction of its samples' gradients, leaves outliers out, and "
        "trains with the clusters as groups."
    )
    use_when: ClassVar[str] = (
        "Nobody labelled groups, and some samples are outliers that should not count."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE
    search: ClassVar[SearchSpace] = {**FittedHead.search, "reference": ("converged", "backbone")}

    then: _Then = "group_dro"


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class FeaSP(InferThenTrain, FeaspInference):
    """Density clusters of each class's feature directions, without the outliers."""

    name: ClassVar[str] = "feasp"
    title: ClassVar[str] = "FeaSP: clusters of features"
    summary: ClassVar[str] = (
        "GraSP on features instead of gradients: what the gradients add is the difference."
    )
    use_when: ClassVar[str] = "To see what gradients add to GraSP."
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE

    then: _Then = "group_dro"


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class SSA(InferThenTrain, SSAInference):
    """Groups that predictors trained on target see in the other rows."""

    name: ClassVar[str] = "ssa"
    title: ClassVar[str] = "SSA: predicted groups"
    summary: ClassVar[str] = (
        "Predicts the groups of the held-out rows from the labelled ones of target, and trains "
        "with the predictions as groups."
    )
    use_when: ClassVar[str] = (
        "A small set with group labels from which the groups of the other rows can be predicted."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.TARGET
    search: ClassVar[SearchSpace] = {**FittedHead.search, "threshold": (0.8, 0.9, 0.95, 0.99)}

    then: _Then = "group_dro"


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class XRM(InferThenTrain, XRMInference):
    """Environments of what two cross-correcting heads get wrong, by class."""

    name: ClassVar[str] = "xrm"
    title: ClassVar[str] = "XRM: cross-risk minimisation"
    summary: ClassVar[str] = (
        "Splits each class by what two heads get wrong that learn from one half of the held-out "
        "rows each and correct the labels of the other, and trains with part and class as groups."
    )
    use_when: ClassVar[str] = (
        "Nobody labelled groups, not even of val, and the shortcut is easier to learn "
        "than what it stands for."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE
    search: ClassVar[SearchSpace] = {**FittedHead.search, "then": ("group_dro", "rwg", "subg")}

    then: _Then = "group_dro"
    selection: SelectionField = "worst_inferred_group"
