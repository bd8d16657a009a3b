"""From a queue to answers, to files, and to a bundle that has them."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from scipy.stats import entropy

from gsr_core.comparing.mcnemar import mcnemar
from gsr_core.data.bundle import open_bundle
from gsr_core.data.groups import Group
from gsr_core.errors import BundleError, GsrError, SettingError
from gsr_core.labelling.answers import (
    add_answers,
    answer_row,
    answers,
    choices,
    undo_answer,
    unlabelled,
)
from gsr_core.labelling.bundles import answered, hide_groups, labelled_bundle
from gsr_core.labelling.power import POINTS, label_progress, rows_to_tell
from gsr_core.labelling.queue import group_probabilities, label_queue, left_to_label
from gsr_core.labelling.tables import export_answers, import_answers
from gsr_core.runs.execute import run as compute

NAMES = ["cat, red", "cat, green", "dog, red", "dog, green"]


@pytest.fixture
def hidden(workspace, write):
    """The tiny bundle with groups that say of which class they are, without those of train rows."""
    groups = [
        Group(name=name, definition=f"class = {name.replace(',', ' and colour =')}")
        for name in NAMES
    ]
    write(workspace, "whole", groups=groups)
    return hide_groups(workspace, open_bundle(workspace, "whole"), "hidden", keep=3)


def truth(workspace, bundle, rows) -> list[str]:
    """Return the true groups of rows of a bundle that hides them, by their ids."""
    whole = open_bundle(workspace, "whole")
    known = dict(zip(whole.samples["sample_id"], whole.group_labels, strict=True))
    return [known[bundle.samples["sample_id"].iloc[row]] for row in rows]


def held(workspace, bundle) -> dict[int, str]:
    table = answers(workspace, bundle)
    return dict(zip(table["row"], table["answer"], strict=True))


# Hiding ----------------------------------------------------------------------------------------


def test_what_is_hidden_cannot_be_read_anywhere(workspace, hidden):
    whole = open_bundle(workspace, "whole")
    weighted = np.concatenate([hidden.rows_of["train"], hidden.rows_of["heldout"]])
    np.testing.assert_array_equal(unlabelled(hidden), np.sort(weighted))
    for split in ("val", "test"):
        ours, theirs = hidden.rows_of[split], whole.rows_of[split]
        np.testing.assert_array_equal(hidden.membership[ours], whole.membership[theirs])
    assert hidden.membership[hidden.rows_of["target"]].sum(axis=0).tolist() == [3, 3, 3, 3]
    assert hidden.samples["colour"].isna()[weighted].all()
    assert hidden.columns() is None


# Answers ---------------------------------------------------------------------------------------


def test_answers_offered_are_the_groups_of_the_class_where_groups_have_one(workspace, hidden):
    assert choices(hidden, 0) == NAMES[:2]
    assert choices(hidden, 1) == NAMES[2:]
    # Groups that do not say of which class they are could be anybody's.
    assert choices(open_bundle(workspace, "tiny"), 0) == NAMES


def test_overlapping_groups_are_answered_by_the_combinations_that_occur(workspace, write):
    whole = open_bundle(workspace, "tiny")
    member = whole.membership[:, [0, 1]] | whole.membership[:, [2, 1]]
    member[whole.rows_of["heldout"]] = False
    member[whole.rows_of["train"]] = False
    groups = [Group(name=name, definition=name) for name in ("a", "b")]
    bundle = write(workspace, "overlap", membership=member, groups=groups)
    assert choices(bundle, 0) == ["a + b", "a", "b"][-len(choices(bundle, 0)) :]
    row = int(bundle.rows_of["heldout"][0])
    answer_row(workspace, bundle, row, "b", by="Ada")
    made = labelled_bundle(workspace, bundle, "overlap-labelled")
    assert made.membership[row].tolist() == [False, True]


def test_the_last_answer_holds_and_undo_brings_back_what_was_before(workspace, hidden):
    one, two = map(int, hidden.rows_of["heldout"][:2])
    of = {row: choices(hidden, int(hidden.y[row])) for row in (one, two)}
    answer_row(workspace, hidden, one, of[one][0], by="Ada")
    answer_row(workspace, hidden, two, "", by="Ada")
    answer_row(workspace, hidden, one, of[one][1], by="Ben")
    assert held(workspace, hidden) == {two: "", one: of[one][1]}
    # Ada takes back her own: the skip, then her first answer, which did not hold any more.
    assert undo_answer(workspace, hidden, by="Ada") == two
    assert undo_answer(workspace, hidden, by="Ben") == one
    assert held(workspace, hidden) == {one: of[one][0]}
    assert undo_answer(workspace, hidden, by="Ada") == one
    assert undo_answer(workspace, hidden, by="Ada") is None
    assert held(workspace, hidden) == {}
    # What was done is still there to be read.
    (file,) = workspace.labels.glob("*.jsonl")
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    assert [each["number"] for each in entries] == [1, 2, 3, 4, 5, 6]
    assert [each["takes_back"] for each in entries] == [0, 0, 0, 2, 3, 1]
    assert {each["by"] for each in entries} == {"Ada", "Ben"}


def test_two_tabs_at_once_lose_nothing(workspace, hidden):
    rows = hidden.rows_of["heldout"][:24]

    def give(row: int) -> None:
        answer_row(
            workspace, hidden, row, choices(hidden, int(hidden.y[row]))[0], by=f"tab {row % 3}"
        )

    with ThreadPoolExecutor(3) as tabs:
        list(tabs.map(give, map(int, rows)))
    table = answers(workspace, hidden)
    assert sorted(table["row"]) == rows.tolist()
    assert set(table["by"]) == {"tab 0", "tab 1", "tab 2"}


def test_a_line_that_was_not_written_to_its_end_costs_only_itself(workspace, hidden):
    one, two = map(int, hidden.rows_of["heldout"][:2])
    answer_row(workspace, hidden, one, "", by="Ada")
    (file,) = workspace.labels.glob("*.jsonl")
    with file.open("ab") as opened:
        opened.write(b'{"number": 2, "sample_')
    assert held(workspace, hidden) == {one: ""}
    answer_row(workspace, hidden, two, "", by="Ada")
    assert held(workspace, hidden) == {one: "", two: ""}
    file.write_text("not a line\n" + file.read_text())
    with pytest.raises(GsrError, match="is not a file of answers; restore it"):
        answers(workspace, hidden)


@pytest.mark.parametrize(
    ("row", "answer", "by", "sentence"),
    [
        ("heldout", "cat, blue", "Ada", r"'cat, blue' cannot be .* allowed are cat, red; cat, gr"),
        ("heldout", "dog, red", "Ada", "cannot be the answer of sample '.*' of class 'cat'"),
        ("target", "cat, red", "Ada", "is in the group 'cat, .*' of bundle 'hidden' already"),
        ("heldout", "cat, red", "A" * 61, "has 61 characters; give it 1 to 60"),
    ],
)
def test_what_cannot_be_an_answer_is_refused_and_nothing_is_kept(
    workspace, hidden, row, answer, by, sentence
):
    rows = hidden.rows_of[row]
    cat = int(rows[hidden.y[rows] == 0][0])
    with pytest.raises(SettingError, match=sentence):
        add_answers(workspace, hidden, np.array([cat, cat]), ["cat, red", answer], by=by)
    assert held(workspace, hidden) == {}


# The queue -------------------------------------------------------------------------------------


@pytest.fixture
def ranked(workspace, hidden):
    """A run of GSR on what is hidden."""
    return compute(workspace, "hidden", "gsr", device="cpu", steps=4)


def test_the_score_is_influence_times_uncertainty_and_clusters_take_turns(
    workspace, hidden, ranked
):
    queue = label_queue(workspace, hidden, order="influence", run=ranked, count=30)
    rows = queue["row"].to_numpy()
    assert set(rows) <= set(hidden.rows_of["heldout"])
    assert len(set(rows)) == 30
    place = {row: index for index, row in enumerate(ranked.weights()["row"])}
    strongest = [np.abs(ranked.influence()[place[row]]).max() for row in rows]
    np.testing.assert_allclose(queue["influence"], strongest)
    _, p, _ = group_probabilities(workspace, hidden, rows)
    np.testing.assert_allclose(queue["uncertainty"], entropy(p, axis=1))
    np.testing.assert_allclose(queue["score"], queue["influence"] * queue["uncertainty"])
    # Each cluster comes once before any comes twice, and within a turn by score.
    turn = queue.groupby("cluster").cumcount()
    assert turn.is_monotonic_increasing
    for _, each in queue.groupby(turn):
        assert each["score"].is_monotonic_decreasing
    # What is answered or skipped is not asked again; the rest is ranked by the same rule.
    answer_row(workspace, hidden, int(rows[0]), "")
    again = label_queue(workspace, hidden, order="influence", run=ranked, count=30)
    assert rows[0] not in again["row"].to_numpy()
    pd.testing.assert_frame_equal(
        again, label_queue(workspace, hidden, order="influence", run=ranked, count=30)
    )


def test_probabilities_are_of_the_class_and_surer_the_more_is_known(workspace, hidden):
    rows = hidden.rows_of["heldout"]
    names, before, known = group_probabilities(workspace, hidden, rows[10:])
    assert names == NAMES
    assert known.tolist() == [3, 3, 3, 3]
    np.testing.assert_allclose(before.sum(axis=1), 1)
    of = hidden.y[rows[10:]]
    assert not before[of == 0, 2:].any()
    assert not before[of == 1, :2].any()
    given = truth(workspace, hidden, rows[:10])
    add_answers(workspace, hidden, rows[:10], given)
    _, after, known = group_probabilities(workspace, hidden, rows[10:])
    assert known.tolist() == [3 + given.count(name) for name in NAMES]
    assert entropy(after, axis=1).mean() < entropy(before, axis=1).mean()


def test_turns_go_to_the_group_with_fewest_labels_and_rows_that_are_likely_in_it(workspace, hidden):
    # Of one group more is known already than of the others.
    heldout = hidden.rows_of["heldout"]
    given = truth(workspace, hidden, heldout)
    mine = [place for place, name in enumerate(given) if name == NAMES[0]][:4]
    add_answers(workspace, hidden, heldout[mine], [NAMES[0]] * len(mine))
    queue = label_queue(workspace, hidden, order="balanced", count=12)
    turns = queue["likely"].tolist()
    first = 3 * len(mine)
    assert turns[:first] == (NAMES[1:] * len(mine))[: len(turns[:first])]
    _, p, _ = group_probabilities(workspace, hidden, queue["row"].to_numpy())
    np.testing.assert_allclose(
        queue["probability"], p[np.arange(len(queue)), [NAMES.index(name) for name in turns]]
    )
    # All come in the end, and the same again.
    every = label_queue(workspace, hidden, order="balanced", count=100)
    assert sorted(every["row"]) == sorted(set(heldout) - set(heldout[mine]))
    pd.testing.assert_frame_equal(
        every, label_queue(workspace, hidden, order="balanced", count=100)
    )


def test_a_random_order_is_not_changed_by_answers(workspace, hidden):
    first = label_queue(workspace, hidden, order="random", count=10, seed=1)
    assert set(first["row"]) <= set(hidden.rows_of["heldout"])
    answer_row(workspace, hidden, int(first["row"].iloc[0]), "")
    second = label_queue(workspace, hidden, order="random", count=9, seed=1)
    assert second["row"].tolist() == first["row"].tolist()[1:]
    assert len(left_to_label(workspace, hidden)) == 39


def test_a_run_that_cannot_rank_says_what_would(workspace, hidden):
    erm = compute(workspace, "hidden", "erm", device="cpu")
    with pytest.raises(SettingError, match=r"of erm has no influence .* \('gsr run hidden'\)"):
        label_queue(workspace, hidden, order="influence", run=erm)
    other = compute(workspace, "tiny", "gsr", device="cpu", steps=1)
    with pytest.raises(SettingError, match="is not of bundle 'hidden' as it is now"):
        label_queue(workspace, hidden, order="influence", run=other)


# Bundles ---------------------------------------------------------------------------------------


def test_answered_rows_move_to_target_and_methods_train_on_them(workspace, hidden):
    rows = hidden.rows_of["heldout"][:12]
    given = truth(workspace, hidden, rows)
    add_answers(workspace, hidden, rows[:10], given[:10], by="Ada", order="balanced")
    add_answers(workspace, hidden, rows[10:], ["", ""], by="Ada", order="balanced")
    made = labelled_bundle(workspace, hidden, "more")
    np.testing.assert_array_equal(
        made.rows_of["target"], np.sort([*hidden.rows_of["target"], *rows[:10]])
    )
    np.testing.assert_array_equal(made.rows_of["heldout"], hidden.rows_of["heldout"][10:])
    assert made.group_labels[rows[:10]].tolist() == given[:10]
    assert (made.path / "features.npy").samefile(hidden.path / "features.npy")
    for split in ("train", "val", "test"):
        np.testing.assert_array_equal(made.rows_of[split], hidden.rows_of[split])
    # Skips go along; answers are in the bundle itself.
    assert held(workspace, made) == {int(rows[10]): "", int(rows[11]): ""}
    run = compute(workspace, "more", "gsr", device="cpu", steps=1)
    np.testing.assert_array_equal(run.weighted_rows(), made.rows_of["heldout"])
    np.testing.assert_array_equal(run.rows_of("target"), made.rows_of["target"])


def test_test_takes_only_what_was_shown_in_random_order(workspace, hidden):
    rows = hidden.rows_of["heldout"][:4]
    given = truth(workspace, hidden, rows)
    add_answers(workspace, hidden, rows[:3], given[:3], order="balanced")
    with pytest.raises(SettingError, match="answered in random order, and a queue's rows are no"):
        labelled_bundle(workspace, hidden, "judged", split="test")
    add_answers(workspace, hidden, rows[3:], given[3:], order="random")
    assert answered(workspace, hidden, "test")["row"].tolist() == [rows[3]]
    made = labelled_bundle(workspace, hidden, "judged", split="test")
    np.testing.assert_array_equal(made.rows_of["test"], np.sort([*hidden.rows_of["test"], rows[3]]))
    # The others stay, and their groups are known.
    assert made.group_labels[rows[:3]].tolist() == given[:3]
    assert set(rows[:3]) <= set(made.rows_of["heldout"])


def test_a_bundle_that_cannot_be_made_leaves_nothing(workspace, hidden):
    with pytest.raises(SettingError, match="of bundle 'hidden' has an answer yet"):
        labelled_bundle(workspace, hidden, "more")
    rows = hidden.rows_of["heldout"]
    add_answers(workspace, hidden, rows, truth(workspace, hidden, rows))
    # Then no row is left to carry weights but those of train, which is another bundle.
    with pytest.raises(BundleError, match="'whole' exists already"):
        labelled_bundle(workspace, hidden, "whole")
    with pytest.raises(SettingError, match="keep is 0"):
        hide_groups(workspace, hidden, "none", keep=0)
    assert not (workspace.bundles / "more").exists()
    assert not (workspace.bundles / "none").exists()


# Files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_file_goes_out_is_filled_in_and_comes_back(workspace, hidden, tmp_path, ending):
    queue = label_queue(workspace, hidden, order="random", count=6)
    answer_row(workspace, hidden, int(queue["row"].iloc[0]), "", by="Ada", order="random")
    file = tmp_path / f"queue{ending}"
    assert export_answers(workspace, hidden, file, queue.iloc[1:]) == (1, 5)
    read, write = (
        (lambda: pd.read_csv(file, keep_default_na=False), "to_csv")
        if ending == ".csv"
        else (lambda: pd.read_parquet(file), "to_parquet")
    )
    table = read()
    rows = table["row"].to_numpy()
    table.loc[1:4, "answer"] = truth(workspace, hidden, rows[1:5])
    getattr(table, write)(file, index=False)
    assert import_answers(workspace, hidden, file, by="Eve") == 4
    assert held(workspace, hidden) == {
        int(rows[0]): "", **dict(zip(rows[1:5].tolist(), table["answer"][1:5], strict=True))
    }  # fmt: skip
    # Once more changes nothing, and into another workspace nobody's name is lost.
    assert import_answers(workspace, hidden, file) == 0
    before = answers(workspace, hidden)
    whole = tmp_path / f"all{ending}"
    export_answers(workspace, hidden, whole)
    for each in workspace.labels.glob("*.jsonl"):
        each.unlink()
    assert import_answers(workspace, hidden, whole) == 5
    pd.testing.assert_frame_equal(answers(workspace, hidden), before)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("sample_id,group\ns40,x\n", "has no column 'answer'"),
        ('sample_id,answer\nnobody,"cat, red"\n', "has sample 'nobody', which is not in bundle"),
        ('sample_id,answer\ns40,"cat, red"\ns40,"cat, green"\n', "has sample 's40' twice"),
        ('sample_id,answer\ns40,"cat, red"\ns41,blue\n', "'blue' cannot be the answer of"),
        ('sample_id,answer,at\ns40,"cat, red",noon\n', "the time of an answer is 'noon'"),
        ('sample_id,answer,order\ns40,"cat, red",best\n', "the order of an answer is 'best'"),
        ("", "is not a table that can be read"),
    ],
)
def test_a_wrong_file_is_refused_whole(workspace, hidden, tmp_path, content, sentence):
    file = tmp_path / "answers.csv"
    file.write_text(content)
    with pytest.raises(SettingError, match=sentence):
        import_answers(workspace, hidden, file)
    with pytest.raises(SettingError, match="there is no file"):
        import_answers(workspace, hidden, tmp_path / "none.csv")
    assert held(workspace, hidden) == {}


# How many more ---------------------------------------------------------------------------------


def test_so_many_rows_have_the_power_that_is_promised():
    for accuracy in (0.6, 0.9):
        n, other = int(rows_to_tell(accuracy)), accuracy + POINTS
        better, worse = other * (1 - accuracy), accuracy * (1 - other)
        rng = np.random.default_rng(0)
        changed = rng.binomial(n, better + worse, 4000)
        gained = rng.binomial(changed, better / (better + worse))
        power = (mcnemar(changed - gained, gained) < 0.05).mean()
        assert 0.77 < power < 0.83
    # Where nothing can be better by five points, a head that is worse by as many is told.
    assert rows_to_tell(0.98) == rows_to_tell(0.98 - POINTS)


def test_progress_counts_rows_and_answers_of_each_group(workspace, hidden):
    rows = hidden.rows_of["heldout"][:9]
    given = truth(workspace, hidden, rows)
    add_answers(workspace, hidden, rows[:5], given[:5], order="balanced")
    add_answers(workspace, hidden, rows[5:], given[5:], order="random")
    run = compute(workspace, "hidden", "llr", device="cpu")
    table = label_progress(workspace, hidden, run).set_index("group")
    head = run.head()
    assert head is not None
    weight, bias = head
    test = hidden.rows_of["test"]
    right = (hidden.features[test] @ weight.T + bias).argmax(axis=1) == hidden.y[test]
    for name in NAMES:
        mine = hidden.group_labels[test] == name
        assert table.loc[name, "answered"] == given.count(name)
        assert table.loc[name, "target"] == 3
        assert table.loc[name, "test"] == mine.sum()
        needed = rows_to_tell((right[mine].sum() + 1) / (mine.sum() + 2))
        assert table.loc[name, "needed"] == needed
        assert table.loc[name, "more"] == needed - mine.sum() - given[5:].count(name)
