"""Runs followed in other programs: TensorBoard, MLflow and Weights & Biases.

A follower is a monitor (`methods.monitor`): it is told of every step and passes its numbers on.
What goes wrong with it ends the following and not the run, which has its own record.
"""

from __future__ import annotations

import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gsr_core.errors import SettingError
from gsr_core.extras import require
from gsr_core.methods.monitor import Progress
from gsr_core.runs.store import Run

__all__ = ["FOLLOWERS", "Follower", "check_followers", "follow", "followed"]


class Follower(ABC):
    """Passes what a run records on to another program; the base of all.

    Attributes:
        module: What is imported, and the extra that installs it.
    """

    module = ("", "")

    def __init__(self, run: Run, folder: Path) -> None:
        """Begin to follow.

        Args:
            run: What is followed; its name, method and settings are passed on.
            folder: Where the other program keeps its files; made if it is missing.

        Raises:
            MissingExtraError: If the library is not installed.
        """
        self.run, self.library = run, require(*self.module)
        self._broken = False
        folder.mkdir(parents=True, exist_ok=True)
        config = run.config
        about = {
            "run": run.run_id,
            "method": config.method,
            "bundle": config.bundle,
            "bundle_digest": config.bundle_digest,
        }
        self._guard(lambda: self.begin(folder, about, config.settings))

    def __call__(self, progress: Progress) -> None:
        """Pass a step on."""
        values = {
            "/".join(part for part in (split or "fit", metric, group) if part): value
            for _, split, group, metric, value in progress.records
            # Programs draw gaps as they like; what could not be measured is left out.
            if value == value
        }
        values["kept step"] = float(progress.best_index)
        self._guard(lambda: self.write(progress.step_index, values))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._guard(self.end)

    def _guard(self, action: Callable[[], None]) -> None:
        """Do something with the other program; once it has failed, nothing any more."""
        if self._broken:
            return
        try:
            action()
        except Exception as error:
            self._broken = True
            self.run.log(f"no longer followed by {type(self).__name__}: {error}")

    @abstractmethod
    def begin(self, folder: Path, about: dict[str, str], settings: dict[str, Any]) -> None:
        """Open the other program's record of the run.

        Args:
            folder: Where it keeps its files.
            about: Facts about the run, by name.
            settings: Of the method.
        """

    @abstractmethod
    def write(self, step: int, values: dict[str, float]) -> None:
        """Pass the numbers of a step on.

        Args:
            step: Counted from one.
            values: By `split/metric/group`, without the group where it is of all together; what
                is of no split begins with `fit`.
        """

    @abstractmethod
    def end(self) -> None:
        """Close the record."""


class TensorBoard(Follower):
    """Event files, one folder a run; `tensorboard --logdir` shows them."""

    module = ("tensorboard", "tensorboard")

    def begin(self, folder: Path, about: dict[str, str], settings: dict[str, Any]) -> None:
        """Open a folder of event files, with the settings as text."""
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / self.run.run_id))
        # Indented, so that Markdown shows it as it is.
        lines = [f"    {name}: {value}" for name, value in {**about, **settings}.items()]
        self.writer.add_text("settings", "\n".join(lines))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write one scalar a number."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def end(self) -> None:
        """Write what is still held, and close the files."""
        self.writer.close()


class MLflow(Follower):
    """One MLflow run, in `$MLFLOW_TRACKING_URI` or else a database in the folder."""

    module = ("mlflow", "mlflow")

    def begin(self, folder: Path, about: dict[str, str], settings: dict[str, Any]) -> None:
        """Make an MLflow run in the experiment of the bundle."""
        place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
        self.client = self.library.MlflowClient(tracking_uri=place)
        name = f"gsr {about['bundle']}"
        found = self.client.get_experiment_by_name(name)
        home = (folder / "artifacts").resolve().as_uri()
        experiment = found.experiment_id if found else self.client.create_experiment(name, home)
        made = self.client.create_run(experiment, run_name=self.run.run_id, tags=about)
        self.id, self.names = made.info.run_id, _Names()
        for key, value in settings.items():
            self.client.log_param(self.id, key, value)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Log the step as one batch."""
        metric = self.library.entities.Metric
        stamp = int(1000 * time.time())
        batch = [metric(self.names.of(key), value, stamp, step) for key, value in values.items()]
        # The most that MLflow takes at once.
        for start in range(0, len(batch), 1000):
            self.client.log_batch(self.id, metrics=batch[start : start + 1000])

    def end(self) -> None:
        """Mark the run as ended."""
        self.client.set_terminated(self.id)


class WeightsAndBiases(Follower):
    """One run of Weights & Biases, kept offline unless `$WANDB_MODE` says otherwise."""

    module = ("wandb", "wandb")

    def begin(self, folder: Path, about: dict[str, str], settings: dict[str, Any]) -> None:
        """Make a run in the project `gsr`; `wandb sync` sends one that is kept offline."""
        self.record = self.library.init(
            project=os.environ.get("WANDB_PROJECT", "gsr"),
            name=self.run.run_id,
            dir=str(folder),
            mode=os.environ.get("WANDB_MODE", "offline"),
            config={**about, **settings},
            reinit="create_new",
            settings=self.library.Settings(console="off", silent=True),
        )

    def write(self, step: int, values: dict[str, float]) -> None:
        """Log the step."""
        self.record.log(values, step=step)

    def end(self) -> None:
        """Write what is still held, and end the run."""
        self.record.finish()


FOLLOWERS: dict[str, type[Follower]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WeightsAndBiases,
}


class _Names:
    """Names that MLflow allows, one for each of ours."""

    def __init__(self) -> None:
        self.taken: dict[str, str] = {}

    def of(self, name: str) -> str:
        """Return the same name as before, or a new one that no other has."""
        if name not in self.taken:
            plain = re.sub(r"[^\w\-. /]", "_", name, flags=re.ASCII)
            number, free = 1, plain
            while free in self.taken.values():
                number += 1
                free = f"{plain} {number}"
            self.taken[name] = free
        return self.taken[name]


def check_followers(kinds: Sequence[str]) -> None:
    """Check that runs can be followed so, before one is made.

    Args:
        kinds: Keys of `FOLLOWERS`.

    Raises:
        SettingError: If one is unknown.
        MissingExtraError: If a library is not installed.
    """
    for kind in kinds:
        if kind not in FOLLOWERS:
            raise SettingError(f"'{kind}' follows no run; choose from {', '.join(FOLLOWERS)}")
        require(*FOLLOWERS[kind].module)


def follow(kind: str, run: Run, folder: Path | None = None) -> Follower:
    """Begin to follow a run in another program.

    Args:
        kind: A key of `FOLLOWERS`.
        run: A run that waits.
        folder: Where the other program keeps its files; `followed` by default.

    Returns:
        A monitor for `execute`, and a context that ends the following.

    Raises:
        SettingError: If the kind is unknown.
        MissingExtraError: If its library is not installed.
    """
    check_followers([kind])
    return FOLLOWERS[kind](run, folder or followed(kind, run))


def followed(kind: str, run: Run) -> Path:
    """Return the folder in a run's workspace where a follower keeps its files."""
    return run.workspace.root / "followed" / kind
