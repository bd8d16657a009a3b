"""Which rows, and what of their labels, a run sees of a bundle."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gsr_core.data.bundle import Bundle
from gsr_core.data.groups import patterns
from gsr_core.data.seen import SeenGroups
from gsr_core.data.variation import Variation, balance, flip_groups, flip_labels, keep_share
from gsr_core.errors import SettingError

__all__ = ["positions_of", "redraw", "seen_labels", "seen_membership"]


def positions_of(
    bundle: Bundle, seed: int, variation: Variation | None = None
) -> Mapping[str, np.ndarray]:
    """Return the positions of each split's rows as a run sees them.

    Args:
        bundle: The data.
        seed: Of the run; see `redraw`.
        variation: Of the run. Rows of target that it leaves out are in no split.

    Raises:
        SettingError: If target is to have the shares of weighted rows that are in none of its
            groups.
    """
    positions = dict(redraw(bundle, seed))
    varied = variation or Variation()
    if varied.target_balance is not None:
        # Rows in no group have no share in the balance.
        target = positions["target"]
        target = target[bundle.membership[target].any(axis=1)]
        stratum, weighted = _stratum(bundle, target), bundle.rows_of[bundle.manifest.weighted_split]
        counts = np.bincount(_stratum(bundle, weighted), minlength=stratum.max(initial=0) + 1)
        natural = counts[stratum] / len(weighted)
        if not natural.any():
            raise SettingError(
                f"target_balance is {varied.target_balance:g}, but no row of "
                f"{bundle.manifest.weighted_split} is in a group that target has, so that there "
                "are no shares to go by; leave target as it is"
            )
        positions["target"] = balance(
            target, stratum, natural, level=varied.target_balance, seed=seed
        )
    if varied.target_share < 1:
        target = positions["target"]
        positions["target"] = keep_share(
            target, _stratum(bundle, target), share=varied.target_share, seed=seed
        )
    if varied.leak:
        positions["val"] = positions["target"]
    return positions


def redraw(bundle: Bundle, seed: int) -> Mapping[str, np.ndarray]:
    """Return the positions of each split, with target and val drawn anew for a seed above 0.

    The two keep their sizes and, for every class and combination of groups, their number of
    samples. All other splits stay as they are.
    """
    positions = dict(bundle.rows_of)
    if seed == 0:
        return positions
    target = positions["target"]
    pool = np.concatenate([target, positions["val"]])
    stratum = _stratum(bundle, pool)
    in_target = np.arange(len(pool)) < len(target)
    # Shuffling which place each sample takes within its stratum keeps every count.
    generator = np.random.default_rng(seed)
    in_new_target = np.empty(len(pool), dtype=bool)
    by_stratum = np.argsort(stratum, kind="stable")
    _, first = np.unique(stratum[by_stratum], return_index=True)
    for members in np.split(by_stratum, first[1:]):
        in_new_target[members] = in_target[generator.permutation(members)]
    positions["target"] = np.sort(pool[in_new_target])
    positions["val"] = np.sort(pool[~in_new_target])
    return positions


def seen_labels(bundle: Bundle, seed: int, variation: Variation | None = None) -> np.ndarray:
    """Return the (n,) classes of all rows as a run sees them.

    Only rows of the weighted split can differ from the bundle's.

    Args:
        bundle: The data.
        seed: Of the run.
        variation: Of the run.
    """
    y, classes = bundle.y, bundle.manifest.classes
    if variation is None:
        return y
    if variation.label_noise:
        rows, y = bundle.rows_of[bundle.manifest.weighted_split], y.copy()
        share = variation.label_noise
        y[rows] = flip_labels(y[rows], rows, share=share, n_classes=len(classes), seed=seed)
    for edit in variation.edits:
        y = edit.labels(y, classes)
    return y


def seen_membership(
    bundle: Bundle,
    seen: SeenGroups,
    split: str,
    rows: np.ndarray,
    seed: int,
    variation: Variation | None = None,
) -> np.ndarray:
    """Return the (n, m) membership of a split's rows as a run sees them; of test, the bundle's.

    Args:
        bundle: The data.
        seen: The groups that the run's method sees.
        split: The split whose rows they are; only labels of target and of the weighted split can
            be noisy.
        rows: Positions in the bundle.
        seed: Of the run.
        variation: Of the run.
    """
    if split == "test":
        return bundle.membership[rows]
    noisy = split in ("target", bundle.manifest.weighted_split)
    if variation is None or not variation.group_noise or not noisy:
        return seen.membership[rows]
    combinations, which = bundle.group_patterns if seen.own else patterns(seen.membership)
    labelled = np.any(combinations, axis=1)
    known = np.zeros((len(bundle.manifest.classes), len(combinations)), dtype=bool)
    known[bundle.y, which] = True
    # A row in no group has no label that could be wrong, and none becomes one.
    known[:, ~labelled] = False
    own = labelled[which[rows]]
    noisy_pattern = which[rows]
    noisy_pattern[own] = flip_groups(
        *(bundle.y[rows][own], noisy_pattern[own], rows[own]),
        share=variation.group_noise,
        known=known,
        seed=seed,
    )
    return combinations[noisy_pattern]


def _stratum(bundle: Bundle, rows: np.ndarray) -> np.ndarray:
    """Return a number for each row's class and combination of groups."""
    combinations, which = bundle.group_patterns
    # Classes first, then combinations in their order.
    return bundle.y[rows] * len(combinations) + which[rows]
