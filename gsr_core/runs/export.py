"""Taking a run home, as a directory or as one file, so that it can be used without us."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file

from gsr_core.data.bundle import Bundle, load_head
from gsr_core.errors import RunStateError, SettingError
from gsr_core.files import new_directory, sha256
from gsr_core.runs.predictions import write_predictions
from gsr_core.runs.store import Run
from gsr_core.runs.summary import summarise

__all__ = ["check_ended", "export_archive", "export_run"]

_FILES = ("config.json", "head.safetensors", "metrics.parquet", "weights.parquet", "influence.npy")


def export_run(
    run: Run,
    to: Path,
    *,
    offset: Mapping[str, float] | None = None,
    tables: Mapping[str, pd.DataFrame] | None = None,
) -> list[str]:
    """Write what a run left behind to a new directory: whole, or not at all.

    Args:
        run: A run that ended with at least one step.
        to: The directory to make.
        offset: By class, what is added to the biases of the exported head, as `about.json` then
            says (`logit_offset`): thresholds between the classes other than those that the run
            was scored with. What the head predicts is that of these offsets, all else is that of
            the run.
        tables: More tables to write, by name, such as `curation.tables.curated` has.

    Returns:
        Names of the files: `summary.json`, `config.json`, `head.safetensors`,
        `metrics.parquet`, `about.json` (classes, groups, network and preprocessing), `use.py`,
        which classifies with the head; `predictions`, what it says of every sample; where the data
        are a table `encoder.json`; where the network was trained in the workspace `network` with
        the ending of its checkpoint; where the method has them `weights` and `influence.npy`; and
        `tables`. Tables are there twice, as `.parquet` and as `.csv`.

    Raises:
        RunStateError: If the run has nothing to export yet.
        SettingError: If the directory exists, or the offsets are not of the classes.
        BundleError: If its bundle is gone or is another one now: its classes are not known then.
    """
    check_ended(run, to)
    bundle = run.unchanged_bundle()
    with new_directory(to.resolve()) as temporary:
        for name in _FILES:
            if (run.path / name).exists():
                shutil.copy2(run.path / name, temporary / name)
        weights = run.weights()
        if weights is not None:
            weights.to_csv(temporary / "weights.csv", index=False)
        for name, table in (tables or {}).items():
            table.to_parquet(temporary / f"{name}.parquet", index=False)
            table.to_csv(temporary / f"{name}.csv", index=False)
        summary = json.dumps(summarise(run), indent=2, allow_nan=False)
        (temporary / "summary.json").write_text(summary + "\n")
        content = _about(run, bundle)
        if offset is not None:
            _shift(temporary / "head.safetensors", offset, bundle.manifest.classes)
            content["logit_offset"] = dict(offset)
        if (temporary / "head.safetensors").exists():
            head = load_head(temporary / "head.safetensors")
            write_predictions(run, head, temporary, bundle)
        if (checkpoint := _own_checkpoint(run, content["network"])) is not None:
            name = f"network{checkpoint.suffix}"
            shutil.copyfile(checkpoint, temporary / name)
            content["network"] = {**content["network"], "checkpoint": name}
        about = json.dumps(content, indent=2, allow_nan=False)
        (temporary / "about.json").write_text(about + "\n")
        shutil.copyfile(Path(__file__).with_name("use.py"), temporary / "use.py")
        if (bundle.path / "encoder.json").exists():
            shutil.copyfile(bundle.path / "encoder.json", temporary / "encoder.json")
        return sorted(file.name for file in temporary.iterdir())


def check_ended(run: Run, to: Path) -> None:
    """Refuse what cannot be taken home, or not to this place.

    Args:
        run: The run.
        to: The directory to make.

    Raises:
        RunStateError: If the run has nothing to take home yet.
        SettingError: If the directory exists.
    """
    state = run.state
    if state.active or not state.step:
        raise RunStateError(
            f"run '{run.run_id}' is {state.status} with {state.step} steps; it can be exported "
            "once it has ended with at least one"
        )
    if to.exists():
        raise SettingError(f"{to} exists already; give a directory that does not")


def export_archive(
    run: Run,
    *,
    offset: Mapping[str, float] | None = None,
    tables: Mapping[str, pd.DataFrame] | None = None,
) -> bytes:
    """Return what `export_run` writes as a ZIP file.

    Args:
        run: As for `export_run`.
        offset: As for `export_run`.
        tables: As for `export_run`.

    Raises:
        GsrError: As `export_run`.
    """
    packed = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        names = export_run(run, Path(folder) / run.run_id, offset=offset, tables=tables)
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                archive.write(Path(folder) / run.run_id / name, f"{run.run_id}/{name}")
    return packed.getvalue()


def _shift(head: Path, offset: Mapping[str, float], classes: list[str]) -> None:
    """Add offsets to the biases of a head on disk.

    Raises:
        SettingError: If they are not of its classes.
    """
    if set(offset) != set(classes):
        raise SettingError(
            f"offsets are of {', '.join(offset) or 'no class'}; give one for each of "
            f"{', '.join(classes)}"
        )
    parts = load_file(head)
    by = np.array([offset[name] for name in classes], dtype=parts["bias"].dtype)
    save_file({**parts, "bias": parts["bias"] + by}, head)


def _own_checkpoint(run: Run, network: dict[str, Any] | None) -> Path | None:
    """Return the network's checkpoint if it is one of the workspace's and still there."""
    checkpoint = Path((network or {}).get("checkpoint") or "")
    if not checkpoint.is_file():
        return None
    folders = (run.workspace.backbones, run.workspace.runs)
    inside = any(checkpoint.resolve().is_relative_to(each.resolve()) for each in folders)
    return checkpoint if inside else None


def _about(run: Run, bundle: Bundle) -> dict[str, Any]:
    """Return what is needed to use a run's head elsewhere, in what JSON can hold."""
    manifest, recipe = bundle.manifest, bundle.manifest.recipe or {}
    network = recipe.get("network") or recipe.get("plan", {}).get("backbone")
    digest = manifest.backbone.get("sha256")
    if run.features_file.exists():
        # Here, not on top: whoever exports heads need not load what opens networks.
        from gsr_core.runs.network import NETWORK, trained_choice

        network = trained_choice(bundle, run.path / NETWORK)
        digest = sha256(run.path / NETWORK)
    return {
        "bundle": manifest.name,
        "source": manifest.source,
        "classes": manifest.classes,
        "groups": [group.model_dump(mode="json") for group in manifest.groups],
        "n_features": manifest.n_features,
        "network": network,
        "network_sha256": digest,
        "preprocessing": recipe.get("preprocessing"),
    }
