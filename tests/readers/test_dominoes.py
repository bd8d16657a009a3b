"""MNIST-CIFAR Dominoes."""

import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gsr_core.data.dataset import define
from gsr_core.errors import SourceError
from gsr_core.readers.registry import make_reader

SHARED = Path(os.environ.get("GSR_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture(scope="module")
def arrays():
    """Images whose pixels name their part and row: no two are alike."""
    rng = np.random.default_rng(0)

    def images(n, *shape):
        return rng.integers(0, 256, size=(n, *shape)).astype(np.uint8)

    return {
        "x_train": images(900, 28, 28),
        "y_train": np.arange(900) % 3,
        "x_test": images(300, 28, 28),
        "y_test": np.arange(300) % 3,
        "photographs": images(900, 32, 32, 3),
        # 200 automobiles and 220 trucks to train on, 60 and 50 for test
        "labels": np.repeat([1, 9, 5, 9, 1, 5], [200, 220, 280, 50, 60, 90]),
        "split": np.repeat(["train", "test"], [700, 200]),
    }


@pytest.fixture(scope="module")
def folder(arrays, tmp_path_factory):
    folder = tmp_path_factory.mktemp("both")
    np.savez(folder / "mnist.npz", **{key: arrays[key] for key in arrays if key[1] == "_"})
    blobs = []
    for image in arrays["photographs"]:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        blobs.append(file.getvalue())
    table = pa.table({"image": blobs, "label": arrays["labels"], "split": arrays["split"]})
    pq.write_table(table, folder / "cifar10.parquet")
    return folder


def read(path, **changes):
    return make_reader("dominoes", {"path": str(path), **changes}).read()


def test_a_domino_is_a_digit_above_a_photograph(folder, arrays):
    source = read(folder)
    images = source.inputs.images
    assert images.shape[1:] == (64, 32, 3)
    assert images.dtype == np.uint8
    first = int((arrays["split"] == "train").sum())
    for image, row in zip(images, source.table.to_dict("records"), strict=True):
        part, number = row["digit_id"].split("-")
        digit = np.zeros((32, 32), dtype=np.uint8)
        digit[2:30, 2:30] = arrays[f"x_{part}"][int(number)]
        np.testing.assert_array_equal(image[:32], np.repeat(digit[..., None], 3, axis=2))
        assert row["digit"] == ["zero", "one"][arrays[f"y_{part}"][int(number)]]
        assert part == ("test" if row["split"] == "test" else "train")

        part, number = row["sample_id"].split("-")
        place = int(number) + (first if part == "test" else 0)
        np.testing.assert_array_equal(image[32:], arrays["photographs"][place])
        x0, y0, x1, y1 = map(int, row[source.region].split())
        np.testing.assert_array_equal(image[y0:y1, x0:x1], arrays["photographs"][place])
        x0, y0, x1, y1 = map(int, row["digit_box"].split())
        np.testing.assert_array_equal(image[y0:y1, x0:x1, 0], digit)
        assert arrays["labels"][place] == [1, 9][row["label"]]
        assert part == ("test" if row["split"] == "test" else "train")


def test_nothing_is_used_twice_and_every_share_is_met(folder):
    table = read(folder).table
    assert table["sample_id"].is_unique
    assert table["digit_id"].is_unique
    # As many of a class as the scarcer original allows: 200 automobiles, 50 trucks.
    counts = table.value_counts(["split", "label", "digit"]).to_dict()
    expected = {}
    for split, size, wrong in (("train", 160, 8), ("validation", 40, 20), ("test", 50, 25)):
        for label, own, other in ((0, "zero", "one"), (1, "one", "zero")):
            expected[split, label, own] = size - wrong
            expected[split, label, other] = wrong
    assert counts == expected
    wrong = table["digit"] != np.where(table["label"], "one", "zero")
    assert (wrong == (table["alignment"] == "conflicting")).all()


@pytest.mark.parametrize("conflicting", [0.0, 0.01, 1.0])
def test_the_correlation_is_as_said(folder, conflicting):
    table = read(folder, conflicting=conflicting).table
    train = table[table["split"] == "train"]
    assert (train["alignment"] == "conflicting").sum() == 2 * round(conflicting * 160)


def test_a_seed_gives_the_same_set_and_another_seed_another(folder):
    one, two, other = (read(folder, seed=seed, limit=60) for seed in (3, 3, 4))
    assert one.table.equals(two.table)
    assert one.inputs.digest() == two.inputs.digest()
    assert one.inputs.digest() != other.inputs.digest()
    assert one.table["split"].value_counts().to_dict() == {
        "train": 96,
        "test": 100,
        "validation": 24,
    }


def test_the_proposed_roles_make_a_data_set_of_four_groups(folder):
    source = read(folder)
    dataset = define(source, source.roles)
    splits, counts = dataset.counts()
    assert splits == ["train", "heldout", "target", "val", "test"]
    assert counts.shape == (5, 4)
    assert dataset.classes == ["automobile", "truck"]


def test_half_of_the_originals_is_not_enough(folder, tmp_path):
    with pytest.raises(SourceError, match=r"mnist\.npz is not a folder; give torchvision's"):
        read(folder / "mnist.npz")
    (tmp_path / "mnist.npz").write_bytes((folder / "mnist.npz").read_bytes())
    with pytest.raises(SourceError, match="CIFAR-10 was not found"):
        read(tmp_path)
    table = pq.read_table(folder / "cifar10.parquet")
    pq.write_table(table.slice(0, 300), tmp_path / "cifar10.parquet")
    with pytest.raises(SourceError, match="has 0 images of a class for test"):
        read(tmp_path)


@pytest.mark.skipif(
    not all((SHARED / name).is_file() for name in ("mnist.npz", "cifar10.parquet")),
    reason=f"the real MNIST and CIFAR-10 are not in {SHARED}",
)
def test_the_real_originals_make_dominoes():
    table = read(SHARED, limit=200).table
    assert table["split"].value_counts().to_dict() == {"test": 400, "train": 320, "validation": 80}
