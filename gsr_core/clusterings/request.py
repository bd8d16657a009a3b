"""The request for a clustering."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from gsr_core.data.bundle import Bundle, bundle_reference
from gsr_core.errors import BundleError, SettingError
from gsr_core.inference.base import GroupInference
from gsr_core.inference.registry import INFERENCES, make_inference
from gsr_core.linear.head import Head, head_digest
from gsr_core.runs.store import Run
from gsr_core.workspace import Workspace

__all__ = [
    "FORMAT",
    "ClusteringRequest",
    "head_of_run",
    "looks_at_backbone",
    "request_clustering",
    "request_of_run",
]


FORMAT = 1


class ClusteringRequest(BaseModel):
    """Everything that a clustering depends on.

    Attributes:
        bundle: Name of the bundle, or its directory if it is outside of the workspace.
        bundle_digest: Digest of its content.
        inference: A key of `INFERENCES`.
        settings: All settings of the inference.
        run: The run whose head replaces the backbone's own; "" takes the backbone's.
        head: Digest of that head, which changes when the run goes on; "" without a run.
        seed: Decides target and val as the seed of a run does; 0 takes the bundle's own.
        variation: Changes of the rows, as of a run.
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
        """Return the inference with its settings."""
        return make_inference(self.inference, self.settings)


def request_clustering(
    workspace: Workspace,
    bundle: Bundle,
    inference: str,
    settings: Mapping[str, Any] | None = None,
    *,
    run: Run | None = None,
) -> ClusteringRequest:
    """Check everything that can be checked before the computation, and return a request.

    Args:
        workspace: Where to compute it.
        bundle: The data.
        inference: A key of `INFERENCES`.
        settings: Settings that differ from the defaults; text is read as the setting's type.
        run: Its head replaces the backbone's own where the inference looks at that
            (`reference=backbone`); None takes the backbone's.

    Raises:
        SettingError: If the inference or a setting is unknown, a value is not allowed, the
            clustering would not fit in memory, or the head of the run would not be looked at.
        BundleError: If the run is on other data.

    Example:
        >>> bundle = gsr.open_bundle(place, "birds")
        >>> request = gsr.request_clustering(place, bundle, "kmeans", {"clusters": "3"})
        >>> request.name, request.settings["clusters"]
        ('kmeans-...', 3)
        >>> gsr.request_clustering(place, bundle, "kmean")
        Traceback (most recent call last):
        gsr_core.errors.SettingError: there is no inference 'kmean' (did you mean 'kmeans'?); ...
    """
    chosen = make_inference(inference, settings or {})
    rows = bundle.rows_of[bundle.manifest.weighted_split]
    sizes = np.bincount(bundle.y[rows], minlength=len(bundle.manifest.classes)).tolist()
    chosen.check_memory(sizes, bundle.manifest.n_features, len(sizes))
    if run is not None and run.config.bundle_digest != bundle.manifest.digest:
        raise BundleError(
            f"run '{run.run_id}' was made on other data than bundle '{bundle.name}' holds; choose "
            "a run on this bundle"
        )
    if run is not None and not looks_at_backbone(chosen):
        raise SettingError(
            f"{inference} with these settings does not look at the backbone's head, so that of run "
            f"'{run.run_id}' changes nothing; set {_backbone_setting(chosen)} or leave the run out"
        )
    return ClusteringRequest(
        bundle=bundle_reference(workspace, bundle),
        bundle_digest=bundle.manifest.digest,
        inference=inference,
        settings=_settings(chosen),
        run="" if run is None else run.run_id,
        head="" if run is None else head_digest(head_of_run(run)),
    )


def looks_at_backbone(inference: GroupInference) -> bool:
    """Return whether an inference, with its settings, looks at the backbone's own head."""
    named = "backbone" in (
        getattr(inference, "reference", ""),
        getattr(inference, "clustered", ""),
    )
    # GEORGE uses a head only to decide which clusters to cut finer.
    return named and (inference.space != "features" or getattr(inference, "overcluster", 1) > 1)


def _backbone_setting(inference: GroupInference) -> str:
    if hasattr(inference, "clustered"):
        return "clustered=backbone"
    if hasattr(inference, "overcluster"):
        return "overcluster above 1 and reference=backbone"
    if hasattr(inference, "reference"):
        return "reference=backbone" + ", space=gradients" * (inference.space == "features")
    return "an inference that does, such as grasp with reference=backbone,"


def head_of_run(run: Run) -> Head:
    """Return a run's head.

    Raises:
        SettingError: If it has none yet.
    """
    if run.features_file.exists():
        raise SettingError(
            f"run '{run.run_id}' trained the network anew, and clusters are of the bundle's own "
            "features; make a bundle of the run's features and cluster that, or leave the run out"
        )
    arrays = run.head()
    if arrays is None:
        raise SettingError(
            f"run '{run.run_id}' has no head yet; wait until it has ended or leave it out"
        )
    return Head(*(torch.from_numpy(part) for part in arrays))


def request_of_run(run: Run) -> ClusteringRequest | None:
    """Return the request for the clusters that a run trained with; None if it had none."""
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
