import numpy as np
import pandas as pd
import pytest

from gsr_core.figures import theme, weights


def sample_weights(m: int, each: int = 50) -> pd.DataFrame:
    rng = np.random.default_rng(m)
    weight = np.maximum(rng.normal(0.5, 1, m * each), 0)
    return pd.DataFrame(
        {
            "sample_id": [f"s{i}" for i in range(m * each)],
            "group": np.repeat([f"g{g}" for g in range(m)], each),
            "weight": weight / weight.sum(),
        }
    )


@pytest.mark.parametrize("m", [1, 4, 16])
def test_distribution_rises_from_the_share_at_zero_to_all(m):
    table = sample_weights(m)
    before = table.copy(deep=True)
    figure = weights.weight_distribution(table, n=table["sample_id"].nunique())
    pd.testing.assert_frame_equal(table, before)
    (bars,) = [t for t in figure.data if t.type == "bar"]
    at_zero = dict(zip(bars.customdata, bars.y, strict=True))
    inks = dict(zip(bars.customdata, bars.marker.color, strict=True))
    lines = {t.name: t for t in figure.data if t.type == "scatter"}
    assert set(at_zero) == set(lines) == {f"g{g}" for g in range(m)}
    assert len(set(bars.x)) == m
    for name, rows in table.groupby("group"):
        zero = (rows["weight"] == 0).mean()
        assert at_zero[name] == pytest.approx(zero)
        assert inks[name] == lines[name].line.color
        y, x = np.asarray(lines[name].y), np.asarray(lines[name].x)
        assert y[0] == pytest.approx(zero)
        assert y[-1] == 1
        assert (np.diff(x) >= 0).all()
        assert x[-1] == pytest.approx(rows["weight"].max() * len(table))


def test_uniform_weights_stand_at_one():
    table = sample_weights(2).assign(weight=1 / 100)
    figure = weights.weight_distribution(table, n=table["sample_id"].nunique())
    for trace in figure.data:
        if trace.type == "scatter":
            np.testing.assert_allclose(trace.x, 1)


def test_distribution_is_small_whatever_the_number_of_samples():
    figure = weights.weight_distribution(sample_weights(2, 20_000), n=20_000)
    assert all(len(t.x) <= 512 for t in figure.data)
    many = weights.weight_distribution(sample_weights(16, 2_000), n=32_000)
    assert len(many.data) == 17  # a browser's time grows with these


def test_a_group_all_at_zero_and_one_without_samples_are_drawn():
    table = sample_weights(3)
    table.loc[table["group"] == "g0", "weight"] = 0.0
    table.loc[table["group"] == "g1", "weight"] = np.nan
    figure = weights.weight_distribution(
        table, n=len(table), colours=theme.group_colours(["g0", "g1", "g2"])
    )
    (bars,) = [t for t in figure.data if t.type == "bar"]
    none = float((table.loc[table["group"] == "g2", "weight"] == 0).mean())
    assert dict(zip(bars.customdata, bars.y, strict=True)) == {"g0": 1, "g2": none}
    figure.to_json()
    weights.weight_distribution(table.iloc[:0], n=1).to_json()


@pytest.mark.parametrize("steps", [1, 40])
def test_path_is_relative_to_uniform(steps):
    path = pd.DataFrame({"step": range(1, steps + 1), "weight": np.full(steps, 0.02)})
    figure = weights.weight_path(path, n=100, selected=1)
    (trace,) = figure.data
    np.testing.assert_allclose(trace.y, 2.0)
    assert {a.text for a in figure.layout.annotations} == {"1 = uniform", "kept step 1"}
    banded = weights.weight_path(path.assign(low=0.01, high=0.03), n=100)
    assert banded.data[0].name == "its group, 10–90 %"
    assert sorted(set(np.round(banded.data[0].y, 6))) == [1.0, 3.0]
    weights.weight_path(path.iloc[:0], n=100).to_json()


def test_influence_is_blue_below_zero_and_orange_above():
    table = pd.DataFrame(
        {
            "group": ["a", "b", "c"],
            "influence": [-0.5, 0.25, np.nan],
            "stronger_than": [0.9, 0.2, 0.5],
        }
    )
    before = table.copy(deep=True)
    figure = weights.sample_influence(table)
    pd.testing.assert_frame_equal(table, before)
    (bar,) = figure.data
    assert list(bar.marker.color)[:2] == [theme.HELPS, theme.HARMS]
    assert list(bar.text) == ["-0.5", "+0.25", "not known"]
    assert "more weight lowers the loss" in figure.layout.xaxis.title.text
    weights.sample_influence(table.iloc[:0]).to_json()


def test_influences_of_any_size_are_drawn_on_one_scale():
    table = pd.DataFrame(
        {"group": ["a", "b"], "influence": [-2e-3, 9e-4], "stronger_than": [0.9, 0.2]}
    )
    small = weights.sample_influence(table)
    large = weights.sample_influence(table.assign(influence=1e5 * table["influence"]))
    for figure in (small, large):
        assert list(figure.data[0].x) == [-0.9, 0.2]
        assert list(figure.layout.xaxis.range) == [-1.25, 1.25]


def test_the_same_table_gives_the_same_bytes():
    assert weights.weight_distribution(sample_weights(4), n=100).to_json() == (
        weights.weight_distribution(sample_weights(4), n=100).to_json()
    )


def test_shares_join_the_data_to_the_weight():
    data = {"g0": 0.9, "g1": 0.1, "g2": 0.0}
    figure = weights.weight_share(data, {"g0": 0.4, "g1": 0.6})
    assert [tuple(trace.x) for trace in figure.data] == [(0.9, 0.4), (0.1, 0.6), (0.0, 0.0)]
    assert [trace.y[0] for trace in figure.data] == ["g0", "g1", "g2"]
    assert figure.layout.yaxis.autorange == "reversed"
    weights.weight_share({}, {}).to_json()
