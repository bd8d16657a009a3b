"""`gsr look`: whether runs look at the object, and what they look at in one sample."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gsr_core.cli import terminal
from gsr_core.cli.terminal import DeviceOption, JsonOption, WorkspaceOption
from gsr_core.looking import PER_GROUP

if TYPE_CHECKING:
    from gsr_core.looking.looker import ImageLook, TextLook
    from gsr_core.looking.measure import Overlaps
    from gsr_core.runs.store import Run

__all__ = ["look"]


def look(
    run_ids: Annotated[
        list[str],
        typer.Argument(
            help="Runs, or the beginnings of their names; the first is the reference, as it was "
            "before a repair."
        ),
    ],
    sample: Annotated[
        str | None,
        typer.Option(help="Id of one sample to look at, instead of AIoU.", show_default=False),
    ] = None,
    split: Annotated[str, typer.Option(help="Split whose samples are looked at.")] = "test",
    region: Annotated[
        str | None,
        typer.Option(
            help="Column of the data with boxes (x0, y0, x1, y1 in pixels) or paths of masks; the "
            "one that its layout knows, or the only one, if left out.",
            show_default=False,
        ),
    ] = None,
    per_group: Annotated[
        int, typer.Option(min=1, help="Samples of each group that are looked at.")
    ] = PER_GROUP,
    device: DeviceOption = "auto",
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look where a network looks: on the object (AIoU of each group), or in one sample."""
    from gsr_core.looking.looker import look as look_at
    from gsr_core.looking.looker import network_key, open_looker
    from gsr_core.looking.measure import measure_overlaps
    from gsr_core.runs.store import open_run

    if sample is not None and region is not None:
        terminal.fail("--region is of AIoU, and --sample shows one sample; leave one of them out")
    place = terminal.open_workspace(workspace)
    runs = [open_run(place, run_id) for run_id in dict.fromkeys(run_ids)]
    if sample is None:
        with terminal.progress("Looking") as report:
            found = measure_overlaps(
                runs,
                split,
                column=region or "",
                per_group=per_group,
                open_network=lambda run: open_looker(run, device=device),
                report=report,
            )
        _print_overlaps(found, as_json)
        return
    looks, lookers = [], {}
    for run in runs:
        row, key = _row(run, sample), network_key(run)
        if key not in lookers:
            lookers[key] = open_looker(run, device=device)
        looks.append((run, look_at(run, row, lookers[key])))
    _print_looks(looks, sample, as_json)


def _row(run: Run, sample: str) -> int:
    """Return the position of a sample in a run's bundle."""
    import numpy as np

    bundle = run.unchanged_bundle()
    names = bundle.column("sample_id").to_pandas().astype(str).to_numpy()
    places = np.flatnonzero(names == sample)
    if not places.size:
        terminal.fail(
            f"there is no sample '{sample}' in bundle '{bundle.name}'; the first is '{names[0]}'"
        )
    return int(places[0])


def _print_overlaps(found: Overlaps, as_json: bool) -> None:
    if as_json:
        terminal.print_json(
            {
                "region": found.column,
                "split": found.split,
                "worst_group": found.worst_group,
                "totals": terminal.records(found.totals),
                "groups": terminal.records(found.groups),
                "samples": terminal.records(found.samples),
            }
        )
        return
    print(terminal.visible(f"AIoU on {found.split}, objects from column '{found.column}'"))
    table = terminal.table("", "run", "looked at", "accuracy", "AIoU", "change")
    for group, part in found.groups.groupby("group", sort=False):
        name = group
        for row in part.to_dict("records"):
            table.add_row(
                name,
                row["run"],
                f"{row['n']:,}",
                f"{row['accuracy']:.1%}",
                f"{row['aiou']:.3f} [{row['low']:.3f}, {row['high']:.3f}]",
                f"{row['change']:+.3f} [{row['change_low']:+.3f}, {row['change_high']:+.3f}]"
                if row["change"] == row["change"]
                else "",
            )
            name = ""
    first = found.totals.iloc[0]
    for title, total in (
        ("mean", "mean"),
        (f"worst by accuracy before: {found.worst_group}", "worst"),
        ("lowest", "lowest"),
    ):
        for place, row in enumerate(found.totals.to_dict("records")):
            table.add_row(
                "" if place else title,
                row["run"],
                "",
                "",
                f"{row[total]:.3f}" + (f", {row['lowest_group']}" if total == "lowest" else ""),
                f"{row[total] - first[total]:+.3f}" if place else "",
            )
    terminal.console().print(table)
    print(
        "note: 1: only the map of the right class lies on the object; 0.5: that of another class "
        "does as much; [ ] is the 95 % interval of the mean",
        file=sys.stderr,
    )


def _print_looks(looks: list[tuple[Run, ImageLook | TextLook]], sample: str, as_json: bool) -> None:
    from gsr_core.looking.looker import ImageLook

    records: list[dict[str, Any]] = []
    for run, found in looks:
        classes = run.bundle.manifest.classes
        if isinstance(found, ImageLook):
            maps = dict(zip(classes, found.maps.tolist(), strict=True))
            records.append(
                {"run": run.run_id, "layer": found.layer, "adds_up": found.pooled, "maps": maps}
            )
        else:
            texts = [
                [
                    {"piece": piece, "adds": dict(zip(classes, effect.tolist(), strict=True))}
                    for piece, effect in zip(pieces, effects.T, strict=True)
                ]
                for pieces, effects in zip(found.pieces, found.effects, strict=True)
            ]
            records.append({"run": run.run_id, "texts": texts})
    if as_json:
        terminal.print_json({"sample": sample, "unit": "nats", "runs": records})
        return
    for record in records:
        print(terminal.visible(f"{record['run']} in {sample}, nats of the class's score"))
        for name, places in record.get("maps", {}).items():
            print(terminal.visible(f"{name}:"))
            for line in places:
                print(" ".join(f"{value:+7.3f}" for value in line))
        for pieces in record.get("texts", []):
            table = terminal.table("words", *pieces[0]["adds"])
            for each in pieces:
                added = (f"{value:+.3f}" for value in each["adds"].values())
                table.add_row(each["piece"].strip(), *added)
            terminal.console().print(table)
