"""Studies: how far a repair can be trusted when the data are worse than they are.

```
<name>/study.json   what was asked for, and the runs that have finished (`StudyRecord`)
       lock         held by the process that computes
```

A study is a grid of levels, methods and seeds; each place of the grid is an ordinary run with
`part_of` set, which lists of runs leave out. What a level is depends on the kind:

- `noise`: the share of the weighted rows whose class is flipped,
- `budget`: the share of the target rows, and so of their group labels, that is kept,
- `leak`: 0, or 1 for val being the target rows,
- `strength`: the share of the training rows that conflict with the shortcut, each level a bundle of
  its own.

A study goes on where it stopped: a run that has finished is not computed again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field

from gsr_core.data.bundle import Bundle, open_bundle
from gsr_core.data.variation import Variation
from gsr_core.errors import (
    BundleError,
    BundleNotFoundError,
    GsrError,
    RunStateError,
    SettingError,
)
from gsr_core.files import replace_file
from gsr_core.methods.registry import METHODS, make_method
from gsr_core.records import check_record, newest_first
from gsr_core.runs.store import Run, now, open_run
from gsr_core.workspace import Workspace

__all__ = [
    "KINDS",
    "LEVELS",
    "Cell",
    "Kind",
    "Study",
    "StudyRecord",
    "cell_key",
    "list_studies",
    "make_study",
    "matched_runs",
    "open_study",
]


FORMAT = 1

Kind = Literal["noise", "budget", "leak", "strength"]

KINDS: tuple[Kind, ...] = get_args(Kind)

LEVELS: Mapping[Kind, tuple[float, ...]] = {
    "noise": (0.0, 0.1, 0.2, 0.3, 0.4),
    "budget": (0.05, 0.1, 0.2, 0.5, 1.0),
    "leak": (0.0, 1.0),
    "strength": (0.02, 0.05, 0.1, 0.2),
}
"""What is computed unless other levels are asked for."""


class StudyRecord(BaseModel):
    """What was asked for, and what has been computed.

    Attributes:
        format: Version of the directory's format.
        name: Name of the study.
        created: ISO 8601, UTC.
        kind: What is varied.
        bundle: Name of the bundle, or the path of its directory.
        bundle_digest: Identity of its content; a study refuses to go on with anything else.
        methods: Keys of the registry.
        settings: By method, what differs from its defaults, the seed aside.
        levels: Ascending.
        bundles: For `strength`, the bundle of each level, by place.
        seeds: How many, counted from 0.
        device: As asked for: `auto`, `cpu`, `cuda`, ...
        runs: The runs that have finished.
    """

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    name: str
    created: str
    kind: Kind
    bundle: str
    bundle_digest: str
    methods: list[str]
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    levels: list[float]
    bundles: list[str] = Field(default_factory=list)
    seeds: int = Field(ge=1)
    device: str
    runs: list[str] = Field(default_factory=list)

    @property
    def part_of(self) -> str:
        """What its runs say they are part of."""
        return f"study:{self.name}"

    def cells(self) -> list[Cell]:
        """Return the grid; a seed of all methods and levels comes before the next seed."""
        return [
            Cell(
                level=level,
                bundle=self.bundles[place] if self.bundles else self.bundle,
                variation=_variation(self.kind, level),
                method=method,
                settings=make_method(
                    method, {**self.settings.get(method, {}), "seed": seed}
                ).settings(),
            )
            for seed in range(self.seeds)
            for place, level in enumerate(self.levels)
            for method in self.methods
        ]


@dataclass(frozen=True)
class Cell:
    """One place of the grid: a run that there is to be."""

    level: float
    bundle: str
    variation: Variation
    method: str
    settings: dict[str, Any]


def _variation(kind: Kind, level: float) -> Variation:
    if kind == "noise":
        return Variation(label_noise=level)
    if kind == "budget":
        return Variation(target_share=level)
    return Variation(leak=kind == "leak" and level == 1)


@dataclass(frozen=True)
class Study:
    """One study on disk."""

    workspace: Workspace
    path: Path

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.path.name

    @property
    def record(self) -> StudyRecord:
        """What was asked for, and what has been computed."""
        return StudyRecord.model_validate_json((self.path / "study.json").read_text())

    def write(self, record: StudyRecord) -> None:
        """Replace the record."""
        with replace_file(self.path / "study.json") as temporary:
            temporary.write_text(record.model_dump_json(indent=2) + "\n")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the study's lock.

        Raises:
            RunStateError: If another process has it.
        """
        try:
            with FileLock(self.path / "lock", timeout=0):
                yield
        except Timeout:
            raise RunStateError(
                f"study '{self.name}' is under way in another process; wait for it or stop it there"
            ) from None

    def unchanged_bundle(self) -> Bundle:
        """Return the study's bundle.

        Raises:
            BundleError: If its content is no longer what the study began on.
        """
        record = self.record
        bundle = open_bundle(self.workspace, record.bundle)
        if bundle.manifest.digest != record.bundle_digest:
            raise BundleError(
                f"bundle '{bundle.name}' has changed since study '{self.name}' began, so that its "
                "runs no longer compare; begin a new study under another name"
            )
        return bundle

    def finished(self) -> list[tuple[Cell, Run]]:
        """Return the places of the grid whose runs have finished, with their runs."""
        record = self.record
        runs = []
        for run_id in record.runs:
            try:
                runs.append(open_run(self.workspace, run_id))
            except GsrError:
                continue  # Taken away since; it will be computed again.
        return matched_runs(self.workspace, record, runs)


