"""`gsr whatif`: the head of a run fitted anew after an edit of its rows."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gsr_core.cli import terminal
from gsr_core.cli.terminal import JsonOption, WorkspaceOption

if TYPE_CHECKING:
    import pandas as pd

    from gsr_core.data.edits import EditKind
    from gsr_core.runs.store import Run
    from gsr_core.what_if.selection import Selection

__all__ = ["what_if"]

_EDITS = "--drop, --times K or --relabel CLASS"
_ROWS = (
    "--slice, --flagged, --cluster, --heaviest, --lightest, --harmful, --helpful, --rows or "
    "--sample"
)


def what_if(
    run_id: Annotated[str, typer.Argument(help="A run, or the beginning of its name.")],
    drop: Annotated[bool, typer.Option("--drop", help="Leave the rows out.")] = False,
    times: Annotated[
        float | None, typer.Option(metavar="K", help="Multiply the weights of the rows by K.")
    ] = None,
    relabel: Annotated[
        str, typer.Option(metavar="CLASS", help="Call the rows this class.", show_default=False)
    ] = "",
    slice_: Annotated[
        str, typer.Option("--slice", metavar="NAME", help="Rows of a slice.", show_default=False)
    ] = "",
    flagged: Annotated[bool, typer.Option("--flagged", help="Rows on the flag list.")] = False,
    cluster: Annotated[
        str,
        typer.Option(
            metavar="CLUSTERING/NAME", help="Rows of a cluster, by its name.", show_default=False
        ),
    ] = "",
    heaviest: Annotated[
        int | None, typer.Option(metavar="N", help="The N rows of the largest weight.")
    ] = None,
    lightest: Annotated[
        int | None, typer.Option(metavar="N", help="The N rows of the smallest weight.")
    ] = None,
    harmful: Annotated[
        int | None,
        typer.Option(metavar="N", help="The N rows that by influence harm the run's goal most."),
    ] = None,
    helpful: Annotated[
        int | None, typer.Option(metavar="N", help="The N rows that help it most.")
    ] = None,
    rows: Annotated[
        str,
        typer.Option(metavar="3-17,20", help="Rows by their position.", show_default=False),
    ] = "",
    sample: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="A row by its sample_id; repeatable.", show_default=False),
    ] = None,
    split: Annotated[str, typer.Option(help="test or val.")] = "test",
    random: Annotated[
        int | None,
        typer.Option(
            metavar="R",
            help="Do the same to R random subsets too: chance, and how far influence "
            "ranks what happens.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the random subsets.")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the refit as a run.")] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fit a run's head anew after an edit of its rows, beside what influence predicts of it."""
    from gsr_core.runs.execute import execute
    from gsr_core.runs.store import open_run
    from gsr_core.what_if.chance import beyond_chance, draw, validity
    from gsr_core.what_if.keep import keep_refit
    from gsr_core.what_if.refits import SPLITS, open_refits
    from gsr_core.what_if.selection import make_edit

    if split not in SPLITS:
        terminal.fail(f"--split is {split}; choose {' or '.join(SPLITS)}")
    kind = _kind(drop=drop, times=times, relabel=relabel)
    run = open_run(terminal.open_workspace(workspace), run_id)
    refits = open_refits(run)
    orders = {
        "heaviest": heaviest,
        "lightest": lightest,
        "most harmful": harmful,
        "most helpful": helpful,
    }
    chosen = _selection(run, slice_, flagged, cluster, orders, rows, sample or [])
    edit = make_edit(refits, chosen, kind, times=1.0 if times is None else times, label=relabel)
    outcome = refits.refit(edit)
    table, score = refits.changes(outcome, split), None
    if random is not None:
        with terminal.progress("random subsets") as report:
            chance = draw(refits, edit, random, seed=seed, report=report)
        table = beyond_chance(table, chance, split)
        score = validity(chance, split, refits.group_names)
    kept = keep_refit(refits, edit) if keep else None
    if kept is not None:
        execute(kept)
    result = {
        "run_id": run.run_id,
        "edit": edit.words,
        "rows": len(edit.positions),
        "changed": outcome.changed,
        "weight": outcome.moved,
        "note": outcome.note,
        "split": split,
        # Rows that it would take are without end where nothing changed: None.
        "groups": terminal.records(table),
        "validity": None if score is None else terminal.records(score),
        "kept": None if kept is None else kept.run_id,
    }
    if as_json:
        terminal.print_json(result)
    else:
        _report(result, table, score)


