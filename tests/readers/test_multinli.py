"""The fixture has the release's files: three of MultiNLI 1.0 or of GLUE, and the table of splits.

The table is made as group DRO's authors made theirs: the three files one after the other, a split
drawn for every pair, those without an agreed label dropped, the index kept.
"""

import json
import pickle

import numpy as np
import pandas as pd
import pytest

from gsr_core.data.dataset import define
from gsr_core.errors import SourceError
from gsr_core.readers.multinli import MultiNLI, has_negation
from gsr_core.readers.registry import make_reader

LABELS = ["contradiction", "entailment", "neutral"]
FILES = ("train", "dev_matched", "dev_mismatched")
RAW_COLUMNS = [
    "gold_label", "sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse",
    "sentence2_parse", "sentence1", "sentence2", "promptID", "pairID", "genre",
    "label1", "label2", "label3", "label4", "label5",
]  # fmt: skip
GLUE_COLUMNS = [
    "index", "promptID", "pairID", "genre", "sentence1_binary_parse", "sentence2_binary_parse",
    "sentence1_parse", "sentence2_parse", "sentence1", "sentence2", "label1", "gold_label",
]  # fmt: skip


def raw_pairs(seed=0):
    """Return the pairs of the three files; some have no agreed label."""
    generator = np.random.default_rng(seed)
    files, number = {}, 0
    for name, n in zip(FILES, (240, 40, 40), strict=True):
        rows = []
        for _ in range(n):
            word = generator.choice(["No", "nobody", "Never,", "nothing.", "a", "know", "the"])
            row = dict.fromkeys(RAW_COLUMNS, "( x )")
            row |= {
                # Sentences of the release have lone quotes and odd line separators.
                "gold_label": str(generator.choice(["-", *LABELS, *LABELS, *LABELS])),
                "sentence1": f'"Premise {number} of\u2028the pair',
                "sentence2": f"{word} one saw pair {number}.",
                "promptID": str(number),
                "pairID": f"{number}n",
                "genre": str(generator.choice(["fiction", "telephone"])),
            }
            rows.append(row)
            number += 1
        files[name] = pd.DataFrame(rows)
    return files


def write_raw(files, folder, form):
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in files.items():
        if form == "jsonl":
            lines = [json.dumps(row, ensure_ascii=False) for row in table.to_dict("records")]
            file = folder / f"multinli_1.0_{name}.jsonl"
        elif form == "txt":
            lines = ["\t".join(RAW_COLUMNS), *("\t".join(row) for row in table.to_numpy())]
            file = folder / f"multinli_1.0_{name}.txt"
        else:
            kept = table[table["gold_label"] != "-"].reset_index(drop=True)
            kept = kept.assign(index=kept.index.astype(str))[GLUE_COLUMNS]
            lines = ["\t".join(GLUE_COLUMNS), *("\t".join(row) for row in kept.to_numpy())]
            file = folder / f"{name}.tsv"
        file.write_bytes(("\n".join(lines) + "\n").encode())


def metadata(files, seed=1):
    table = pd.concat(files.values(), ignore_index=True)
    table["split"] = np.random.default_rng(seed).permutation(np.arange(len(table)) % 3)
    table = table[table["gold_label"] != "-"]
    negations = ("no", "nobody", "never", "nothing")
    first = table["sentence2"].str.split().str[0].str.lower().str.strip(".,")
    return pd.DataFrame(
        {
            "gold_label": table["gold_label"].map(LABELS.index),
            "sentence2_has_negation": first.isin(negations).astype(int),
            "split": table["split"],
        }
    ), table


@pytest.fixture
def release(tmp_path):
    files = raw_pairs()
    table, pairs = metadata(files)
    (tmp_path / "data").mkdir()
    table.to_csv(tmp_path / "data" / "metadata_random.csv")
    write_raw(files, tmp_path / "multinli_1.0", "jsonl")
    return tmp_path, table, pairs, files


def check(source, table, pairs):
    assert len(source.inputs) == len(table)
    assert [source.inputs.load(row) for row in range(len(table))] == list(
        zip(pairs["sentence1"], pairs["sentence2"], strict=True)
    )
    for column in ("gold_label", "sentence2_has_negation", "split"):
        np.testing.assert_array_equal(source.table[column], table[column])


@pytest.mark.parametrize(
    ("folder", "form"),
    [
        ("multinli_1.0", "jsonl"),
        ("multinli_1.0", "txt"),
        ("data", "jsonl"),
        ("data/multinli_1.0", "txt"),
        ("glue_data/MNLI", "tsv"),
    ],
)
def test_every_row_has_its_own_sentences(tmp_path, folder, form):
    files = raw_pairs()
    table, pairs = metadata(files)
    (tmp_path / "data").mkdir()
    table.to_csv(tmp_path / "data" / "metadata_random.csv")
    write_raw(files, tmp_path / folder, form)

    for place in (tmp_path, tmp_path / "data" / "metadata_random.csv", tmp_path / "data"):
        check(MultiNLI(path=str(place)).read(), table, pairs)


def test_six_groups_of_class_and_negation(release):
    folder, table, _, _ = release

    dataset = define(MultiNLI(path=str(folder)).read())

    assert dataset.classes == LABELS
    assert [group.name for group in dataset.groups] == [
        f"{label}, {negation}" for label in LABELS for negation in ("no negation", "negation")
    ]
    index = table["gold_label"] * 2 + table["sentence2_has_negation"]
    np.testing.assert_array_equal(dataset.membership.argmax(axis=1), index)
    test = (dataset.samples["split"] == "test").to_numpy()
    np.testing.assert_array_equal(test, table["split"] == 2)


