import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gsr_core.data.dataset import define
from gsr_core.data.inputs import Texts
from gsr_core.errors import InputError, SourceError
from gsr_core.readers.registry import make_reader
from gsr_core.readers.texts import TextTable

SHARED = Path(os.environ.get("GSR_SHARED_DATA", "../shared/data"))
SICK = SHARED / "sick_nli.parquet"


def pairs(n=24):
    return pd.DataFrame(
        {
            "premise": [f"A man number {i} walks a dog." for i in range(n)],
            "hypothesis": [f"Nobody walks dog {i}." for i in range(n)],
            "label": ["entailment", "neutral", "contradiction"] * (n // 3),
            "negation": [0, 1] * (n // 2),
        }
    )


def written(table, file):
    if file.suffix == ".parquet":
        table.to_parquet(file)
    elif file.suffix == ".jsonl":
        table.to_json(file, orient="records", lines=True)
    else:
        table.to_csv(file, index=False, sep="\t" if file.suffix == ".tsv" else ",")
    return file


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".jsonl"])
def test_pairs_read_the_same_from_every_kind_of_file(tmp_path, suffix):
    table = pairs()
    table.loc[3, "premise"] = 'He said "no",\nand left. Ünïcode 漢字'

    source = TextTable(path=str(written(table, tmp_path / f"nli{suffix}"))).read()

    assert [source.inputs.load(row) for row in range(24)] == list(
        zip(table["premise"], table["hypothesis"], strict=True)
    )
    assert source.roles.label == "label"
    assert source.roles.attributes == ("negation",)
    assert source.notes == ()


def test_class_names_come_from_labels_that_are_words(tmp_path):
    dataset = define(TextTable(path=str(written(pairs(60), tmp_path / "nli.csv"))).read())

    assert dataset.classes == ["contradiction", "entailment", "neutral"]
    assert len(dataset.groups) == 6
    first, second = (dataset.samples[name].str for name in ("text", "text_pair"))
    chosen = first.startswith("A man number 7 walks a dog.") & second.startswith("Nobody")
    assert dataset.classes[dataset.samples["y"][chosen].item()] == "neutral"


def test_text_columns_are_never_attributes(tmp_path):
    # Few different texts: by their values they could be.
    table = pairs().assign(premise=["Yes, it is.", "No, it is not."] * 12)

    source = TextTable(path=str(written(table, tmp_path / "nli.csv"))).read()

    assert source.roles.attributes == ("negation",)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ("premise", "hypothesis")),
        ({"pair": "none"}, ("premise",)),
        ({"text": "hypothesis"}, ("hypothesis",)),
        ({"pair": "hypothesis"}, ("premise", "hypothesis")),
        ({"text": "hypothesis", "pair": "premise"}, ("hypothesis", "premise")),
    ],
)
def test_columns_can_be_named_and_a_pair_refused(tmp_path, settings, expected):
    table = pairs()
    reader = make_reader("texts", {"path": str(written(table, tmp_path / "a.csv")), **settings})

    item = reader.read().inputs.load(5)

    assert (item if isinstance(item, tuple) else (item,)) == tuple(table[c][5] for c in expected)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["label", "text"], "text"),
        (["comment_text", "label"], "comment_text"),
        (["label", "Sentence"], "Sentence"),
        (["label", "what_they_wrote", "place"], "what_they_wrote"),
    ],
)
def test_the_column_of_texts_is_found(tmp_path, columns, expected):
    values = {"label": [0, 1] * 5, "place": ["here", "there"] * 5}
    prose = [f"It was a long and winding road, number {i}" for i in range(10)]
    table = pd.DataFrame({column: values.get(column, prose) for column in columns})

    source = TextTable(path=str(written(table, tmp_path / "a.csv"))).read()

    assert [source.inputs.load(row) for row in range(10)] == prose
    assert f"'{expected}'" in source.origin
    assert expected not in (source.roles.label, *source.roles.attributes)


