"""A run's head put back into the network that its features came from."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

import numpy as np

from gsr_core.features.merged import Merged, write_merged
from gsr_core.features.merging import HEAD_ALONE, Merge
from gsr_core.runs.behind import open_behind
from gsr_core.runs.export import check_ended
from gsr_core.runs.store import Run

__all__ = ["merge_archive", "merge_run"]


def merge_run(run: Run, to: Path) -> Merged:
    """Write the network behind a run with the run's head in it: whole, or not at all.

    It is run on some of the bundle's own inputs first; see `features.merged`.

    Args:
        run: A run that ended with at least one step, on a bundle that was imported through a
            network; one that trained the network itself gives that one.
        to: The directory to make.

    Raises:
        RunStateError: If the run has no head yet.
        SettingError: If the directory exists, or there is no network, or no place in it.
        BundleError: If the bundle is another one now, or its inputs give other features.
        CheckpointError: If the network's weights are gone or others now, it cannot be written, or
            what was written does not give the logits of the head.
        GsrError: If its library is not installed, or its inputs cannot be read.
    """
    check_ended(run, to)
    bundle = run.unchanged_bundle()
    behind = open_behind(run, bundle, purpose=f"put the head into; {HEAD_ALONE}")
    choice, inputs, manifest = behind.choice, behind.source.inputs, bundle.manifest
    rows, features = behind.rows, behind.features
    weight, bias = run.kept_head()
    merge = Merge(
        architecture=choice.name,
        file=choice.call()["checkpoint"],
        arguments=dict(choice.arguments),
        trust=choice.trust,
        backbone=behind.backbone,
        weight=weight,
        bias=bias,
        classes=list(manifest.classes),
    )
    about = {
        "run": run.run_id,
        "method": run.config.method,
        "bundle": manifest.name,
        "source": manifest.source,
        "groups": [group.model_dump(mode="json") for group in manifest.groups],
        # Another precision at the import shows here, and not in what was checked.
        "features_deviation": _relative(features, np.asarray(run.seen(bundle).features[rows])),
    }
    return write_merged(merge, to, [inputs.load(int(row)) for row in rows], features, about)


def merge_archive(run: Run, file: Path) -> Merged:
    """Write what `merge_run` writes as a ZIP file, not compressed: weights hardly shrink.

    Args:
        run: As for `merge_run`.
        file: Where; an existing file is replaced.

    Raises:
        GsrError: As `merge_run`.
    """
    with tempfile.TemporaryDirectory() as folder:
        name = f"{run.run_id}-network"
        merged = merge_run(run, Path(folder) / name)
        with zipfile.ZipFile(file, "w") as archive:
            for each in merged.files:
                archive.write(Path(folder) / name / each, f"{name}/{each}")
    return merged


def _relative(found: np.ndarray, stored: np.ndarray) -> float:
    """Return the largest difference, relative to the largest stored number."""
    return float(np.abs(found - stored).max() / (np.abs(stored).max() or 1.0))
