"""Batches of images in memory: read together or one by one, they are the same."""

import numpy as np
import torch

from gsr_core.data.inputs import ImageArrays
from gsr_core.features.batches import AS_IT_IS, Batches
from gsr_core.features.preprocessing import ImagePreprocessing

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 12, 12, 3), dtype=np.uint8)
NORMAL = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)}


def read(preprocessing, epoch=0, **options):
    labels = np.arange(20) % 3
    batches = Batches(ImageArrays(IMAGES), labels, preprocessing, workers=0, **options)
    rows = [np.array([3, 17, 0]), np.array([5, 5])]
    return list(batches.read(rows, epoch)), np.concatenate(rows)


def test_images_of_the_networks_size_are_prepared_together_to_the_same_bits():
    preprocessing = ImagePreprocessing(image_size=12, **NORMAL)
    found, rows = read(preprocessing)
    inputs = torch.cat([batch for batch, _ in found])
    assert torch.equal(inputs, torch.stack([preprocessing.prepare(IMAGES[row]) for row in rows]))
    assert torch.cat([labels for _, labels in found]).tolist() == (rows % 3).tolist()
    assert found[0][1].dtype == torch.int64


def test_images_of_another_size_are_prepared_one_by_one():
    for preprocessing in (
        ImagePreprocessing(image_size=8, **NORMAL),
        ImagePreprocessing(image_size=12, resize=16, **NORMAL),
    ):
        assert preprocessing.prepare_as_they_are(IMAGES) is None
        found, rows = read(preprocessing)
        inputs = torch.cat([batch for batch, _ in found])
        expected = torch.stack([preprocessing.prepare(IMAGES[row]) for row in rows])
        assert torch.equal(inputs, expected)


def test_images_that_are_changed_at_random_are_not_taken_as_they_are():
    preprocessing = ImagePreprocessing(image_size=12, **NORMAL)
    plain, _ = read(preprocessing)
    changed, _ = read(preprocessing, augment="crop-flip")
    scored, _ = read(preprocessing, AS_IT_IS, augment="crop-flip")
    assert not torch.equal(changed[0][0], plain[0][0])
    assert torch.equal(scored[0][0], plain[0][0])
