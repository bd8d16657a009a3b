import json

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from gsr_core.inference.agreement import agreement


def one_hot(index, m):
    return np.asarray(index)[:, None] == np.arange(m)


def test_a_perfect_assignment_agrees_whatever_its_numbers():
    found = agreement(np.array([5, 5, 0, 0, 2, 2]), one_hot([0, 0, 1, 1, 2, 2], 3))
    assert (found.ari, found.nmi, found.ari_kept, found.nmi_kept) == pytest.approx((1, 1, 1, 1))
    assert found.n_clusters == 3
    assert (found.groups[["kept", "recall", "precision", "f1", "f1_kept"]] == 1).all(axis=None)
    assert found.groups["cluster"].tolist() == ["5", "0", "2"]


def test_outliers_are_a_group_of_their_own_and_what_is_lost_is_told():
    true = [0] * 6 + [1] * 4
    inferred = np.array([0] * 6 + [1, -1, -1, -1])
    found = agreement(inferred, one_hot(true, 3))
    assert found.ari_kept == found.nmi_kept == pytest.approx(1)
    # By hand: 15 pairs of 45 together in both, plus 3 among outliers; 21 and 18 in each.
    expected = 21 * 18 / 45
    assert found.ari == pytest.approx((18 - expected) / ((21 + 18) / 2 - expected))
    np.testing.assert_allclose(found.groups["kept"], [1, 0.25, np.nan])
    np.testing.assert_allclose(found.groups["recall"], [1, 0.25, np.nan])
    np.testing.assert_allclose(found.groups["recall_kept"], [1, 1, np.nan])
    assert found.n_clusters == 2


def test_each_true_group_is_matched_by_the_best_f1_of_all_inferred_ones():
    rng = np.random.default_rng(0)
    true, inferred = rng.integers(3, size=300), rng.integers(-1, 4, size=300)
    inferred[true == 1] = np.where(rng.random((true == 1).sum()) < 0.6, 2, -1)
    names = ["w", "x", "y", "z"]
    table = agreement(inferred, one_hot(true, 3), ["a", "b", "c"], names).groups
    assert table["group"].tolist() == ["a", "b", "c"]
    assert table["size"].tolist() == np.bincount(true).tolist()
    for suffix, seen in (("", np.full(300, True)), ("_kept", inferred >= 0)):
        for group, row in table.iterrows():
            own = true[seen] == group
            scores = [f1_score(own, inferred[seen] == each) for each in range(4)]
            best = int(np.argmax(scores))
            assert row[f"cluster{suffix}"] == names[best]
            assert row[f"f1{suffix}"] == pytest.approx(scores[best])
            inside = inferred[seen] == best
            assert row[f"recall{suffix}"] == pytest.approx(recall_score(own, inside))
            assert row[f"precision{suffix}"] == pytest.approx(precision_score(own, inside))


def test_a_group_of_outliers_alone_matches_nothing():
    found = agreement(np.array([0, 0, -1, -1]), one_hot([0, 0, 1, 1], 2)).groups
    assert found["cluster"].tolist() == ["0", ""]
    assert found.loc[1, ["recall", "f1", "kept"]].tolist() == [0, 0, 0]
    assert found.loc[1, ["precision", "recall_kept", "f1_kept"]].isna().all()


def test_it_is_written_as_json_without_nan():
    found = agreement(np.array([0, 0, -1, -1]), one_hot([0, 0, 1, 1], 2), ["a", "b"], ["c"])
    read = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert read["ari"] == found.ari
    assert read["n_clusters"] == 1
    assert [each["group"] for each in read["groups"]] == ["a", "b"]
    assert read["groups"][0]["cluster"] == "c"
    assert read["groups"][1]["precision"] is None


def test_chance_is_near_zero():
    rng = np.random.default_rng(0)
    found = agreement(rng.integers(4, size=2000), one_hot(rng.integers(4, size=2000), 4))
    assert abs(found.ari) < 0.01


def test_of_overlapping_groups_each_combination_counts():
    groups = np.array([[1, 0], [1, 0], [1, 1], [1, 1], [0, 0], [0, 0]], dtype=bool)
    found = agreement(np.array([0, 0, 1, 1, 2, 2]), groups)
    assert found.ari == 1
    # The first group is the union of two inferred ones, each half of it.
    assert found.groups.loc[0, ["recall", "precision"]].tolist() == [0.5, 1]


def test_all_outliers_have_no_agreement_among_kept():
    found = agreement(np.full(4, -1), one_hot([0, 0, 1, 1], 2))
    assert np.isnan(found.ari_kept)
    assert np.isnan(found.nmi_kept)
    assert found.n_clusters == 0
    assert (found.groups["recall"] == 0).all()
