"""The command line: `gsr`.

Results go to stdout, progress and messages to stderr. Exit status 0 is success, 2 a bad input
with one line that says what to do, 1 a run that failed or was cancelled. Everything heavy is
imported inside the commands, so that `gsr --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gsr_core import cli_cluster, cli_compare, cli_slices, cli_study, cli_sweep, terminal
from gsr_core.errors import GsrError
from gsr_core.terminal import DeviceOption, JsonOption, WorkspaceOption

if TYPE_CHECKING:
    from gsr_core.ingest import Plan
    from gsr_core.methods.fit import Monitor
    from gsr_core.runs.store import Run

__all__ = ["app", "main"]

app = typer.Typer(
    name="gsr",
    help="Find, explain and repair the subgroup your classifier fails on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain help: drawing it with rich takes longer than everything else together.
    rich_markup_mode=None,
)

OverwriteOption = Annotated[bool, typer.Option(help="Replace a bundle of that name.")]


def main() -> None:
    """Run the command line; a `GsrError` is one line on stderr and exit status 2."""
    try:
        app(prog_name="gsr")
    except GsrError as error:
        terminal.fail(str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        terminal.fail(
            f"{where}{error.strerror or error}; check the path, its permissions and the disk"
        )


@app.command()
def demo(
    workspace: WorkspaceOption = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Decides splits, colours and network.")
    ] = 0,
    name: Annotated[str, typer.Option(help="Name of the bundle.")] = "coloured-digits",
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Prepare the built-in example, Coloured digits, as a bundle."""
    from gsr_core.data.bundle import open_bundle
    from gsr_core.errors import BundleNotFoundError
    from gsr_core.examples import SOURCE, coloured_digits

    place = terminal.open_workspace(workspace)
    try:
        bundle = None if overwrite else open_bundle(place, name)
    except BundleNotFoundError:
        bundle = None
    if bundle is not None and bundle.manifest.source != SOURCE.format(seed=seed):
        terminal.fail(
            f"bundle '{name}' exists already and is not the example of seed {seed}, but from "
            f"{bundle.manifest.source}; choose another name with --name or replace it with "
            "--overwrite"
        )
    if bundle is None:
        # Fails now rather than after the training, if the workspace cannot be written.
        place.bundles.mkdir(parents=True, exist_ok=True)
        with terminal.progress("Preparing the example") as report:
            bundle = coloured_digits(
                place, seed=seed, name=name, overwrite=overwrite, progress=report
            )
    _report_bundle(bundle, as_json)


@app.command("import")
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
    from gsr_core.ingest import import_data, make_plan

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
    _report_bundle(bundle, as_json)


@app.command()
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
    trust: Annotated[
        bool, typer.Option("--trust", help="Load a file or factory that runs code of its own.")
    ] = False,
    device: DeviceOption = "auto",
    workspace: WorkspaceOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a network on a bundle's train rows by ERM, and import the data again with it."""
    from gsr_core.data.bundle import open_bundle
    from gsr_core.ingest import import_data, make_plan, plan_of

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
        made = import_data(place, plan, overwrite=overwrite, progress=report)
    _report_bundle(made, as_json)


@app.command()
def readers(as_json: JsonOption = False) -> None:
    """List what 'gsr import' can read, with each reader's settings."""
    from gsr_core.readers.registry import describe_readers

    found = describe_readers()
    if as_json:
        terminal.print_json({"readers": found})
        return
    table = terminal.table("reader", "reads", "needs")
    for each in found:
        table.add_row(each["name"], each["summary"], each["extra"] or "")
    terminal.console().print(table)
    print("settings of a reader: gsr readers --json, or docs/data.md", file=sys.stderr)


