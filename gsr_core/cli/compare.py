"""`gsr compare` and `gsr methods`: the methods, and a comparison of their runs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gsr_core.cli import terminal
from gsr_core.cli.terminal import JsonOption, WorkspaceOption

if TYPE_CHECKING:
    from gsr_core.runs.store import Run
    from gsr_core.workspace import Workspace

__all__ = ["compare", "methods"]


def compare(
    run_ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN...",
            help="Runs, or beginnings of their names; seeds of one setting are put together.",
            show_default=False,
        ),
    ] = None,
    bundle: Annotated[
        str, typer.Option(help="All runs on this bundle that have ended.", show_default=False)
    ] = "",
    all_seeds: Annotated[
        bool, typer.Option("--all-seeds", help="Bring along the runs of other seeds.")
    ] = False,
    reference: Annotated[
        str,
        typer.Option(
            metavar="RUN",
            help="What the others are held against; ERM, else the first, by default.",
            show_default=False,
        ),
    ] = "",
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare runs on one bundle: over seeds, in pairs, and by the samples they fix and break."""
    from gsr_core.comparing.entries import check_comparable, default_reference, entries
    from gsr_core.comparing.report import comparison
    from gsr_core.runs.store import open_run

    place = terminal.open_workspace(workspace)
    if bool(run_ids) == bool(bundle):
        terminal.fail("name runs, or a bundle with --bundle; 'gsr runs' lists the runs")
    chosen = [open_run(place, run_id) for run_id in run_ids or []]
    if bundle:
        chosen = _ended_on(place, bundle)
    base = open_run(place, reference) if reference else None
    if base is not None and base.run_id not in [run.run_id for run in chosen]:
        chosen.append(base)
    check_comparable(chosen)
    compared = entries(_with_seeds(place, chosen) if all_seeds else chosen)
    against = default_reference(compared)
    if base is not None:
        # The run itself may be replaced by a newer one of its seed; its entry exists in any case.
        (own,) = entries([base])
        against = next(entry for entry in compared if entry.label == own.label)
    result = comparison(compared, against)
    if as_json:
        terminal.print_json(result)
    else:
        _report(result)


def _ended_on(place: Workspace, name: str) -> list[Run]:
    """Return the runs on a bundle as it is now that have a result, without those of studies."""
    from gsr_core.data.bundle import open_bundle
    from gsr_core.runs.store import list_runs

    digest = open_bundle(place, name).manifest.digest
    chosen = [
        run
        for run in reversed(list_runs(place))
        if run.config.bundle_digest == digest and not run.config.part_of and run.head() is not None
    ]
    if not chosen:
        terminal.fail(f"no run has ended on bundle '{name}'; start one with 'gsr run {name}'")
    return chosen


def _with_seeds(place: Workspace, chosen: list[Run]) -> list[Run]:
    """Return the chosen runs and all others that differ from one in their seed alone."""
    from gsr_core.comparing.entries import same_but_for_seed
    from gsr_core.runs.store import list_runs

    more = [run for run in list_runs(place) if run.head() is not None]
    return same_but_for_seed(chosen, more)


def _report(result: dict[str, Any]) -> None:
    print(f"{result['bundle']}: accuracy on {result['split']} at the kept step")
    table = terminal.table(
        "", "seeds", "worst group", "mean", "adjusted", "trained with", "labels", "seconds"
    )
    for entry in result["entries"]:
        averages = (entry[f"{name}_accuracy"] for name in ("worst_group", "mean", "adjusted"))
        table.add_row(
            entry["label"],
            str(len(entry["seeds"])),
            *map(terminal.spread, averages),
            entry["trained_with"],
            f"{entry['label_budget']['rows']:,}",
            f"{entry['seconds']:.1f}",
        )
    terminal.console().print(table)
    pairs = [row for row in result["paired"] if row["metric"] == "worst_group_accuracy"]
    if pairs:
        print(f"\nworst group, against {terminal.visible(result['reference'])}")
        table = terminal.table("", "shared seeds", "difference", "95 % interval", "", "p (Holm)")
        for row in pairs:
            table.add_row(
                row["entry"],
                str(row["seeds"]),
                "–" if row["difference"] is None else f"{row['difference']:+.1%}",
                "–" if row["low"] is None else f"{row['low']:+.1%} to {row['high']:+.1%}",
                row["verdict"],
                "–" if row["p_holm"] is None else f"{row['p_holm']:.2g}",
            )
        terminal.console().print(table)
    for changed in result["changed"]:
        print(f"\n{changed['run']}: fixed and broken against {changed['reference']}")
        table = terminal.table("", "samples", "fixed", "broken", "net")
        for row in changed["groups"]:
            counts = (row["samples"], row["fixed"], row["broken"])
            table.add_row(row["group"], *map(str, counts), f"{row['net']:+d}")
        terminal.console().print(table)
    _notes(result, pairs)


def _notes(result: dict[str, Any], pairs: list[dict[str, Any]]) -> None:
    several = [entry for entry in result["entries"] if len(entry["seeds"]) > 1]
    single = [entry for entry in result["entries"] if len(entry["seeds"]) == 1]
    notes = ["± is one standard deviation over seeds"] * bool(several)
    notes += ["[ ] is Wilson's 95 % interval of one seed's test samples"] * bool(single)
    notes += ["labels: rows whose group labels were read, to train or to choose the step"]
    if pairs:
        notes += [
            "intervals are of one comparison each, over the seeds that both have; p is corrected "
            "for all of them"
        ]
    if any(row["verdict"] == "add seeds" for row in pairs):
        notes += ["fewer than two shared seeds cannot be told from chance: gsr run ... --seeds 5"]
    for note in notes:
        print(f"note: {terminal.visible(note)}", file=sys.stderr)


def methods(
    as_json: JsonOption = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table of docs/methods.md.")
    ] = False,
) -> None:
    """List the methods: which group labels they need, what values they give samples."""
    from gsr_core.methods.describe import describe_methods, methods_table

    if as_json:
        terminal.print_json({"methods": describe_methods()})
        return
    if as_markdown:
        print(methods_table(), end="")
        return
    table = terminal.table("method", "group labels", "values", "does")
    # Otherwise the sentences push the names out of the terminal.
    table.columns[-1].no_wrap = False
    for each in describe_methods():
        table.add_row(each["name"], each["family"], each["values"].split(":")[0], each["summary"])
    terminal.console().print(table)
    print("settings of a method: gsr methods --json, or docs/methods.md", file=sys.stderr)
