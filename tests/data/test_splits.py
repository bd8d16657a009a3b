import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsr_core.data.source import SplitRule
from gsr_core.data.splits import make_splits, stratified_share
from gsr_core.errors import SourceError


def splits(column_words, *, strata=None, labelled=None, **rule):
    column = pd.Series(column_words, name="partition")
    n = len(column)
    strata = np.zeros(n, int) if strata is None else np.asarray(strata)
    labelled = np.ones(n, bool) if labelled is None else np.asarray(labelled)
    return make_splits(column, strata, labelled, SplitRule(column="partition", **rule))


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=80),
    st.floats(0.01, 0.99),
    st.integers(0, 5),
)
def test_a_share_is_that_of_every_stratum(strata, share, seed):
    strata = np.array(strata)
    chosen = stratified_share(strata, share, np.random.default_rng(seed))
    for stratum in np.unique(strata):
        inside = chosen[strata == stratum]
        assert abs(inside.sum() - share * len(inside)) <= 1
        if len(inside) > 1:
            assert 0 < inside.sum() < len(inside)


def test_words_and_numbers_mean_what_they_usually_mean():
    for words in (
        ["train"] * 20 + ["valid"] * 4 + ["test"] * 3,
        ["Training"] * 20 + ["dev"] * 4 + ["TEST"] * 3,
        [0] * 20 + [1] * 4 + [2] * 3,
        [0.0] * 20 + [1.0] * 4 + [2.0] * 3,
    ):
        split, _ = splits(words)
        assert pd.Series(split).value_counts().to_dict() == {
            "train": 18,
            "heldout": 2,
            "target": 2,
            "val": 2,
            "test": 3,
        }


def test_the_bundles_own_words_stay():
    words = ["train", "heldout", "target", "val", "test"] * 3
    split, notes = splits(words)
    assert split.tolist() == words
    assert not notes


@pytest.mark.parametrize("word", ["val", "target"])
def test_one_half_alone_stands_for_both(word):
    split, _ = splits(["train"] * 10 + [word] * 6 + ["test"])
    assert (split == "target").sum() == (split == "val").sum() == 3


def test_validation_beside_target_is_val():
    split, _ = splits(["train"] * 10 + ["target"] * 2 + ["validation"] * 3 + ["test"])
    assert split[10:15].tolist() == ["target"] * 2 + ["val"] * 3


def test_a_word_can_be_given_a_meaning_or_be_left_out():
    split, _ = splits(
        ["A"] * 10 + ["B"] * 4 + ["C"] * 2 + ["D"],
        words={"A": "train", "B": "validation", "c": "test", "D": "none"},
    )
    assert (split == "test").sum() == 2
    assert split[-1] == "none"
    with pytest.raises(SourceError, match=r"'partition' has the split 'b' in row 1.*--split-word"):
        splits(["train", "B", "test"])


def test_halves_are_stratified_and_every_seed_draws_anew():
    strata = np.repeat([0, 1, 2], [60, 20, 4])
    words = ["validation"] * 84 + ["train"] * 10 + ["test"]
    every = np.concatenate([strata, np.zeros(11, int)])
    first, _ = splits(words, strata=every)
    target = first[:84] == "target"
    assert [target[strata == s].sum() for s in range(3)] == [30, 10, 2]
    again, _ = splits(words, strata=every)
    assert (first == again).all()
    other, _ = splits(words, strata=every, seed=1)
    assert (first != other).any()


def test_splits_are_drawn_where_the_file_has_none():
    strata = np.repeat([0, 1], [900, 100])
    split, notes = make_splits(None, strata, np.ones(1000, bool), SplitRule())
    for stratum, n in ((0, 900), (1, 100)):
        inside = pd.Series(split[strata == stratum]).value_counts(normalize=True)
        expected = {"train": 0.54, "heldout": 0.06, "target": 0.1, "val": 0.1, "test": 0.2}
        assert all(abs(inside[name] - share) < 2 / n for name, share in expected.items())
    assert any("drawn" in note for note in notes)


def test_rows_of_unknown_group_only_train():
    labelled = np.arange(200) % 2 == 0
    split, _ = make_splits(None, np.zeros(200, int), labelled, SplitRule())
    assert set(split[~labelled]) <= {"train", "heldout"}
    words = ["train"] * 100 + ["val"] * 50 + ["test"] * 50
    split, notes = splits(words, labelled=labelled)
    assert (split[100:][~labelled[100:]] == "none").all()
    assert any(note.startswith("50 validation or test rows were left out") for note in notes)


def test_validation_is_taken_from_train_where_there_is_none():
    split, notes = splits(["train"] * 100 + ["test"] * 10)
    assert (split == "target").sum() == (split == "val").sum() == 10
    assert any("no validation rows" in note for note in notes)


def test_the_held_out_share_runs_from_nothing_to_everything():
    words = ["train"] * 10 + ["val"] * 4 + ["test"]
    assert "heldout" not in splits(words, heldout=0)[0]
    assert "train" not in splits(words, heldout=1)[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["val", "test"], "no train rows"),
        (["train", "val"], "no test rows"),
        (["train", None, "test"], "the split '(none|nan)' in row 1|no validation"),
    ],
)
def test_what_is_missing_is_named(words, message):
    with pytest.raises(SourceError, match=message):
        splits(words)


def test_shares_must_leave_something_for_test():
    with pytest.raises(SourceError, match="leave nothing for test"):
        make_splits(None, np.zeros(9, int), np.ones(9, bool), SplitRule(train=0.9, validation=0.1))
