"""What the rows, head and further files of a bundle must be."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from gsr_core.data.bundle import (
    INFLUENCE,
    MIN_GROUP_SIZE,
    OWN_COLUMNS,
    OWN_FILES,
    REQUIRED_SPLITS,
    RESERVED_COLUMNS,
    SPLITS,
)
from gsr_core.data.groups import Group
from gsr_core.errors import BundleError

__all__ = ["check_attribute", "check_extra", "check_head", "check_rows", "chunks", "split_codes"]


_CHUNK = 1 << 26
"""Bytes of features held at a time while a bundle is checked and written."""


def check_rows(
    samples: pd.DataFrame,
    membership: np.ndarray,
    groups: Sequence[Group],
    classes: Sequence[str],
    features: np.ndarray,
) -> None:
    """Check that the parts of a bundle fit together.

    Raises:
        BundleError: If they do not; the sentence names the array, the first bad row (counted
            from 0) and the fix.
    """
    n = len(samples)
    if features.ndim != 2 or features.shape[1] == 0:
        raise BundleError(
            f"features has shape {features.shape}; expected (n, d) with d at least 1: one row of "
            "numbers a sample"
        )
    if len(features) != n:
        raise BundleError(
            f"features has {len(features)} rows, but y has {n}; every array needs one row a sample"
        )
    if membership.shape != (n, len(groups)):
        raise BundleError(
            f"groups has shape {membership.shape}; expected ({n}, {len(groups)}): one row a "
            "sample, one column a group"
        )
    if not groups:
        raise BundleError("there are no groups; give at least one group of samples")
    if len(names := [group.name for group in groups]) != len(set(names)):
        raise BundleError(f"group names {names} are not unique; name each group differently")

    if len(set(classes)) != len(classes):
        raise BundleError(
            f"class names {list(classes)} are not unique; name each class differently"
        )
    for column in samples.columns:
        if column not in OWN_COLUMNS:
            check_attribute(str(column))

    split = split_codes(samples)
    if (bad := np.flatnonzero(split < 0)).size:
        raise BundleError(
            f"split has the unknown word '{samples['split'].iloc[bad[0]]}' in row {bad[0]}; "
            f"allowed are {', '.join(SPLITS)}"
        )
    present = {SPLITS[code] for code in np.unique(split)}
    for name in REQUIRED_SPLITS:
        if name not in present:
            raise BundleError(
                f"split has no '{name}' row; target, val and test are required, and at least one "
                "of heldout and train: mark some rows with that word"
            )
    if not present & {"heldout", "train"}:
        raise BundleError(
            "split has neither 'heldout' nor 'train' rows; the weights need rows to live on: mark "
            "the rows that the backbone did not see as heldout"
        )

    y = samples["y"].to_numpy()
    if (bad := np.flatnonzero((y < 0) | (y >= len(classes)))).size:
        raise BundleError(
            f"y is {y[bad[0]]} in row {bad[0]}; allowed are the class indices 0 to "
            f"{len(classes) - 1}"
        )
    weighted = "heldout" if "heldout" in present else "train"
    if len(labels := np.unique(y[split == SPLITS.index(weighted)])) < 2:
        raise BundleError(
            f"y has only class {labels[0]} in the {weighted} split; a head needs samples of at "
            "least two classes there"
        )
    identity = samples["sample_id"]
    if (twice := identity.duplicated()).any():
        row = int(np.flatnonzero(twice.to_numpy())[0])
        raise BundleError(
            f"sample_id '{identity.iloc[row]}' in row {row} is there twice; ids must be unique: "
            "rename or drop the duplicate"
        )

    empty = np.flatnonzero(membership[split == SPLITS.index("target")].sum(axis=0) == 0)
    if empty.size:
        raise BundleError(
            f"group '{groups[empty[0]].name}' has no sample in the target split, so nothing could "
            "drive its weights: move labelled samples of it to target, or merge it with another "
            "group"
        )
    for name in ("val", "test"):
        if not membership[split == SPLITS.index(name)].any():
            raise BundleError(
                f"split {name} has no sample of any group ({', '.join(names)}), so nothing could "
                "be measured there: move labelled samples to it"
            )
    # In chunks, so that a memory-mapped array is never read as a whole.
    for start, chunk in chunks(features):
        if not (finite := np.isfinite(chunk)).all():
            row, column = np.argwhere(~finite)[0]
            raise BundleError(
                f"features is {features[start + row, column]} in row {start + row}, column "
                f"{column}; every feature must be a finite number within float32's range: drop "
                "the row or extract it again"
            )


def notes_on_groups(
    samples: pd.DataFrame, membership: np.ndarray, groups: Sequence[Group]
) -> list[str]:
    """Return a sentence on each group that has too few samples, split by split.

    Args:
        samples: With the column `split`.
        membership: (n, m) bool.
        groups: m groups.
    """
    split, notes = split_codes(samples), []
    weighted = "heldout" if (split == SPLITS.index("heldout")).any() else "train"
    for name in (weighted, *REQUIRED_SPLITS):
        counts = membership[split == SPLITS.index(name)].sum(axis=0)
        for group, count in zip(groups, counts, strict=True):
            if name == weighted:
                outcome = "there is little to give weight to"
            elif count:
                outcome = "its accuracy there is very uncertain"
            else:
                outcome = "its accuracy there cannot be measured"
            if count < MIN_GROUP_SIZE:
                notes.append(f"Group '{group.name}' has {count} samples in {name}: {outcome}.")
    return notes


def notes_on_head(
    samples: pd.DataFrame, features: np.ndarray, head: tuple[np.ndarray, np.ndarray]
) -> list[str]:
    """Return a sentence if a head is no better on val than naming the most frequent class.

    Better is what a one-sided binomial test at 5 %, in its normal approximation, calls so.

    Args:
        samples: With the columns `split` and `y`.
        features: (n, d).
        head: weight (K, d) and bias (K,).
    """
    rows = np.flatnonzero(split_codes(samples) == SPLITS.index("val"))
    if not len(rows):
        return []
    weight, bias = head
    y = samples["y"].to_numpy()[rows]
    size = max(_CHUNK // (4 * features.shape[1]), 1)
    right = 0
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        logits = np.asarray(features[rows[part]]) @ np.asarray(weight).T + np.asarray(bias)
        right += int((logits.argmax(axis=1) == y[part]).sum())
    n, most = len(rows), int(np.bincount(y).max())
    if right > most + 1.645 * np.sqrt(most * (n - most) / n):
        return []
    return [
        f"The network's own head is right on {right:,} of {n:,} rows of val; to name the most "
        f"frequent class always is right on {most:,}. Train it longer, or choose another network."
    ]


def split_codes(samples: pd.DataFrame) -> np.ndarray:
    """Return each row's split as its place in `SPLITS`, -1 for an unknown word."""
    codes, words = pd.factorize(samples["split"])
    # One place more, so that a missing word, which has the code -1, is unknown too.
    places = [SPLITS.index(word) if word in SPLITS else -1 for word in words]
    return np.array([*places, -1])[codes]


