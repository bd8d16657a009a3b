"""An attribute from phrases, without a label: each sample has the phrase that it is nearest to.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (ICML 2021),
classify an image by the nearest of some captions. Here the captions are values of an attribute,
such as "red digit" and "green digit", which with the class defines groups. One phrase alone splits
samples by a least similarity instead: those that show it, and those that do not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from gsr_core.data.bundle import Bundle
from gsr_core.data.bundle_checks import check_attribute
from gsr_core.data.bundle_writing import bundle_directory
from gsr_core.data.regrouping import regrouped
from gsr_core.errors import SettingError
from gsr_core.features.text_sides import tidy
from gsr_core.ingest.reopen import network_choice
from gsr_core.phrases.embed import embed_phrases
from gsr_core.phrases.search import check_least, similarities
from gsr_core.workspace import Workspace

__all__ = ["nearest_phrases", "phrases_as_bundle"]


def nearest_phrases(
    workspace: Workspace, bundle: Bundle, phrases: Sequence[str], *, margin: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return which of some phrases each sample is nearest to, and by how much.

    Args:
        workspace: Where embeddings are kept.
        bundle: The data; its network takes phrases.
        phrases: Two different ones or more.
        margin: The value is unknown (-1) where the lead is less, in cosines; 0 or more.

    Returns:
        (n,) int64 places in `phrases`, and the (n,) float32 lead of the nearest before the second.

    Raises:
        SettingError: If there are fewer than two phrases, one is twice there, empty or too long,
            the margin is below 0, or the bundle's network takes no phrases.
        CheckpointError: If the weights of the network are gone or are others now.
        MissingExtraError: If its library is not installed.
    """
    texts = [tidy(phrase) for phrase in phrases]
    if len(texts) < 2:
        raise SettingError(
            f"there is {len(texts)} phrase; give two or more, of which each sample gets the nearest"
        )
    if len(set(texts)) < len(texts):
        twice = next(each for each in texts if texts.count(each) > 1)
        raise SettingError(f"the phrase '{twice}' is given twice; give different ones")
    if not margin >= 0:
        raise SettingError(f"margin is {margin}; allowed are numbers of 0 or more")
    similarity = similarities(bundle, embed_phrases(workspace, bundle, texts))
    second, first = np.sort(similarity, axis=1)[:, -2:].T
    lead = first - second
    return np.where(lead >= margin, similarity.argmax(axis=1), -1), lead


def phrases_as_bundle(
    workspace: Workspace,
    bundle: Bundle,
    attribute: str,
    phrases: Sequence[str],
    name: str,
    *,
    margin: float = 0.0,
    above: float | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Write a bundle of the same samples with a new attribute, and groups of class and attribute.

    Features are linked, not copied. Samples whose nearest phrase does not lead by the margin have
    no value of the attribute and are in no group.

    Args:
        workspace: Where.
        bundle: The data; its network takes phrases.
        attribute: Name of the new attribute.
        phrases: Its values: two different ones or more; or one, and then the values are it and
            "not" before it.
        name: Of the new bundle.
        margin: Least lead of the nearest of several phrases, in cosines.
        above: Least similarity to a single phrase of the samples that have it.
        overwrite: Replace a bundle of that name.

    Raises:
        SettingError: If a phrase, the margin or the least similarity is not allowed, the attribute
            is there already, a group would have no sample in target, or the bundle's network takes
            no phrases.
        BundleError: If the name of the bundle or of the attribute is not allowed, or is taken.
        CheckpointError: If the weights of the network are gone or are others now.
        MissingExtraError: If its library is not installed.
    """
    directory = bundle_directory(workspace, name, overwrite=overwrite)
    attribute = " ".join(attribute.split())
    if not attribute:
        raise SettingError("the attribute has no name; give it one, such as 'colour seen'")
    check_attribute(attribute, where="the nearest phrase")
    if attribute in bundle.samples.columns:
        raise SettingError(
            f"bundle '{bundle.name}' has a column '{attribute}' already; name the attribute "
            "otherwise"
        )
    texts = [tidy(phrase) for phrase in phrases]
    if (above is None) != (len(texts) != 1):
        raise SettingError(
            f"there are {len(texts)} phrases and {'no' if above is None else 'a'} least "
            "similarity; give one phrase with a least similarity (above), or several without"
        )
    if above is not None:
        check_least(above)
    if above is None:
        nearest, lead = nearest_phrases(workspace, bundle, texts, margin=margin)
        if not (nearest >= 0).any():
            raise SettingError(
                f"margin is {margin:g}, and no sample's nearest phrase leads by more than "
                f"{lead.max():.3f}; give a smaller one"
            )
        by = "the nearest of " + ", ".join(f"'{text}'" for text in texts)
    else:
        similarity = similarities(bundle, embed_phrases(workspace, bundle, texts))[:, 0]
        low, high = float(similarity.min()), float(similarity.max())
        if not low < above <= high:
            who = "every sample has" if above <= low else "no sample has"
            raise SettingError(
                f"the least similarity is {above:g}, which {who}; similarities to '{texts[0]}' "
                f"go from {low:.3f} to {high:.3f}"
            )
        nearest = np.where(similarity >= above, 0, 1)
        by = f"whether the similarity to '{texts[0]}' is {above:g} or more"
        texts.append(f"not {texts[0]}")
    unknown = int((nearest < 0).sum())
    nobody = [f"'{text}'" for place, text in enumerate(texts) if not (nearest == place).any()]
    said = [
        f"'{attribute}' is {by}, by {network_choice(bundle, 'trained').name}: no label, and how "
        "often it is right is unknown"
    ]
    said += [f"{unknown:,} samples are about as near to another and have none"] * bool(unknown)
    said += [f"no sample has {' or '.join(nobody)}"] * bool(nobody)
    other = f"give other phrases{' or a smaller margin' if margin else ''}"
    return regrouped(
        bundle,
        directory,
        attribute,
        pd.Series(np.array([*texts, None], dtype=object)[nearest]),
        source=f"{bundle.manifest.source}; {attribute} by phrases",
        note="; ".join(said) + ".",
        advice=other if above is None else "give another least similarity",
        order=texts,
        overwrite=overwrite,
    )
