"""Noisy labels, fewer group labels and a shared set: what they change, and what they leave."""

import numpy as np
import pandas as pd
import pytest
import torch

from gsr_core.data.bundle import Bundle
from gsr_core.data.bundle_writing import write_bundle
from gsr_core.data.groups import Group
from gsr_core.data.problem import load_problem
from gsr_core.data.seen import seen_groups
from gsr_core.data.seen_rows import positions_of, seen_labels, seen_membership
from gsr_core.data.variation import (
    Variation,
    balance,
    flip_groups,
    flip_labels,
    keep_share,
    make_variation,
)
from gsr_core.errors import SettingError

SIZES = {"train": 12, "heldout": 41, "target": 97, "val": 97, "test": 30}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    """Three classes by two colours, of which one combination is rare; rows of splits are mixed."""
    rng = np.random.default_rng(3)
    split = rng.permutation(np.repeat(list(SIZES), list(SIZES.values())))
    n = len(split)
    y = rng.integers(3, size=n)
    colour = np.where(y == 2, rng.random(n) < 0.1, rng.random(n) < 0.5).astype(int)
    samples = pd.DataFrame(
        {"sample_id": [f"s{row}" for row in range(n)], "split": split, "y": y, "colour": colour}
    )
    # The second and third group overlap.
    membership = np.stack([colour == 0, colour == 1, y == 2], axis=1)
    return write_bundle(
        tmp_path_factory.mktemp("varied") / "varied",
        samples=samples,
        membership=membership,
        groups=[Group(name=name, definition=name) for name in ("red", "green", "third")],
        classes=["a", "b", "c"],
        features=rng.normal(size=(n, 2)).astype(np.float32),
        source="made for a test",
    )


@pytest.mark.parametrize("share", [0.0, 0.05, 0.1, 0.25, 0.6])
@pytest.mark.parametrize("n_classes", [2, 5])
def test_as_many_labels_are_flipped_as_asked_and_never_to_themselves(share, n_classes):
    labels = np.random.default_rng(0).integers(n_classes, size=143)
    seen = flip_labels(labels, np.arange(143), share=share, n_classes=n_classes, seed=1)
    assert (seen != labels).sum() == round(share * 143)
    assert ((seen >= 0) & (seen < n_classes)).all()


def test_a_flipped_label_is_any_other_class_with_equal_chance():
    labels = np.zeros(40_000, dtype=np.int64)
    seen = flip_labels(labels, np.arange(len(labels)), share=0.75, n_classes=4, seed=0)
    counts = np.bincount(seen, minlength=4)
    assert counts[0] == 10_000
    # 10,000 of each are expected; five standard deviations of a binomial draw.
    np.testing.assert_allclose(counts[1:], 10_000, atol=5 * np.sqrt(30_000 * 2 / 9))


def test_flips_belong_to_positions_and_the_seed_and_grow_with_the_share():
    rng = np.random.default_rng(2)
    labels, position = rng.integers(3, size=200), np.sort(rng.permutation(1000)[:200])
    order = rng.permutation(200)
    said = {"share": 0.2, "n_classes": 3}
    first = flip_labels(labels, position, seed=4, **said)
    moved = flip_labels(labels[order], position[order], seed=4, **said)
    np.testing.assert_array_equal(moved, first[order])
    assert (flip_labels(labels, position, seed=5, **said) != first).any()
    more = flip_labels(labels, position, seed=4, share=0.4, n_classes=3)
    flipped = first != labels
    np.testing.assert_array_equal(more[flipped], first[flipped])


def test_only_the_weighted_rows_of_a_problem_are_noisy(bundle, compute):
    varied = Variation(label_noise=0.3)
    clean, clean_test = load_problem(bundle, compute, seed=2)
    noisy, noisy_test = load_problem(bundle, compute, seed=2, variation=varied)
    flipped = clean.weighted.labels != noisy.weighted.labels
    assert int(flipped.sum()) == round(0.3 * SIZES["heldout"])
    torch.testing.assert_close(clean.weighted.groups, noisy.weighted.groups)
    pairs = [
        (clean.target, noisy.target),
        (clean.val, noisy.val),
        (clean.train(), noisy.train()),
        (clean_test, noisy_test),
    ]
    for mine, other in pairs:
        np.testing.assert_array_equal(mine.position, other.position)
        assert torch.equal(mine.labels, other.labels)
    seen = seen_labels(bundle, 2, varied)
    np.testing.assert_array_equal(
        np.flatnonzero(seen != bundle.y), clean.weighted.position[flipped.cpu().numpy()]
    )


