"""Taking a run home."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from gsr_core.errors import RunStateError, SettingError
from gsr_core.files import new_directory
from gsr_core.runs.store import Run
from gsr_core.runs.summary import summarise

__all__ = ["export_run"]

_FILES = ("config.json", "head.safetensors", "metrics.parquet", "weights.parquet", "influence.npy")


def export_run(run: Run, to: Path) -> list[str]:
    """Write what a run left behind to a new directory: whole, or not at all.

    Args:
        run: A run that ended with at least one step.
        to: The directory to make.

    Returns:
        Names of the files: `summary.json`, `config.json`, `head.safetensors`,
        `metrics.parquet`, and where the method has them `weights.parquet`, `weights.csv` and
        `influence.npy`.

    Raises:
        RunStateError: If the run has nothing to export yet.
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
    with new_directory(to.resolve()) as temporary:
        for name in _FILES:
            if (run.path / name).exists():
                shutil.copy2(run.path / name, temporary / name)
        weights = run.weights()
        if weights is not None:
            weights.to_csv(temporary / "weights.csv", index=False)
        summary = json.dumps(summarise(run), indent=2, allow_nan=False)
        (temporary / "summary.json").write_text(summary + "\n")
        return sorted(file.name for file in temporary.iterdir())
