"""`gsr audit`: how far a head can be trusted in each group, and what other offsets would do."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gsr_core.cli import terminal
from gsr_core.cli.terminal import JsonOption, WorkspaceOption

if TYPE_CHECKING:
    from gsr_core.comparing.bootstrap import Bootstrap
    from gsr_core.runs.store import Run

__all__ = ["AverageOption", "CostOption", "TradeOption", "audit"]

TradeOption = Annotated[
    float | None,
    typer.Option(
        help="Weight of the worst group against the average where offsets are chosen, 0 to 1.",
    ),
]
AverageOption = Annotated[
    str | None,
    typer.Option(
        help="The average that it is held against: mean_accuracy, group_mean_accuracy or "
        "adjusted_accuracy.",
    ),
]
CostOption = Annotated[
    float | None,
    typer.Option(help="How many false alarms one missed row of the rarer class is worth."),
]


class Part(StrEnum):
    """What an audit shows."""

    GROUPS = "groups"
    SCALING = "scaling"
    THRESHOLDS = "thresholds"
    CALIBRATION = "calibration"
    FAIRNESS = "fairness"


def audit(
    run_id: Annotated[str, typer.Argument(help="A run, or the beginning of its name.")],
    split: Annotated[str, typer.Option(help="test, val or target.")] = "test",
    show: Annotated[
        Part,
        typer.Option(
            help="groups: gaps, recall, calibration and ranking in numbers; scaling: what other "
            "offsets between the classes do, chosen on val; thresholds: the same of two classes, "
            "by what errors cost; calibration: reliability curves; fairness: equalised odds and "
            "demographic parity over an attribute."
        ),
    ] = Part.GROUPS,
    trade: TradeOption = None,
    average: AverageOption = None,
    cost: CostOption = None,
    attribute: Annotated[
        str | None, typer.Option(help="Whose values --show fairness compares.", show_default=False)
    ] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Audit a head: each group in numbers, other offsets, calibration, fairness."""
    from gsr_core.runs.cautions import cautions
    from gsr_core.runs.store import open_run

    if split not in ("test", "val", "target"):
        terminal.fail(f"--split is {split}; choose test, val or target")
    for option, value, part in (
        ("--trade", trade, Part.SCALING),
        ("--average", average, Part.SCALING),
        ("--cost", cost, Part.THRESHOLDS),
        ("--attribute", attribute, Part.FAIRNESS),
    ):
        if value is not None and show is not part:
            terminal.fail(f"{option} is of --show {part}, and --show is {show}; change one of them")
    run = open_run(terminal.open_workspace(workspace), run_id)
    if show is Part.SCALING:
        weight = 1.0 if trade is None else trade
        found = _scaling(run, split, weight, average or "mean_accuracy", as_json)
    elif show is Part.THRESHOLDS:
        found = _thresholds(run, split, 1.0 if cost is None else cost, as_json)
    elif show is Part.CALIBRATION:
        found = _calibration(run, split, as_json)
    elif show is Part.FAIRNESS:
        found = _fairness(run, split, attribute, as_json)
    else:
        found = _groups(run, split, as_json)
    said = cautions(run)
    if as_json:
        terminal.print_json({"run_id": run.run_id, "split": split, **found, "cautions": said})
        return
    for text in said:
        print(f"caution: {terminal.visible(text)}")


def _groups(run: Run, split: str, as_json: bool) -> dict[str, Any]:
    from gsr_core.runs.quality import quality_table

    found = quality_table(run, split)
    if as_json:
        return {"groups": terminal.records(found)}
    print(f"{run.run_id}: kept head on {split}")
    table = terminal.table(
        *("", "n", "accuracy", "gap to the rest", "lowest recall", "calibration error", "Brier"),
        "AUROC",
    )
    for row in found.to_dict("records"):
        chance = f"{row['calibration']:.3f} (chance {row['calibration_chance']:.3f})"
        table.add_row(
            row["group"],
            f"{row['n']:,}",
            f"{row['accuracy']:.1%} [{row['low']:.1%}, {row['high']:.1%}]",
            _change(row["gap"], row["gap_low"], row["gap_high"]),
            f"{row['recall']:.1%}",
            chance,
            f"{row['brier']:.3f}",
            f"{row['auroc']:.3f} [{row['auroc_low']:.3f}, {row['auroc_high']:.3f}]",
        )
    terminal.console().print(table)
    return {}


def _scaling(run: Run, split: str, trade: float, average: str, as_json: bool) -> dict[str, Any]:
    from gsr_core.comparing.operating import AVERAGE_NAMES, operating_points

    found = operating_points(run, split, trade=trade, average=average)
    if as_json:
        path = found.path.assign(offset=[each.tolist() for each in found.path["offset"]])
        return {
            "trade": trade,
            "average": average,
            "offset": found.by_class,
            "points": terminal.records(found.points),
            "change": {name: _interval(each) for name, each in found.change.items()},
            "groups": terminal.records(found.groups),
            "path": path.to_dict("records"),
        }
    print(f"{run.run_id}: class scaling, chosen on val for {trade:g} of the worst group")
    table = terminal.table(f"on {split}", *found.points["point"], "change")
    for name, label in (("worst", "worst group"), ("average", AVERAGE_NAMES[average])):
        own, chosen = (
            f"{row[name]:.1%} [{row[f'{name}_low']:.1%}, {row[f'{name}_high']:.1%}]"
            for row in found.points.to_dict("records")
        )
        change = found.change[name]
        moved = _change(change.difference, change.low, change.high)
        table.add_row(label, own, chosen, moved)
    for row in found.groups.to_dict("records"):
        own, chosen = row["own_wrong"], row["chosen_wrong"]
        wrong = (f"{number:,} of {row['n']:,} wrong" for number in (own, chosen))
        table.add_row(f"  {row['group']}", *wrong, f"{chosen - own:+,}")
    terminal.console().print(table)
    offsets = ", ".join(f"{name} {by:+.3g}" for name, by in found.by_class.items())
    print(terminal.visible(f"offsets: {offsets}"))
    return {}


