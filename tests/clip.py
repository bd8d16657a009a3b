"""A small CLIP or SigLIP of transformers, made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["hf_clip"]


def hf_clip(folder: Path, kind: str = "clip") -> tuple[Any, Any]:
    """A CLIP or SigLIP of transformers with random weights and a tokenizer of a few words."""
    import transformers
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    words = {"<pad>": 0, "<unk>": 1, "<end>": 2, "a": 3, "red": 4, "three": 5}
    inner = Tokenizer(WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = Whitespace()
    inner.post_processor = TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 2)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>", eos_token="<end>",
        model_max_length=8, model_input_names=["input_ids"] + ["attention_mask"] * (kind == "clip"),
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    common = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = {**common, "vocab_size": 6, "max_position_embeddings": 8}
    vision = {**common, "image_size": 16, "patch_size": 8}
    if kind == "clip":
        special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
        config = transformers.CLIPConfig(
            text_config={**text, **special, "projection_dim": 12},
            vision_config={**vision, "projection_dim": 12},
            projection_dim=12,
        )
        model = transformers.CLIPModel(config)
    else:
        config = transformers.SiglipConfig(
            text_config={**text, "projection_size": 16}, vision_config=vision
        )
        model = transformers.SiglipModel(config)
    model.eval().save_pretrained(folder)
    transformers.CLIPImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    ).save_pretrained(folder)
    return model, tokenizer
