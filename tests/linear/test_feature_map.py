import pytest
import torch

from gsr_core.linear.feature_map import FeatureMap


def random_features(n, d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.logspace(-2, 2, d)
    return torch.randn(n, d, generator=generator) * scale + 3 * scale


def assert_same_logits(mapping, fresh, rtol=1e-9):
    generator = torch.Generator().manual_seed(1)
    rows = mapping.design(fresh, torch.float64)
    theta = torch.randn(rows.shape[1], 3, generator=generator, dtype=torch.float64)
    logits = mapping.head(theta).logits(fresh.double())
    torch.testing.assert_close(logits, rows @ theta, rtol=rtol, atol=1e-9)


@pytest.mark.parametrize("standardise", [True, False])
@pytest.mark.parametrize("row_space", [True, False])
@pytest.mark.parametrize(("n", "d"), [(50, 6), (5, 12), (7, 6), (6, 6)])
def test_the_head_on_raw_features_gives_the_logits_of_the_design_rows(n, d, standardise, row_space):
    mapping = FeatureMap.fit(
        random_features(n, d), standardise=standardise, dtype=torch.float64, row_space=row_space
    )
    assert_same_logits(mapping, random_features(20, d, seed=7))


def test_standardised_rows_have_mean_zero_and_deviation_one_and_a_one():
    features = random_features(50, 6)
    mapping = FeatureMap.fit(features, standardise=True, dtype=torch.float64)
    rows = mapping.design(features, torch.float64)
    variance, mean = torch.var_mean(rows[:, :-1], dim=0, correction=0)
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-9)
    torch.testing.assert_close(variance, torch.ones_like(variance))
    assert torch.equal(rows[:, -1], torch.ones(50, dtype=torch.float64))


def test_without_standardising_the_rows_are_the_features():
    features = random_features(50, 6)
    mapping = FeatureMap.fit(features, standardise=False, dtype=torch.float64)
    assert torch.equal(mapping.design(features, torch.float64)[:, :-1], features.double())


@pytest.mark.parametrize("n", [50, 4])
def test_the_row_space_keeps_inner_products_and_is_no_wider_than_it_need_be(n):
    features = random_features(n, 12)
    mapping = FeatureMap.fit(features, standardise=True, dtype=torch.float64)
    whole = FeatureMap.fit(features, standardise=True, dtype=torch.float64, row_space=False)
    rows = mapping.design(features, torch.float64)
    dense = whole.design(features, torch.float64)
    assert rows.shape[1] == min(n, 13)
    torch.testing.assert_close(rows @ rows.T, dense @ dense.T)


@pytest.mark.parametrize("constant", [0.0, 5.0, -1e-20, 1e20])
def test_a_constant_feature_is_only_centred(constant):
    features = random_features(30, 4)
    features[:, 2] = constant
    mapping = FeatureMap.fit(features, standardise=True, dtype=torch.float64)
    rows = mapping.design(features, torch.float64)
    assert mapping.scale[2] == 1
    assert rows.isfinite().all()
    assert rows[:, 2].abs().max() <= 1e-6 * max(abs(constant), 1e-300)


def test_a_feature_that_varies_only_by_rounding_is_not_blown_up():
    features = random_features(30, 4)
    features[:, 2] = 1000
    features[0, 2] = torch.nextafter(features[0, 2], torch.tensor(2000.0))
    mapping = FeatureMap.fit(features, standardise=True, dtype=torch.float64)
    assert mapping.scale[2] == 1
    assert_same_logits(mapping, features)


def test_a_small_but_real_variation_is_standardised():
    features = random_features(30, 4)
    features[:, 2] *= 1e-12
    mapping = FeatureMap.fit(features, standardise=True, dtype=torch.float64)
    rows = mapping.design(features, torch.float64)
    torch.testing.assert_close(rows[:, 2].std(correction=0), torch.ones((), dtype=torch.float64))


def test_one_row_is_enough():
    features = random_features(1, 4)
    mapping = FeatureMap.fit(features, standardise=True, dtype=torch.float64)
    assert_same_logits(mapping, features)
