"""Preprocessing against the transforms that the models' authors publish."""

import os
import pickle

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from gsr_core.errors import InputError, SettingError
from gsr_core.features.backbones import default_preprocessing, load_backbone
from gsr_core.features.preprocessing import (
    ImagePreprocessing,
    NumbersPreprocessing,
    TextPreprocessing,
    override,
)

PLAIN = ImagePreprocessing(image_size=8, resize=10, mean=(0, 0, 0), std=(1, 1, 1))


def photo(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(300, 401), (401, 300), (90, 60), (256, 256)])
@pytest.mark.parametrize("model", ["resnet50", "efficientnet_b1", "vit_b_16"])
def test_torchvision_images_are_those_of_its_own_transform(model, shape):
    weights = next(iter(torchvision.models.get_model_weights(model)))
    published = weights.transforms()(Image.fromarray(photo(*shape)))
    ours = default_preprocessing(f"torchvision:{model}").prepare(photo(*shape))
    torch.testing.assert_close(ours, published, rtol=0, atol=1e-6)
    # On tensors torchvision itself rounds and, for bicubic, clips at other places: on noise, the
    # worst case, by less than half a level of 255 on average.
    tensor = torch.from_numpy(photo(*shape)).permute(2, 0, 1)
    difference = (ours - weights.transforms()(tensor)).abs()
    assert difference.mean() < 0.5 / 255 / max(weights.transforms().std)


@pytest.mark.parametrize("mode", ["center", "squash"])
def test_timm_images_are_those_of_its_own_transform(mode):
    timm = pytest.importorskip("timm")
    from gsr_core.features.timm_networks import timm_preprocessing

    config = {
        "input_size": (3, 64, 64), "interpolation": "bicubic", "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.3, 0.4), "crop_pct": 0.9, "crop_mode": mode,
    }  # fmt: skip
    transform = timm.data.create_transform(**config, is_training=False)
    ours = timm_preprocessing(config, "timm:x").prepare(photo(90, 120))
    torch.testing.assert_close(ours, transform(Image.fromarray(photo(90, 120))), rtol=0, atol=1e-6)
    with pytest.raises(SettingError, match="takes 3 channels of 64 x 32 pixels"):
        timm_preprocessing(config | {"input_size": (3, 64, 32)}, "timm:x")


def test_the_longest_side_can_fit_with_black_beside_it():
    made = override(PLAIN, {"fit": "longest", "resize": 8})
    out = made.prepare(np.full((16, 4, 3), 255, np.uint8))
    assert out.shape == (3, 8, 8)
    assert torch.equal(out[0].sum(0), torch.tensor([0.0, 0, 0, 8, 8, 0, 0, 0]))


def test_preprocessing_goes_through_json_and_to_other_processes():
    for made in (
        PLAIN,
        TextPreprocessing(tokenizer="somewhere", max_length=5),
        NumbersPreprocessing(n_inputs=3),
    ):
        assert type(made).model_validate_json(made.model_dump_json()) == made
        assert pickle.loads(pickle.dumps(made)) == made


def test_overrides_may_come_as_text_and_keep_the_margin():
    made = override(PLAIN, {"image_size": "16", "mean": "0.5", "std": "0.1,0.2,0.3"})
    assert (made.image_size, made.resize) == (16, 20)
    assert (made.mean, made.std) == ((0.5, 0.5, 0.5), (0.1, 0.2, 0.3))
    assert override(PLAIN, {"image_size": 16, "resize": 16}).resize == 16


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"size": 3},
            r"no setting 'size' \(did you mean 'image_size' or 'resize'\?\); allowed are",
        ),
        ({"image_size": "big"}, "image_size is 'big': input should be a valid integer"),
        ({"image_size": 0}, "image_size is 0: input should be greater than or equal to 1"),
        ({"std": 0}, "std.0 is 0: input should be greater than 0"),
        ({"mean": "1,2"}, "mean.2"),
        ({"interpolation": "best"}, "interpolation is 'best': input should be 'nearest'"),
        ({"trust": True}, "has no setting 'trust'"),
    ],
)
def test_wrong_overrides_are_named(overrides, message):
    with pytest.raises(SettingError, match=message):
        override(PLAIN, overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"pairs": "both"}, "preprocessing: pairs is 'both': input should be 'joint' or 'siamese'"),
        ({"std": "0.1,0,0.1"}, "preprocessing: std.1 is '0': input should be greater than 0"),
    ],
)
def test_a_wrong_value_is_refused_before_the_network_is_loaded(overrides, message):
    with pytest.raises(SettingError, match=message):
        load_backbone("sentence:/nowhere/at/all", overrides=overrides)


def test_inputs_of_another_kind_are_refused():
    for wrong in (
        np.zeros((4, 4, 3)),
        np.zeros((4, 4), np.uint8),
        "text",
        np.zeros((3, 4, 4), np.uint8),
    ):
        with pytest.raises(InputError, match=r"takes an image \(H, W, 3\) of uint8"):
            PLAIN.prepare(wrong)
    with pytest.raises(InputError, match="takes 3 numbers"):
        NumbersPreprocessing(n_inputs=3).prepare(np.zeros(4))
    with pytest.raises(InputError, match="not finite"):
        NumbersPreprocessing(n_inputs=2).prepare(np.array([1, np.nan]))
    pairs = TextPreprocessing(tokenizer="x", max_length=5, pairs="siamese")
    with pytest.raises(InputError, match="compares pairs; set pairs=joint"):
        pairs.prepare("one")
    with pytest.raises(InputError, match="takes a text"):
        pairs.prepare(3)


def test_a_prompt_goes_before_every_text():
    made = TextPreprocessing(tokenizer="x", max_length=5, prompt="query: ")
    assert made.prepare(" a ") == "query: a"
    assert made.prepare(("a", "b")) == ("query: a", "query: b")


def test_a_missing_tokenizer_is_told_and_workers_are_the_parallelism(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    with pytest.raises(SettingError, match=r"there is no tokenizer in .*tokenizer.json"):
        TextPreprocessing(tokenizer=str(tmp_path), max_length=5).collate(["a"])
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"


@pytest.mark.parametrize("fit", ["shortest", "longest", "both"])
@pytest.mark.parametrize("shape", [(40, 60), (64, 128), (8, 8)])
def test_the_share_that_is_seen_is_that_of_the_marked_pixels(fit, shape):
    """Each pixel of a grid is either inside the crop or not; the share counts those inside."""
    preprocessing = override(PLAIN, {"image_size": 160, "resize": 200, "fit": fit})
    height, width = shape
    whole = np.zeros((*shape, 3), dtype=np.uint8)
    seen = 0
    for row in range(4):
        for column in range(4):
            marked = whole.copy()
            rows = slice(row * height // 4, (row + 1) * height // 4)
            columns = slice(column * width // 4, (column + 1) * width // 4)
            marked[rows, columns] = 255
            share = np.asarray(preprocessing.seen(marked), dtype=float).sum() / (255 * 3)
            scale = {"shortest": 200 / min(shape), "longest": 200 / max(shape)}.get(fit)
            area = height * width / 16 * scale**2 if scale else 200 * 200 / 16
            seen += share / area / 16
    assert preprocessing.kept(width, height) == pytest.approx(seen, abs=0.02)


def test_what_a_network_sees_is_what_it_is_given():
    image = photo(30, 50)
    seen = np.asarray(PLAIN.seen(image), dtype=np.float32).transpose(2, 0, 1) / 255
    torch.testing.assert_close(PLAIN.prepare(image), torch.from_numpy(seen))
