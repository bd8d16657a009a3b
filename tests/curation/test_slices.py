"""Named slices and flags."""

import io
import json
import multiprocessing
import re

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings

from gsr_core.comparing.entries import entries
from gsr_core.comparing.slices import slice_scores
from gsr_core.curation.accuracy import accuracies_on, slice_accuracy
from gsr_core.curation.flags import flag_rows, flagged, unflag_rows
from gsr_core.curation.slices import (
    Slice,
    delete_slice,
    find_slice,
    list_slices,
    load_slice,
    name_slice,
    rename_slice,
    save_slice,
)
from gsr_core.curation.tables import (
    describe_flags,
    describe_rows,
    encode_table,
    export_flags,
    export_table,
)
from gsr_core.data.bundle import MIN_GROUP_SIZE, open_bundle
from gsr_core.errors import GsrError, SettingError
from gsr_core.metrics import wilson_interval
from gsr_core.runs.samples import sample_table
from gsr_core.workspace import Workspace

ROWS = np.array([7, 3, 3, 199, 0])


@pytest.fixture
def bundle(workspace):
    return open_bundle(workspace, "tiny")


@pytest.fixture
def other(workspace, write):
    """A bundle of as many rows, with other content."""
    return write(workspace, "other", seed=1)


# Sets of samples -----------------------------------------------------------------------------


@given(rows=st.lists(st.integers(0, 10**6), max_size=20))
@hypothesis_settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_set_comes_back_by_a_key_made_of_its_content_and_the_bundles(
    workspace, bundle, other, rows
):
    key = save_slice(workspace, bundle, np.array(rows, dtype=np.int64))
    assert re.fullmatch("[0-9a-f]{12}", key)
    assert load_slice(workspace, bundle, key).tolist() == sorted(set(rows))
    assert save_slice(workspace, bundle, np.array(rows[::-1] * 2, dtype=np.int64)) == key
    assert save_slice(workspace, bundle, np.array([*rows, 10**7], dtype=np.int64)) != key
    assert load_slice(workspace, other, key) is None
    assert save_slice(workspace, other, np.array(rows, dtype=np.int64)) != key


@pytest.mark.parametrize("key", ["", "flagged", "0" * 12, "../../etc/passwd", "ABCDEF123456"])
def test_a_key_of_nothing_leads_nowhere(workspace, bundle, key):
    assert load_slice(workspace, bundle, key) is None


def test_what_is_no_array_is_not_unpickled(workspace, bundle, tmp_path):
    key = save_slice(workspace, bundle, ROWS)
    touched = tmp_path / "touched"

    class Bomb:
        def __reduce__(self):
            return touched.touch, ()

    with (workspace.slices / f"{key}.npy").open("wb") as file:
        np.save(file, np.array([Bomb()], dtype=object), allow_pickle=True)
    assert load_slice(workspace, bundle, key) is None
    assert not touched.exists()
    (workspace.slices / f"{key}.npy").write_bytes(b"")
    assert load_slice(workspace, bundle, key) is None


# Names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cluster 3", "мы, 二つ目 🙂", "a/b\\c: *?", "x" * 60, "می‌خواهم"])
def test_a_named_slice_comes_back(workspace, bundle, name):
    made = name_slice(workspace, bundle, f"  {name} ", ROWS, "cluster 3\n of  GraSP")
    assert (made.name, made.about) == (name, "cluster 3 of GraSP")
    assert made.rows.tolist() == [0, 3, 7, 199]
    (found,) = list_slices(Workspace(workspace.root), bundle)
    assert found == made
    assert found.rows.tolist() == made.rows.tolist()
    assert load_slice(workspace, bundle, made.key).tolist() == made.rows.tolist()
    assert find_slice(workspace, bundle, name) == made


def test_one_name_has_one_spelling(workspace, bundle):
    name_slice(workspace, bundle, "caf\u00e9", ROWS)
    with pytest.raises(SettingError, match="exists already"):
        name_slice(workspace, bundle, "cafe\u0301", ROWS)
    assert find_slice(workspace, bundle, "cafe\u0301").name == "caf\u00e9"


@pytest.mark.parametrize(
    "name", ["", "   ", "\u200b", "x" * 61, "two\nlines", "bell\a", "\ud800", "a\u2028b"]
)
def test_a_bad_name_is_refused_and_changes_nothing(workspace, bundle, contents, name):
    name_slice(workspace, bundle, "good", ROWS)
    before = contents(workspace.root)
    with pytest.raises(SettingError, match="use 1 to 60 on one line"):
        name_slice(workspace, bundle, name, ROWS)
    with pytest.raises(SettingError, match="use 1 to 60 on one line"):
        rename_slice(workspace, bundle, "good", name)
    assert contents(workspace.root) == before


