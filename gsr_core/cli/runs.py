"""What concerns runs: `gsr run`, `gsr continue`, `gsr show`, `gsr influence` and others.

The module is long because it has many commands, which share how a run is computed and reported.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gsr_core.cli import terminal
from gsr_core.cli.audit import AverageOption, CostOption, TradeOption
from gsr_core.cli.bundles import OverwriteOption
from gsr_core.cli.terminal import DeviceOption, JsonOption, WorkspaceOption
from gsr_core.errors import DiskFullError
from gsr_core.progress import Report

if TYPE_CHECKING:
    from gsr_core.methods.monitor import Monitor
    from gsr_core.runs.store import Run
    from gsr_core.workspace import Workspace

__all__ = [
    "cancel",
    "continue_",
    "delete",
    "export",
    "features",
    "influence",
    "merge",
    "rename",
    "run",
    "runs",
    "show",
]


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
    seen_groups: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ATTRIBUTE",
            help="Let the method see groups of class and this attribute, crossed where repeated; "
            "'class': the classes alone. It is judged by the bundle's groups, which it sees by "
            "default.",
        ),
    ] = None,
    device: DeviceOption = "auto",
    follow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PROGRAM",
            help="Show it in tensorboard, mlflow or wandb as it goes; repeatable.",
        ),
    ] = None,
    predict: Annotated[
        bool,
        typer.Option("--predict", help="Only say how long it would take, and how much memory."),
    ] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a method on a bundle and keep the result."""
    from gsr_core.methods.registry import make_method
    from gsr_core.runs.follow import check_followers
    from gsr_core.runs.store import create_run

    kinds = list(dict.fromkeys(follow or []))
    check_followers(kinds)
    place = terminal.open_workspace(workspace)
    values = terminal.pairs("--set", settings)
    if predict:
        _report_cost(place, bundle, method, values, seeds or 1, device, as_json)
        return
    variation = {"seen_groups": seen_groups} if seen_groups else {}
    if seeds is not None:
        if "seed" in values:
            terminal.fail("--seeds counts from --seed; give that instead of --set seed")
        # The last seed first, so that one that is too large is refused before a run is made.
        make_method(method, {**values, "seed": seed + seeds - 1})
        make = partial(create_run, place, bundle, method, device=device, variation=variation)
        waiting = _make_all(make, [{**values, "seed": seed + k} for k in range(seeds)])
        _execute_seeds(waiting, as_json, kinds)
        return
    if seed and "seed" in values and values["seed"] != str(seed):
        terminal.fail(f"--seed is {seed} but --set seed={values['seed']}; give one of them")
    new = create_run(
        *(place, bundle, method, {**({"seed": seed} if seed else {}), **values}),
        device=device,
        variation=variation,
    )
    _execute(new, as_json, kinds)


def _report_cost(
    place: Workspace,
    bundle: str,
    method: str,
    values: dict[str, str],
    count: int,
    device: str,
    as_json: bool,
) -> None:
    """Print what some runs would take."""
    from gsr_core.compute import pick
    from gsr_core.data.bundle import open_bundle
    from gsr_core.methods.registry import make_method
    from gsr_core.runs.expected import predict

    chosen = make_method(method, values)
    cost = predict(open_bundle(place, bundle), chosen, pick(device))
    if as_json:
        terminal.print_json(
            {
                "step_seconds": cost and cost.step_seconds,
                "steps": chosen.max_steps,
                "runs": count,
                "bytes": cost and cost.bytes,
                "streamed": cost and cost.streamed,
            }
        )
    elif cost is None:
        print(f"what {method} takes is not predicted")
    else:
        print(cost.in_words(count))