def claims():
    return pd.DataFrame(
        {
            "pair_id": [f"p{i}" for i in range(24)],
            "statement": [f"A man number {i} walks a big dog." for i in range(24)],
            "claim": [f"Somebody walks the dog {i}." for i in range(24)],
            "verdict": ["yes", "no", "maybe"] * 8,
            "url": [f"https://example.org/statements/{i}" for i in range(24)],
        }
    )


def test_a_second_column_that_looks_like_texts_is_not_passed_over_silently(tmp_path):
    file = str(written(claims(), tmp_path / "a.csv"))

    (warning,) = TextTable(path=file).read().warnings

    assert warning == (
        "Text: 'statement'; second text: none; 'claim' looks like a text too: set pair=claim to "
        "read pairs, or pair=none if single texts are meant."
    )
    assert TextTable(path=file, pair="claim").read().warnings == ()
    assert TextTable(path=file, pair="none").read().warnings == ()
    assert TextTable(path=str(written(pairs(), tmp_path / "b.csv"))).read().warnings == ()


def test_empty_texts_are_counted_and_refused_one_by_one(tmp_path):
    table = pairs()
    table.loc[4, "premise"] = ""
    table.loc[9, "hypothesis"] = "  \t"

    source = TextTable(path=str(written(table, tmp_path / "a.csv"))).read()

    assert len(source.notes) == 1
    assert "2 of 24 rows have an empty text (the first is row 4)" in source.notes[0]
    bad = []
    for row in range(24):
        try:
            source.inputs.load(row)
        except InputError:
            bad.append(row)
    assert bad == [4, 9]


def test_a_file_of_another_encoding_says_how_to_convert_it(tmp_path):
    file = tmp_path / "latin.csv"
    file.write_bytes("text,label\ncafé,0\nthé,1\n".encode("latin-1"))

    with pytest.raises(SourceError, match="is not UTF-8: byte 0xe9"):
        TextTable(path=str(file)).read()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text": "premis"}, "has no column 'premis' .did you mean 'premise'"),
        ({"pair": "hypotheses"}, "has no column 'hypotheses' .did you mean 'hypothesis'"),
        ({"text": "negation"}, "is 0 in row 0, which is not a text"),
        ({"text": "premise", "pair": "premise"}, "text and pair are both 'premise'"),
    ],
)
def test_a_wrong_column_is_named(tmp_path, settings, message):
    file = written(pairs(), tmp_path / "a.csv")

    with pytest.raises(SourceError, match=message):
        make_reader("texts", {"path": str(file), **settings}).read()


def test_a_table_without_texts_lists_its_columns(tmp_path):
    file = written(pd.DataFrame({"age": [1, 2], "y": ["a", "b"]}), tmp_path / "a.csv")

    with pytest.raises(SourceError, match=r"no column that looks like texts.* age, y"):
        TextTable(path=str(file)).read()


@pytest.mark.skipif(not SICK.is_file(), reason="the shared copy of SICK is not on this machine")
def test_sick_reads_as_pairs_with_negation():
    source = TextTable(path=str(SICK)).read()
    table = pd.read_parquet(SICK)

    assert isinstance(source.inputs, Texts)
    assert len(source.inputs) == 9927
    for row in (0, 4711, 9926):
        assert source.inputs.load(row) == (table["premise"][row], table["hypothesis"][row])
    assert source.roles.label == "label"
    assert source.roles.attributes == ("negation",)
    dataset = define(source)
    assert dataset.classes == ["contradiction", "entailment", "neutral"]
    sizes = dict(
        zip([g.definition for g in dataset.groups], dataset.membership.sum(axis=0), strict=True)
    )
    expected = table.groupby(["label", "negation"]).size()
    assert sizes == {
        f"class = {label} and negation = {negation}": count
        for (label, negation), count in expected.items()
    }
    assert np.isin(["train", "heldout", "target", "val", "test"], dataset.samples["split"]).all()
