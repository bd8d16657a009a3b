"""What the commands of `gsr` share: options, tables, progress, and messages about mistakes."""

from __future__ import annotations

import json
import shutil
import sys
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from gsr_core.plain import record, records
from gsr_core.progress import Report
from gsr_core.shares import percent, points, spread

if TYPE_CHECKING:
    from gsr_core.workspace import Workspace

__all__ = [
    "DeviceOption",
    "JsonOption",
    "WorkspaceOption",
    "console",
    "fail",
    "open_workspace",
    "pairs",
    "percent",
    "points",
    "print_json",
    "progress",
    "record",
    "records",
    "spread",
    "table",
    "visible",
]

_LINE_EVERY = 10.0
"""Seconds between lines of progress in a log."""

WorkspaceOption = Annotated[
    Path | None,
    typer.Option(
        "--workspace",
        envvar="GSR_WORKSPACE",
        help="Directory of bundles and runs; ./gsr_workspace by default.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]


def fail(message: str) -> NoReturn:
    """Print one line about a mistake and leave with exit status 2."""
    print(f"gsr: {visible(message)}", file=sys.stderr)
    sys.exit(2)


def visible(text: str) -> str:
    r"""Return a text of the user's without characters that a terminal would obey.

    >>> visible("ä \x1b[31mred\n")
    'ä \\x1b[31mred\\n'
    """
    return "".join(
        each
        if each.isprintable() or unicodedata.category(each) == "Zs"
        else each.encode("unicode_escape").decode()
        for each in text
    )


def open_workspace(path: Path | None) -> Workspace:
    """Return the workspace that `WorkspaceOption` names."""
    from gsr_core.workspace import Workspace

    return Workspace.at(path)


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object to stdout."""
    print(json.dumps(value, indent=2, allow_nan=False))


def pairs(option: str, texts: list[str] | None) -> dict[str, str]:
    """Return the keys and values of a repeatable option of the form KEY=VALUE.

    Args:
        option: The option, for the sentence about a mistake.
        texts: Its values.
    """
    values: dict[str, str] = {}
    for pair in texts or []:
        key, equals, value = pair.rpartition("=") if option in _LAST else pair.partition("=")
        if not equals or not key:
            fail(f"{option} {pair!r} is not {_PAIR.get(option, 'KEY=VALUE')}")
        if key in values:
            fail(f"{option} {key} is given twice; give it once")
        values[key] = value
    return values


_PAIR = {
    "--set": "KEY=VALUE; for instance --set steps=50",
    "--bins": "COLUMN=N; for instance --bins age=4",
    "--group": "NAME=FLOOR; for instance --group 'cat, red=0.8'",
    "--slice": "NAME=FLOOR; for instance --slice night=0.75",
    "--split-word": "VALUE=SPLIT; for instance --split-word 2=test",
}
_LAST = ("--bins", "--group", "--slice", "--split-word")
"""Options whose keys are the user's own words, which may contain an equals sign."""


@contextmanager
def progress(title: str) -> Iterator[Report]:
    """Draw a progress bar on stderr; yield the function that moves it."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    stderr = console(stderr=True)
    if not stderr.is_terminal:
        yield _lines()
        return
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeRemainingColumn(),
        console=stderr,
        transient=True,
    ) as bar:
        task = bar.add_task(title, total=1.0)

        def report(fraction: float, text: str) -> None:
            bar.update(task, completed=fraction, description=visible(text))

        yield report


def _lines() -> Report:
    """Return a function that prints a line to stderr now and then, for logs."""
    written = time.monotonic()

    def report(fraction: float, text: str) -> None:
        nonlocal written
        if time.monotonic() - written > _LINE_EVERY:
            written = time.monotonic()
            print(f"{fraction:4.0%} {visible(text)}", file=sys.stderr, flush=True)

    return report


def console(*, stderr: bool = False) -> Any:
    """Return a rich console without markup, which prints tables."""
    from rich.console import Console

    # In a file or a pipe nothing is cut to the width of a terminal.
    width = None if sys.stdout.isatty() or stderr else shutil.get_terminal_size((160, 24)).columns
    # Names are the user's: [brackets] and colons in them are no markup.
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def table(*columns: str) -> Any:
    """Return an empty table with these headings; its cells are shown by `visible`."""
    from rich.table import Table

    class VisibleTable(Table):
        def add_row(self, *cells: Any, **options: Any) -> None:
            super().add_row(*(visible(str(each)) for each in cells), **options)

    empty = VisibleTable(box=None, pad_edge=False)
    for column in columns:
        empty.add_column(visible(column), no_wrap=True)
    return empty
