"""Corrupted CIFAR-10: the corruptions, the shares, and the layouts that CIFAR-10 comes in."""

import hashlib
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torchvision import datasets

from gsr_core.data.dataset import define
from gsr_core.errors import SourceError
from gsr_core.readers.corruptions import CORRUPTIONS, corrupt
from gsr_core.readers.registry import make_reader

SHARED = Path(os.environ.get("GSR_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
ORDER = [
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "spatter",
    "elastic",
    "jpeg",
    "pixelate",
    "saturate",
]


def scenes(n, rng):
    """Smooth colourful images with edges, dark enough to become brighter."""
    rough = rng.integers(20, 200, size=(n, 4, 4, 3)).astype(np.uint8)
    images = [Image.fromarray(each).resize((32, 32), Image.Resampling.BICUBIC) for each in rough]
    images = np.stack([np.asarray(image) for image in images])
    images[:, 8:20, 12:16] = rng.integers(0, 160, size=(n, 1, 1, 3))
    return images


def generator(seed=0):
    return np.random.default_rng(seed)


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def images():
    return scenes(40, generator())


@pytest.fixture(scope="module")
def cifar():
    """600 images with labels, the last 100 for test."""
    return scenes(600, generator(1)), generator(2).permutation(np.arange(600) % 10)


@pytest.fixture(scope="module")
def columns(cifar):
    images, labels = cifar
    return {
        "image": [png(image) for image in images],
        "label": labels.astype(np.int64),
        "split": ["train"] * 500 + ["test"] * 100,
    }


@pytest.fixture(scope="module")
def parquet(columns, tmp_path_factory):
    file = tmp_path_factory.mktemp("parquet") / "cifar10.parquet"
    pq.write_table(pa.table(columns), file)
    return file


def read(path, **changes):
    return make_reader("corrupted-cifar10", {"path": str(path), **changes}).read()


def change(images, name, severity, seed=0):
    changed = corrupt(images, name, severity, generator(seed))
    return np.abs(changed.astype(int) - images).mean()


def test_the_corruptions_are_the_ten_of_the_paper_in_its_order():
    assert list(CORRUPTIONS) == ORDER


@pytest.mark.parametrize("severity", range(1, 6))
@pytest.mark.parametrize("name", ORDER)
def test_every_corruption_changes_every_image_and_stays_an_image(images, name, severity):
    corrupted = corrupt(images, name, severity, generator())
    assert corrupted.shape == images.shape
    assert corrupted.dtype == np.uint8
    assert (corrupted != images).any(axis=(1, 2, 3)).mean() > (0.5 if name == "spatter" else 0.99)
    # Nothing is turned into another image: what was there is still seen.
    alike = np.corrcoef(corrupted.ravel(), images.ravel())[0, 1]
    assert alike > 0.3
    np.testing.assert_array_equal(corrupted, corrupt(images, name, severity, generator()))


@pytest.mark.parametrize("name", ["fog", "brightness", "contrast", "jpeg", "pixelate", "snow"])
def test_a_corruption_grows_with_every_severity(images, name):
    changes = [change(images, name, severity) for severity in range(1, 6)]
    assert changes == sorted(set(changes))


def test_ice_grows_with_the_severity():
    dark = np.zeros((8, 32, 32, 3), dtype=np.uint8)
    ice = [change(dark, "frost", severity) for severity in range(1, 6)]
    assert ice == sorted(ice)
    assert ice[4] > 1.5 * ice[0]


def test_saturation_is_taken_away_and_then_added(images):
    def saturation(severity):
        changed = corrupt(images, "saturate", severity, generator()).astype(int)
        return (changed.max(axis=3) - changed.min(axis=3)).mean()

    before = (images.max(axis=3).astype(int) - images.min(axis=3)).mean()
    assert saturation(2) < saturation(1) < before < saturation(3) < saturation(4) < saturation(5)


def test_water_and_then_mud_cover_more_with_the_severity(images):
    water = [change(images, "spatter", severity) for severity in (1, 2, 3)]
    mud = [change(images, "spatter", severity) for severity in (4, 5)]
    assert water == sorted(set(water))
    assert mud == sorted(set(mud))
    bright = np.full((40, 32, 32, 3), 250, dtype=np.uint8)
    muddy = corrupt(bright, "spatter", 5, generator())
    dots = muddy[(muddy != 250).any(axis=3)]
    assert (dots[:, 0] > dots[:, 2]).all()


def test_elastic_waves_get_shorter_with_the_severity():
    # On ramps the pixel values are the places that were fetched.
    ramp = np.broadcast_to(np.arange(32, dtype=np.uint8) * 8, (20, 32, 32))
    grid = np.stack([ramp, ramp.swapaxes(1, 2), ramp], axis=-1)

    def waviness(severity):
        where = corrupt(grid, "elastic", severity, generator())[:, 6:-6, 6:-6].astype(float)
        return np.abs(np.diff(where, n=2, axis=1)).mean()

    rough = [waviness(severity) for severity in range(1, 6)]
    assert rough[0] < 1.0
    assert rough == sorted(set(rough))


def test_closed_form_corruptions_agree_with_pillow_and_colorsys(images):
    import colorsys

    image = images[:1]
    for name, index, by in (("brightness", 2, lambda v: v + 0.2), ("saturate", 1, None)):
        expected = np.zeros((32, 32, 3))
        for place in np.ndindex(32, 32):
            hsv = list(colorsys.rgb_to_hsv(*(image[0][place] / 255)))
            hsv[index] = min(1, by(hsv[index]) if by else hsv[index] * 2 + 0.1)
            expected[place] = colorsys.hsv_to_rgb(*hsv)
        got = corrupt(image, name, 4, generator())[0]
        assert np.abs(got - 255 * expected).max() <= 0.51
    mean = image.mean(axis=(1, 2), keepdims=True)
    got = corrupt(image, "contrast", 4, generator())
    assert np.abs(got - (mean + 0.3 * (image - mean))).max() <= 0.51
    file = io.BytesIO()
    Image.fromarray(image[0]).save(file, "JPEG", quality=50)
    np.testing.assert_array_equal(
        corrupt(image, "jpeg", 4, generator())[0], np.asarray(Image.open(file))
    )


def test_black_white_and_grey_images_survive():
    for value in (0, 128, 255):
        flat = np.full((2, 32, 32, 3), value, dtype=np.uint8)
        for name in ORDER:
            assert corrupt(flat, name, 4, generator()).shape == flat.shape


def test_the_set_has_the_published_shares(parquet, cifar):
    images, labels = cifar
    source = read(parquet, conflicting=0.05)
    table = source.table
    assert table["split"].value_counts().to_dict() == {"train": 450, "test": 100, "validation": 50}
    assert table["sample_id"].is_unique
    np.testing.assert_array_equal(table["label"], labels)
    own = np.array(ORDER)[labels]
    wrong = table["corruption"] != own
    assert (wrong == (table["alignment"] == "conflicting")).all()
    for split, share in (("train", 0.05), ("validation", 0.9), ("test", 0.9)):
        for label in range(10):
            rows = (table["split"] == split) & (labels == label)
            assert abs(wrong[rows].sum() - share * rows.sum()) <= 0.5
    assert source.inputs.images.dtype == np.uint8
    # Corruptions without randomness can be redone.
    for name in ("brightness", "contrast", "jpeg", "pixelate", "saturate"):
        rows = np.flatnonzero(table["corruption"] == name)
        again = corrupt(images[rows], name, 4, generator())
        np.testing.assert_array_equal(source.inputs.images[rows], again)
    dataset = define(source, source.roles)
    assert dataset.counts()[0] == ["train", "heldout", "target", "val", "test"]
    assert dataset.classes[:2] == ["airplane", "automobile"]


def test_a_seed_gives_the_same_set_and_another_seed_or_severity_another(parquet):
    digests = [
        read(parquet, limit=100, **changes).inputs.digest()
        for changes in ({}, {}, {"seed": 1}, {"severity": 5})
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def write_torchvision(root, images, labels, monkeypatch):
    """The batches that torchvision unpacks; only their checksums are those of other images."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def batch(rows):
        pixels = images[rows].transpose(0, 3, 1, 2).reshape(len(rows), -1)
        return {"data": pixels, "labels": labels[rows].tolist()}

    parts = np.split(np.arange(500), 5)
    train = [write(f"data_batch_{k + 1}", batch(rows)) for k, rows in enumerate(parts)]
    test = [write("test_batch", batch(np.arange(500, 600)))]
    meta = write("batches.meta", {"label_names": ["airplane"] * 10})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", train)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", test)
    monkeypatch.setattr(
        datasets.CIFAR10, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]}
    )


def test_every_layout_of_cifar10_gives_the_same_set(parquet, cifar, columns, tmp_path, monkeypatch):
    write_torchvision(tmp_path / "root", *cifar, monkeypatch)
    # As Hugging Face stores images; test rows first.
    nested = [{"bytes": blob, "path": None} for blob in columns["image"]]
    order = np.roll(np.arange(600), 100)
    table = pa.table({**columns, "image": nested}).take(order)
    pq.write_table(table, tmp_path / "nested.parquet")
    paths = (parquet, parquet.parent, tmp_path / "root", tmp_path / "nested.parquet")
    sources = [read(path, limit=200) for path in paths]
    assert len({source.inputs.digest() for source in sources}) == 1
    assert all(source.table.equals(sources[0].table) for source in sources)


def test_a_changed_batch_is_not_unpickled(cifar, tmp_path, monkeypatch):
    write_torchvision(tmp_path, *cifar, monkeypatch)
    file = tmp_path / "cifar-10-batches-py" / "test_batch"
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(SourceError, match=r"CIFAR-10 was not found \(whole\) in"):
        read(tmp_path)


FAULTS = {
    "column": (lambda c: c.pop("split"), "has no column split, but image, label"),
    "word": (lambda c: c.update(split=["valid"] * 600), "split of .* has the value 'valid'"),
    "label": (lambda c: c.update(label=[10] * 600), "a label of .* is 10; expected 0 to 9"),
    "text": (lambda c: c.update(label=["cat"] * 600), "column label of .* has type string"),
    "paths": (lambda c: c.update(image=["a.png"] * 600), "column image of .* has type string"),
    "size": (
        lambda c: c.update(image=[png(np.zeros((8, 9, 3), np.uint8))] * 600),
        "image in row 0 of .* is 9 x 8 pixels",
    ),
    "bytes": (lambda c: c.update(image=[b"none"] * 600), "image in row 0 of .* cannot be read"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_file_is_refused_by_what_is_wrong(fault, columns, tmp_path):
    change, message = FAULTS[fault]
    wrong = dict(columns)
    change(wrong)
    pq.write_table(pa.table(wrong), tmp_path / "cifar10.parquet")
    with pytest.raises(SourceError, match=message):
        read(tmp_path)


def test_cifar10_that_is_not_there_is_told_with_how_to_get_it(tmp_path):
    with pytest.raises(SourceError, match=r"cifar10\.parquet and .*--set download=true"):
        read(tmp_path)
    with pytest.raises(SourceError, match=r"there is no file .*gone\.parquet"):
        read(tmp_path / "gone.parquet")
    (tmp_path / "cifar10.parquet").write_bytes(b"no parquet")
    with pytest.raises(SourceError, match="cannot be read"):
        read(tmp_path)


@pytest.mark.skipif(
    not (SHARED / "cifar10.parquet").is_file(), reason=f"the real CIFAR-10 is not in {SHARED}"
)
def test_the_real_cifar10_is_corrupted():
    table = read(SHARED, limit=1200, conflicting=0.05).table
    assert table["split"].value_counts().to_dict() == {"train": 900, "test": 200, "validation": 100}
    assert table["corruption"].nunique() == 10
