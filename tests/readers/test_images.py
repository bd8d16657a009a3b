import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gsr_core.data.dataset import define
from gsr_core.errors import InputError, SourceError
from gsr_core.readers.images import Images
from gsr_core.readers.registry import make_reader

N = 24
ROWS = np.arange(N)


def save(file: Path, level: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4, 3), level, dtype=np.uint8)).save(file)


def rows(**columns) -> pd.DataFrame:
    """A table as users write them: labels in words, a column of splits, one attribute."""
    return pd.DataFrame(
        {
            "filename": [f"{'ab'[row % 2]}/{row:03}.png" for row in ROWS],
            "label": np.array(["cat", "dog"])[ROWS % 2],
            "split": np.array(["train", "val", "test"])[ROWS // 8],
            "place": np.array(["indoor", "outdoor"])[ROWS // 2 % 2],
            **columns,
        }
    )


@pytest.fixture
def folder(tmp_path) -> Path:
    for row, path in enumerate(rows()["filename"]):
        save(tmp_path / "set" / path, row)
    rows().to_csv(tmp_path / "set" / "metadata.csv", index=False)
    return tmp_path / "set"


def read(folder: Path, **values):
    return make_reader("images", {"path": str(folder), **values}).read()


def levels(inputs) -> list[int]:
    return [int(inputs.load(row)[0, 0, 0]) for row in range(len(inputs))]


def test_a_folder_with_metadata_becomes_a_data_set(folder):
    source = read(folder)
    assert levels(source.inputs) == ROWS.tolist()
    assert source.roles.label == "label"
    assert source.roles.sample_id == "path"
    assert source.roles.attributes == ("place",)
    assert source.notes == ()
    data = define(source)
    assert data.classes == ["cat", "dog"]
    assert data.samples["path"].tolist() == rows()["filename"].tolist()
    assert len(data.groups) == 4
    assert levels(data.inputs) == ROWS.tolist()
    np.testing.assert_array_equal(data.samples["y"], ROWS % 2)


@pytest.mark.parametrize("suffix", ["tsv", "parquet", "jsonl"])
def test_the_table_may_be_of_any_kind_and_be_given_itself(folder, suffix):
    (folder / "metadata.csv").unlink()
    file = folder / f"metadata.{suffix}"
    match suffix:
        case "tsv":
            rows().to_csv(file, sep="\t", index=False)
        case "parquet":
            rows().to_parquet(file)
        case _:
            rows().to_json(file, orient="records", lines=True)
    for path in (folder, file):
        assert levels(read(path).inputs) == ROWS.tolist()


def test_the_table_may_have_another_name_and_place(folder):
    (folder / "metadata.csv").rename(folder.parent / "labels.csv")
    with pytest.raises(SourceError, match=r"has nothing of that kind; expected one metadata\.csv"):
        read(folder)
    for name in ("../labels.csv", str(folder.parent / "labels.csv")):
        assert levels(read(folder, metadata=name).inputs) == ROWS.tolist()
    with pytest.raises(SourceError, match=r"did you mean 'labels\.csv'"):
        read(folder, metadata="../label.csv")
    for name in ("a.csv", "b.csv"):
        rows().to_csv(folder / name)
    with pytest.raises(SourceError, match=r"has a\.csv, b\.csv; expected one"):
        read(folder)


@pytest.mark.parametrize("name", ["img_filename", "Image Path", "file_name", "whatever it is"])
def test_the_column_of_paths_is_found(folder, name):
    table = rows(note="a.png").rename(columns={"filename": name})[
        ["note", "label", "split", "place", name]
    ]
    table.to_csv(folder / "metadata.csv", index=False)
    assert levels(read(folder).inputs) == ROWS.tolist()


def test_values_decide_between_columns_of_paths(folder):
    # Where an image once came from is a path too, but of no file here.
    table = rows(path=[f"/old/disk/{row}.png" for row in ROWS])
    table.to_csv(folder / "metadata.csv", index=False)
    source = read(folder)
    assert levels(source.inputs) == ROWS.tolist()
    assert source.table["path"].tolist() == rows()["filename"].tolist()
    assert any("'path' of metadata.csv is not used" in note for note in source.notes)


def test_a_column_can_be_named(folder):
    table = rows(second=rows()["filename"].to_numpy()[::-1])
    table.to_csv(folder / "metadata.csv", index=False)
    assert levels(read(folder, image_column="second").inputs) == ROWS[::-1].tolist()
    with pytest.raises(SourceError, match=r"no column 'secnd' .did you mean 'second'"):
        read(folder, image_column="secnd")


def test_paths_are_understood_without_suffix_with_backslashes_and_in_full(folder):
    names = rows()["filename"]
    for written in (
        names.str.removesuffix(".png"),
        names.str.replace("/", "\\"),
        f"{folder}/" + names,
    ):
        rows(filename=written).to_csv(folder / "metadata.csv", index=False)
        source = read(folder)
        assert levels(source.inputs) == ROWS.tolist()
        assert source.table["path"].tolist() == names.tolist()


@pytest.mark.parametrize("bad", ["../other/a.png", "/etc/a.png", "D:\\a.png", "a\\..\\..\\a.png"])
def test_a_path_out_of_the_folder_is_refused(folder, bad):
    save(folder.parent / "other" / "a.png", 0)
    names = rows()["filename"].tolist()
    names[3] = bad
    rows(filename=names).to_csv(folder / "metadata.csv", index=False)
    with pytest.raises(SourceError, match="in row 3 does not stay inside"):
        read(folder)


def test_links_are_followed(folder):
    (folder / "a" / "000.png").rename(folder.parent / "elsewhere.png")
    os.symlink(folder.parent / "elsewhere.png", folder / "a" / "000.png")
    source = read(folder)
    assert levels(source.inputs) == ROWS.tolist()
    assert source.notes == ()


def test_missing_and_damaged_images_wait_for_the_extraction(folder):
    (folder / "a" / "000.png").unlink()
    (folder / "b" / "003.png").unlink()
    (folder / "a" / "002.png").write_bytes(b"")
    (folder / "b" / "001.png").write_bytes((folder / "b" / "001.png").read_bytes()[:45])
    source = read(folder)
    assert source.notes == ("2 of 24 image files are missing (first: a/000.png).",)
    for row, says in ((0, "no such file"), (1, "trunc"), (2, "empty"), (3, "no such file")):
        with pytest.raises(InputError, match=says):
            source.inputs.load(row)
    assert source.inputs.load(4)[0, 0, 0] == 4


def test_no_image_at_all_is_an_error_that_says_what_is_there(folder):
    rows().to_csv(folder.parent / "metadata.csv", index=False)
    with pytest.raises(SourceError, match=r"none of the 24 images .* has metadata\.csv, set: give"):
        read(folder.parent)
    rows().drop(columns="filename").to_csv(folder / "metadata.csv", index=False)
    with pytest.raises(SourceError, match=r"no column of .* has paths .* label, split, place"):
        read(folder)
    with pytest.raises(SourceError, match="no folder"):
        read(folder / "no")


def test_a_row_without_a_path_is_named(folder):
    names = rows()["filename"].tolist()
    names[5] = None
    rows(filename=names).to_csv(folder / "metadata.csv", index=False)
    with pytest.raises(SourceError, match="no path in row 5"):
        read(folder)


def test_duplicate_ids_are_not_taken_for_ids(folder):
    rows(sample_id=ROWS // 2, filename=rows()["filename"].to_numpy()[ROWS // 2]).to_csv(
        folder / "metadata.csv", index=False
    )
    source = read(folder)
    assert source.roles.sample_id is None
    assert define(source).samples["sample_id"].is_unique
    chosen = source.roles.model_copy(update={"sample_id": "sample_id"})
    with pytest.raises(SourceError, match=r"sample id '0' in row 1 .* is there twice"):
        define(source, chosen)


def test_a_file_that_is_no_table_of_images_is_said_to_be_a_file(tmp_path):
    file = tmp_path / "people.csv"
    file.write_text("age,decile,decile\n1,2,2\n3,4,4\n")
    with pytest.raises(SourceError) as error:
        Images(path=str(file)).read()
    assert str(error.value) == (
        f"{file} is a file, and not a table of images (has more than one column called 'decile'); "
        "give the folder of the images, or choose the reader texts, table or embeddings"
    )
    (tmp_path / "metadata.csv").write_text("age,decile\n1,2\n")
    with pytest.raises(SourceError, match=r"^no column of"):
        Images(path=str(tmp_path), metadata="metadata.csv").read()
