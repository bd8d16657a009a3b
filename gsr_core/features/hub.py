"""The Hugging Face hub: tried once, so that nothing waits for it when it does not answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gsr_core.extras import require
from gsr_core.features.kinds import downloading

__all__ = ["from_hub", "weight_files"]

PATIENCE = 5.0
"""Seconds that the hub has to answer."""


@contextmanager
def from_hub(name: str, extra: str) -> Iterator[bool]:
    """Load something of the hub, or of a local directory.

    Files fetched before load without a connection; the libraries themselves would try
    again and again for most of a minute, file by file.

    Args:
        name: Directory, or name on the hub.
        extra: The extra that installs the hub's client.

    Yields:
        Whether only local files may be used.

    Raises:
        CheckpointError: If it cannot be fetched; the sentence says how to do without the hub.
    """
    constants: Any = require("huggingface_hub.constants", extra)
    before = constants.HF_HUB_OFFLINE
    with downloading(
        f"'{name}'",
        "fetch it elsewhere (hf download NAME --local-dir DIRECTORY) and give the "
        "directory, or a checkpoint file, instead of the name",
    ):
        if not Path(name).exists() and not before and not _answers(constants.ENDPOINT):
            constants.HF_HUB_OFFLINE = True
        try:
            yield constants.HF_HUB_OFFLINE
        finally:
            constants.HF_HUB_OFFLINE = before


def weight_files(name: str) -> list[Path]:
    """Return the files with weights in a directory, or fetched from the hub before."""
    root = Path(name)
    if not root.is_dir():
        hub = require("huggingface_hub", "huggingface")
        cached = (
            hub.try_to_load_from_cache(name, file)
            for file in ("model.safetensors", "pytorch_model.bin")
        )
        return [Path(file) for file in cached if isinstance(file, str)][:1]
    files = sorted(root.rglob("*.safetensors"))
    return files or sorted(root.rglob("pytorch_model*.bin"))


def _answers(endpoint: str) -> bool:
    hub = require("huggingface_hub", "huggingface")
    try:
        hub.get_session().head(endpoint, timeout=PATIENCE)
    except Exception:  # Whatever the client raises: the hub does not answer.
        return False
    return True
