"""`gsr report`: a run or a comparison as a file for others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gsr_core.cli import terminal
from gsr_core.cli.terminal import JsonOption, WorkspaceOption

__all__ = ["report"]


def report(
    run_ids: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Runs, or beginnings of their names; seeds of one setting are put together.",
            show_default=False,
        ),
    ],
    to: Annotated[
        Path,
        typer.Option(
            "--to",
            metavar="FILE",
            help="A new file: .html for the report, .md for the model card.",
            show_default=False,
        ),
    ],
    against: Annotated[
        str,
        typer.Option(
            metavar="RUN",
            help="What they are held against; the newest ERM on the same data by default, if there "
            "is one.",
            show_default=False,
        ),
    ] = "",
    all_seeds: Annotated[
        bool, typer.Option("--all-seeds", help="Bring along the runs of other seeds.")
    ] = False,
    samples: Annotated[
        bool,
        typer.Option(
            "--samples/--no-samples", help="Show single samples: ids, pictures, texts, values."
        ),
    ] = True,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a report on a run or a comparison as one file that needs nothing else."""
    from gsr_core.comparing.entries import same_but_for_seed
    from gsr_core.reports.facts import baseline_of, make_report
    from gsr_core.reports.writing import check_report_file, write_report
    from gsr_core.runs.store import list_runs, open_run

    check_report_file(to)
    place = terminal.open_workspace(workspace)
    runs = [open_run(place, run_id) for run_id in run_ids]
    base = open_run(place, against) if against else baseline_of(runs[0])
    if all_seeds:
        known = [*runs, *([base] if base else [])]
        ended = [run for run in list_runs(place) if run.head() is not None]
        runs = same_but_for_seed(known, ended)
    made = make_report(runs, against=base, samples=samples)
    write_report(made, to)
    shown = [run.run_id for run in made.runs]
    if as_json:
        terminal.print_json({"file": str(to.resolve()), "bytes": to.stat().st_size, "runs": shown})
    else:
        print(f"{terminal.visible(str(to))}: {', '.join(shown)}, {to.stat().st_size:,} bytes")
