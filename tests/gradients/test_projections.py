import numpy as np
import pytest
from sklearn.decomposition import PCA

from gsr_core.gradients import projections
from gsr_core.gradients.projections import pca_map, umap_map


def blobs(n: int = 60, columns: int = 5) -> np.ndarray:
    """Two clusters in two directions, the first and the second half of the rows."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(scale=0.1, size=(n, columns))
    matrix[: n // 2, 0] += 1
    matrix[n // 2 :, 1] += 1
    return matrix.astype(np.float32)


def apart(places: np.ndarray) -> bool:
    """Whether the gap between the halves is wider than either half."""
    first, second = np.split(places, 2)
    spread = max(np.linalg.norm(half - half.mean(0), axis=1).max() for half in (first, second))
    return bool(np.linalg.norm(first.mean(0) - second.mean(0)) > 2 * spread)


@pytest.fixture(scope="session")
def fitted() -> tuple[np.ndarray, list[tuple[float, str]]]:
    """The one full UMAP fit of these tests: compiling it takes a while."""
    told: list[tuple[float, str]] = []
    places = umap_map(
        blobs(columns=60), seed=0, progress=lambda fraction, text: told.append((fraction, text))
    )
    return places, told


@pytest.mark.parametrize("columns", [5, 60, 1100])
def test_pca_map_equals_scikit_learn_up_to_sign(columns):
    matrix = np.random.default_rng(0).normal(size=(50, columns)) + 3
    matrix[:, 0] *= 60
    matrix[:, 1] *= 40
    found = pca_map(matrix)
    expected = PCA(2, svd_solver="full").fit_transform(matrix)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=1e-3, atol=1e-3)


def test_pca_map_is_deterministic_and_does_not_flip_with_row_order():
    matrix = blobs()
    np.testing.assert_array_equal(pca_map(matrix), pca_map(matrix))
    np.testing.assert_allclose(pca_map(matrix[::-1]), pca_map(matrix)[::-1], atol=1e-5)


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (5, 1), (2, 2)])
def test_pca_map_fills_up_with_zeros(shape):
    assert pca_map(np.ones(shape, np.float32)).shape == (shape[0], 2)


def test_umap_separates_planted_blobs_and_tells_its_progress(fitted):
    places, told = fitted
    assert places.dtype == np.float32
    assert apart(places)
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions)
    assert told[-1] == (1.0, "Done")


def test_seeded_umap_repeats(fitted):
    np.testing.assert_array_equal(umap_map(blobs(columns=60), seed=0), fitted[0])


def test_rows_above_the_limit_are_placed_beside_their_like(fitted):
    assert apart(umap_map(blobs(), seed=0, limit=30))


def test_unseeded_umap_separates_planted_blobs_too(fitted):
    assert apart(umap_map(blobs(), seed=None))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize(
    "matrix",
    [
        np.zeros((30, 3)),
        np.repeat(np.eye(3, 5), 10, axis=0),
        np.vstack([np.ones((4, 3)), -np.ones((4, 3))]),
        blobs(4),
        blobs(6)[:, :1],
        blobs(2),
        np.ones((1, 3)),
        np.zeros((0, 3)),
    ],
    ids=["zero", "copies", "opposite", "four rows", "one column", "two rows", "one row", "none"],
)
def test_umap_of_degenerate_rows_is_finite(fitted, matrix, metric):
    places = umap_map(matrix, metric=metric)
    assert places.shape == (len(matrix), 2)
    assert np.isfinite(places).all()


def test_sample_is_proportional_and_keeps_rare_strata_whole(monkeypatch):
    monkeypatch.setattr(projections, "_KEPT_PER_STRATUM", 10)
    strata = np.array(["common"] * 9000 + ["half"] * 990 + ["rare"] * 10)
    sample = projections._sample(10_000, 1000, strata, np.random.default_rng(0))
    assert len(np.unique(sample)) == 1000
    names, counts = np.unique(strata[sample], return_counts=True)
    found = dict(zip(names, counts, strict=True))
    assert found["rare"] == 10
    assert found["half"] == pytest.approx(99, abs=5)
