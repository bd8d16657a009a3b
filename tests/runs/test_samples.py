import numpy as np
import pandas as pd
import pytest
import torch

from gsr_core.errors import RunStateError
from gsr_core.runs.samples import INFLUENCE, sample_table

ALWAYS = [
    "row",
    "sample_id",
    "group",
    "y",
    "prediction",
    "correct",
    "confidence",
    "loss",
    "colour",
]


@pytest.mark.parametrize("split", ["train", "heldout", "target", "val", "test"])
def test_the_table_says_what_the_head_says_of_the_features(done, split):
    run = done()
    table, bundle = sample_table(run, split), run.bundle
    rows = bundle.rows_of[split]
    assert table["row"].tolist() == rows.tolist()
    assert table["sample_id"].tolist() == [f"s{row}" for row in rows]
    weight, bias = (torch.from_numpy(part).double() for part in run.head())
    logits = torch.from_numpy(bundle.features[rows]).double() @ weight.T + bias
    y = torch.tensor(table["y"].to_numpy())
    loss = torch.nn.functional.cross_entropy(logits, y, reduction="none")
    np.testing.assert_allclose(table["loss"], loss, rtol=1e-4, atol=1e-6)
    top = logits.softmax(dim=1).max(dim=1)
    np.testing.assert_allclose(table["confidence"], top.values, rtol=1e-5)
    np.testing.assert_array_equal(table["prediction"], top.indices)
    assert (table["correct"] == (table["prediction"] == table["y"])).all()
    assert table["confidence"].between(0.5, 1).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_accuracies_of_the_table_are_those_of_the_history(done, seed):
    run = done(seed=seed)
    history = run.metrics()
    for split in ("target", "val", "test"):
        found = sample_table(run, split).groupby("group")[["correct", "loss"]].mean()
        for group, row in found.iterrows():
            stored = history[
                (history["step"] == run.state.best_step)
                & (history["split"] == split)
                & (history["group"] == group)
            ].set_index("metric")["value"]
            assert row["correct"] == pytest.approx(stored["accuracy"])
            assert row["loss"] == pytest.approx(stored["loss"], rel=1e-5)


def test_the_rows_are_those_that_the_seed_drew(done):
    run = done(seed=1)
    own = run.bundle.rows_of
    drawn = {split: sample_table(run, split)["row"].tolist() for split in own}
    for split, rows in own.items():
        assert (drawn[split] == rows.tolist()) == (split not in ("target", "val"))
        assert drawn[split] == run.rows_of(split).tolist()


def test_weighted_rows_have_weights_ranks_and_influences(done):
    run = done(steps=8)
    table = sample_table(run, "heldout")
    groups = [INFLUENCE + name for name in run.bundle.group_names]
    assert list(table.columns) == [*ALWAYS, "weight", "rank", *groups, "goal"]
    assert table["weight"].mean() == pytest.approx(1)
    np.testing.assert_allclose(table["weight"], run.weights()["weight"] * 40)
    heavier = (table["weight"].to_numpy() > table["weight"].to_numpy()[:, None]).sum(axis=1)
    assert table["rank"].tolist() == (heavier + 1).tolist()
    assert table.sort_values("rank")["weight"].is_monotonic_decreasing
    np.testing.assert_array_equal(table[groups], run.influence())
    # Moving every weight by the same factor changes nothing.
    balance = run.weights()["weight"].to_numpy() @ table[groups].to_numpy()
    assert np.abs(balance).max() < 1e-6


@pytest.mark.parametrize(
    ("method", "split"), [("gsr", "train"), ("gsr", "test"), ("erm", "heldout")]
)
def test_rows_without_weights_have_no_such_columns(done, method, split):
    assert list(sample_table(done(method), split).columns) == ALWAYS


def test_a_run_that_ended_needs_no_features_to_show_its_samples(done):
    run = done()
    features = run.bundle.path / "features.npy"
    whole = sample_table(run, "test")
    features.write_bytes(bytes(features.stat().st_size))
    pd.testing.assert_frame_equal(sample_table(run, "test"), whole)


def test_scores_are_made_again_when_the_head_is_another(done):
    run = done()
    before = sample_table(run, "test")["loss"].to_numpy()
    weight, bias = run.head()
    run.write_arrays("head.safetensors", {"weight": -weight, "bias": -bias})
    after = sample_table(run, "test")
    assert (after["correct"] != (before < np.log(2))).all()
    assert len(list(run.path.glob("scores-*.npy"))) == 1


def test_long_splits_are_read_in_chunks_with_the_same_outcome(done, monkeypatch):
    run = done()
    whole = sample_table(run, "test")
    for file in run.path.glob("scores-*.npy"):
        file.unlink()
    monkeypatch.setattr("gsr_core.runs.samples._CHUNK", 7 * (4 * 5 + 16 * 2))
    np.testing.assert_allclose(sample_table(run, "test")["loss"], whole["loss"], rtol=1e-5)


def test_a_run_without_a_head_is_an_error_that_says_to_wait(make):
    with pytest.raises(RunStateError, match="has no head yet; wait until it has ended"):
        sample_table(make(), "test")


def test_the_goal_is_the_mean_of_the_influences_by_the_weights_of_the_groups(done):
    run = done("gsr")
    table = sample_table(run, run.values_split)
    history = run.metrics()
    at = (history["metric"] == "group_weight") & (history["step"] == run.state.best_step)
    gamma = history[at].set_index("group")["value"]
    expected = sum(gamma[name] * table[INFLUENCE + name] for name in run.bundle.group_names)
    np.testing.assert_allclose(table["goal"], expected, rtol=1e-9)


def test_without_weights_of_the_groups_all_count_alike(done):
    run = done("gsr")
    run.write_metrics(run.metrics().query("metric != 'group_weight'"))
    table = sample_table(run, run.values_split)
    columns = [INFLUENCE + name for name in run.bundle.group_names]
    np.testing.assert_allclose(table["goal"], table[columns].mean(axis=1), rtol=1e-9)
