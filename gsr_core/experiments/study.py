"""Studies: how far a repair can be trusted when the data are worse than they seem.

```
<name>/study.json   the request, and the runs that have finished (`StudyRecord`)
       lock         held by the process that computes
```

A study is a grid of levels, methods and seeds. Each cell of the grid is an ordinary run with
`part_of` set, so that lists of runs can leave it out. What a level means depends on the kind:

- `noise`: the share of the weighted rows whose class is flipped,
- `group_noise`: the share of the weighted and target rows whose groups are others of their class,
- `balance`: how far target is from the groups' shares in the weighted rows (0) to equal ones (1),
- `budget`: the share of the target rows, and so of their group labels, that is kept,
- `leak`: 1 if val is the target rows, else 0,
- `strength`: the share of the training rows that conflict with the shortcut, each level a bundle of
  its own.

A study goes on where it stopped: a run that has finished is not computed again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from gsr_core.data.bundle import bundle_reference, open_bundle
from gsr_core.data.seen_rows import positions_of
from gsr_core.data.variation import Variation
from gsr_core.errors import BundleNotFoundError, GsrError, SettingError
from gsr_core.experiments.experiment import Experiment
from gsr_core.methods.registry import METHODS, make_method
from gsr_core.names import check_new_name
from gsr_core.records import newest_first, open_folder
from gsr_core.runs.protocol import settings_of
from gsr_core.runs.store import Run, check_variation, now, open_run
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

Kind = Literal["noise", "group_noise", "budget", "balance", "leak", "strength"]

KINDS: tuple[Kind, ...] = get_args(Kind)

LEVELS: Mapping[Kind, tuple[float, ...]] = {
    "noise": (0.0, 0.1, 0.2, 0.3, 0.4),
    "group_noise": (0.0, 0.1, 0.2, 0.3, 0.4),
    "budget": (0.05, 0.1, 0.2, 0.5, 1.0),
    "balance": (0.0, 0.25, 0.5, 0.75, 1.0),
    "leak": (0.0, 1.0),
    "strength": (0.02, 0.05, 0.1, 0.2),
}
"""Default levels."""


class StudyRecord(BaseModel):
    """What a study was asked for, and what has been computed.

    Attributes:
        format: Version of the directory's format.
        name: Name of the study.
        created: ISO 8601, UTC.
        kind: What is varied.
        bundle: Name of the bundle, or the path of its directory.
        bundle_digest: Identity of its content; the study refuses to go on with another.
        methods: Keys of the registry.
        settings: By method, the settings that differ from its defaults, without the seed.
        levels: Ascending.
        bundles: For `strength`, the bundle of each level, in the order of `levels`.
        seeds: Number of seeds, counted from 0.
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
        """The `part_of` of its runs."""
        return f"study:{self.name}"

    def cells(self) -> list[Cell]:
        """Return the grid, seed by seed; within a seed, level by level."""
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
    """One cell of the grid: a run to compute."""

    level: float
    bundle: str
    variation: Variation
    method: str
    settings: dict[str, Any]


def _variation(kind: str, level: float) -> Variation:
    if kind == "noise":
        return Variation(label_noise=level)
    if kind == "group_noise":
        return Variation(group_noise=level)
    if kind == "budget":
        return Variation(target_share=level)
    if kind == "balance":
        return Variation(target_balance=level)
    return Variation(leak=kind == "leak" and level == 1)


