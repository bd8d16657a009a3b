"""What other offsets and thresholds would do for a run: against loops, the method, the export."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file
from scipy.special import expit, logit

from gsr_core.comparing.operating import AVERAGE_NAMES, operating_points
from gsr_core.comparing.thresholds import thresholds_of
from gsr_core.data.groups import Group
from gsr_core.errors import SettingError
from gsr_core.runs.execute import run as compute_run
from gsr_core.runs.export import export_run
from gsr_core.runs.quality import fairness_of, kept_logits, quality_table, reliability_table
from gsr_core.runs.store import Run
from gsr_core.workspace import Workspace

N = 120
"""Rows of each split."""


def sized(workspace, write, name, n_classes):
    """A bundle with a rare last class that owns the bad groups, and a run of ERM on it."""
    rng = np.random.default_rng(n_classes)
    splits = ("train", "heldout", "target", "val", "test")
    n = N * len(splits)
    chances = np.append(np.ones(n_classes - 1), 0.4)
    y = rng.choice(n_classes, size=n, p=chances / chances.sum())
    site = rng.integers(2, size=n)
    features = rng.normal(size=(n, 5)).astype(np.float32)
    features[np.arange(n), y] += 1.5
    features[:, -1] += site * (y == n_classes - 1)
    names = [f"class {label}, site {place}" for label in range(n_classes) for place in range(2)]
    samples = {
        "sample_id": [f"s{row}" for row in range(n)],
        "split": np.repeat(splits, N),
        "y": y,
        "site": np.array(["north", "south"])[site],
        "seat": [f"r{row}" for row in range(n)],
    }
    write(
        workspace,
        name,
        samples=pd.DataFrame(samples),
        membership=(2 * y + site)[:, None] == np.arange(2 * n_classes),
        groups=[Group(name=each, definition=each) for each in names],
        classes=[f"class {label}" for label in range(n_classes)],
        features=features,
    )
    return compute_run(workspace, name, "erm", device="cpu")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Workspace.at(tmp_path_factory.mktemp("operating") / "workspace")


@pytest.fixture(scope="module")
def two(place, write):
    return sized(place, write, "two", 2)


@pytest.fixture(scope="module")
def three(place, write):
    return sized(place, write, "three", 3)


def scored(run, split):
    bundle = run.bundle
    rows = run.rows_of(split, bundle)
    return kept_logits(run, rows, bundle).astype(float), bundle.y[rows], bundle.membership[rows]


def accuracies(run, split, offset, average):
    """Average and worst by a loop over groups."""
    logits, labels, members = scored(run, split)
    right = (logits + offset).argmax(axis=1) == labels
    of_groups = np.array([right[member].mean() for member in members.T])
    means = {
        "mean_accuracy": right.mean(),
        "group_mean_accuracy": of_groups.mean(),
        "adjusted_accuracy": run.bundle.training_shares @ of_groups,
    }
    return means[average], of_groups.min()


@pytest.mark.parametrize("average", list(AVERAGE_NAMES))
@pytest.mark.parametrize("which", ["two", "three"])
def test_the_offsets_do_what_is_said_on_both_splits(which, average, request):
    run = request.getfixturevalue(which)
    found = operating_points(run, "test", trade=0.5, average=average)
    for row, offset in zip(found.points.to_dict("records"), (0, found.offset), strict=True):
        for split, prefix in (("val", "val_"), ("test", "")):
            expected = accuracies(run, split, offset, average)
            assert (row[f"{prefix}average"], row[f"{prefix}worst"]) == pytest.approx(expected)
        for name in ("average", "worst"):
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
    own, chosen = found.points.to_dict("records")
    assert chosen["val_average"] + chosen["val_worst"] >= own["val_average"] + own["val_worst"]
    for name in ("average", "worst"):
        change = found.change[name]
        assert change.difference == pytest.approx(chosen[name] - own[name])
        assert change.low <= change.difference <= change.high
    for row in found.path.iloc[::9].to_dict("records"):
        for split, prefix in (("val", "val_"), ("test", "")):
            expected = accuracies(run, split, row["offset"], average)
            assert (row[f"{prefix}average"], row[f"{prefix}worst"]) == pytest.approx(expected)
    # Of all that is on the path, nothing serves what was asked for better than the choice.
    best = (found.path["val_average"] + found.path["val_worst"]).max()
    if which == "two":
        assert best == pytest.approx(chosen["val_average"] + chosen["val_worst"])


def test_of_the_classifier_as_it_came_it_is_the_method_of_class_scaling(two):
    found = operating_points(two, "test")
    method = compute_run(two.workspace, "two", "class_scaling", device="cpu")
    moved = method.head()[1] - two.head()[1]
    np.testing.assert_allclose(moved, found.offset, atol=1e-6)
    assert found.offset.any()
    table = quality_table(method, "test").query("kind == 'group'")
    assert found.groups["chosen_accuracy"].tolist() == pytest.approx(table["accuracy"].tolist())
    assert found.groups["own_accuracy"].tolist() == pytest.approx(
        quality_table(two, "test").query("kind == 'group'")["accuracy"].tolist()
    )
    # Its own offsets leave nothing to gain.
    assert not operating_points(method, "test").offset.any()


def test_two_classes_path_runs_from_one_class_to_the_other_through_both_points(two):
    found = operating_points(two, "test")
    share = (scored(two, "test")[1] == 1).mean()
    ends = found.path["average"].iloc[[0, -1]].tolist()
    assert ends == pytest.approx([1 - share, share], abs=0.03)
    offsets = np.stack(found.path["offset"])[:, 1]
    assert (np.diff(offsets) > 0).all()
    assert {0.0, found.offset[1]} <= set(offsets)


def test_no_setting_of_a_path_of_more_classes_beats_another_on_val(three):
    path = operating_points(three, "test").path
    assert len(path) > 2
    assert path["val_average"].is_monotonic_decreasing
    assert path["val_worst"].is_monotonic_increasing


@pytest.mark.parametrize("cost", [0.25, 1.0, 4.0])
def test_the_threshold_is_the_cheapest_of_all_on_val(two, cost):
    found = thresholds_of(two, "test", cost=cost)
    assert (found.positive, found.negative) == ("class 1", "class 0")
    assert found.calibrated == pytest.approx(1 / (1 + cost))

    def costs(split, threshold):
        logits, labels, _ = scored(two, split)
        said = expit(logits[:, 1] - logits[:, 0]) > threshold
        missed, false = (labels == 1) & ~said, (labels == 0) & said
        return (cost * missed.sum() + false.sum()) / len(labels)

    logits, _, _ = scored(two, "val")
    scores = np.sort(expit(logits[:, 1] - logits[:, 0]))
    every = [0.0, *(scores[1:] + scores[:-1]) / 2, 1.0]
    assert found.val_cost[1] == pytest.approx(min(costs("val", each) for each in every))
    assert found.val_cost == pytest.approx([costs("val", each) for each in (0.5, found.threshold)])
    assert found.cost == pytest.approx([costs("test", each) for each in (0.5, found.threshold)])
    change, low, high = found.change
    assert change == pytest.approx(found.cost[1] - found.cost[0])
    assert low <= change <= high
    # The offsets of the export are this threshold.
    by = found.by_class["class 1"] - found.by_class["class 0"]
    assert expit(-by) == pytest.approx(found.threshold)


def test_errors_are_counted_in_each_group_and_the_curve_passes_through_them(two):
    found = thresholds_of(two, "test", cost=3.0)
    logits, labels, members = scored(two, "test")
    margin = logits[:, 1] - logits[:, 0]
    for point, threshold in (("own", 0.5), ("chosen", found.threshold)):
        said = margin > logit(threshold)
        for group, member in zip(found.groups.to_dict("records"), members.T, strict=True):
            assert group["n"] == member.sum()
            assert group[f"{point}_missed"] == (member & (labels == 1) & ~said).sum()
            assert group[f"{point}_false"] == (member & (labels == 0) & said).sum()
    for row in found.curve.iloc[::37].to_dict("records"):
        member = members[:, two.bundle.group_names.index(row["group"])]
        wrong = (margin > row["log_odds"]) != (labels == 1)
        assert row["wrong"] == pytest.approx(wrong[member].mean())
        assert row["threshold"] == pytest.approx(expit(row["log_odds"]))


def test_a_calibrated_head_has_its_threshold_where_theory_puts_it(two, monkeypatch):
    """Of planted scores that are the log-odds of the labels, many of them."""
    rng = np.random.default_rng(0)
    odds = rng.normal(-1.0, 1.5, 80_000)
    labels = (rng.random(len(odds)) < expit(odds)).astype(np.int64)
    logits = np.stack([np.zeros_like(odds), odds], axis=1).astype(np.float32)
    members = np.ones((len(odds), len(two.bundle.group_names)), dtype=bool)
    bundle = dataclasses.replace(two.bundle)
    vars(bundle).update(y=labels, membership=members)
    monkeypatch.setattr(Run, "rows_of", lambda *_: np.arange(len(odds)))
    monkeypatch.setattr(
        "gsr_core.comparing.operating.kept_logits", lambda run, rows, bundle: logits
    )
    for cost in (0.5, 1.0, 4.0):
        found = thresholds_of(two, "test", bundle, cost=cost)
        assert found.threshold == pytest.approx(found.calibrated, abs=0.04)


def test_the_export_takes_the_offsets_along(two, tmp_path):
    found = operating_points(two, "test", trade=0.6)
    export_run(two, tmp_path / "moved", offset=found.by_class)
    export_run(two, tmp_path / "own")
    head, own = (load_file(tmp_path / each / "head.safetensors") for each in ("moved", "own"))
    np.testing.assert_array_equal(head["weight"], own["weight"])
    rows = two.rows_of("test")
    logits = two.bundle.features[rows] @ head["weight"].T + head["bias"]
    right = logits.argmax(axis=1) == two.bundle.y[rows]
    members = two.bundle.membership[rows]
    expected = [(~right & member).sum() for member in members.T]
    assert found.groups["chosen_wrong"].tolist() == expected
    about = json.loads((tmp_path / "moved" / "about.json").read_text())
    assert about["logit_offset"] == found.by_class
    assert "logit_offset" not in json.loads((tmp_path / "own" / "about.json").read_text())
    with pytest.raises(SettingError, match="offsets are of class 0; give one for each of class 0"):
        export_run(two, tmp_path / "bad", offset={"class 0": 1.0})
    assert not (tmp_path / "bad").exists()


def test_the_tables_of_reliability_and_quality_are_of_the_same_rows(two):
    curves, table = reliability_table(two, "test"), quality_table(two, "test")
    assert set(curves["group"]) == set(table["group"])
    for row in table.to_dict("records"):
        curve = curves[curves["group"] == row["group"]]
        assert curve["n"].sum() == row["n"]
        assert curve["n"] @ curve["accuracy"] / row["n"] == pytest.approx(row["accuracy"])
        away = (curve["accuracy"] - curve["confidence"]).abs()
        assert curve["n"] @ away / row["n"] == pytest.approx(row["calibration"])


def test_fairness_is_of_the_kept_heads_answers(three):
    found = fairness_of(three, "test", "site")
    logits, labels, members = scored(three, "test")
    said, north = logits.argmax(axis=1), members[:, ::2].any(axis=1)
    gaps = []
    for label in range(3):
        shares = [(said[side] == label).mean() for side in (north, ~north)]
        gaps.append(abs(shares[0] - shares[1]))
    assert found.by_class["parity_difference"].tolist() == pytest.approx(gaps)
    assert found.overall["parity_difference"] == pytest.approx(max(gaps))
    cells = [((labels == label) & side).sum() for label in range(3) for side in (north, ~north)]
    assert found.smallest == min(cells)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda run: operating_points(run, "test", trade=1.5), "is 1.5; choose 0 to 1"),
        (lambda run: operating_points(run, "test", average="mode"), "choose one of mean_accuracy"),
        (lambda run: thresholds_of(run, "test", cost=0), "costs 0 false alarms"),
        (lambda run: thresholds_of(run, "test", cost=float("nan")), "costs nan false alarms"),
        (lambda run: thresholds_of(run, "test"), "has 3 classes and thresholds are between two"),
        (lambda run: fairness_of(run, "test", "age"), "no attribute 'age'; its attributes are"),
        (lambda run: fairness_of(run, "test", "seat"), "'seat' has 120 values in test; choose one"),
    ],
)
def test_what_cannot_be_had_is_refused_in_a_sentence(three, ask, said):
    with pytest.raises(SettingError) as refused:
        ask(three)
    assert said in str(refused.value)


def test_rows_that_say_nothing_are_refused(two, monkeypatch):
    bundle = two.bundle
    rows, real = two.rows_of("val"), Run.rows_of
    only = {"val": rows[bundle.y[rows] == 0]}
    monkeypatch.setattr(Run, "rows_of", lambda run, split, *_: only.get(split, real(run, split)))
    with pytest.raises(SettingError, match="val has no rows of 'class 1'"):
        thresholds_of(two, "test", bundle)
    with pytest.raises(SettingError, match="adjusted average is not known on val"):
        operating_points(two, "test", bundle, average="adjusted_accuracy")
    nobody = bundle.membership.copy()
    nobody[two.rows_of("target")] = False
    vars(bundle)["membership"] = nobody
    with pytest.raises(SettingError, match=r"none of the .* rows of target is in a known group"):
        operating_points(two, "target", bundle)
    vars(bundle)["membership"] = np.zeros_like(nobody)
    with pytest.raises(SettingError, match=r"none of the .* rows of val is in a known group"):
        operating_points(two, "test", bundle)
    monkeypatch.setattr("gsr_core.comparing.operating._MOST_NUMBERS", 10)
    with pytest.raises(SettingError, match="run the method class_scaling instead"):
        operating_points(two, "test", two.bundle)
