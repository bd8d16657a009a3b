"""`gsr import`: from a user's files to a bundle."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gsr_core.cli import terminal
from gsr_core.cli.bundles import OverwriteOption, TrustOption, report_bundle
from gsr_core.cli.terminal import DeviceOption, JsonOption, WorkspaceOption
from gsr_core.errors import GsrError

if TYPE_CHECKING:
    from gsr_core.ingest.plan import Plan

__all__ = ["import_"]

# The data and the bundle.
ReaderArgument = Annotated[
    str, typer.Argument(help="What the data are; 'gsr readers' lists all.", show_default=False)
]
PathArgument = Annotated[
    str, typer.Argument(help="File, folder or name of the data.", show_default=False)
]
NameOption = Annotated[str, typer.Option(help="Name of the bundle.", show_default=False)]
TitleOption = Annotated[str, typer.Option(help="Name for people.", show_default=False)]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the reader; repeatable."),
]

# Columns.
LabelOption = Annotated[str | None, typer.Option(help="Column of the class.")]
SampleIdOption = Annotated[
    str | None, typer.Option(help="Column of unique names; '' numbers the rows.")
]
AttributeOption = Annotated[
    list[str] | None,
    typer.Option(help="Column to keep and to make groups of; repeatable, '' for none."),
]
GroupByOption = Annotated[
    list[str] | None,
    typer.Option(help="Column of the groups, if not every attribute; repeatable, '' for none."),
]

# Groups.
GroupsOption = Annotated[
    str | None, typer.Option(help="crossed, overlapping (one flag a column) or named.")
]
ClassInGroupsOption = Annotated[
    bool | None,
    typer.Option("--class-in-groups/--no-class-in-groups", help="Cross groups with the class."),
]
BinsOption = Annotated[
    list[str] | None,
    typer.Option(metavar="COLUMN=N", help="Cut a numeric column into N quantile bins."),
]
MergeOption = Annotated[
    list[str] | None,
    typer.Option(metavar="'A|B'", help="Make groups one, by name; repeatable."),
]

# Splits.
SplitOption = Annotated[
    str | None, typer.Option(help="Column of the split; 'none' draws splits instead.")
]
SplitWordOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="VALUE=SPLIT",
        help="What a value of that column means: train, validation, test, heldout, target, "
        "val or none.",
    ),
]
TrainShareOption = Annotated[
    float | None, typer.Option(help="Share of train where splits are drawn; 0.6 by default.")
]
ValidationShareOption = Annotated[
    float | None,
    typer.Option(help="Share of validation where it is drawn; 0.2 by default."),
]
HeldoutOption = Annotated[
    float | None, typer.Option(help="Share of train that carries the weights; 0.1 by default.")
]
TargetOption = Annotated[
    float | None, typer.Option(help="Share of validation for target; 0.5 by default.")
]
SplitSeedOption = Annotated[int | None, typer.Option(help="Seed of all draws of splits.")]

# The network and its training.
BackboneOption = Annotated[
    str, typer.Option(help="Trained network, such as torchvision:resnet50.", show_default=False)
]
CheckpointOption = Annotated[
    str, typer.Option(help="Its state dict, or the exported program.", show_default=False)
]
WeightsOption = Annotated[
    str, typer.Option(help="Named weights of the network's library.", show_default=False)
]
LayerOption = Annotated[
    str, typer.Option(help="Linear layer before which to cut.", show_default=False)
]
FactoryOption = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Argument of an own: factory; repeatable."),
]
PreprocessOption = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Preprocessing that differs, such as image_size=160."),
]
PresetOption = Annotated[
    str,
    typer.Option(
        "--train",
        metavar="PRESET",
        help="Train the network on train first.",
        show_default=False,
    ),
]
TrainSettingsOption = Annotated[
    list[str] | None,
    typer.Option("--train-set", metavar="KEY=VALUE", help="A setting of the training."),
]

# The extraction of features.
BatchSizeOption = Annotated[int, typer.Option(min=1, help="Inputs a forward pass.")]
WorkersOption = Annotated[
    int | None, typer.Option(min=0, help="Processes that read and prepare inputs.")
]
PrecisionOption = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
BadOption = Annotated[str, typer.Option(help="An input that cannot be read: stop, or skip it.")]
EngineOption = Annotated[str, typer.Option(help="local or ray.")]
AddressOption = Annotated[str, typer.Option(help="Of the Ray cluster.")]
ActorsOption = Annotated[int, typer.Option(min=1, help="Actors on the Ray cluster.")]
PreviewOption = Annotated[bool, typer.Option("--preview", help="Only say what would be imported.")]


def import_(
    reader: ReaderArgument,
    path: PathArgument = "",
    name: NameOption = "",
    title: TitleOption = "",
    settings: SettingsOption = None,
    label: LabelOption = None,
    sample_id: SampleIdOption = None,
    attribute: AttributeOption = None,
    group_by: GroupByOption = None,
    groups: GroupsOption = None,
    class_in_groups: ClassInGroupsOption = None,
    bins: BinsOption = None,
    merge: MergeOption = None,
    split: SplitOption = None,
    split_word: SplitWordOption = None,
    train_share: TrainShareOption = None,
    validation_share: ValidationShareOption = None,
    heldout: HeldoutOption = None,
    target: TargetOption = None,
    split_seed: SplitSeedOption = None,
    backbone: BackboneOption = "",
    checkpoint: CheckpointOption = "",
    weights: WeightsOption = "",
    layer: LayerOption = "",
    trust: TrustOption = False,
    factory: FactoryOption = None,
    preprocess: PreprocessOption = None,
    preset: PresetOption = "",
    train_settings: TrainSettingsOption = None,
    device: DeviceOption = "auto",
    batch_size: BatchSizeOption = 64,
    workers: WorkersOption = None,
    precision: PrecisionOption = "auto",
    bad: BadOption = "stop",
    engine: EngineOption = "local",
    address: AddressOption = "auto",
    actors: ActorsOption = 2,
    preview: PreviewOption = False,
    workspace: WorkspaceOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Import data as a bundle: read, define groups and splits, extract features."""
    from gsr_core.ingest.importing import import_data
    from gsr_core.ingest.plan import make_plan

    plan = make_plan(
        name=name or "preview",
        title=title,
        reader=reader,
        settings={**({"path": path} if path else {}), **terminal.pairs("--set", settings)},
        roles=_given(
            label=label,
            sample_id=_column(sample_id, none=""),
            attributes=_columns(attribute),
            groups=_given(
                kind=groups,
                columns=_columns(group_by),
                with_class=class_in_groups,
                bins=terminal.pairs("--bins", bins),
                merge=[names.split("|") for names in merge] if merge else None,
            ),
            split=_given(
                column=_column(split, none="none"),
                words=terminal.pairs("--split-word", split_word),
                train=train_share,
                validation=validation_share,
                heldout=heldout,
                target=target,
                seed=split_seed,
            ),
        ),
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
    if plan.training is not None:
        _warn_of_crop(plan)
    with terminal.progress(f"Importing {name}") as report:
        bundle = import_data(
            terminal.open_workspace(workspace), plan, overwrite=overwrite, progress=report
        )
    report_bundle(bundle, as_json)


_NO_COLUMN = object()
"""The option says that there is no such column, which is not the same as leaving it out."""


def _given(**values: Any) -> dict[str, Any]:
    """Return the values of the options that the user wrote; None and {} are options left out."""
    return {
        name: None if value is _NO_COLUMN else value
        for name, value in values.items()
        if value is not None and value != {}
    }


def _column(name: str | None, *, none: str) -> object:
    return _NO_COLUMN if name == none else name


def _columns(names: list[str] | None) -> list[str] | None:
    """Return the columns of a repeatable option, of which a single '' means none."""
    return [name for name in names if name] if names else None


def _warn_of_crop(plan: Plan) -> None:
    """Say before a long training that the network would see only a part of the images."""
    from gsr_core.ingest.read import read
    from gsr_core.ingest.sight import crop_warning, image_preprocessing

    assert plan.backbone is not None
    # What is wrong with the plan is said by the import itself.
    with suppress(GsrError):
        inputs = read(plan)[0].inputs
        preprocessing = image_preprocessing(plan.backbone) if inputs.modality == "image" else None
        if preprocessing and (warning := crop_warning(preprocessing, inputs)):
            print(f"warning: {terminal.visible(warning)}", file=sys.stderr)


def _report_preview(plan: Plan, as_json: bool) -> None:
    """Print what a plan would import: roles, sizes of groups, notes."""
    from gsr_core.ingest.read import preview, read
    from gsr_core.ingest.sight import crop_warning, image_preprocessing

    source = read(plan)[0]
    content = preview(plan, source)
    if plan.backbone is not None and content["modality"] == "image":
        preprocessing = image_preprocessing(plan.backbone, load=True)
        if preprocessing and (warning := crop_warning(preprocessing, source.inputs)):
            content["warnings"] = [*content["warnings"], warning]
    if as_json:
        terminal.print_json(content)
        return
    roles = content["roles"]
    split = roles["split"]["column"] or "drawn"
    label = terminal.visible(roles["label"])
    names = roles["sample_id"] or "row numbers"
    print(f"{content['rows']:,} rows: {terminal.visible(source.origin)}")
    print(f"label {label}, split {terminal.visible(split)}, ids {terminal.visible(names)}")
    table = terminal.table("group", *content["splits"], "who belongs")
    for group in content["groups"]:
        counts = [f"{group['counts'][split]:,}" for split in content["splits"]]
        table.add_row(group["name"], *counts, group["definition"])
    terminal.console().print(table)
    for warning in content["warnings"]:
        print(f"warning: {terminal.visible(warning)}", file=sys.stderr)
    for note in content["notes"]:
        print(f"note: {terminal.visible(note)}", file=sys.stderr)
    for merge in content["proposed_merges"]:
        print(f"proposal: --merge '{terminal.visible('|'.join(merge))}'", file=sys.stderr)
    if content["refusal"]:
        terminal.fail(f"the import would stop: {content['refusal']}")
