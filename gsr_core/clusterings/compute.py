"""Computing a clustering and writing it to disk."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from torch import Tensor

from gsr_core.clusterings.request import ClusteringRequest, head_of_run
from gsr_core.clusterings.store import Clustering, ClusteringRecord, open_clustering
from gsr_core.compute import pick
from gsr_core.data.bundle import Bundle, open_bundle
from gsr_core.data.problem import Problem, Rows, load_problem
from gsr_core.data.variation import make_variation
from gsr_core.errors import BundleError, SettingError
from gsr_core.files import new_directory
from gsr_core.gradients.outliers import gradient_norms, isolation
from gsr_core.gradients.representations import (
    centre_by_class,
    gradient_representation,
    unit_rows,
)
from gsr_core.inference.agreement import agreement
from gsr_core.inference.base import OUTLIER, GroupInference
from gsr_core.inference.references import reference_head
from gsr_core.linear.head import Head, head_digest
from gsr_core.progress import Report, silent
from gsr_core.runs.store import now, open_run
from gsr_core.workspace import Workspace

__all__ = ["compute_clustering"]


_MOST_TRAIN = 200_000
"""Most rows of `train` without weights for which these are assigned too."""

_CHUNK = 100_000
"""Rows whose cosine with their cluster's mean is computed at a time."""

_RANK = 50
"""Leading directions of the gradients in which cosines are measured."""


def compute_clustering(
    workspace: Workspace,
    request: ClusteringRequest,
    *,
    device: str = "auto",
    progress: Report | None = None,
) -> Clustering:
    """Return a clustering: the workspace's if it has it, else compute and store it.

    Args:
        workspace: Where bundle, run and clusterings are.
        request: What to compute.
        device: As `compute.pick` takes it.
        progress: Called with the fraction done and what is being done.

    Raises:
        BundleError: If the bundle's content is no longer that of the request.
        SettingError: If the clustering would not fit in memory.

    Example:
        >>> bundle = gsr.open_bundle(place, "birds")
        >>> request = gsr.request_clustering(place, bundle, "kmeans", {"space": "features"})
        >>> clustering = gsr.compute_clustering(place, request, device="cpu")
        >>> clustering.label
        'k-means in each class (space=features)'
        >>> clustering.names
        {0: 'cat, cluster 0', 1: 'cat, cluster 1', 2: 'dog, cluster 0', 3: 'dog, cluster 1'}
    """
    clustering = Clustering(workspace, workspace.clusterings / request.name)
    if clustering.file.exists():
        return open_clustering(workspace, request.name)
    report = progress or silent
    start = time.monotonic()
    bundle = open_bundle(workspace, request.bundle)
    if bundle.manifest.digest != request.bundle_digest:
        raise BundleError(
            f"bundle '{bundle.name}' has changed since this clustering was asked for; ask again"
        )
    report(0.0, f"Reading {len(bundle):,} samples")
    problem = _problem(workspace, bundle, request, device)
    inference = request.inference_object()
    report(0.1, f"Inferring groups with {inference.title}")
    inferred = inference.infer(problem)
    assigned = pd.DataFrame(
        {
            "row": np.concatenate(
                [problem.weighted.position, problem.target.position, problem.val.position]
            ),
            "cluster": np.concatenate([inferred.weighted, inferred.target, inferred.val]),
        }
    )
    # Classes as the inference saw them: where labels are noisy, the flipped ones.
    y = _all_rows(problem).labels.cpu().numpy()
    classes = assigned.assign(y=y)[assigned["cluster"] != OUTLIER].groupby("cluster")["y"].first()
    report(0.6, "Scoring outliers")
    head = inference.head(problem) or reference_head(problem, "backbone")
    assigned = assigned.assign(**_scores(problem, head))
    report(0.8, "Looking for the middle of each cluster")
    assigned["central"] = _central(problem, inference, assigned["cluster"].to_numpy(copy=True))
    groups = bundle.membership[problem.weighted.position]
    labelled = groups.any(axis=1)
    names = [
        _name(name, bundle.manifest.classes, int(classes[cluster]))
        for cluster, name in enumerate(inferred.names)
    ]
    comparison = (
        agreement(inferred.weighted[labelled], groups[labelled], bundle.group_names, names)
        if labelled.any()
        else None
    )
    record = ClusteringRecord(
        created=now(),
        request=request,
        names=names,
        classes=[int(classes[cluster]) for cluster in range(inferred.n_groups)],
        choice=inferred.choice,
        space=inference.space,
        outliers=inferred.n_outliers / max(len(inferred.weighted), 1),
        agreement=None if comparison is None else comparison.as_dict(),
        seconds=time.monotonic() - start,
    )
    workspace.clusterings.mkdir(parents=True, exist_ok=True)
    with FileLock(workspace.clusterings / f".{request.name}.lock"):
        if not clustering.path.exists():
            with new_directory(clustering.path) as temporary:
                columns = ["row", "cluster", "central", "gradient_norm", "isolated"]
                ordered = assigned.drop_duplicates("row").sort_values("row")
                ordered[columns].to_parquet(temporary / "assigned.parquet", index=False)
                inferred.candidates.to_parquet(temporary / "candidates.parquet", index=False)
                (temporary / "clustering.json").write_text(record.model_dump_json(indent=2) + "\n")
    report(1.0, "Done")
    return open_clustering(workspace, request.name)