def test_some_rows_of_the_table_are_found_by_their_index(release):
    folder, table, pairs, _ = release
    some = table.iloc[5::7]
    some.to_csv(folder / "data" / "metadata_random.csv")

    check(MultiNLI(path=str(folder)).read(), some, pairs.loc[some.index])


def test_own_splits_need_no_table_and_count_negations_alike(release):
    folder, table, pairs, files = release
    (folder / "data" / "metadata_random.csv").unlink()

    source = make_reader("multinli", {"path": str(folder), "splits": "preset"}).read()

    sizes = [int((files[name]["gold_label"] != "-").sum()) for name in FILES]
    check(source, table.assign(split=np.repeat([0, 1, 2], sizes)), pairs)


def test_a_table_that_has_the_sentences_needs_no_other_file(tmp_path):
    table, pairs = metadata(raw_pairs())
    file = tmp_path / "metadata_multinli.csv"
    pairs = pairs.assign(sentence1=pairs["sentence1"].str.replace("\u2028", " "))
    table.assign(sentence1=pairs["sentence1"], sentence2=pairs["sentence2"]).rename(
        columns={"gold_label": "y", "sentence2_has_negation": "a"}
    ).to_csv(file, index=False)

    check(MultiNLI(path=str(tmp_path)).read(), table, pairs)


def test_subpopbench_s_table_counts_labelled_pairs_only(release):
    folder, table, pairs, _ = release
    (folder / "data" / "metadata_random.csv").unlink()
    renamed = table.rename(columns={"gold_label": "y", "sentence2_has_negation": "a"})
    renamed = renamed.reset_index(drop=True)
    renamed.insert(0, "id", renamed.index)
    renamed.insert(1, "filename", renamed.index)
    renamed.to_csv(folder / "metadata_multinli.csv", index=False)

    check(MultiNLI(path=str(folder)).read(), table, pairs)


def test_another_order_is_noticed_by_the_labels(release):
    folder, table, _, _ = release
    table.sample(frac=1, random_state=0).to_csv(folder / "data" / "metadata_random.csv")

    with pytest.raises(SourceError, match=r"row \d+ of .* says .*, but the pair .* says"):
        MultiNLI(path=str(folder)).read()


def test_too_few_pairs_are_counted(release):
    folder, table, _, files = release
    files["train"] = files["train"].iloc[:-50]
    write_raw(files, folder / "multinli_1.0", "jsonl")

    with pytest.raises(SourceError, match=rf"has {len(table)} rows, but .* have \d+ pairs"):
        MultiNLI(path=str(folder)).read()


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was opened",))


def test_cached_tokens_are_named_and_never_opened(release):
    folder, *_ = release
    for file in (folder / "multinli_1.0").iterdir():
        file.unlink()
    glue = folder / "glue_data" / "MNLI"
    glue.mkdir(parents=True)
    (glue / "cached_train_bert-base-uncased_128_mnli").write_bytes(pickle.dumps(Bomb()))

    with pytest.raises(SourceError, match=r"cached_train.* is not opened.*multinli_1.0.zip"):
        MultiNLI(path=str(folder)).read()


def test_a_missing_table_says_where_it_is_from_and_what_else_can_be_done(release):
    folder, *_ = release
    (folder / "data" / "metadata_random.csv").unlink()

    with pytest.raises(SourceError, match=r"data/metadata_random.csv.*set splits to preset"):
        MultiNLI(path=str(folder)).read()


def test_one_missing_file_is_named(release):
    folder, *_ = release
    (folder / "multinli_1.0" / "multinli_1.0_dev_mismatched.jsonl").unlink()

    with pytest.raises(SourceError, match=r"but no multinli_1.0_dev_mismatched.jsonl"):
        MultiNLI(path=str(folder)).read()


@pytest.mark.parametrize("damage", [b'{"gold_label": "neutral"}\n', b"\xff\xfe\n", b"{\n"])
def test_a_damaged_line_is_named(release, damage):
    folder, *_ = release
    file = folder / "multinli_1.0" / "multinli_1.0_dev_matched.jsonl"
    lines = file.read_bytes().split(b"\n")
    file.write_bytes(b"\n".join(lines[:7]) + b"\n" + damage + b"\n".join(lines[7:]))

    with pytest.raises(SourceError, match=r"line 8 of .*dev_matched.jsonl is not a pair"):
        MultiNLI(path=str(folder)).read()


def test_an_unknown_label_and_a_missing_column_are_named(release):
    folder, table, _, _ = release
    file = folder / "data" / "metadata_random.csv"
    table["gold_label"] = table["gold_label"].astype(object)
    table.iloc[3, 0] = "hidden"
    table.to_csv(file)
    with pytest.raises(SourceError, match="gold_label is 'hidden' in row 3"):
        MultiNLI(path=str(folder)).read()

    table.rename(columns={"sentence2_has_negation": "sentence_has_negation"}).to_csv(file)
    with pytest.raises(SourceError, match="did you mean 'sentence_has_negation'"):
        MultiNLI(path=str(folder)).read()


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("NO!", True),
        ("There is nothing, really.", True),
        ("I know nobody's name", False),
        ("It isn't not so", False),
        ("", False),
    ],
)
def test_only_whole_words_are_negations(sentence, expected):
    assert has_negation(sentence) is expected
