"""`gsr demo`, `gsr train`, `gsr bundles` and `gsr readers`."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from gsr_core.cli import terminal
from gsr_core.cli.terminal import DeviceOption, JsonOption, WorkspaceOption

__all__ = [
    "OverwriteOption",
    "TrustOption",
    "bundles",
    "demo",
    "readers",
    "report_bundle",
    "train",
]


OverwriteOption = Annotated[bool, typer.Option(help="Replace a bundle of that name.")]
TrustOption = Annotated[
    bool, typer.Option("--trust", help="Load a file or factory that runs code of its own.")
]


def demo(
    workspace: WorkspaceOption = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Decides splits, colours and network.")
    ] = 0,
    name: Annotated[
        str,
        typer.Option(
            help="Name of the bundle; coloured-digits, or captioned-digits with --captions.",
            show_default=False,
        ),
    ] = "",
    captions: Annotated[
        bool,
        typer.Option(
            "--captions",
            help="See the digits by a small network of images and texts, so that phrases find "
            "samples ('gsr search').",
        ),
    ] = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Prepare the built-in example, Coloured digits, as a bundle."""
    from gsr_core.captioned import captioned_digits, seed_of
    from gsr_core.data.bundle import open_bundle
    from gsr_core.errors import BundleNotFoundError
    from gsr_core.examples import CONFLICTING, coloured_digits, settings_of

    place = terminal.open_workspace(workspace)
    make = captioned_digits if captions else coloured_digits
    name = name or ("captioned-digits" if captions else "coloured-digits")
    try:
        bundle = None if overwrite else open_bundle(place, name)
    except BundleNotFoundError:
        bundle = None
    there = bundle and ((seed_of(bundle), CONFLICTING) if captions else settings_of(bundle))
    if bundle is not None and there != (seed, CONFLICTING):
        terminal.fail(
            f"bundle '{name}' exists already and is not the example of seed {seed}, but from "
            f"{bundle.manifest.source}; choose another name with --name or replace it with "
            "--overwrite"
        )
    if bundle is None:
        # Fails now rather than after the training, if the workspace cannot be written.
        place.bundles.mkdir(parents=True, exist_ok=True)
        with terminal.progress("Preparing the example") as report:
            bundle = make(place, seed=seed, name=name, overwrite=overwrite, progress=report)
    report_bundle(bundle, as_json)


def train(
    bundle: Annotated[
        str,
        typer.Argument(help="A bundle made by 'gsr import'; its inputs are read again."),
    ],
    backbone: Annotated[
        str,
        typer.Option(help="Network to train, such as torchvision:resnet50.", show_default=False),
    ],
    name: Annotated[str, typer.Option(help="Name of the new bundle.", show_default=False)],
    preset: Annotated[
        str, typer.Option(help="Settings to begin with; see docs/data.md.")
    ] = "quick",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting that differs; repeatable."),
    ] = None,
    weights: Annotated[
        str, typer.Option(help="Named weights to begin with.", show_default=False)
    ] = "",
    checkpoint: Annotated[
        str, typer.Option(help="State dict to begin with.", show_default=False)
    ] = "",
    trust: TrustOption = False,
    device: DeviceOption = "auto",
    workspace: WorkspaceOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a network on a bundle's train rows by ERM, and import the data again with it."""
    from gsr_core.data.bundle import open_bundle
    from gsr_core.ingest.importing import import_data
    from gsr_core.ingest.plan import make_plan, plan_of

    place = terminal.open_workspace(workspace)
    before = plan_of(open_bundle(place, bundle))
    plan = make_plan(
        **{
            **before.model_dump(mode="json"),
            "name": name,
            "title": "",
            "backbone": {
                "name": backbone,
                "weights": weights,
                "checkpoint": checkpoint,
                "trust": trust,
            },
            "training": {"preset": preset, "settings": terminal.pairs("--set", settings)},
            "extraction": {**before.extraction.model_dump(), "device": device},
        }
    )
    with terminal.progress(f"Training {backbone}") as report:
        new = import_data(place, plan, overwrite=overwrite, progress=report)
    report_bundle(new, as_json)


def readers(
    name: Annotated[
        str, typer.Argument(help="One reader, with its settings.", show_default=False)
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """List what 'gsr import' can read, or show one reader with its settings."""
    from gsr_core.readers.registry import describe_readers, reader_class

    described = describe_readers()
    if name:
        reader_class(name)  # The sentence for a name that does not exist.
        described = [each for each in described if each["name"] == name]
    if as_json:
        terminal.print_json({"readers": described})
        return
    if name:
        _show_reader(described[0])
        return
    table = terminal.table("reader", "needs", "reads")
    # Otherwise the sentences push the names out of the terminal.
    table.columns[-1].no_wrap = False
    for each in described:
        table.add_row(each["name"], each["extra"] or "", each["summary"])
    terminal.console().print(table)
    print("settings of a reader: gsr readers NAME", file=sys.stderr)


def _show_reader(reader: dict[str, Any]) -> None:
    """Print what a reader reads and what can be set."""
    print(f"{reader['title']}\n{reader['summary']}\nPATH is {reader['path']}")
    if reader["extra"]:
        print(f"needs: pip install 'gsr-core[{reader['extra']}]'")
    table = terminal.table("setting", "default", "allowed", "what it is")
    table.columns[-1].no_wrap = False
    for each in reader["settings"]:
        allowed = ["true", "false"] if each["type"] == "boolean" else each["allowed"]
        words = {"array": "names, separated by commas"}.get(each["type"], each["type"])
        default = "" if each["default"] in ("", [], None) else str(each["default"])
        table.add_row(each["name"], default, ", ".join(allowed or [words]), each["help"])
    if reader["settings"]:
        terminal.console().print(table)
        print(f"set one with: gsr import {reader['name']} PATH --name NAME --set KEY=VALUE")


def bundles(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """List the bundles of the workspace."""
    from gsr_core.data.bundle import list_bundles

    manifests = [bundle.manifest for bundle in list_bundles(terminal.open_workspace(workspace))]
    if as_json:
        terminal.print_json(
            {"bundles": [manifest.model_dump(mode="json") for manifest in manifests]}
        )
        return
    if not manifests:
        print("no bundles yet; make the example with 'gsr demo'", file=sys.stderr)
        return
    table = terminal.table("bundle", "title", "rows", "features", "classes", "groups")
    for manifest in manifests:
        table.add_row(
            manifest.name,
            manifest.title,
            f"{sum(manifest.split_sizes.values()):,}",
            str(manifest.n_features),
            str(len(manifest.classes)),
            str(len(manifest.groups)),
        )
    terminal.console().print(table)


def report_bundle(bundle: Any, as_json: bool) -> None:
    """Print a bundle's sizes and notes."""
    manifest = bundle.manifest
    if as_json:
        terminal.print_json({"bundle_dir": str(bundle.path), **manifest.model_dump(mode="json")})
        return
    sizes = ", ".join(f"{split} {size:,}" for split, size in manifest.split_sizes.items())
    print(
        f"{manifest.name}: {sizes}; {manifest.n_features} features, {len(manifest.groups)} groups"
    )
    for note in manifest.notes:
        print(f"note: {terminal.visible(note)}", file=sys.stderr)
