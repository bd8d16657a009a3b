"""`gsr sweep`: the settings that are best on val, and their accuracy over several seeds."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from gsr_core.cli import terminal
from gsr_core.cli.terminal import DeviceOption, JsonOption, WorkspaceOption

if TYPE_CHECKING:
    from gsr_core.experiments.search import Sampler
    from gsr_core.experiments.sweep import Sweep

__all__ = ["sweep"]

_SHOWN = 5
"""Trials in the table; `--json` has all."""


def sweep(
    bundle: Annotated[
        str, typer.Argument(help="Name of a bundle, or path of its directory.", show_default=False)
    ],
    method: Annotated[str, typer.Option(help="What to run; 'gsr methods' lists all.")] = "gsr",
    trials: Annotated[int, typer.Option(min=1, help="How many settings to try in all.")] = 30,
    sampler: Annotated[
        str, typer.Option(help="tpe looks where it was good before; random does not.")
    ] = "tpe",
    jobs: Annotated[int, typer.Option(min=1, help="Trials at a time, a process each.")] = 1,
    seeds: Annotated[int, typer.Option(min=1, help="Run the winner for so many seeds.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Decides which settings are drawn.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of every trial; repeatable."),
    ] = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=WHERE",
            help="Where to look: l2=0:1, l2=1e-4:1:log or penalty=l1,l2; repeatable.",
        ),
    ] = None,
    name: Annotated[
        str, typer.Option(help="Of the sweep; one of that name goes on.", show_default=False)
    ] = "",
    device: DeviceOption = "auto",
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search a method's settings by its score on val, then run the best over seeds."""
    from gsr_core.errors import RunStateError
    from gsr_core.experiments.search import parse_search
    from gsr_core.experiments.sweep import make_sweep
    from gsr_core.experiments.sweep_loop import run_sweep

    opened = make_sweep(
        terminal.open_workspace(workspace),
        bundle,
        method,
        fixed=terminal.pairs("--set", settings),
        ranges={
            key: parse_search(text) for key, text in terminal.pairs("--search", search).items()
        },
        trials=trials,
        sampler=cast("Sampler", sampler),
        seed=seed,
        seeds=seeds,
        device=device,
        name=name,
    )
    print(f"sweep {opened.name}: to go on after a stop, add --name {opened.name}", file=sys.stderr)
    try:
        with terminal.progress(f"Sweep of {method} on {bundle}") as report:
            run_sweep(opened, jobs=jobs, progress=report)
    except KeyboardInterrupt:
        done = sum(trial.outcome is not None for trial in opened.trials())
        print(
            f"gsr: sweep {opened.name} stopped; {done} of {trials} trials are kept, the same "
            f"command with --name {opened.name} goes on",
            file=sys.stderr,
        )
        sys.exit(1)
    except RunStateError as error:
        print(f"gsr: {terminal.visible(str(error))}", file=sys.stderr)
        sys.exit(1)
    outcome = _outcome(opened)
    if as_json:
        terminal.print_json(outcome)
    else:
        _report(outcome)


def _outcome(sweep: Sweep) -> dict[str, Any]:
    """Return the record, the trials by place, and the winner's runs with their scores on test."""
    from gsr_core.comparing.entries import entries
    from gsr_core.comparing.report import comparison
    from gsr_core.runs.summary import summarise

    record, runs = sweep.record, sweep.runs()
    compared = entries(runs)
    return {
        "sweep_dir": str(sweep.path),
        **record.model_dump(mode="json", exclude={"runs"}),
        "score_name": record.score_name,
        "tried": [
            {
                "place": trial.place,
                "settings": trial.settings,
                "score": trial.outcome and trial.outcome.score,
                "loss": trial.outcome and trial.outcome.loss,
                "step": trial.outcome and trial.outcome.step,
                "seconds": trial.outcome and trial.outcome.seconds,
                "message": trial.outcome.message if trial.outcome else "",
            }
            for trial in sweep.trials()
        ],
        "runs": [summarise(run) for run in runs],
        "entry": comparison(compared, compared[0])["entries"][0] if compared else None,
    }


def _report(outcome: dict[str, Any]) -> None:
    from gsr_core.runs.summary import AVERAGES

    tried = [trial for trial in outcome["tried"] if trial["score"] is not None]
    tried.sort(key=lambda trial: (-trial["score"], trial["loss"], trial["place"]))
    failed = len(outcome["tried"]) - len(tried)
    print(
        f"{outcome['name']}: {len(outcome['tried'])} trials of {outcome['method']} on "
        f"{outcome['bundle']}" + (f", of which {failed} failed" if failed else "")
    )
    names = list(outcome["space"])
    table = terminal.table("trial", *names, "score on val", "loss", "seconds")
    for trial in tried[:_SHOWN]:
        table.add_row(
            str(trial["place"] + 1),
            *(_text(trial["settings"][name]) for name in names),
            terminal.percent(trial["score"]),
            f"{trial['loss']:.3f}",
            f"{trial['seconds']:.1f}",
        )
    terminal.console().print(table)
    settings = " ".join(
        f"--set {key}={_text(value)}" for key, value in outcome["winner"]["settings"].items()
    )
    print(f"\nthe winner, trial {outcome['winner']['place'] + 1}: {settings}")
    table = terminal.table("run", "seed", *(name.replace("_", " ") for name in AVERAGES))
    for run in outcome["runs"]:
        shares = (terminal.percent(run["test"][name]) for name in AVERAGES)
        table.add_row(run["run_id"], str(run["seed"]), *shares)
    if (entry := outcome["entry"]) is not None and len(outcome["runs"]) > 1:
        table.add_row("all seeds", "", *(terminal.spread(entry[name]) for name in AVERAGES))
    terminal.console().print(table)
    print(
        f"note: score: {outcome['score_name']}; the runs' accuracies are on test, which chose "
        "nothing; ± is one standard deviation over seeds",
        file=sys.stderr,
    )


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
