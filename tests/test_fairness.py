"""Demographic parity and equalised odds: against fairlearn, definitions and chance."""

import numpy as np
import pandas as pd
import pytest

import gsr_core.fairness
from gsr_core.fairness import RATES, fairness


def drawn(n_classes, n_values, n=400, *, unfair=0.0, seed=0):
    """Labels, values and predictions; value 0 is right less often by `unfair`."""
    rng = np.random.default_rng(seed)
    labels, values = rng.integers(n_classes, size=n), rng.integers(n_values, size=n)
    right = rng.random(n) < 0.8 - unfair * (values == 0)
    prediction = np.where(right, labels, rng.integers(n_classes, size=n))
    return prediction, labels, np.array([f"v{value}" for value in values])


def by_definition(prediction, labels, values, positive):
    """Differences and ratios of one class against the rest, by loops over the values."""
    rates = {name: [] for name in ("parity", "recall", "alarm")}
    for value in set(values):
        said, true = prediction[values == value] == positive, labels[values == value] == positive
        rates["parity"].append(said.mean())
        if true.any():
            rates["recall"].append(said[true].mean())
        if (~true).any():
            rates["alarm"].append(said[~true].mean())
    gap = {name: max(of) - min(of) for name, of in rates.items()}
    ratio = {name: min(of) / max(of) for name, of in rates.items()}
    return {
        "parity_difference": gap["parity"],
        "odds_difference": max(gap["recall"], gap["alarm"]),
        "parity_ratio": ratio["parity"],
        "odds_ratio": min(ratio["recall"], ratio["alarm"]),
    }


@pytest.mark.parametrize(("n_classes", "n_values"), [(2, 2), (2, 5), (4, 3)])
def test_each_class_is_what_the_definitions_say_and_the_worst_counts(n_classes, n_values):
    prediction, labels, values = drawn(n_classes, n_values, unfair=0.2)
    found = fairness(prediction, labels, values, n_classes)
    assert list(found.by_class["class"]) == ([1] if n_classes == 2 else list(range(n_classes)))
    for row in found.by_class.to_dict("records"):
        expected = by_definition(prediction, labels, values, row["class"])
        assert {name: row[name] for name in expected} == pytest.approx(expected)
    for name, value in found.overall.items():
        if name.endswith("difference"):
            assert value == found.by_class[name].max()
        if name.endswith("ratio"):
            assert value == found.by_class[name].min()


@pytest.mark.parametrize("n_values", [2, 4])
def test_for_two_classes_it_is_what_fairlearn_computes(n_values):
    metrics = pytest.importorskip("fairlearn.metrics", reason="needs the extra 'dev'")
    prediction, labels, values = drawn(2, n_values, unfair=0.2, seed=1)
    found = fairness(prediction, labels, values, 2).overall
    for ours, theirs in (("parity", "demographic_parity"), ("odds", "equalized_odds")):
        for kind in ("difference", "ratio"):
            compute = getattr(metrics, f"{theirs}_{kind}")
            expected = compute(labels, prediction, sensitive_features=values)
            assert found[f"{ours}_{kind}"] == pytest.approx(expected, abs=1e-12)


def test_which_of_two_classes_counts_as_positive_does_not_matter_to_the_differences():
    prediction, labels, values = drawn(2, 3, unfair=0.2, seed=2)
    one = fairness(prediction, labels, values, 2).overall
    other = fairness(1 - prediction, 1 - labels, values, 2).overall
    for name in ("parity_difference", "odds_difference"):
        assert one[name] == pytest.approx(other[name], abs=1e-12)


def test_neither_the_order_of_rows_nor_the_names_of_values_matter():
    prediction, labels, values = drawn(3, 3, unfair=0.2)
    moved = np.random.default_rng(0).permutation(len(labels))
    one = fairness(prediction, labels, values, 3)
    other = fairness(prediction[moved], labels[moved], values[moved], 3)
    assert one.overall == other.overall
    renamed = np.char.add("a", values)
    assert fairness(prediction, labels, renamed, 3).overall == one.overall


def test_a_head_that_answers_labels_alone_has_equal_odds():
    _, labels, values = drawn(3, 2)
    labels[values == "v0"] = np.where(labels[values == "v0"] == 2, 0, labels[values == "v0"])
    labels[-1] = 2
    values[-1] = "v0"
    found = fairness(labels, labels, values, 3).overall
    assert found["odds_difference"] == 0
    assert found["odds_low"] == found["odds_high"] == 0
    assert found["parity_difference"] > found["parity_chance"]


def test_a_value_without_rows_of_a_label_says_nothing_of_that_label():
    labels = np.array([0, 1] * 40 + [0] * 20)
    values = np.array(["a", "b"] * 20 + ["b", "a"] * 20 + ["c"] * 20)
    prediction = labels.copy()
    found = fairness(prediction, labels, values, 2)
    assert found.overall["odds_difference"] == 0
    rates = found.rates.set_index(["value", "rate"])
    assert np.isnan(rates.loc[("c", "recall"), "share"])
    assert rates.loc[("c", "recall"), "n"] == 0
    assert found.smallest == 20
    # With no value that has a row of it, there is nothing to measure.
    nothing = fairness(np.zeros(20, int), np.zeros(20, int), np.array(["a", "b"] * 10), 2)
    assert np.isnan(nothing.overall["parity_ratio"])
    assert nothing.overall["odds_difference"] == 0


def test_the_rates_are_what_the_differences_are_of():
    prediction, labels, values = drawn(3, 4, unfair=0.3)
    found = fairness(prediction, labels, values, 3)
    spread = found.rates.groupby(["class", "rate"])["share"].agg(lambda of: of.max() - of.min())
    for row in found.by_class.to_dict("records"):
        of = spread[row["class"]]
        assert row["parity_difference"] == pytest.approx(of[RATES[0]])
        assert row["odds_difference"] == pytest.approx(max(of[RATES[1]], of[RATES[2]]))
    assert ((found.rates["low"] <= found.rates["share"]) & (found.rates["share"] <= 1)).all()


def test_chance_is_exceeded_one_time_in_twenty_and_unfairness_is_found(monkeypatch):
    monkeypatch.setattr(gsr_core.fairness, "_DRAWS", 100)
    above, covered, found = 0, 0, 0
    for seed in range(80):
        alike = fairness(*drawn(2, 2, unfair=0.0, seed=seed), 2, seed=seed).overall
        above += alike["odds_difference"] > alike["odds_chance"]
        # Wrong rows are drawn among both classes, so that half of them are right again.
        apart = fairness(*drawn(2, 2, unfair=0.4, seed=seed), 2, seed=seed).overall
        covered += apart["odds_low"] <= 0.2 <= apart["odds_high"]
        found += apart["odds_difference"] > apart["odds_chance"]
    assert 0.01 <= above / 80 <= 0.12
    assert covered / 80 > 0.8
    assert found / 80 > 0.85


def test_many_cells_are_drawn_in_parts(monkeypatch):
    parts = drawn(3, 3, unfair=0.2)
    whole = fairness(*parts, 3)
    monkeypatch.setattr(gsr_core.fairness, "_MOST_NUMBERS", 500)
    few = fairness(*parts, 3)
    seen = ["odds_difference", "parity_difference", "odds_ratio"]
    pd.testing.assert_frame_equal(few.by_class[seen], whole.by_class[seen])
    assert few.overall["odds_high"] == pytest.approx(whole.overall["odds_high"], abs=0.05)