def influence(
    run_id: Annotated[str, typer.Argument(help="A run, or the beginning of its name.")],
    step: Annotated[
        int | None,
        typer.Option(min=1, help="One whose weights are stored; the kept one by default."),
    ] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compute the influence of each weight on each group at a step of a run, and keep it.

    Of a run that trained a network: of every row that was trained on, through all parameters.
    """
    from gsr_core.runs.influence import influence_at
    from gsr_core.runs.store import open_run

    opened = open_run(terminal.open_workspace(workspace), run_id)
    with opened.lock(), terminal.progress(f"influence in {opened.run_id}") as report:
        values = influence_at(opened, step, report)
        at = opened.state.best_step if step is None else step
    file = opened.influence_file(at)
    if as_json:
        terminal.print_json(
            {"run_id": opened.run_id, "step": at, "shape": values.shape, "file": str(file)}
        )
    else:
        n, m = values.shape
        print(f"step {at}: {n:,} rows by {m:,} groups, in {terminal.visible(str(file))}")


def features(
    run_id: Annotated[str, typer.Argument(help="A run, or the beginning of its name.")],
    name: Annotated[str, typer.Argument(help="Of the new bundle.", show_default=False)],
    overwrite: OverwriteOption = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a bundle of the features of a network that a run trained, to fit heads on top."""
    from gsr_core.runs.new_bundle import bundle_of_run
    from gsr_core.runs.store import open_run

    run = open_run(terminal.open_workspace(workspace), run_id)
    bundle, state = bundle_of_run(run, name, overwrite=overwrite), run.state
    n, d = bundle.features.shape
    if as_json:
        terminal.print_json({"bundle": bundle.name, "rows": n, "features": d})
    else:
        print(
            f"{bundle.name}: {n:,} rows of {d:,} features, of step {state.best_step} of a run that "
            f"is {state.status}; next: gsr run {bundle.name}"
        )


def continue_(
    run_id: Annotated[str, typer.Argument(help="A run, or the beginning of its name.")],
    steps: Annotated[int, typer.Option(min=1, help="The new total of steps.")],
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Continue a run to more steps, as if it had been one long run."""
    from gsr_core.runs.execute import continue_run
    from gsr_core.runs.store import open_run

    opened = open_run(terminal.open_workspace(workspace), run_id)
    continue_run(opened, steps)
    _execute(opened, as_json)


def cancel(
    run_id: Annotated[str, typer.Argument(help="A run, or the beginning of its name.")],
    workspace: WorkspaceOption = None,
) -> None:
    """Ask a run to stop after its current step. What it has done is kept."""
    from gsr_core.runs.store import open_run

    opened = open_run(terminal.open_workspace(workspace), run_id)
    if opened.state.active:
        opened.request_cancel()
        print(f"asked {opened.run_id} to stop", file=sys.stderr)
    else:
        print(f"{opened.run_id} is {opened.state.status} already", file=sys.stderr)


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
                "title": each.title,
                "status": str(state.status),
                "method": config.method,
                "bundle": config.bundle,
                "seed": config.seed,
                "step": state.step,
                "steps": state.steps,
                "best_step": state.best_step,
                "test": terminal.record(headline(each)),
            }
        )
    if as_json:
        terminal.print_json({"runs": rows})
        return
    if not rows:
        print("no runs yet; start one with 'gsr run BUNDLE'", file=sys.stderr)
        return
    table = terminal.table(
        "run", "name", "status", "bundle", "seed", "steps", "best", "worst group", "mean"
    )
    for row in rows:
        table.add_row(
            row["run_id"],
            row["title"] or "–",
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


def show(
    run_id: Annotated[str, typer.Argument(help="A run, or the beginning of its name.")],
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a run: settings, state and accuracy of every group."""
    from gsr_core.runs.store import open_run

    _report_run(open_run(terminal.open_workspace(workspace), run_id), as_json)


def export(
    run_id: Annotated[str, typer.Argument(help="A run, or the beginning of its name.")],
    to: Annotated[Path, typer.Option("--to", help="A new directory.", show_default=False)],
    trade: TradeOption = None,
    average: AverageOption = None,
    cost: CostOption = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a run's head, weights, predictions, metrics and summary, flags and slices elsewhere.

    With --trade or --cost the head has other offsets between its classes, chosen on val: those that
    'gsr audit' shows with the same options.
    """
    from gsr_core.curation.tables import curated
    from gsr_core.runs.export import export_run
    from gsr_core.runs.store import open_run

    if trade is not None and cost is not None:
        terminal.fail("--trade and --cost both choose offsets; give one of them")
    if average is not None and trade is None:
        terminal.fail("--average is what --trade weighs the worst group against; give that too")
    run = open_run(terminal.open_workspace(workspace), run_id)
    offset = None
    if trade is not None:
        from gsr_core.comparing.operating import operating_points

        chosen = average or "mean_accuracy"
        offset = operating_points(run, "val", trade=trade, average=chosen).by_class
    elif cost is not None:
        from gsr_core.comparing.thresholds import thresholds_of

        offset = thresholds_of(run, "val", cost=cost).by_class
    tables = curated(run.workspace, run.unchanged_bundle())
    files = export_run(run, to, offset=offset, tables=tables)
    if as_json:
        terminal.print_json({"directory": str(to.resolve()), "files": files})
    else:
        print(f"{terminal.visible(str(to))}: {', '.join(files)}")


def merge(
    run_id: Annotated[str, typer.Argument(help="A run, or the beginning of its name.")],
    to: Annotated[Path, typer.Option("--to", help="A new directory.", show_default=False)],
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a run's head back into its network, in the form of the network's own library."""
    from dataclasses import asdict

    from gsr_core.runs.merge import merge_run
    from gsr_core.runs.store import open_run

    merged = merge_run(open_run(terminal.open_workspace(workspace), run_id), to)
    if as_json:
        terminal.print_json({"directory": str(to.resolve()), **asdict(merged)})
        return
    print(f"{terminal.visible(str(to))}: {', '.join(merged.files)}")
    print(f"opened by {terminal.visible(merged.how)}")
    print(merged.check)


def rename(
    run_id: Annotated[str, typer.Argument(help="A run, or the beginning of its name.")],
    title: Annotated[str, typer.Argument(help="Its name for people; '' takes it away.")],
    workspace: WorkspaceOption = None,
) -> None:
    """Give a run a name for people; its id stays."""
    from gsr_core.runs.store import open_run
    from gsr_core.runs.summary import run_label

    run = open_run(terminal.open_workspace(workspace), run_id)
    run.rename(title)
    print(f"{run.run_id}: {run_label(run)}")


def delete(
    run_ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN...", help="Runs, or beginnings of their names.", show_default=False
        ),
    ] = None,
    bundle: Annotated[
        str, typer.Option(help="A bundle, and all runs on it.", show_default=False)
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Delete runs, or a bundle with the runs on it. What is being computed is refused."""
    from gsr_core.data.bundle import open_bundle
    from gsr_core.runs.removal import delete_bundle, delete_run, runs_on
    from gsr_core.runs.store import open_run

    place = terminal.open_workspace(workspace)
    if bool(run_ids) == bool(bundle):
        terminal.fail("name runs, or a bundle with --bundle; 'gsr runs' lists the runs")
    chosen = {run.run_id: run for run in (open_run(place, each) for each in run_ids or [])}
    what = ", ".join(chosen)
    if bundle:
        open_bundle(place, bundle)
        count = len(runs_on(place, bundle))
        what = f"bundle {bundle} and {count} run{'s' * (count != 1)} on it"
    if not yes:
        if not sys.stdin.isatty():
            terminal.fail(f"this deletes {what} for good; add --yes")
        typer.confirm(f"Delete {what} for good?", abort=True)
    if bundle:
        delete_bundle(place, bundle)
    else:
        for run in chosen.values():
            delete_run(run)
    print(f"deleted {what}")


def _execute(run: Run, as_json: bool, kinds: Sequence[str] = ()) -> None:
    """Compute a run with a progress bar, report it, and exit 1 unless it finished."""
    finished = _compute(run, f"{run.config.method} on {run.config.bundle}", kinds)
    if run.state.step:
        _report_run(run, as_json, said=not finished)
    if not finished:
        sys.exit(1)


def _make_all(make: Callable[..., Run], settings: Iterable[dict[str, Any]]) -> list[Run]:
    """Make a run for each of several settings, or none that waits.

    Raises:
        DiskFullError: If there is no room for all.
    """
    waiting: list[Run] = []
    try:
        for each in settings:
            waiting.append(make(settings=each))
    except DiskFullError:
        for run in waiting:
            with run.lock():
                run.give_up()
        raise
    return waiting


def _execute_seeds(waiting: list[Run], as_json: bool, kinds: Sequence[str]) -> None:
    """Compute the runs of several seeds, report them together, and exit 1 unless all finished.

    Raises:
        KeyboardInterrupt: If it came before a first step; the waiting runs are cancelled.
    """
    done: list[Run] = []
    try:
        for run in waiting:
            config = run.config
            title = f"{config.method} on {config.bundle}, seed {config.seed}"
            finished = _compute(run, title, kinds)
            if not finished:
                break
            done.append(run)
    finally:
        # Left waiting, they would be computed by the next worker.
        for run in waiting:
            if run.state.active:
                run.request_cancel()
    if done:
        _report_seeds(done, as_json)
    if len(done) < len(waiting):
        sys.exit(1)


def _compute(run: Run, title: str, kinds: Sequence[str]) -> bool:
    """Compute a run with a progress bar; return whether it finished, and say why if not.

    Args:
        run: It waits.
        title: Of the bar.
        kinds: What else follows it.

    Raises:
        KeyboardInterrupt: If it came before the first step; the run is cancelled.
    """
    try:
        from gsr_core.progress import Status
        from gsr_core.runs.execute import execute
        from gsr_core.runs.follow import follow, followed

        with terminal.progress(title) as report, ExitStack() as ending:
            followers = [ending.enter_context(follow(kind, run)) for kind in kinds]
            state = execute(run, monitor=_follow(report, followers), report=report)
        for kind in kinds:
            print(f"{kind}: {terminal.visible(str(followed(kind, run)))}", file=sys.stderr)
    except KeyboardInterrupt:
        # Before the first step: left waiting, it would be computed by the next worker.
        run.request_cancel()
        raise
    finished = state.status is Status.FINISHED
    if not finished:
        print(
            f"gsr: run {run.run_id} {state.status}: {terminal.visible(state.message)}",
            file=sys.stderr,
        )
        if 0 < state.step < state.steps:
            print(
                f"gsr: {state.step} of {state.steps} steps are kept; "
                f"'gsr continue {run.run_id} --steps {state.steps}' goes on",
                file=sys.stderr,
            )
    return finished


def _follow(report: Report, others: Sequence[Monitor]) -> Monitor:
    from gsr_core.methods.monitor import Progress

    def monitor(progress: Progress) -> None:
        report(
            progress.step_index / progress.steps,
            f"step {progress.step_index}/{progress.steps}, worst group of val "
            f"{progress.val['worst_group_accuracy']:.1%}",
        )
        for other in others:
            other(progress)

    return monitor


def _report_seeds(done: list[Run], as_json: bool) -> None:
    """Print the outcome of each seed and their mean."""
    from gsr_core.comparing.entries import entries
    from gsr_core.comparing.report import comparison
    from gsr_core.runs.summary import AVERAGES, summarise

    compared = entries(done)
    (entry,) = comparison(compared, compared[0])["entries"]
    if as_json:
        terminal.print_json({"runs": [summarise(run) for run in done], "entry": entry})
        return
    table = terminal.table("run", "seed", *(name.replace("_", " ") for name in AVERAGES))
    for place, (run_id, seed) in enumerate(zip(entry["runs"], entry["seeds"], strict=True)):
        shares = (entry[name]["by_seed"][place] for name in AVERAGES)
        table.add_row(run_id, str(seed), *map(terminal.percent, shares))
    table.add_row("all seeds", "", *(terminal.spread(entry[name]) for name in AVERAGES))
    terminal.console().print(table)
    print("accuracies on test at the kept step; ± is one sd over seeds", file=sys.stderr)


def _report_run(run: Run, as_json: bool, *, said: bool = False) -> None:
    """Print a run; not why it ended if that was said."""
    from gsr_core.data.variation import make_variation
    from gsr_core.runs.cautions import cautions
    from gsr_core.runs.summary import AVERAGES, changed_settings, summarise

    summary = {**summarise(run), "cautions": cautions(run)}
    if as_json:
        terminal.print_json(summary)
        return
    print(
        f"{summary['run_id']}: {summary['status']}, kept step {summary['best_step']} of "
        f"{summary['steps']}, {summary['seconds']:.1f} s on {summary['device']}"
    )
    settings = ", ".join(changed_settings(run.config))
    print(f"{run.config.method} on {run.config.bundle}, {settings or 'default settings'}")
    changed = make_variation(summary["variation"]).phrases
    for text in ("" if said else summary["message"], summary["note"], *changed):
        if text:
            print(terminal.visible(text))
    if summary["unsolved_steps"]:
        print(
            f"The fits of {summary['unsolved_steps']} steps did not reach a relative gradient norm "
            "of 1e-8; a larger l2 helps."
        )
    for text in summary["cautions"]:
        print(f"caution: {terminal.visible(text)}")
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
    if (seen := summary["val_seen"]) is not None:
        table.add_row(
            "worst group that the method saw",
            terminal.percent(seen["worst_group_accuracy"]),
            "–",
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
