import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gsr_core.errors import SourceError
from gsr_core.readers.files import are_files, list_images, need_columns, need_folder, read_table
from gsr_core.readers.registry import make_reader

ROWS = pd.DataFrame(
    {"path": ["a/ü.jpg", "b.png"], "y": [0, 1], "place": ["land, dry", "None"], "score": [0.5, 2.0]}
)


def write(file: Path) -> Path:
    match file.suffix:
        case ".parquet":
            ROWS.to_parquet(file)
        case ".jsonl":
            file.write_text(ROWS.to_json(orient="records", lines=True), encoding="utf-8")
        case ".tsv":
            ROWS.to_csv(file, sep="\t", index=False, encoding="utf-8")
        case _:
            ROWS.to_csv(file, index=False, encoding="utf-8")
    return file


HOSTILE = {
    "lists": ("[" * 100_000, "too deep"),
    "objects": ('{"a":' * 50_000, "too deep"),
    "digits": ('{"y": ' + "9" * 5001 + "}", "more digits than can be read"),
}


@pytest.mark.parametrize("reader", ["table", "texts"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_json_that_python_does_not_read_is_one_sentence(tmp_path, reader, kind):
    line, said = HOSTILE[kind]
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "good", "y": 0}\n' + line + "\n")
    with pytest.raises(SourceError, match=rf"^line 2 of .*a\.jsonl has .*{said}") as stop:
        make_reader(reader, {"path": str(file)}).read()
    assert len(str(stop.value)) < 500


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet", "jsonl", "CSV"])
def test_every_kind_gives_the_same_table(tmp_path, suffix):
    table = read_table(write(tmp_path / f"metadata.{suffix}"))
    pd.testing.assert_frame_equal(table, ROWS, check_dtype=False)
    assert pd.api.types.is_integer_dtype(table["y"])
    assert pd.api.types.is_float_dtype(table["score"])


def test_a_spreadsheets_mark_and_semicolons_are_understood(tmp_path):
    file = tmp_path / "a.csv"
    file.write_bytes(b"\xef\xbb\xbfpath;y\r\na.jpg;1\r\nb.jpg;0\r\n")
    table = read_table(file)
    assert list(table.columns) == ["path", "y"]
    assert table["y"].tolist() == [1, 0]


def test_words_for_nothing_are_missing_among_numbers_and_text_among_text(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("n,t,e\n1.5,NA,\nNaN,None,x\n-2,oak,\n")
    table = read_table(file)
    np.testing.assert_array_equal(table["n"], [1.5, np.nan, -2])
    assert table["t"].tolist() == ["NA", "None", "oak"]
    assert table["e"].isna().tolist() == [True, False, True]


def test_an_index_of_parquet_is_a_column_only_if_it_was_named(tmp_path):
    ROWS.iloc[[1, 0]].to_parquet(tmp_path / "a.parquet")
    assert list(read_table(tmp_path / "a.parquet").columns) == list(ROWS.columns)
    ROWS.astype({"place": "category"}).set_index("path").to_parquet(tmp_path / "b.parquet")
    table = read_table(tmp_path / "b.parquet")
    assert set(table.columns) == set(ROWS.columns)
    assert table["place"].tolist() == ROWS["place"].tolist()
    assert not isinstance(table["place"].dtype, pd.CategoricalDtype)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"", "empty"),
        ("a.csv", b"\n\n", "only empty lines"),
        ("a.csv", b"path,y\n", "no rows"),
        ("a.csv", b"path,y,path\na,1,b\n", "more than one column called 'path'"),
        ("a.csv", b"path,y\na,1\nb,1,2\n", "line 3"),
        ("a.csv", b"path,y\na,1,3\nb,1,2\n", "as many fields as the header"),
        ("a.csv", b"path,y\na,1\ncaf\xe9,1\n", r"0xe9 at position 14 \(line 3\).*WINDOWS-1252"),
        ("a.csv", "path,y\na,1\n".encode("utf-16"), "UTF-16"),
        ("a.tsv", b"path\ty\n\xff\t1\n", r"position 7 \(line 2\)"),
        ("a.jsonl", b'{"y": 1}\n\n{"y": \n', "line 3 .* not JSON"),
        ("a.jsonl", b'{"y": 1}\n[1]\n', "line 2 .* is a JSON list"),
        ("a.jsonl", b'{"y": "\xe4"}\n', "0xe4"),
        ("a.jsonl", b"\n", "no rows"),
        ("a.parquet", b"PAR1 and then nothing", "cannot be read as parquet"),
        ("a.xlsx", b"PK", "ends in '.xlsx'; a table ends in .csv"),
    ],
)
def test_a_bad_table_is_refused_with_the_reason(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=says):
        read_table(tmp_path / name)


def test_a_missing_file_names_the_nearest(tmp_path):
    write(tmp_path / "metadata.csv")
    with pytest.raises(SourceError, match=r"did you mean 'metadata\.csv'"):
        read_table(tmp_path / "metdata.csv")
    with pytest.raises(SourceError, match=r"has metadata\.csv"):
        read_table(tmp_path / "zzz.parquet")
    with pytest.raises(SourceError, match="nor a folder"):
        read_table(tmp_path / "no" / "metadata.csv")
    with pytest.raises(SourceError, match="is a folder"):
        read_table(tmp_path)
    with pytest.raises(
        SourceError, match="is a file; give the folder, or choose a reader of one file: texts"
    ):
        need_folder(tmp_path / "metadata.csv")
    with pytest.raises(SourceError, match=r"no folder .*did you mean 'metadata.csv'"):
        need_folder(tmp_path / "metadata")


def test_a_missing_column_names_the_nearest():
    with pytest.raises(SourceError, match=r"no column 'plase' .did you mean 'place'"):
        need_columns(ROWS, ["y", "plase"], Path("a.csv"))
    need_columns(ROWS, ["y", "place"], Path("a.csv"))


def test_a_number_of_many_digits_in_json_stays_whole(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": 2**62 + 1}) + "\n")
    assert read_table(tmp_path / "a.jsonl")["id"].tolist() == [2**62 + 1]


def test_images_are_listed_in_order_and_links_are_followed_once(tmp_path):
    for name in ("b/2.JPG", "b/10.jpg", "a.png", "b/notes.txt", ".hidden.png", ".git/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    elsewhere = tmp_path.with_name(tmp_path.name + "-elsewhere")
    elsewhere.mkdir()
    (elsewhere / "c.webp").touch()
    os.symlink(elsewhere, tmp_path / "linked")
    os.symlink(tmp_path, tmp_path / "b" / "up")
    os.symlink(elsewhere / "c.webp", tmp_path / "d.webp")
    assert list_images(tmp_path) == ["a.png", "b/10.jpg", "b/2.JPG", "d.webp", "linked/c.webp"]


def test_which_paths_are_files(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.jpg").touch()
    (tmp_path / "2.jpg").touch()
    os.symlink(tmp_path / "2.jpg", tmp_path / "link.jpg")
    os.symlink(tmp_path / "gone.jpg", tmp_path / "dangling.jpg")
    paths = ["b/1.jpg", "2.jpg", "link.jpg", "dangling.jpg", "b", "b/2.jpg", "no/1.jpg", ""]
    there = are_files(tmp_path, paths)
    assert there.tolist() == [bool(path) and (tmp_path / path).is_file() for path in paths]
    assert there.sum() == 3
