"""`gsr import`: from a user's files to a bundle."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gsr_core.cli import terminal
from gsr_core.cli.bundles import OverwriteOption, report_bundle
from gsr_core.cli.terminal import DeviceOption, JsonOption, WorkspaceOption

if TYPE_CHECKING:
    from gsr_core.ingest.plan import Plan

__all__ = ["import_"]


def import_(
    reader: Annotated[
        str, typer.Argument(help="What the data are; 'gsr readers' lists all.", show_default=False)
    ],
    path: Annotated[
        str, typer.Argument(help="File, folder or name of the data.", show_default=False)
    ] = "",
    name: Annotated[str, typer.Option(help="Name of the bundle.", show_default=False)] = "",
    title: Annotated[str, typer.Option(help="Name for people.", show_default=False)] = "",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the reader; repeatable."),
    ] = None,
    label: Annotated[str | None, typer.Option(help="Column of the class.")] = None,
    sample_id: Annotated[
        str | None, typer.Option(help="Column of unique names; '' numbers the rows.")
    ] = None,
    attribute: Annotated[
        list[str] | None,
        typer.Option(help="Column to keep and to make groups of; repeatable, '' for none."),
    ] = None,
    group_by: Annotated[
        list[str] | None,
        typer.Option(help="Column of the groups, if not every attribute; repeatable, '' for none."),
    ] = None,
    groups: Annotated[
        str | None, typer.Option(help="crossed, overlapping (one flag a column) or named.")
    ] = None,
    class_in_groups: Annotated[
        bool | None,
        typer.Option("--class-in-groups/--no-class-in-groups", help="Cross groups with the class."),
    ] = None,
    bins: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=N", help="Cut a numeric column into N quantile bins."),
    ] = None,
    merge: Annotated[
        list[str] | None,
        typer.Option(metavar="'A|B'", help="Make groups one, by name; repeatable."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Column of the split; 'none' draws splits instead.")
    ] = None,
    split_word: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VALUE=SPLIT",
            help="What a value of that column means: train, validation, test, heldout, target, "
            "val or none.",
        ),
    ] = None,
    train_share: Annotated[
        float | None, typer.Option(help="Share of train where splits are drawn; 0.6 by default.")
    ] = None,
    validation_share: Annotated[
        float | None,
        typer.Option(help="Share of validation where it is drawn; 0.2 by default."),
    ] = None,
    heldout: Annotated[
        float | None, typer.Option(help="Share of train that carries the weights; 0.1 by default.")
    ] = None,
    target: Annotated[
        float | None, typer.Option(help="Share of validation for target; 0.5 by default.")
    ] = None,
    split_seed: Annotated[int | None, typer.Option(help="Seed of all draws of splits.")] = None,
    backbone: Annotated[
        str, typer.Option(help="Trained network, such as torchvision:resnet50.", show_default=False)
    ] = "",
    checkpoint: Annotated[
        str, typer.Option(help="Its state dict, or the exported program.", show_default=False)
    ] = "",
    weights: Annotated[
        str, typer.Option(help="Named weights of the network's library.", show_default=False)
    ] = "",
    layer: Annotated[
        str, typer.Option(help="Linear layer before which to cut.", show_default=False)
    ] = "",
    trust: Annotated[
        bool, typer.Option("--trust", help="Load a file or factory that runs code of its own.")
    ] = False,
    factory: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Argument of an own: factory; repeatable."),
    ] = None,
    preprocess: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="Preprocessing that differs, such as image_size=160."
        ),
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            "--train",
            metavar="PRESET",
            help="Train the network on train first.",
            show_default=False,
        ),
    ] = "",
    train_settings: Annotated[
        list[str] | None,
        typer.Option("--train-set", metavar="KEY=VALUE", help="A setting of the training."),
    ] = None,
    device: DeviceOption = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Inputs a forward pass.")] = 64,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that read and prepare inputs.")
    ] = None,
    precision: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    bad: Annotated[
        str, typer.Option(help="An input that cannot be read: stop, or skip it.")
    ] = "stop",
    engine: Annotated[str, typer.Option(help="local or ray.")] = "local",
    address: Annotated[str, typer.Option(help="Of the Ray cluster.")] = "auto",
    actors: Annotated[int, typer.Option(min=1, help="Actors on the Ray cluster.")] = 2,
    preview: Annotated[
        bool, typer.Option("--preview", help="Only say what would be imported.")
    ] = False,
    workspace: WorkspaceOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Import data as a bundle: read, define groups and splits, extract features."""
    from gsr_core.ingest.importing import import_data
    from gsr_core.ingest.plan import make_plan

    changes: dict[str, Any] = {}
    _put(changes, "label", label)
    if sample_id is not None:
        changes["sample_id"] = sample_id or None
    if attribute:
        changes["attributes"] = [each for each in attribute if each]
    rule: dict[str, Any] = {}
    _put(rule, "kind", groups)
    if group_by:
        rule["columns"] = [each for each in group_by if each]
    _put(rule, "with_class", class_in_groups)
    _put(rule, "bins", terminal.pairs("--bins", bins))
    _put(rule, "merge", [each.split("|") for each in merge] if merge else None)
    _put(changes, "groups", rule or None)
    splitting: dict[str, Any] = {}
    if split is not None:
        splitting["column"] = None if split == "none" else split
    _put(splitting, "words", terminal.pairs("--split-word", split_word))
    _put(splitting, "train", train_share)
    _put(splitting, "validation", validation_share)
    _put(splitting, "heldout", heldout)
    _put(splitting, "target", target)
    _put(splitting, "seed", split_seed)
    _put(changes, "split", splitting or None)
    plan = make_plan(
        name=name or "preview",
        title=title,
        reader=reader,
        settings={**({"path": path} if path else {}), **terminal.pairs("--set", settings)},
        roles=changes,
        backbone={
            "name": backbone,
            "checkpoint": checkpoint,
            "weights": weights,
            "layer": layer,
            "trust": trust,
            "arguments": terminal.pairs("--factory", factory),
            "overrides": terminal.pairs("--preprocess", preprocess),
        }
        if backbone
        else None,
        training={"preset": preset, "settings": terminal.pairs("--train-set", train_settings)}
        if preset
        else None,
        extraction={
            "device": device,
            "batch_size": batch_size,
            "workers": workers,
            "precision": precision,
            "on_bad": bad,
            "engine": engine,
            "address": address,
            "actors": actors,
        },
    )
    if preview:
        _report_preview(plan, as_json)
        return
    if not name:
        terminal.fail("the bundle needs a name; give --name, or --preview to look first")
    if not backbone and (checkpoint or weights or layer or preset):
        terminal.fail(
            "--checkpoint, --weights, --layer and --train belong to a --backbone; name it"
        )
    with terminal.progress(f"Importing {name}") as report:
        bundle = import_data(
            terminal.open_workspace(workspace), plan, overwrite=overwrite, progress=report
        )
    report_bundle(bundle, as_json)


def _put(values: dict[str, Any], name: str, value: Any) -> None:
    """Keep what was given on the command line; empty lists and dicts were not."""
    if value is not None and value not in ([], {}):
        values[name] = value


def _report_preview(plan: Plan, as_json: bool) -> None:
    """Say what a plan would import: roles, sizes of groups, notes."""
    from gsr_core.ingest.read import preview

    found = preview(plan)
    if as_json:
        terminal.print_json(found)
        return
    roles = found["roles"]
    split = roles["split"]["column"] or "drawn"
    print(f"{found['rows']:,} rows; label {roles['label']}, split {split}")
    table = terminal.table("group", *found["splits"], "who belongs")
    for group in found["groups"]:
        counts = [f"{group['counts'][split]:,}" for split in found["splits"]]
        table.add_row(group["name"], *counts, group["definition"])
    terminal.console().print(table)
    for note in found["notes"]:
        print(f"note: {note}", file=sys.stderr)
    for small, other in found["proposed_merges"]:
        print(f"proposal: --merge '{small}|{other}'", file=sys.stderr)
