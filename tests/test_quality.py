"""Calibration, Brier, AUROC and gaps: against definitions, simulation and published examples."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

import gsr_core.quality
from gsr_core.metrics import wilson_interval
from gsr_core.quality import (
    auroc,
    calibration_error,
    difference_interval,
    group_auroc,
    group_quality,
    reliability,
)


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def test_auroc_is_that_of_the_definition_with_ties(rng):
    score, positive = rng.integers(8, size=300) / 8, rng.random(300) < 0.4
    pairs = score[positive][:, None] - score[~positive][None]
    by_pairs = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
    assert auroc(score, positive).value == pytest.approx(by_pairs, abs=1e-12)
    assert roc_auc_score(positive, score) == pytest.approx(by_pairs)


def test_the_published_error_of_delong():
    """Variance by the structural components, computed by hand for nine rows."""
    ups, downs = np.array([0.9, 0.8, 0.7, 0.55, 0.5]), np.array([0.6, 0.5, 0.4, 0.3])
    above = np.array([1, 1, 1, 0.75, 0.625])
    below = np.array([0.6, 0.9, 1, 1])
    error = np.sqrt(above.var(ddof=1) / 5 + below.var(ddof=1) / 4)
    assert error == pytest.approx(0.12332, abs=5e-6)
    # Twenty copies of the nine rows have the same components, and enough rows for DeLong.
    score = np.tile(np.concatenate([ups, downs]), 20)
    found = auroc(score, np.tile(np.arange(9) < 5, 20))
    many = np.sqrt(np.tile(above, 20).var(ddof=1) / 100 + np.tile(below, 20).var(ddof=1) / 80)
    assert found.value == pytest.approx(0.875)
    width = np.log(found.high / (1 - found.high)) - np.log(found.low / (1 - found.low))
    assert width == pytest.approx(2 * 1.959964 * many / (0.875 * 0.125))


def test_auroc_is_blind_to_monotone_maps_and_turns_with_the_sign(rng):
    score, positive = rng.normal(size=200), rng.random(200) < 0.5
    score[positive] += 0.7
    one, mapped, turned = (auroc(each, positive) for each in (score, np.exp(score), -score))
    assert mapped == pytest.approx(one)
    assert turned == pytest.approx((1 - one.value, 1 - one.high, 1 - one.low))


@pytest.mark.parametrize("n", [12, 150])
def test_the_interval_covers_the_truth_as_often_as_it_says(n):
    """Both kinds of interval, over samples of normal scores whose AUROC is known."""
    truth, covered, rng = 0.760250, 0, np.random.default_rng(0)
    for seed in range(300):
        score = rng.normal(size=2 * n)
        score[:n] += 1.0
        found = auroc(score, np.arange(2 * n) < n, seed=seed)
        covered += found.low <= truth <= found.high
    assert covered / 300 > (0.85 if n < 20 else 0.92)


def test_a_perfect_or_missing_side():
    assert auroc(np.arange(60.0), np.arange(60) >= 30) == pytest.approx(
        (1, *wilson_interval(1, 30))
    )
    assert np.isnan(auroc(np.arange(5.0), np.ones(5, dtype=bool))).all()


def test_a_group_of_one_class_is_held_against_all_rows_of_the_others(rng):
    probability = softmax(rng.normal(size=(200, 3)), axis=1)
    labels = rng.integers(3, size=200)
    member = (labels == 1) & (rng.random(200) < 0.5)
    rows = member | (labels != 1)
    expected = roc_auc_score(member[rows], probability[rows, 1])
    assert group_auroc(probability, labels, member).value == pytest.approx(expected)
    several = rng.random(200) < 0.5
    expected = min(
        roc_auc_score(labels[several] == label, probability[several, label]) for label in range(3)
    )
    assert group_auroc(probability, labels, several).value == pytest.approx(expected)


def test_one_bin_is_the_distance_of_accuracy_and_confidence(rng):
    confidence, right = rng.uniform(0.5, 1, 30), rng.random(30) < 0.4
    error, _ = calibration_error(confidence, right)
    assert error == pytest.approx(abs(right.mean() - confidence.mean()))


def test_bins_have_equal_mass_and_the_order_of_rows_does_not_matter(rng):
    confidence, right = rng.uniform(0.5, 1, 100), rng.random(100) < 0.7
    order = np.argsort(confidence)
    parts = np.split(order, 5)
    by_hand = sum(abs(right[part].mean() - confidence[part].mean()) for part in parts) / 5
    assert calibration_error(confidence, right)[0] == pytest.approx(by_hand)
    moved = rng.permutation(100)
    assert calibration_error(confidence[moved], right[moved])[0] == pytest.approx(by_hand)
    # Not even where many are equally sure.
    few = confidence.round(1)
    assert calibration_error(few[moved], right[moved]) == calibration_error(few, right)


@pytest.mark.parametrize("n", [7, 90, 613])
def test_the_curve_is_what_the_error_sums_up(rng, n):
    confidence, right = rng.beta(4, 2, n).round(2), rng.random(n) < 0.7
    curve = reliability(confidence, right)
    away = (curve["accuracy"] - curve["confidence"]).abs()
    error = (curve["n"] * away).sum() / n
    assert error == pytest.approx(calibration_error(confidence, right)[0])
    assert curve["n"].sum() == n
    assert curve["n"].max() - curve["n"].min() <= 1
    assert (curve["n"] @ curve["accuracy"]) == pytest.approx(right.sum())
    assert (curve["n"] @ curve["confidence"]) == pytest.approx(confidence.sum())
    assert curve["confidence"].is_monotonic_increasing
    moved = rng.permutation(n)
    assert reliability(confidence[moved], right[moved]).equals(curve)


def test_a_calibrated_head_is_inside_the_band_as_often_as_it_says(rng, monkeypatch):
    monkeypatch.setattr(gsr_core.quality, "_DRAWS", 300)
    inside, bins, biased = 0, 0, 0
    for seed in range(30):
        confidence = rng.uniform(0.5, 0.95, 300)
        curve = reliability(confidence, rng.random(300) < confidence, seed=seed)
        inside += curve["accuracy"].between(curve["low"], curve["high"]).sum()
        bins += len(curve)
        # Planted: a head that is too sure.
        curve = reliability(confidence, rng.random(300) < confidence - 0.25, seed=seed)
        biased += (curve["accuracy"] < curve["low"]).sum()
    assert 0.93 < inside / bins < 0.99
    assert biased / bins > 0.4
    assert reliability(np.empty(0), np.empty(0, dtype=bool)).empty


def test_certain_and_right_is_calibrated():
    assert calibration_error(np.ones(50), np.ones(50, dtype=bool)) == (0, 0)
    assert np.isnan(calibration_error(np.empty(0), np.empty(0, dtype=bool))).all()


def test_a_calibrated_head_exceeds_the_chance_level_one_time_in_twenty(rng):
    above = 0
    for _ in range(400):
        confidence = rng.beta(8, 2, 150)
        error, chance = calibration_error(confidence, rng.random(150) < confidence)
        above += error > chance
    assert 0.02 < above / 400 < 0.09


def test_newcombes_interval_is_that_of_his_paper():
    # Table II, method 10: 56/70 - 48/80, 9/10 - 3/10 and 10/10 - 0/10.
    for (a, m, b, n), ends in {
        (56, 70, 48, 80): (0.0524, 0.3339),
        (9, 10, 3, 10): (0.1705, 0.8090),
        (10, 10, 0, 10): (0.6075, 1.0),
    }.items():
        assert difference_interval(a / m, m, b / n, n) == pytest.approx(ends, abs=5e-5)


def test_the_table_agrees_with_its_parts(rng):
    logits, labels = rng.normal(size=(400, 3)), rng.integers(3, size=400)
    logits[np.arange(400), labels] += 1
    membership = np.stack([labels == 0, rng.random(400) < 0.3, np.zeros(400, bool)], axis=1)
    table = group_quality(logits, labels, membership, ["zero", "mixed", "nobody"])
    assert list(table["group"]) == ["zero", "mixed"]
    right = logits.argmax(axis=1) == labels
    probability = softmax(logits, axis=1)
    mixed, row = membership[:, 1], table.iloc[1]
    assert row["accuracy"] == pytest.approx(right[mixed].mean())
    assert row["gap"] == pytest.approx(right[mixed].mean() - right[~mixed].mean())
    assert row["gap_low"] < row["gap"] < row["gap_high"]
    recall = [right[mixed & (labels == label)].mean() for label in range(3)]
    assert (row["recall"], row["recall_class"]) == (min(recall), np.argmin(recall))
    brier = np.square(probability - np.eye(3)[labels]).sum(axis=1)
    assert row["brier"] == pytest.approx(brier[mixed].mean())
    assert table.iloc[0]["recall"] == table.iloc[0]["accuracy"]


def test_brier_is_zero_for_the_sure_and_right_and_known_at_uniform():
    sure = group_quality(200 * np.eye(3), np.arange(3), np.ones((3, 1), bool), ["all"])
    level = group_quality(np.zeros((3, 3)), np.arange(3), np.ones((3, 1), bool), ["all"])
    assert sure["brier"].item() == pytest.approx(0, abs=1e-12)
    assert level["brier"].item() == pytest.approx(2 / 3)
