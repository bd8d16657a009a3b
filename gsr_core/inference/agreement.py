"""How well inferred groups agree with the true ones; for reports, never to choose by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from gsr_core.data.groups import patterns

__all__ = ["Agreement", "agreement"]


@dataclass(frozen=True)
class Agreement:
    """How well an assignment agrees with the true groups.

    Attributes:
        ari: Adjusted Rand index, the outliers as one group of their own; 0 is chance, 1 perfect.
        nmi: Normalised mutual information, in [0, 1], likewise.
        ari_kept: Adjusted Rand index of the rows that are no outliers; NaN if there are none.
        kept: (m,) share of each true group's rows that are no outliers; NaN for an empty group.
            Outliers are taken out of training, so a low share is a group that was lost.
    """

    ari: float
    nmi: float
    ari_kept: float
    kept: np.ndarray


def agreement(inferred: np.ndarray, groups: np.ndarray) -> Agreement:
    """Compare inferred groups with the true ones.

    Args:
        inferred: (n,) group of each row, -1 for outliers.
        groups: (n, m) bool membership in the true groups; where they overlap, every combination
            counts as one.
    """
    _, true = patterns(groups)
    kept = inferred >= 0
    with np.errstate(invalid="ignore"):
        share = (groups & kept[:, None]).sum(axis=0) / groups.sum(axis=0)
    return Agreement(
        ari=float(adjusted_rand_score(true, inferred)),
        nmi=float(normalized_mutual_info_score(true, inferred)),
        ari_kept=float(adjusted_rand_score(true[kept], inferred[kept])) if kept.any() else np.nan,
        kept=share,
    )
