"""The network behind the features that a run's head is for, opened again with the inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from gsr_core.data.bundle import Bundle
from gsr_core.data.source import Source
from gsr_core.errors import CheckpointError, SettingError
from gsr_core.features.backbones import Backbone, load_backbone
from gsr_core.ingest.plan import BackboneChoice, plan_of
from gsr_core.ingest.reopen import check_inputs, network_choice, source_of
from gsr_core.runs.network import NETWORK, trained_choice
from gsr_core.runs.store import Run

__all__ = ["Behind", "open_behind"]


@dataclass(frozen=True)
class Behind:
    """A network and its inputs, which together give a run's features.

    Attributes:
        choice: What was opened.
        backbone: The network, on the CPU.
        source: Table and inputs in the order of the bundle's rows.
        rows: (r,) rows on which the features were compared with the stored ones.
        features: (r, d) float32, what they are now.
    """

    choice: BackboneChoice
    backbone: Backbone
    source: Source
    rows: np.ndarray
    features: np.ndarray


def open_behind(run: Run, bundle: Bundle, *, purpose: str) -> Behind:
    """Open the network behind a run, and see whether it still gives the stored features.

    A run that trained the network itself has its own.

    Args:
        run: A run that has ended.
        bundle: Its bundle.
        purpose: What it is for and what to do without, for the sentence: "put the head into; ...".

    Raises:
        SettingError: If the bundle was imported without a network.
        BundleError: If its inputs are others now, or give other features.
        CheckpointError: If the network's weights are gone or others now.
        GsrError: If its library is not installed, or its inputs cannot be read.
    """
    trained = run.features_file.exists()
    if not trained and plan_of(bundle).backbone is None:
        raise SettingError(
            f"bundle '{bundle.name}' was imported without a network (as a table, or as ready "
            f"features), so that there is none to {purpose}"
        )
    choice = (
        BackboneChoice.model_validate(trained_choice(bundle, run.path / NETWORK))
        if trained
        else network_choice(bundle, "trained")
    )
    source = source_of(bundle)
    backbone = load_backbone(**choice.call())
    expected = bundle.manifest.backbone.get("sha256")
    if not trained and expected and backbone.facts["sha256"] != expected:
        raise CheckpointError(
            f"the weights of {choice.name} are not those that the features of bundle "
            f"'{bundle.name}' came from (their SHA-256 differs); bring these back, or import the "
            "data anew"
        )
    rows, features = check_inputs(run.seen(bundle), source.inputs, torch.device("cpu"), backbone)
    return Behind(choice, backbone, source, rows, features)
