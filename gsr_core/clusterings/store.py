"""Clusterings: inferred groups of a bundle's samples as objects on disk, to look at and to work on.

A clustering is a directory `<workspace>/clusterings/<name>/`, named by what it was asked for, so
that the same request is computed once:

```
clustering.json      what was asked for, what was chosen and why, agreement with the true groups
assigned.parquet     one row a sample: row, cluster, central, gradient_norm, isolated
candidates.parquet   what was tried
edits.json           names and merges by the user; the rest is never changed
```

The clusters are found on the rows that carry the weights, without group labels; the rows of all
other splits are only assigned to them, test among them, so that errors can be read cluster by
cluster. True groups, where there are any, are compared with and never looked at before.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from gsr_core.clusterings.request import FORMAT, ClusteringRequest
from gsr_core.data.bundle import Bundle
from gsr_core.errors import RunNotFoundError
from gsr_core.inference.registry import INFERENCES
from gsr_core.records import RecordFolder, newest_first
from gsr_core.workspace import Workspace

__all__ = [
    "UNASSIGNED",
    "Clustering",
    "ClusteringRecord",
    "Edits",
    "list_clusterings",
    "open_clustering",
]


UNASSIGNED = -2
"""What stands for the cluster of a row that the clustering did not look at."""


class ClusteringRecord(BaseModel):
    """What is written down of a clustering.

    Attributes:
        format: Version of the directory's format.
        created: Time of writing, ISO 8601, UTC.
        request: What was asked for.
        names: A name for each cluster.
        classes: Class of each cluster.
        choice: What was chosen and why, a sentence.
        space: Where the clusters live: `gradients`, `features` or `logits`.
        outliers: Share of the weighted rows that are in no cluster.
        agreement: How well the weighted rows' clusters agree with their true groups, None where
            no weighted row has a known group; see `inference.agreement`.
        seconds: That it took.
    """

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    created: str
    request: ClusteringRequest
    names: list[str]
    classes: list[int]
    choice: str
    space: str
    outliers: float
    agreement: dict[str, Any] | None
    seconds: float


class Edits(BaseModel):
    """What the user changed: new names, and clusters that became part of another."""

    names: dict[int, str] = {}
    merged: dict[int, int] = {}


class Clustering(RecordFolder[ClusteringRecord]):
    """One clustering on disk."""

    kind = "clustering"
    command = "cluster"
    model = ClusteringRecord
    readable = FORMAT

    @property
    def record(self) -> ClusteringRecord:
        """What was asked for, and what came out; it never changes."""
        return self._record

    @cached_property
    def _record(self) -> ClusteringRecord:
        return super().record

    @property
    def label(self) -> str:
        """Name for people: the inference, the settings that are not the defaults, and the run."""
        asked = self.record.request
        inference = INFERENCES[asked.inference]
        defaults = inference()
        changed = [
            f"{key}={value}"
            for key, value in asked.settings.items()
            if getattr(defaults, key) != value
        ]
        if asked.run:
            changed.append(f"head of {asked.run}")
        if asked.seed:
            changed.append(f"seed {asked.seed}'s rows")
        changed += [f"{key}={value}" for key, value in asked.variation.items()]
        title = inference.title.partition(":")[0]
        return f"{title} ({', '.join(changed)})" if changed else title

    @property
    def stamp(self) -> int:
        """Changes whenever the user edits names or merges."""
        file = self.path / "edits.json"
        return file.stat().st_mtime_ns if file.exists() else 0

    @property
    def _edits(self) -> Edits:
        file = self.path / "edits.json"
        return Edits.model_validate_json(file.read_text()) if file.exists() else Edits()

    @property
    def names(self) -> dict[int, str]:
        """Name of each cluster that is left after merging."""
        edits = self._edits
        return {
            cluster: edits.names.get(cluster, name)
            for cluster, name in enumerate(self.record.names)
            if cluster not in edits.merged
        }

    def assigned(self) -> pd.DataFrame:
        """Return one row a sample, by its position in the bundle.

        Returns:
            Columns `row`; `cluster`, `OUTLIER` for none, after merging; `central`, the cosine with
            the mean direction of its cluster as it was found, before merging, in [-1, 1], NaN for
            outliers; `gradient_norm`; and
            `isolated`, 0 or how far an isolated gradient is from the next, see
            `gradients.outliers`.
        """
        table = pd.read_parquet(self.path / "assigned.parquet")
        merged = self._edits.merged
        if merged:
            table["cluster"] = table["cluster"].replace(merged)
        return table

    def candidates(self) -> pd.DataFrame:
        """Return what was tried: a row each, with its score and whether it was `chosen`."""
        return pd.read_parquet(self.path / "candidates.parquet")

    def clusters_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the cluster of some rows of the bundle, `UNASSIGNED` for those without a place."""
        return self.columns_of(rows)["cluster"].fillna(UNASSIGNED).to_numpy(np.int64)

    def columns_of(self, rows: np.ndarray) -> pd.DataFrame:
        """Return `assigned` of some rows of the bundle, in their order; NaN where not assigned."""
        return self.assigned().set_index("row").reindex(rows).reset_index()


def open_clustering(workspace: Workspace, name: str) -> Clustering:
    """Open a clustering.

    Raises:
        RunNotFoundError: If there is none of that name.
        GsrError: If it has no record, or one of another format.
    """
    if "/" in name or name in ("", ".", ".."):
        raise RunNotFoundError(f"there is no clustering '{name}'; 'gsr cluster' makes one")
    return Clustering(workspace, workspace.clusterings / name).checked()


def list_clusterings(workspace: Workspace, bundle: Bundle) -> list[Clustering]:
    """Return the clusterings of a bundle's present content, newest first."""
    return [
        clustering
        for clustering in newest_first(Clustering, workspace, workspace.clusterings)
        if clustering.record.request.bundle_digest == bundle.manifest.digest
    ]