def test_a_taken_name_leads_to_a_free_one(workspace, bundle):
    for name in ("a", "a 2", "x" * 60):
        name_slice(workspace, bundle, name, ROWS)
    for taken, free in (("a", "a 3"), ("x" * 60, "x" * 58 + " 2")):
        with pytest.raises(SettingError, match=f"choose another name, as '{free}'"):
            name_slice(workspace, bundle, taken, ROWS)
        name_slice(workspace, bundle, free, ROWS)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "has no sample"),
        ([200], "row 200 is not in bundle 'tiny'; its rows are 0 to 199"),
        ([-1], "row -1 is not"),
        ([0.5], "rows are float64"),
        ([True, False], "rows are bool"),
        ([[1], [2]], "of shape"),
    ],
)
def test_rows_that_are_no_positions_are_refused(workspace, bundle, rows, said):
    with pytest.raises(SettingError, match=said):
        name_slice(workspace, bundle, "bad", np.array(rows))
    assert list_slices(workspace, bundle) == []


def test_slices_are_listed_as_they_came_and_can_be_renamed_and_deleted(workspace, bundle):
    for name in "cab":
        name_slice(workspace, bundle, name, ROWS // (1 + (name == "b")))
    key = find_slice(workspace, bundle, "a").key
    renamed = rename_slice(workspace, bundle, "a", "z")
    assert (renamed.name, renamed.key) == ("z", key)
    assert rename_slice(workspace, bundle, "z", "z") == renamed
    assert [each.name for each in list_slices(workspace, bundle)] == ["c", "z", "b"]
    with pytest.raises(SettingError, match="'z' exists already"):
        rename_slice(workspace, bundle, "b", "z")
    delete_slice(workspace, bundle, "z")
    assert [each.name for each in list_slices(workspace, bundle)] == ["c", "b"]
    # An address that has the key still leads to the samples.
    assert load_slice(workspace, bundle, key) is not None


def test_a_slice_that_is_not_there_is_named_with_the_nearest(workspace, bundle):
    name_slice(workspace, bundle, "cluster 3", ROWS)
    for act in (
        lambda: find_slice(workspace, bundle, "cluster 4"),
        lambda: delete_slice(workspace, bundle, "cluster 4"),
        lambda: rename_slice(workspace, bundle, "cluster 4", "x"),
    ):
        with pytest.raises(SettingError, match=r"no slice 'cluster 4' \(did you mean 'cluster 3'"):
            act()


def test_another_bundles_content_has_slices_and_flags_of_its_own(
    workspace, bundle, other, write, monkeypatch
):
    name_slice(workspace, bundle, "mine", ROWS)
    flag_rows(workspace, bundle, ROWS, "odd")
    assert list_slices(workspace, other) == []
    assert flagged(workspace, other).empty
    name_slice(workspace, other, "mine", ROWS // 2)
    assert find_slice(workspace, bundle, "mine").rows.tolist() == [0, 3, 7, 199]
    # The same name with other content is another bundle, and content that comes back is the same.
    changed = write(workspace, "tiny", seed=2, overwrite=True)
    assert list_slices(workspace, changed) == []
    again = write(workspace, "tiny", overwrite=True)
    assert [each.name for each in list_slices(workspace, again)] == ["mine"]
    assert len(flagged(workspace, again)) == 4


def test_a_name_whose_samples_are_lost_is_free_again(workspace, bundle):
    lost = name_slice(workspace, bundle, "lost", ROWS)
    name_slice(workspace, bundle, "kept", ROWS // 2)
    (workspace.slices / f"{lost.key}.npy").unlink()
    assert [each.name for each in list_slices(workspace, bundle)] == ["kept"]
    name_slice(workspace, bundle, "lost", ROWS)
    assert [each.name for each in list_slices(workspace, bundle)] == ["kept", "lost"]


@pytest.mark.parametrize("content", ["", "{", '{"format": 1}', '{"format": 2, "slices": []}'])
def test_a_list_that_cannot_be_read_is_a_sentence_and_stays(workspace, bundle, content):
    name_slice(workspace, bundle, "a", ROWS)
    file = workspace.slices / f"{bundle.manifest.digest}.json"
    file.write_text(content)
    for act in (
        lambda: list_slices(workspace, bundle),
        lambda: name_slice(workspace, bundle, "b", ROWS),
    ):
        with pytest.raises(GsrError, match=r"restore it or remove it|reads format 1"):
            act()
    assert file.read_text() == content


def _name_many(root, who, queue):
    workspace = Workspace(root)
    bundle = open_bundle(workspace, "tiny")
    queue.put(who)
    for number in range(10):
        name_slice(workspace, bundle, f"{who} {number}", np.array([number]))
        flag_rows(workspace, bundle, np.array([number]), who)
        try:
            name_slice(workspace, bundle, f"both {number}", np.array([number]))
            queue.put(number)
        except SettingError:
            pass


def test_processes_that_name_and_flag_at_once_lose_nothing(workspace, bundle):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    other = context.Process(target=_name_many, args=(workspace.root, "a", queue))
    other.start()
    assert queue.get(timeout=120) == "a"
    _name_many(workspace.root, "b", queue)
    said = [queue.get(timeout=120) for _ in range(11)]
    other.join(timeout=120)
    assert other.exitcode == 0
    # Each shared name was given once, by whoever came first.
    assert sorted(map(str, said)) == sorted(["b", *map(str, range(10))])
    names = [each.name for each in list_slices(workspace, bundle)]
    assert sorted(names) == sorted(f"{who} {k}" for who in ("a", "b", "both") for k in range(10))
    flags = flagged(workspace, bundle)
    assert [set(reason.split("; ")) for reason in flags["reason"]] == [{"a", "b"}] * 10


# Flags ---------------------------------------------------------------------------------------


def test_reasons_accumulate_in_one_entry_a_sample(workspace, bundle):
    assert list(flagged(workspace, bundle)) == [
        "row",
        "reason",
        "note",
        "proposed_label",
        "created",
    ]
    flag_rows(workspace, bundle, np.array([5, 1, 5]), "GraSP outlier")
    first = flagged(workspace, bundle).set_index("row")
    flag_rows(workspace, bundle, np.array([9, 5]), " isolated  gradient;GraSP outlier ")
    table = flagged(workspace, bundle).set_index("row")
    assert table["reason"].to_dict() == {
        1: "GraSP outlier",
        5: "GraSP outlier; isolated gradient",
        9: "isolated gradient; GraSP outlier",
    }
    pd.testing.assert_series_equal(table.loc[[1, 5], "created"], first["created"])
    assert (table[["note", "proposed_label"]] == "").to_numpy().all()


def test_what_was_said_of_a_flag_stays_until_it_is_said_anew(workspace, bundle):
    flag_rows(workspace, bundle, np.array([4]), "a", note="looks like\na dog", proposed_label="dog")
    flag_rows(workspace, bundle, np.array([4]), "b")
    (row,) = flagged(workspace, bundle).to_dict("records")
    assert (row["reason"], row["note"], row["proposed_label"]) == (
        "a; b",
        "looks like a dog",
        "dog",
    )
    flag_rows(workspace, bundle, np.array([4]), "a; b", note="", proposed_label="")
    (row,) = flagged(workspace, bundle).to_dict("records")
    assert (row["reason"], row["note"], row["proposed_label"]) == ("a; b", "", "")


def test_a_flag_taken_back_is_gone(workspace, bundle):
    flag_rows(workspace, bundle, np.array([1, 2, 3]), "a", note="n")
    unflag_rows(workspace, bundle, np.array([2, 7]))
    assert flagged(workspace, bundle)["row"].tolist() == [1, 3]
    flag_rows(workspace, bundle, np.array([2]), "b")
    assert flagged(workspace, bundle)["reason"].tolist() == ["a", "b", "a"]
    assert flagged(workspace, bundle)["note"].tolist() == ["n", "", "n"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"reason": " ; "}, "say why"),
        ({"reason": "odd \udcff"}, r"^reason 'odd \\udcff' is no text"),
        ({"note": "\ud83d"}, r"^note '\\ud83d' is no text"),
        ({"proposed_label": "dgo"}, r"\(did you mean 'dog'\?\); the classes are cat, dog"),
        ({"rows": np.array([200])}, "row 200 is not"),
    ],
)
def test_a_bad_flag_is_refused_and_changes_nothing(workspace, bundle, arguments, said):
    with pytest.raises(SettingError, match=said):
        flag_rows(workspace, bundle, **{"rows": ROWS, "reason": "odd", **arguments})
    assert flagged(workspace, bundle).empty


