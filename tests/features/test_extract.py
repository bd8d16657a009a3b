import io
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch
from filelock import FileLock
from PIL import Image
from torch import nn

from gsr_core.data.inputs import ImageArrays, ImageBlobs, ImageFiles, Numbers, Texts
from gsr_core.data.pixels import thumbnail
from gsr_core.errors import (
    BadRowsError,
    CheckpointError,
    DeviceError,
    DiskFullError,
    RunStateError,
    SettingError,
)
from gsr_core.features import journal
from gsr_core.features.backbones import Backbone, build, load_backbone, save_checkpoint
from gsr_core.features.extract import extract, extraction_digest
from gsr_core.features.preprocessing import ImagePreprocessing, NumbersPreprocessing

N = 23


class Counted(ImageArrays):
    """Notes which rows are read."""

    def __init__(self, images):
        super().__init__(images)
        self.read = []

    def load(self, row):
        self.read.append(row)
        return super().load(row)


@pytest.fixture(scope="module")
def device(compute):
    return compute.device


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build("simconv1", 3).eval()


@pytest.fixture(scope="module")
def checkpoint(network, tmp_path_factory):
    file = tmp_path_factory.mktemp("backbone") / "network.safetensors"
    save_checkpoint(network, file)
    return file


@pytest.fixture
def backbone(checkpoint):
    return load_backbone("simconv1", checkpoint)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (N, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def folder_of_images(images, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for row, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{row}.png")
    return folder


@pytest.fixture(scope="module")
def expected(network, checkpoint, images):
    """Computed without the engine: the whole network but its last layer, all rows at once."""
    prepared = load_backbone("simconv1", checkpoint).preprocessing(images.transpose(0, 3, 1, 2))
    features = []
    handle = network.fc.register_forward_pre_hook(lambda _, given: features.append(given[0]))
    with torch.inference_mode():
        network.cpu()(prepared)
    handle.remove()
    return features[0].numpy()


def numbers_backbone(trunk, n_inputs, n_features):
    return Backbone(
        trunk=trunk.eval().requires_grad_(False),
        head=None,
        preprocessing=NumbersPreprocessing(n_inputs=n_inputs),
        facts={"architecture": "test", "n_features": n_features},
    )


def close(features, expected):
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 7, N, 64])
@pytest.mark.parametrize("workers", [0, 2])
def test_batch_size_and_workers_do_not_change_features(
    backbone, images, expected, device, batch_size, workers
):
    result = extract(
        backbone,
        ImageArrays(images),
        device=device,
        batch_size=batch_size,
        workers=workers,
        precision="float32",
    )
    assert result.complete
    assert result.features.dtype == np.float32
    assert result.bad == []
    assert result.thumbnails() is None
    close(result.features, expected)


def test_head_on_features_gives_the_logits_of_the_whole_network(network, backbone, images, device):
    weight, bias = backbone.head
    result = extract(backbone, ImageArrays(images), device=device, precision="float32")
    with torch.inference_mode():
        logits = network.cpu()(backbone.preprocessing(images.transpose(0, 3, 1, 2)))
    close(result.features @ weight.T + bias, logits.numpy())


def test_files_bytes_and_arrays_give_the_same_in_memory_and_in_a_folder(
    backbone, images, expected, folder_of_images, tmp_path, device
):
    before = torch.get_rng_state()
    paths = [f"{row}.png" for row in range(N)]
    blobs = pa.array([(folder_of_images / path).read_bytes() for path in paths])
    shown = [thumbnail(image) for image in images]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(shown[3]))).shape, (32, 32, 3))
    for kind, inputs in (
        ("files", ImageFiles(folder_of_images, paths)),
        ("blobs", ImageBlobs(blobs, paths)),
        ("arrays", ImageArrays(images)),
    ):
        for folder in (None, tmp_path / kind):
            result = extract(
                backbone,
                inputs,
                folder,
                device=device,
                batch_size=5,
                # Real worker processes once, for what they are for.
                workers=2 if kind == "files" and folder else 0,
                precision="float32",
                thumbnails=True,
            )
            close(result.features, expected)
            assert list(result.thumbnails()) == shown
            assert isinstance(result.features, np.memmap) == (folder is not None)
    assert torch.equal(before, torch.get_rng_state())