def make_study(
    workspace: Workspace,
    kind: str,
    bundle: str,
    methods: Sequence[str],
    *,
    levels: Sequence[float] | None = None,
    bundles: Sequence[str] = (),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    seeds: int = 3,
    device: str = "auto",
    name: str = "",
) -> Study:
    """Check everything that can be checked, then make a study, or one that is there go on.

    Args:
        workspace: Where it is kept.
        kind: One of `KINDS`.
        bundle: Name of a bundle in the workspace, or the path of its directory.
        methods: Keys of the registry.
        levels: What to vary over; those of `LEVELS` if None.
        bundles: For `strength`, the bundle of each level; they need not be there yet.
        settings: By method, what differs from its defaults.
        seeds: How many, counted from 0.
        device: `auto` or a device name.
        name: Of the study; `<kind>-<bundle>` if "". If there is one of that name it goes on, and
            only methods, levels, seeds and device may differ.

    Raises:
        SettingError: If something that was asked for is not allowed; then nothing is left behind.
        GsrError: If the bundle or the device is not there.
    """
    from gsr_core.compute import pick

    if kind not in KINDS:
        raise SettingError(f"there is no study '{kind}'; studies are {', '.join(KINDS)}")
    opened = open_bundle(workspace, bundle)
    name = name or f"{kind}-{opened.name}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
        raise SettingError(
            f"study name '{name}' is not allowed; use up to 100 letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit"
        )
    if not methods:
        raise SettingError("a study needs at least one method; methods are " + ", ".join(METHODS))
    if seeds < 1:
        raise SettingError(f"seeds is {seeds}; ask for at least one")
    given = LEVELS[kind] if levels is None else tuple(levels)
    _check_levels(kind, given)
    if kind == "strength" and len(bundles) != len(given):
        raise SettingError("a study of strength needs a bundle for each level")
    order = np.argsort(given)
    known = {method: dict(values) for method, values in (settings or {}).items() if values}
    if unused := sorted(set(known) - set(methods)):
        raise SettingError(f"there are settings for {', '.join(unused)}, which is not in the study")
    for method in methods:
        made = make_method(method, {**known.get(method, {}), "seed": seeds - 1}).settings()
        if method in known:
            known[method] = {key: made[key] for key in known[method]}
    pick(device)
    inside = opened.path.parent == workspace.bundles
    wanted = StudyRecord(
        name=name,
        created=now(),
        kind=kind,
        bundle=opened.name if inside else str(opened.path.resolve()),
        bundle_digest=opened.manifest.digest,
        methods=list(dict.fromkeys(methods)),
        settings=known,
        levels=[float(given[place]) for place in order],
        bundles=[bundles[int(place)] for place in order] if bundles else [],
        seeds=seeds,
        device=device,
    )
    study = Study(workspace, workspace.studies / name)
    if (study.path / "study.json").is_file():
        _go_on(study, wanted)
    else:
        study.path.mkdir(parents=True, exist_ok=True)
        study.write(wanted)
    return study


