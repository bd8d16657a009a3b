r"""The gate: whether a run is good enough on every group, with certainty, before it is used.

A floor is passed where the lower end of the group's interval is at or above it, so that a group of
few rows has to be better than one of many: the exact bound of k right among n rows, one-sided at
95 % (Clopper and Pearson, Biometrika 1934),

.. math:: L(k, n) = \min \{ p : \Pr(X \ge k) \ge 5\,\% \}, \qquad X \sim B(n, p) ,

which a group below its floor passes at most once in twenty times. Wilson's bound, as charts have
it, is passed up to 7.5 times in a hundred where nearly all of 30 rows or more are right, as here.
A largest drop against a reference is passed where the lower end of the
interval of the difference on the same rows (`mcnemar.difference_bound`) is at or above it; that
one is approximate.

The claim is of all checks at once and fails with any, so that no correction for their number is
needed (intersection-union, Berger, Technometrics 1982). It is of the test rows of one run: rows
counted over several seeds would be counted several times, and a run that was chosen among many by
its test rows is worse than it looks.

A check says `too few rows` where the group has fewer than it should, or so few that even a head
that is always right could not pass. That is no harm done, but nothing certified either: the gate
stays shut, unless it is told to let such groups pass.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy.special import betaincinv

from gsr_core.comparing.changes import flips
from gsr_core.comparing.entries import check_comparable
from gsr_core.comparing.mcnemar import difference_bound
from gsr_core.curation.slices import find_slice
from gsr_core.curation.subsets import Subset
from gsr_core.errors import ComparisonError, SettingError
from gsr_core.plain import record
from gsr_core.runs.samples import sample_table
from gsr_core.runs.store import Run
from gsr_core.settings import check_known, suggestion, what_is_wrong
from gsr_core.shares import percent, points

__all__ = ["Checked", "Checks", "Gate", "Result", "check", "read_checks"]

Z = 1.644854
"""Normal quantile of 95 %, one-sided."""

Floor = Annotated[float, Field(gt=0, lt=1)]
Drop = Annotated[float, Field(ge=0, lt=1)]


class Checks(BaseModel):
    """What a run has to fulfil.

    The names with a hyphen are those of the options of `gsr check` and of the keys of its file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True)

    floor: Annotated[
        Floor | None, Field(description="Least accuracy of every group, a fraction.")
    ] = None
    max_drop: Annotated[
        Drop | None,
        Field(
            alias="max-drop",
            description="Most accuracy that any group, or slice named here, may lose.",
        ),
    ] = None
    against: Annotated[str, Field(description="The run that max-drop is counted from.")] = ""
    min_rows: Annotated[
        int, Field(alias="min-rows", ge=1, description="Fewer test rows are too few to judge.")
    ] = 30
    allow_few: Annotated[
        bool, Field(alias="allow-few", description="Let groups with too few rows pass.")
    ] = False
    groups: Annotated[
        dict[str, Floor],
        Field(alias="group", description="Floors of single groups, in place of the one of all."),
    ] = {}
    slices: Annotated[
        dict[str, Floor], Field(alias="slice", description="Floors of saved slices.")
    ] = {}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Checks:
        """Return checks from values by the names of options.

        Raises:
            SettingError: If a name is unknown, a value is not allowed, or nothing is checked.
        """
        known = [each.alias or name for name, each in cls.model_fields.items()]
        check_known("gsr check", values, known)
        try:
            checks = cls.model_validate(dict(values))
        except ValidationError as error:
            raise SettingError(
                f"{what_is_wrong(error)}; accuracies are fractions, 0.8 for 80 %"
            ) from error
        if checks.floor is None and checks.max_drop is None and not checks.groups | checks.slices:
            raise SettingError(
                "nothing is checked; give a floor, a max-drop, or the floor of a group or slice"
            )
        if (checks.max_drop is None) != (not checks.against):
            raise SettingError(
                "max-drop and against go together: the one says how much may be lost, the other "
                "against which run; give both or neither"
            )
        return checks


def read_checks(file: Path) -> dict[str, Any]:
    """Return the values of a file of checks, in TOML: the options of `gsr check`, as keys.

    Raises:
        SettingError: If it is not TOML.
        OSError: If it cannot be read.
    """
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(
            f"{file} is not a file of checks in TOML: {error}; a line is for instance floor = 0.8"
        ) from error


class Result(StrEnum):
    """How a check ended; its value is the text that users see."""

    PASS = "pass"
    FAIL = "fail"
    FEW = "too few rows"


@dataclass(frozen=True)
class Checked:
    """One check of one group or slice, and how it ended.

    Attributes:
        check: `floor` or `max-drop`.
        kind: `group` or `slice`.
        name: Of the group or slice.
        limit: The floor, or minus the largest drop; fractions.
        rows: Test rows.
        value: Accuracy, or the difference from the reference; NaN without rows.
        bound: Its lower bound at 95 %, one-sided; NaN without rows.
        result: How it ended.
        reason: A sentence.
    """

    check: str
    kind: str
    name: str
    limit: float
    rows: int
    value: float
    bound: float
    result: Result
    reason: str

    @property
    def numbers(self) -> tuple[str, str, str]:
        """Limit, value and bound as text: accuracies in %, differences in percentage points."""
        shown = percent if self.check == "floor" else points
        return shown(self.limit), shown(self.value), shown(self.bound)

    @property
    def title(self) -> str:
        """What was checked, in words."""
        limit = f"floor {self.limit:g}" if self.check == "floor" else f"max-drop {-self.limit:g}"
        return f"{self.kind} {self.name}: {limit}"


