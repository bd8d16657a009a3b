"""`gsr check`: the gate in front of a release."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gsr_core.cli import terminal
from gsr_core.cli.terminal import JsonOption, WorkspaceOption

if TYPE_CHECKING:
    from gsr_core.comparing.gate import Gate

__all__ = ["check"]


def check(
    run: Annotated[
        str, typer.Argument(help="A run, or the beginning of its name.", show_default=False)
    ],
    floor: Annotated[
        float | None, typer.Option(help="Least accuracy of every group.", show_default=False)
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            help="Most accuracy that a group may lose; needs --against.",
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        str,
        typer.Option(
            metavar="RUN", help="The reference that --max-drop is counted from.", show_default=False
        ),
    ] = "",
    group: Annotated[
        list[str] | None,
        typer.Option("--group", metavar="NAME=FLOOR", help="Of one group; repeatable."),
    ] = None,
    slice_: Annotated[
        list[str] | None,
        typer.Option("--slice", metavar="NAME=FLOOR", help="Of a saved slice; repeatable."),
    ] = None,
    min_rows: Annotated[
        int | None, typer.Option(help="Fewer test rows are too few; 30 by default.", min=1)
    ] = None,
    allow_few: Annotated[
        bool | None,
        typer.Option(
            "--allow-few/--no-allow-few",
            help="Let groups with too few rows pass.",
            show_default=False,
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="Checks in TOML; options given beside it count.", show_default=False),
    ] = None,
    junit: Annotated[
        Path | None, typer.Option(help="Write the result as JUnit XML.", show_default=False)
    ] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check that a run is good enough on every group: exit status 0 if it is, 1 if not."""
    from gsr_core.comparing.gate import Checks, read_checks
    from gsr_core.comparing.gate import check as checked
    from gsr_core.comparing.junit import write_junit
    from gsr_core.runs.store import open_run

    place = terminal.open_workspace(workspace)
    values = read_checks(file) if file else {}
    given = {
        "floor": floor,
        "max-drop": max_drop,
        "against": against or None,
        "min-rows": min_rows,
        "allow-few": allow_few,
    }
    values |= {key: value for key, value in given.items() if value is not None}
    for key, texts in (("group", group), ("slice", slice_)):
        if texts:
            stored = values.get(key, {})
            values[key] = {**stored, **terminal.pairs(f"--{key}", texts)}
    checks = Checks.of(values)
    reference = open_run(place, checks.against) if checks.against else None
    gate = checked(open_run(place, run), checks, reference)
    if junit is not None:
        write_junit(gate, junit)
    if as_json:
        terminal.print_json(gate.record())
    else:
        _report(gate)
    if not gate.passed:
        sys.exit(1)


def _report(gate: Gate) -> None:
    against = f" against {gate.against}" if gate.against else ""
    print(f"{gate.bundle}: {gate.run}{against} on test")
    table = terminal.table("", "", "check", "limit", "measured", "at least", "rows")
    for line in gate.lines:
        named = str(line.result), f"{line.kind} {line.name}", line.check
        table.add_row(*named, *line.numbers, f"{line.rows:,}")
    terminal.console().print(table)
    few = [line for line in gate.lines if line.result == "too few rows"]
    for line in few:
        print(f"note: {terminal.visible(f'{line.title}: {line.reason}')}", file=sys.stderr)
    if few and not gate.allow_few:
        print("note: --allow-few lets groups with too few rows pass", file=sys.stderr)
    print("passed" if gate.passed else "failed")
