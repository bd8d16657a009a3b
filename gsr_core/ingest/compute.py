"""The features of an import: encoded, given, or computed by a network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gsr_core.data.dataset import Dataset
from gsr_core.data.encoding import Columns
from gsr_core.data.inputs import Inputs, Texts
from gsr_core.data.source import Roles
from gsr_core.errors import RunStateError, SettingError
from gsr_core.ingest.plan import NAMED, BackboneChoice, Plan
from gsr_core.ingest.sight import crop_warning
from gsr_core.progress import Report, ShouldStop
from gsr_core.workspace import Workspace

if TYPE_CHECKING:
    from gsr_core.features.pace import ExtractionProgress

__all__ = ["Features", "compute_features", "encode_columns"]


_STOPPED = "the import was stopped; started again with the same settings, it goes on where it was"


@dataclass(frozen=True)
class Features:
    """Features and what came with them.

    `dataset` has the rows that have some; `network` is the choice that gave them, after a training
    that of its checkpoint.
    """

    dataset: Dataset
    features: np.ndarray
    head: tuple[np.ndarray, np.ndarray] | None = None
    thumbnails: Iterable[bytes | None] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: dict[str, Any] | None = None
    network: dict[str, Any] | None = None
    notes: Sequence[str] = ()


def encode_columns(dataset: Dataset, roles: Roles) -> tuple[Dataset, dict[str, bytes]]:
    """Turn the columns of a table into numbers; the encoder learns from training rows only."""
    if not isinstance(dataset.inputs, Columns):
        return dataset, {}
    columns = dataset.inputs.under(roles)
    training = np.flatnonzero(dataset.samples["split"].isin(["train", "heldout"]))
    numbers, encoder, notes = columns.fit(training)
    files = {"encoder.json": (encoder.model_dump_json(indent=2) + "\n").encode()}
    return replace(dataset, inputs=numbers, notes=[*dataset.notes, *notes]), files


def compute_features(
    workspace: Workspace,
    plan: Plan,
    choice: BackboneChoice,
    dataset: Dataset,
    tell: Report,
    should_stop: ShouldStop | None,
) -> Features:
    """Compute the features of a data set's inputs, or read what was computed before.

    Args:
        workspace: Where extractions are kept.
        plan: How to compute.
        choice: The network.
        dataset: Whose inputs.
        tell: Called with the fraction done and what is being done.
        should_stop: Called now and then; what is done by then is kept.

    Raises:
        RunStateError: If it was stopped.
        SettingError: If the settings of training or extraction do not fit.
    """
    from gsr_core.compute import pick
    from gsr_core.features.backbones import load_backbone
    from gsr_core.features.extract import extract
    from gsr_core.features.preprocessing import ImagePreprocessing

    settings = plan.extraction
    device = pick(settings.device).device
    choice = _compare_pairs(choice, dataset.inputs)
    begin = 0.02
    if plan.training is not None:
        begin = 0.7
        choice = _train_backbone(
            workspace,
            plan,
            choice,
            dataset,
            lambda done, text: tell(0.02 + 0.68 * done, text),
            should_stop,
        )
    tell(begin, "Loading the network")
    arguments = {**choice.call(), "n_classes": len(dataset.classes)}
    backbone = load_backbone(**arguments)
    if backbone.modality != dataset.inputs.modality:
        raise SettingError(
            f"{choice.name} takes {backbone.modality} inputs, but the data are "
            f"{dataset.inputs.modality}; choose a network for {dataset.inputs.modality}"
        )
    key = json.dumps(
        [dataset.inputs.digest(), backbone.facts, backbone.preprocessing.model_dump(mode="json")],
        sort_keys=True,
        default=str,
    )
    folder = workspace.extractions / hashlib.sha256(key.encode()).hexdigest()[:32]
    folder.parent.mkdir(parents=True, exist_ok=True)

    def follow(now: ExtractionProgress) -> None:
        tell(begin + (0.97 - begin) * now.done / max(now.total, 1), str(now))

    common: dict[str, Any] = {
        "batch_size": settings.batch_size,
        "precision": settings.precision,
        "on_bad": settings.on_bad,
        "thumbnails": dataset.inputs.modality == "image",
        "progress": follow,
        "should_stop": should_stop,
    }
    if settings.engine == "ray":
        from gsr_core.features.ray_engine import extract_on_ray

        result = extract_on_ray(
            arguments,
            dataset.inputs,
            folder,
            address=settings.address,
            actors=settings.actors,
            device=settings.device,
            **common,
        )
    else:
        result = extract(
            backbone, dataset.inputs, folder, device=device, workers=settings.workers, **common
        )
    if not result.complete:
        raise RunStateError(_STOPPED)
    notes = []
    prepares = backbone.preprocessing
    if isinstance(prepares, ImagePreprocessing):
        notes += [warning] if (warning := crop_warning(prepares, dataset.inputs)) else []
    features, thumbnails = result.features, result.thumbnails()
    if result.bad:
        good = result.good_rows()
        bad = set(range(len(dataset))) - set(good.tolist())
        dataset, features = (
            dataset.take(good),
            _write_selection(features, good, folder / "kept.npy"),
        )
        if thumbnails is not None:
            thumbnails = (each for row, each in enumerate(thumbnails) if row not in bad)
        listing = "; ".join(f"{each.name}: {each.reason}" for each in result.bad[:NAMED])
        more = f"; and {len(bad) - NAMED:,} more" if len(bad) > NAMED else ""
        notes.append(
            f"{len(bad):,} inputs could not be read and were left out (first: {listing}{more})."
        )
    return Features(
        dataset,
        features,
        head=backbone.head,
        thumbnails=thumbnails,
        facts=backbone.facts,
        preprocessing=backbone.preprocessing.model_dump(mode="json"),
        network=choice.model_dump(mode="json"),
        notes=notes,
    )


def _compare_pairs(choice: BackboneChoice, inputs: Inputs) -> BackboneChoice:
    """Return the choice of a network with what becomes of pairs, unless the user said it.

    An encoder of single sentences has never seen two of them in one sequence. It is settled here,
    where the data are known, and not among the network's own values, by which older bundles and
    exports are read.
    """
    if not choice.name.startswith("sentence:") or not isinstance(inputs, Texts):
        return choice
    if inputs.pairs is None or "pairs" in choice.overrides:
        return choice
    return choice.model_copy(update={"overrides": {"pairs": "siamese", **choice.overrides}})


def _write_selection(features: np.ndarray, rows: np.ndarray, file: Path) -> np.ndarray:
    """Write some rows of memory-mapped features to a file of their own, chunk by chunk."""
    shape = (len(rows), features.shape[1])
    file.unlink(missing_ok=True)  # It may be linked from an earlier bundle.
    # Not through a memory map, where a full disk kills the process without a word.
    with file.open("wb") as sink:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(sink, header)
        for start in range(0, len(rows), 65536):
            sink.write(features[rows[start : start + 65536]].astype("<f4", copy=False).data)
    return np.load(file, mmap_mode="r", allow_pickle=False)


def _train_backbone(
    workspace: Workspace,
    plan: Plan,
    choice: BackboneChoice,
    dataset: Dataset,
    tell: Report,
    should_stop: ShouldStop | None,
) -> BackboneChoice:
    """Train the network on `train`; return the choice of its checkpoint.

    Raises:
        SettingError: If there are no rows to train on.
        RunStateError: If it was stopped.
    """
    import torch

    from gsr_core.compute import pick
    from gsr_core.features.backbones import load_network
    from gsr_core.features.presets import PRESETS, make_training
    from gsr_core.features.training import train

    assert plan.training is not None
    rows = {split: np.flatnonzero(dataset.samples["split"] == split) for split in ("train", "val")}
    if not len(rows["train"]):
        raise SettingError(
            "there are no train rows to train the network on: all are held out; make --heldout "
            "smaller"
        )
    tell(0.0, "Loading the network")
    training = make_training(plan.training.preset, plan.training.settings)
    # The preset's published sizes, unless the user set others.
    overrides = {**PRESETS[plan.training.preset].overrides, **choice.overrides}
    choice = choice.model_copy(update={"overrides": overrides})
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(training.seed)  # A new head is drawn from it.
        network = load_network(**choice.call(), n_classes=len(dataset.classes))
    checkpoint = train(
        network,
        dataset.inputs,
        dataset.samples["y"].to_numpy(),
        rows["train"],
        training,
        workspace.backbones / plan.name,
        device=pick(plan.extraction.device).device,
        val_rows=rows["val"],
        membership=dataset.membership,
        progress=tell,
        should_stop=should_stop,
    )
    if checkpoint is None:
        raise RunStateError(_STOPPED)
    return choice.model_copy(update={"checkpoint": str(checkpoint), "weights": ""})
