"""Sweeps: the settings of a method that serve val best, then that choice over several seeds.

```
<name>/sweep.json   what was asked for, and what came out (`SweepRecord`)
       trials.log   every trial (`experiments.search`)
       lock         held by the process that computes
```

Each trial is a fit in memory, scored on val at the step it keeps, by the method's own selection
rule; the test split is not looked at, and there is no way to choose by it. The winner is then run
over seeds as ordinary runs, which are the first to report on test.

A sweep goes on where it stopped, however it stopped, until it has the wanted number of trials: one
that failed counts, one that was cut off is drawn again.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field

from gsr_core.compute import pick
from gsr_core.data.bundle import Bundle, open_bundle
from gsr_core.errors import BundleError, RunStateError, SettingError
from gsr_core.experiments.search import (
    Sampler,
    Setting,
    Trial,
    read_trials,
    search_space,
)
from gsr_core.files import replace_file
from gsr_core.methods.base import Method, Range
from gsr_core.methods.registry import make_method
from gsr_core.methods.selection import SELECTION_RULES
from gsr_core.records import check_record, newest_first
from gsr_core.runs.record import versions
from gsr_core.runs.store import Run, now
from gsr_core.workspace import Workspace

__all__ = ["Sweep", "SweepRecord", "Winner", "list_sweeps", "make_sweep", "open_sweep"]


FORMAT = 1

_LOOK = 0.5
"""Seconds to wait for the lock, which whoever asks how a sweep stands holds for a moment."""


class Winner(BaseModel):
    """The trial that did best on val.

    Attributes:
        place: Its place in the sweep, counted from zero.
        settings: Every setting that differs from the method's defaults or was searched.
        score: Accuracy on val by the method's selection rule.
        loss: The loss on val that breaks ties, nats.
    """

    model_config = ConfigDict(frozen=True)

    place: int
    settings: dict[str, Setting]
    score: float
    loss: float


class SweepRecord(BaseModel):
    """What was asked for, and what came out.

    Attributes:
        format: Version of the directory's format.
        name: Name of the sweep.
        created: ISO 8601, UTC.
        bundle: Name of the bundle, or the path of its directory.
        bundle_digest: Identity of its content; a sweep refuses to go on with anything else.
        method: Key in the registry.
        fixed: Settings that every trial has.
        space: Where to look, by setting.
        sampler: Who draws.
        seed: Decides the draws.
        trials: How many are wanted.
        seeds: Over how many seeds the winner is run.
        device: As asked for: `auto`, `cpu`, `cuda`, ...
        versions: Of Python and the packages that compute.
        winner: Once all trials are done.
        runs: The winner's runs that have finished, by seed.
    """

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    name: str
    created: str
    bundle: str
    bundle_digest: str
    method: str
    fixed: dict[str, Setting]
    space: dict[str, Range | tuple[Setting, ...]]
    sampler: Sampler
    seed: int = Field(ge=0)
    trials: int = Field(ge=1)
    seeds: int = Field(ge=1)
    device: str
    versions: dict[str, str]
    winner: Winner | None = None
    runs: list[str] = []

    @property
    def finished(self) -> bool:
        """Whether all trials and all seeds are done."""
        return self.winner is not None and len(self.runs) >= self.seeds

    @property
    def base(self) -> Method:
        """The method with the fixed settings alone."""
        return make_method(self.method, self.fixed)

    @property
    def score_name(self) -> str:
        """What a score is, for people."""
        return f"{SELECTION_RULES[self.base.selection].score} on val"


@dataclass(frozen=True)
class Sweep:
    """One sweep on disk."""

    workspace: Workspace
    path: Path

    @property
    def name(self) -> str:
        """Name of the sweep."""
        return self.path.name

    @property
    def journal(self) -> Path:
        """File of the trials."""
        return self.path / "trials.log"

    @property
    def record(self) -> SweepRecord:
        """What was asked for, and what came out."""
        return SweepRecord.model_validate_json((self.path / "sweep.json").read_text())

    def write(self, record: SweepRecord) -> None:
        """Replace the record."""
        with replace_file(self.path / "sweep.json") as temporary:
            temporary.write_text(record.model_dump_json(indent=2) + "\n")

    def trials(self) -> list[Trial]:
        """Return the trials that have ended or are computed, by place."""
        return read_trials(self.journal)

    def runs(self) -> list[Run]:
        """Return the winner's runs that are still there, by seed."""
        runs = (Run(self.workspace, self.workspace.runs / each) for each in self.record.runs)
        return [run for run in runs if (run.path / "config.json").is_file()]

    @property
    def active(self) -> bool:
        """Whether a process works on it."""
        try:
            with self.lock(patience=0):
                return False
        except RunStateError:
            return True

    @contextmanager
    def lock(self, patience: float = _LOOK) -> Iterator[None]:
        """Hold the sweep's lock.

        Args:
            patience: Seconds to wait for it.

        Raises:
            RunStateError: If another process has it.
        """
        try:
            with FileLock(self.path / "lock", timeout=patience):
                yield
        except Timeout:
            raise RunStateError(
                f"sweep '{self.name}' is under way in another process; wait for it or stop it there"
            ) from None

    def unchanged_bundle(self) -> Bundle:
        """Return the sweep's bundle.

        Raises:
            BundleError: If its content is no longer what the sweep began on.
        """
        record = self.record
        bundle = open_bundle(self.workspace, record.bundle)
        if bundle.manifest.digest != record.bundle_digest:
            raise BundleError(
                f"bundle '{bundle.name}' has changed since sweep '{self.name}' began, so that its "
                "trials no longer compare; begin a new sweep under another name"
            )
        return bundle


