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

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from gsr_core.compute import pick
from gsr_core.data.bundle import Bundle, open_bundle
from gsr_core.data.splits import Problem, Rows, load_problem
from gsr_core.data.variation import make_variation
from gsr_core.errors import BundleError, RunNotFoundError, SettingError
from gsr_core.files import new_directory, replace_file
from gsr_core.gradients.maps import head_digest
from gsr_core.gradients.outliers import gradient_norms, isolation
from gsr_core.gradients.representations import (
    centre_by_class,
    gradient_representation,
    unit_rows,
)
from gsr_core.inference.agreement import agreement
from gsr_core.inference.base import OUTLIER, GroupInference
from gsr_core.inference.references import reference_head
from gsr_core.inference.registry import INFERENCES, make_inference
from gsr_core.linear.head import Head
from gsr_core.runs.named import check_record, newest_first
from gsr_core.runs.store import Run, now, open_run
from gsr_core.workspace import Workspace

__all__ = [
    "NO_NAMES",
    "UNASSIGNED",
    "Clustering",
    "ClusteringRecord",
    "ClusteringRequest",
    "compute_clustering",
    "list_clusterings",
    "looks_at_backbone",
    "merge_clusters",
    "open_clustering",
    "rename_cluster",
    "request_clustering",
    "request_of_run",
]

FORMAT = 1
UNASSIGNED = -2
"""What stands for the cluster of a row that the clustering did not look at."""

NO_NAMES = ("outlier", "outliers", "not clustered")
"""What no cluster may be called, because something else is."""

_MOST_TRAIN = 200_000
"""Rows of `train` that carry no weight are assigned too, up to so many."""
_CHUNK = 100_000
"""Rows whose place inside their cluster is computed at a time."""
_RANK = 50
_NAME_LENGTH = 60

Progress = Callable[[float, str], None]


class ClusteringRequest(BaseModel):
    """All that a clustering depends on.

    Attributes:
        bundle: Name of the bundle, or its directory if it is outside of the workspace.
        bundle_digest: Digest of its content.
        inference: A key of `INFERENCES`.
        settings: All settings of the inference.
        run: The run whose head stands for the backbone's own; "" takes the backbone's.
        head: Digest of that head, which changes when the run goes on; "" without a run.
        seed: Seed of the run whose target and val are meant; 0 is the bundle's own.
        variation: What that run changed about the rows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: str
    bundle_digest: str
    inference: str
    settings: dict[str, Any]
    run: str = ""
    head: str = ""
    seed: int = 0
    variation: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """Name of the clustering: its inference and a digest of everything else."""
        text = f"clustering {FORMAT} {self.model_dump_json(exclude={'bundle'})}"
        return f"{self.inference}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    def inference_object(self) -> GroupInference:
        """Return the inference that is asked for."""
        return make_inference(self.inference, self.settings)


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


class _Edits(BaseModel):
    """What the user changed: new names, and clusters that became part of another."""

    names: dict[int, str] = {}
    merged: dict[int, int] = {}


@dataclass(frozen=True)
class Clustering:
    """One clustering on disk."""

    workspace: Workspace
    path: Path

    @property
    def name(self) -> str:
        """Name of the clustering."""
        return self.path.name

    @cached_property
    def record(self) -> ClusteringRecord:
        """What was asked for and found."""
        return ClusteringRecord.model_validate_json((self.path / "clustering.json").read_text())

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
    def _edits(self) -> _Edits:
        file = self.path / "edits.json"
        return _Edits.model_validate_json(file.read_text()) if file.exists() else _Edits()

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


# Asking ---------------------------------------------------------------------------------------


def request_clustering(
    workspace: Workspace,
    bundle: Bundle,
    inference: str,
    settings: Mapping[str, Any] | None = None,
    *,
    run: Run | None = None,
) -> ClusteringRequest:
    """Return a request, after checking what can be checked before anything is computed.

    Args:
        workspace: Where it shall be computed.
        bundle: The data.
        inference: A key of `INFERENCES`.
        settings: Settings that differ from the defaults; text is read as the setting's type.
        run: Its head stands for the backbone's own where the inference looks at that
            (`reference=backbone`); None takes the backbone's.

    Raises:
        SettingError: If the inference or a setting is unknown, a value is not allowed, it would
            not fit in memory, or a run is named whose head would not be looked at.
        BundleError: If the run was made on other data.
    """
    made = make_inference(inference, settings or {})
    rows = bundle.rows_of[bundle.manifest.weighted_split]
    sizes = np.bincount(bundle.y[rows], minlength=len(bundle.manifest.classes)).tolist()
    made.check_memory(sizes, bundle.manifest.n_features, len(sizes))
    if run is not None and run.config.bundle_digest != bundle.manifest.digest:
        raise BundleError(
            f"run '{run.run_id}' was made on other data than bundle '{bundle.name}' holds; choose "
            "a run on this bundle"
        )
    if run is not None and not looks_at_backbone(made):
        raise SettingError(
            f"{inference} with these settings does not look at the backbone's head, so that of run "
            f"'{run.run_id}' changes nothing; set {_backbone_setting(made)} or leave the run out"
        )
    inside = bundle.path.parent == workspace.bundles
    return ClusteringRequest(
        bundle=bundle.name if inside else str(bundle.path.resolve()),
        bundle_digest=bundle.manifest.digest,
        inference=inference,
        settings=_settings(made),
        run="" if run is None else run.run_id,
        head="" if run is None else head_digest(_head_of(run)),
    )


def looks_at_backbone(inference: GroupInference) -> bool:
    """Return whether an inference looks at the backbone's own head, as it is set."""
    named = "backbone" in (
        getattr(inference, "reference", ""),
        getattr(inference, "clustered", ""),
    )
    # GEORGE asks a head which clusters to cut finer, and only then.
    return named and (inference.space != "features" or getattr(inference, "overcluster", 1) > 1)


