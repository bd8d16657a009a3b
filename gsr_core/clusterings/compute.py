"""Computing a clustering and writing it down, whole."""

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
"""Rows of `train` that carry no weight are assigned too, up to so many."""

_CHUNK = 100_000
"""Rows whose place inside their cluster is computed at a time."""

_RANK = 50


def compute_clustering(
    workspace: Workspace,
    request: ClusteringRequest,
    *,
    device: str = "auto",
    progress: Report | None = None,
) -> Clustering:
    """Return a clustering, from the workspace if it is there; else compute it and keep it.

    Args:
        workspace: Where bundle, run and clusterings are.
        request: What to compute.
        device: As `compute.pick` takes it.
        progress: Told the fraction done and what is being done.

    Raises:
        BundleError: If the bundle's content is no longer what was asked for.
        SettingError: If the clustering would not fit in memory.
    """
    made = Clustering(workspace, workspace.clusterings / request.name)
    if (made.path / "clustering.json").exists():
        return open_clustering(workspace, request.name)
    tell = progress or silent
    begun = time.monotonic()
    bundle = open_bundle(workspace, request.bundle)
    if bundle.manifest.digest != request.bundle_digest:
        raise BundleError(
            f"bundle '{bundle.name}' has changed since this clustering was asked for; ask again"
        )
    tell(0.0, f"Reading {len(bundle):,} samples")
    problem = _problem(workspace, bundle, request, device)
    inference = request.inference_object()
    tell(0.1, f"Inferring groups with {inference.title}")
    found = inference.infer(problem)
    assigned = pd.DataFrame(
        {
            "row": np.concatenate(
                [problem.weighted.position, problem.target.position, problem.val.position]
            ),
            "cluster": np.concatenate([found.weighted, found.target, found.val]),
        }
    )
    # Classes as the inference saw them: of noisy labels, those that were flipped.
    y = _all_rows(problem).labels.cpu().numpy()
    classes = assigned.assign(y=y)[assigned["cluster"] != OUTLIER].groupby("cluster")["y"].first()
    tell(0.6, "Scoring outliers")
    head = inference.head(problem) or reference_head(problem, "backbone")
    assigned = assigned.assign(**_scores(problem, head))
    tell(0.8, "Looking for the middle of each cluster")
    assigned["central"] = _central(problem, inference, assigned["cluster"].to_numpy(copy=True))
    known = problem.weighted.groups.cpu().numpy()
    labelled = known.any(axis=1)
    names = [
        _named(name, bundle.manifest.classes, int(classes[cluster]))
        for cluster, name in enumerate(found.names)
    ]
    agreed = (
        agreement(found.weighted[labelled], known[labelled], bundle.group_names, names)
        if labelled.any()
        else None
    )
    record = ClusteringRecord(
        created=now(),
        request=request,
        names=names,
        classes=[int(classes[cluster]) for cluster in range(found.n_groups)],
        choice=found.choice,
        space=inference.space,
        outliers=found.n_outliers / max(len(found.weighted), 1),
        agreement=None if agreed is None else agreed.as_dict(),
        seconds=time.monotonic() - begun,
    )
    workspace.clusterings.mkdir(parents=True, exist_ok=True)
    with FileLock(workspace.clusterings / f".{request.name}.lock"):
        if not made.path.exists():
            with new_directory(made.path) as temporary:
                columns = ["row", "cluster", "central", "gradient_norm", "isolated"]
                ordered = assigned.drop_duplicates("row").sort_values("row")
                ordered[columns].to_parquet(temporary / "assigned.parquet", index=False)
                found.candidates.to_parquet(temporary / "candidates.parquet", index=False)
                (temporary / "clustering.json").write_text(record.model_dump_json(indent=2) + "\n")
    tell(1.0, "Done")
    return open_clustering(workspace, request.name)


def _problem(
    workspace: Workspace, bundle: Bundle, request: ClusteringRequest, device: str
) -> Problem:
    """Return the problem, its `val` lengthened by all rows that are only to be assigned.

    Raises:
        SettingError: If the run has no head, or another one by now.
    """
    compute = pick(device)
    problem, test = load_problem(
        bundle, compute, seed=request.seed, variation=make_variation(request.variation)
    )
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
    """Return the two scores of outliers that need no clusters, for all rows.

    Isolation is a question among the rows that train, so that it is theirs alone; 0 elsewhere.
    """
    rows = _all_rows(problem)
    norms = gradient_norms(head, rows.features, rows.labels)
    isolated = np.zeros(len(rows))
    own = problem.weighted
    isolated[: len(own)] = isolation(head, own.features, own.labels).score
    return {"gradient_norm": norms, "isolated": isolated}


def _central(problem: Problem, inference: GroupInference, cluster: np.ndarray) -> np.ndarray:
    """Return the cosine of each row with its cluster's mean direction, NaN for outliers.

    Directions are those of the inference's space with the class's mean taken away; of gradients,
    those along their leading directions.
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
    # In chunks: all rows in float64 would be more than all else together.
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


def _named(name: str, classes: list[str], label: int) -> str:
    """Return an inferred group's name with the class's own in it."""
    return f"{classes[label]}, {name.partition(', ')[2] or name}"
