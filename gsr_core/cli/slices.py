"""`gsr slices` and `gsr flags`: lists of the samples that a user picked out, and files of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gsr_core.cli import terminal
from gsr_core.cli.terminal import JsonOption, WorkspaceOption

__all__ = ["flags", "slices"]

_SHOWN = ("sample_id", "split", "class", "group", "reason", "proposed_label", "note")
"""Columns of the table of flags; `--json` and `--export` have more."""

BundleArgument = Annotated[
    str, typer.Argument(help="Name of a bundle, or path of its directory.", show_default=False)
]


def slices(
    bundle: BundleArgument,
    name: Annotated[
        str,
        typer.Option("--export", metavar="NAME", help="Write this slice.", show_default=False),
    ] = "",
    to: Annotated[
        Path | None,
        typer.Option("--to", help="A new file that ends in .csv or .parquet.", show_default=False),
    ] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the named slices of a bundle, or write the samples of one to a file."""
    from gsr_core.curation.slices import find_slice, list_slices
    from gsr_core.curation.tables import export_table
    from gsr_core.data.bundle import open_bundle

    place = terminal.open_workspace(workspace)
    opened = open_bundle(place, bundle)
    if bool(name) != (to is not None):
        terminal.fail("--export NAME and --to FILE go together; give both or neither")
    if to is not None:
        one = find_slice(place, opened, name)
        export_table(opened, one.rows, to, slice=one.name)
        _report_file(to, len(one.rows), as_json)
        return
    named = list_slices(place, opened)
    if as_json:
        rows = [
            {
                "name": each.name,
                "key": each.key,
                "samples": len(each.rows),
                "about": each.about,
                "created": each.created,
            }
            for each in named
        ]
        terminal.print_json({"bundle": opened.name, "slices": rows})
        return
    if not named:
        print(
            f"no slices of '{opened.name}' yet; save one on the pages Map or Samples of 'gsr app'",
            file=sys.stderr,
        )
        return
    table = terminal.table("slice", "samples", "from", "saved")
    for each in named:
        table.add_row(each.name, f"{len(each.rows):,}", each.about, each.created)
    terminal.console().print(table)


def flags(
    bundle: BundleArgument,
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write them to a new file that ends in .csv or .parquet.",
            show_default=False,
        ),
    ] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the samples of a bundle that are flagged as suspect, or write them to a file."""
    from gsr_core.curation.tables import describe_flags, export_flags
    from gsr_core.data.bundle import open_bundle

    place = terminal.open_workspace(workspace)
    opened = open_bundle(place, bundle)
    if export is not None:
        _report_file(export, export_flags(place, opened, export), as_json)
        return
    flagged = describe_flags(place, opened)[[*_SHOWN, "row", "flagged"]]
    if as_json:
        terminal.print_json({"bundle": opened.name, "flags": flagged.to_dict("records")})
        return
    if flagged.empty:
        print(f"no sample of '{opened.name}' is flagged", file=sys.stderr)
        return
    table = terminal.table(*(name.replace("_", " ") for name in _SHOWN))
    for row in flagged[list(_SHOWN)].to_dict("records"):
        table.add_row(*map(str, row.values()))
    terminal.console().print(table)


def _report_file(file: Path, samples: int, as_json: bool) -> None:
    if as_json:
        terminal.print_json({"file": str(file.resolve()), "samples": samples})
    else:
        print(f"{file}: {samples:,} samples")
