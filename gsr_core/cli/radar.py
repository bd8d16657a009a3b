"""`gsr radar`: what a repair broke, subset by subset, and what the head leans on."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gsr_core.cli import terminal
from gsr_core.cli.terminal import JsonOption, WorkspaceOption

if TYPE_CHECKING:
    import pandas as pd

    from gsr_core.comparing.radar import Radar

__all__ = ["radar"]


def radar(
    base: Annotated[
        str,
        typer.Argument(
            metavar="REFERENCE",
            help="The run before, or the beginning of its name.",
            show_default=False,
        ),
    ],
    repair: Annotated[str, typer.Argument(help="The run after.", show_default=False)],
    min_rows: Annotated[
        int,
        typer.Option(
            min=1, help="Clusters, values and crossings with fewer test rows are left out."
        ),
    ] = 20,
    depth: Annotated[int, typer.Option(min=1, max=3, help="Columns crossed at most.")] = 3,
    top: Annotated[
        int, typer.Option(min=1, help="Harmed subsets, and attributes, to print; the worst first.")
    ] = 12,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look at what a repair broke: every group, slice, cluster value and crossing of attributes."""
    import numpy as np

    from gsr_core.clusterings.describe import cluster_subsets
    from gsr_core.clusterings.store import list_clusterings
    from gsr_core.comparing.radar import radar as look
    from gsr_core.runs.reliance import reliance_table
    from gsr_core.runs.store import open_run

    place = terminal.open_workspace(workspace)
    before, after = open_run(place, base), open_run(place, repair)
    bundle = before.unchanged_bundle()
    rows = np.sort(before.rows_of("test", bundle))
    clusters = cluster_subsets(list_clusterings(place, bundle), rows)
    found = look(before, after, clusters, depth=depth, min_rows=min_rows)
    answer = {"base": before.run_id, "repair": after.run_id, "bundle": bundle.name}
    leans = reliance_table([before, after], bundle=bundle, most=None if as_json else top)
    if as_json:
        reliance = terminal.records(leans)
        terminal.print_json({**answer, "split": "test", **found.record(), "reliance": reliance})
    else:
        _report(answer, found, top)
        _report_reliance(leans)


def _report(answer: dict[str, Any], found: Radar, top: int) -> None:
    print(
        f"{answer['bundle']}: {answer['repair']} against {answer['base']} on {found.samples:,} "
        f"test rows: {found.fixed:,} fixed, {found.broken:,} broken"
    )
    record = found.record()
    harmed = [row for row in record["subsets"] if row["net"] < 0]
    table = terminal.table(
        *("subset", "kind", "rows", "before", "after", "fixed", "broken", "verdict", "p (Holm)")
    )
    for row in harmed[:top]:
        table.add_row(
            row["name"],
            row["kind"],
            f"{row['samples']:,}",
            terminal.percent(row["base"]),
            terminal.percent(row["repair"]),
            f"{row['fixed']:,}",
            f"{row['broken']:,}",
            row["verdict"],
            f"{row['p_holm']:.2g}",
        )
    if harmed:
        terminal.console().print(table)
    else:
        print("no subset lost more rows than it gained")
    more = len(harmed) - top
    notes = [
        f"{record['looked_at']:,} subsets looked at: {record['worse']:,} worse, "
        f"{record['better']:,} better; McNemar's exact test, p corrected for all of them (Holm)"
    ]
    notes += [f"{more:,} more subsets lost rows; see them with --top"] * (more > 0)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def _report_reliance(leans: pd.DataFrame) -> None:
    """Print how far the heads lean on each attribute, before and after."""
    if leans.empty:
        print(
            "note: no attribute has enough rows in every class to say what the heads lean on",
            file=sys.stderr,
        )
        return
    print("\npull of attributes, in standard deviations of the score")
    table = terminal.table("attribute", "towards", "before", "after", "share of the score", "AUROC")
    for attribute, pair in leans.groupby("attribute", sort=False):
        before, after = pair.to_dict("records")
        table.add_row(
            f"{attribute}={before['value']}",
            before["two"],
            *(
                f"{each['lean']:+.2f} [{each['lean_low']:+.2f}, {each['lean_high']:+.2f}]"
                for each in (before, after)
            ),
            f"{before['share']:.0%} → {after['share']:.0%}",
            f"{before['auroc']:.2f} → {after['auroc']:.2f}",
        )
    terminal.console().print(table)
    print(
        "note: [ ] is the 95 % interval; 0 is no reliance, and AUROC 0.5; the share is that of "
        "the variance of mean scores over class and attribute",
        file=sys.stderr,
    )
