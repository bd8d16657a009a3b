"""The table, the inputs and the network behind a bundle, opened again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gsr_core.data.bundle import Bundle
from gsr_core.data.dataset import define
from gsr_core.data.inputs import Inputs
from gsr_core.data.source import Source
from gsr_core.errors import BundleError, GsrError, SettingError
from gsr_core.features.backbones import Backbone, Network, load_backbone, load_network
from gsr_core.features.extract import extract
from gsr_core.features.presets import PRESETS, Training, make_training
from gsr_core.features.trainable import Start
from gsr_core.ingest.compute import encode_columns
from gsr_core.ingest.plan import BackboneChoice, plan_of
from gsr_core.ingest.read import read

__all__ = [
    "check_inputs",
    "check_trainable",
    "inputs_of",
    "network_choice",
    "network_of",
    "source_of",
    "training_of",
]

_TRIED = 8
"""Inputs that go through the bundle's own network once more."""
_CLOSE = 1e-2
"""How far features may be from the stored ones, relative to the largest: precision and batches
differ by less."""


def inputs_of(bundle: Bundle) -> Inputs:
    """Return the inputs of a bundle's rows, in their order.

    Raises:
        GsrError: As `source_of`.
    """
    return source_of(bundle).inputs


def source_of(bundle: Bundle) -> Source:
    """Return what a bundle was imported from: the table of all its columns, and the inputs.

    Returns:
        What the bundle's reader gives now, with table and inputs in the order of the bundle's rows.

    Raises:
        SettingError: If the bundle does not say where they are, or was imported without a network.
        SourceError: If the files are no longer there.
        BundleError: If they are other rows now.
    """
    check_trainable(bundle, "trained")
    source, roles = read(plan_of(bundle))
    dataset, _ = encode_columns(define(source, roles), roles)
    place = {name: row for row, name in enumerate(dataset.samples["sample_id"].astype(str))}
    names = bundle.column("sample_id").to_pandas().astype(str)
    rows = names.map(place)
    if rows.isna().any():
        gone = names[rows.isna()]
        raise BundleError(
            f"{len(gone):,} of the {len(names):,} samples of bundle '{bundle.name}' are no longer "
            f"in the data that it was imported from, the first is '{gone.iloc[0]}'; bring the data "
            "back, or import it anew"
        )
    positions = rows.to_numpy(np.int64)
    if not np.array_equal(dataset.samples["y"].to_numpy()[positions], bundle.y):
        raise BundleError(
            f"the classes in the data of bundle '{bundle.name}' are not those of its import; bring "
            "the data back, or import it anew"
        )
    table = source.table.iloc[dataset.rows[positions]].reset_index(drop=True)
    return replace(source, table=table, inputs=dataset.inputs.take(positions))


def check_trainable(bundle: Bundle, start: str) -> None:
    """Look whether a bundle says which inputs and which network it was made of, and opens neither.

    Args:
        bundle: The bundle.
        start: Which weights are wanted.

    Raises:
        SettingError: If it does not, or the file of the weights is gone.
    """
    plan = plan_of(bundle)
    if plan.backbone is None:
        raise SettingError(
            f"bundle '{bundle.name}' was imported as ready features, so that there is no network "
            "to train; import the inputs with --backbone"
        )
    # The trained network is looked at too, to see whether the inputs are those of the import.
    for choice in (network_choice(bundle, "trained"), network_choice(bundle, start)):
        if choice.checkpoint and not choice.call()["checkpoint"].exists():
            raise SettingError(
                f"the network of bundle '{bundle.name}' is gone: there is no file "
                f"{choice.checkpoint}; put it back, or import the data anew"
            )


def network_of(bundle: Bundle, start: Start, seed: int) -> Network:
    """Return the network behind a bundle, to be trained.

    Args:
        bundle: The bundle.
        start: Which weights to begin with.
        seed: What is new in it is drawn from this.

    Raises:
        SettingError: If the bundle does not say which network it was, or it cannot be trained.
        CheckpointError: If its weights are gone or are others now.
    """
    check_trainable(bundle, start)
    choice = network_choice(bundle, start)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            network = load_network(**choice.call(), n_classes=len(bundle.manifest.classes))
    except GsrError as error:
        raise type(error)(
            f"the network of bundle '{bundle.name}' cannot be trained: {error}"
        ) from error
    return network


def training_of(bundle: Bundle) -> Training | None:
    """Return how a bundle's network was trained at its import, None if it was not."""
    choice = plan_of(bundle).training
    return None if choice is None else make_training(choice.preset, choice.settings)


def check_inputs(
    bundle: Bundle, inputs: Inputs, device: torch.device, backbone: Backbone | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """See whether inputs still give the features that the bundle has of them.

    Args:
        bundle: The bundle.
        inputs: Of its rows; a few are tried.
        device: Where to compute.
        backbone: The network that gave the features; opened if it is None.

    Returns:
        The (r,) rows that were tried, and the (r, d) float32 features that they give now.

    Raises:
        BundleError: If they do not.
    """
    if backbone is None:
        backbone = load_backbone(**network_choice(bundle, "trained").call())
    rows = np.unique(np.linspace(0, len(bundle) - 1, _TRIED).astype(np.int64))
    found = extract(
        backbone, inputs.take(rows), device=device, workers=0, precision="float32"
    ).features
    stored = np.asarray(bundle.features[rows])
    # Not where one row deviates for its own reasons, such as a batch in another precision.
    if found.shape != stored.shape or np.abs(found - stored).max() > _CLOSE * np.abs(stored).max():
        raise BundleError(
            f"the inputs of bundle '{bundle.name}', or its network, have changed since the import: "
            "they no longer give the stored features; bring them back, or import the data anew"
        )
    return rows, found


def network_choice(bundle: Bundle, start: str) -> BackboneChoice:
    """Return which network to load, and with which weights.

    Args:
        bundle: The bundle.
        start: Which weights.

    Raises:
        SettingError: If the bundle does not say which network it was.
    """
    recipe: dict[str, Any] = bundle.manifest.recipe or {}
    plan = plan_of(bundle)
    trained = BackboneChoice.model_validate(recipe.get("network") or plan.backbone)
    if start == "trained" or plan.backbone is None:
        return trained
    choice = plan.backbone
    if plan.training is not None:
        # What the preset said of the inputs holds for every start.
        overrides = {**PRESETS[plan.training.preset].overrides, **choice.overrides}
        choice = choice.model_copy(update={"overrides": overrides})
    if start == "random":
        choice = choice.model_copy(update={"checkpoint": "", "weights": ""})
    return choice