def _problem(
    workspace: Workspace, bundle: Bundle, request: ClusteringRequest, device: str
) -> Problem:
    """Return the problem, with all rows that are only assigned added to its `val`.

    Raises:
        SettingError: If the run has no head, or another one than it had.
    """
    compute = pick(device)
    problem, test = load_problem(
        bundle, compute, seed=request.seed, variation=make_variation(request.variation)
    )
    # Of all rows but those of target no group is read, and those of test are of another number.
    test = replace(test, groups=problem.val.groups.new_zeros(len(test), problem.n_groups))
    others = [problem.val, test]
    sizes = bundle.manifest.split_sizes
    if (
        problem.weighted_split != "train"
        and problem.train is not None
        and sizes.get("train", 0) <= _MOST_TRAIN
    ):
        others.append(problem.train())
    if request.run:
        head = head_of_run(open_run(workspace, request.run))
        if head_digest(head) != request.head:
            raise SettingError(
                f"run '{request.run}' has gone on since its clusters were asked for; ask again"
            )
        weight, bias = head.weight.to(compute.device), head.bias.to(compute.device)
        problem = replace(problem, backbone_head=(weight, bias))
    return replace(problem, val=_joined(others))


def _joined(parts: list[Rows]) -> Rows:
    return Rows(
        torch.cat([part.features for part in parts]),
        torch.cat([part.labels for part in parts]),
        torch.cat([part.groups for part in parts]),
        np.concatenate([part.position for part in parts]),
    )


def _all_rows(problem: Problem) -> Rows:
    return _joined([problem.weighted, problem.target, problem.val])


def _scores(problem: Problem, head: Head) -> dict[str, np.ndarray]:
    """Return the two outlier scores that need no clusters, for all rows.

    Isolation compares the rows that carry the weights with each other; it is 0 for all others.
    """
    rows = _all_rows(problem)
    norms = gradient_norms(head, rows.features, rows.labels)
    isolated = np.zeros(len(rows))
    own = problem.weighted
    isolated[: len(own)] = isolation(head, own.features, own.labels).score
    return {"gradient_norm": norms, "isolated": isolated}


def _central(problem: Problem, inference: GroupInference, cluster: np.ndarray) -> np.ndarray:
    """Return the cosine of each row with its cluster's mean direction, NaN for outliers.

    A direction is a vector of the inference's space minus the mean of its class; gradients are
    first projected on their leading directions.
    """
    rows = _all_rows(problem)
    if inference.space == "gradients":
        head = inference.head(problem)
        assert head is not None
        directions = gradient_representation(
            head, rows.features, rows.labels, rank=_RANK, centred=True, unit=True
        )
    else:
        vectors = rows.features
        if inference.space == "logits" and (head := inference.head(problem)) is not None:
            vectors = head.logits(vectors.to(head.weight))
        directions = centre_by_class(vectors, rows.labels)
    member = torch.from_numpy(cluster)
    central = np.full(len(cluster), np.nan)
    if not (member != OUTLIER).any():
        return central
    # In chunks: all rows in float64 would take more memory than everything else.
    chunks = [slice(start, start + _CHUNK) for start in range(0, len(cluster), _CHUNK)]
    means = torch.zeros(int(member.max()) + 1, directions.shape[1], dtype=torch.float64)
    for part in chunks:
        inside = member[part] != OUTLIER
        means.index_add_(0, member[part][inside], _unit(directions[part])[inside])
    means = unit_rows(means)
    for part in chunks:
        own = means[member[part].clamp(min=0)]
        central[part] = (_unit(directions[part]) * own).sum(dim=1).clamp(-1, 1).numpy()
    central[cluster == OUTLIER] = np.nan
    return central


def _unit(rows: Tensor) -> Tensor:
    return unit_rows(rows.double().cpu())


def _name(name: str, classes: list[str], label: int) -> str:
    """Return an inferred group's name, with the name of its class in it."""
    return f"{classes[label]}, {name.partition(', ')[2] or name}"
