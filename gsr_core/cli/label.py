"""`gsr label`: which samples to label next, answers as files, and bundles that have them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gsr_core.cli import terminal
from gsr_core.cli.bundles import OverwriteOption
from gsr_core.cli.terminal import JsonOption, WorkspaceOption
from gsr_core.errors import SettingError

if TYPE_CHECKING:
    import pandas as pd

    from gsr_core.data.bundle import Bundle
    from gsr_core.runs.store import Run
    from gsr_core.workspace import Workspace

__all__ = ["label"]


def label(
    bundle: Annotated[str, typer.Argument(help="Name or directory.", show_default=False)],
    order: Annotated[
        str, typer.Option(help="influence, balanced, or random, as a test set needs it.")
    ] = "influence",
    run: Annotated[
        str,
        typer.Option(
            metavar="RUN",
            help="The run whose influence ranks, with --order influence, and whose accuracy says "
            "how many labels it takes; the newest that has influence by default.",
            show_default=False,
        ),
    ] = "",
    count: Annotated[int, typer.Option(help="Samples to name.")] = 50,
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the answers, and below them the samples to answer, to a new .csv or "
            ".parquet file.",
            show_default=False,
        ),
    ] = None,
    import_: Annotated[
        Path | None,
        typer.Option(
            "--import",
            metavar="FILE",
            help="Take the answers of such a file.",
            show_default=False,
        ),
    ] = None,
    by: Annotated[
        str,
        typer.Option(help="Who answered, where the file does not say.", show_default=False),
    ] = "",
    to: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Make a bundle of this name in which the answered samples are target.",
            show_default=False,
        ),
    ] = "",
    test: Annotated[
        bool, typer.Option("--test", help="With --to: they are test; only of random order.")
    ] = False,
    hide: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Make a bundle of this name without the groups of train and heldout, to try.",
            show_default=False,
        ),
    ] = "",
    keep: Annotated[
        int | None,
        typer.Option(
            help="With --hide: rows of each group that stay in target.", show_default=False
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Name the samples whose group label would tell most, and take the answers."""
    from gsr_core.data.bundle import open_bundle
    from gsr_core.labelling.bundles import hide_groups, labelled_bundle
    from gsr_core.labelling.power import label_progress
    from gsr_core.labelling.queue import label_queue
    from gsr_core.labelling.tables import export_answers, import_answers

    place = terminal.open_workspace(workspace)
    opened = open_bundle(place, bundle)
    if test and not to:
        terminal.fail("--test says where --to NAME moves the answered samples; give both")
    if keep is not None and not hide:
        terminal.fail("--keep says what --hide NAME leaves in target; give both")
    if hide:
        made = hide_groups(place, opened, hide, keep=keep, overwrite=overwrite)
        _report_bundle(made, as_json)
        return
    result: dict[str, Any] = {"bundle": opened.name}
    if import_ is not None:
        result["imported"] = import_answers(place, opened, import_, by=by)
    if to:
        made = labelled_bundle(
            place, opened, to, split="test" if test else "target", overwrite=overwrite
        )
        _report_bundle(made, as_json, **result)
        return
    if import_ is not None and export is None:
        _report_import(result, as_json)
        return
    chosen = _run(place, opened, run)
    queue = label_queue(place, opened, order=order, run=chosen, count=count)
    if export is not None:
        done, asked = export_answers(place, opened, export, queue)
        result |= {"file": str(export.resolve()), "answers": done, "to_answer": asked}
        if as_json:
            terminal.print_json(result)
        else:
            print(f"{export}: {done:,} answers, {asked:,} samples to answer")
        return
    result |= {"order": order, "run": None if chosen is None else chosen.run_id}
    result |= {"queue": terminal.records(queue)}
    progress = None if chosen is None else label_progress(place, opened, chosen)
    if progress is not None:
        result["groups"] = terminal.records(progress)
    if as_json:
        terminal.print_json(result)
        return
    _report_queue(queue)
    if progress is not None:
        _report_progress(progress)


def _run(place: Workspace, bundle: Bundle, name: str) -> Run | None:
    """Return the run of that name, or the newest that could rank by influence, None if none can."""
    from gsr_core.labelling.queue import find_ranking_run
    from gsr_core.runs.store import open_run

    if name:
        return open_run(place, name)
    try:
        return find_ranking_run(place, bundle)
    except SettingError:
        return None


def _report_bundle(made: Bundle, as_json: bool, **more: Any) -> None:
    sizes = made.manifest.split_sizes
    if as_json:
        terminal.print_json({**more, "made_bundle": made.name, "splits": sizes})
        return
    if "imported" in more:
        print(f"{more['imported']:,} answers taken")
    print(f"bundle '{made.name}': " + ", ".join(f"{n:,} {split}" for split, n in sizes.items()))


def _report_import(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        terminal.print_json(result)
    else:
        print(f"{result['imported']:,} answers taken")


def _report_queue(queue: pd.DataFrame) -> None:
    if not len(queue):
        print(
            "every sample that carries a weight is in a known group, answered or skipped; --hide "
            "NAME makes a bundle to try it on"
        )
        return
    shown = ("sample_id", "class", "likely", "probability", "score", "cluster")
    columns = [name for name in shown if name in queue]
    table = terminal.table(*(name.replace("_", " ") for name in columns))
    for row in queue[columns].to_dict("records"):
        table.add_row(
            *(f"{each:.3g}" if isinstance(each, float) else str(each) for each in row.values())
        )
    terminal.console().print(table)


def _report_progress(progress: pd.DataFrame) -> None:
    table = terminal.table("group", "by hand", "target", "test", "rows of test for +5 points")
    for row in progress.to_dict("records"):
        more = f"{row['needed']:,.0f}, {row['more']:,} more"
        table.add_row(row["group"], row["answered"], row["target"], row["test"], more)
    terminal.console().print(table)