def test_flags_that_cannot_be_read_are_a_sentence_and_stay(workspace, bundle):
    flag_rows(workspace, bundle, ROWS, "a")
    file = workspace.flags / f"{bundle.manifest.digest}.parquet"
    for content in (b"", b"nonsense", encode_table(pd.DataFrame({"x": [1]}), ".parquet")):
        file.write_bytes(content)
        with pytest.raises(GsrError, match="is not a list of flags"):
            flag_rows(workspace, bundle, ROWS, "b")
        assert file.read_bytes() == content


# Taking them home ----------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".CSV"])
def test_an_exported_slice_is_what_the_bundle_says_of_its_samples(
    workspace, bundle, tmp_path, ending
):
    one = name_slice(workspace, bundle, 'ünusual, "odd"', ROWS)
    file = tmp_path / "new" / f"slice{ending}"
    export_table(bundle, one.rows, file, slice=one.name)
    read = pd.read_parquet if ending == ".parquet" else pd.read_csv
    table = read(file)

    rows = bundle.samples.iloc[one.rows]
    assert table["row"].tolist() == one.rows.tolist()
    for column in ("sample_id", "split", "colour"):
        assert table[column].tolist() == rows[column].tolist()
    assert table["class"].tolist() == rows["y"].map({0: "cat", 1: "dog"}).tolist()
    assert table["group"].tolist() == (table["class"] + ", " + rows["colour"].to_numpy()).tolist()
    assert set(table["slice"]) == {one.name}