KNOWN = np.array(
    [[True, True, False, True], [False, True, False, False], [True, False, True, False]]
)


@pytest.mark.parametrize("share", [0.0, 0.15, 0.6])
def test_changed_groups_are_others_of_the_class_with_equal_chance(share):
    labels = np.random.default_rng(0).integers(3, size=3000)
    pattern = np.array([0, 1, 2])[labels]
    position = np.arange(3000)
    seen = flip_groups(labels, pattern, position, share=share, known=KNOWN, seed=1)
    assert KNOWN[labels, seen].all()
    # A row of the second class has no other combination.
    assert (seen[labels == 1] == 1).all()
    for label, others in ((0, [1, 3]), (2, [0])):
        changed = seen[(labels == label) & (seen != pattern)]
        n = (labels == label).sum()
        assert len(changed) == pytest.approx(share * n, abs=5 * np.sqrt(n / 4))
        counts = np.bincount(changed, minlength=4)[others]
        assert counts.sum() == len(changed)
        np.testing.assert_allclose(
            counts, len(changed) / len(others), atol=5 * np.sqrt(len(changed)) / 2
        )
    order = np.random.default_rng(1).permutation(3000)
    moved = flip_groups(
        labels[order], pattern[order], position[order], share=share, known=KNOWN, seed=1
    )
    np.testing.assert_array_equal(moved, seen[order])


def test_only_the_groups_of_weighted_and_target_rows_are_noisy(bundle, compute):
    clean, clean_test = load_problem(bundle, compute, seed=2)
    noisy, noisy_test = load_problem(bundle, compute, seed=2, variation=Variation(group_noise=0.4))
    pairs = {
        "weighted": (clean.weighted, noisy.weighted),
        "target": (clean.target, noisy.target),
        "val": (clean.val, noisy.val),
        "train": (clean.train(), noisy.train()),
        "test": (clean_test, noisy_test),
    }
    for split, (mine, other) in pairs.items():
        np.testing.assert_array_equal(mine.position, other.position)
        assert torch.equal(mine.labels, other.labels)
        changed = int((mine.groups != other.groups).any(dim=1).sum())
        # Every class has two combinations, so that each chosen row changes.
        assert changed == (round(0.4 * len(mine)) if split in ("weighted", "target") else 0)
    rows, noise = clean.target.position, Variation(group_noise=0.4)
    seen = seen_membership(bundle, seen_groups(bundle), "target", rows, 2, noise)
    np.testing.assert_array_equal(seen, noisy.target.groups.cpu().numpy())


def test_rows_in_no_group_get_no_group_and_give_no_shares(tmp_path, bundle):
    membership = bundle.membership.copy()
    membership[bundle.rows_of["heldout"]] = False
    membership[bundle.rows_of["target"][:9]] = False
    other = write_bundle(
        tmp_path / "unlabelled",
        samples=bundle.samples,
        membership=membership,
        groups=bundle.manifest.groups,
        classes=bundle.manifest.classes,
        features=np.array(bundle.features),
        source="made for a test",
    )
    noise = Variation(group_noise=0.5)
    heldout, target = other.rows_of["heldout"], other.rows_of["target"]
    own = seen_groups(other)
    assert not seen_membership(other, own, "heldout", heldout, 0, noise).any()
    seen = seen_membership(other, own, "target", target, 0, noise)
    np.testing.assert_array_equal(seen.any(axis=1), membership[target].any(axis=1))
    assert (seen != membership[target]).any(axis=1).sum() == round(0.5 * (len(target) - 9))
    with pytest.raises(SettingError, match="no row of heldout is in a group that target has"):
        positions_of(other, 0, Variation(target_balance=0.5))


@pytest.mark.parametrize("seed", [0, 3])
def test_target_goes_from_the_shares_of_the_weighted_rows_to_equal_ones(bundle, seed):
    found, which = bundle.group_patterns
    stratum = bundle.y * len(found) + which
    whole = positions_of(bundle, seed)
    there = np.unique(stratum[whole["target"]])
    natural = np.array([(stratum[whole["heldout"]] == each).sum() for each in there])
    natural = natural / natural.sum()
    sizes = []
    for level in (0.0, 0.3, 1.0):
        varied = positions_of(bundle, seed, Variation(target_balance=level))
        target = varied["target"]
        assert set(target) <= set(whole["target"])
        assert (np.diff(target) > 0).all()
        counts = np.array([(stratum[target] == each).sum() for each in there])
        wanted = (1 - level) * natural + level / len(there)
        assert (counts >= 1).all()
        np.testing.assert_allclose(counts, wanted * counts.sum(), atol=1.5)
        sizes.append(counts.sum())
        for split in ("train", "heldout", "val", "test"):
            np.testing.assert_array_equal(varied[split], whole[split])
    assert max(sizes) - min(sizes) <= len(there)
    order = np.random.default_rng(0).permutation(len(whole["target"]))
    rows = whole["target"]
    share = dict(zip(there, natural, strict=True))
    each = np.array([share[value] for value in stratum[rows]])
    one = balance(rows, stratum[rows], each, level=0.3, seed=seed)
    two = balance(rows[order], stratum[rows][order], each[order], level=0.3, seed=seed)
    assert set(one) == set(two)