def test_workers_that_are_killed_do_not_end_it(backbone, expected, folder_of_images, device):
    killed = []

    def kill(_):
        if not killed:
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)
                killed.append(child.pid)

    inputs = ImageFiles(folder_of_images, [f"{row}.png" for row in range(N)])
    result = extract(
        backbone,
        inputs,
        device=device,
        batch_size=1,
        workers=2,
        precision="float32",
        progress=kill,
    )
    assert len(killed) == 2
    close(result.features, expected)


def test_a_kill_loses_a_chunk_at_most_and_the_rest_is_not_computed_again(
    backbone, checkpoint, images, expected, tmp_path, device
):
    np.save(tmp_path / "images.npy", images)
    # Killed by itself, at a moment when some batches are written and others wait.
    script = f"""
import os, signal, time
from pathlib import Path
import numpy as np, torch
from gsr_core.data.inputs import ImageArrays
from gsr_core.features import journal
from gsr_core.features.backbones import load_backbone
from gsr_core.features.extract import extract

journal.CHUNK_SECONDS = 0.0
file = Path({str(tmp_path / "out" / "journal.json")!r})

def kill(now):
    if now.done >= 12:
        while '"rows": 0' in file.read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

extract(
    load_backbone("simconv1", Path({str(checkpoint)!r})),
    ImageArrays(np.load({str(tmp_path / "images.npy")!r})),
    file.parent, device=torch.device({str(device)!r}), batch_size=4, precision="float32",
    thumbnails=True, progress=kill,
)
"""
    child = multiprocessing.get_context("forkserver").Process(target=exec, args=(script, {}))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    kept = json.loads((tmp_path / "out" / "journal.json").read_text())["rows"]
    assert 4 <= kept <= 12
    # What a kill in the midst of a write leaves behind the last chunk.
    with (tmp_path / "out" / "features.npy").open("ab") as file:
        file.write(b"half a row")

    inputs = Counted(images)
    result = extract(
        backbone,
        inputs,
        tmp_path / "out",
        device=device,
        batch_size=4,
        precision="float32",
        thumbnails=True,
    )
    assert sorted(inputs.read) == list(range(kept, N))
    close(result.features, expected)
    assert list(result.thumbnails()) == [thumbnail(image) for image in images]


def test_asked_to_stop_it_keeps_what_is_done_and_goes_on_later(
    backbone, images, expected, tmp_path, device
):
    asked = []

    def twice():
        asked.append(True)
        return len(asked) == 2

    common = {"device": device, "batch_size": 4, "precision": "float32", "workers": 0}
    part = extract(backbone, ImageArrays(images), tmp_path, should_stop=twice, **common)
    assert not part.complete
    close(part.features, expected[:8])
    inputs, told = Counted(images), []
    whole = extract(backbone, inputs, tmp_path, progress=told.append, **common)
    assert whole.complete
    assert inputs.read == list(range(8, N))
    assert [now.done for now in told] == [12, 16, 20, N]
    close(whole.features, expected)


def test_what_is_computed_is_used_again_and_what_differs_is_not(backbone, images, tmp_path, device):
    first, told = Counted(images), []
    common = {"device": device, "precision": "float32"}
    before = extract(backbone, first, tmp_path, **common)
    again = extract(backbone, first, tmp_path, batch_size=3, progress=told.append, **common)
    assert len(first.read) == N
    assert before.digest == again.digest
    assert [(now.done, now.total) for now in told] == [(N, N)]
    assert np.array_equal(before.features, again.features)

    # A bundle may hold the file by a second name; another extraction must not write into it.
    os.link(tmp_path / "features.npy", tmp_path / "kept.npy")
    changed = images.copy()
    changed[5] = 0
    other = extract(backbone, ImageArrays(changed), tmp_path, **common)
    assert other.digest != before.digest
    differs = (np.load(tmp_path / "kept.npy") != other.features).any(axis=1)
    assert np.flatnonzero(differs).tolist() == [5]


