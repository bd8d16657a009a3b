"""Phrases in the space of a bundle's features, by the network that the bundle was made with.

Embeddings are kept in the workspace's `phrases`, by the network and the words: a phrase that was
looked for before needs no network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gsr_core.data.bundle import Bundle
from gsr_core.errors import SettingError
from gsr_core.features.text_sides import tidy
from gsr_core.files import replace_file
from gsr_core.ingest.text_side import check_phrases, text_side_of
from gsr_core.workspace import Workspace

__all__ = ["embed_phrases"]


def embed_phrases(workspace: Workspace, bundle: Bundle, phrases: Sequence[str]) -> np.ndarray:
    """Return the embeddings of phrases in the space of a bundle's features.

    Args:
        workspace: Where embeddings are kept.
        bundle: The data.
        phrases: t of them; spaces between words count as one.

    Returns:
        (t, d) float32, each row of length 1: its product with a row of features of length 1 is
        their cosine.

    Raises:
        SettingError: If a phrase is empty or longer than the network reads, or the bundle's network
            takes no phrases.
        CheckpointError: If its weights are gone or are others now.
        MissingExtraError: If its library is not installed.
    """
    check_phrases(bundle)
    texts = [tidy(phrase) for phrase in phrases]
    file = workspace.phrases / f"{_key(bundle, texts)}.npy"
    kept = _read(file, (len(texts), bundle.manifest.n_features))
    if kept is not None:
        return kept
    found = text_side_of(bundle).embed(texts).numpy()
    if found.shape[1] != bundle.manifest.n_features:
        raise SettingError(
            f"phrases become {found.shape[1]} numbers, but bundle '{bundle.name}' has "
            f"{bundle.manifest.n_features} features; import it with the network's shared space "
            "(--preprocess pooling=projection)"
        )
    found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(file) as temporary, temporary.open("wb") as stream:
        np.save(stream, found)
    return found


def _key(bundle: Bundle, texts: Sequence[str]) -> str:
    recipe = bundle.manifest.recipe or {}
    by = [recipe.get("network"), bundle.manifest.backbone.get("sha256"), list(texts)]
    return hashlib.sha256(json.dumps(by, sort_keys=True).encode()).hexdigest()[:32]


def _read(file: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """Return kept embeddings, or None if there are no readable ones."""
    try:
        kept = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return kept if kept.shape == shape else None