def _check_levels(kind: Kind, levels: Sequence[float]) -> None:
    """Check that there are levels and that all are allowed.

    Raises:
        SettingError: If not.
    """
    allowed = {
        "noise": ("shares from 0 to less than 1", lambda level: 0 <= level < 1),
        "budget": ("shares above 0 and up to 1", lambda level: 0 < level <= 1),
        "leak": ("0 for sets of their own, 1 for one set", lambda level: level in (0, 1)),
        "strength": ("shares above 0 and below 1", lambda level: 0 < level < 1),
    }
    told, fits = allowed[kind]
    wrong = [level for level in levels if not fits(level)]
    if wrong or not levels:
        found = f"level {wrong[0]:g} is not allowed" if wrong else "there are no levels"
        raise SettingError(f"{found} in a study of {kind}; levels are {told}")
    if len(set(levels)) < len(levels):
        raise SettingError("a level is given twice; give it once")


def _go_on(study: Study, wanted: StudyRecord) -> None:
    """Make an earlier study want what is wanted now.

    Raises:
        RunStateError: If it is under way.
        SettingError: If it is of another kind, another bundle or other settings.
    """
    with study.lock():
        before = open_study(study.workspace, study.name).record
        for key in ("kind", "bundle"):
            was, asked = getattr(before, key), getattr(wanted, key)
            if was != asked:
                raise SettingError(
                    f"study '{study.name}' was begun with {key} '{was}', not '{asked}'; choose "
                    "another name to begin a new one"
                )
        study.unchanged_bundle()
        # Runs that are not wanted now stay, and count again when they are.
        study.write(wanted.model_copy(update={"created": before.created, "runs": before.runs}))


def open_study(workspace: Workspace, name: str) -> Study:
    """Open a study by its name.

    Raises:
        RunNotFoundError: If there is none.
        GsrError: If the directory is not that of a study that this version reads.
    """
    study = Study(workspace, workspace.studies / name)
    check_record("study", study, FORMAT)
    if unknown := [each for each in study.record.methods if each not in METHODS]:
        raise GsrError(f"study '{name}' has methods that this version lacks: {', '.join(unknown)}")
    return study


def list_studies(workspace: Workspace) -> list[Study]:
    """Return the studies of a workspace, newest first; what `open_study` refuses is passed over."""
    return newest_first("study", workspace.studies, partial(open_study, workspace))


def cell_key(cell: Cell) -> str:
    """Return what identifies a place of the grid among all runs."""
    return repr((cell.bundle, cell.variation.changes(), cell.method, sorted(cell.settings.items())))


def matched_runs(
    workspace: Workspace, record: StudyRecord, runs: Iterable[Run]
) -> list[tuple[Cell, Run]]:
    """Return the places of the grid that some of the runs fill, in the order of the grid."""
    digests: dict[str, str | None] = {}

    def digest(bundle: str) -> str | None:
        if bundle not in digests:
            try:
                digests[bundle] = open_bundle(workspace, bundle).manifest.digest
            except BundleNotFoundError:
                digests[bundle] = None
        return digests[bundle]

    by_key: dict[str, Run] = {}
    for run in runs:
        config = run.config
        if config.bundle_digest == digest(config.bundle):
            cell = Cell(
                0.0,
                config.bundle,
                Variation(**config.variation),
                config.method,
                config.settings,
            )
            by_key.setdefault(cell_key(cell), run)
    cells = record.cells()
    return [(cell, by_key[cell_key(cell)]) for cell in cells if cell_key(cell) in by_key]
