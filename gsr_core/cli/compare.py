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
    from gsr_core.comparing.entries import check_comparable, default_reference, entries, identity
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
        own = identity(base)
        against = next(entry for entry in compared if identity(entry.runs[0]) == own)
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
            "all" if entry["every_seed"] else str(len(entry["seeds"])),
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
                terminal.points(row["difference"]),
                "–"
                if row["low"] is None
                else f"{terminal.points(row['low'])} to {terminal.points(row['high'])}",
                row["verdict"],
                "–" if row["p_holm"] is None else f"{row['p_holm']:.2g}",
            )
        terminal.console().print(table)
    for changed in result["changed"]:
        print(f"\n{changed['run']}: fixed and broken against {changed['reference']}")
        table = terminal.table("", "samples", "fixed", "broken", "net", "", "p (Holm)")
        for row in changed["groups"]:
            counts = (row["samples"], row["fixed"], row["broken"])
            p = "–" if row["p_holm"] is None else f"{row['p_holm']:.2g}"
            table.add_row(row["group"], *map(str, counts), f"{row['net']:+d}", row["verdict"], p)
        terminal.console().print(table)
    _notes(result, pairs)


def _notes(result: dict[str, Any], pairs: list[dict[str, Any]]) -> None:
    several = [entry for entry in result["entries"] if len(entry["seeds"]) > 1]
    single = [entry for entry in result["entries"] if len(entry["seeds"]) == 1]
    stopped = [entry for entry in result["entries"] if entry["stopped"]]
    same = [entry for entry in result["entries"] if entry["every_seed"]]
    notes = ["± is one standard deviation over seeds"] * bool(several)
    notes += ["[ ] is Wilson's 95 % interval of one seed's test samples"] * bool(single)
    notes += [
        f"{entry['label']} ended early and is no seed of its setting: gsr continue "
        f"{entry['runs'][0]} goes on with it"
        for entry in stopped
    ]
    notes += [f"{entry['label']} is the same for every seed" for entry in same]
    notes += ["labels: rows whose group labels were read, to train or to choose the step"]
    if pairs:
        notes += [
            "intervals are of one comparison each, over the seeds that both have and over test "
            "samples; p is corrected for all of them"
        ]
    if any(row["verdict"] == "add seeds" for row in pairs):
        notes += ["fewer than two shared seeds cannot be told from chance: gsr run ... --seeds 5"]
    for note in notes:
        print(f"note: {terminal.visible(note)}", file=sys.stderr)


def methods(
    name: Annotated[
        str, typer.Argument(help="One method, with its settings.", show_default=False)
    ] = "",
    as_json: JsonOption = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table of docs/methods.md.")
    ] = False,
) -> None:
    """List the methods, or show one with its settings."""
    from gsr_core.methods.describe import describe_methods, in_families, methods_table
    from gsr_core.methods.registry import make_method

    described = describe_methods()
    if name:
        make_method(name)  # The sentence for a name that does not exist.
        described = [each for each in described if each["name"] == name]
    if as_json:
        terminal.print_json({"methods": described})
    elif as_markdown:
        print(methods_table(), end="")
    elif name:
        _show_method(described[0])
    else:
        table = terminal.table("method", "acts on", "group labels", "values", "when to use")
        # Otherwise the sentences push the names out of the terminal.
        table.columns[-1].no_wrap = False
        for each in in_families(described):
            values = each["values"].split(":")[0]
            table.add_row(each["name"], each["acts_on"], each["family"], values, each["use_when"])
        terminal.console().print(table)
        print("what a method does, and its settings: gsr methods NAME", file=sys.stderr)


def _show_method(method: dict[str, Any]) -> None:
    """Print what a method does and what can be set."""
    print(f"{method['title']}\n{method['summary']}\nwhen to use: {method['use_when']}")
    what = {"head": "the last layer", "network": "the whole network"}[method["acts_on"]]
    print(f"fits {what}; trains with {method['needs']}; values of samples: {method['values']}")
    if method["source"]:
        print(f"source: {method['source']}")
    table = terminal.table("setting", "default", "allowed", "what it is")
    for column in table.columns[-2:]:
        column.no_wrap = False
    # Long choices would leave no room to say what they are.
    table.columns[-2].max_width = 24
    for each in method["parameters"]:
        table.add_row(each["name"], str(each["default"]), _allowed(each), each["help"])
    terminal.console().print(table)
    print(f"set one with: gsr run BUNDLE --method {method['name']} --set KEY=VALUE")


def _allowed(setting: dict[str, Any]) -> str:
    """Return the values that a setting may have, in words."""
    if setting["allowed"]:
        return ", ".join(map(str, setting["allowed"]))
    if setting["type"] == "boolean":
        return "true, false"
    ends = {"minimum": "from", "above": "above", "maximum": "to", "below": "below"}
    parts = [
        f"{word} {_figure(setting[key])}" for key, word in ends.items() if setting[key] is not None
    ]
    return " ".join(parts) or setting["type"]


def _figure(value: float) -> str:
    """Return a number in full, where `g` would leave out digits of a long one."""
    return f"{value:,.0f}" if value >= 1000 and value == int(value) else f"{value:g}"
