import io
import os
import pickle
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from gsr_core.data.bundle import SPLITS, Bundle, open_bundle
from gsr_core.errors import GsrError
from gsr_core.ingest.importing import import_data
from gsr_core.ingest.plan import make_plan
from gsr_core.readers.npz import MAX_COUNT, Npz
from gsr_core.workspace import Workspace


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """Five splits, two classes, three groups, every combination once, shuffled: 30 rows."""
    rng = np.random.default_rng(0)
    split, y, group = (
        axis.ravel() for axis in np.meshgrid(SPLITS, [0, 1], [0, 1, 2], indexing="ij")
    )
    order = rng.permutation(len(y))
    features = rng.normal(size=(len(y), 4)).astype(np.float32)
    return {"features": features, "y": y[order], "group": group[order], "split": split[order]}


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace.at(tmp_path / "workspace")


@pytest.fixture
def left_behind(workspace):
    """Names in the bundles' directory, hidden ones too."""

    def left_behind() -> list[str]:
        folder = workspace.bundles
        return sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []

    return left_behind


def read_npz(file: Path, directory: Path, *, title: str = "", overwrite: bool = False) -> Bundle:
    """Import a file as the bundle in a workspace's directory."""
    plan = make_plan(name=directory.name, title=title, reader="npz", settings={"path": str(file)})
    return import_data(Workspace(directory.parents[1]), plan, overwrite=overwrite)


@pytest.fixture
def imported(tmp_path, workspace):
    """Save arrays as a `.npz` file and import it."""

    def imported(arrays, **options):
        file = tmp_path / "data.npz"
        np.savez(file, **arrays)
        return read_npz(file, workspace.bundles / "imported", **options)

    return imported


def first(arrays: dict, split: str, start: int = 0) -> int:
    """The first row of a split at or after `start`."""
    return next(row for row in range(start, len(arrays["y"])) if arrays["split"][row] == split)


def put(array: np.ndarray, row, value) -> np.ndarray:
    array = array.copy()
    array[row] = value
    return array


def test_arrays_are_read_back_equal(imported, arrays, workspace):
    imported(arrays, title="My data")
    bundle = open_bundle(workspace, "imported")
    np.testing.assert_array_equal(bundle.features, arrays["features"])
    assert bundle.samples["y"].tolist() == arrays["y"].tolist()
    assert bundle.samples["split"].tolist() == arrays["split"].tolist()
    assert bundle.samples["sample_id"].tolist() == [str(row) for row in range(30)]
    np.testing.assert_array_equal(bundle.membership.argmax(axis=1), arrays["group"])
    assert (bundle.membership.sum(axis=1) == 1).all()
    assert bundle.manifest.title == "My data"
    assert bundle.manifest.source == "arrays of data.npz"
    assert bundle.manifest.classes == ["class 0", "class 1"]
    assert bundle.group_names == ["group 0", "group 1", "group 2"]
    assert bundle.manifest.groups[2].definition == "group = 2"
    assert bundle.manifest.attributes == []
    assert bundle.head is None


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "longdouble"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_features_of_any_float_type_are_stored_as_float32(imported, arrays, dtype, order):
    features = arrays["features"].astype(dtype, order=order)
    stored = imported({**arrays, "features": features}).features
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored, features.astype(np.float32))