def test_the_digest_follows_weights_preprocessing_precision_and_inputs(backbone, images):
    def digest(backbone=backbone, images=images, precision="float32", **options):
        return extraction_digest(backbone, ImageArrays(images), precision, **options)

    other = load_other(backbone)
    smaller = Backbone(
        backbone.trunk,
        backbone.head,
        backbone.preprocessing.model_copy(update={"image_size": 30}),
        backbone.facts,
    )
    digests = [
        digest(),
        digest(backbone=other),
        digest(backbone=smaller),
        digest(precision="bfloat16"),
        digest(images=images[:-1]),
        digest(thumbnails=True),
    ]
    assert len(set(digests)) == len(digests)
    assert digest() == digests[0]


def load_other(backbone):
    """The same network with one weight changed, as training in this process would leave it."""
    import copy

    trunk = copy.deepcopy(backbone.trunk)
    with torch.no_grad():
        next(trunk.parameters()).view(-1)[0] += 1
    return Backbone(trunk, backbone.head, backbone.preprocessing, backbone.facts)


def spoil(folder):
    """Make three files unreadable, each in its own way; return their rows."""
    whole = (folder / "4.png").read_bytes()
    (folder / "4.png").write_bytes(whole[: len(whole) // 2])
    (folder / "5.png").write_bytes(b"")
    (folder / "17.png").unlink()
    return [4, 5, 17]


def test_bad_images_are_listed_and_spoil_no_other(
    backbone, expected, folder_of_images, tmp_path, device
):
    rows = spoil(folder_of_images)
    inputs = ImageFiles(folder_of_images, [f"{row}.png" for row in range(N)])
    common = {"device": device, "batch_size": 4, "precision": "float32", "thumbnails": True}
    for folder in (None, tmp_path / "out"):
        result = extract(backbone, inputs, folder, on_bad="skip", **common)
        assert [each.row for each in result.bad] == rows
        assert [each.name for each in result.bad] == ["4.png", "5.png", "17.png"]
        assert [each.reason for each in result.bad][1:] == [
            "the file is empty",
            "there is no such file",
        ]
        assert "truncated" in result.bad[0].reason
        assert np.isnan(result.features[rows]).all()
        good = result.good_rows()
        assert good.tolist() == [row for row in range(N) if row not in rows]
        close(result.features[good], expected[good])
        missing = [row for row, image in enumerate(result.thumbnails()) if image is None]
        assert missing == rows

    # What was left out once still stops whoever asks for it.
    with pytest.raises(BadRowsError, match="3 of 23 inputs cannot be used"):
        extract(backbone, inputs, tmp_path / "out", **common)


def test_bad_images_stop_it_with_all_of_them_named_and_the_good_ones_before_are_kept(
    backbone, expected, folder_of_images, tmp_path, device
):
    rows = spoil(folder_of_images)
    inputs = ImageFiles(folder_of_images, [f"{row}.png" for row in range(N)])
    common = {"device": device, "batch_size": 3, "workers": 0, "precision": "float32"}
    with pytest.raises(BadRowsError, match=r"4\.png: .*; 5\.png: .*; 17\.png: ") as caught:
        extract(backbone, inputs, tmp_path / "out", **common)
    assert [each.row for each in caught.value.bad] == rows
    assert json.loads((tmp_path / "out" / "journal.json").read_text())["rows"] == 3
    result = extract(backbone, inputs, tmp_path / "out", on_bad="skip", **common)
    assert [each.row for each in result.bad] == rows
    close(result.features[result.good_rows()], expected[result.good_rows()])


def test_what_fails_before_the_first_row_leaves_no_folder(
    backbone, folder_of_images, tmp_path, device
):
    inputs = ImageFiles(folder_of_images, [f"{row}.png" for row in range(N)])
    spoil(folder_of_images)
    with pytest.raises(BadRowsError):
        extract(backbone, inputs, tmp_path / "out", device=device, batch_size=N, workers=0)
    assert not (tmp_path / "out").exists()


def test_after_a_bad_image_it_looks_on_for_a_while_only(
    backbone, folder_of_images, monkeypatch, device
):
    from gsr_core.features import extract as module

    monkeypatch.setattr(module, "SURVEY_SECONDS", 0.0)
    spoil(folder_of_images)
    inputs = ImageFiles(folder_of_images, [f"{row}.png" for row in range(N)])
    with pytest.raises(BadRowsError, match=r"2 of 23 inputs \(of which 8 were looked at\)"):
        extract(backbone, inputs, device=device, batch_size=4, workers=0)


def test_features_that_are_not_finite_make_a_row_bad(tmp_path, device):
    class Logarithm(nn.Module):
        def forward(self, x):
            return x.log()

    table = np.arange(1, 21, dtype=np.float32).reshape(10, 2)
    table[7, 1] = 0
    backbone = numbers_backbone(Logarithm(), 2, 2)
    result = extract(backbone, Numbers(table), device=device, batch_size=4, on_bad="skip")
    assert [(each.row, each.name) for each in result.bad] == [(7, "row 7")]
    assert np.isnan(result.features[7]).all()
    close(np.delete(result.features, 7, axis=0), np.log(np.delete(table, 7, axis=0)))
    with pytest.raises(BadRowsError, match="row 7: the network gives a number that is not finite"):
        extract(backbone, Numbers(table), device=device, batch_size=4)


class Hungry(nn.Module):
    """Needs more memory than any machine has once a batch has more than so many rows."""

    def __init__(self, most):
        super().__init__()
        self.most = most
        self.sizes = []

    def forward(self, x):
        torch.empty(max(0, len(x) - self.most) << 47, dtype=torch.uint8, device=x.device)
        self.sizes.append(len(x))
        return 2 * x


def test_out_of_memory_halves_the_batch_and_goes_on(device):
    table = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    trunk = Hungry(5)
    result = extract(
        numbers_backbone(trunk, 3, 3), Numbers(table), device=device, batch_size=32, workers=0
    )
    assert trunk.sizes == [4] * 8 + [4] * 4 + [2]
    close(result.features, 2 * table)
    with pytest.raises(DeviceError, match="does not suffice for a single sample"):
        extract(numbers_backbone(Hungry(0), 3, 3), Numbers(table), device=device, batch_size=32)


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(
        ["unshare", "-rm", "sh", "-c", "mount -t tmpfs tmpfs /srv"], capture_output=True
    ).returncode
    != 0,
    reason="this machine does not let a test mount a small disk of its own",
)
def test_a_full_disk_keeps_the_finished_chunks(tmp_path):
    """A real file system of 256 kB, which is made larger afterwards."""
    script = """
import json, subprocess, sys
from pathlib import Path
import numpy as np
from gsr_core.errors import DiskFullError
from gsr_core.features import journal

disk = Path(sys.argv[1])
journal.CHUNK_SECONDS = 0.0
table = np.random.default_rng(0).normal(size=(400, 256)).astype(np.float32)

def write():
    with journal.open_store(disk / "out", "digest", 400, 256, thumbnails=False) as store:
        began = store.rows
        while store.rows < 400:
            store.append(table[store.rows : store.rows + 16], [], [])
    return began, store

try:
    write()
except DiskFullError as error:
    message = str(error)
kept = json.loads((disk / "out" / "journal.json").read_text())["rows"]
subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
began, store = write()
print(json.dumps([message, kept, began, np.array_equal(store.features(), table)]))
"""
    done = subprocess.run(
        [
            "unshare",
            "-rm",
            "sh",
            "-c",
            'mount -t tmpfs -o size=256k tmpfs "$0" && exec "$1" -c "$2" "$0"',
            str(tmp_path),
            sys.executable,
            script,
        ],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    message, kept, began, equal = json.loads(done.stdout)
    assert "is full (No space left on device)" in message
    assert "make room and start again" in message
    assert 100 < kept < 256
    assert kept % 16 == 0
    assert began == kept
    assert equal


def test_extraction_goes_on_after_a_full_disk(tmp_path, monkeypatch, device):
    """The system refuses to let any file grow beyond 64 kB, for a while."""
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(journal, "CHUNK_SECONDS", 0.0)
    table = np.random.default_rng(0).normal(size=(400, 64)).astype(np.float32)
    backbone = numbers_backbone(nn.Identity(), 64, 64)
    common = {"device": device, "batch_size": 16, "workers": 0}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, limits[1]))
    try:
        with pytest.raises(DiskFullError, match=r"need 0 MB\. What is computed is kept"):
            extract(backbone, Numbers(table), tmp_path, **common)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    kept = json.loads((tmp_path / journal.JOURNAL).read_text())["rows"]
    assert kept == 240  # 256 rows of 256 bytes would fit without the header.
    told = []
    result = extract(backbone, Numbers(table), tmp_path, progress=told.append, **common)
    assert told[0].done == kept + 16
    assert np.array_equal(result.features, table)


