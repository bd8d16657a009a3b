"""`gsr study`: how far a repair can be trusted when the data are worse than they seem."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gsr_core.cli import terminal
from gsr_core.cli.terminal import DeviceOption, JsonOption, WorkspaceOption
from gsr_core.names import method_label

if TYPE_CHECKING:
    from gsr_core.experiments.study import Study
    from gsr_core.runs.store import Run

__all__ = ["study"]

_METHODS = "gsr,llr,dfr"
_LEVEL = {
    "noise": "labels flipped",
    "group_noise": "groups changed",
    "budget": "target labels",
    "balance": "balance of target",
    "leak": "target and val",
    "strength": "conflicting",
}


def study(
    kind: Annotated[
        str,
        typer.Argument(
            help="noise (flipped labels), group_noise (wrong group labels), budget (few group "
            "labels), balance (of the groups in target), leak (one set for target and val) or "
            "strength (of the shortcut).",
            show_default=False,
        ),
    ],
    bundle: Annotated[str, typer.Argument(help="Name or directory.", show_default=False)],
    methods: Annotated[str, typer.Option(help="Methods, with commas between.")] = _METHODS,
    levels: Annotated[
        str,
        typer.Option(
            help="What to vary over, as shares with commas between; noise and group_noise "
            "0,0.1,...,0.4, budget 0.05,0.1,0.2,0.5,1, balance 0,0.25,0.5,0.75,1 and strength "
            "0.02,0.05,0.1,0.2 by default.",
            show_default=False,
        ),
    ] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of every point.")] = 3,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="METHOD.KEY=VALUE",
            help="A setting of a method; repeatable.",
        ),
    ] = None,
    name: Annotated[
        str, typer.Option(help="Name of the study; <kind>-<bundle> by default.", show_default=False)
    ] = "",
    device: DeviceOption = "auto",
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Study how far repairs can be trusted; one that was stopped goes on."""
    from gsr_core.data.bundle import open_bundle
    from gsr_core.experiments.strength import compute_study, failure_message, names_of_levels
    from gsr_core.experiments.study import LEVELS, make_study

    place = terminal.open_workspace(workspace)
    chosen = _numbers(levels)
    bundles: list[str] = []
    if kind == "strength":
        chosen = chosen or list(LEVELS["strength"])
        bundles = names_of_levels(open_bundle(place, bundle), chosen)
    opened = make_study(
        place,
        kind,
        bundle,
        [each.strip() for each in methods.split(",") if each.strip()],
        levels=chosen or None,
        bundles=bundles,
        settings=_by_method(terminal.pairs("--set", settings)),
        seeds=seeds,
        device=device,
        name=name,
    )
    with terminal.progress(f"study {opened.name}") as report:
        failed = compute_study(opened, progress=report)
    if as_json:
        terminal.print_json(_result(opened, failed))
    else:
        _report(opened)
    if failed:
        print(f"gsr: {terminal.visible(failure_message(failed))}", file=sys.stderr)
        sys.exit(1)


def _numbers(text: str) -> list[float]:
    try:
        return [float(each) for each in text.split(",") if each.strip()]
    except ValueError:
        terminal.fail(f"--levels {text!r} are not numbers with commas between, such as 0,0.1,0.2")


def _by_method(settings: dict[str, str]) -> dict[str, dict[str, str]]:
    by_method: dict[str, dict[str, str]] = {}
    for key, value in settings.items():
        method, dot, setting = key.partition(".")
        if not dot:
            terminal.fail(f"--set {key}={value} names no method; for instance --set gsr.steps=50")
        by_method.setdefault(method, {})[setting] = value
    return by_method


def _result(study: Study, failed: list[Run]) -> dict[str, Any]:
    from gsr_core.experiments.study_outcomes import (
        flipped_weights,
        outcomes,
        summarise_flipped,
        summarise_outcomes,
    )

    record, table = study.record, outcomes(study)
    result = {
        "study": study.name,
        "study_dir": str(study.path),
        **record.model_dump(
            include={"kind", "bundle", "methods", "settings", "levels", "bundles", "seeds"}
        ),
        "wanted": len(record.cells()),
        "outcomes": terminal.records(table),
        "summary": terminal.records(summarise_outcomes(table)),
        "failed": [{"run_id": run.run_id, "message": run.state.message} for run in failed],
    }
    if record.kind == "noise":
        result["flipped"] = terminal.records(summarise_flipped(flipped_weights(study)))
    return result


def _report(study: Study) -> None:
    from gsr_core.experiments.study_outcomes import (
        flipped_weights,
        outcomes,
        summarise_flipped,
        summarise_outcomes,
    )

    record = study.record
    print(f"{study.name}: worst-group accuracy on {record.bundle}, mean over seeds ± one sd")
    table = terminal.table("method", _LEVEL[record.kind], "seeds", "test", "val", "val - test")
    for row in terminal.records(summarise_outcomes(outcomes(study))):
        table.add_row(
            method_label(row["method"]),
            _level(record.kind, row),
            str(row["seeds"]),
            *(terminal.spread({"mean": row[k], "sd": row[f"{k}_sd"]}) for k in ("test", "val")),
            "–" if row["gap"] is None else f"{100 * row['gap']:+.1f} points",
        )
    terminal.console().print(table)
    if record.kind != "noise":
        return
    flipped = summarise_flipped(flipped_weights(study))
    flipped = flipped[flipped["level"] > 0]
    if flipped.empty:
        return
    print("\nmean weight relative to uniform: 1 is an equal share")
    table = terminal.table("method", _LEVEL["noise"], "group", "clean rows", "flipped rows")
    wide = flipped.pivot(
        index=["method", "level", "group"], columns="flipped", values="weight"
    ).reindex(columns=[False, True])
    for method, level, group, clean, noisy in wide.reset_index().itertuples(index=False):
        shares = ("–" if value != value else f"{value:.2f}×" for value in (clean, noisy))
        table.add_row(method_label(str(method)), f"{100 * level:g}%", str(group), *shares)
    terminal.console().print(table)


def _level(kind: str, row: Mapping[Any, Any]) -> str:
    if kind == "budget":
        return f"{row['target']:.0f} ({row['level']:.0%})"
    if kind == "leak":
        return "one set" if row["level"] else "sets of their own"
    return f"{100 * row['level']:g}%"
