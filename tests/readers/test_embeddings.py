import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from gsr_core.data.dataset import define
from gsr_core.errors import SourceError
from gsr_core.readers.embeddings import Embeddings
from gsr_core.readers.registry import make_reader

N, D = 40, 6


@pytest.fixture
def array():
    return np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)


@pytest.fixture
def table():
    return pd.DataFrame(
        {
            "id": [f"s{row}" for row in range(N)],
            "label": ["cat", "dog"] * (N // 2),
            "place": ["land", "land", "sea", "sea"] * (N // 4),
        }
    )


def read(file, **values):
    return make_reader("embeddings", {"path": str(file), **values}).read()


def test_npy_and_the_table_of_its_name_become_a_data_set(tmp_path, array, table):
    np.save(tmp_path / "birds.npy", array)
    table.to_csv(tmp_path / "birds.csv", index=False)
    source = read(tmp_path / "birds.npy")
    assert isinstance(source.inputs.array, np.memmap)
    np.testing.assert_array_equal(source.inputs.array, array)
    assert source.roles.label == "label"
    assert source.roles.sample_id == "id"
    assert source.roles.attributes == ("place",)
    assert source.origin == "embeddings of birds.npy and birds.csv"
    dataset = define(source)
    assert dataset.classes == ["cat", "dog"]
    assert [group.name for group in dataset.groups][:2] == ["cat, land", "cat, sea"]


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "jsonl"])
def test_the_table_may_be_called_metadata_and_be_of_any_kind(tmp_path, array, table, kind):
    np.save(tmp_path / "e.npy", array)
    file = tmp_path / f"metadata.{kind}"
    if kind == "parquet":
        table.to_parquet(file)
    elif kind == "jsonl":
        table.to_json(file, orient="records", lines=True)
    else:
        table.to_csv(file, index=False, sep="\t" if kind == "tsv" else ",")
    assert read(tmp_path / "e.npy").table.to_dict("list") == table.to_dict("list")


def test_the_table_may_be_named_relative_to_the_file(tmp_path, array, table):
    np.save(tmp_path / "e.npy", array)
    table.to_csv(tmp_path / "e.csv", index=False)
    table.assign(label="fox").to_csv(tmp_path / "other.csv", index=False)
    for metadata in ("other.csv", str(tmp_path / "other.csv")):
        assert set(read(tmp_path / "e.npy", metadata=metadata).table["label"]) == {"fox"}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "int8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numbers_of_any_type_are_given_as_float32(tmp_path, array, table, dtype, order):
    stored = (array * 20).astype(dtype, order=order)
    np.save(tmp_path / "e.npy", stored)
    table.to_csv(tmp_path / "e.csv", index=False)
    inputs = read(tmp_path / "e.npy").inputs
    assert inputs.load(3).dtype == np.float32
    np.testing.assert_array_equal(inputs.load(3), stored[3].astype(np.float32))


@pytest.mark.parametrize("kind", ["list", "large_list", "fixed"])
@pytest.mark.parametrize("number", [pa.float16(), pa.float32(), pa.float64()])
def test_a_parquet_column_of_lists_is_found_and_the_rest_is_the_table(
    tmp_path, array, table, kind, number
):
    kinds = {
        "list": pa.list_(number),
        "large_list": pa.large_list(number),
        "fixed": pa.list_(number, D),
    }
    rows = array.astype(number.to_pandas_dtype())
    columns = pa.Table.from_pandas(table, preserve_index=False).append_column(
        "vector", pa.array(list(rows), kinds[kind])
    )
    # Several row groups are several chunks.
    pq.write_table(columns, tmp_path / "e.parquet", row_group_size=7)
    source = read(tmp_path / "e.parquet")
    np.testing.assert_array_equal(source.inputs.array, rows)
    assert source.table.to_dict("list") == table.to_dict("list")


def test_of_several_lists_one_is_chosen(tmp_path, array, table):
    table.assign(a=list(array), b=list(array + 1)).to_parquet(tmp_path / "e.parquet")
    with pytest.raises(SourceError, match=r"2 columns of lists of numbers \(a, b\); choose"):
        read(tmp_path / "e.parquet")
    source = read(tmp_path / "e.parquet", column="b")
    np.testing.assert_array_equal(source.inputs.array, array + 1)
    assert list(source.table.columns) == list(table.columns)
    assert source.notes == ("Columns of e.parquet that were ignored: a.",)


