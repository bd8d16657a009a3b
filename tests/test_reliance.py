"""The reliance meter: its laws, on Gaussian cells whose answers are known."""

from dataclasses import astuple, replace

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.special import ndtr
from sklearn.linear_model import LogisticRegression

from gsr_core.errors import SettingError
from gsr_core.reliance import Reliance, leanings, measure_reliance


@pytest.fixture
def rng():
    return np.random.default_rng(2)


def cells(rng, n, d=6, conflicting=0.5):
    """Feature 0 is shifted by 1 with the class, feature 1 by 3 with the attribute; (n, d)."""
    y = np.arange(n) % 2 == 1
    a = np.where(rng.random(n) < conflicting, ~y, y)
    x = rng.normal(size=(n, d))
    x[:, 0] += np.where(y, 1, -1)
    x[:, 1] += np.where(a, 3, -3)
    return x, y, a


def measured(x, y, a, w, **more) -> Reliance:
    return measure_reliance(x, np.arange(len(x)), y, a, w, **more)


def without_raw(found: Reliance) -> np.ndarray:
    """All but the cosines of the features as they are."""
    return np.array(astuple(replace(found, cosine=0.0, core_cosine=0.0)))


def test_all_but_the_raw_cosine_is_blind_to_an_invertible_map(rng):
    x, y, a = cells(rng, 400)
    w = rng.normal(size=6)
    x[:, 2] += 2 * y * a  # so that an interaction is there
    one = measured(x, y, a, w, bias=0.3, shrinkage=0)
    matrix, shift = rng.normal(size=(6, 6)), rng.normal(size=6)
    moved = np.linalg.solve(matrix.T, w)
    other = measured(x @ matrix.T + shift, y, a, moved, bias=0.3 - moved @ shift, shrinkage=0)
    np.testing.assert_allclose(without_raw(other), without_raw(one), rtol=1e-7)
    assert abs(other.cosine - one.cosine) > 0.05


def test_the_length_of_the_weight_means_nothing(rng):
    x, y, a = cells(rng, 300)
    w = rng.normal(size=6)
    one, longer = measured(x, y, a, w), measured(x, y, a, 7.5 * w)
    np.testing.assert_allclose(astuple(longer), astuple(one), rtol=1e-9, equal_nan=True)
    # Nor does a vector that every class has.
    weight, labels, values = rng.normal(size=(3, 6)), rng.integers(3, size=300), a.astype(int)
    both = (
        leanings(x, np.arange(300), labels, values, each)
        for each in (weight, weight + rng.normal(size=6))
    )
    first, second = (each.to_numpy() for each in both)
    assert len(first) == 3
    np.testing.assert_allclose(second, first, rtol=1e-9)


def test_turning_the_attribute_round_turns_its_signs(rng):
    x, y, a = cells(rng, 400)
    w = rng.normal(size=6)
    one, turned = measured(x, y, a, w), measured(x, y, ~a, w)
    for name in ("lean", "cosine", "whitened"):
        assert getattr(turned, name) == pytest.approx(-getattr(one, name))
    assert turned.auroc == pytest.approx(1 - one.auroc)
    for name in ("core", "core_whitened", "share", "core_share", "joint_share"):
        assert getattr(turned, name) == pytest.approx(getattr(one, name))


def test_a_weight_across_the_attribute_does_not_lean(rng):
    x, y, a = cells(rng, 400)
    means = np.array([[x[(y == k) & (a == v)].mean(axis=0) for v in (0, 1)] for k in (0, 1)])
    direction = (means[:, 1] - means[:, 0]).mean(axis=0)
    w = rng.normal(size=6)
    w -= w @ direction / (direction @ direction) * direction
    found = measured(x, y, a, w)
    assert found.lean == pytest.approx(0, abs=1e-12)
    assert found.share == pytest.approx(0, abs=1e-12)


def test_cosines_are_bounded_and_reached_by_the_whitened_direction_alone(rng):
    x, y, a = cells(rng, 300)
    x = x @ sqrtm(np.cov(rng.normal(size=(9, 6)).T))
    for _ in range(20):
        found = measured(x, y, a, rng.normal(size=6))
        cosines = [found.cosine, found.whitened, found.core_cosine, found.core_whitened]
        assert np.abs(cosines).max() < 1
        assert found.share + found.core_share + found.joint_share == pytest.approx(1, abs=1e-12)
    means = np.array([[x[(y == k) & (a == v)].mean(axis=0) for v in (0, 1)] for k in (0, 1)])
    inside = [np.cov(x[(y == k) & (a == v)].T) for k in (0, 1) for v in (0, 1)]
    pooled = np.mean(inside, axis=0)
    shrunk = 0.9 * pooled + 0.1 * np.trace(pooled) / 6 * np.eye(6)
    direction = (means[:, 1] - means[:, 0]).mean(axis=0)
    w = -np.linalg.solve(shrunk, direction)
    assert measured(x, y, a, w, shrinkage=0.1).whitened == pytest.approx(-1)


