"""Sentence encoders of sentence-transformers, from a local directory or the hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gsr_core.errors import CheckpointError
from gsr_core.extras import require
from gsr_core.features.hub import from_hub, weight_files
from gsr_core.features.kinds import Built, Request, Siamese
from gsr_core.features.preprocessing import TextPreprocessing

__all__ = ["load_sentence"]


class Sentence(nn.Module):
    """A sentence-transformers model, from token numbers to embeddings."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return embeddings (n, d), pooled and normalised as the model itself does it."""
        return self.model(dict(batch))["sentence_embedding"]


def load_sentence(request: Request) -> Built:
    """Return a sentence encoder with its own pooling, tokenizer, length and prompt.

    Raises:
        CheckpointError: If the model cannot be fetched, or does not begin with a transformer.
        MissingExtraError: If sentence-transformers is not installed.
    """
    library = require("sentence_transformers", "sentence")
    request.without_weights()
    request.without_arguments()
    local = Path(request.name).expanduser()
    name = str(local) if local.is_dir() else request.name
    with from_hub(name, "sentence") as offline:
        model: Any = library.SentenceTransformer(
            name, device="cpu", trust_remote_code=request.trust, local_files_only=offline
        )
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None or not hasattr(tokenizer, "model_max_length"):
        raise CheckpointError(
            f"{request.architecture} begins with {type(model[0]).__name__}, but only sentence "
            "encoders that begin with a transformer are loaded"
        )
    where = Path(name)
    if (where / "modules.json").is_file():
        where = where / json.loads((where / "modules.json").read_text())[0]["path"]
    prompt = model.prompts.get(model.default_prompt_name or "") or ""
    return Built(
        Siamese(Sentence(model)),
        TextPreprocessing(
            tokenizer=str(where) if Path(name).is_dir() else name,
            max_length=model.max_seq_length,
            prompt=prompt,
            trust=request.trust,
        ),
        trained=True,
        encoder=True,
        files=weight_files(name),
        facts={"pooling": " + ".join(type(each).__name__ for each in list(model)[1:])},
    )
