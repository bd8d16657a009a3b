"""The regression radar: where a repair is worse than what it repairs, wherever that is.

A repair is chosen by its groups, so that it seldom breaks these; what it breaks lies elsewhere. The
radar looks at every group, saved slice, cluster and crossing of attributes that it is given, on the
same test rows before and after, and judges each by McNemar's exact test, corrected by Holm's
procedure for all that it looked at (`comparing.mcnemar`; overlapping subsets are no harm to it).

It is of one run each, at one seed: rows pooled over seeds would be counted several times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gsr_core.comparing.changes import flips
from gsr_core.comparing.entries import check_comparable
from gsr_core.comparing.mcnemar import judge
from gsr_core.curation.slices import list_slices
from gsr_core.curation.subsets import (
    DEEPEST,
    Subset,
    crossings,
    distinct,
    group_subsets,
    slice_subsets,
)
from gsr_core.data.bundle import MIN_GROUP_SIZE
from gsr_core.errors import ComparisonError, SettingError
from gsr_core.plain import records
from gsr_core.runs.samples import sample_table
from gsr_core.runs.store import Run

__all__ = ["Radar", "judge_subsets", "radar"]


@dataclass(frozen=True)
class Radar:
    """What changed between two runs on every subset that was looked at.

    Attributes:
        samples: Judged rows, all together.
        fixed: Rows that only the repair gets right.
        broken: Rows that only the base gets right.
        table: One row a subset, the surest harm first and the surest gain last: kind, name,
            samples, base and repair (accuracies), fixed, broken, net, and p, p_holm, verdict,
            needed of `mcnemar.judge`.
        subsets: Those of the table, in its order.
    """

    samples: int
    fixed: int
    broken: int
    table: pd.DataFrame
    subsets: Sequence[Subset]

    def record(self, most: int | None = None) -> dict[str, Any]:
        """Return it as plain values for JSON; with None where a number is not finite.

        Args:
            most: Only so many subsets, the worst; None takes all.
        """
        rows = self.table.head(len(self.table) if most is None else most)
        return {
            "samples": self.samples,
            "fixed": self.fixed,
            "broken": self.broken,
            "looked_at": len(self.table),
            "worse": int((self.table["verdict"] == "worse").sum()),
            "better": int((self.table["verdict"] == "better").sum()),
            "subsets": records(rows),
        }


def judge_subsets(before: pd.DataFrame, after: pd.DataFrame, subsets: Iterable[Subset]) -> Radar:
    """Judge what a repair does to each subset.

    Args:
        before: `sample_table` of the base.
        after: `sample_table` of the repair, of the same split and rows.
        subsets: Of these rows. Of several with the same rows the first counts; those without a
            row do not.

    Raises:
        ComparisonError: If the two are not of the same rows, or there is nothing to look at.
    """
    rows, fixed, broken = flips(before, after)
    looked_at = [each for each in distinct(subsets) if len(each.rows)]
    if not looked_at:
        raise ComparisonError("there is no subset to look at; give groups, slices or crossings")
    right = before["correct"].to_numpy()
    # Rows need not be in the order of their positions.
    order = np.argsort(rows, kind="stable")
    counts = []
    for each in looked_at:
        places = order[np.searchsorted(rows, each.rows, sorter=order)]
        inside = len(places), fixed[places].sum(), broken[places].sum(), right[places].sum()
        counts.append([int(count) for count in inside])
    n, gained, lost, were_right = np.array(counts).T
    table = pd.DataFrame(
        {
            "kind": [each.kind for each in looked_at],
            "name": [each.name for each in looked_at],
            "samples": n,
            "base": were_right / n,
            "repair": (were_right + gained - lost) / n,
            "fixed": gained,
            "broken": lost,
            "net": gained - lost,
        }
    )
    table = table.join(judge(table))
    # Harm by rising p, then gains by falling p; where p is the same, the larger share counts.
    sure = np.sign(table["net"]) * -np.log(np.maximum(table["p"], 1e-300))
    ranking = np.lexsort([table["net"] / n, sure])
    return Radar(
        samples=len(rows),
        fixed=int(fixed.sum()),
        broken=int(broken.sum()),
        table=table.iloc[ranking].reset_index(drop=True),
        subsets=[looked_at[place] for place in ranking],
    )


def radar(
    base: Run,
    repair: Run,
    clusters: Iterable[Subset] = (),
    *,
    depth: int = DEEPEST,
    min_rows: int = MIN_GROUP_SIZE,
    read: Callable[[Run, str], pd.DataFrame] = sample_table,
) -> Radar:
    """Judge what a repair does on test, by groups, slices, clusters and crossings.

    Args:
        base: The run before, such as that of the unchanged classifier.
        repair: The run after.
        clusters: From `clusterings.describe.cluster_subsets`, of the test rows.
        depth: Columns that are crossed at most; see `curation.subsets.crossings`.
        min_rows: Clusters and crossings with fewer rows are left out; groups and slices never.
        read: Does what `sample_table` does; pages pass a function with a cache.

    Raises:
        ComparisonError: If the runs are one run, have no result, or are of other data.
        SettingError: If depth or the number of rows is not allowed.

    Example:
        >>> base = gsr.run(place, "birds", "erm", device="cpu")
        >>> repair = gsr.run(place, "birds", "class_balanced", device="cpu")
        >>> found = gsr.radar(base, repair, min_rows=10)
        >>> len(found.table), found.samples
        (8, 40)
    """
    check_comparable([base, repair])
    if base.run_id == repair.run_id:
        raise ComparisonError(
            f"base and repair are both run '{base.run_id}'; name two different runs"
        )
    if min_rows < 1:
        raise SettingError(f"min_rows is {min_rows}; allowed are whole numbers from 1 on")
    bundle = base.unchanged_bundle()
    rows = np.sort(base.rows_of("test", bundle))
    slices = list_slices(base.workspace, bundle)
    subsets = [
        *group_subsets(bundle, rows),
        *slice_subsets(slices, rows),
        *(each for each in clusters if len(each.rows) >= min_rows),
        *crossings(bundle, rows, depth=depth, min_rows=min_rows),
    ]
    return judge_subsets(read(base, "test"), read(repair, "test"), subsets)
