import pickle

import numpy as np
import pytest
import torch
from torch import nn

from gsr_core.errors import CheckpointError, SettingError, TrustError
from gsr_core.features.backbones import (
    build,
    default_preprocessing,
    load_backbone,
    load_network,
    save_checkpoint,
)
from gsr_core.features.preprocessing import ImagePreprocessing
from gsr_core.files import sha256


def new_network(architecture="simconv1", n_classes=2):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(architecture, n_classes).eval()


def logits_by_head(backbone, inputs):
    weight, bias = map(torch.from_numpy, backbone.head)
    return backbone.trunk(inputs) @ weight.T + bias


@pytest.mark.parametrize(
    ("architecture", "n_classes", "size"),
    [
        ("simconv1", 5, 32),
        ("torchvision:resnet18", 3, 64),
        ("torchvision:mobilenet_v3_small", 2, 64),
    ],
)
def test_head_on_trunk_is_the_whole_network_after_saving_and_loading(
    tmp_path, architecture, n_classes, size
):
    network = new_network(architecture, n_classes)
    file = tmp_path / "made" / "network.safetensors"
    save_checkpoint(network, file, training="none")
    backbone = load_backbone(architecture, file)

    inputs = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(logits_by_head(backbone, inputs), network(inputs))
    assert backbone.facts == {
        "architecture": architecture,
        "checkpoint": "network.safetensors",
        "sha256": sha256(file),
        "weights": None,
        "n_parameters": sum(p.numel() for p in network.parameters()),
        "n_features": backbone.head[0].shape[1],
        "layer": [name for name, module in network.named_modules() if type(module) is nn.Linear][
            -1
        ],
        "head": "its own",
        "training": "none",
    }
    assert not backbone.trunk.training
    assert not any(p.requires_grad for p in backbone.trunk.parameters())


def test_loading_leaves_the_random_state_alone(tmp_path):
    save_checkpoint(new_network(), tmp_path / "a.safetensors")
    before = torch.get_rng_state()
    load_backbone("simconv1", tmp_path / "a.safetensors")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("wrapped", [False, True])
def test_data_parallel_prefix_is_dropped(tmp_path, wrapped):
    network = new_network()
    state = nn.DataParallel(network).state_dict()
    assert all(key.startswith("module.") for key in state)
    torch.save({"state_dict": state} if wrapped else state, tmp_path / "parallel.pt")
    backbone = load_backbone("simconv1", tmp_path / "parallel.pt", n_classes=2)
    np.testing.assert_array_equal(backbone.head[0], network.fc.weight.detach().numpy())


def test_checkpoint_without_head_gives_a_backbone_without_head(tmp_path):
    network = new_network()
    state = {k: v for k, v in network.state_dict().items() if not k.startswith("fc.")}
    torch.save(state, tmp_path / "trunk.pt")
    backbone = load_backbone("simconv1", tmp_path / "trunk.pt")
    assert backbone.head is None
    assert backbone.n_features == 64
    assert backbone.facts["n_parameters"] == sum(p.numel() for p in network.parameters()) - 130


def test_checkpoint_of_another_architecture_is_refused_with_its_keys(tmp_path):
    save_checkpoint(new_network(), tmp_path / "small.safetensors")
    with pytest.raises(
        CheckpointError,
        match=r"small.safetensors does not fit torchvision:resnet18: it lacks \d+ keys \(.*, "
        r"\.\.\.\) and it has the unexpected 13 keys \(bn2.bias, .*, "
        r"\.\.\.\) and 6 tensors have another shape \(.*\); choose the architecture",
    ):
        load_backbone("torchvision:resnet18", tmp_path / "small.safetensors")

    state = new_network().state_dict()
    del state["bn1.weight"]
    state["extra"] = torch.zeros(1)
    torch.save(state, tmp_path / "keys.pt")
    with pytest.raises(
        CheckpointError,
        match=r"lacks 1 keys \(bn1.weight\) and it has the unexpected 1 keys \(extra\)",
    ):
        load_backbone("simconv1", tmp_path / "keys.pt")


def test_wrong_shapes_are_named(tmp_path):
    state = new_network().state_dict()
    state["conv1.weight"] = torch.zeros(8, 3, 5, 5)
    torch.save(state, tmp_path / "shape.pt")
    with pytest.raises(
        CheckpointError, match=r"conv1.weight \(8, 3, 5, 5\) instead of \(8, 3, 4, 4\)"
    ):
        load_backbone("simconv1", tmp_path / "shape.pt")


def test_head_for_another_number_of_classes_is_left_out_and_the_facts_say_so(tmp_path):
    save_checkpoint(new_network(n_classes=5), tmp_path / "five.safetensors")
    backbone = load_backbone("simconv1", tmp_path / "five.safetensors", n_classes=3)
    assert backbone.head is None
    assert backbone.facts["head"] == "left out: it is for 5 classes, and the data has 3"
    assert load_backbone("simconv1", tmp_path / "five.safetensors", n_classes=5).head is not None


