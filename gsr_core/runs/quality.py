"""How good a run's probabilities are in each group, and whether it treats all values alike."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy.special import softmax

from gsr_core.data.attributes import MOST_VALUES, attribute_values
from gsr_core.data.bundle import Bundle
from gsr_core.errors import SettingError
from gsr_core.fairness import Fairness, fairness
from gsr_core.quality import group_quality, reliability
from gsr_core.runs.samples import keep_scores
from gsr_core.runs.store import Run

__all__ = ["fairness_of", "kept_logits", "quality_table", "reliability_table"]

_CHUNK = 1 << 26
"""Bytes of features that are held at a time."""


def kept_logits(run: Run, rows: np.ndarray, bundle: Bundle) -> np.ndarray:
    """Return the (n, K) float32 logits of a run's kept head.

    Args:
        run: A run that has ended with a head.
        rows: (n,) positions in the bundle.
        bundle: The run's bundle.

    Raises:
        RunStateError: If the run has no head yet.
    """
    weight, bias = run.kept_head()
    size, features = max(_CHUNK // (4 * weight.shape[1]), 1), run.seen(bundle).features
    starts = range(0, max(len(rows), 1), size)
    return np.concatenate(
        [np.asarray(features[rows[start : start + size]]) @ weight.T + bias for start in starts]
    )


def quality_table(run: Run, split: str, bundle: Bundle | None = None) -> pd.DataFrame:
    """Return the table of `group_quality` for a run's kept head on one split.

    Args:
        run: A run that has ended with a head.
        split: One of the bundle's splits, as the run's seed drew it.
        bundle: The run's bundle, if it is open already.

    Returns:
        One row a group, and one for each value of an attribute with few, named `attribute=value`:
        these hold several classes. Column kind is `group` or `attribute`.

    Raises:
        RunStateError: If the run has no head yet.
        BundleError: If the bundle has changed since.
    """
    bundle = bundle or run.unchanged_bundle()
    rows = run.rows_of(split, bundle)
    logits, labels = kept_logits(run, rows, bundle), bundle.y[rows]
    tables = [
        group_quality(logits, labels, members, names).assign(kind=kind)
        for kind, members, names in _parts(bundle, rows)
    ]
    return pd.concat([each for each in tables if len(each)] or tables[:1], ignore_index=True)


def reliability_table(run: Run, split: str, bundle: Bundle | None = None) -> pd.DataFrame:
    """Return the curve of `reliability` in each group and value that `quality_table` has.

    Args:
        run: A run that has ended with a head.
        split: One of the bundle's splits, as the run's seed drew it.
        bundle: The run's bundle, if it is open already.

    Returns:
        Columns group and kind, as in `quality_table`, and those of `reliability`; one row a bin.

    Raises:
        RunStateError: If the run has no head yet.
        BundleError: If the bundle has changed since.
    """
    bundle = bundle or run.unchanged_bundle()
    rows = run.rows_of(split, bundle)
    logits = kept_logits(run, rows, bundle)
    right = logits.argmax(axis=1) == bundle.y[rows]
    confidence = softmax(logits.astype(np.float64), axis=1).max(axis=1)
    tables = [
        reliability(confidence[member], right[member]).assign(group=name, kind=kind)
        for kind, members, names in _parts(bundle, rows)
        for name, member in zip(names, members.T, strict=True)
    ]
    return pd.concat([each for each in tables if len(each)] or tables[:1], ignore_index=True)


def fairness_of(run: Run, split: str, attribute: str, bundle: Bundle | None = None) -> Fairness:
    """Return `fairness` of a run's kept head over the values of an attribute on one split.

    Args:
        run: A run that has ended with a head.
        split: One of the bundle's splits, as the run's seed drew it.
        attribute: One of the bundle's, with 2 to 20 values in the split. Rows without a value do
            not count.
        bundle: The run's bundle, if it is open already.

    Raises:
        SettingError: If it is no such attribute.
        RunStateError: If the run has no head yet.
        BundleError: If the bundle has changed since.
    """
    bundle = bundle or run.unchanged_bundle()
    attributes = bundle.manifest.attributes
    if attribute not in attributes:
        those = f"its attributes are {', '.join(attributes)}" if attributes else "it has none"
        raise SettingError(f"bundle '{bundle.name}' has no attribute '{attribute}'; {those}")
    rows = run.rows_of(split, bundle)
    values = bundle.column(attribute).take(rows).to_pandas()
    number = values.nunique()
    if not 2 <= number <= MOST_VALUES:
        raise SettingError(
            f"attribute '{attribute}' has {number:,} values in {split}; choose one with 2 to "
            f"{MOST_VALUES}"
        )
    known = values.notna().to_numpy()
    prediction = keep_scores(run, bundle)[rows]["prediction"]
    labels, n_classes = bundle.y[rows], len(bundle.manifest.classes)
    # As text: a column may hold values that cannot be sorted among each other.
    named = values[known].astype(str).to_numpy()
    return fairness(prediction[known], labels[known], named, n_classes)


def _parts(bundle: Bundle, rows: np.ndarray) -> Iterator[tuple[str, np.ndarray, list[str]]]:
    """Yield kind, (n, m) members and m names: of the groups, and of each attribute's values."""
    yield "group", bundle.membership[rows], bundle.group_names
    for attribute, codes, values in attribute_values(bundle, rows):
        members = codes[:, None] == np.arange(len(values))
        yield "attribute", members, [f"{attribute}={value}" for value in values]