def _change(change: float, low: float, high: float) -> str:
    """Return a change of a fraction and its interval as text, in percentage points."""
    return f"{terminal.points(change)} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _interval(change: Bootstrap) -> dict[str, float | None]:
    return terminal.record(
        {"difference": change.difference, "low": change.low, "high": change.high}
    )


def _thresholds(run: Run, split: str, cost: float, as_json: bool) -> dict[str, Any]:
    from gsr_core.comparing.thresholds import thresholds_of

    found = thresholds_of(run, split, cost=cost)
    if as_json:
        return {
            "cost_of_a_miss": cost,
            "positive": found.positive,
            "negative": found.negative,
            "threshold": found.threshold,
            "offset": found.by_class,
            "calibrated": found.calibrated,
            "val_cost": found.val_cost,
            "cost": found.cost,
            "change": found.change,
            "groups": terminal.records(found.groups),
            "curve": terminal.records(found.curve),
        }
    print(
        terminal.visible(
            f"{run.run_id}: '{found.positive}' from a probability of {found.threshold:.3f} on, "
            f"'{found.negative}' from {1 - found.threshold:.3f}; a calibrated head would have "
            f"{found.calibrated:.3f}"
        )
    )
    table = terminal.table(
        f"on {split}",
        "n",
        *(f"{kind}, {at}" for at in ("at 0.5", "chosen on val") for kind in ("missed", "false")),
    )
    for row in found.groups.to_dict("records"):
        counts = ("own_missed", "own_false", "chosen_missed", "chosen_false")
        table.add_row(row["group"], f"{row['n']:,}", *(f"{row[each]:,}" for each in counts))
    terminal.console().print(table)
    per, (change, low, high) = 1000, found.change
    print(
        f"cost of {per:,} rows, in false alarms: {per * found.cost[0]:.0f} at 0.5, "
        f"{per * found.cost[1]:.0f} as chosen, change {per * change:+.0f} [{per * low:+.0f}, "
        f"{per * high:+.0f}]"
    )
    return {}


def _calibration(run: Run, split: str, as_json: bool) -> dict[str, Any]:
    from gsr_core.runs.quality import reliability_table

    found = reliability_table(run, split)
    if as_json:
        return {"bins": terminal.records(found)}
    print(f"{run.run_id}: reliability of the kept head on {split}")
    table = terminal.table("", "n", "confidence", "accuracy", "a calibrated head has", "")
    for row in found.to_dict("records"):
        inside = row["low"] <= row["accuracy"] <= row["high"]
        table.add_row(
            row["group"],
            f"{row['n']:,}",
            f"{row['confidence']:.1%}",
            f"{row['accuracy']:.1%}",
            f"{row['low']:.1%} to {row['high']:.1%}",
            "" if inside else "too sure" if row["accuracy"] < row["low"] else "not sure enough",
        )
    terminal.console().print(table)
    return {}


def _fairness(run: Run, split: str, attribute: str | None, as_json: bool) -> dict[str, Any]:
    from gsr_core.runs.quality import fairness_of

    bundle = run.unchanged_bundle()
    if attribute is None:
        names = ", ".join(bundle.manifest.attributes) or "none; import the data with one"
        terminal.fail(f"--show fairness needs --attribute NAME; the bundle's are {names}")
    found, classes = fairness_of(run, split, attribute, bundle), bundle.manifest.classes
    by_class, rates = (
        table.assign(**{"class": [classes[each] for each in table["class"]]})
        for table in (found.by_class, found.rates)
    )
    if as_json:
        return {
            "attribute": attribute,
            "overall": terminal.record(found.overall),
            "by_class": terminal.records(by_class),
            "rates": terminal.records(rates),
            "smallest_cell": found.smallest,
        }
    print(f"{run.run_id}: values of {terminal.visible(attribute)} on {split}")
    table = terminal.table("", "equalised odds difference", "demographic parity difference")
    rows = [("largest of any class", found.overall)] if len(by_class) > 1 else []
    rows += [(str(row["class"]), row) for row in by_class.to_dict("records")]
    for name, row in rows:
        table.add_row(
            name,
            *(
                f"{row[f'{each}_difference']:.3f} [{row[f'{each}_low']:.3f}, "
                f"{row[f'{each}_high']:.3f}] (chance {row[f'{each}_chance']:.3f}, ratio "
                f"{row[f'{each}_ratio']:.3f})"
                for each in ("odds", "parity")
            ),
        )
    terminal.console().print(table)
    table = terminal.table("class", "value", *rates["rate"].unique())
    for (name, value), part in rates.groupby(["class", "value"], sort=False):
        shares = zip(part["share"], part["n"], strict=True)
        table.add_row(name, value, *(f"{terminal.percent(share)} of {n:,}" for share, n in shares))
    terminal.console().print(table)
    print(f"the smallest cell of label and value has {found.smallest:,} rows")
    return {}
