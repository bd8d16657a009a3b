"""TorchScript, torch.export and ONNX: exported here from a network whose answer is known."""

import copy
import csv
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from gsr_core.errors import CheckpointError, SettingError, TrustError
from gsr_core.features.backbones import SimConv1, load_backbone, load_network

ALONE = """
import runpy, sys
sys.modules["gsr_core"] = sys.modules["torch"] = None  # Importing them fails.
folder, *sys.argv[1:] = sys.argv[1:]
sys.path.insert(0, folder)
runpy.run_path(folder + "/predict.py", run_name="__main__")
"""
IMAGES = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(2))
BATCH = torch.export.Dim("batch")


class WithSoftmax(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x).softmax(1)


class Embedding(nn.Module):
    """Ends in no linear layer."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return nn.functional.normalize(self.network(x), dim=1)


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SimConv1(3)
        # Running statistics of its own, so that nothing is right by being neutral.
        model.train()(torch.randn(16, 3, 32, 32))
        return model.eval()


def write(kind, model, file, *, batch=2):
    file = file.with_suffix(".pt2") if kind == "export" else file
    example = IMAGES[:batch]
    dynamic = ({0: BATCH},) if batch > 1 else None
    with warnings.catch_warnings():
        # Exporters warn of their own deprecated parts.
        warnings.simplefilter("ignore")
        if kind == "torchscript":
            torch.jit.save(torch.jit.trace(model, example), file)
        elif kind == "scripted":
            torch.jit.save(torch.jit.script(model), file)
        elif kind == "export":
            torch.export.save(torch.export.export(model, (example,), dynamic_shapes=dynamic), file)
        else:
            # The new exporter is slow: it is used once, for the case that matters most.
            new = type(model) is SimConv1 and batch > 1
            torch.onnx.export(
                model,
                (example,),
                str(file),
                dynamo=new,
                verbose=False,
                **({"dynamic_shapes": dynamic, "external_data": False} if new else {}),
            )
    return f"{'torchscript' if kind == 'scripted' else kind}:{file}"


@pytest.mark.parametrize("kind", ["torchscript", "scripted", "export", "onnx"])
def test_a_program_is_cut_before_its_last_linear_layer(tmp_path, network, kind):
    name = write(kind, network, tmp_path / "program")
    backbone = load_backbone(name, trust=kind != "onnx", n_classes=3, overrides={"image_size": 32})
    weight, bias = backbone.head
    np.testing.assert_array_equal(weight, network.fc.weight.detach().numpy())
    with torch.inference_mode():
        features = backbone.trunk(IMAGES)
        assert features.shape == (5, backbone.n_features) == (5, 64)
        logits = features @ torch.tensor(weight).T + torch.tensor(bias)
        torch.testing.assert_close(logits, network(IMAGES), rtol=1e-4, atol=1e-5)
    assert backbone.facts["n_parameters"] >= sum(p.numel() for p in network.parameters()) - 200
    assert (
        load_backbone(name, trust=True, n_classes=2, overrides={"image_size": 32}).facts["head"]
        == "left out: it is for 3 classes, and the data has 2"
    )

    whole = load_backbone(name, trust=True, layer="output", overrides={"image_size": 32})
    assert whole.head is None
    with torch.inference_mode():
        torch.testing.assert_close(whole.trunk(IMAGES), network(IMAGES), rtol=1e-4, atol=1e-5)
    with pytest.raises(SettingError, match=r"has no .*'nonesuch'"):
        load_backbone(name, trust=True, layer="nonesuch", overrides={"image_size": 32})
    with pytest.raises(SettingError, match="cannot be trained"):
        load_network(name, trust=True, n_classes=2, overrides={"image_size": 32})


@pytest.mark.parametrize("kind", ["torchscript", "onnx"])
def test_an_embedding_program_gives_its_output(tmp_path, network, kind):
    model = Embedding(network).eval()
    name = write(kind, model, tmp_path / "program")
    backbone = load_backbone(name, trust=True, overrides={"image_size": 32})
    assert backbone.head is None
    with torch.inference_mode():
        torch.testing.assert_close(backbone.trunk(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-5)


def test_softmax_after_the_head_of_a_graph_is_seen_through(tmp_path, network):
    backbone = load_backbone(write("onnx", WithSoftmax(network).eval(), tmp_path / "p.onnx"))
    np.testing.assert_array_equal(backbone.head[0], network.fc.weight.detach().numpy())


@pytest.mark.parametrize("kind", ["export", "onnx"])
def test_a_program_for_one_image_takes_batches(tmp_path, network, kind):
    backbone = load_backbone(write(kind, network, tmp_path / "one", batch=1), trust=True)
    assert backbone.preprocessing.image_size == 32
    weight, bias = map(torch.tensor, backbone.head)
    with torch.inference_mode():
        logits = backbone.trunk(IMAGES) @ weight.T + bias
        torch.testing.assert_close(logits, network(IMAGES), rtol=1e-4, atol=1e-5)


def test_an_onnx_trunk_goes_to_another_process_after_it_ran(tmp_path, network):
    backbone = load_backbone(write("onnx", network, tmp_path / "p.onnx", batch=1))
    features = backbone.trunk(IMAGES)
    assert torch.equal(pickle.loads(pickle.dumps(backbone.trunk))(IMAGES), features)


@pytest.mark.parametrize("kind", ["torchscript", "export"])
def test_programs_of_torch_need_trust(tmp_path, network, kind):
    name = write(kind, network, tmp_path / "program")
    with pytest.raises(TrustError, match=r"runs code of its own .*--trust"):
        load_backbone(name)


@pytest.mark.parametrize("kind", ["torchscript", "export", "onnx", "pickle"])
def test_files_that_are_no_programs_are_refused(tmp_path, kind):
    (tmp_path / "noise").write_bytes(b"noise")
    with pytest.raises(CheckpointError, match="noise"):
        load_backbone(f"{kind}:{tmp_path / 'noise'}", trust=True)
    with pytest.raises(CheckpointError, match="there is no file"):
        load_backbone(f"{kind}:{tmp_path / 'missing'}", trust=True)


def test_a_program_given_as_checkpoint_is_named(tmp_path, network):
    write("torchscript", network, tmp_path / "program.pt")
    with pytest.raises(CheckpointError, match=r"load it as torchscript:program.pt"):
        load_backbone("simconv1", tmp_path / "program.pt")
    assert (
        load_backbone(
            "torchscript:", tmp_path / "program.pt", trust=True, overrides={"image_size": 32}
        ).n_features
        == 64
    )


@pytest.mark.parametrize(
    ("kind", "file", "batch"),
    [("scripted", "model.ts", 2), ("export", "model.pt2", 2), ("onnx", "model.onnx", 1)],
)
def test_a_head_goes_back_into_a_program(tmp_path, network, put_back, photos, kind, file, batch):
    name = write(kind, network, tmp_path / "program", batch=batch)
    put = (name, tmp_path / "new", photos)
    given = {"trust": kind != "onnx", "overrides": {"image_size": 32}}
    logits = put_back(*put, **given)
    # What was written is a program like the one before, with another head.
    again = f"{name.partition(':')[0]}:{tmp_path / 'new' / file}"
    backbone = load_backbone(again, **given)
    prepared = [backbone.preprocessing.prepare(photo) for photo in photos]
    with torch.inference_mode():
        features = backbone.trunk(torch.stack(prepared)).numpy()
    weight, bias = backbone.head
    np.testing.assert_allclose(features @ weight.T + bias, logits, rtol=1e-4, atol=1e-5)
    if kind == "onnx":
        Image.fromarray(photos[0]).save(tmp_path / "photo.png")
        command = [sys.executable, "-c", ALONE, str(tmp_path / "new"), str(tmp_path / "photo.png")]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stderr
        (_, _, *classes), (_, taken_for, *shares) = csv.reader(answer.stdout.splitlines())
        odds = np.exp(logits[0] - logits[0].max())
        np.testing.assert_allclose(np.array(shares, float), odds / odds.sum(), atol=1e-5)
        assert taken_for == classes[int(logits[0].argmax())]


def test_a_softmax_stays_behind_the_head_of_a_graph(tmp_path, network, put_back, photos):
    # The exporter writes a product without a sum where the layer has no bias.
    network = copy.deepcopy(network)
    network.fc = nn.Linear(64, 3, bias=False)
    name = write("onnx", WithSoftmax(network).eval(), tmp_path / "p.onnx")
    put_back(name, tmp_path / "new", photos, gives="probabilities", overrides={"image_size": 32})


@pytest.mark.parametrize("kind", ["torchscript", "onnx"])
def test_programs_without_a_place_for_a_head_are_refused(tmp_path, network, put_back, photos, kind):
    name = write(kind, Embedding(network).eval(), tmp_path / "program")
    given = {"trust": True, "overrides": {"image_size": 32}}
    with pytest.raises(SettingError, match=r"has no place for the head: .*an export .* has the"):
        put_back(name, tmp_path / "new", photos, **given)
    if kind != "onnx":
        network = copy.deepcopy(network)
        network.fc = nn.Linear(64, 3, bias=False)
        name = write(kind, network, tmp_path / "program")
        with pytest.raises(
            SettingError, match=r"the last layer 'fc' of .* has no bias, and a prog"
        ):
            put_back(name, tmp_path / "new", photos, **given)
    assert not (tmp_path / "new").exists()