def test_a_parquet_file_of_vectors_alone_takes_the_table_beside_it(tmp_path, array, table):
    pd.DataFrame({"v": list(array)}).to_parquet(tmp_path / "e.parquet")
    with pytest.raises(SourceError, match=r"no table of labels beside e\.parquet"):
        read(tmp_path / "e.parquet")
    table.to_csv(tmp_path / "e.csv", index=False)
    assert read(tmp_path / "e.parquet").table["label"].tolist() == table["label"].tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_safetensors_of_any_float_type_are_read(tmp_path, array, table, dtype):
    stored = torch.from_numpy(array).to(dtype)
    save_file({"embeddings": stored}, tmp_path / "e.safetensors")
    table.to_csv(tmp_path / "metadata.csv", index=False)
    source = read(tmp_path / "e.safetensors")
    expected = stored.to(torch.float32).numpy()
    np.testing.assert_array_equal(np.asarray(source.inputs.array, np.float32), expected)


def test_tensors_of_one_dimension_are_columns(tmp_path, array):
    tensors = {
        "x": torch.from_numpy(array),
        "y": torch.arange(N) % 2,
        "place": torch.arange(N) // 2 % 2 == 0,
        "mean": torch.zeros(D),
    }
    save_file(tensors, tmp_path / "e.safetensors")
    source = read(tmp_path / "e.safetensors")
    assert source.roles.label == "y"
    assert source.table["place"].tolist() == tensors["place"].tolist()
    assert source.notes == ("Tensors of e.safetensors that were ignored: mean.",)
    pd.DataFrame({"y": [0] * N}).to_csv(tmp_path / "e.csv", index=False)
    with pytest.raises(SourceError, match=r"'y' is in e\.safetensors and a column of e\.csv"):
        read(tmp_path / "e.safetensors")


def test_of_several_tensors_one_is_chosen(tmp_path, array, table):
    matrix = torch.from_numpy(array)
    save_file({"a": matrix, "b": matrix + 1}, tmp_path / "e.safetensors")
    table.to_csv(tmp_path / "e.csv", index=False)
    with pytest.raises(SourceError, match=r"2 tensors of two dimensions; it has a \(40, 6\), b"):
        read(tmp_path / "e.safetensors")
    with pytest.raises(SourceError, match="there is no tensor 'c'"):
        read(tmp_path / "e.safetensors", tensor="c")
    np.testing.assert_array_equal(
        read(tmp_path / "e.safetensors", tensor="b").inputs.array, array + 1
    )


def test_bfloat16_in_npy_is_known_by_its_two_bytes(tmp_path, array, table):
    # What numpy.save makes of an array of the ml_dtypes package.
    bits = torch.from_numpy(array).bfloat16()
    np.save(tmp_path / "e.npy", bits.view(torch.int16).numpy().view("V2"))
    table.to_csv(tmp_path / "e.csv", index=False)
    source = read(tmp_path / "e.npy")
    np.testing.assert_array_equal(source.inputs.array, bits.float().numpy())
    assert source.notes == ("e.npy was read as bfloat16.",)


def test_images_of_a_path_column_are_shown(tmp_path, array, table):
    Image.new("RGB", (5, 4), "red").save(tmp_path / "a.png")
    np.save(tmp_path / "e.npy", array)
    paths = ["a.png", "../b.png"] + [None] * (N - 2)
    table.assign(path=paths).to_csv(tmp_path / "e.csv", index=False)
    source = read(tmp_path / "e.npy")
    assert source.images.load(0).shape == (4, 5, 3)
    assert [source.images.name(row) for row in range(3)] == ["a.png", "", ""]
    assert "1 (first: ../b.png)" in source.notes[0]
    assert "path" not in source.roles.attributes


def spoil(row, column, value):
    def change(array):
        array[row, column] = value
        return array

    return change


