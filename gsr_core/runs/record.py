"""What is written down about a run: its configuration, fixed, and its state, which moves."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from gsr_core.methods.base import Method
from gsr_core.methods.registry import METHODS, make_method
from gsr_core.progress import Status

__all__ = ["FORMAT", "RunConfig", "RunState", "versions"]

FORMAT = 1


class RunConfig(BaseModel):
    """Everything that decides the outcome of a run.

    Attributes:
        format: Version of the directory's format.
        run_id: Name of the run's directory.
        created: ISO 8601, UTC.
        bundle: Name of the bundle, or the path of its directory.
        bundle_digest: Identity of its content; a run refuses to start on anything else.
        method: Key in the registry.
        settings: Every hyperparameter, the seed among them.
        device: As asked for: `auto`, `cpu`, `cuda`, ...
        variation: What was changed about the bundle's rows, by name; nothing if empty.
        part_of: The study that made it, as `study:<name>`; lists leave such runs out.
        sweep: Name of the sweep that chose the settings on val, or "".
        versions: Of Python and the packages that compute.
    """

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    run_id: str
    created: str
    bundle: str
    bundle_digest: str
    method: str
    settings: dict[str, Any]
    device: str
    variation: dict[str, Any] = Field(default_factory=dict)
    part_of: str = ""
    sweep: str = ""
    versions: dict[str, str]

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return int(self.settings["seed"])

    @property
    def edited(self) -> bool:
        """Whether its head is that of another run, fitted anew after an edit of rows (`what_if`).

        Its method, settings and sweep are the other run's, whose kin it is not.
        """
        return bool(self.variation.get("edits"))

    @property
    def is_erm(self) -> bool:
        """Whether it is the unchanged classifier (`erm`), that others are held against."""
        return self.method == "erm" and not self.edited

    @property
    def whole_settings(self) -> dict[str, Any]:
        """The settings, with those that are newer than the run as it did without them."""
        known = METHODS.get(self.method)
        return self.settings if known is None else {**known.before, **self.settings}

    def make_method(self, **changed: Any) -> Method:
        """Return the method as the run computes it.

        Args:
            **changed: Settings that shall differ.

        Raises:
            SettingError: If this version refuses one.
        """
        return make_method(self.method, {**self.whole_settings, **changed})


class RunState(BaseModel):
    """How a run stands.

    Attributes:
        status: See `Status`.
        step: Last step whose record is on disk, counted from one; 0 before the first.
        steps: How many steps there will be.
        best_step: The step that is kept so far.
        device: The device that computes, once known.
        started: ISO 8601, UTC, once started.
        seconds: Time spent computing.
        message: Why it failed, or "".
        note: What the user should know about the head, or "".
        doing: What is going on within a step that takes long, or "".
    """

    model_config = ConfigDict(frozen=True)

    status: Status = Status.QUEUED
    step: int = 0
    steps: int = 1
    best_step: int = 0
    device: str = ""
    started: str = ""
    seconds: float = Field(default=0.0, ge=0)
    message: str = ""
    note: str = ""
    doing: str = ""

    @property
    def active(self) -> bool:
        """Whether the run waits or computes."""
        return self.status.active


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that compute."""
    numbers = {"python": platform.python_version()}
    for package in ("gsr-core", "torch", "numpy"):
        try:
            numbers[package] = version(package)
        except PackageNotFoundError:
            numbers[package] = "not installed"
    return numbers
