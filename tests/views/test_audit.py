"""What the Audit page says of some samples alone."""

import math

import numpy as np
import pandas as pd
import pytest

from gsr_core.data.bundle_writing import write_bundle
from gsr_core.data.groups import Group
from gsr_core.metrics import wilson_interval
from gsr_core.views.audit import accuracy_within
from gsr_core.views.slices import SliceChoice, within

N = 150


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Two classes and three groups that overlap, the last of them rare."""
    rng = np.random.default_rng(0)
    y = np.arange(N) % 2
    member = np.stack([y == 0, y == 1, rng.random(N) < 0.2], axis=1)
    return write_bundle(
        tmp_path_factory.mktemp("audit") / "tiny",
        samples=pd.DataFrame(
            {
                "sample_id": [f"s{row}" for row in range(N)],
                "split": np.array(["heldout", "target", "val", "test", "test"])[np.arange(N) % 5],
                "y": y,
            }
        ),
        membership=member,
        groups=[Group(name=name, definition=name) for name in "abc"],
        classes=["cat", "dog"],
        features=rng.normal(size=(N, 2)),
        source="made for a test",
    )


@pytest.fixture
def samples(bundle):
    rng = np.random.default_rng(1)
    rows = bundle.rows_of["test"]
    return pd.DataFrame(
        {"row": rows, "correct": rng.random(len(rows)) < 0.7, "loss": rng.random(len(rows))}
    )


def test_a_slice_is_judged_by_its_own_samples(bundle, samples):
    chosen = SliceChoice("k", "some", samples["row"].to_numpy()[::2])
    inside = within(samples, chosen)
    assert inside["row"].tolist() == chosen.rows.tolist()
    table, averages = accuracy_within(bundle, inside)

    right = dict(zip(samples["row"], samples["correct"], strict=True))
    expected = {}
    for g, name in enumerate(bundle.group_names):
        own = [right[row] for row in chosen.rows if bundle.membership[row, g]]
        expected[name] = (len(own), sum(own) / len(own))
    assert table["n"].tolist() == [n for n, _ in expected.values()]
    assert table["accuracy"].tolist() == pytest.approx([share for _, share in expected.values()])
    low, high = wilson_interval(table["accuracy"].to_numpy(), table["n"].to_numpy())
    np.testing.assert_array_equal(table[["low", "high"]], np.stack([low, high], axis=1))
    worst = min(expected, key=lambda name: expected[name][1])
    assert table.loc[table["worst"], "group"].tolist() == [worst]
    assert averages["worst_group_accuracy"] == pytest.approx(expected[worst][1])
    assert averages["mean_accuracy"] == pytest.approx(np.mean([right[r] for r in chosen.rows]))
    adjusted = bundle.training_shares @ [share for _, share in expected.values()]
    assert averages["adjusted_accuracy"] == pytest.approx(adjusted)


def test_groups_without_a_sample_in_the_slice_are_left_out(bundle, samples):
    only_a = samples[~bundle.membership[samples["row"]][:, 1:].any(axis=1)]
    table, averages = accuracy_within(bundle, only_a)
    assert table["group"].tolist() == ["a"]
    assert table["worst"].tolist() == [True]
    assert averages["worst_group_accuracy"] == pytest.approx(only_a["correct"].mean())
    # The training rows have groups that are not here.
    assert math.isnan(averages["adjusted_accuracy"])


def test_without_a_slice_all_samples_stay(samples):
    assert within(samples, None) is samples
