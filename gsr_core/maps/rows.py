"""The rows of a map in its space."""

from __future__ import annotations

import numpy as np
import torch

from gsr_core.data.bundle import Bundle
from gsr_core.errors import SettingError
from gsr_core.gradients.neighbours import Space as Rows
from gsr_core.gradients.representations import (
    centre_by_class,
    gradients,
)
from gsr_core.linear.head import Head, head_digest
from gsr_core.linear.objective import centred_basis
from gsr_core.maps.config import OF_A_HEAD, InfluenceProfile, MapConfig

__all__ = ["check_given", "map_rows", "space_rows"]


_CHUNK = 8192
"""Rows of which logits are computed at a time."""


def map_rows(
    bundle: Bundle, config: MapConfig, *, profile: InfluenceProfile | None = None
) -> np.ndarray:
    """Return the (n,) int64 positions in the bundle of the rows that a map or a graph has.

    Args:
        bundle: The data that `config` names.
        config: Whose rows.
        profile: The influence that `config` names, if that is its space.
    """
    if config.space == "influence" and profile is not None:
        return np.sort(profile.rows).astype(np.int64)
    parts = [bundle.rows_of[split] for split in config.splits]
    return np.sort(np.concatenate([*parts, np.empty(0, np.int64)]))


def space_rows(
    bundle: Bundle,
    head: Head | None,
    config: MapConfig,
    *,
    profile: InfluenceProfile | None = None,
) -> Rows:
    """Return what a map and a graph see of `map_rows`: a matrix, or gradients in factored form.

    Args:
        bundle: The data that `config` names.
        head: The head that `config` names, if its space has one.
        config: The space, and whether it is centred.
        profile: The influence that `config` names, if that is its space.

    Raises:
        SettingError: If bundle, head or influence is not the one of `config`, or no row is left.
    """
    check_given(bundle, head, config, profile)
    rows = map_rows(bundle, config, profile=profile)
    labels = torch.from_numpy(bundle.y[rows])
    if config.space == "influence":
        assert profile is not None
        values = np.array(profile.values, dtype=np.float32)[np.argsort(profile.rows)]
        matrix = torch.from_numpy(values)
        return centre_by_class(matrix, labels) if config.centred else matrix
    features = torch.from_numpy(np.asarray(bundle.features)[rows])
    if config.space == "features":
        return centre_by_class(features, labels) if config.centred else features
    assert head is not None
    head = Head(head.weight.cpu(), head.bias.cpu())
    if config.space == "gradients":
        space = gradients(head, features, labels)
        return space.centred(labels) if config.centred else space
    # Whatever all classes have in common changes no prediction.
    basis = centred_basis(len(head.bias), features.new_empty(0, dtype=torch.float64))
    matrix = torch.cat([head.logits(part.double()) @ basis for part in features.split(_CHUNK)])
    return centre_by_class(matrix, labels) if config.centred else matrix


def check_given(
    bundle: Bundle, head: Head | None, config: MapConfig, profile: InfluenceProfile | None
) -> None:
    """Check that a map can be made of what is given.

    Raises:
        SettingError: If the bundle, head or influence is not what the map is of.
    """
    if config.bundle != bundle.manifest.digest:
        raise SettingError(
            f"this map is of other data than bundle '{bundle.name}' holds now; ask for a new map"
        )
    if config.space in OF_A_HEAD and (head is None or config.head != head_digest(head)):
        raise SettingError(
            f"a map of {config.space} needs the head that it was asked for; pass that head, or ask "
            "for a map of features"
        )
    if config.space == "influence":
        if profile is None or config.profile != profile.digest:
            raise SettingError(
                "a map of influence needs the influence that it was asked for; pass that of a run "
                "that has one, or ask for a map of features"
            )
        if not len(profile.rows):
            raise SettingError("this influence has no row; pass that of a run that has weights")
    elif not any(bundle.manifest.split_sizes.get(split) for split in config.splits):
        raise SettingError(
            f"splits {list(config.splits)} have no row in bundle '{bundle.name}'; choose some of "
            f"{', '.join(bundle.manifest.split_sizes)}"
        )
