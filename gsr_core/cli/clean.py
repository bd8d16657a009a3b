"""`gsr clean`: what nothing uses any more."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from gsr_core.cli import terminal
from gsr_core.cli.terminal import JsonOption, WorkspaceOption

__all__ = ["clean"]


def clean(
    yes: Annotated[bool, typer.Option("--yes", help="Free it; without, only say.")] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what killed work and deleted bundles left in the workspace, and free it if told."""
    from gsr_core.cleaning import free, leftovers

    place = terminal.open_workspace(workspace)
    found = free(place) if yes else leftovers(place)
    total = sum(each.size for each in found)
    if as_json:
        terminal.print_json(
            {
                "freed": yes,
                "bytes": total,
                "leftovers": [
                    {"path": str(each.path), "what": each.what, "bytes": each.size}
                    for each in found
                ],
            }
        )
        return
    table = terminal.table("", "MB", "")
    for each in found:
        table.add_row(
            each.path.relative_to(place.root).as_posix(), f"{each.size / 1e6:,.1f}", each.what
        )
    if found:
        terminal.console().print(table)
    print(
        "there is nothing to free"
        if not found
        else f"{total / 1e6:,.1f} MB {'freed' if yes else 'to free with gsr clean --yes'}",
        file=sys.stderr,
    )