@pytest.mark.parametrize("dtype", ["bool", "uint8", ">i4", "uint64", "float16", "float64"])
def test_whole_numbers_of_any_type_are_class_indices(imported, arrays, dtype):
    assert imported({**arrays, "y": arrays["y"].astype(dtype)}).samples["y"].dtype == np.int64


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_whole_numbers_of_any_type_are_group_indices(imported, arrays, dtype):
    bundle = imported({**arrays, "group": arrays["group"].astype(dtype)})
    np.testing.assert_array_equal(bundle.membership.argmax(axis=1), arrays["group"])


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_the_group_may_be_unknown_in_train_and_heldout(imported, arrays, split):
    row = first(arrays, split)
    bundle = imported({**arrays, "group": put(arrays["group"], row, -1)})
    assert not bundle.membership[row].any()
    assert bundle.group_labels[row] == "unknown"


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float32"])
def test_groups_may_overlap_and_leave_rows_out(imported, arrays, dtype):
    groups = np.stack([arrays["group"] > 0, arrays["group"] == 2], axis=1)
    del arrays["group"]
    bundle = imported({**arrays, "groups": groups.astype(dtype)})
    np.testing.assert_array_equal(bundle.membership, groups)
    assert bundle.manifest.groups[1].definition == "column 1 of groups"
    assert set(bundle.group_labels) == {"unknown", "group 0", "group 0 + group 1"}


@pytest.mark.parametrize("kind", ["U", "S"])
def test_text_may_be_unicode_or_bytes(imported, arrays, kind):
    def text(words):
        return np.array([word.encode() if kind == "S" else word for word in words])

    bundle = imported(
        {
            **arrays,
            "split": text(arrays["split"]),
            "class_names": text(["Katze", "Bär"]),
            "group_names": text(["Wald", "See", "Straße"]),
            "sample_id": text([f"ä{row}" for row in range(30)]),
            "attribute_place": text(["Wald", "See"] * 15),
        }
    )
    assert bundle.manifest.classes == ["Katze", "Bär"]
    assert bundle.group_names == ["Wald", "See", "Straße"]
    assert bundle.samples["sample_id"].iloc[3] == "ä3"
    assert bundle.samples["place"].tolist() == ["Wald", "See"] * 15


def test_integers_may_be_ids_and_are_stored_as_text(imported, arrays):
    bundle = imported({**arrays, "sample_id": np.arange(30, dtype=">i8") + 2**60})
    assert bundle.samples["sample_id"].tolist() == [str(row + 2**60) for row in range(30)]


@pytest.mark.parametrize("dtype", ["int64", ">i2", "uint8", "bool"])
def test_attributes_become_columns(imported, arrays, dtype):
    values = (np.arange(30) % 2).astype(dtype)
    bundle = imported({**arrays, "attribute_place": values})
    assert bundle.manifest.attributes == ["place"]
    assert bundle.samples["place"].tolist() == values.tolist()


@pytest.mark.parametrize("dtype", ["float16", "float64", "int64"])
def test_the_head_is_kept(imported, arrays, dtype):
    weight, bias = np.arange(8).reshape(2, 4).astype(dtype), np.ones(2, dtype)
    head = imported({**arrays, "head_weight": weight, "head_bias": bias}).head
    assert head is not None
    np.testing.assert_array_equal(head[0], weight)
    np.testing.assert_array_equal(head[1], bias)


def test_named_classes_may_have_no_sample(imported, arrays):
    names = np.array(["cat", "dog", "elk"])
    assert imported({**arrays, "class_names": names}).manifest.classes == names.tolist()


def test_named_classes_may_have_no_weighted_sample(imported, arrays):
    y = put(arrays["y"], first(arrays, "test"), 2)
    names = np.array(["cat", "dog", "elk"])
    assert imported({**arrays, "y": y, "class_names": names}).samples["y"].max() == 2


def test_without_heldout_train_is_weighted_and_a_note_says_so(imported, arrays):
    split = np.where(arrays["split"] == "heldout", "train", arrays["split"])
    manifest = imported({**arrays, "split": split}).manifest
    assert manifest.weighted_split == "train"
    assert "no heldout split" in manifest.notes[0]


def test_other_arrays_are_ignored_with_a_note_and_never_unpickled(imported, arrays):
    extra = {"lr": np.float64(0.1), "config": np.array([{"a": 1}], dtype=object)}
    notes = imported({**arrays, **extra}).manifest.notes
    assert "Arrays of data.npz that were ignored: lr, config." in notes


