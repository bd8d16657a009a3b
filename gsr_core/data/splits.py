"""Splits: taken from a column, or drawn, so that every split has the role that GSR gives it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from gsr_core.data.source import SplitRule
from gsr_core.errors import SourceError

__all__ = ["LEFT_OUT", "make_splits", "stratified_share"]

LEFT_OUT = "none"
"""Split word of a row that belongs to no split."""
WORDS = {
    "train": "train",
    "training": "train",
    "tr": "train",
    "0": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "eval": "validation",
    "1": "validation",
    "test": "test",
    "testing": "test",
    "te": "test",
    "2": "test",
    "heldout": "heldout",
    "held-out": "heldout",
    "target": "target",
    "none": LEFT_OUT,
}
MEANINGS = ("train", "validation", "test", "heldout", "target", "val", LEFT_OUT)


def make_splits(
    column: pd.Series | None, strata: np.ndarray, labelled: np.ndarray, rule: SplitRule
) -> tuple[np.ndarray, list[str]]:
    """Return each row's split and what was done to get it.

    Validation rows become target and val; some train rows are held out to carry the weights.

    Args:
        column: n split words or numbers; None to draw all splits.
        strata: (n,) integers, for instance one for every class and combination of groups; each
            draw takes the same share of every stratum.
        labelled: (n,) bool, whether a row's group is known; the others may only train.
        rule: The shares, the meaning of words, and the seed.

    Returns:
        (n,) text: a split of a bundle, or `LEFT_OUT`; and notes for the user.

    Raises:
        SourceError: If a word is unknown, or the column lacks what cannot be drawn.
    """
    generator = np.random.default_rng(rule.seed)
    notes: list[str] = []
    if column is None:
        split = _draw_splits(strata, labelled, rule, generator)
        notes.append(
            f"The file has no splits, so they were drawn (seed {rule.seed}): {rule.train:.0%} "
            f"train, {rule.validation:.0%} validation, the rest test, each with the same share of "
            "every class and group."
        )
    else:
        split = _read_splits(
            column, {_key(value): meaning for value, meaning in rule.words.items()}
        )
        if lost := int((~labelled & np.isin(split, ("validation", "target", "val", "test"))).sum()):
            notes.append(
                f"{lost:,} validation or test rows were left out, because their group is unknown."
            )
        split[~labelled & np.isin(split, ("validation", "target", "val", "test"))] = LEFT_OUT

    present = set(np.unique(split.astype(str)))
    if len(own := present & {"target", "val"}) == 1 and "validation" not in present:
        # One of the two alone stands for both.
        split[np.isin(split, tuple(own))] = "validation"
        present, own = present - own | {"validation"}, set[str]()
    if not present & {"train", "heldout"}:
        raise SourceError(
            f"{_where(column)} has no train rows; say which value means train, for instance "
            "--split-word VALUE=train"
        )
    if "test" not in present:
        raise SourceError(
            f"{_where(column)} has no test rows with a known group; say which value means test, "
            "or leave the column out to have splits drawn"
        )
    if not present & {"validation", "target"}:
        pool = np.flatnonzero(np.isin(split, ("train", "heldout")) & labelled)
        new_rows = pool[stratified_share(strata[pool], rule.validation, generator)]
        if not len(new_rows):
            raise SourceError(
                "there are no validation rows and none could be drawn from train; add some"
            )
        split[new_rows] = "validation"
        notes.append(
            f"The file has no validation rows, so {len(new_rows):,} train rows were drawn for it; "
            "a backbone that was trained on them makes target and val look better than they are."
        )
    if "validation" in split:
        pool = np.flatnonzero(split == "validation")
        if own:
            split[pool] = "val" if "target" in own else "target"
        else:
            chosen = stratified_share(strata[pool], rule.target, generator)
            split[pool] = np.where(chosen, "target", "val")
            shares = f"{rule.target:.0%} and {1 - rule.target:.0%}"
            notes.append(f"Target and val are {shares} of the {len(pool):,} validation rows.")
    if "heldout" not in present and rule.heldout:
        pool = np.flatnonzero(split == "train")
        chosen = stratified_share(strata[pool], rule.heldout, generator)
        split[pool[chosen]] = "heldout"
        notes.append(
            f"{int(chosen.sum()):,} of {len(pool):,} train rows are held out to carry the weights. "
            "The network must not have been trained on these: let the import train it on the rest, "
            "or, if it has seen none of train, hold all of it out (heldout=1)."
            if rule.heldout < 1
            else f"All {len(pool):,} train rows are held out and carry the weights, as if the "
            "backbone had seen none of them."
        )
    return split, notes


def stratified_share(
    strata: np.ndarray, share: float, generator: np.random.Generator
) -> np.ndarray:
    """Return (n,) bool, true for a share of the rows of each stratum.

    A stratum of two rows or more is present on both sides unless the share is 0 or 1.
    """
    mask = np.zeros(len(strata), dtype=bool)
    # One sort instead of one search a stratum: there may be thousands.
    order = np.lexsort((generator.random(len(strata)), strata))
    _, starts, counts = np.unique(strata[order], return_index=True, return_counts=True)
    for start, count in zip(starts, counts, strict=True):
        size = int(np.floor(share * count + 0.5))
        if 0 < share < 1 and count > 1:
            size = min(max(size, 1), count - 1)
        mask[order[start : start + size]] = True
    return mask


def _draw_splits(
    strata: np.ndarray, labelled: np.ndarray, rule: SplitRule, generator: np.random.Generator
) -> np.ndarray:
    if rule.train + rule.validation >= 1:
        raise SourceError(
            f"the shares of train ({rule.train:g}) and validation ({rule.validation:g}) leave "
            "nothing for test; make them smaller"
        )
    # A row of unknown group can be trained on, but nothing can be measured on it.
    split = np.full(len(strata), "train", dtype=object)
    pool = np.flatnonzero(labelled)
    rest = pool[~stratified_share(strata[pool], rule.train, generator)]
    share = rule.validation / (1 - rule.train)
    validation = stratified_share(strata[rest], share, generator)
    split[rest] = np.where(validation, "validation", "test")
    return split


def _read_splits(column: pd.Series, words: Mapping[str, str]) -> np.ndarray:
    texts = column.map(_key)
    own = set(texts.unique()) & {"heldout", "held-out", "target"}
    meanings: dict[str, str] = {}
    for text in texts.unique():
        meaning = words.get(text, WORDS.get(text, ""))
        # Beside target rows, `val` is the bundle's own word.
        if meaning == "validation" and text == "val" and "target" in own and text not in words:
            meaning = "val"
        meanings[text] = meaning
    for value, meaning in {**meanings, **words}.items():
        if meaning not in MEANINGS:
            rows = np.flatnonzero(texts == value)
            where = f" in row {rows[0]}" if len(rows) else ""
            raise SourceError(
                f"column '{column.name}' has the split '{value}'{where}, which has no known "
                f"meaning; say what it means, for instance --split-word '{value}=train' (allowed: "
                f"{', '.join(MEANINGS)})"
            )
    return texts.map(meanings).to_numpy(dtype=object, copy=True)


def _key(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip().lower()


def _where(column: pd.Series | None) -> str:
    return "the data" if column is None else f"split column '{column.name}'"
