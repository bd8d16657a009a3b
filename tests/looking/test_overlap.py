"""IoU and AIoU: the laws of their definition, and how maps are brought to one scale."""

import numpy as np
import pytest

from gsr_core.looking.overlap import aiou, iou, scaled


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def box():
    region = np.zeros((6, 8), dtype=bool)
    region[1:4, 2:6] = True
    return region


def test_a_mask_overlaps_itself_wholly_and_what_is_elsewhere_not_at_all(box):
    assert iou(box.astype(float), box.astype(float)) == 1
    assert iou((~box).astype(float), box.astype(float)) == 0
    assert iou(np.zeros((6, 8)), np.zeros((6, 8))) == 0
    # Of masks it is what is common by what either has.
    half = np.zeros((6, 8))
    half[1:4, 4:8] = 1
    assert iou(half, box.astype(float)) == pytest.approx(6 / 18)


def test_overlap_is_in_0_and_1_and_grows_with_the_map_inside_alone(rng, box):
    for _ in range(50):
        maps = rng.random((6, 8))
        value = iou(maps, box.astype(float))
        assert 0 <= value <= 1
        assert iou(np.where(box, np.minimum(maps + 0.1, 1), maps), box) >= value
        assert iou(np.where(box, maps, np.minimum(maps + 0.1, 1)), box) <= value


def test_aiou_is_1_without_rivals_and_half_with_an_equal_one(rng, box):
    own, nothing = rng.random((6, 8)), np.zeros((6, 8))
    assert aiou(np.stack([own, nothing, nothing]), box, 0)[0] == 1
    assert aiou(np.stack([own, nothing, own]), box, 0) == (0.5, 2)
    assert aiou(np.stack([nothing, nothing]), box, 0)[0] == 0.5
    assert aiou(np.stack([nothing, own]), box, 0)[0] == 0


def test_aiou_knows_its_rivals_by_their_maps_alone(rng, box):
    maps = rng.random((5, 6, 8))
    value, rival = aiou(maps, box, 1)
    order = np.array([4, 1, 0, 2, 3])
    moved, other = aiou(maps[order], box, 1)
    assert moved == value
    assert order[other] == rival
    # Against one rival at a time, the strongest decides.
    pairs = [aiou(maps[[1, k]], box, 0)[0] for k in (0, 2, 3, 4)]
    assert value == min(pairs)
    # Two classes rate the same place the other way round.
    assert aiou(maps[:2], box, 0)[0] + aiou(maps[:2], box, 1)[0] == pytest.approx(1)


def test_each_map_is_cut_at_zero_and_has_a_scale_of_its_own(rng):
    maps = rng.normal(size=(4, 3, 5, 5))
    found = scaled(maps)
    assert found.min() == 0
    np.testing.assert_allclose(found.max(axis=(-2, -1)), 1)
    np.testing.assert_allclose(scaled(maps * np.array([1, 7, 0.1])[:, None, None]), found)
    assert not found[maps < 0].any()
    assert not scaled(np.full((2, 2), 3.0)).any()
    assert not scaled(np.full((2, 2), -3.0)).any()
