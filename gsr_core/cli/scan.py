"""`gsr scan`: which attribute misleads a classifier, and groups made of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gsr_core.cli import terminal
from gsr_core.cli.bundles import OverwriteOption
from gsr_core.cli.terminal import JsonOption, WorkspaceOption

if TYPE_CHECKING:
    from gsr_core.scanning.scan import Scan

__all__ = ["scan"]


def scan(
    bundle: Annotated[str, typer.Argument(help="Name or directory.", show_default=False)],
    run: Annotated[
        str,
        typer.Option(
            metavar="RUN",
            help="Also ask where the accuracy of this run changes with an attribute.",
            show_default=False,
        ),
    ] = "",
    split: Annotated[str, typer.Option(help="On whose rows the run is judged.")] = "test",
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Do not look at this attribute; repeatable."),
    ] = None,
    phrases: Annotated[
        bool,
        typer.Option(
            "--phrases",
            help="Also look at how near samples are to phrases of a vocabulary, by the network.",
        ),
    ] = False,
    vocabulary: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Text file with a phrase a line for --phrases, in place of the built-in list.",
            show_default=False,
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Attributes to print.")] = 12,
    by: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="With --groups: the attribute, column, property or phrase that makes groups.",
            show_default=False,
        ),
    ] = "",
    side: Annotated[
        str,
        typer.Option(
            help="With --groups: one of its sides, against all else, as the table names it.",
            show_default=False,
        ),
    ] = "",
    groups: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Only make a bundle of this name whose groups are the classes by --by.",
            show_default=False,
        ),
    ] = "",
    workspace: WorkspaceOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Scan for shortcuts: what goes with the class, and where accuracy changes with it."""
    from gsr_core.data.bundle import open_bundle
    from gsr_core.data.bundle_writing import bundle_directory
    from gsr_core.phrases.vocabulary import phrase_similarities, read_vocabulary
    from gsr_core.runs.store import open_run
    from gsr_core.scanning.groups import groups_by
    from gsr_core.scanning.measured import measure_inputs
    from gsr_core.scanning.scan import check_run
    from gsr_core.scanning.scan import scan as look

    if bool(groups) != bool(by):
        terminal.fail(
            "--by and --groups go together: --by names what makes the groups, --groups the new "
            "bundle; give both or neither"
        )
    if side and not by:
        terminal.fail("--side is of --by; name the attribute with --by, or leave --side out")
    if without and groups and not as_json:
        terminal.fail(
            "--without is of the table, which is not printed with --groups; leave one of them out"
        )
    place = terminal.open_workspace(workspace)
    opened = open_bundle(place, bundle)
    judged = open_run(place, run) if run else None
    # Checked first, so that nothing is measured for a mistake.
    if judged is not None:
        check_run(judged, opened, split)
    if groups:
        bundle_directory(place, groups, overwrite=overwrite)
    near = None
    if phrases or vocabulary is not None:
        near = phrase_similarities(place, opened, read_vocabulary(vocabulary))
    with terminal.progress(f"measuring {opened.name}") as report:
        measured = measure_inputs(place, opened, progress=report)
    found = made = None
    if as_json or not groups:
        found = look(
            opened, judged, measured=measured, phrases=near, split=split, without=without or ()
        )
    if groups:
        made = groups_by(
            place,
            opened,
            groups,
            by,
            side,
            measured=measured,
            phrases=near,
            overwrite=overwrite,
        )
    if found is not None and as_json:
        about = {"bundle": opened.name, "run": None if judged is None else judged.run_id}
        if made is not None:
            about["made_bundle"] = made.name
        terminal.print_json({**about, "split": split, **found.record()})
        return
    if found is not None:
        _report(opened.name, found, top, split, judged is not None)
    if made is not None:
        print(
            f"bundle '{made.name}' has the groups {terminal.visible('; '.join(made.group_names))}; "
            f"next: gsr run {made.name}"
        )


def _report(bundle: str, found: Scan, top: int, split: str, judged: bool) -> None:
    print(
        f"{bundle}: {len(found.table):,} attributes, columns and properties"
        f"{' (phrases among them)' * ('phrase' in set(found.table['source']))} on "
        f"{found.learnt:,} rows of train and heldout"
        + f", judged on {found.judged:,} of {split}"
        * judged
    )
    columns = ("attribute", "association", "goes with", "verdict")
    taken = judged and len(found.classes) > 2
    table = terminal.table(
        *columns,
        *("class, side: accuracy without → with (rows)", "gap, pp") * judged,
        *("taken for",) * taken,
    )
    for column in (0, 2, 4)[: 2 + judged]:
        table.columns[column].no_wrap = False  # Numbers are not cut off; names are broken.
    for row in found.record(top)["attributes"]:
        alike = f" (as {row['alike']})" if row["alike"] else ""
        kind = "" if row["source"] == "attribute" else f" [{row['source']}]"
        cells = [row["attribute"] + kind + alike, "–", "", row["verdict"]]
        if row["association"] is not None:
            cells[1] = f"{row['association']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        if row["side"]:
            cells[2] = (
                f"{row['side']} → {row['goes with']} ({row['share']:.0%}, usual {row['usual']:.0%})"
            )
        if judged and row.get("delta") is not None:
            shares = (terminal.percent(row[f"accuracy_{each}"]) for each in ("without", "with"))
            rows = f"{row['n_without']:,.0f}, {row['n_with']:,.0f}"
            cells += [
                f"{row['y']}, {row['gap_side']}: {' → '.join(shares)} ({rows})",
                f"[{100 * row['delta_low']:+.1f}, {100 * row['delta_high']:+.1f}]",
            ]
            cells += [row["taken_for"] or ""] * taken
        table.add_row(*cells)
    terminal.console().print(table)
    notes = ["association is Cramér's V with its 95 % interval; 0 is none, 1 is the class itself"]
    notes += ["(as ...) tells much the same as another attribute above it"]
    notes += [
        "a gap is the accuracy of a class with the attribute less that without, 95 % interval"
    ] * judged
    notes += ["verdicts are corrected for all that was looked at (Holm, 5 %)"]
    reasons = "; ".join(f"{name}, {reason}" for name, reason in found.left_out.items())
    notes += [f"not looked at: {reasons}"] * bool(reasons)
    notes += [found.note] * bool(found.note)
    for note in notes:
        print(f"note: {terminal.visible(note)}", file=sys.stderr)