def test_a_full_disk_is_an_error_of_the_system_as_well():
    assert issubclass(DiskFullError, OSError)


def test_progress_rises_to_the_end_and_can_be_read(backbone, images, device):
    told = []
    extract(
        backbone,
        ImageArrays(images),
        device=device,
        batch_size=5,
        workers=0,
        progress=told.append,
    )
    assert [now.done for now in told] == [5, 10, 15, 20, N]
    assert all(now.total == N and now.rate > 0 for now in told)
    assert told[1].seconds_left == pytest.approx((N - 10) / told[1].rate)
    assert str(told[1]).startswith("Extracting features: 10 of 23 (")
    assert str(told[1]).endswith(" left)")
    assert str(told[-1]) == "Extracting features: 23 of 23"


def test_no_inputs_give_no_features(backbone, images, tmp_path, device):
    for folder in (None, tmp_path):
        result = extract(backbone, ImageArrays(images[:0]), folder, device=device)
        assert result.complete
        assert result.features.shape == (0, 64)


def test_lower_precision_is_near_and_said(backbone, images, expected, device):
    result = extract(backbone, ImageArrays(images), device=device, precision="bfloat16")
    assert result.precision == "bfloat16"
    difference = np.abs(result.features - expected).max()
    assert 0 < difference < 0.02 * np.abs(expected).max()


