r"""How many more group labels until +5 points can be told from chance, for each group.

Two heads are compared on the same rows of test, by McNemar's test; how many rows that takes is
`comparing.mcnemar.rows_for` (Connor, Biometrics 1987): at 5 % two-sided and a power of 80 %, for a
true difference of :math:`\delta` where only one of the heads is right on :math:`\psi` of the rows,

.. math:: \left(1.96 \sqrt\psi + 0.84 \sqrt{\psi - \delta^2}\right)^2 / \delta^2 .

Of the other head nothing is known yet but that it is right on :math:`p' = p + \delta` of the rows,
where a run is right on p. If the two erred independently, :math:`\psi = p(1 - p') + (1 - p)p'`.
Heads on the same features err on the same rows more often than that, so fewer rows may do: it is
what surely suffices. p is counted with one more right and one more wrong row, since a few rows may
all be right by chance; where there is no room above, the five points are below. It is of one group
by itself: who judges many at once corrects for that, and needs more.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from gsr_core.comparing.mcnemar import rows_for
from gsr_core.data.bundle import Bundle
from gsr_core.labelling.answers import SKIPPED, answers, membership_of
from gsr_core.labelling.bundles import answered
from gsr_core.runs.samples import keep_scores
from gsr_core.runs.store import Run
from gsr_core.workspace import Workspace

__all__ = ["POINTS", "label_progress", "rows_to_tell"]

POINTS = 0.05
"""The difference in accuracy that is to be told from chance."""


def rows_to_tell(accuracy: float) -> float:
    """Return how many rows tell a head that is five points better from one, if both err apart.

    Args:
        accuracy: Of the one, a fraction.

    Example:
        >>> rows_to_tell(0.6), rows_to_tell(0.9)
        (1474.0, 438.0)
    """
    other = accuracy + POINTS if accuracy + POINTS <= 1 else accuracy - POINTS
    return rows_for(accuracy * (1 - other) + (1 - accuracy) * other, POINTS)


def label_progress(workspace: Workspace, bundle: Bundle, run: Run) -> pd.DataFrame:
    """Return what is labelled of each group, and how many more rows of test it needs.

    Args:
        workspace: Where the answers are.
        bundle: The data.
        run: A run on it that has ended with a head.

    Returns:
        One row a group: group, answered (by hand), target (its rows there), test (its rows there),
        needed (rows of test, `rows_to_tell`) and more (how many of these are missing; answers that
        may move to test, `answered`, count as there).

    Raises:
        RunStateError: If the run has no head yet.
        GsrError: If the file of answers cannot be read.

    Example:
        >>> run = gsr.run(place, "birds", "llr", device="cpu")
        >>> label_progress(place, gsr.open_bundle(place, "birds"), run)
                group  answered  target  test  needed  more
        0    cat, red         0      10    10     347   337
        1  cat, green         0      10    10     347   337
        2    dog, red         0      10    10    1097  1087
        3  dog, green         0      10    10     766   756
    """
    given = answers(workspace, bundle)
    by_hand = given.loc[given["answer"] != SKIPPED, "answer"].tolist()
    fair = answered(workspace, bundle, "test")["answer"].tolist()
    test, target = bundle.rows_of["test"], bundle.rows_of["target"]
    members = bundle.membership[test]
    right = keep_scores(run, bundle)["prediction"][test] == bundle.y[test]
    there = members.sum(axis=0)
    accuracy = ((members & right[:, None]).sum(axis=0) + 1) / (there + 2)
    needed = np.array([rows_to_tell(float(each)) for each in accuracy]).astype(np.int64)
    held = there + membership_of(bundle, fair).sum(axis=0)
    return pd.DataFrame(
        {
            "group": bundle.group_names,
            "answered": membership_of(bundle, by_hand).sum(axis=0),
            "target": bundle.membership[target].sum(axis=0),
            "test": there,
            "needed": needed,
            "more": np.maximum(needed - held, 0),
        }
    )