def test_network_to_train_gets_a_head_for_its_classes_and_keeps_the_rest(tmp_path):
    network = new_network(n_classes=5)
    save_checkpoint(network, tmp_path / "five.safetensors")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    started = load_network("simconv1", tmp_path / "five.safetensors", n_classes=3)
    assert torch.equal(before, torch.get_rng_state())
    again = load_network("simconv1", tmp_path / "five.safetensors", n_classes=3)
    assert (started.head_name, started.facts["head"]) == ("fc", "new")
    assert torch.equal(started.module.fc.weight, again.module.fc.weight)
    assert torch.equal(started.module.conv3.weight, network.conv3.weight)
    assert all(parameter.requires_grad for parameter in started.module.parameters())

    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    backbone = started.backbone()
    with torch.inference_mode():
        logits = started.module.eval()(images)
        assert logits.shape == (4, 3)
        torch.testing.assert_close(logits_by_head(backbone, images), logits)
    kept = load_network("simconv1", tmp_path / "five.safetensors", n_classes=5)
    assert kept.facts["head"] == "its own"
    assert torch.equal(kept.module.fc.weight, network.fc.weight)


def test_pickled_code_needs_trust_and_noise_is_refused(tmp_path):
    network = new_network()
    torch.save(network, tmp_path / "network.pt")
    with pytest.raises(TrustError, match=r"--trust on the command line.*I trust this file"):
        load_backbone("simconv1", tmp_path / "network.pt")
    trusted = load_backbone("simconv1", tmp_path / "network.pt", trust=True)
    np.testing.assert_array_equal(trusted.head[0], network.fc.weight.detach().numpy())

    (tmp_path / "noise.pt").write_bytes(b"noise")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"a": 1}))
    # Puts what is on top of a stack into the memo, when there is nothing on it.
    (tmp_path / "hollow.pt").write_bytes(b"\x80\x02q\x00.")
    for name in ("noise.pt", "empty.pt", "plain.pt", "hollow.pt"):
        for trust in (False, True):
            with pytest.raises(
                CheckpointError, match=r"cannot be read .*; write it with torch.sav"
            ):
                load_backbone("simconv1", tmp_path / name, trust=trust)


def test_files_that_hold_something_else_are_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="something other than a state dict"):
        load_backbone("simconv1", tmp_path / "list.pt")
    (tmp_path / "noise.safetensors").write_bytes(b"noise")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_backbone("simconv1", tmp_path / "noise.safetensors")
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_backbone("simconv1", tmp_path / "missing.pt")


def test_network_without_linear_end_is_refused(tmp_path):
    network = new_network("torchvision:squeezenet1_1")
    save_checkpoint(network, tmp_path / "squeeze.safetensors")
    with pytest.raises(CheckpointError, match=r"ends in Conv2d 'classifier.1'.*layer=output"):
        load_backbone("torchvision:squeezenet1_1", tmp_path / "squeeze.safetensors")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("simconv2", "simconv1"),
        ("resnet50", "torchvision:resnet50"),
        ("torchvison:vgg11", "torchvision:vgg11"),
        ("simconv1:x", "simconv1"),
        ("nothing like it", ""),
    ],
)
def test_unknown_kinds_are_refused_with_those_allowed(name, meant):
    said = rf" \(did you mean '{meant}'\?\)" if meant else ""
    with pytest.raises(SettingError, match=f"'{name}' is unknown{said}; allowed are simconv1"):
        load_backbone(name)


@pytest.mark.parametrize("name", ["torchvision:nonesuch", "torchvision:"])
def test_unknown_models_are_refused(name):
    for make in (load_backbone, lambda name: build(name, 2), default_preprocessing):
        with pytest.raises(SettingError, match=r"torchvision|lacks a name"):
            make(name)


def test_a_model_that_is_nearly_right_is_suggested():
    with pytest.raises(SettingError, match="did you mean 'resnet50'"):
        build("torchvision:resnet5", 2)


def test_options_that_do_not_go_together_are_refused(tmp_path):
    save_checkpoint(new_network(), tmp_path / "a.safetensors")
    with pytest.raises(SettingError, match="both a checkpoint and weights"):
        load_backbone("torchvision:resnet18", tmp_path / "a.safetensors", weights="DEFAULT")
    with pytest.raises(SettingError, match="weights='x' means nothing for simconv1"):
        load_backbone("simconv1", weights="x")
    with pytest.raises(SettingError, match="takes no arguments, but depth were given"):
        load_backbone("torchvision:resnet18", arguments={"depth": 3})
    with pytest.raises(
        SettingError, match="weights 'V9' of torchvision:resnet18 are unknown; allow"
    ):
        load_backbone("torchvision:resnet18", weights="V9")
    for name in ("simconv1", "torchvision:resnet18"):
        with pytest.raises(CheckpointError, match="comes without trained weights; give a checkpoi"):
            load_backbone(name)


def test_torchvision_networks_get_the_published_preprocessing():
    preprocessing = default_preprocessing("torchvision:resnet50")
    assert (preprocessing.resize, preprocessing.image_size) == (256, 224)
    assert preprocessing.mean == (0.485, 0.456, 0.406)


def test_preprocessing_scales_resizes_and_crops():
    plain = ImagePreprocessing(image_size=4, mean=(0.0, 0.5, 0.5), std=(1.0, 0.5, 0.25))
    white = torch.full((2, 1, 6, 8), 255, dtype=torch.uint8)
    out = plain(white)
    assert out.shape == (2, 3, 4, 4)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out[0, :, 0, 0], torch.tensor([1.0, 1.0, 2.0]))