class Study(Experiment[StudyRecord]):
    """One study on disk."""

    kind = command = "study"
    model = StudyRecord
    readable = FORMAT
    parts = "runs"
    decisive = ("kind", "bundle")

    def checked(self) -> Self:
        """Return this, after a check that this version can read it and has its methods.

        Raises:
            RunNotFoundError: If there is none of that name.
            GsrError: If this version cannot read it, or lacks a method.
        """
        super().checked()
        if unknown := [each for each in self.record.methods if each not in METHODS]:
            raise GsrError(
                f"study '{self.name}' has methods that this version lacks: {', '.join(unknown)}"
            )
        return self

    def difference(self, key: str, old: Any, new: Any) -> str:
        """Return in words which value a decisive field had, and which is wanted instead."""
        return f"{key} '{old}', not '{new}'"

    def renewed(self, before: StudyRecord, wanted: StudyRecord) -> StudyRecord:
        """Return the record to go on with; runs that are not wanted now stay for later."""
        return wanted.model_copy(update={"created": before.created, "runs": before.runs})

    def finished(self) -> list[tuple[Cell, Run]]:
        """Return the cells whose runs have finished, with their runs."""
        record = self.record
        runs = []
        for run_id in record.runs:
            try:
                runs.append(open_run(self.workspace, run_id))
            except GsrError:
                continue  # Deleted since then; it will be computed again.
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
    """Make a study, or prepare an earlier one to go on; everything is checked first.

    Args:
        workspace: Where to keep it.
        kind: One of `KINDS`.
        bundle: Name of a bundle in the workspace, or the path of its directory.
        methods: Keys of the registry.
        levels: Values to vary over; those of `LEVELS` if None.
        bundles: For `strength`, the bundle of each level; they need not exist yet.
        settings: By method, the settings that differ from its defaults.
        seeds: Number of seeds, counted from 0.
        device: `auto` or a device name.
        name: Of the study; `<kind>-<bundle>` if "". A study that has this name already goes on;
            its kind and bundle must be the same.

    Raises:
        SettingError: If an argument is not allowed; then nothing is left behind.
        GsrError: If the bundle or the device does not exist.

    Example:
        >>> study = gsr.make_study(place, "noise", "birds", ["gsr", "llr"], levels=[0, 0.2])
        >>> study.name, len(study.record.cells())
        ('noise-birds', 12)
    """
    from gsr_core.compute import pick

    if kind not in KINDS:
        raise SettingError(f"there is no study '{kind}'; studies are {', '.join(KINDS)}")
    opened = open_bundle(workspace, bundle)
    name = name or f"{kind}-{opened.name}"
    check_new_name("study", name)
    if not methods:
        raise SettingError("a study needs at least one method; methods are " + ", ".join(METHODS))
    if seeds < 1:
        raise SettingError(f"seeds is {seeds}; ask for at least one")
    chosen = LEVELS[kind] if levels is None else tuple(levels)
    _check_levels(kind, chosen)
    if kind == "strength" and len(bundles) != len(chosen):
        raise SettingError("a study of strength needs a bundle for each level")
    order = [int(place) for place in np.argsort(chosen)]
    changed = {method: dict(values) for method, values in (settings or {}).items() if values}
    if unused := sorted(set(changed) - set(methods)):
        raise SettingError(f"there are settings for {', '.join(unused)}, which is not in the study")
    for method in methods:
        # The last seed, so that one that is too large is refused at once.
        made = make_method(method, {**changed.get(method, {}), "seed": seeds - 1})
        check_variation(made, _variation(kind, max(chosen)))
        values = made.settings()
        if method in changed:
            changed[method] = {key: values[key] for key in changed[method]}
    if kind == "balance":
        # Where target's groups have no shares to go by, no run of it could begin.
        positions_of(opened, 0, _variation(kind, chosen[0]))
    pick(device)
    study = Study(workspace, workspace.studies / name)
    study.begin(
        StudyRecord(
            name=name,
            created=now(),
            kind=kind,
            bundle=bundle_reference(workspace, opened),
            bundle_digest=opened.manifest.digest,
            methods=list(dict.fromkeys(methods)),
            settings=changed,
            levels=[float(chosen[place]) for place in order],
            bundles=[bundles[place] for place in order] if bundles else [],
            seeds=seeds,
            device=device,
        )
    )
    return study


def _check_levels(kind: Kind, levels: Sequence[float]) -> None:
    """Check that there are levels and that all are allowed.

    Raises:
        SettingError: If not.
    """
    rules = {
        "noise": ("shares from 0 to less than 1", lambda level: 0 <= level < 1),
        "group_noise": ("shares from 0 to less than 1", lambda level: 0 <= level < 1),
        "budget": ("shares above 0 and up to 1", lambda level: 0 < level <= 1),
        "balance": (
            "0 for the shares of heldout to 1 for equal ones",
            lambda level: 0 <= level <= 1,
        ),
        "leak": ("0 for sets of their own, 1 for one set", lambda level: level in (0, 1)),
        "strength": ("shares above 0 and below 1", lambda level: 0 < level < 1),
    }
    range_, allowed = rules[kind]
    wrong = [level for level in levels if not allowed(level)]
    if wrong or not levels:
        mistake = f"level {wrong[0]:g} is not allowed" if wrong else "there are no levels"
        raise SettingError(f"{mistake} in a study of {kind}; levels are {range_}")
    if len(set(levels)) < len(levels):
        raise SettingError("a level is given twice; give it once")


def open_study(workspace: Workspace, name: str) -> Study:
    """Open a study by its name.

    Raises:
        RunNotFoundError: If there is none.
        GsrError: If the directory is not that of a study that this version reads.

    >>> _ = make_study(place, "noise", "birds", ["erm"], name="opened")
    >>> open_study(place, "opened").record.levels
    [0.0, 0.1, 0.2, 0.3, 0.4]
    """
    return open_folder(Study, workspace, workspace.studies, name)


def list_studies(workspace: Workspace) -> list[Study]:
    """Return the studies of a workspace, newest first; what `open_study` refuses is left out."""
    return newest_first(Study, workspace, workspace.studies)


def cell_key(cell: Cell) -> str:
    """Return a key that is the same for a cell and for the runs that fill it."""
    return repr((cell.bundle, cell.variation.changes(), cell.method, sorted(cell.settings.items())))


def matched_runs(
    workspace: Workspace, record: StudyRecord, runs: Iterable[Run]
) -> list[tuple[Cell, Run]]:
    """Return the cells that some of the runs fill, with these runs, in the order of the grid."""
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
                settings_of(config),
            )
            by_key.setdefault(cell_key(cell), run)
    cells = record.cells()
    return [(cell, by_key[cell_key(cell)]) for cell in cells if cell_key(cell) in by_key]