def test_a_compressed_file_is_read(tmp_path, workspace, arrays):
    np.savez_compressed(tmp_path / "data.npz", **arrays)
    bundle = read_npz(tmp_path / "data.npz", workspace.bundles / "imported")
    np.testing.assert_array_equal(bundle.features, arrays["features"])


def test_a_bundle_is_replaced_only_when_asked(imported, arrays, left_behind):
    imported(arrays)
    with pytest.raises(GsrError, match="exists already"):
        imported(arrays)
    imported({**arrays, "features": arrays["features"] + 1}, overwrite=True)
    assert left_behind() == ["imported"]


def test_images_become_thumbnails_of_at_most_128_pixels(imported, arrays, tmp_path):
    paths = [f"images/{row}.png" for row in range(30)]
    (tmp_path / "images").mkdir()
    modes = ["RGB", "RGBA", "L", "P", "CMYK", "1", "LA"]
    for row in range(30):
        mode = modes[row % len(modes)]
        size = (400, 200) if row % 2 else (40, 60)
        Image.new(mode, size).save(tmp_path / paths[row], "TIFF" if mode == "CMYK" else "PNG")
    bundle = imported({**arrays, "path": np.array(paths)})
    assert bundle.samples["path"].tolist() == paths
    assert not any("thumbnail" in note for note in bundle.manifest.notes)
    for row in range(30):
        with Image.open(io.BytesIO(bundle.thumbnail(row))) as image:
            assert image.size == ((128, 64) if row % 2 else (40, 60))


def test_a_photograph_is_turned_upright(imported, arrays, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (400, 200)).save(tmp_path / "a.jpg", exif=exif)
    bundle = imported({**arrays, "path": np.array(["a.jpg"] + [""] * 29)})
    with Image.open(io.BytesIO(bundle.thumbnail(0))) as image:
        assert image.size == (64, 128)
    assert not any("thumbnail" in note for note in bundle.manifest.notes)