FAULTS = {
    "nan": (spoil(7, 2, np.nan), r"are nan in row 7, column 2 \(1 bad rows"),
    "infinity": (spoil([9, 30], 0, -np.inf), r"are -inf in row 9, column 0 \(2 bad rows"),
    "flat": (lambda a: a.ravel(), r"e\.npy have shape \(240,\); expected \(n, d\)"),
    "images": (lambda a: a.reshape(N, 2, 3), r"have shape \(40, 2, 3\)"),
    "empty": (lambda a: a[:0], r"have shape \(0, 6\)"),
    "no columns": (lambda a: a[:, :0], r"have shape \(40, 0\)"),
    "complex": (lambda a: a + 0j, "have dtype complex64; expected real numbers"),
    "text": (lambda a: a.astype(str), "have dtype <U"),
    "short": (lambda a: a[:-1], r"e\.npy has 39 rows, but e\.csv has 40; row i"),
    "overflow": (lambda a: spoil(3, 1, 1e300)(a.astype(float)), r"are 1e\+300 in row 3, column 1"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_array_is_refused_by_its_place(tmp_path, array, table, fault):
    change, message = FAULTS[fault]
    np.save(tmp_path / "e.npy", change(array))
    table.to_csv(tmp_path / "e.csv", index=False)
    with pytest.raises(SourceError, match=message):
        read(tmp_path / "e.npy")


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("a pickle was read",)


def test_pickles_are_never_read(tmp_path, table):
    np.save(tmp_path / "e.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    table.to_csv(tmp_path / "e.csv", index=False)
    with pytest.raises(SourceError, match=r"holds Python objects, which only pickle"):
        read(tmp_path / "e.npy")


LISTS = {
    "a gap": ([[1.0, 2.0], None, [3.0, 4.0]], "no list in row 1"),
    "lengths": ([[1.0, 2.0], [1.0, 2.0], [3.0]], "has 1 numbers in row 2, but 2 in row 0"),
    "a gap within": ([[1.0, 2.0], [1.0, None], [3.0, 4.0]], "nan in row 1, column 1"),
    "empty": ([[], [], []], r"have shape \(3, 0\)"),
    "no numbers": ([["a"], ["b"], ["c"]], "0 columns of lists of numbers; .* reader 'table'"),
}


@pytest.mark.parametrize("fault", LISTS)
def test_a_fault_of_a_column_of_lists_is_refused_by_its_row(tmp_path, fault):
    rows, message = LISTS[fault]
    kind = pa.list_(pa.string() if fault == "no numbers" else pa.float32())
    columns = pa.table({"y": [0, 1, 0], "v": pa.array(rows, kind)})
    pq.write_table(columns, tmp_path / "e.parquet")
    with pytest.raises(SourceError, match=message):
        read(tmp_path / "e.parquet")


def test_a_column_that_is_no_list_is_refused(tmp_path, array, table):
    table.assign(v=list(array)).to_parquet(tmp_path / "e.parquet")
    with pytest.raises(
        SourceError, match=r"'label' of e\.parquet is not a list of numbers.* are v"
    ):
        read(tmp_path / "e.parquet", column="label")
    with pytest.raises(SourceError, match=r"'w' of .* is not there"):
        read(tmp_path / "e.parquet", column="w")


def test_two_tables_or_none_beside_the_file_are_refused(tmp_path, array, table):
    np.save(tmp_path / "e.npy", array)
    with pytest.raises(SourceError, match=r"no table of labels beside e\.npy: expected e\.csv or"):
        read(tmp_path / "e.npy")
    with pytest.raises(SourceError, match=r"no metadata file gone\.csv"):
        read(tmp_path / "e.npy", metadata="gone.csv")
    table.to_csv(tmp_path / "e.csv", index=False)
    table.to_parquet(tmp_path / "e.parquet")
    with pytest.raises(SourceError, match=r"e\.csv and e\.parquet are both beside e\.npy"):
        read(tmp_path / "e.npy")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("e.npz", "the reader 'npz'"),
        ("e.csv", "the reader 'table'"),
        ("e.pt", "save the embeddings as one of these"),
    ],
)
def test_another_kind_of_file_is_refused_with_the_way_to_go(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(SourceError, match=message):
        read(tmp_path / name)


@pytest.mark.parametrize("kind", ["npy", "parquet", "safetensors"])
def test_a_damaged_file_is_refused(tmp_path, array, table, kind):
    file = tmp_path / f"e.{kind}"
    if kind == "npy":
        np.save(file, array)
    elif kind == "parquet":
        table.assign(v=list(array)).to_parquet(file)
    else:
        save_file({"x": torch.from_numpy(array)}, file)
    table.to_csv(tmp_path / "metadata.csv", index=False)
    assert len(read(file).inputs) == N
    whole = file.read_bytes()
    for size in (0, 5, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(SourceError, match=rf"is not a complete \.?{kind} file"):
            read(file)
    with pytest.raises(SourceError, match="there is no file"):
        read(tmp_path / "gone.npy")


def test_settings_survive_json(tmp_path):
    reader = Embeddings(path=str(tmp_path / "e.npy"), metadata="m.csv", column="c", tensor="t")
    assert make_reader("embeddings", json.loads(json.dumps(reader.settings()))) == reader
