import json
import math
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from gsr_core.data.inputs import ImageArrays, ImageFiles, Numbers
from gsr_core.errors import CheckpointError, DeviceError, RunStateError, SettingError, SourceError
from gsr_core.features.backbones import Network, load_backbone, load_network
from gsr_core.features.batches import Batches
from gsr_core.features.heads import Seat
from gsr_core.features.preprocessing import NumbersPreprocessing
from gsr_core.features.presets import PRESETS, Training, make_training
from gsr_core.features.training import train

CPU = torch.device("cpu")
SETTINGS = {
    "optimiser": "adam",
    "epochs": 3,
    "lr": 5e-3,
    "batch_size": 20,
    "weight_decay": 0.0,
    "workers": 0,
    "devices": 1,
}
TRAIN = np.arange(5, 95)


def new_network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return load_network("simconv1", n_classes=2)


def two_layers(n_inputs=3):
    """A network without anything that couples the rows of a batch or is random."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Linear(n_inputs, 8), nn.Tanh(), nn.Linear(8, 2))
    return Network(
        layers,
        "2",
        NumbersPreprocessing(n_inputs=n_inputs),
        {"architecture": "two layers"},
        Seat("2", 8, last=True, flat=True, logits=True),
    )


@pytest.fixture(scope="module")
def labels():
    return np.arange(100) % 2


@pytest.fixture(scope="module")
def images(labels):
    """Bright images are class 1, dark ones class 0."""
    rng = np.random.default_rng(0)
    return (rng.integers(0, 100, (100, 32, 32, 3)) + 120 * labels[:, None, None, None]).astype(
        np.uint8
    )


def trained(folder, inputs, labels, rows=TRAIN, network=None, **changed):
    """Train; return the network's tensors by name, or None if it was stopped."""
    options = {"device": CPU} | {
        name: changed.pop(name)
        for name in ("device", "val_rows", "membership", "progress", "should_stop")
        if name in changed
    }
    network = network or new_network()
    training = Training(**(SETTINGS | changed))
    file = train(network, inputs, labels, rows, training, folder, **options)
    return file and load_file(file)


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def plainly_trained(images, labels, epochs=3):
    """The same training, written down once more and in memory."""
    network = new_network()
    inputs = network.preprocessing.collate([network.preprocessing.prepare(x) for x in images])
    targets = torch.from_numpy(labels)
    order = torch.Generator().manual_seed(0)
    layers = network.module.train()
    optimiser = torch.optim.Adam(layers.parameters(), lr=5e-3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(epochs):
            for rows in torch.randperm(len(images), generator=order).split(20):
                loss = nn.functional.cross_entropy(layers(inputs[rows]), targets[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    return layers.state_dict()


def test_presets_are_what_was_published():
    published = {
        "waterbirds": ("sgd", 1e-3, 32, 1e-3, 100),
        "celeba": ("sgd", 1e-3, 128, 1e-4, 50),
        "multinli": ("adamw", 2e-5, 32, 1e-4),
        "civilcomments": ("adamw", 2e-5, 32, 1e-4),
    }
    for name, values in published.items():
        made = make_training(name)
        found = (made.optimiser, made.lr, made.batch_size, made.weight_decay, made.epochs)
        assert found[: len(values)] == values
        assert made.momentum == 0.9
        assert len(values) == 5 or "epochs is ours" in PRESETS[name].note


def test_settings_are_read_from_text_and_described():
    made = make_training("waterbirds", {"epochs": "3", "lr": "1e-2", "devices": "2"})
    assert (made.epochs, made.lr, made.devices, made.workers) == (3, 1e-2, 2, "auto")
    assert Training(**made.settings()) == made
    assert make_training("waterbirds", made.settings()) == made
    fields = Training.__pydantic_fields__
    assert all(field.description for field in fields.values())


@pytest.mark.parametrize(
    ("preset", "values", "message"),
    [
        ("waterbird", {}, "did you mean 'waterbirds'"),
        ("quick", {"epoch": 1}, "no setting 'epoch' .did you mean 'epochs'"),
        ("quick", {"epochs": "0"}, "epochs is '0'; input should be greater than or equal to 1"),
        ("quick", {"lr": "nan"}, "lr is 'nan'"),
        ("quick", {"batch_size": 1}, "batch_size is 1"),
        ("quick", {"optimiser": "lion"}, "'sgd', 'adam' or 'adamw'"),
        ("quick", {"workers": "many"}, "workers is 'many'; allowed are auto and a whole number"),
        ("quick", {"devices": "0"}, "devices is 0; allowed are auto and 1 to 1024"),
    ],
)
def test_a_wrong_setting_is_told(preset, values, message):
    with pytest.raises(SettingError, match=message):
        make_training(preset, values)


def test_training_is_bitwise_that_of_a_plain_loop_and_loads_as_a_backbone(tmp_path, images, labels):
    network = new_network()
    state = trained(tmp_path, ImageArrays(images), labels, network=network)
    assert_same(state, plainly_trained(images[TRAIN], labels[TRAIN]))
    assert not network.module.training
    assert_same(state, network.module.state_dict())
    backbone = load_backbone("simconv1", tmp_path / "network.safetensors")
    assert backbone.facts["training"] == (
        "plain ERM on train: Adam, 3 epochs, learning rate 0.005, batches of 20, seed 0"
    )
    assert backbone.head is not None
    np.testing.assert_array_equal(backbone.head[0], state["fc.weight"])


def test_only_the_rows_given_are_read(tmp_path, images, labels):
    for row in TRAIN[:40]:
        Image.fromarray(images[row]).save(tmp_path / f"{row}.png")
    inputs = ImageFiles(tmp_path, [f"{row}.png" for row in range(100)])
    trained(tmp_path / "a", inputs, labels, TRAIN[:40], epochs=1)
    with pytest.raises(SourceError, match=r"'45\.png' cannot be read: there is no such file"):
        trained(tmp_path / "b", inputs, labels, TRAIN[:41], epochs=1, workers=1)


def test_seed_fixes_the_network_and_workers_do_not_matter(tmp_path, images, labels):
    inputs = ImageArrays(images)
    before = torch.get_rng_state()
    shared = {"augment": "crop-flip", "epochs": 2}
    first = trained(tmp_path / "a", inputs, labels, **shared)
    assert torch.equal(before, torch.get_rng_state())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        again = trained(tmp_path / "b", inputs, labels, workers=2, **shared)
    assert_same(first, again)
    for name, other in {"seed": {"seed": 1}, "augment": {"augment": "none"}}.items():
        changed = trained(tmp_path / name, inputs, labels, **(shared | other))
        assert not torch.allclose(first["fc.weight"], changed["fc.weight"])


def test_crops_are_of_70_to_100_percent_and_half_are_mirrored():
    side = 64
    across = np.broadcast_to(np.linspace(0, 255, side).astype(np.uint8), (side, side))
    down = across.T
    image = np.stack([across, down, np.zeros_like(across)], axis=2)
    crop_flip = Batches(
        ImageArrays(image[None]), np.zeros(1), new_network().preprocessing, workers=0,
        augment="crop-flip",
    )._loader.dataset.crop_flip  # fmt: skip
    areas, mirrored = [], 0
    for row in range(300):
        crop = 255 * (crop_flip.prepare(image, 0, row).numpy() * 0.5 + 0.5)
        width = abs(crop[0, 5, -1] - crop[0, 5, 0]) / 255
        height = abs(crop[1, -1, 5] - crop[1, 0, 5]) / 255
        areas.append(width * height)
        mirrored += crop[0, 5, -1] < crop[0, 5, 0]
    assert 0.62 < min(areas) < 0.75
    assert 0.9 < max(areas) <= 1.0
    assert 120 < mirrored < 180


def test_stopped_within_an_epoch_and_started_again_it_is_one_training(tmp_path, images, labels):
    inputs, told = ImageArrays(images), []
    shared = {"augment": "crop-flip", "val_rows": np.arange(5)}
    whole = trained(tmp_path / "whole", inputs, labels, **shared)
    steps = iter(range(100))
    parts = tmp_path / "parts"
    assert not trained(parts, inputs, labels, should_stop=lambda: next(steps) == 6, **shared)
    assert not (parts / "network.safetensors").exists()
    torch.rand(3)
    again = trained(
        parts, inputs, labels, progress=lambda fraction, text: told.append(fraction), **shared
    )
    assert_same(whole, again)
    np.testing.assert_allclose(told, np.arange(8, 16) / 15)
    history = "history.jsonl"
    assert (parts / history).read_text() == (tmp_path / "whole" / history).read_text()


KILLED = """
import os, pathlib, runpy, signal, sys, numpy
test, folder = runpy.run_path(sys.argv[1]), pathlib.Path(sys.argv[2])
data = numpy.load(folder.parent / "data.npz")

def kill(*progress):
    if (folder / "checkpoint.pt").exists():
        os.kill(os.getpid(), signal.SIGKILL)

inputs = test["ImageArrays"](data["images"])
test["trained"](folder, inputs, data["labels"], epochs=4, progress=kill)
"""


def test_killed_and_started_again_it_gives_the_same_network(tmp_path, images, labels):
    folder, told = tmp_path / "killed", []
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    # Not a fork: this process may have differentiated, and then a forked one cannot.
    process = subprocess.run([sys.executable, "-c", KILLED, __file__, folder])
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "network.safetensors").exists()
    # As if it had been killed while it wrote.
    (folder / ".checkpoint.pt.0123abcd.tmp").write_bytes(b"half")
    again = trained(
        folder, ImageArrays(images), labels, epochs=4,
        progress=lambda fraction, text: told.append(fraction),
    )  # fmt: skip
    assert 0.25 < told[0] < 1
    assert_same(again, plainly_trained(images[TRAIN], labels[TRAIN], epochs=4))
    assert {file.name for file in folder.iterdir()} == {
        "history.jsonl", "lock", "network.safetensors", "training.json"
    }  # fmt: skip


def test_what_is_done_is_not_done_again_and_a_change_starts_anew(tmp_path, images, labels):
    inputs, told = ImageArrays(images), []
    shared = {"epochs": 1, "progress": lambda fraction, text: told.append(text)}
    first = trained(tmp_path, inputs, labels, **shared)
    told.clear()
    network = new_network()
    assert_same(first, trained(tmp_path, inputs, labels, network=network, workers=1, **shared))
    assert told == ["Trained already"]
    assert_same(first, network.module.state_dict())
    other = images.copy()
    other[50] = 7
    for changed in (
        {"inputs": ImageArrays(other)},
        {"labels": np.where(np.arange(100) == 50, 1 - labels, labels)},
        {"rows": TRAIN[:-1]},
        {"lr": 4e-3},
    ):
        told.clear()
        trained(tmp_path, **({"inputs": inputs, "labels": labels} | shared | changed))
        assert len(told) == 5


def test_history_scores_the_validation_rows_of_each_group(tmp_path, images, labels):
    network = new_network()
    rng = np.random.default_rng(1)
    noisy = np.where(rng.random(100) < 0.3, 1 - labels, labels)
    membership = np.stack([labels == 0, labels == 1, np.zeros(100, bool)], axis=1)
    val = np.arange(100)
    trained(
        tmp_path, ImageArrays(images), noisy, network=network, val_rows=val, membership=membership
    )
    entries = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in entries] == [1, 2, 3]
    with torch.inference_mode():
        inputs = [network.preprocessing.prepare(image) for image in images]
        logits = network.module(network.preprocessing.collate(inputs))
    right = logits.argmax(dim=1).numpy() == noisy
    by_group = [right[labels == group].mean() for group in (0, 1)]
    last = entries[-1]
    assert last["val_accuracy"] == pytest.approx(right.mean())
    assert last["val_worst_group"] == np.argmin(by_group)
    assert last["val_worst_group_accuracy"] == pytest.approx(min(by_group))
    assert 0 < last["loss"] < entries[0]["loss"]
    assert 0.5 < last["accuracy"] <= 1


def test_a_checkpoint_that_cannot_be_read_is_not_passed_over(tmp_path, images, labels):
    (tmp_path / "checkpoint.pt").write_bytes(b"not what torch writes")
    with pytest.raises(CheckpointError, match=r"cannot be read.* delete it to begin anew"):
        trained(tmp_path, ImageArrays(images), labels)


@pytest.mark.parametrize(("rate", "scale"), [(10.0, 1e18), (1e-3, 1e38)])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint_before(
    tmp_path, labels, rate, scale
):
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(100, 3)).astype(np.float32)
    linear = two_layers()
    linear.module[1] = nn.Identity()
    finite = {"optimiser": "sgd", "lr": rate, "epochs": 2, "network": linear}
    bad = Numbers(numbers * np.float32(scale))
    sentence = rf"not finite|no longer finite in epoch 1, at learning rate {rate:g}; set a smaller"
    with pytest.raises(SettingError, match=sentence):
        trained(tmp_path, bad, labels, **finite)
    assert not (tmp_path / "network.safetensors").exists()
    if (tmp_path / "checkpoint.pt").exists():
        state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
        assert all(value.isfinite().all() for value in state["module"].values())


