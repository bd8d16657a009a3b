"""How well inferred groups agree with the true ones; for reports, never to choose by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gsr_core.data.groups import patterns
from gsr_core.plain import record, records

__all__ = ["Agreement", "agreement"]


@dataclass(frozen=True)
class Agreement:
    """How well an assignment agrees with the true groups.

    `..._kept` are without the rows that are outliers; NaN if there are no others.

    Attributes:
        ari: Adjusted Rand index, the outliers as one group of their own; 0 is chance, 1 perfect.
        nmi: Normalised mutual information, in [0, 1], likewise.
        ari_kept: Adjusted Rand index of the rows that are no outliers.
        nmi_kept: Normalised mutual information of these.
        n_clusters: Number of inferred groups, the outliers not among them.
        groups: One row a true group: `group`, its name; `size`, its rows; `kept`, the share of them
            that are no outliers, since outliers are taken out of training and a low share is a
            group that was lost; `cluster`, the name of the inferred group that matches it best, by
            the harmonic mean `f1` of `recall`, the share of its rows that are in there, and
            `precision`, the share of those in there that are its own; and `cluster_kept`,
            `recall_kept`, `precision_kept`, `f1_kept`. Outliers match no group: they lower its
            recall. Where no inferred group has a row of it, `cluster` is "", recall and f1 are 0
            and precision is NaN; of an empty group all are NaN.
    """

    ari: float
    nmi: float
    ari_kept: float
    nmi_kept: float
    n_clusters: int
    groups: pd.DataFrame

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: `groups` as a list of records, None for NaN."""
        scalars = {
            "ari": self.ari,
            "nmi": self.nmi,
            "ari_kept": self.ari_kept,
            "nmi_kept": self.nmi_kept,
            "n_clusters": self.n_clusters,
        }
        return {**record(scalars), "groups": records(self.groups)}


def agreement(
    inferred: np.ndarray,
    groups: np.ndarray,
    group_names: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
) -> Agreement:
    """Compare inferred groups with the true ones.

    Args:
        inferred: (n,) inferred group of each row, -1 for outliers.
        groups: (n, m) bool membership in the true groups; where they overlap, the two indices
            count every combination as one.
        group_names: Of the m true groups; their numbers if None.
        names: Of the inferred groups; their numbers if None.
    """
    # Not above: pages import this file, and scikit-learn takes a second.
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    _, true = patterns(groups)
    kept = inferred >= 0
    present, cluster = np.unique(inferred[kept], return_inverse=True)
    titles = [str(each) if names is None else names[int(each)] for each in present]
    rows = groups.sum(axis=0)
    among = groups[kept].sum(axis=0)
    shared = groups[kept].T.astype(np.int64) @ (cluster[:, None] == np.arange(len(present)))
    sizes = np.bincount(cluster, minlength=len(present))
    with np.errstate(invalid="ignore"):
        share = among / rows
    table = pd.DataFrame(
        {
            "group": [str(each) for each in range(len(rows))]
            if group_names is None
            else group_names,
            "size": rows,
            "kept": share,
            **_matches(shared, rows, sizes, titles, ""),
            **_matches(shared, among, sizes, titles, "_kept"),
        }
    )
    some = bool(kept.any())
    return Agreement(
        ari=float(adjusted_rand_score(true, inferred)),
        nmi=float(normalized_mutual_info_score(true, inferred)),
        ari_kept=float(adjusted_rand_score(true[kept], inferred[kept])) if some else np.nan,
        nmi_kept=float(normalized_mutual_info_score(true[kept], inferred[kept]))
        if some
        else np.nan,
        n_clusters=len(present),
        groups=table,
    )


def _matches(
    shared: np.ndarray, rows: np.ndarray, sizes: np.ndarray, names: Sequence[str], suffix: str
) -> dict[str, Any]:
    """Return the columns of the best match of each true group.

    Args:
        shared: (m, k) rows that a true and an inferred group have in common.
        rows: (m,) sizes of the true groups.
        sizes: (k,) sizes of the inferred groups.
        names: (k,) of these.
        suffix: Of the columns.
    """
    m = len(rows)
    best, common, size = np.zeros(m, dtype=np.int64), np.zeros(m), np.zeros(m)
    if len(sizes):
        best = (shared / (rows[:, None] + sizes)).argmax(axis=1)
        common, size = shared[np.arange(m), best], sizes[best]
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            f"cluster{suffix}": [
                names[each] if count else ""
                for each, count in zip(best.tolist(), common.tolist(), strict=True)
            ],
            f"recall{suffix}": common / rows,
            f"precision{suffix}": np.where(common > 0, common / size, np.nan),
            f"f1{suffix}": np.where(rows > 0, 2 * common / (rows + size), np.nan),
        }
