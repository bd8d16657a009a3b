from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gsr_core.data.dataset import define
from gsr_core.errors import SourceError
from gsr_core.readers.registry import make_reader

SPECIES = {0: "021.Eastern_Towhee/Eastern_Towhee", 1: "001.Black_footed_Albatross/Black_Footed"}


@pytest.fixture
def folder(tmp_path) -> Path:
    """The release's layout: 3 splits, each of the 4 groups 5 times."""
    folder = tmp_path / "waterbird_complete95_forest2water2"
    table = pd.DataFrame(
        [
            (split, y, place)
            for split in (0, 1, 2)
            for y in (0, 1)
            for place in (0, 1)
            for _ in range(5)
        ],
        columns=["split", "y", "place"],
    )
    number = np.arange(len(table)) + 1
    table["img_id"] = number
    table["img_filename"] = [
        f"{SPECIES[y]}_{each:04}_{each * 7}.jpg" for y, each in zip(table["y"], number, strict=True)
    ]
    table["place_filename"] = [
        f"/{'o/ocean' if place else 'b/bamboo_forest'}/{each:08}.jpg"
        for place, each in zip(table["place"], number, strict=True)
    ]
    for row, path in enumerate(table["img_filename"]):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 6, 3), 4 * row, dtype=np.uint8)).save(folder / path)
    order = ["img_id", "img_filename", "y", "split", "place", "place_filename"]
    table[order].to_csv(folder / "metadata.csv", index=False)
    return folder


def read(path: Path):
    return make_reader("waterbirds", {"path": str(path)}).read()


def test_the_release_is_read(folder):
    source = read(folder)
    data = define(source)
    table = pd.read_csv(folder / "metadata.csv")
    assert data.classes == ["landbird", "waterbird"]
    for group, name in zip(data.groups, ("land", "water", "land", "water"), strict=True):
        assert name in group.definition
    np.testing.assert_array_equal(data.samples["y"], table["y"])
    np.testing.assert_array_equal(data.membership.argmax(axis=1), 2 * table["y"] + table["place"])
    assert data.samples["place"].tolist() == [("land", "water")[p] for p in table["place"]]
    split = data.samples["split"].to_numpy()
    assert set(split[table["split"] == 0]) <= {"train", "heldout"}
    assert set(split[table["split"] == 1]) == {"target", "val"}
    assert set(split[table["split"] == 2]) == {"test"}
    assert data.samples["sample_id"].tolist() == [str(number) for number in table["img_id"]]
    for row in (0, 31, 59):
        np.testing.assert_allclose(data.inputs.load(row), 4 * row, atol=2)
    assert any("adjusted average" in note for note in data.notes)


def test_the_folder_above_and_the_table_itself_do_too(folder):
    for path in (folder.parent, folder / "metadata.csv"):
        assert read(path).inputs.digest() == read(folder).inputs.digest()


@pytest.mark.parametrize(("column", "value"), [("y", 2), ("place", -1), ("split", "train")])
def test_values_of_another_data_set_are_refused(folder, column, value):
    table = pd.read_csv(folder / "metadata.csv").astype({column: object})
    table.loc[7, column] = value
    table.to_csv(folder / "metadata.csv", index=False)
    with pytest.raises(SourceError, match=f"column '{column}' .* in row"):
        read(folder)


def test_a_missing_part_is_named(folder):
    table = pd.read_csv(folder / "metadata.csv")
    table.rename(columns={"img_filename": "img_file"}).to_csv(folder / "metadata.csv", index=False)
    with pytest.raises(SourceError, match=r"no column 'img_filename' .did you mean 'img_file'"):
        read(folder)
    table.to_csv(folder / "metadata.csv", index=False)
    (folder / table["img_filename"][3]).unlink()
    assert any("1 of 60 image files are missing" in note for note in read(folder).notes)
    (folder / "metadata.csv").rename(folder / "meta.csv")
    with pytest.raises(SourceError, match=r"no file .*metadata\.csv; did you mean 'meta\.csv'"):
        read(folder)
    table.to_csv(folder.parent.parent / "metadata.csv", index=False)
    with pytest.raises(SourceError, match="none of the 60 images"):
        read(folder.parent.parent / "metadata.csv")
