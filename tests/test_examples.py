import io

import numpy as np
import pytest
import torch
from PIL import Image

from gsr_core import examples
from gsr_core.data.bundle import SPLITS, open_bundle
from gsr_core.errors import BundleError, SettingError
from gsr_core.examples import coloured_digits
from gsr_core.features.backbones import load_backbone, load_network
from gsr_core.readers import digits
from gsr_core.workspace import Workspace


def decoded(bundle, row):
    return np.asarray(Image.open(io.BytesIO(bundle.thumbnail(row))))


def test_bundle_is_complete_and_opens_again(digits_bundle):
    workspace = Workspace(digits_bundle.path.parent.parent)
    bundle = open_bundle(workspace, "coloured-digits")
    assert bundle.manifest == digits_bundle.manifest
    assert bundle.group_names == ["0-4, red", "0-4, green", "5-9, red", "5-9, green"]
    assert bundle.manifest.attributes == ["colour", "digit", "source"]
    sizes = bundle.manifest.split_sizes
    assert (sizes["target"], sizes["val"]) == (300, 300)
    assert (
        sum(sizes[split] for split in ("target", "val", "test"))
        + (sizes["train"] + sizes["heldout"]) // digits.DRAWS
        == 1797
    )
    assert bundle.samples["sample_id"].is_unique
    assert (bundle.samples["y"] == (bundle.samples["digit"] >= 5)).all()
    assert (bundle.membership.sum(axis=1) == 1).all()


def test_colour_agrees_with_the_class_as_often_as_promised(digits_bundle):
    samples = digits_bundle.samples
    agrees = (samples["colour"] == "green") == samples["y"]
    for split in SPLITS:
        share = 1 - examples.CONFLICTING if split in digits.TRAINED else 0.5
        for label in (0, 1):
            rows = (samples["split"] == split) & (samples["y"] == label)
            assert abs(agrees[rows].sum() - share * rows.sum()) <= 0.501


def test_no_source_image_is_in_two_splits(digits_bundle):
    splits_of_source = digits_bundle.samples.groupby("source")["split"].nunique()
    assert len(splits_of_source) == 1797
    assert (splits_of_source == 1).all()


def test_thumbnails_are_the_images_in_their_colour(digits_bundle):
    for row in range(0, len(digits_bundle), 97):
        image = decoded(digits_bundle, row)
        assert image.shape == (32, 32, 3)
        red, green = image[..., :2].reshape(-1, 2).astype(int).sum(axis=0)
        assert digits_bundle.samples["colour"][row] == ("red" if red > green else "green")


def test_head_on_stored_features_gives_the_logits_of_the_network(digits_bundle):
    workspace = digits_bundle.path.parent.parent
    backbone = load_backbone("simconv1", workspace / "backbones" / "coloured-digits.safetensors")
    assert digits_bundle.manifest.backbone == backbone.facts
    rows = np.arange(0, len(digits_bundle), 53)
    images = torch.tensor(np.stack([decoded(digits_bundle, row) for row in rows]))
    network = load_network("simconv1", n_classes=2).module.eval()
    state = backbone.trunk.state_dict() | {
        f"fc.{part}": torch.tensor(value)
        for part, value in zip(("weight", "bias"), backbone.head, strict=True)
    }
    network.load_state_dict(state)
    with torch.inference_mode():
        expected = network(backbone.preprocessing(images.permute(0, 3, 1, 2)))
    weight, bias = digits_bundle.head
    logits = digits_bundle.features[rows] @ weight.T + bias
    np.testing.assert_allclose(logits, expected.numpy(), rtol=0, atol=1e-4)


def test_plain_training_fails_where_colour_misleads(digits_bundle):
    rows = digits_bundle.rows_of["test"]
    weight, bias = digits_bundle.head
    correct = (digits_bundle.features[rows] @ weight.T + bias).argmax(axis=1) == (
        digits_bundle.samples["y"].to_numpy()[rows]
    )
    membership = digits_bundle.membership[rows]
    accuracy = [correct[membership[:, group]].mean() for group in range(4)]
    assert min(accuracy) < 0.5
    # "0-4, red" and "5-9, green" agree with training.
    assert min(accuracy[0], accuracy[3]) > 0.85


def test_same_seed_gives_the_same_bundle_and_another_seed_another(tmp_path, monkeypatch):
    monkeypatch.setattr(examples, "EPOCHS", 1)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    told = []
    first, again, other = (
        coloured_digits(
            Workspace(tmp_path / place),
            seed=seed,
            progress=lambda fraction, sentence: told.append((fraction, sentence)),
        )
        for place, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == threads
    assert first.manifest.digests == again.manifest.digests
    assert first.manifest.backbone == again.manifest.backbone
    for name in ("samples.parquet", "features.npy", "head.safetensors", "thumbnails.arrow"):
        assert first.manifest.digests[name] != other.manifest.digests[name]
    sources = [
        set(bundle.samples.loc[bundle.rows_of["train"], "source"]) for bundle in (first, other)
    ]
    assert sources[0] != sources[1]
    assert told[0] == (0.0, "Drawing coloured digits")
    assert told[-1] == (1.0, "Done")
    assert any(sentence == "Training SimConv-1: epoch 1 of 1" for _, sentence in told)
    once = told[: len(told) // 3]
    assert once == sorted(once, key=lambda item: item[0])


def test_a_taken_or_forbidden_name_is_refused_before_training(digits_bundle, monkeypatch):
    workspace = Workspace(digits_bundle.path.parent.parent)
    monkeypatch.setattr(examples, "train", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(BundleError, match="exists already"):
        coloured_digits(workspace)
    for name in ("../elsewhere", "", "with/slash"):
        with pytest.raises(BundleError, match="is not allowed"):
            coloured_digits(workspace, name=name)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused_and_nothing_stays(tmp_path, seed):
    with pytest.raises(SettingError, match=f"seed is {seed}; allowed are 0 to 4294967295"):
        coloured_digits(Workspace(tmp_path), seed=seed)
    assert not list(tmp_path.iterdir())