@dataclass(frozen=True)
class Gate:
    """All checks of a run.

    Attributes:
        run: Id of the run.
        against: Id of the reference; "" without one.
        bundle: Name of the data.
        allow_few: Whether groups with too few rows pass.
        lines: One for each check, in the order of groups and then slices.
    """

    run: str
    against: str
    bundle: str
    allow_few: bool
    lines: tuple[Checked, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        bad = {Result.FAIL} if self.allow_few else {Result.FAIL, Result.FEW}
        return not any(line.result in bad for line in self.lines)

    def record(self) -> dict[str, Any]:
        """Return it as plain values for JSON, None where there is no number."""
        lines = [record(asdict(line)) for line in self.lines]
        own = {"run": self.run, "against": self.against or None, "bundle": self.bundle}
        return {**own, "split": "test", "passed": self.passed, "checks": lines}


def check(
    run: Run,
    checks: Checks,
    against: Run | None = None,
    *,
    read: Callable[[Run, str], pd.DataFrame] = sample_table,
) -> Gate:
    """Check a run on its test rows.

    Args:
        run: A run that has ended with a head.
        checks: What it has to fulfil.
        against: The run that `checks.against` names.
        read: Does what `sample_table` does; pages pass a function with a cache.

    Raises:
        RunStateError: If the run has no head yet.
        SettingError: If a group or slice is not there.
        ComparisonError: If the two runs cannot be compared, or are one.

    Example:
        >>> run = gsr.run(place, "birds", "erm", device="cpu")
        >>> gate = gsr.check(run, gsr.Checks.of({"floor": 0.3, "min-rows": 10}))
        >>> [(line.name, line.rows, line.result.value) for line in gate.lines]
        [('cat, red', 10, ...), ('cat, green', 10, ...), ...]
    """
    bundle = run.unchanged_bundle()
    samples = read(run, "test")
    fixed = broken = None
    if against is not None:
        check_comparable([run, against])
        if run.run_id == against.run_id:
            raise ComparisonError(
                f"run '{run.run_id}' is held against itself; name another run as the reference"
            )
        _, fixed, broken = flips(read(against, "test"), samples)
    for name in checks.groups:
        if name not in bundle.group_names:
            raise SettingError(
                f"bundle '{bundle.name}' has no group '{name}'"
                f"{suggestion(name, bundle.group_names)}; its groups are "
                f"{', '.join(bundle.group_names)}"
            )
    rows, right = samples["row"].to_numpy(), samples["correct"].to_numpy()
    sets = [
        Subset("group", name, rows[member])
        for name, member in zip(bundle.group_names, bundle.membership[rows].T, strict=True)
    ]
    for name in checks.slices:
        found = find_slice(run.workspace, bundle, name)
        sets.append(Subset("slice", found.name, rows[np.isin(rows, found.rows)]))
    floors = dict.fromkeys(bundle.group_names, checks.floor) | checks.groups
    lines = []
    for each in sets:
        floor = (floors if each.kind == "group" else checks.slices)[each.name]
        inside = np.isin(rows, each.rows)
        n, k = int(inside.sum()), int(right[inside].sum())
        if floor is not None:
            lines.append(_floor(each, floor, n, k, checks.min_rows))
        if checks.max_drop is not None and fixed is not None and broken is not None:
            changed = int(fixed[inside].sum()), int(broken[inside].sum())
            lines.append(_drop(each, checks.max_drop, n, k, *changed, checks.min_rows))
    return Gate(
        run=run.run_id,
        against="" if against is None else against.run_id,
        bundle=bundle.name,
        allow_few=checks.allow_few,
        lines=tuple(lines),
    )


def _floor(each: Subset, floor: float, n: int, k: int, min_rows: int) -> Checked:
    value = k / n if n else np.nan
    bound, best = (_exact_bound(right, n) for right in (k, n))
    known = f"{value:.1%} of {n:,} rows are right, at least {bound:.1%} with 95 % certainty"
    return _checked("floor", each, floor, n, value, bound, best, min_rows, known)


def _exact_bound(right: int, n: int) -> float:
    """Return the lower bound at 95 % of an accuracy; NaN without rows."""
    if not n:
        return np.nan
    return float(betaincinv(right, n - right + 1, 0.05)) if right else 0.0


def _drop(
    each: Subset, drop: float, n: int, k: int, fixed: int, broken: int, min_rows: int
) -> Checked:
    value = (fixed - broken) / n if n else np.nan
    bound = difference_bound(n, fixed, broken, Z) if n else np.nan
    # A head that is right everywhere fixes what the reference has wrong, and breaks nothing.
    wrong = n - k + fixed - broken
    best = difference_bound(n, wrong, 0, Z) if n else np.nan
    known = (
        f"{fixed:,} fixed and {broken:,} broken of {n:,} rows: {points(value)}, at least "
        f"{points(bound)} with 95 % certainty"
    )
    return _checked("max-drop", each, 0 - drop, n, value, bound, best, min_rows, known)


def _checked(
    check: str,
    each: Subset,
    limit: float,
    n: int,
    value: float,
    bound: float,
    best: float,
    min_rows: int,
    known: str,
) -> Checked:
    if n < min_rows:
        result, reason = Result.FEW, f"{n:,} test rows; {min_rows:,} are needed (min-rows)"
    elif bound >= limit:
        result, reason = Result.PASS, known
    elif best < limit:
        result = Result.FEW
        reason = f"{known}; too small to certify: not even a head that is always right would pass"
    else:
        result, reason = Result.FAIL, known
    return Checked(check, each.kind, each.name, limit, n, value, bound, result, reason)
