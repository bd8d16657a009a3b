"""Coloured MNIST: shares, colours, splits and the layouts that MNIST comes in."""

import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from gsr_core.data.dataset import define
from gsr_core.errors import SourceError
from gsr_core.readers.registry import make_reader

SHARED = Path(os.environ.get("GSR_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
NAMES = ["coloured-mnist", "coloured-mnist-10", "coloured-mnist-spare"]
SMALL = {"n_train": 1000, "n_validation": 200, "n_test": 400}
"""For ColouredMNIST, whose sizes are absolute."""


def digits(n, rng):
    """Images of which no two are alike: grey noise in the middle, black around."""
    images = np.zeros((n, 28, 28), dtype=np.uint8)
    images[:, 4:24, 4:24] = rng.integers(0, 256, size=(n, 20, 20))
    images[:, 14, 14] = 255
    return images


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    return {
        "x_train": digits(3000, rng),
        "y_train": rng.integers(0, 10, size=3000).astype(np.uint8),
        "x_test": digits(1000, rng),
        "y_test": rng.integers(0, 10, size=1000).astype(np.uint8),
    }


@pytest.fixture(scope="module")
def npz(arrays, tmp_path_factory):
    file = tmp_path_factory.mktemp("keras") / "mnist.npz"
    np.savez_compressed(file, **arrays)
    return file


@pytest.fixture(scope="module")
def root(arrays, tmp_path_factory):
    """What torchvision leaves after a download."""
    root = tmp_path_factory.mktemp("torchvision")
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, word in (("train", "train"), ("test", "t10k")):
        images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        header = struct.pack(">4i", 0x0803, *images.shape)
        (raw / f"{word}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = struct.pack(">2i", 0x0801, len(labels))
        (raw / f"{word}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    return root


def read(name, path, **changes):
    own = SMALL if name == "coloured-mnist" else {}
    return make_reader(name, {"path": str(path), **own, **changes}).read()


def originals(source, arrays):
    """The grey image and digit that each row says it was made of."""
    parts = [name.split("-") for name in source.table["sample_id"]]
    return (
        np.stack([arrays[f"x_{part}"][int(row)] for part, row in parts]),
        np.array([arrays[f"y_{part}"][int(row)] for part, row in parts]),
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_gives_the_same_set_and_another_seed_another(name, npz):
    one, two, other = (read(name, npz, seed=seed) for seed in (3, 3, 4))
    assert one.inputs.digest() == two.inputs.digest()
    assert one.table.equals(two.table)
    assert one.inputs.digest() != other.inputs.digest()
    assert not one.table.equals(other.table)


@pytest.mark.parametrize("name", NAMES)
def test_every_layout_of_mnist_gives_the_same_set(name, npz, root):
    digests = {read(name, path).inputs.digest() for path in (npz, npz.parent, root)}
    assert len(digests) == 1


@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_its_original_in_one_colour(name, npz, arrays):
    source = read(name, npz)
    assert source.inputs.images.dtype == np.uint8
    grey, digit = originals(source, arrays)
    assert (source.table["digit"] == digit).all()
    ink = source.inputs.images[:, 14, 14]
    exact = grey[..., None].astype(float) * ink[:, None, None] / 255
    assert np.abs(source.inputs.images - exact).max() <= 0.5
    # An original is used once, so no two splits share one.
    assert source.table["sample_id"].is_unique
    assert source.inputs.load(7).shape == (28, 28, 3)


@pytest.mark.parametrize("name", NAMES)
def test_the_proposed_roles_make_a_data_set_of_five_splits(name, npz):
    # Of 250 validation images in 20 groups, some groups have none at the published share.
    more = {"conflicting_validation": 0.5} if name == "coloured-mnist-10" else {}
    source = read(name, npz, **more)
    dataset = define(source, source.roles)
    splits, counts = dataset.counts()
    assert splits == ["train", "heldout", "target", "val", "test"]
    assert (counts[2:] > 0).all()
    assert dataset.classes == list(source.names["label"].values())


def test_two_classes_have_the_published_shares(npz):
    table = read("coloured-mnist", npz).table
    assert table["split"].value_counts().to_dict() == {
        "train": 1000,
        "validation": 200,
        "test": 400,
    }
    assert table["digit"].max() == 5
    assert (table["label"] == (table["digit"] >= 3)).all()
    assert not table["flipped"].any()
    own = np.where(table["label"], "green", "red")
    for split, share in (("train", 0.1), ("validation", 0.5), ("test", 0.5)):
        for label in (0, 1):
            rows = (table["split"] == split) & (table["label"] == label)
            wrong = (table["colour"] != own)[rows].sum()
            assert abs(wrong - share * rows.sum()) <= 0.5


def test_red_is_red_and_green_is_green(npz):
    source = read("coloured-mnist", npz)
    inks = {"red": [255, 0, 0], "green": [0, 255, 0]}
    expected = np.array([inks[colour] for colour in source.table["colour"]])
    np.testing.assert_array_equal(source.inputs.images[:, 14, 14], expected)


def test_the_published_sizes_are_the_defaults():
    reader = make_reader("coloured-mnist")
    assert (reader.n_train, reader.n_validation, reader.n_test) == (10_000, 2_000, 27_375)
    assert (reader.digits, reader.threshold, reader.conflicting) == (6, 3, 0.1)


@pytest.mark.parametrize("follows", ["label", "digit"])
def test_labels_are_flipped_in_training_only_and_the_colour_goes_with_what_is_said(npz, follows):
    table = read(
        "coloured-mnist",
        npz,
        digits=10,
        threshold=5,
        conflicting=0.05,
        label_noise=0.1,
        colour_follows=follows,
    ).table
    train = table["split"] == "train"
    clean = (table["digit"] >= 5).astype(int)
    assert (table["flipped"] == (table["label"] != clean)).all()
    assert not table["flipped"][~train].any()
    assert abs(table["flipped"][train].sum() - 100) <= 1
    assert (table["clean_label"] == np.where(clean, "digits 5-9", "digits 0-4")).all()
    followed = table["label"] if follows == "label" else clean
    wrong = table["colour"] != np.where(followed, "green", "red")
    assert abs(wrong[train].sum() - 50) <= 1


def test_ten_colours_conflict_as_often_as_said(npz):
    source = read("coloured-mnist-10", npz, conflicting=0.05, seed=1)
    table = source.table
    assert table["split"].value_counts().to_dict() == {
        "train": 2750,
        "test": 1000,
        "validation": 250,
    }
    assert table["sample_id"][table["split"] == "test"].str.startswith("test").all()
    wrong = table["colour"] != "colour " + table["digit"].astype(str)
    assert (wrong == (table["alignment"] == "conflicting")).all()
    for split, share in (("train", 0.05), ("validation", 0.9), ("test", 0.9)):
        rows = table["split"] == split
        deviation = np.sqrt(share * (1 - share) / rows.sum())
        assert abs(wrong[rows].mean() - share) < 4 * deviation
    # At rho = 0.9 the colour says nothing of the digit: every colour is as likely.
    test = table[table["split"] == "test"]
    counts = test["colour"].value_counts()
    assert len(counts) == 10
    assert counts.sub(100).abs().max() < 4 * np.sqrt(90)


def test_each_colour_is_its_mean_and_noise_of_the_said_variance(npz):
    source = read("coloured-mnist-10", npz, seed=1)
    stated = [each.split("#")[1] for each in source.notes[0].strip(".").split(", ")]
    stated = np.array([[int(code[i : i + 2], 16) for i in (0, 2, 4)] for code in stated])
    index = source.table["colour"].str.removeprefix("colour ").astype(int).to_numpy()
    error = source.inputs.images[:, 14, 14].astype(float) - stated[index]
    inside = (stated[index] > 15) & (stated[index] < 240)
    # Rounding to whole values adds a twelfth, and rounding of the stated colour shifts the mean.
    assert error[inside].std() == pytest.approx(np.sqrt((0.01 * 255) ** 2 + 1 / 12), rel=0.1)
    assert abs(error[inside].mean()) < 0.6


def test_the_five_classes_of_spare_have_its_colours_and_shares(npz):
    source = read("coloured-mnist-spare", npz)
    table = source.table
    assert table["split"].value_counts().to_dict() == {
        "train": 2500,
        "test": 1000,
        "validation": 500,
    }
    assert (table["label"] == table["digit"] // 2).all()
    palette = ["#ff0000", "#85ff00", "#00fff3", "#6e00ff", "#ff0018"]
    inks = [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in source.inputs.images[:, 14, 14]]
    assert table["colour"].tolist() == inks
    own = np.array(palette)[table["label"]]
    wrong = table["colour"] != own
    for split, share in (("train", 0.005), ("validation", 0.8), ("test", 0.8)):
        for label in range(5):
            rows = (table["split"] == split) & (table["label"] == label)
            assert abs(wrong[rows].sum() - share * rows.sum()) <= 0.5
    others = table["colour"][wrong & (table["label"] == 2)]
    assert set(others) == set(palette) - {palette[2]}


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_limit_keeps_the_shares_of_parts_and_digits(name, npz, arrays):
    table = read(name, npz, limit=400).table
    assert len(table) == 400
    assert (table["split"] == "test").sum() == 100
    full = np.bincount(np.concatenate([arrays["y_train"], arrays["y_test"]])) / 10
    assert np.abs(np.bincount(table["digit"]) - full).max() <= 2


def test_images_and_labels_of_different_number_are_refused(root, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    shutil.copytree(root / "MNIST" / "raw", raw)
    labels = raw / "t10k-labels-idx1-ubyte"
    content = labels.read_bytes()
    labels.write_bytes(struct.pack(">2i", 0x0801, 999) + content[8:-1])
    with pytest.raises(SourceError, match=r"test part of MNIST .* \(1000, 28, 28\) and 999 labels"):
        make_reader("coloured-mnist-10", {"path": str(tmp_path)}).read()


def test_what_cannot_be_drawn_is_refused(npz):
    with pytest.raises(SourceError, match=r"n_train, .* are 5,600 together, but there are 2,\d+"):
        read("coloured-mnist", npz, n_train=5000)
    with pytest.raises(SourceError, match="threshold is 6, but only digits below 6"):
        read("coloured-mnist", npz, threshold=6)


def test_mnist_that_is_not_there_is_told_with_how_to_get_it(tmp_path, npz):
    with pytest.raises(SourceError, match=r"mnist\.npz and .*raw; .*--set download=true"):
        read("coloured-mnist", tmp_path)
    with pytest.raises(SourceError, match=r"there is no file .*gone\.npz"):
        read("coloured-mnist", tmp_path / "gone.npz")
    with pytest.raises(SourceError, match=r"has no path; give mnist\.npz"):
        make_reader("coloured-mnist").read()
    with pytest.raises(SourceError, match="is not a folder; to download MNIST"):
        read("coloured-mnist", tmp_path / "gone.npz", download=True)


def test_part_of_torchvisions_files_is_not_enough(root, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in sorted((root / "MNIST" / "raw").iterdir())[:3]:
        (raw / file.name).write_bytes(file.read_bytes())
    with pytest.raises(SourceError, match=r"not found \(whole\)"):
        read("coloured-mnist", tmp_path)


FAULTS = {
    "array": (lambda a: a.pop("y_test"), "has no array y_test; expected Keras"),
    "shape": (lambda a: a.update(x_test=a["x_test"][:, :, :20]), r"x_test .* is \(1000, 28, 20\)"),
    "dtype": (lambda a: a.update(x_train=a["x_train"] / 255), "x_train .* of float64"),
    "rows": (lambda a: a.update(y_test=a["y_test"][:9]), r"y_test .* is \(9,\)"),
    "label": (lambda a: a.update(y_test=a["y_test"] + 5), "a label of .* is 1[0-4]; expected 0"),
    "pickle": (lambda a: a.update(y_test=a["y_test"].astype(object)), "cannot be read"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_file_is_refused_by_what_is_wrong(fault, arrays, tmp_path):
    change, message = FAULTS[fault]
    wrong = dict(arrays)
    change(wrong)
    np.savez(tmp_path / "mnist.npz", **wrong)
    with pytest.raises(SourceError, match=message):
        read("coloured-mnist", tmp_path)


def test_a_file_that_is_cut_off_is_refused(npz, tmp_path):
    (tmp_path / "mnist.npz").write_bytes(npz.read_bytes()[:5000])
    with pytest.raises(SourceError, match="cannot be read"):
        read("coloured-mnist", tmp_path)


@pytest.mark.skipif(
    not (SHARED / "mnist.npz").is_file(), reason=f"the real MNIST is not in {SHARED}"
)
def test_the_real_mnist_gives_the_published_sizes():
    table = make_reader("coloured-mnist", {"path": str(SHARED)}).read().table
    assert table["split"].value_counts().to_dict() == {
        "train": 10_000,
        "validation": 2_000,
        "test": 27_375,
    }
    spare = {"path": str(SHARED / "mnist.npz"), "limit": 7000}
    table = make_reader("coloured-mnist-spare", spare).read().table
    assert table["split"].value_counts().to_dict() == {
        "train": 5_000,
        "validation": 1_000,
        "test": 1_000,
    }
    wrong = (table["alignment"] == "conflicting") & (table["split"] == "train")
    assert abs(wrong.sum() - 25) <= 3
