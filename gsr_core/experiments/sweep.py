"""Sweeps: find the settings of a method that are best on val, then run them for several seeds.

```
<name>/sweep.json   the request and the outcome (`SweepRecord`)
       trials.log   every trial (`experiments.search`)
       lock         held by the process that computes
```

Each trial is a fit in memory, scored on val at the step that the method's own selection rule keeps.
Trials never see the test split, so that nothing can be chosen by it. The winner is then run for
several seeds as ordinary runs, which are the first to report on test.

A sweep goes on where it stopped, however it stopped, until it has all its trials. A trial that
failed counts; one that was cut off is drawn again.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from gsr_core.compute import pick
from gsr_core.data.bundle import bundle_reference, open_bundle
from gsr_core.errors import SettingError
from gsr_core.experiments.experiment import Experiment
from gsr_core.experiments.search import Sampler, Setting, Trial, read_trials, search_space
from gsr_core.methods.base import Method, Range
from gsr_core.methods.registry import make_method
from gsr_core.names import check_new_name, is_name
from gsr_core.records import newest_first, open_folder
from gsr_core.runs.record import versions
from gsr_core.runs.store import Run, now
from gsr_core.workspace import Workspace

__all__ = ["Sweep", "SweepRecord", "Winner", "list_sweeps", "make_sweep", "open_sweep"]


FORMAT = 1


class Winner(BaseModel):
    """The best trial on val.

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
    """What a sweep was asked for, and what came out.

    Attributes:
        format: Version of the directory's format.
        name: Name of the sweep.
        created: ISO 8601, UTC.
        bundle: Name of the bundle, or the path of its directory.
        bundle_digest: Identity of its content; the sweep refuses to go on with another.
        method: Key in the registry.
        fixed: Settings that every trial has.
        space: Where to look, by setting.
        sampler: Draws the settings of a trial.
        seed: Decides the draws.
        trials: Number of trials.
        seeds: Number of seeds that the winner is run for.
        device: As asked for: `auto`, `cpu`, `cuda`, ...
        versions: Of Python and the packages that compute.
        winner: None until all trials are done.
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
    runs: list[str] = Field(default_factory=list)

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
        """Name of a score, for people."""
        return f"{self.base.rule.score} on val"


class Sweep(Experiment[SweepRecord]):
    """One sweep on disk."""

    kind = command = "sweep"
    model = SweepRecord
    readable = FORMAT
    parts = "trials"
    decisive = ("bundle", "method", "fixed", "space", "sampler", "seed")

    @property
    def journal(self) -> Path:
        """File of the trials."""
        return self.path / "trials.log"

    def trials(self) -> list[Trial]:
        """Return the trials that have ended or are being computed, by place."""
        return read_trials(self.journal)

    def runs(self) -> list[Run]:
        """Return the winner's runs that still exist, by seed."""
        names = (each for each in self.record.runs if is_name(each))
        runs = (Run(self.workspace, self.workspace.runs / each) for each in names)
        return [run for run in runs if (run.path / "config.json").is_file()]

    def difference(self, key: str, old: Any, new: Any) -> str:
        """Return in words which value a decisive field had, and which is wanted instead."""
        return f"another {key}: {_in_words(old)}, not {_in_words(new)}"

    def renewed(self, before: SweepRecord, wanted: SweepRecord) -> SweepRecord:
        """Return the record to go on with; another number of trials may have another winner.

        Raises:
            SettingError: If more trials are done than are wanted.
        """
        done = sum(trial.outcome is not None for trial in self.trials())
        if wanted.trials < done:
            raise SettingError(
                f"sweep '{self.name}' has done {done} trials, more than {wanted.trials}; ask for "
                "at least as many"
            )
        changes = {"trials": wanted.trials, "seeds": wanted.seeds, "device": wanted.device}
        if wanted.trials != before.trials:
            changes |= {"winner": None, "runs": []}
        return before.model_copy(update=changes)


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
    """Make a sweep, or prepare an earlier one to go on; everything is checked first.

    Args:
        workspace: Where to keep it.
        bundle: Name of a bundle in the workspace, or the path of its directory.
        method: A key of the registry.
        fixed: Settings that every trial has; a `seed` among them is that of all trials.
        ranges: Where to look, in addition to the ranges that the method declares, or instead.
        trials: Number of trials in all.
        sampler: `tpe` or `random`.
        seed: Decides the draws.
        seeds: Number of seeds to run the winner for.
        device: `auto` or a device name.
        name: Of the sweep; method, time and a random end if "". A sweep that has this name
            already goes on; only `trials`, `seeds` and `device` may differ.

    Raises:
        SettingError: If an argument is not allowed; then nothing is left behind.
        GsrError: If the bundle or the device does not exist.

    Example:
        >>> sweep = gsr.make_sweep(place, "birds", "llr", trials=4, name="ridge")
        >>> sweep.record.space
        {'l2': Range(low=0.0001, high=1.0, log=True)}
        >>> gsr.make_sweep(place, "birds", "dfr", trials=4, name="ridge")
        Traceback (most recent call last):
        gsr_core.errors.SettingError: sweep 'ridge' was begun with another method: llr, not dfr; ...
    """
    if not name:
        name = f"{method}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"
    check_new_name("sweep", name)
    if sampler not in ("tpe", "random"):
        raise SettingError(f"sampler is '{sampler}'; choose tpe or random")
    for what, count in (("trials", trials), ("seeds", seeds)):
        if count < 1:
            raise SettingError(f"{what} is {count}; ask for at least one")
    if seed < 0:
        raise SettingError(f"seed is {seed}; choose 0 or more")
    opened = open_bundle(workspace, bundle)
    base = make_method(method, fixed)
    # The last seed of the winner, so that one that is too large is refused at once.
    make_method(method, {**dict(fixed or {}), "seed": base.seed + seeds - 1})
    pick(device)
    settings = base.settings()
    sweep = Sweep(workspace, workspace.sweeps / name)
    sweep.begin(
        SweepRecord(
            name=name,
            created=now(),
            bundle=bundle_reference(workspace, opened),
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
    )
    return sweep


def _in_words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_in_words(each)}" for key, each in value.items()) or "nothing"
    if isinstance(value, Range):
        return f"{value.low:g} to {value.high:g}" + ", log" * value.log
    return "/".join(map(str, value)) if isinstance(value, tuple) else str(value)


def open_sweep(workspace: Workspace, name: str) -> Sweep:
    """Open a sweep by its name.

    Raises:
        RunNotFoundError: If there is none.
        GsrError: If the directory is not that of a sweep that this version reads.

    >>> _ = make_sweep(place, "birds", "gsr", trials=3, name="opened")
    >>> open_sweep(place, "opened").record.trials
    3
    """
    return open_folder(Sweep, workspace, workspace.sweeps, name)


def list_sweeps(workspace: Workspace) -> list[Sweep]:
    """Return the sweeps of a workspace, newest first; what `open_sweep` refuses is left out."""
    return newest_first(Sweep, workspace, workspace.sweeps)