@pytest.mark.parametrize("seed", [0, 3])
def test_a_budget_keeps_every_stratum_and_its_share(bundle, seed):
    found, which = bundle.group_patterns
    stratum = bundle.y * len(found) + which
    whole = positions_of(bundle, seed)
    before = dict(zip(*np.unique(stratum[whole["target"]], return_counts=True), strict=True))
    kept = {}
    for share in (0.05, 0.2, 0.5, 1.0):
        varied = positions_of(bundle, seed, Variation(target_share=share))
        kept[share] = set(varied["target"].tolist())
        after = dict(zip(*np.unique(stratum[varied["target"]], return_counts=True), strict=True))
        assert after == {each: max(round(share * n), 1) for each, n in before.items()}
        assert (np.diff(varied["target"]) > 0).all()
        for split in ("train", "heldout", "val", "test"):
            np.testing.assert_array_equal(varied[split], whole[split])
        present = bundle.membership[varied["target"]].any(axis=0)
        np.testing.assert_array_equal(present, bundle.membership[whole["target"]].any(axis=0))
    assert kept[0.05] < kept[0.2] < kept[0.5] < kept[1.0]
    assert kept[1.0] == set(whole["target"].tolist())


def test_what_a_budget_keeps_does_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(0)
    position, stratum = np.sort(rng.permutation(500)[:90]), rng.integers(4, size=90)
    order = rng.permutation(90)
    first = keep_share(position, stratum, share=0.3, seed=7)
    moved = keep_share(position[order], stratum[order], share=0.3, seed=7)
    assert set(first) == set(moved)
    assert set(first) != set(keep_share(position, stratum, share=0.3, seed=8))


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_a_leak_makes_val_the_target_rows(bundle, compute, share):
    problem, test = load_problem(
        bundle, compute, seed=1, variation=Variation(leak=True, target_share=share)
    )
    own, own_test = load_problem(bundle, compute, seed=1, variation=Variation(target_share=share))
    np.testing.assert_array_equal(problem.val.position, problem.target.position)
    np.testing.assert_array_equal(problem.target.position, own.target.position)
    assert torch.equal(problem.val.features, own.target.features)
    np.testing.assert_array_equal(test.position, own_test.position)


@pytest.mark.parametrize("seed", [0, 2])
def test_no_variation_is_the_same_problem_bit_by_bit(bundle, compute, seed):
    plain, plain_test = load_problem(bundle, compute, seed=seed)
    varied, varied_test = load_problem(bundle, compute, seed=seed, variation=Variation())
    for mine, other in (
        (plain.weighted, varied.weighted),
        (plain.target, varied.target),
        (plain.val, varied.val),
        (plain_test, varied_test),
    ):
        np.testing.assert_array_equal(mine.position, other.position)
        assert torch.equal(mine.features, other.features)
        assert torch.equal(mine.labels, other.labels)
        assert torch.equal(mine.groups, other.groups)


def test_a_variation_is_made_of_what_differs():
    assert make_variation().changes() == {}
    assert make_variation({"label_noise": 0.0, "leak": False}).changes() == {}
    changes = {"label_noise": 0.2, "target_share": 0.5, "leak": True}
    assert make_variation(changes).changes() == changes
    for wrong, said in (
        ({"label_noise": 1.0}, "label_noise is 1.0"),
        ({"label_noise": -0.1}, "label_noise"),
        ({"target_share": 0.0}, "target_share"),
        ({"noise": 0.1}, "label_noise"),
        ({"group_noise": 1.0}, "group_noise is 1.0"),
        ({"target_balance": 1.5}, "target_balance is 1.5"),
        ({"leak": "perhaps"}, "leak"),
    ):
        with pytest.raises(SettingError, match=said):
            make_variation(wrong)