def _kind(*, drop: bool, times: float | None, relabel: str) -> EditKind:
    asked: dict[EditKind, bool] = {
        "drop": drop,
        "times": times is not None,
        "relabel": bool(relabel),
    }
    given: list[EditKind] = [kind for kind, there in asked.items() if there]
    if len(given) != 1:
        terminal.fail(f"{len(given)} edits were asked for; give one of {_EDITS}")
    return given[0]


def _selection(
    run: Run,
    slice_: str,
    flagged: bool,
    cluster: str,
    orders: dict[str, int | None],
    rows: str,
    samples: list[str],
) -> Selection:
    """Return the rows that the options name."""
    from gsr_core.data.edits import rows_from_text
    from gsr_core.what_if.selection import (
        by_position,
        by_sample_id,
        in_cluster,
        in_slice,
        on_flag_list,
        the_first,
    )

    asked = {name: count for name, count in orders.items() if count is not None}
    given = len(asked) + sum(map(bool, (slice_, flagged, cluster, rows, samples)))
    if given != 1:
        terminal.fail(f"{given} choices of rows were given; give one of {_ROWS}")
    for name, count in asked.items():
        return the_first(run, count, name)
    if slice_:
        return in_slice(run, slice_)
    if flagged:
        return on_flag_list(run)
    if rows:
        return by_position(rows_from_text(rows, len(run.bundle)))
    if samples:
        return by_sample_id(run, samples)
    clustering, slash, name = cluster.partition("/")
    if not slash:
        terminal.fail(f"--cluster {cluster!r} is not CLUSTERING/NAME, as 'gsr cluster' prints them")
    return in_cluster(run, clustering, name)


def _report(result: dict[str, Any], table: pd.DataFrame, score: pd.DataFrame | None) -> None:
    moved = f"{result['changed']:,} of {result['rows']:,} rows change"
    print(
        f"{terminal.visible(result['run_id'])}, {terminal.visible(result['edit'])}: {moved}, which "
        f"had {terminal.percent(result['weight'])} of the weight"
    )
    if result["note"]:
        print(result["note"])
    by_chance = score is not None
    columns = ["n", "before", "after", "change", "verdict", "loss", "predicted"]
    columns += ["chance, accuracy", "chance, loss"] * by_chance
    shown = terminal.table(f"group of {result['split']}", *columns)
    for row in table.to_dict("records"):
        cells = [
            row["group"],
            f"{row['samples']:,}",
            terminal.percent(row["before"]),
            terminal.percent(row["after"]),
            f"{100 * row['change']:+.1f} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]",
            row["verdict"],
            f"{row['loss_change']:+.3f} [{row['loss_low']:+.3f}, {row['loss_high']:+.3f}]",
            f"{row['predicted']:+.3f}",
        ]
        if by_chance:
            cells += [f"p {row[f'chance_{what}']:.3f}" for what in ("accuracy", "loss")]
        shown.add_row(*cells)
    terminal.console().print(shown)
    if score is not None:
        shown = terminal.table("influence on random subsets", "rank correlation", "slope")
        for row in score.to_dict("records"):
            ends = f"{row['rank']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
            shown.add_row(row["group"], ends, f"{row['slope']:.2f}")
        terminal.console().print(shown)
    print(
        "change in pp, loss in nats, with 95 % intervals over these rows; predicted: the "
        "change of the loss by influence",
        file=sys.stderr,
    )
    if result["kept"]:
        print(f"kept as {result['kept']}; next: gsr compare {result['run_id']} {result['kept']}")