class _Hungry(nn.Module):
    def forward(self, batch):
        return torch.empty(len(batch) * 2**52)


def test_out_of_memory_says_which_batch_size_to_try(tmp_path, labels):
    network = two_layers()
    network.module[1] = _Hungry()
    inputs = Numbers(np.zeros((100, 3), np.float32))
    with pytest.raises(SettingError, match=r"batch of 20 rows does not fit .* batch_size to 10"):
        trained(tmp_path / "a", inputs, labels, network=network)
    with pytest.raises(SettingError, match=r"batch of 2 rows does not fit .* smaller network"):
        trained(tmp_path / "b", inputs, labels, network=network, batch_size=2)


def test_a_last_batch_of_one_row_does_not_stop_batch_normalisation(tmp_path, labels):
    network = two_layers()
    network.module[1] = nn.BatchNorm1d(8)
    inputs = Numbers(np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32))
    assert trained(tmp_path, inputs, labels, np.arange(41), network=network)


def test_bfloat16_mixes_and_leaves_float32_weights_near_those_of_float32(tmp_path, images, labels):
    inputs = ImageArrays(images)
    exact = trained(tmp_path / "a", inputs, labels, epochs=1)
    mixed = trained(tmp_path / "b", inputs, labels, epochs=1, precision="bfloat16")
    assert mixed["fc.weight"].dtype == torch.float32
    assert not torch.equal(mixed["fc.weight"], exact["fc.weight"])
    torch.testing.assert_close(mixed["fc.weight"], exact["fc.weight"], rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"rows": np.array([], int)}, SettingError, "there are no rows to train on"),
        ({"rows": np.array([3])}, SettingError, r"classes 0 have no rows .* \[0, 1\]"),
        ({"labels": np.arange(100) % 3}, SettingError, "go from 0 to 2, but the network has 2"),
        ({"labels": np.zeros(100, int)}, SettingError, r"classes 1 have no rows .*\[90, 0\]"),
        ({"labels": np.zeros(7, int)}, SettingError, "7 labels for 100 inputs"),
        ({"precision": "float16"}, SettingError, "float16, which needs a CUDA device, not cpu"),
        ({"devices": 11}, SettingError, "batch_size is 20 for 11 devices.*at least 22"),
        ({"devices": 2, "device": torch.device("cuda:0")}, DeviceError, "2 devices were asked"),
        ({"inputs": Numbers(np.zeros((100, 3)))}, SettingError, "takes image inputs"),
    ],
)
def test_what_does_not_fit_is_told_before_training(
    tmp_path, images, labels, changed, error, message
):
    folder = tmp_path / "training"
    arguments = {"inputs": ImageArrays(images), "labels": labels, "rows": TRAIN} | changed
    with pytest.raises(error, match=message):
        trained(folder, **arguments)
    assert not folder.exists()


