"""Tables of the clusters of a clustering, and their uses.

Clusters are described by the samples of one split as a run sees them. They become slices, flags, a
file, or the groups of a new bundle.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from gsr_core.clusterings.store import Clustering
from gsr_core.curation.flags import flag_rows
from gsr_core.curation.subsets import Subset
from gsr_core.curation.tables import describe_rows
from gsr_core.data.bundle import SPLITS, Bundle, open_bundle
from gsr_core.data.bundle_writing import bundle_directory, rewrite_bundle
from gsr_core.data.groups import Group, membership_from_index
from gsr_core.errors import BundleError
from gsr_core.inference.base import OUTLIER

__all__ = [
    "cluster_subsets",
    "cluster_table",
    "clusters_as_bundle",
    "describe_clusters",
    "flag_outliers",
    "strips",
]


def cluster_table(clustering: Clustering, samples: pd.DataFrame, bundle: Bundle) -> pd.DataFrame:
    """Describe each cluster by the samples of one split as a run sees them.

    Args:
        clustering: Of the bundle.
        samples: `sample_table` of a run and split.
        bundle: The data.

    Returns:
        One row for each cluster that has samples there, and a last one for the outliers
        (`OUTLIER`); samples that the clustering did not look at are in none. Columns `cluster`,
        `name`, `size`, `share` of the samples, `majority` (the group that most of them are in),
        `purity` (its share of the cluster), `accuracy`, `loss` (mean, nats), `worst_errors` (share
        of the worst group's errors that are in the cluster; NaN if there are no such errors), and
        `weight` (mean, relative to uniform) where the samples have one.

    Example:
        >>> from gsr_core.runs.samples import sample_table
        >>> bundle = gsr.open_bundle(place, "birds")
        >>> request = gsr.request_clustering(place, bundle, "kmeans", {"space": "features"})
        >>> clustering = gsr.compute_clustering(place, request, device="cpu")
        >>> samples = sample_table(gsr.run(place, "birds", "erm", device="cpu"), "test")
        >>> table = gsr.cluster_table(clustering, samples, bundle)
        >>> table[["name", "size", "majority", "purity", "accuracy"]]
                     name  size    majority  purity  accuracy
        0  cat, cluster 0    10    cat, red     1.0       0.8
        1  cat, cluster 1    10  cat, green     1.0       0.9
        2  dog, cluster 0    10  dog, green     1.0       1.0
        3  dog, cluster 1    10    dog, red     1.0       1.0
    """
    rows = samples["row"].to_numpy()
    cluster = clustering.clusters_of(rows)
    members, groups = bundle.membership[rows], bundle.group_names
    wrong = ~samples["correct"].to_numpy()
    sizes = members.sum(axis=0)
    rate = (members & wrong[:, None]).sum(axis=0) / np.maximum(sizes, 1)
    worst = int(np.where(sizes > 0, rate, -1).argmax())
    worst_wrong = members[:, worst] & wrong
    names = clustering.names
    order = [each for each in names if (cluster == each).any()]
    order += [OUTLIER] * bool((cluster == OUTLIER).any())
    table = []
    for each in order:
        inside = cluster == each
        counts = members[inside].sum(axis=0)
        largest = int(counts.argmax())
        table.append(
            {
                "cluster": each,
                "name": names.get(each, "outliers"),
                "size": int(inside.sum()),
                "share": float(inside.mean()),
                "majority": groups[largest] if counts.any() else "",
                "purity": float(counts[largest] / inside.sum()) if counts.any() else np.nan,
                "accuracy": float(1 - wrong[inside].mean()),
                "loss": float(samples["loss"].to_numpy()[inside].mean()),
                "worst_errors": float(worst_wrong[inside].sum() / worst_wrong.sum())
                if worst_wrong.any()
                else np.nan,
                **(
                    {"weight": float(samples["weight"].to_numpy()[inside].mean())}
                    if "weight" in samples
                    else {}
                ),
            }
        )
    return pd.DataFrame(table)


def cluster_subsets(clusterings: Iterable[Clustering], rows: np.ndarray) -> list[Subset]:
    """Return the clusters of some clusterings as subsets of some rows.

    Outliers are no cluster; a clustering that did not look at the rows has none here.

    Args:
        clusterings: Of one bundle.
        rows: (n,) positions in the bundle, ascending.
    """
    return [
        Subset("cluster", f"{clustering.label}: {name}", rows[inside])
        for clustering in clusterings
        for assigned in [clustering.clusters_of(rows)]
        for cluster, name in clustering.names.items()
        if (inside := assigned == cluster).any()
    ]


def strips(
    clustering: Clustering, cluster: int, rows: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of a cluster nearest to its middle and farthest from it, in that order.

    Args:
        clustering: Of the bundle.
        cluster: One of its clusters, or `OUTLIER`, whose rows come by falling gradient norm.
        rows: Positions in the bundle to choose among.
        count: Number of rows of each; fewer if the cluster is small. No row is in both.
    """
    table = clustering.columns_of(rows)
    inside = table[table["cluster"] == cluster]
    by = "gradient_norm" if cluster == OUTLIER else "central"
    ordered = inside.sort_values([by, "row"], ascending=[False, True])["row"].to_numpy(np.int64)
    near = ordered[: min(count, -(-len(ordered) // 2))]
    far = ordered[len(near) :][-count:][::-1]
    return near, far


def describe_clusters(clustering: Clustering, bundle: Bundle) -> pd.DataFrame:
    """Return every assigned sample with its cluster, as written to a file.

    Returns:
        `describe_rows`, with the columns `cluster` (its name, "" for outliers), `outlier`,
        `central`, `gradient_norm` and `isolated` of `Clustering.assigned`.

    Example:
        >>> bundle = gsr.open_bundle(place, "birds")
        >>> request = gsr.request_clustering(place, bundle, "kmeans", {"space": "features"})
        >>> clustering = gsr.compute_clustering(place, request, device="cpu")
        >>> table = gsr.describe_clusters(clustering, bundle)
        >>> table[["sample_id", "split", "group", "cluster"]].head(3)
          sample_id  split       group         cluster
        0        s0  train    cat, red  cat, cluster 0
        1        s1  train    cat, red  cat, cluster 0
        2        s2  train  dog, green  dog, cluster 0
    """
    table = clustering.assigned()
    cluster = table["cluster"]
    return describe_rows(
        bundle,
        table["row"].to_numpy(),
        cluster=cluster.map(clustering.names).fillna("").to_numpy(),
        outlier=(cluster == OUTLIER).to_numpy(),
        **{name: table[name].to_numpy() for name in ("central", "gradient_norm", "isolated")},
    )


def flag_outliers(clustering: Clustering, bundle: Bundle) -> int:
    """Put the outliers of all splits on the flag list and return their number."""
    table = clustering.assigned()
    rows = table.loc[table["cluster"] == OUTLIER, "row"].to_numpy()
    if len(rows):
        flag_rows(clustering.workspace, bundle, rows, f"outlier of {clustering.label}")
    return len(rows)


def clusters_as_bundle(clustering: Clustering, name: str) -> Bundle:
    """Write a bundle of the same samples whose groups are the clusters.

    Features are linked, not copied. Outliers and samples that the clustering did not assign are in
    no group.

    Args:
        clustering: With its present names and merges.
        name: Of the new bundle.

    Raises:
        BundleError: If the name is not allowed or taken, or a cluster has no sample in target.

    Example:
        >>> bundle = gsr.open_bundle(place, "birds")
        >>> request = gsr.request_clustering(place, bundle, "kmeans", {"space": "features"})
        >>> clustering = gsr.compute_clustering(place, request, device="cpu")
        >>> gsr.clusters_as_bundle(clustering, "birds-by-cluster").group_names
        ['cat, cluster 0', 'cat, cluster 1', 'dog, cluster 0', 'dog, cluster 1']
    """
    workspace, request = clustering.workspace, clustering.record.request
    directory = bundle_directory(workspace, name)
    bundle = open_bundle(workspace, request.bundle)
    clustering.check_data(bundle.manifest.digest, bundle.name)
    names = clustering.names
    cluster = clustering.clusters_of(np.arange(len(bundle)))
    target = cluster[bundle.rows_of["target"]]
    for key, each in names.items():
        if not (target == key).any():
            raise BundleError(
                f"cluster '{each}' has no sample in target, so nothing could drive its weights; "
                "merge it with another cluster first"
            )
    number = np.full(max(names, default=0) + 1, OUTLIER)
    number[list(names)] = np.arange(len(names))
    index = np.where(cluster >= 0, number[np.maximum(cluster, 0)], OUTLIER)
    outside = {
        split: int((index[rows] == OUTLIER).sum())
        for split in SPLITS
        if len(rows := bundle.rows_of[split])
    }
    lost = ", ".join(f"{count:,} of {split}" for split, count in outside.items() if count)
    return rewrite_bundle(
        bundle,
        directory,
        bundle.samples,
        membership_from_index(index, len(names)),
        groups=[
            Group(name=each, definition=f"cluster of {clustering.label}") for each in names.values()
        ],
        source=f"{bundle.manifest.source}; groups from clustering {clustering.name}",
        note=f"The groups are clusters of '{bundle.name}' by {clustering.label}, inferred without "
        f"group labels; {lost or 'none'} of the samples are in no group.",
    )