def chunks(features: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the first row and the rows, as float32, of parts of about 64 MB."""
    size = max(_CHUNK // (4 * features.shape[1]), 1)
    for start in range(0, len(features), size):
        # Too large a number becomes infinite, which `check_rows` reports.
        with np.errstate(over="ignore", invalid="ignore"):
            yield start, np.ascontiguousarray(features[start : start + size], dtype=np.float32)


def check_attribute(name: str, *, where: str = "a column of samples") -> None:
    """Check that an attribute's column does not take the place of one of the library's own.

    Args:
        name: Of the column.
        where: Where the column is, for the message.

    Raises:
        BundleError: If it does.
    """
    if not name or name in RESERVED_COLUMNS or name.startswith(INFLUENCE):
        raise BundleError(
            f"{where} cannot become an attribute '{name}'; choose a name other than "
            f"{', '.join(RESERVED_COLUMNS)}, that does not begin with '{INFLUENCE}'"
        )


def check_head(head: tuple[np.ndarray, np.ndarray], *, n_classes: int, n_features: int) -> None:
    """Check the shapes of a head, weight (K, d) and bias (K,).

    Raises:
        BundleError: If they do not fit the classes and features.
    """
    weight, bias = head
    if weight.shape != (n_classes, n_features) or bias.shape != (n_classes,):
        raise BundleError(
            f"the head has shapes {weight.shape} and {bias.shape}; expected "
            f"({n_classes}, {n_features}) and ({n_classes},) for these classes and features"
        )


def check_extra(recipe: dict[str, Any] | None, files: Mapping[str, bytes]) -> None:
    """Check the names of further files, and that a recipe is JSON.

    Raises:
        BundleError: If one is not allowed.
    """
    for file in files:
        if file in OWN_FILES or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", file):
            raise BundleError(
                f"a bundle cannot hold a file '{file}'; use a plain file name other than "
                f"{', '.join(OWN_FILES)}"
            )
    try:
        json.dumps(recipe, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BundleError(
            f"the recipe cannot be written as JSON ({error}); give text, finite numbers, lists "
            "and dictionaries"
        ) from error
