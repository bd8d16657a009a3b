import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from gsr_core.data.dataset import define
from gsr_core.errors import SourceError
from gsr_core.readers.registry import make_reader


def fill(folder, names):
    for level, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((3, 3, 3), level, dtype=np.uint8)).save(folder / name)


def read(folder):
    return make_reader("imagefolder", {"path": str(folder)}).read()


def test_classes_and_order_are_torchvisions(tmp_path):
    fill(
        tmp_path,
        [f"{kind}/{name}.jpg" for kind in ("owl", "Ant", "10", "9", "bee") for name in "fcabed"],
    )
    (tmp_path / "owl" / "notes.txt").touch()
    source = read(tmp_path)
    theirs = ImageFolder(str(tmp_path))
    assert [str(tmp_path / path) for path in source.table["path"]] == [
        path for path, _ in theirs.samples
    ]
    data = define(source)
    assert data.classes == theirs.classes
    assert data.samples["y"].tolist() == theirs.targets
    assert [group.name for group in data.groups] == theirs.classes
    for row in (0, 17, 29):
        np.testing.assert_array_equal(data.inputs.load(row), np.asarray(theirs[row][0]))


@pytest.mark.parametrize(
    ("folders", "validation"),
    [(("train", "val", "test"), 8), (("Training", "validation", "Testing"), 8)],
)
def test_split_folders_are_splits(tmp_path, folders, validation):
    names = [
        f"{split}/{kind}/{row}.png" for split in folders for kind in ("cat", "dog")
        for row in range(4)
    ]  # fmt: skip
    fill(tmp_path, names)
    data = define(read(tmp_path))
    split = data.samples["split"]
    first = data.samples["path"].str.split("/").str[0]
    assert set(split[first == folders[0]]) <= {"train", "heldout"}
    assert set(split[first == folders[1]]) == {"target", "val"}
    assert (first == folders[1]).sum() == validation
    assert set(split[first == folders[2]]) == {"test"}
    assert data.classes == ["cat", "dog"]


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path, [f"{kind}/{row}.png" for kind in ("car", "train") for row in range(8)])
    source = read(tmp_path)
    assert source.roles.split.column is None
    assert define(source).classes == ["car", "train"]


def test_deeper_folders_are_an_attribute(tmp_path):
    fill(
        tmp_path,
        [f"{kind}/{place}/{row}.png" for kind in ("cat", "dog") for place in ("in", "out")
         for row in range(6)],
    )  # fmt: skip
    data = define(read(tmp_path))
    assert len(data.groups) == 4
    assert data.samples["folder"].tolist() == [path.split("/")[1] for path in data.samples["path"]]


def test_what_is_left_out_is_said(tmp_path):
    fill(tmp_path, [f"{kind}/{row}.png" for kind in ("cat", "dog") for row in range(8)])
    fill(tmp_path, ["stray.png"])
    (tmp_path / "empty").mkdir()
    notes = " ".join(read(tmp_path).notes)
    assert "1 images in no class folder were left out" in notes
    assert "Folders without images: empty" in notes
    assert "the classes are the groups" in notes


def test_other_layouts_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(SourceError, match="has no images; expected class folders"):
        read(tmp_path)
    fill(tmp_path, ["stray.png"])
    with pytest.raises(SourceError, match="no class folders with images"):
        read(tmp_path)
    fill(tmp_path, ["train/0.png"])
    with pytest.raises(SourceError, match="one class folder, 'train'"):
        read(tmp_path)


def test_a_class_that_is_only_in_test_is_refused(tmp_path):
    fill(tmp_path, [f"{split}/{kind}/{row}.png" for split in ("train", "val", "test")
                    for kind in ("cat", "dog") for row in range(4)])  # fmt: skip
    fill(tmp_path, ["test/emu/0.png"])
    with pytest.raises(SourceError, match="class 'emu' occurs in row"):
        define(read(tmp_path))
