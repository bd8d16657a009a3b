from dataclasses import fields, replace

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from gsr_core.data.problem import Rows
from gsr_core.inference.base import OUTLIER, ClassClusters, in_words, within_classes

SPLITS = ("weighted", "target", "val")


def same(one, two) -> bool:
    """Whether two inferences put the same rows together."""
    return all(
        adjusted_rand_score(getattr(one, split), getattr(two, split)) == 1 for split in SPLITS
    )


def shuffled(rows: Rows, seed: int) -> Rows:
    order = np.random.default_rng(seed).permutation(len(rows))
    return replace(rows, groups=rows.groups[order])


def test_every_row_has_a_group_within_its_class_and_every_group_a_weighted_row(inference, blobs):
    found = inference.infer(blobs)
    assert len(found.names) == len(set(found.names)) == found.n_groups
    np.testing.assert_array_equal(
        np.unique(found.weighted[found.weighted != OUTLIER]), range(found.n_groups)
    )
    for split in SPLITS:
        rows, group = getattr(blobs, split), getattr(found, split)
        assert group.dtype == np.int64
        assert len(group) == len(rows)
        for each in range(found.n_groups):
            (label,) = {
                *rows.labels.cpu().numpy()[group == each].tolist(),
                int(found.names[each].split(",")[0].removeprefix("class ")),
            }
            assert found.names[each].startswith(f"class {label}, ")


def test_shuffled_group_columns_change_nothing(inference, blobs):
    found = inference.infer(blobs)
    kept = ("target",) if inference.reads_target_groups else ()
    moved = {split: shuffled(getattr(blobs, split), 5) for split in SPLITS if split not in kept}
    again = inference.infer(replace(blobs, **moved))
    for split in SPLITS:
        np.testing.assert_array_equal(getattr(again, split), getattr(found, split))
    assert again.choice == found.choice
    if kept:
        other = inference.infer(replace(blobs, target=shuffled(blobs.target, 5)))
        assert not same(other, found)


def test_the_order_in_memory_decides_nothing(inference, blobs, reordered):
    found = inference.infer(blobs)
    moved = reordered(blobs, 1)
    again = inference.infer(moved)
    assert again.names == found.names
    for split in SPLITS:
        np.testing.assert_array_equal(
            getattr(again, split), getattr(found, split)[getattr(moved, split).position]
        )


def test_the_order_in_the_bundle_leaves_the_partition_alone(inference, blobs, reordered):
    found = inference.infer(blobs)
    moved = reordered(blobs, 2)
    renumbered = {
        split: replace(getattr(moved, split), position=np.arange(len(getattr(moved, split))))
        for split in SPLITS
    }
    again = inference.infer(replace(moved, **renumbered))
    for split in SPLITS:
        before = getattr(found, split)[getattr(moved, split).position]
        assert adjusted_rand_score(getattr(again, split), before) == 1


def test_naming_the_classes_the_other_way_leaves_the_partition_alone(inference, blobs):
    renamed = {
        split: replace(getattr(blobs, split), labels=1 - getattr(blobs, split).labels)
        for split in SPLITS
    }
    assert same(inference.infer(replace(blobs, **renamed)), inference.infer(blobs))


def test_it_is_repeated_to_the_bit(inference, blobs):
    one, two = inference.infer(blobs), inference.infer(blobs)
    for split in SPLITS:
        np.testing.assert_array_equal(getattr(one, split), getattr(two, split))


def test_a_class_absent_from_weighted_or_target_is_no_accident(inference, blobs, make_rows):
    def with_label(rows, label):
        return Rows(
            *(
                part[rows.labels.cpu().numpy() == label]
                for part in (rows.features, rows.labels, rows.groups, rows.position)
            )
        )

    for split in SPLITS:
        part = with_label(getattr(blobs, split), 1)
        found = inference.infer(replace(blobs, **{split: part}))
        assert len(getattr(found, split)) == len(part)
        assert found.n_groups >= 1
        kept = found.weighted[found.weighted != OUTLIER]
        assert set(kept) == set(range(found.n_groups))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_tiny_classes_stay_whole_or_split_but_lose_no_row(inference, blobs, size):
    rows = blobs.weighted
    kept = np.concatenate([np.arange(0, 120, 2), np.arange(1, 1 + 2 * size, 2)])
    few = Rows(*(getattr(rows, each.name)[kept] for each in fields(rows)))
    found = inference.infer(replace(blobs, weighted=few))
    assert (found.weighted[-size:] != OUTLIER).all()


def test_clusters_are_numbered_by_size_and_named_by_class(blobs):
    half = np.zeros(60, dtype=np.int64)
    half[:40], half[40:45] = 9, OUTLIER
    target, val = np.full(20, 9), np.full(20, OUTLIER)
    clusters = {0: ClassClusters(half, target, val), 1: ClassClusters(half, target, val)}
    found = within_classes(blobs, clusters, "as planted", [{"class": 0}], word="part")
    assert found.names == (
        "class 0, part 0",
        "class 0, part 1",
        "class 1, part 0",
        "class 1, part 1",
    )
    labels = blobs.weighted.labels.cpu().numpy()
    for label in (0, 1):
        own = found.weighted[labels == label]
        assert (own[:40] == 2 * label).all()
        assert (own[40:45] == OUTLIER).all()
        assert (own[45:] == 2 * label + 1).all()
    assert found.n_outliers == 10
    np.testing.assert_array_equal(found.target, 2 * blobs.target.labels.cpu().numpy())
    assert (found.val == OUTLIER).all()


def test_a_choice_is_said_in_words():
    assert in_words({}, {}) == "no class could be split"
    assert in_words({1: 0.5}, {1: "k 2"}) == "silhouette 0.50 chose k 2 in class 1"
    many = {label: label / 10 for label in range(5)}
    assert in_words(many, dict.fromkeys(many, "")) == "silhouettes from 0.00 to 0.40 over 5 classes"