def make_sweep(
    workspace: Workspace,
    bundle: str,
    method: str = "gsr",
    *,
    fixed: Mapping[str, Any] | None = None,
    ranges: Mapping[str, Range | Sequence[Any]] | None = None,
    trials: int = 30,
    sampler: Sampler = "tpe",
    seed: int = 0,
    seeds: int = 5,
    device: str = "auto",
    name: str = "",
) -> Sweep:
    """Check everything that can be checked, then make a sweep, or one that is there go on.

    Args:
        workspace: Where it is kept.
        bundle: Name of a bundle in the workspace, or the path of its directory.
        method: A key of the registry.
        fixed: Settings that every trial has; its `seed` is the one of all trials.
        ranges: Where to look instead of, or besides, what the method declares.
        trials: How many in all.
        sampler: `tpe` or `random`.
        seed: Decides what is drawn.
        seeds: Over how many seeds to run the winner.
        device: `auto` or a device name.
        name: Of the sweep; made up if "". If there is one of that name it goes on, and only
            `trials`, `seeds` and `device` may differ.

    Raises:
        SettingError: If a setting is not right; then nothing is left behind.
        GsrError: If the bundle or the device is not.
    """
    if not name:
        name = f"{method}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
        raise SettingError(
            f"sweep name '{name}' is not allowed; use up to 100 letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit"
        )
    if sampler not in ("tpe", "random"):
        raise SettingError(f"sampler is '{sampler}'; choose tpe or random")
    for what, count in (("trials", trials), ("seeds", seeds)):
        if count < 1:
            raise SettingError(f"{what} is {count}; ask for at least one")
    if seed < 0:
        raise SettingError(f"seed is {seed}; choose 0 or more")
    opened = open_bundle(workspace, bundle)
    made = make_method(method, fixed)
    # The last seed of the winner, so that one that is too large is refused at once.
    make_method(method, {**dict(fixed or {}), "seed": made.seed + seeds - 1})
    pick(device)
    settings = made.settings()
    inside = opened.path.parent == workspace.bundles
    wanted = SweepRecord(
        name=name,
        created=now(),
        bundle=opened.name if inside else str(opened.path.resolve()),
        bundle_digest=opened.manifest.digest,
        method=method,
        fixed={key: settings[key] for key in fixed or {}},
        space=search_space(method, fixed, ranges),
        sampler=sampler,
        seed=seed,
        trials=trials,
        seeds=seeds,
        device=device,
        versions={**versions(), "optuna": version("optuna")},
    )
    sweep = Sweep(workspace, workspace.sweeps / name)
    if (sweep.path / "sweep.json").is_file():
        _go_on(sweep, wanted)
    else:
        sweep.path.mkdir(parents=True, exist_ok=True)
        sweep.write(wanted)
    return sweep


def _go_on(sweep: Sweep, wanted: SweepRecord) -> None:
    """Make an earlier sweep want what is wanted now.

    Raises:
        RunStateError: If it is under way.
        SettingError: If something differs that decides its trials.
    """
    with sweep.lock():
        before = open_sweep(sweep.workspace, sweep.name).record
        for key in ("bundle", "method", "fixed", "space", "sampler", "seed"):
            was, now_ = getattr(before, key), getattr(wanted, key)
            if was != now_:
                raise SettingError(
                    f"sweep '{sweep.name}' was begun with another {key}: {_told(was)}, not "
                    f"{_told(now_)}; choose another name to begin a new one"
                )
        sweep.unchanged_bundle()
        done = sum(trial.outcome is not None for trial in sweep.trials())
        if wanted.trials < done:
            raise SettingError(
                f"sweep '{sweep.name}' has done {done} trials, more than {wanted.trials}; ask for "
                "at least as many"
            )
        changes = {"trials": wanted.trials, "seeds": wanted.seeds, "device": wanted.device}
        if wanted.trials != before.trials:
            changes |= {"winner": None, "runs": []}
        sweep.write(before.model_copy(update=changes))


def _told(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_told(each)}" for key, each in value.items()) or "nothing"
    if isinstance(value, Range):
        return f"{value.low:g} to {value.high:g}" + ", log" * value.log
    return "/".join(map(str, value)) if isinstance(value, tuple) else str(value)


def open_sweep(workspace: Workspace, name: str) -> Sweep:
    """Open a sweep by its name.

    Raises:
        RunNotFoundError: If there is none.
        GsrError: If the directory is not that of a sweep that this version reads.
    """
    sweep = Sweep(workspace, workspace.sweeps / name)
    check_record("sweep", sweep, FORMAT)
    return sweep


def list_sweeps(workspace: Workspace) -> list[Sweep]:
    """Return the sweeps of a workspace, newest first; what `open_sweep` refuses is passed over."""
    return newest_first("sweep", workspace.sweeps, partial(open_sweep, workspace))
