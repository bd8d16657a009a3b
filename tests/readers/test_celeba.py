import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gsr_core.data.dataset import define
from gsr_core.errors import SourceError
from gsr_core.readers.registry import make_reader

LINE = """
5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair
Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair
Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face
Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair Wavy_Hair
Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young
"""
NAMES = re.findall(r"\S+", LINE)
N = 60
FILES = [f"{row + 1:06}.jpg" for row in range(N)]


def flags() -> np.ndarray:
    """(n, 40) of -1 and 1."""
    values = np.where(np.random.default_rng(0).random((N, 40)) < 0.5, -1, 1)
    # Every group in every split.
    values[:, NAMES.index("Blond_Hair")] = np.where(np.arange(N) % 2, 1, -1)
    values[:, NAMES.index("Male")] = np.where(np.arange(N) // 2 % 2, 1, -1)
    return values


def splits() -> np.ndarray:
    return np.arange(N) // 20


def originals(attributes: Path, partition: Path, images: Path) -> None:
    for place in (attributes, partition, images):
        place.mkdir(parents=True, exist_ok=True)
    lines = [
        f"{name} {' '.join(f'{v:2}' for v in row)}"
        for name, row in zip(FILES, flags(), strict=True)
    ]
    (attributes / "list_attr_celeba.txt").write_text(
        "\n".join([str(N), " ".join(NAMES) + " ", *lines, ""])
    )
    (partition / "list_eval_partition.txt").write_text(
        "".join(f"{name} {split}\n" for name, split in zip(FILES, splits(), strict=True))
    )
    paint(images)


def tables(folder: Path, images: Path, *, numbered: bool = False) -> None:
    images.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(flags(), columns=NAMES)
    table.insert(0, "image_id", FILES)
    table.to_csv(folder / "list_attr_celeba.csv", index=numbered)
    partition = pd.DataFrame({"image_id": FILES, "partition": splits()})
    # The order of the two files is not the same thing as their contents.
    partition[::-1].to_csv(folder / "list_eval_partition.csv", index=numbered)
    paint(images)


def paint(images: Path) -> None:
    for row, name in enumerate(FILES):
        Image.fromarray(np.full((4, 4, 3), 4 * row, dtype=np.uint8)).save(images / name)


LAYOUTS = {
    "one place": lambda root: originals(root, root, root / "img_align_celeba"),
    "as downloaded": lambda root: originals(
        root / "Anno", root / "Eval", root / "Img" / "img_align_celeba"
    ),
    "torchvision's root": lambda root: originals(
        root / "celeba", root / "celeba", root / "celeba" / "img_align_celeba"
    ),
    "Kaggle": lambda root: tables(root, root / "img_align_celeba" / "img_align_celeba"),
    "group DRO": lambda root: (
        (root / "data").mkdir(),
        tables(root / "data", root / "data" / "img_align_celeba", numbered=True),
    ),
}


def read(folder: Path, **values):
    return make_reader("celeba", {"path": str(folder), **values}).read()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_data_set(tmp_path, layout):
    LAYOUTS[layout](tmp_path)
    source = read(tmp_path)
    data = define(source)
    blond, male = (flags()[:, NAMES.index(name)] > 0 for name in ("Blond_Hair", "Male"))
    assert data.classes == ["not Blond_Hair", "Blond_Hair"]
    np.testing.assert_array_equal(data.samples["y"], blond)
    np.testing.assert_array_equal(data.membership.argmax(axis=1), 2 * blond + male)
    assert data.samples["Male"].tolist() == ["Male" if each else "not Male" for each in male]
    assert data.samples["sample_id"].tolist() == FILES
    split = data.samples["split"].to_numpy()
    for number, names in enumerate(({"train", "heldout"}, {"target", "val"}, {"test"})):
        assert set(split[splits() == number]) == names
    for row in (0, 33, 59):
        np.testing.assert_allclose(data.inputs.load(row), 4 * row, atol=2)


def test_any_pair_of_attributes_can_be_chosen(tmp_path):
    LAYOUTS["one place"](tmp_path)
    source = read(tmp_path, target="Smiling", attribute="Wearing_Hat")
    smiling, hat = (flags()[:, NAMES.index(name)] > 0 for name in ("Smiling", "Wearing_Hat"))
    data = define(source)
    assert data.classes == ["not Smiling", "Smiling"]
    np.testing.assert_array_equal(data.samples["y"], smiling)
    np.testing.assert_array_equal(data.membership.argmax(axis=1), 2 * smiling + hat)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"target": "Blond Hair"}, "no attribute 'Blond Hair'; did you mean 'Blond_Hair'"),
        ({"attribute": "male"}, "did you mean 'Male'"),
        ({"attribute": "Blond_Hair"}, "target and attribute are both 'Blond_Hair'"),
    ],
)
def test_an_attribute_that_cannot_be_is_refused(tmp_path, values, says):
    LAYOUTS["one place"](tmp_path)
    with pytest.raises(SourceError, match=says):
        read(tmp_path, **values)


def test_damaged_files_are_refused_with_the_place(tmp_path):
    LAYOUTS["one place"](tmp_path)
    file, partition = tmp_path / "list_attr_celeba.txt", tmp_path / "list_eval_partition.txt"
    whole, splits_whole = file.read_text(), partition.read_text()
    lines = whole.splitlines(keepends=True)
    for content, says in (
        ("".join(lines[:-3]), "has 57 images, but its first line says 60"),
        ("".join(lines[1:]), "expected a line with the number of images"),
        ("".join([*lines[:4], lines[4][:40], *lines[5:]]), "line 5 .* fields; expected"),
        (whole.replace(" -1", " -7", 1), "is -7 in .*; expected -1 or 1"),
        (whole.replace("000002.jpg", "000001.jpg"), r"image 000001\.jpg is twice"),
        (whole.replace("000002.jpg", "900002.jpg"), r"1 images .* \(first: 900002\.jpg\)"),
    ):
        file.write_text(content)
        with pytest.raises(SourceError, match=says):
            read(tmp_path)
    file.write_text(whole)
    for content, says in (
        (splits_whole.replace("000003.jpg 0", "000003.jpg 3"), r"000003\.jpg in .* is not 0, 1"),
        (splits_whole.replace("000003.jpg 0", "000003.jpg"), "line 3 .* has 1 fields"),
    ):
        partition.write_text(content)
        with pytest.raises(SourceError, match=says):
            read(tmp_path)


def test_a_missing_part_is_named(tmp_path):
    LAYOUTS["Kaggle"](tmp_path)
    (tmp_path / "img_align_celeba" / "img_align_celeba" / FILES[1]).unlink()
    assert read(tmp_path).notes == (
        "1 of 60 image files are missing (first: img_align_celeba/img_align_celeba/000002.jpg).",
    )
    (tmp_path / "list_eval_partition.csv").unlink()
    with pytest.raises(SourceError, match=r"no list_eval_partition\.txt or .* found img_align"):
        read(tmp_path)
    LAYOUTS["one place"](tmp_path / "other")
    (tmp_path / "other" / "img_align_celeba").rename(tmp_path / "other" / "images")
    with pytest.raises(SourceError, match="has no folder img_align_celeba"):
        read(tmp_path / "other")