def test_missing_and_unreadable_images_have_one_note(imported, arrays, tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    bad = ["gone.png", "cut.png", "text.png", "folder.png", "pipe.png", "a" * 300, "a\0b"]
    bundle = imported({**arrays, "path": np.array(["good.png", *bad] + [""] * 22)})
    assert bundle.thumbnail(0)
    assert all(bundle.thumbnail(row) is None for row in range(1, 30))
    (note,) = (note for note in bundle.manifest.notes if "thumbnail" in note)
    assert note.startswith("Images missing or unreadable")
    assert "7 (first: gone.png)" in note


@pytest.mark.parametrize("path", ["../a.png", "sub/../../a.png", "{tmp}/a.png", r"..\a.png", "C:a"])
def test_an_image_outside_the_folder_is_not_read(arrays, tmp_path, workspace, path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    folder = tmp_path / "folder"
    folder.mkdir()
    path = path.format(tmp=tmp_path)
    np.savez(folder / "data.npz", **arrays, path=np.array([path] + [""] * 29))
    bundle = read_npz(folder / "data.npz", workspace.bundles / "imported")
    assert bundle.samples["path"].iloc[0] == path
    assert bundle.thumbnail(0) is None
    (note,) = (note for note in bundle.manifest.notes if "thumbnail" in note)
    assert note.startswith("Images outside")
    assert f"1 (first: {path})" in note


def test_the_source_proposes_the_roles_and_carries_groups_head_and_images(arrays, tmp_path):
    Image.new("RGB", (9, 9), "red").save(tmp_path / "a.png")
    del arrays["group"]
    np.savez(
        tmp_path / "data.npz",
        **arrays,
        groups=np.stack([arrays["y"] == 1, np.ones(30, bool)], axis=1),
        group_names=np.array(["ones", "everybody"]),
        class_names=np.array(["zero", "one"]),
        attribute_place=np.arange(30) % 2,
        path=np.array(["a.png", "../b.png"] + [""] * 28),
        head_weight=np.ones((2, 4)),
        head_bias=np.zeros(2),
    )
    source = Npz(path=str(tmp_path / "data.npz")).read()
    assert len(source.inputs) == len(source.table) == 30
    np.testing.assert_array_equal(source.inputs.load(3), arrays["features"][3])
    assert source.roles.label == "y"
    assert source.roles.attributes == ("place",)
    assert source.roles.split.column == "split"
    assert source.names == {"y": {0: "zero", 1: "one"}}
    assert source.membership["ones"].tolist() == (arrays["y"] == 1).tolist()
    assert source.membership["everybody"].all()
    assert source.membership.attrs["definitions"] == {
        "ones": "column 0 of groups",
        "everybody": "column 1 of groups",
    }
    assert source.head[0].shape == (2, 4)
    assert (source.images.load(0) == [255, 0, 0]).all()
    assert [source.images.name(row) for row in range(3)] == ["a.png", "", ""]
    assert len(pickle.loads(pickle.dumps(source.images))) == 30
    (note,) = source.notes
    assert "1 (first: ../b.png)" in note


FAULTS = {
    # a required array is not there
    "features missing": (lambda a: a.pop("features"), "array 'features' is missing"),
    "y missing": (lambda a: a.pop("y"), r"array 'y' is missing; the file has features, group, sp"),
    "split missing": (lambda a: a.pop("split"), "array 'split' is missing"),
    "group missing": (lambda a: a.pop("group"), r"array 'group' \(or 'groups'\) is missing"),
    "other case": (lambda a: a.update(Split=a.pop("split")), "'split' .* rename 'Split'"),
    "other word": (lambda a: a.update(labels=a.pop("y")), "'y' is missing.* rename 'labels'"),
    "near name": (lambda a: a.update(feature=a.pop("features")), "'features' .* rename 'feature'"),
    "both": (lambda a: a.update(groups=np.ones((30, 1), bool)), "'group' and 'groups' are both"),
    "bias missing": (lambda a: a.update(head_weight=np.ones((2, 4))), "'head_bias' is missing"),
    "weight missing": (lambda a: a.update(head_bias=np.ones(2)), "'head_weight' is missing"),
    # dtypes
    "objects": (lambda a: a.update(split=a["split"].astype(object)), "'split' has dtype object"),
    "integer features": (lambda a: a.update(features=np.ones((30, 4), int)), "features .* int64"),
    "complex features": (lambda a: a.update(features=a["features"] + 0j), "features .* complex64"),
    "text y": (lambda a: a.update(y=a["y"].astype(str)), "y has dtype <U"),
    "complex y": (lambda a: a.update(y=a["y"] + 0j), "y has dtype complex128"),
    "date group": (lambda a: a.update(group=a["group"].astype("M8[s]")), "group has dtype datetim"),
    "numbers as split": (lambda a: a.update(split=a["y"]), "split has dtype int64"),
    "numbers as ids": (lambda a: a.update(sample_id=np.arange(30.0)), "sample_id has dtype float"),
    "numbers as names": (lambda a: a.update(class_names=np.arange(2)), "class_names has dtype int"),
    "float attribute": (lambda a: a.update(attribute_a=np.ones(30)), "attribute_a has dtype float"),
    "text groups": (
        lambda a: (a.pop("group"), a.update(groups=np.full((30, 2), "yes"))),
        "groups has dtype <U3",
    ),
    "text head": (
        lambda a: a.update(head_weight=np.full((2, 4), "a"), head_bias=np.ones(2)),
        "head_weight has dtype <U1",
    ),
    # shapes
    "no dimension": (lambda a: a.update(y=np.array(1)), r"y has shape \(\); expected \(n,\)"),
    "y column": (lambda a: a.update(y=a["y"][:, None]), r"y has shape \(30, 1\)"),
    "flat features": (lambda a: a.update(features=np.ones(30)), r"features has shape \(30,\)"),
    "image features": (lambda a: a.update(features=np.ones((30, 2, 2))), r"features .* 2, 2\)"),
    "no features": (lambda a: a.update(features=np.ones((30, 0))), r"features has shape \(30, 0\)"),
    "group matrix": (lambda a: a.update(group=np.ones((30, 2), int)), r"group has shape \(30, 2\)"),
    "groups vector": (
        lambda a: a.update(groups=a.pop("group") > 0),
        r"groups has shape \(30,\); expected \(n, m\)",
    ),
    "no groups": (
        lambda a: (a.pop("group"), a.update(groups=np.ones((30, 0), bool))),
        "there are no groups",
    ),
    "short features": (lambda a: a.update(features=a["features"][1:]), "features has 29 rows.* 30"),
    "short y": (lambda a: a.update(y=a["y"][1:]), "has 30 rows, but y has 29"),
    "short split": (lambda a: a.update(split=a["split"][1:]), "split has 29 rows"),
    "long group": (lambda a: a.update(group=np.zeros(31, int)), "group has 31 rows"),
    "short ids": (lambda a: a.update(sample_id=np.arange(2)), "sample_id has 2 rows"),
    "short paths": (lambda a: a.update(path=np.array(["a"])), "path has 1 rows"),
    "short attribute": (lambda a: a.update(attribute_a=np.arange(9)), "attribute_a has 9 rows"),
    "empty": (lambda a: a.update({k: v[:0] for k, v in a.items()}), "y has no rows"),
    "head shape": (
        lambda a: a.update(head_weight=np.ones((4, 2)), head_bias=np.ones(2)),
        r"head_weight has shape \(4, 2\); expected \(2, 4\)",
    ),
    "bias shape": (
        lambda a: a.update(head_weight=np.ones((2, 4)), head_bias=np.ones(3)),
        r"head_bias has shape \(3,\); expected \(2,\)",
    ),
    # values
    "nan": (
        lambda a: a.update(features=put(a["features"], (7, 2), np.nan)),
        "nan in row 7, col.* 2",
    ),
    "infinity": (lambda a: a.update(features=put(a["features"], (7, 2), np.inf)), "inf in row 7"),
    "overflow": (
        lambda a: a.update(features=put(a["features"].astype(float), (7, 2), -1e300)),
        r"features is -1e\+300 in row 7, column 2",
    ),
    "negative y": (lambda a: a.update(y=put(a["y"], 5, -1)), "y is -1 in row 5"),
    "fractional y": (lambda a: a.update(y=put(a["y"] * 1.0, 5, 0.5)), "y is 0.5 in row 5"),
    "nan y": (lambda a: a.update(y=put(a["y"] * 1.0, 5, np.nan)), "y is nan in row 5"),
    "infinite y": (lambda a: a.update(y=put(a["y"] * 1.0, 5, np.inf)), "y is inf in row 5"),
    "absurd y": (lambda a: a.update(y=put(a["y"], 5, 10**9)), "y is 1000000000 in row 5"),
    "giant y": (
        lambda a: a.update(y=put(a["y"].astype("uint64"), 5, 2**64 - 1)),
        "y is 18446744073709551615 in row 5",
    ),
    "y gap": (lambda a: a.update(y=put(a["y"], 5, 3)), "y goes up to 3 in row 5, but no row is 2"),
    "unnamed class": (
        lambda a: a.update(y=put(a["y"], 5, 3), class_names=np.array(["a", "b"])),
        "y is 3 in row 5, but class_names has 2 names",
    ),
    "class never weighted": (
        lambda a: a.update(y=put(a["y"], first(a, "test"), 2)),
        r"y is 2 in row \d+, but in no heldout row",
    ),
    "one class": (lambda a: a.update(y=a["y"] * 0), "label 'y' has 1 different values in 30 rows"),
    "group too low": (lambda a: a.update(group=put(a["group"], 5, -2)), "group is -2 in row 5"),
    "fractional group": (
        lambda a: a.update(group=put(a["group"] * 1.0, 5, 0.5)),
        "group is 0.5 in row 5",
    ),
    "absurd group": (
        lambda a: a.update(group=put(a["group"], 5, 10**9)),
        "group is 1000000000 in row 5",
    ),
    "unnamed group": (
        lambda a: a.update(group=put(a["group"], 5, 3), group_names=np.array(["a", "b", "c"])),
        "group is 3 in row 5, but group_names has 3 names",
    ),
    "groups of two": (
        lambda a: (a.pop("group"), a.update(groups=put(np.ones((30, 2), int), (5, 1), 2))),
        "groups is 2 in row 5, column 1",
    ),
    "groups of nan": (
        lambda a: (a.pop("group"), a.update(groups=put(np.ones((30, 2)), (5, 1), np.nan))),
        "groups is nan in row 5, column 1",
    ),
    "too many groups": (
        lambda a: (a.pop("group"), a.update(groups=np.ones((30, MAX_COUNT + 1), bool))),
        "groups has 10001 columns",
    ),
    "group names of other number": (
        lambda a: a.update(groups=a.pop("group")[:, None] >= 0, group_names=np.array(["a", "b"])),
        "group_names has 2 names, but groups has 1 columns",
    ),
    "group not in target": (
        lambda a: a.update(group=put(a["group"], a["split"] == "target", 0)),
        "group 'group 1' has no sample in the target split",
    ),
    "unknown word": (lambda a: a.update(split=put(a["split"], 5, "Train")), "'Train' in row 5"),
    "no val": (
        lambda a: a.update(split=np.where(a["split"] == "val", "test", a["split"])),
        "split has no 'val' row",
    ),
    "nothing to weight": (
        lambda a: a.update(
            split=np.where(np.isin(a["split"], ("train", "heldout")), "test", a["split"])
        ),
        "split has neither 'heldout' nor 'train' rows",
    ),
    "same id": (
        lambda a: a.update(sample_id=put(np.arange(30), 5, 3)),
        "sample id '3' in row 5 of column 'sample_id' is there twice",
    ),
    "no UTF-8": (
        lambda a: a.update(sample_id=put(np.arange(30).astype("S9"), 5, b"\xff")),
        "sample_id is not valid Unicode text in row 5",
    ),
    "half a surrogate pair": (
        lambda a: a.update(sample_id=put(np.arange(30).astype("U9"), 5, "\ud800")),
        "sample_id is not valid Unicode text in row 5",
    ),
    "same class name": (
        lambda a: a.update(class_names=np.array(["a", "a"])),
        "class_names has 'a' in row 1 for the second time",
    ),
    "empty group name": (
        lambda a: a.update(group_names=np.array(["a", "", "b"])),
        "group_names is empty in row 1",
    ),
    "no class names": (
        lambda a: a.update(class_names=np.array([], dtype=str)),
        "class_names has 0 names",
    ),
    "nan in head": (
        lambda a: a.update(head_weight=put(np.ones((2, 4)), (1, 2), np.nan), head_bias=np.ones(2)),
        "head_weight is nan in row 1",
    ),
    "overflow in head": (
        lambda a: a.update(head_weight=np.ones((2, 4)), head_bias=np.array([0, 1e300])),
        r"head_bias is 1e\+300 in row 1",
    ),
    "reserved attribute": (lambda a: a.update(attribute_y=a["y"]), "'attribute_y' cannot become"),
    "attribute of a table": (
        lambda a: a.update({"attribute_right or wrong": a["y"]}),
        "'attribute_right or wrong' cannot become",
    ),
    "nameless attribute": (lambda a: a.update(attribute_=a["y"]), "'attribute_' cannot become"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_refused_by_its_array_and_row_and_nothing_stays(
    imported, arrays, left_behind, fault
):
    change, message = FAULTS[fault]
    change(arrays)
    with pytest.raises(GsrError, match=message):
        imported(arrays)
    assert left_behind() == []


@pytest.mark.parametrize("split", ["target", "val", "test"])
def test_an_unknown_group_is_refused_in_target_val_and_test(imported, arrays, left_behind, split):
    row = first(arrays, split)
    group = put(arrays["group"], row, -1)
    with pytest.raises(GsrError, match=rf"group is -1 \(unknown\) in row {row}, a {split} row"):
        imported({**arrays, "group": group})
    assert left_behind() == []


def test_rows_are_checked_before_images_are_read(imported, arrays, monkeypatch):
    def never(*_):
        raise AssertionError("an image was read")

    monkeypatch.setattr("gsr_core.ingest.importing._spool_thumbnails", never)
    arrays.update(path=np.full(30, "a.png"), sample_id=np.full(30, "same"))
    with pytest.raises(GsrError, match="sample id 'same' in row 1"):
        imported(arrays)


def header(shape: str, descr: str = "<f4") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no header",
        header("(30, 4)"),
        header("(29, 4)") + bytes(30 * 4 * 4),
        header("(1000000000000000, 4)"),
        header("(-1, 4)"),
        header("(30, 4"),
        header("(30, 4)", "nonsense"),
    ],
    ids=["empty", "text", "cut", "long", "giant", "negative", "syntax", "dtype"],
)
def test_an_array_that_cannot_be_read_is_named(tmp_path, workspace, arrays, left_behind, content):
    del arrays["features"]
    np.savez(tmp_path / "data.npz", **arrays)
    with zipfile.ZipFile(tmp_path / "data.npz", "a") as archive:
        archive.writestr("features.npy", content)
    with pytest.raises(GsrError, match=r"array 'features' of .* (cannot be read|fit into)"):
        read_npz(tmp_path / "data.npz", workspace.bundles / "imported")
    assert left_behind() == []


def test_a_file_that_is_no_archive_is_refused(tmp_path, workspace, arrays, left_behind):
    target = workspace.bundles / "imported"
    with pytest.raises(GsrError, match=r"there is no file .*gone\.npz"):
        read_npz(tmp_path / "gone.npz", target)
    with pytest.raises(GsrError, match="is a directory"):
        read_npz(tmp_path, target)
    np.save(tmp_path / "one.npy", arrays["features"])
    with pytest.raises(GsrError, match=r"one\.npy is not a whole \.npz file"):
        read_npz(tmp_path / "one.npy", target)
    np.savez(tmp_path / "data.npz", **arrays)
    whole = (tmp_path / "data.npz").read_bytes()
    for size in (0, 1, len(whole) // 2, len(whole) - 1):
        (tmp_path / "data.npz").write_bytes(whole[:size])
        with pytest.raises(GsrError, match="is not a whole"):
            read_npz(tmp_path / "data.npz", target)
    with zipfile.ZipFile(tmp_path / "data.npz", "w"):
        pass
    with pytest.raises(GsrError, match="'features' is missing; the file has no arrays"):
        read_npz(tmp_path / "data.npz", target)
    assert left_behind() == []


@st.composite
def valid_arrays(draw):
    """Arrays that must import: each split has each class and each group."""
    classes, groups, features = draw(st.integers(2, 3)), draw(st.integers(1, 3)), 2
    cells = [(s, y, g) for s in SPLITS for y in range(classes) for g in range(groups)]
    cells = draw(st.permutations(cells))
    split, y, group = (np.array(column) for column in zip(*cells, strict=True))
    n = len(cells)
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    width = 16 if dtype == np.float16 else 32
    numbers = st.floats(width=width, allow_nan=False, allow_infinity=False)
    arrays = {
        "features": draw(hnp.arrays(dtype, (n, features), elements=numbers)),
        "y": y.astype(draw(st.sampled_from(["int64", "uint8", "float32"]))),
        "split": split.astype(draw(st.sampled_from(["U", "S"]))),
    }
    if draw(st.booleans()):
        unknown = draw(hnp.arrays(bool, n)) & np.isin(split, ("train", "heldout"))
        arrays["group"] = np.where(unknown, -1, group)
    else:
        extra = draw(hnp.arrays(bool, (n, groups)))
        arrays["groups"] = extra | (group[:, None] == np.arange(groups))
    text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=5)
    if draw(st.booleans()):
        names = draw(st.lists(text, min_size=n, max_size=n, unique=True))
        arrays["sample_id"] = np.array(names)
    if draw(st.booleans()):
        arrays["group_names"] = np.array(
            draw(st.lists(text, min_size=groups, max_size=groups, unique=True))
        )
    if draw(st.booleans()):
        arrays["attribute_a"] = draw(hnp.arrays(np.int32, n))
    if draw(st.booleans()):
        arrays["head_weight"], arrays["head_bias"] = np.ones((classes, 2)), np.zeros(classes)
    return arrays


def assert_equal(bundle, arrays):
    np.testing.assert_array_equal(bundle.features, arrays["features"].astype(np.float32))
    assert bundle.samples["y"].tolist() == arrays["y"].tolist()
    assert bundle.samples["split"].tolist() == arrays["split"].astype(str).tolist()
    if "group" in arrays:
        known = arrays["group"] >= 0
        np.testing.assert_array_equal(bundle.membership.any(axis=1), known)
        np.testing.assert_array_equal(
            bundle.membership[known].argmax(axis=1), arrays["group"][known]
        )
    else:
        np.testing.assert_array_equal(bundle.membership, arrays["groups"])


@settings(deadline=None, max_examples=60)
@given(arrays=valid_arrays(), compressed=st.booleans())
def test_valid_arrays_are_read_back_equal(arrays, compressed):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "data.npz")
        (np.savez_compressed if compressed else np.savez)(file, **arrays)
        bundle = read_npz(file, Path(folder, "bundles", "imported"))
        assert_equal(bundle, arrays)
        if "sample_id" in arrays:
            assert bundle.samples["sample_id"].tolist() == arrays["sample_id"].tolist()
        if "group_names" in arrays:
            assert bundle.group_names == arrays["group_names"].tolist()
        if "attribute_a" in arrays:
            assert bundle.samples["a"].tolist() == arrays["attribute_a"].tolist()
        assert (bundle.head is not None) == ("head_weight" in arrays)


@settings(deadline=None, max_examples=300)
@given(data=st.data(), arrays=valid_arrays(), compressed=st.booleans())
def test_a_damaged_file_is_refused_or_read_rightly_and_nothing_stays(data, arrays, compressed):
    damage = data.draw(st.sampled_from(["drop", "lengthen", "flip", "truncate"]))
    name = data.draw(st.sampled_from(sorted(arrays)))
    saved = dict(arrays)
    if damage == "drop":
        del saved[name]
    if damage == "lengthen":
        saved[name] = np.concatenate([saved[name], saved[name][:1]])
    content = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(content, **saved)
    damaged = bytearray(content.getvalue())
    if damage == "flip":
        for _ in range(data.draw(st.integers(1, 3))):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    if damage == "truncate":
        del damaged[data.draw(st.integers(0, len(damaged) - 1)) :]

    with tempfile.TemporaryDirectory() as folder:
        file, bundles = Path(folder, "data.npz"), Path(folder, "bundles")
        file.write_bytes(damaged)
        try:
            bundle = read_npz(file, bundles / "imported")
        except GsrError:
            assert not bundles.exists() or not list(bundles.iterdir())
        else:
            assert_equal(bundle, arrays)
            assert [entry.name for entry in bundles.iterdir()] == ["imported"]
