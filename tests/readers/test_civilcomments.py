"""The fixture has the columns of `all_data_with_identities.csv` that WILDS reads, and its index."""

import numpy as np
import pandas as pd
import pytest

from gsr_core.data.dataset import define
from gsr_core.errors import SourceError
from gsr_core.readers.civilcomments import IDENTITIES, CivilComments
from gsr_core.readers.registry import make_reader

SPLITS = ("train", "val", "test")


def release(folder, n=240, seed=0):
    generator = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "id": generator.permutation(np.arange(5_000_000, 5_000_000 + n)),
            "comment_text": [f"Comment {i}, with a comma\nand a second line" for i in range(n)],
            "split": [SPLITS[i % 3] for i in range(n)],
            "created_date": "2016-07-15 23:48:39.236970+00",
            "toxicity": generator.choice([0.0, 0.4, 0.499, 0.5, 0.6, 1.0], n),
            "severe_toxicity": generator.random(n),
        }
    )
    for identity in IDENTITIES:
        table[identity] = generator.choice([0.0, 0.25, 0.49, 0.5, 0.75, 1.0], n)
    table["identity_any"] = table[list(IDENTITIES)].max(axis=1)
    folder.mkdir(parents=True)
    table.to_csv(folder / "all_data_with_identities.csv")
    (folder / "RELEASE_v1.0.txt").write_text("")
    return table


@pytest.fixture
def comments(tmp_path):
    return release(tmp_path / "civilcomments_v1.0"), tmp_path / "civilcomments_v1.0"


def test_sixteen_overlapping_groups_count_scores_from_one_half(comments):
    table, folder = comments

    dataset = define(CivilComments(path=str(folder)).read())

    assert dataset.classes == ["non-toxic", "toxic"]
    assert len(dataset.groups) == 16
    toxic = table["toxicity"] >= 0.5
    for label, name in enumerate(dataset.classes):
        for identity in IDENTITIES:
            g = [group.name for group in dataset.groups].index(f"{name}, {identity}")
            expected = (table[identity] >= 0.5) & (toxic == bool(label))
            np.testing.assert_array_equal(dataset.membership[:, g], expected)
    assert (dataset.membership.sum(axis=1) > 1).any()
    np.testing.assert_array_equal(dataset.samples["y"], toxic)


def test_comments_that_mention_nobody_are_kept(comments):
    table, folder = comments
    table.loc[table["split"] == "val", list(IDENTITIES)] = 0.0
    table.loc[3, list(IDENTITIES)] = 0.0
    table.to_csv(folder / "all_data_with_identities.csv")

    dataset = define(CivilComments(path=str(folder)).read())

    assert len(dataset) == len(table)
    assert not dataset.membership[3].any()


def test_ids_splits_and_texts_are_the_file_s(comments):
    table, folder = comments

    dataset = define(CivilComments(path=str(folder)).read())

    assert dataset.samples["sample_id"].tolist() == table["id"].map(str).tolist()
    assert dataset.inputs.load(17) == table["comment_text"][17]
    part = {"train": "train", "heldout": "train", "target": "val", "val": "val", "test": "test"}
    assert dataset.samples["split"].map(part).tolist() == table["split"].tolist()


def test_any_identity_makes_four_groups_that_do_not_overlap(comments):
    table, folder = comments
    table.loc[::3, [*IDENTITIES, "identity_any"]] = 0.1
    table.to_csv(folder / "all_data_with_identities.csv")

    dataset = define(make_reader("civilcomments", {"path": str(folder), "groups": "any"}).read())

    assert [group.name for group in dataset.groups] == [
        "non-toxic, no identity",
        "non-toxic, any identity",
        "toxic, no identity",
        "toxic, any identity",
    ]
    assert (dataset.membership.sum(axis=1) == 1).all()
    np.testing.assert_array_equal(
        dataset.membership[:, [1, 3]].any(axis=1), table["identity_any"] >= 0.5
    )


@pytest.mark.parametrize("place", [".", "civilcomments_v1.0/all_data_with_identities.csv"])
def test_the_folder_above_and_the_file_itself_read_the_same(comments, place):
    _, folder = comments

    source = CivilComments(path=str(folder.parent / place)).read()

    whole = CivilComments(path=str(folder)).read()
    pd.testing.assert_frame_equal(source.table, whole.table)


def test_a_missing_column_is_named_with_the_nearest(comments):
    table, folder = comments
    table.rename(columns={"LGBTQ": "LGBT"}).to_csv(folder / "all_data_with_identities.csv")

    with pytest.raises(SourceError, match=r"no column 'LGBTQ' .did you mean 'LGBT'"):
        CivilComments(path=str(folder)).read()


@pytest.mark.parametrize("value", ["high", 7, None])
def test_a_score_that_is_none_is_named_by_row(comments, value):
    table, folder = comments
    table["toxicity"] = table["toxicity"].astype(object)
    table.loc[5, "toxicity"] = value
    table.to_csv(folder / "all_data_with_identities.csv")

    with pytest.raises(SourceError, match=r"toxicity is .* in row 5 .*from 0 to 1"):
        CivilComments(path=str(folder)).read()


def test_empty_comments_are_counted(comments):
    table, folder = comments
    table.loc[[2, 8], "comment_text"] = ["", " "]
    table.to_csv(folder / "all_data_with_identities.csv")

    assert "2 of 240 rows" in CivilComments(path=str(folder)).read().notes[0]


def test_a_folder_without_the_file_says_which_is_expected(tmp_path):
    (tmp_path / "all_data.csv").write_text("x\n1\n")

    with pytest.raises(SourceError, match=r"there is no file .*all_data_with_identities.csv"):
        CivilComments(path=str(tmp_path)).read()


def test_a_file_that_is_not_utf8_is_refused(comments):
    _, folder = comments
    file = folder / "all_data_with_identities.csv"
    file.write_bytes(file.read_bytes().replace(b"Comment 7,", b"Comm\xe9nt 7,"))

    with pytest.raises(SourceError, match="is not UTF-8"):
        CivilComments(path=str(folder)).read()