def _backbone_setting(inference: GroupInference) -> str:
    if hasattr(inference, "clustered"):
        return "clustered=backbone"
    if hasattr(inference, "overcluster"):
        return "overcluster above 1 and reference=backbone"
    if hasattr(inference, "reference"):
        return "reference=backbone" + ", space=gradients" * (inference.space == "features")
    return "an inference that does, such as grasp with reference=backbone,"


def _head_of(run: Run) -> Head:
    """Return a run's head.

    Raises:
        SettingError: If it has none yet.
    """
    arrays = run.head()
    if arrays is None:
        raise SettingError(
            f"run '{run.run_id}' has no head yet; wait until it has ended or leave it out"
        )
    return Head(*(torch.from_numpy(part) for part in arrays))


def request_of_run(run: Run) -> ClusteringRequest | None:
    """Return the request for the clusters that a run trained with; None if it inferred none."""
    config = run.config
    inference = INFERENCES.get(config.method)
    if inference is None:
        return None
    own = {each.name for each in fields(inference)}
    settings = {key: value for key, value in config.settings.items() if key in own}
    return ClusteringRequest(
        bundle=config.bundle,
        bundle_digest=config.bundle_digest,
        inference=config.method,
        settings=_settings(make_inference(config.method, settings)),
        seed=int(config.settings.get("seed", 0)),
        variation=config.variation,
    )


def _settings(inference: GroupInference) -> dict[str, Any]:
    return {each.name: getattr(inference, each.name) for each in fields(inference)}


def open_clustering(workspace: Workspace, name: str) -> Clustering:
    """Open a clustering.

    Raises:
        RunNotFoundError: If there is none of that name.
        GsrError: If it has no record, or one of another format.
    """
    found = Clustering(workspace, workspace.clusterings / name)
    if "/" in name or name in ("", ".", ".."):
        raise RunNotFoundError(f"there is no clustering '{name}'; 'gsr cluster' makes one")
    check_record("clustering", found, FORMAT, command="cluster")
    return found


def list_clusterings(workspace: Workspace, bundle: Bundle) -> list[Clustering]:
    """Return the clusterings of a bundle's very content, newest first."""
    return [
        found
        for found in newest_first(
            "clustering", workspace.clusterings, lambda name: open_clustering(workspace, name)
        )
        if found.record.request.bundle_digest == bundle.manifest.digest
    ]


# Computing ------------------------------------------------------------------------------------


def compute_clustering(
    workspace: Workspace,
    request: ClusteringRequest,
    *,
    device: str = "auto",
    progress: Progress | None = None,
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
    tell = progress or (lambda fraction, text: None)
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
        head = _head_of(open_run(workspace, request.run))
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


# Changing -----------------------------------------------------------------------------------


def rename_cluster(clustering: Clustering, cluster: int, name: str) -> None:
    """Give a cluster a name of the user's.

    Raises:
        SettingError: If the name is empty, too long, taken or reserved, or there is no such
            cluster.
    """
    name = name.strip()
    if not 1 <= len(name) <= _NAME_LENGTH:
        raise SettingError(
            f"a cluster's name has {len(name)} characters; give it 1 to {_NAME_LENGTH}"
        )
    if name in NO_NAMES:
        raise SettingError(
            f"'{name}' says that a sample is in no cluster; give the cluster another name"
        )

    def change(edits: _Edits, names: Mapping[int, str]) -> None:
        if name in [other for key, other in names.items() if key != cluster]:
            raise SettingError(f"another cluster is called '{name}' already; choose another name")
        edits.names[cluster] = name

    _edit(clustering, [cluster], change)


def merge_clusters(clustering: Clustering, one: int, other: int) -> None:
    """Make a cluster part of another one of its class, whose name stays.

    Args:
        clustering: Of the two.
        one: The cluster that stays.
        other: The cluster that becomes part of it.

    Raises:
        SettingError: If there is no such cluster, or they are of different classes.
    """
    classes = clustering.record.classes

    def change(edits: _Edits, names: Mapping[int, str]) -> None:
        if one == other:
            raise SettingError(f"cluster '{names[one]}' cannot be merged with itself; choose two")
        if classes[one] != classes[other]:
            raise SettingError(
                f"clusters '{names[one]}' and '{names[other]}' are of different classes; a group "
                "has samples of one class, so merge clusters of the same"
            )
        edits.merged = {
            key: one if value == other else value for key, value in edits.merged.items()
        } | {other: one}

    _edit(clustering, [one, other], change)


def _edit(
    clustering: Clustering,
    clusters: list[int],
    change: Callable[[_Edits, Mapping[int, str]], None],
) -> None:
    """Change the edits under a lock, so that two windows do not lose each other's.

    Raises:
        SettingError: If there is no such cluster.
    """
    with FileLock(clustering.path.with_name(f".{clustering.name}.lock")):
        names = clustering.names
        for each in clusters:
            if each not in names:
                raise SettingError(
                    f"there is no cluster {each}; clusters are "
                    f"{', '.join(f'{key} ({name})' for key, name in names.items())}"
                )
        edits = clustering._edits
        change(edits, names)
        with replace_file(clustering.path / "edits.json") as temporary:
            temporary.write_text(edits.model_dump_json(indent=2) + "\n")