def test_only_images_are_cropped(tmp_path, labels):
    inputs = Numbers(np.zeros((100, 3), np.float32))
    with pytest.raises(SettingError, match="augment is crop-flip, but the inputs are numbers"):
        trained(tmp_path, inputs, labels, network=two_layers(), augment="crop-flip")


def test_two_processes_do_not_train_in_one_folder(tmp_path, images, labels):
    with (
        FileLock(tmp_path / "lock"),
        pytest.raises(RunStateError, match="another process trains in"),
    ):
        trained(tmp_path, ImageArrays(images), labels)


def test_two_devices_give_what_one_gives(tmp_path, labels):
    pytest.importorskip("lightning_fabric")
    rng = np.random.default_rng(0)
    inputs = Numbers((rng.normal(size=(100, 3)) + labels[:, None]).astype(np.float32))
    told = []
    # 90 rows in batches of 28: the last one, of 6, is shared out too.
    shared = {
        "batch_size": 28,
        "epochs": 4,
        "val_rows": np.arange(5),
        "optimiser": "sgd",
        "lr": 0.1,
    }
    one = trained(tmp_path / "one", inputs, labels, network=two_layers(), **shared)
    before = {name: os.environ.get(name) for name in ("MASTER_ADDR", "MASTER_PORT")}
    network = two_layers()
    two = trained(
        tmp_path / "two", inputs, labels, network=network, devices=2,
        progress=lambda fraction, text: told.append((fraction, threading.current_thread())),
        **shared,
    )  # fmt: skip
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6)
    assert_same(two, network.module.state_dict())
    np.testing.assert_allclose([fraction for fraction, _ in told], np.arange(1, 17) / 16)
    assert {thread for _, thread in told} == {threading.current_thread()}
    histories = [
        [json.loads(line) for line in (tmp_path / name / "history.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    for first, second in zip(*histories, strict=True):
        assert first == pytest.approx(second, rel=1e-4)
        assert math.isfinite(first["loss"])
    assert before == {name: os.environ.get(name) for name in before}
