"""Phrases in the space of a bundle's features, by the network that the bundle was made with.

Embeddings are kept in the workspace's `phrases`, in one file a network: a phrase that was looked
for before, alone or in a vocabulary, needs no network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from filelock import FileLock

from gsr_core.data.bundle import Bundle
from gsr_core.errors import SettingError
from gsr_core.features.text_sides import tidy
from gsr_core.files import replace_file
from gsr_core.ingest.reopen import network_choice
from gsr_core.ingest.text_side import check_phrases, text_side_of
from gsr_core.workspace import Workspace

__all__ = ["embed_phrases", "phrases_file"]


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
    file = phrases_file(workspace, bundle)
    texts = [tidy(phrase) for phrase in phrases]
    kept = _read(file, bundle.manifest.n_features)
    if missing := [text for text in dict.fromkeys(texts) if text not in kept]:
        kept |= dict(zip(missing, _embed(bundle, missing), strict=True))
        _add(file, {text: kept[text] for text in missing})
    return np.stack([kept[text] for text in texts])


def _embed(bundle: Bundle, texts: list[str]) -> np.ndarray:
    """Return (t, d) embeddings of length 1, by the network.

    Raises:
        SettingError: If they are not in the space of the features.
    """
    found = text_side_of(bundle).embed(texts).numpy()
    if found.shape[1] != bundle.manifest.n_features:
        raise SettingError(
            f"phrases become {found.shape[1]} numbers, but bundle '{bundle.name}' has "
            f"{bundle.manifest.n_features} features; import it with the network's shared space "
            "(--preprocess pooling=projection)"
        )
    return found / np.maximum(
        np.linalg.norm(found, axis=1, keepdims=True), np.finfo(np.float32).tiny
    )


def phrases_file(workspace: Workspace, bundle: Bundle) -> Path:
    """Return where the embeddings of phrases by a bundle's network are kept.

    Raises:
        SettingError: If that takes no phrases.
    """
    check_phrases(bundle)
    choice = network_choice(bundle, "trained").model_dump(mode="json")
    by = [choice, bundle.manifest.backbone.get("sha256"), bundle.manifest.n_features]
    digest = hashlib.sha256(json.dumps(by, sort_keys=True).encode()).hexdigest()[:32]
    return workspace.phrases / f"{digest}.npz"


def _read(file: Path, d: int) -> dict[str, np.ndarray]:
    """Return the kept embeddings by their phrases; none if the file is not whole."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            phrases, vectors = stored["phrases"], stored["vectors"]
    except (OSError, ValueError, EOFError, KeyError, BadZipFile):
        return {}
    if vectors.shape != (len(phrases), d):
        return {}
    return dict(zip(phrases.tolist(), vectors, strict=True))


def _add(file: Path, found: dict[str, np.ndarray]) -> None:
    """Add embeddings to a file, under a lock, so that two processes do not lose each other's."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_name(f".{file.stem}.lock")):
        # What is there stays as it is: it has been handed out.
        every = found | _read(file, len(next(iter(found.values()))))
        with replace_file(file) as temporary, temporary.open("wb") as stream:
            np.savez(stream, phrases=np.array(list(every)), vectors=np.stack([*every.values()]))
