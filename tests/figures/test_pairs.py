import numpy as np
import pandas as pd
import pytest

from gsr_core.figures import pairs, theme


def named(figure, name):
    return next(trace for trace in figure.data if trace.name == name)


def differences() -> tuple[pd.DataFrame, pd.DataFrame]:
    table = pd.DataFrame(
        [
            ("GSR", 0.10, 0.05, 0.15, "better"),
            ("JTT", -0.10, -0.15, -0.05, "worse"),
            ("RWG", 0.01, -0.02, 0.04, "not distinguishable"),
            ("LLR", 0.03, np.nan, np.nan, "same on every seed"),
            ("DFR", np.nan, np.nan, np.nan, "add seeds"),
        ],
        columns=["entry", "difference", "low", "high", "verdict"],
    )
    points = pd.DataFrame(
        [(entry, seed, 0.01 * seed) for entry in ("GSR", "RWG") for seed in range(3)],
        columns=["entry", "seed", "difference"],
    )
    return table, points


def test_differences_have_an_interval_a_verdict_and_their_seeds():
    table, points = differences()
    figure = pairs.paired_differences(table, points, reference="ERM")
    better, unclear = named(figure, "better"), named(figure, "not distinguishable")
    np.testing.assert_allclose(better.x, 10)
    np.testing.assert_allclose(better.error_x.array, 5)
    np.testing.assert_allclose(unclear.error_x.arrayminus, 3)
    assert better.marker.color == theme.HELPS
    assert named(figure, "worse").marker.color == theme.HARMS
    assert unclear.marker.color == theme.NEUTRAL
    assert list(named(figure, "one seed").y) == [0, 0, 0, 2, 2, 2]
    assert list(figure.layout.yaxis.ticktext) == list(table["entry"])
    assert figure.layout.xaxis.title.text == "worst-group accuracy above ERM, pp"
    assert "no interval" in named(figure, "same on every seed").hovertemplate
    figure.to_json()


def test_without_a_shared_seed_there_is_a_note_and_no_difference():
    table, points = differences()
    figure = pairs.paired_differences(table.iloc[4:], points.iloc[:0], reference="ERM")
    assert "No seed is shared" in figure.layout.annotations[0].text
    assert len(figure.data) == 0


def pair(m: int = 4) -> pd.DataFrame:
    rng = np.random.default_rng(m)
    n = 40 * m
    return pd.DataFrame(
        {
            "sample_id": [f"s{i}" for i in range(n)],
            "group": rng.choice([f"g{g}" for g in range(m)], n),
            "weight_a": np.maximum(rng.normal(1, 1, n), 0),
            "weight_b": np.maximum(rng.normal(1, 1, n), 0),
        }
    )


@pytest.mark.parametrize("m", [1, 4, 16])
def test_weights_are_logarithms_and_zeros_stand_on_the_margin(m):
    table = pair(m)
    before = table.copy(deep=True)
    figure = pairs.weight_against_weight(
        table, label_a="A", label_b="B", correlation=0.714, colours=None
    )
    pd.testing.assert_frame_equal(table, before)
    main = figure.data[0]
    assert list(main.customdata) == list(table["sample_id"])
    positive = table["weight_a"].to_numpy() > 0
    np.testing.assert_allclose(
        main.x[positive], np.log10(table["weight_a"][positive]), rtol=1e-5, atol=1e-5
    )
    margin = figure.layout.xaxis.tickvals[0]
    np.testing.assert_allclose(main.x[~positive], margin, rtol=1e-6)
    assert figure.layout.xaxis.ticktext[0] == "0"
    assert (main.x[positive] > margin).all()
    both = int(((table["weight_a"] == 0) & (table["weight_b"] == 0)).sum())
    assert figure.layout.xaxis.title.text == "A: weight relative to uniform"
    text = figure.layout.annotations[0].text
    assert "rank correlation 0.71" in text
    assert (f"{both} samples" in text) == (both > 0)


def test_equal_and_empty_tables_are_drawn():
    table = pair().assign(weight_a=1.0, weight_b=1.0)
    figure = pairs.weight_against_weight(
        table, label_a="A", label_b="B", value_b="probability", correlation=np.nan
    )
    assert "rank correlation" not in figure.layout.annotations[0].text
    assert figure.layout.yaxis.title.text == "B: probability relative to uniform"
    figure.to_json()
    pairs.weight_against_weight(table.iloc[:0], label_a="A", label_b="B").to_json()


def test_the_same_tables_give_the_same_bytes():
    first, second = (
        theme.finish(pairs.weight_against_weight(pair(), label_a="A", label_b="B"), dark=True)
        for _ in range(2)
    )
    assert first.to_json() == second.to_json()