def test_a_network_that_flattens_with_view_works_on_every_device(images, device):
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 8, 8)

        def forward(self, x):
            return self.conv(x).view(len(x), -1)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trunk = Flat().eval().requires_grad_(False)
    preprocessing = ImagePreprocessing(image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    with torch.inference_mode():
        expected = trunk(preprocessing(images.transpose(0, 3, 1, 2))).numpy()
    backbone = Backbone(trunk, None, preprocessing, {"n_features": 64})
    result = extract(backbone, ImageArrays(images), device=device, precision="float32")
    close(result.features, expected)


def test_a_network_that_gives_no_features_is_named(device):
    table = np.ones((4, 3), np.float32)
    with pytest.raises(CheckpointError, match=r"gives \(4, 3\) .* expected features \(4, 2\)"):
        extract(numbers_backbone(nn.Identity(), 3, 2), Numbers(table), device=device)


def test_two_processes_cannot_write_to_one_folder(backbone, images, tmp_path, device):
    with FileLock(tmp_path / "lock"), pytest.raises(RunStateError, match="another process"):
        extract(backbone, ImageArrays(images), tmp_path, device=device)


def test_a_journal_that_lies_is_not_believed(backbone, images, expected, tmp_path, device):
    common = {"device": device, "precision": "float32"}
    extract(backbone, ImageArrays(images), tmp_path, **common)
    os.truncate(tmp_path / journal.FEATURES, 1000)
    close(extract(backbone, ImageArrays(images), tmp_path, **common).features, expected)
    (tmp_path / journal.JOURNAL).write_text("{")
    close(extract(backbone, ImageArrays(images), tmp_path, **common).features, expected)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"precision": "double"}, "precision is 'double'; allowed are auto, float32"),
        ({"on_bad": "ignore"}, "on_bad is 'ignore'; allowed are stop, skip"),
    ],
)
def test_options_out_of_range_are_refused(backbone, images, device, options, sentence):
    with pytest.raises(SettingError, match=sentence):
        extract(backbone, ImageArrays(images), device=device, **options)


def test_inputs_of_another_kind_are_refused(backbone, device):
    with pytest.raises(SettingError, match="takes image inputs, but these are text"):
        extract(backbone, Texts(["a"]), device=device)


def test_float16_is_refused_on_a_cpu(backbone, images):
    with pytest.raises(SettingError, match="float16, which needs a GPU"):
        extract(backbone, ImageArrays(images), device=torch.device("cpu"), precision="float16")