def test_numbers_are_those_of_the_definitions(rng):
    x, y, a = cells(rng, 300)
    x[:, 3] += 1.5 * (y & a)
    w = rng.normal(size=6)
    found = measured(x, y, a, w, shrinkage=0.2)
    s = x @ w
    mean = {(k, v): s[(y == k) & (a == v)].mean() for k in (0, 1) for v in (0, 1)}
    shift = (mean[0, 1] - mean[0, 0] + mean[1, 1] - mean[1, 0]) / 2
    pooled = np.mean([np.cov(x[(y == k) & (a == v)].T) for k in (0, 1) for v in (0, 1)], axis=0)
    sigma = np.sqrt(w @ (0.8 * pooled + 0.2 * np.trace(pooled) / 6 * np.eye(6)) @ w)
    assert found.lean == pytest.approx(shift / sigma)
    assert found.share == pytest.approx(shift**2 / 4 / np.var(list(mean.values())))
    pairs = [s[(y == k) & a][:, None] - s[(y == k) & ~a][None] for k in (0, 1)]
    assert found.auroc == pytest.approx(np.mean([(each > 0).mean() for each in pairs]))
    # The table of all values and pairs says the same.
    table = leanings(
        x, np.arange(300), y.astype(int), a.astype(int), np.array([0 * w, w]), shrinkage=0.2
    )
    (row,) = table.to_dict("records")
    assert (row["value"], row["one"], row["two"]) == (1, 0, 1)
    for name in ("lean", "core", "share"):
        assert row[name] == pytest.approx(getattr(found, name))


def test_of_many_rows_the_error_of_a_cell_is_that_of_its_formula(rng):
    x, y, a = cells(rng, 200_000, conflicting=0.2)
    w, b = np.array([1.0, 0.8, 0.3, 0, 0, 0]), 0.2
    found = measured(x, y, a, w, bias=b, shrinkage=0)
    wrong = (x @ w + b > 0) != y
    worst = max(wrong[(y == k) & (a == v)].mean() for k in (0, 1) for v in (0, 1))
    assert found.worst_error == pytest.approx(worst, abs=0.005)
    # Equal variances: the AUROC is that of the lean.
    assert found.auroc == pytest.approx(ndtr(found.lean / np.sqrt(2)), abs=0.005)
    assert found.lean_low < found.lean < found.lean_high


def test_erm_leans_on_the_shortcut_and_a_head_of_balanced_rows_does_not(rng):
    x, y, a = cells(rng, 8000, d=30)
    found = {}
    for name, n, conflicting in (("erm", 500, 0.05), ("balanced", 600, 0.5)):
        fit_x, fit_y, _ = cells(rng, n, d=30, conflicting=conflicting)
        head = LogisticRegression(C=1 / (0.1 * n)).fit(fit_x, fit_y)
        found[name] = measured(x, y, a, head.coef_[0])
    assert 3.8 < abs(found["erm"].lean) < 5.2
    assert 0.95 < found["erm"].core < 1.4
    assert abs(found["balanced"].lean) < 0.3
    assert 1.8 < found["balanced"].core < 2.0


def test_the_interval_holds_as_often_as_it_says(rng):
    truth, held = 6 * 0.5 / np.sqrt(1.25), 0
    w = np.array([1.0, 0.5, 0])
    for seed in range(60):
        x, y, a = cells(rng, 160, d=3)
        found = measured(x, y, a, w, shrinkage=0, seed=seed)
        held += found.lean_low <= truth <= found.lean_high
    assert held >= 50  # of 57 to be expected


def test_several_values_are_each_held_against_the_rest(rng):
    x, y, _ = cells(rng, 600)
    values = rng.integers(-1, 3, size=600)
    x[:, 2] += 4 * (values == 2)
    weight = rng.normal(size=(2, 6))
    table = leanings(x, np.arange(600), y.astype(int), values, weight)
    assert table["value"].tolist() == [0, 1, 2]
    known = np.flatnonzero(values >= 0)
    for row in table.to_dict("records"):
        alone = measure_reliance(
            x, known, y[known], values[known] == row["value"], weight[1] - weight[0]
        )
        assert (row["lean"], row["share"]) == pytest.approx((alone.lean, alone.share))


def test_what_cannot_be_measured_is_left_out_or_refused(rng):
    x, y, a = cells(rng, 200)
    a[y] = True
    rows, weight = np.arange(200), rng.normal(size=(2, 6))
    assert leanings(x, rows, y.astype(int), a.astype(int), weight).empty
    with pytest.raises(SettingError, match="0 rows; 10 are needed"):
        measured(x, y, a, weight[0])
    with pytest.raises(SettingError, match="shrinkage is 2; allowed are fractions"):
        leanings(x, rows, y.astype(int), a.astype(int), weight, shrinkage=2)
    with pytest.raises(SettingError, match="31 classes; reliance is measured of up to 30"):
        leanings(x, rows, y.astype(int), a.astype(int), np.zeros((31, 6)))
    x, y, a = cells(rng, 200)
    x[:, 5] = 0
    with pytest.raises(SettingError, match="choose a shrinkage above 0"):
        measured(x, y, a, weight[0], shrinkage=0)
    zero = measured(x, y, a, np.zeros(6))
    assert np.isnan(zero.lean)
