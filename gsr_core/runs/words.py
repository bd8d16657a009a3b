"""The words that a method of images and texts trains with, from a bundle and its network."""

from __future__ import annotations

import numpy as np

from gsr_core.data.bundle import Bundle
from gsr_core.data.groups import Group, beside_class
from gsr_core.data.seen import SeenGroups
from gsr_core.data.words import Words
from gsr_core.ingest.text_side import text_side_of

__all__ = ["words_of"]


def words_of(bundle: Bundle, seen: SeenGroups) -> Words:
    """Return the names of a bundle and the text side of its network, opened.

    Args:
        bundle: The data.
        seen: The groups that the method sees; their names give the words of attributes.

    Raises:
        SettingError: If the bundle's network takes no phrases.
        CheckpointError: If its weights are gone or are others now.
        MissingExtraError: If its library is not installed.
    """
    side = text_side_of(bundle)
    classes = bundle.manifest.classes
    numbers = beside_class(seen.groups, seen.membership, bundle.y, classes)
    attributes: dict[int, str] = {}
    if numbers is not None:
        for number, group, member in zip(numbers, seen.groups, seen.membership.T, strict=True):
            of_class = np.unique(bundle.y[member])
            name = classes[int(of_class[0])] if len(of_class) == 1 else None
            attributes.setdefault(int(number), _attribute(group, name))
    return Words(
        classes=classes,
        attributes=[attributes[number] for number in sorted(attributes)],
        embed=side.embed,
        temperature=side.temperature,
    )


def _attribute(group: Group, class_name: str | None) -> str:
    """Return what a group is called beside its class; the whole name if it is of several."""
    if class_name is None:
        return group.name
    rest = group.name.removeprefix(f"{class_name}, ")
    # A class may be written otherwise there than it is called.
    return rest if rest != group.name else group.name.partition(", ")[2] or group.name