def test_the_order_of_rows_is_kept_and_columns_go_by_place(bundle):
    given = pd.Series(["a", "b", "c"], index=[9, 8, 7])
    table = describe_rows(bundle, np.array([5, 2, 9]), why=given)
    assert table["row"].tolist() == [5, 2, 9]
    assert table["why"].tolist() == ["a", "b", "c"]
    assert describe_rows(bundle, np.zeros(0)).empty


def test_an_attribute_called_like_our_column_gives_way(workspace, bundle, write):
    samples = bundle.samples.rename(columns={"colour": "slice"})
    named = write(workspace, "named", samples=samples)
    table = describe_rows(named, np.array([0, 1]), slice="mine")
    assert table["slice"].tolist() == ["mine", "mine"]
    assert table["attribute: slice"].tolist() == samples["slice"].iloc[:2].tolist()


def test_exported_flags_have_what_was_said(workspace, bundle, tmp_path):
    flag_rows(workspace, bundle, np.array([3]), "odd", note="see", proposed_label="dog")
    flag_rows(workspace, bundle, np.array([150]), "far")
    assert export_flags(workspace, bundle, tmp_path / "flags.parquet") == 2
    table = pd.read_parquet(tmp_path / "flags.parquet")
    pd.testing.assert_frame_equal(table, describe_flags(workspace, bundle))
    assert table["sample_id"].tolist() == ["s3", "s150"]
    assert table["reason"].tolist() == ["odd", "far"]
    assert table["proposed_label"].tolist() == ["dog", ""]


def test_a_file_that_exists_or_has_another_ending_is_refused(bundle, tmp_path):
    (tmp_path / "there.csv").write_text("mine")
    with pytest.raises(SettingError, match=r"there.csv exists already"):
        export_table(bundle, ROWS, tmp_path / "there.csv")
    assert (tmp_path / "there.csv").read_text() == "mine"
    with pytest.raises(SettingError, match=r"ends in '.xlsx'; a table is written as .csv or"):
        export_table(bundle, ROWS, tmp_path / "new.xlsx")
    with pytest.raises(SettingError, match="row 200"):
        export_table(bundle, np.array([200]), tmp_path / "new.csv")
    assert [file.name for file in tmp_path.iterdir() if file.suffix != ""] == ["there.csv"]


def test_both_kinds_of_file_hold_the_same_table(bundle):
    table = describe_rows(bundle, np.arange(20))
    from_csv = pd.read_csv(io.BytesIO(encode_table(table, ".csv")))
    from_parquet = pd.read_parquet(io.BytesIO(encode_table(table, ".parquet")))
    pd.testing.assert_frame_equal(from_csv, from_parquet, check_dtype=False)


# How good a head is on them ------------------------------------------------------------------


def slice_of(name: str, rows) -> Slice:
    return Slice(name, name, np.asarray(rows), "", "")


