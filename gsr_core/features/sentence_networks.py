"""Sentence encoders of sentence-transformers, from a local directory or the hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gsr_core.errors import CheckpointError
from gsr_core.extras import require
from gsr_core.features.hub import from_hub, weight_files
from gsr_core.features.kinds import Built, Request, Siamese
from gsr_core.features.merging import Merge, Written, save_beside
from gsr_core.features.preprocessing import TextPreprocessing

__all__ = ["load_sentence", "write_sentence"]


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


def write_sentence(merge: Merge, folder: Path) -> Written:
    """Write a directory as sentence-transformers does, with the head as its last module.

    `encode` gives the logits then. For pairs that are compared the library has no such module, and
    the head is beside it.
    """
    require("sentence_transformers", "sentence")
    modules: Any = _modules()
    preprocessing = merge.backbone.preprocessing
    assert isinstance(preprocessing, TextPreprocessing)
    trunk = merge.backbone.trunk
    model: Any = next(each for each in trunk.modules() if isinstance(each, Sentence)).model
    model.max_seq_length = preprocessing.max_length
    prompt = {"classified": preprocessing.prompt} if preprocessing.prompt else {}
    model.prompts, model.default_prompt_name = prompt, next(iter(prompt), None)
    if preprocessing.pairs == "siamese":
        save_beside(merge, folder)
        how = "SentenceTransformer('DIR') with head.safetensors on (u, v, |u - v|)"
    else:
        dense = modules.Dense(
            merge.weight.shape[1],
            len(merge.classes),
            activation_function=nn.Identity(),
            init_weight=torch.tensor(merge.weight),
            init_bias=torch.tensor(merge.bias),
        )
        model.append(dense)
        how = "SentenceTransformer('DIR').encode(texts)"
    # A card would name the directory that the encoder was read from.
    model.save(str(folder), create_model_card=False)
    return Written("of_sentence", how, takes="texts")


def _modules() -> Any:
    """Return where the library has its modules: an older place, of which it warns later."""
    try:
        return import_module("sentence_transformers.sentence_transformer.modules")
    except ModuleNotFoundError:
        return import_module("sentence_transformers.models")