@app.command()
def run(
    bundle: Annotated[
        str, typer.Argument(help="Name of a bundle, or path of its directory.", show_default=False)
    ],
    method: Annotated[str, typer.Option(help="What to run; 'gsr methods' lists all.")] = "gsr",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the method; repeatable."),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="0: the bundle's own target/val split; else redrawn.")
    ] = 0,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Run once for each of so many seeds, from --seed on."),
    ] = None,
    device: DeviceOption = "auto",
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a method on a bundle and keep the result."""
    from gsr_core.methods.registry import make_method
    from gsr_core.runs.store import create_run

    place = terminal.open_workspace(workspace)
    values = terminal.pairs("--set", settings)
    if seeds is not None:
        if "seed" in values:
            terminal.fail("--seeds counts from --seed; give that instead of --set seed")
        # The last seed first, so that one that is too large leaves no runs of the others behind.
        make_method(method, {**values, "seed": seed + seeds - 1})
        _execute_seeds(
            [
                create_run(place, bundle, method, {**values, "seed": seed + k}, device=device)
                for k in range(seeds)
            ],
            as_json,
        )
        return
    if seed and "seed" in values and values["seed"] != str(seed):
        terminal.fail(f"--seed is {seed} but --set seed={values['seed']}; give one of them")
    made = create_run(
        place, bundle, method, {**({"seed": seed} if seed else {}), **values}, device=device
    )
    _execute(made, as_json)


@app.command("continue")
def continue_(
    run_id: Annotated[str, typer.Argument(help="A run, or the beginning of its name.")],
    steps: Annotated[int, typer.Option(min=1, help="The new total of steps.")],
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Continue a run to more steps, as if it had been one long run."""
    from gsr_core.runs.execute import continue_run
    from gsr_core.runs.store import open_run

    made = open_run(terminal.open_workspace(workspace), run_id)
    continue_run(made, steps)
    _execute(made, as_json)


@app.command()
def cancel(
    run_id: Annotated[str, typer.Argument(help="A run, or the beginning of its name.")],
    workspace: WorkspaceOption = None,
) -> None:
    """Ask a run to stop after its current step. What it has done is kept."""
    from gsr_core.runs.store import open_run

    made = open_run(terminal.open_workspace(workspace), run_id)
    if made.state.active:
        made.request_cancel()
        print(f"asked {made.run_id} to stop", file=sys.stderr)
    else:
        print(f"{made.run_id} is {made.state.status} already", file=sys.stderr)


app.command("methods")(cli_compare.methods)
app.command("compare")(cli_compare.compare)
app.command("study")(cli_study.study)
app.command("sweep")(cli_sweep.sweep)
app.command("cluster")(cli_cluster.cluster)
app.command("slices")(cli_slices.slices)
app.command("flags")(cli_slices.flags)