def test_the_accuracy_of_a_slice_is_counted_among_the_samples_of_the_split(bundle, done):
    run = done("erm")
    test = bundle.rows_of["test"]
    table = sample_table(run, "test")
    few, many = test[: MIN_GROUP_SIZE - 1], test[::2]
    best = table.loc[table["correct"], "row"].to_numpy()
    found = slice_accuracy(
        bundle,
        table,
        [
            slice_of("many", [*many, *bundle.rows_of["train"]]),
            slice_of("few", few),
            slice_of("elsewhere", bundle.rows_of["val"]),
            slice_of("right", best),
        ],
    ).set_index("slice")

    weight, bias = run.head()
    prediction = (np.asarray(bundle.features) @ weight.T + bias).argmax(axis=1)
    for name, rows in (("many", many), ("few", few), ("right", best)):
        right = prediction[rows] == bundle.y[rows]
        row = found.loc[name]
        assert (row["n"], row["wrong"]) == (len(rows), (~right).sum())
        assert row["accuracy"] == right.mean()
        assert (row["low"], row["high"]) == pytest.approx(wilson_interval(right.mean(), len(rows)))
        shares = bundle.samples.iloc[rows].groupby(["y", "colour"]).size() / len(rows)
        assert row["purity"] == shares.max()
        y, colour = shares.idxmax()
        if (shares == shares.max()).sum() == 1:
            assert row["group"] == f"{['cat', 'dog'][y]}, {colour}"
    assert found["enough"].to_dict() == {
        "many": True,
        "few": False,
        "elsewhere": False,
        "right": len(best) >= MIN_GROUP_SIZE,
    }
    # `few` may be worse, but is too small to say so.
    assert found["worst"].to_dict() == {
        "many": True,
        "few": False,
        "elsewhere": False,
        "right": False,
    }
    assert found.loc["elsewhere", "n"] == 0
    assert np.isnan(found.loc["elsewhere", ["accuracy", "low", "purity"]].astype(float)).all()


def test_without_slices_or_enough_samples_none_is_the_worst(bundle, done):
    table = sample_table(done("erm"), "test")
    assert slice_accuracy(bundle, table, []).empty
    found = slice_accuracy(bundle, table, [slice_of("one", bundle.rows_of["test"][:1])])
    assert not found["worst"].any()


def test_samples_in_no_group_have_no_majority(workspace, bundle, write, done):
    membership = bundle.membership.copy()
    lonely = bundle.rows_of["test"][:5]
    membership[lonely] = False
    loose = write(workspace, "loose", membership=membership)
    table = sample_table(done("erm"), "test")
    (row,) = slice_accuracy(loose, table, [slice_of("lonely", lonely)]).to_dict("records")
    assert (row["group"], row["purity"], row["n"]) == ("", 0.0, 5)


def test_a_redrawn_split_is_met_where_the_run_drew_it(bundle, done):
    """A slice on val has other samples under another seed."""
    val = slice_of("val", bundle.rows_of["val"])
    counts = {}
    for seed in (0, 1):
        run = done("erm", seed=seed)
        (row,) = accuracies_on(run, "val", [val], bundle).to_dict("records")
        rows = np.intersect1d(run.rows_of("val", bundle), val.rows)
        table = sample_table(run, "val").set_index("row").loc[rows]
        assert (row["count"], row["accuracy"]) == (len(rows), table["correct"].mean())
        counts[seed] = row["count"]
    assert counts[1] < counts[0] == len(val.rows)


def test_scores_of_entries_are_those_of_their_runs(bundle, done):
    runs = [done("erm"), done("gsr"), done("gsr", seed=1)]
    slices = [slice_of("a", bundle.rows_of["test"][:9]), slice_of("b", bundle.rows_of["train"])]
    table = slice_scores(entries(runs), slices, bundle)
    assert len(table) == len(runs) * len(slices)
    for run in runs:
        samples = sample_table(run, "test").set_index("row")
        mine = table[table["run"] == run.run_id].set_index("slice")
        assert set(mine["seed"]) == {run.config.seed}
        assert mine.loc["a", "accuracy"] == samples.loc[slices[0].rows, "correct"].mean()
        assert mine["count"].to_dict() == {"a": 9, "b": 0}
        assert np.isnan(mine.loc["b", "accuracy"])


def test_the_list_of_names_is_plain_json(workspace, bundle):
    made = name_slice(workspace, bundle, "é🙂", ROWS, "lasso")
    file = workspace.slices / f"{bundle.manifest.digest}.json"
    assert json.loads(file.read_text(encoding="utf-8")) == {
        "format": 1,
        "slices": [
            {"name": "é🙂", "key": made.key, "about": "lasso", "created": made.created},
        ],
    }
