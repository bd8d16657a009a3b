"""Clusterings: inferred groups of a bundle's samples, as objects on disk.

A clustering is a directory `<workspace>/clusterings/<name>/`. Its name is made from its request, so
that the same request is computed once:

```
clustering.json      the request, the choice and its reason, agreement with the true groups
assigned.parquet     one row for each sample: row, cluster, central, gradient_norm, isolated
candidates.parquet   the clusterings that were tried
edits.json           names and merges by the user; the rest never changes
```

An inference makes the clusters from the rows that carry the weights, without group labels. The rows
of all other splits, test among them, are only assigned to them, so that errors can be read cluster
by cluster. True groups, where there are any, only serve to compare the clusters with afterwards.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from gsr_core.clusterings.request import FORMAT, ClusteringRequest
from gsr_core.data.bundle import Bundle
from gsr_core.data.variation import make_variation
from gsr_core.errors import SettingError
from gsr_core.inference.registry import INFERENCES
from gsr_core.records import RecordFolder, newest_first, open_folder
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
"""In place of the cluster of a row that the clustering did not look at."""


class ClusteringRecord(BaseModel):
    """The record of a clustering.

    Attributes:
        format: Version of the directory's format.
        created: Time of writing, ISO 8601, UTC.
        request: Everything that it depends on.
        names: A name for each cluster.
        classes: Class of each cluster.
        choice: A sentence that says what was chosen, and why.
        space: Where the clusters live: `gradients`, `features` or `logits`.
        outliers: Share of the weighted rows that are in no cluster.
        agreement: How well the weighted rows' clusters agree with their true groups, None where
            no weighted row has a known group; see `inference.agreement`.
        seconds: Duration of the computation.
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
    """Changes by the user: new names, and clusters that became part of another."""

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
        """The request and the outcome; they never change."""
        return self._record

    @cached_property
    def _record(self) -> ClusteringRecord:
        return super().record

    @property
    def label(self) -> str:
        """Name for people: the inference, the settings that differ from the defaults, the run."""
        request = self.record.request
        inference = INFERENCES[request.inference]
        defaults = inference()
        changed = [
            f"{key}={value}"
            for key, value in request.settings.items()
            if getattr(defaults, key) != value
        ]
        if request.run:
            changed.append(f"head of {request.run}")
        if request.seed:
            changed.append(f"seed {request.seed}'s rows")
        changed += make_variation(request.variation).phrases
        title = inference.title.partition(":")[0]
        return f"{title} ({', '.join(changed)})" if changed else title

    def check_data(self, digest: str, bundle: str) -> None:
        """Check that the clustering is of some data, so that its rows are theirs.

        Args:
            digest: Of the content of their bundle.
            bundle: Its name, for the sentence.

        Raises:
            SettingError: If it is of others.
        """
        if self.record.request.bundle_digest != digest:
            raise SettingError(
                f"clustering '{self.name}' is of other data, of bundle "
                f"'{Path(self.record.request.bundle).name}' as it was; choose one of bundle "
                f"'{bundle}'"
            )

    @property
    def stamp(self) -> int:
        """A number that changes whenever the user edits names or merges."""
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
        """Return one row for each sample, by its position in the bundle.

        Returns:
            Columns `row`; `cluster`, `OUTLIER` for none, after merging; `central`, the cosine with
            the mean direction of its cluster before merging, in [-1, 1], NaN for outliers;
            `gradient_norm`; and `isolated`, the distance of an isolated gradient from the next,
            else 0 (see `gradients.outliers`).
        """
        table = pd.read_parquet(self.path / "assigned.parquet")
        merged = self._edits.merged
        if merged:
            table["cluster"] = table["cluster"].replace(merged)
        return table

    def candidates(self) -> pd.DataFrame:
        """Return the clusterings that were tried: their scores, and which is `chosen`."""
        return pd.read_parquet(self.path / "candidates.parquet")

    def clusters_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the cluster of some rows of the bundle, `UNASSIGNED` where not assigned."""
        return self.columns_of(rows)["cluster"].fillna(UNASSIGNED).to_numpy(np.int64)

    def columns_of(self, rows: np.ndarray) -> pd.DataFrame:
        """Return `assigned` of some rows of the bundle, in their order; NaN where not assigned."""
        return self.assigned().set_index("row").reindex(rows).reset_index()


def open_clustering(workspace: Workspace, name: str) -> Clustering:
    """Open a clustering.

    Raises:
        RunNotFoundError: If there is none of that name.
        GsrError: If it has no record, or one of another format.

    Example:
        >>> bundle = gsr.open_bundle(place, "birds")
        >>> request = gsr.request_clustering(place, bundle, "kmeans", {"space": "features"})
        >>> _ = gsr.compute_clustering(place, request, device="cpu")
        >>> gsr.open_clustering(place, request.name).record.choice
        '2 clusters of each class, as set'
    """
    return open_folder(Clustering, workspace, workspace.clusterings, name)


def list_clusterings(workspace: Workspace, bundle: Bundle) -> list[Clustering]:
    """Return the clusterings of a bundle's present content, newest first.

    Example:
        >>> bundle = gsr.open_bundle(place, "birds")
        >>> for clusters in (2, 3):
        ...     request = gsr.request_clustering(place, bundle, "kmeans", {"clusters": clusters})
        ...     _ = gsr.compute_clustering(place, request, device="cpu")
        >>> [clustering.label for clustering in gsr.list_clusterings(place, bundle)]
        ['k-means in each class (clusters=3)', 'k-means in each class']
    """
    return [
        clustering
        for clustering in newest_first(Clustering, workspace, workspace.clusterings)
        if clustering.record.request.bundle_digest == bundle.manifest.digest
    ]