@app.command()
def runs(
    every: Annotated[bool, typer.Option("--all", help="Also those that studies made.")] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the runs of the workspace, newest first."""
    from gsr_core.runs.store import list_runs
    from gsr_core.runs.summary import headline

    rows = []
    for each in list_runs(terminal.open_workspace(workspace)):
        config, state = each.config, each.state
        if config.part_of and not every:
            continue
        rows.append(
            {
                "run_id": each.run_id,
                "status": str(state.status),
                "method": config.method,
                "bundle": config.bundle,
                "seed": config.seed,
                "step": state.step,
                "steps": state.steps,
                "best_step": state.best_step,
                "test": terminal.finite(headline(each)),
            }
        )
    if as_json:
        terminal.print_json({"runs": rows})
        return
    if not rows:
        print("no runs yet; start one with 'gsr run BUNDLE'", file=sys.stderr)
        return
    table = terminal.table(
        "run", "status", "bundle", "seed", "steps", "best", "worst group", "mean"
    )
    for row in rows:
        table.add_row(
            row["run_id"],
            row["status"],
            row["bundle"],
            str(row["seed"]),
            f"{row['step']}/{row['steps']}",
            str(row["best_step"]),
            terminal.percent(row["test"]["worst_group_accuracy"]),
            terminal.percent(row["test"]["mean_accuracy"]),
        )
    terminal.console().print(table)
    print("worst group and mean: test accuracy at the best step", file=sys.stderr)


@app.command()
def bundles(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """List the bundles of the workspace."""
    from gsr_core.data.bundle import list_bundles

    found = [bundle.manifest for bundle in list_bundles(terminal.open_workspace(workspace))]
    if as_json:
        terminal.print_json({"bundles": [manifest.model_dump(mode="json") for manifest in found]})
        return
    if not found:
        print("no bundles yet; make the example with 'gsr demo'", file=sys.stderr)
        return
    table = terminal.table("bundle", "title", "rows", "features", "classes", "groups")
    for manifest in found:
        table.add_row(
            manifest.name,
            manifest.title,
            f"{sum(manifest.split_sizes.values()):,}",
            str(manifest.n_features),
            str(len(manifest.classes)),
            str(len(manifest.groups)),
        )
    terminal.console().print(table)


@app.command()
def show(
    run_id: Annotated[str, typer.Argument(help="A run, or the beginning of its name.")],
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a run: settings, state and accuracy of every group."""
    from gsr_core.runs.store import open_run

    _report_run(open_run(terminal.open_workspace(workspace), run_id), as_json)


@app.command()
def export(
    run_id: Annotated[str, typer.Argument(help="A run, or the beginning of its name.")],
    to: Annotated[Path, typer.Option("--to", help="A new directory.", show_default=False)],
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a run's head, weights, metrics and summary elsewhere."""
    from gsr_core.runs.export import export_run
    from gsr_core.runs.store import open_run

    files = export_run(open_run(terminal.open_workspace(workspace), run_id), to)
    if as_json:
        terminal.print_json({"directory": str(to.resolve()), "files": files})
    else:
        print(f"{to}: {', '.join(files)}")


@app.command("app")
def app_(
    workspace: WorkspaceOption = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 8501,
    address: Annotated[
        str, typer.Option(help="Address to listen on; the dashboard has no passwords.")
    ] = "127.0.0.1",
    headless: Annotated[bool, typer.Option(help="Do not open a browser.")] = False,
    example: Annotated[
        bool, typer.Option("--demo", help="Prepare the built-in example first, if it is missing.")
    ] = False,
) -> None:
    """Open the dashboard in a browser."""
    place = terminal.open_workspace(workspace)
    if example:
        from gsr_core.data.bundle import list_bundles

        if "coloured-digits" not in [bundle.name for bundle in list_bundles(place)]:
            demo(workspace=place.root)
    if address not in ("127.0.0.1", "localhost", "::1"):
        print(
            f"gsr: listening on {address}: anybody who reaches it can see your data and start "
            "runs; see docs/dashboard.md",
            file=sys.stderr,
        )
    # An installed wheel carries the dashboard inside the package; a checkout has it on top.
    package = Path(__file__).resolve().parent
    script = next(
        (
            folder / "app.py"
            for folder in (package / "_dashboard", package.parent)
            if (folder / "app.py").is_file()
        ),
        None,
    )
    if script is None:
        terminal.fail("the dashboard's files are missing; install gsr-core again")
    command = [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        str(script),
        f"--server.port={port}",
        f"--server.address={address}",
        f"--server.headless={str(headless).lower()}",
    ]
    os.environ["GSR_WORKSPACE"] = str(place.root)
    sys.stdout.flush()
    os.execv(sys.executable, command)


# What the commands share ---------------------------------------------------------------------


def _put(values: dict[str, Any], name: str, value: Any) -> None:
    """Keep what was given on the command line; empty lists and dicts were not."""
    if value is not None and value not in ([], {}):
        values[name] = value


def _report_preview(plan: Plan, as_json: bool) -> None:
    """Say what a plan would import: roles, sizes of groups, notes."""
    from gsr_core.ingest import preview

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


def _execute(made: Run, as_json: bool) -> None:
    """Compute a run with a progress bar, report it, and exit 1 unless it finished."""
    finished = _compute(made, f"{made.config.method} on {made.config.bundle}")
    if made.state.step:
        _report_run(made, as_json)
    if not finished:
        sys.exit(1)


def _execute_seeds(made: list[Run], as_json: bool) -> None:
    """Compute the runs of several seeds, report them together, and exit 1 unless all finished.

    Raises:
        KeyboardInterrupt: If that came before a first step; the runs that wait are cancelled.
    """
    done: list[Run] = []
    try:
        for run in made:
            config = run.config
            finished = _compute(run, f"{config.method} on {config.bundle}, seed {config.seed}")
            if not finished:
                break
            done.append(run)
    finally:
        # Left waiting, they would be computed by the next worker.
        for run in made:
            if run.state.active:
                run.request_cancel()
    if done:
        _report_seeds(done, as_json)
    if len(done) < len(made):
        sys.exit(1)


def _compute(made: Run, title: str) -> bool:
    """Compute a run with a progress bar; return whether it finished, and say why if not.

    Raises:
        KeyboardInterrupt: If that came before the first step; the run is cancelled then.
    """
    try:
        from gsr_core.methods.fit import Status
        from gsr_core.runs.execute import execute

        with terminal.progress(title) as report:
            state = execute(made, monitor=_follow(report))
    except KeyboardInterrupt:
        # Before the first step: left waiting, it would be computed by the next worker.
        made.request_cancel()
        raise
    finished = state.status is Status.FINISHED
    if not finished:
        print(f"gsr: run {made.run_id} {state.status}: {state.message}", file=sys.stderr)
    return finished


def _follow(report: Callable[[float, str], None]) -> Monitor:
    from gsr_core.methods.fit import Progress

    def monitor(progress: Progress) -> None:
        values = {record[3]: record[4] for record in progress.records if record[1:3] == ("val", "")}
        report(
            progress.step_index / progress.steps,
            f"step {progress.step_index}/{progress.steps}, worst group of val "
            f"{values['worst_group_accuracy']:.1%}",
        )

    return monitor


def _report_bundle(bundle: Any, as_json: bool) -> None:
    manifest = bundle.manifest
    if as_json:
        terminal.print_json({"bundle_dir": str(bundle.path), **manifest.model_dump(mode="json")})
        return
    sizes = ", ".join(f"{split} {size:,}" for split, size in manifest.split_sizes.items())
    print(
        f"{manifest.name}: {sizes}; {manifest.n_features} features, {len(manifest.groups)} groups"
    )
    for note in manifest.notes:
        print(f"note: {note}", file=sys.stderr)


def _report_seeds(done: list[Run], as_json: bool) -> None:
    """Print the outcome of each seed and their mean."""
    from gsr_core.cli_compare import spread
    from gsr_core.runs.compare import entries
    from gsr_core.runs.comparison import comparison
    from gsr_core.runs.summary import AVERAGES, summarise

    found = entries(done)
    (entry,) = comparison(found, found[0])["entries"]
    if as_json:
        terminal.print_json({"runs": [summarise(run) for run in done], "entry": entry})
        return
    table = terminal.table("run", "seed", *(name.replace("_", " ") for name in AVERAGES))
    for place, (run_id, seed) in enumerate(zip(entry["runs"], entry["seeds"], strict=True)):
        shares = (entry[name]["by_seed"][place] for name in AVERAGES)
        table.add_row(run_id, str(seed), *map(terminal.percent, shares))
    table.add_row("all seeds", "", *(spread(entry[name]) for name in AVERAGES))
    terminal.console().print(table)
    print("accuracies on test at the kept step; ± is one sd over seeds", file=sys.stderr)


def _report_run(made: Run, as_json: bool) -> None:
    from gsr_core.runs.summary import AVERAGES, summarise

    summary = summarise(made)
    if as_json:
        terminal.print_json(summary)
        return
    print(
        f"{summary['run_id']}: {summary['status']}, kept step {summary['best_step']} of "
        f"{summary['steps']}, {summary['seconds']:.1f} s on {summary['device']}"
    )
    for text in (summary["message"], summary["note"]):
        if text:
            print(text)
    if summary["unsolved_steps"]:
        print(
            f"The fits of {summary['unsolved_steps']} steps did not reach a relative gradient norm "
            "of 1e-8; a larger l2 helps."
        )
    if summary["test"] is None:
        return
    table = terminal.table("", "val", "test", "n (test)")
    for name in AVERAGES:
        table.add_row(
            name.replace("_", " "),
            terminal.percent(summary["val"][name]),
            terminal.percent(summary["test"][name]),
            "",
        )
    for val, test in zip(summary["val"]["groups"], summary["test"]["groups"], strict=True):
        table.add_row(
            f"  {test['group']}",
            terminal.percent(val["accuracy"]),
            terminal.percent(test["accuracy"]),
            str(test["n"]),
        )
    terminal.console().print(table)


if __name__ == "__main__":
    main()
