"""Samples ranked by how near their features are to a phrase.

The similarity is the cosine of the angle between a sample's features and the phrase's embedding, in
[-1, 1]. Its level differs between networks and phrases (cosines of CLIP lie close together), so
that only the order means something by itself; a threshold is for one phrase.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from gsr_core.curation.slices import checked_rows
from gsr_core.curation.tables import describe_rows
from gsr_core.data.bundle import Bundle
from gsr_core.errors import SettingError
from gsr_core.phrases.embed import embed_phrases
from gsr_core.workspace import Workspace

__all__ = ["check_least", "search", "similarities"]

_CHUNK = 1 << 24
"""Numbers of the features that are held at a time."""


def similarities(
    bundle: Bundle, embeddings: np.ndarray, rows: np.ndarray | None = None
) -> np.ndarray:
    """Return the similarity of samples to each of some phrases.

    Args:
        bundle: The data.
        embeddings: (t, d), from `embed_phrases`.
        rows: (q,) positions in the bundle; all n if None.

    Returns:
        (q, t) float32, cosines; 0 where all features of a sample are 0.
    """
    n, d = len(bundle) if rows is None else len(rows), bundle.manifest.n_features
    found = np.empty((n, len(embeddings)), dtype=np.float32)
    size = max(_CHUNK // d, 1)
    for start in range(0, n, size):
        part = slice(start, start + size)
        features = np.asarray(bundle.features[part if rows is None else rows[part]])
        lengths = np.linalg.norm(features, axis=1, keepdims=True)
        found[part] = features @ embeddings.T / np.where(lengths > 0, lengths, 1)
    return found


def check_least(similarity: float) -> None:
    """Check a least similarity, from which on samples count as having what a phrase says.

    Raises:
        SettingError: If it is no cosine.
    """
    if not -1 <= similarity <= 1:
        raise SettingError(f"the least similarity is {similarity:g}; allowed are -1 to 1")


def search(
    workspace: Workspace, bundle: Bundle, phrase: str, *, rows: np.ndarray | None = None
) -> pd.DataFrame:
    """Rank samples by their similarity to a phrase.

    Args:
        workspace: Where embeddings are kept.
        bundle: The data; its network takes phrases.
        phrase: A few words.
        rows: (q,) positions in the bundle to look at; all if None.

    Returns:
        `describe_rows` with a column `similarity` before the attributes, the most similar first;
        equal ones in the bundle's order.

    Raises:
        SettingError: If the phrase is empty or too long, a row is not in the bundle, or the
            bundle's network takes no phrases.
        CheckpointError: If the weights of the network are gone or are others now.
        MissingExtraError: If its library is not installed.
    """
    rows = np.arange(len(bundle)) if rows is None else checked_rows(bundle, rows)
    similarity = similarities(bundle, embed_phrases(workspace, bundle, [phrase]), rows)[:, 0]
    order = np.argsort(-similarity, kind="stable")
    return describe_rows(bundle, rows[order], similarity=similarity[order])
