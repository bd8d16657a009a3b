"""Every method on one data set over seeds, for docs/results.md.

    python benchmarks/methods.py digits [--seeds 5] [--methods gsr,dfr] [--workspace DIR]
    python benchmarks/methods.py mnist mnist.npz
    python benchmarks/methods.py compas compas-scores-two-years.csv

`digits` is the built-in example. `mnist` is Coloured MNIST with classes below and from digit 5 on,
5 % of the training images in the other class's colour and 10 % of the training labels flipped; a
small network is trained on it first. `compas` is ProPublica's table: classes are two-year
recidivism, groups are class x sex x race (Caucasian, African-American, other), 12 in all.

Each seed makes the data anew: other splits, and for images other colours and another network. All
methods run at their default settings; accuracies are of test at the step that val keeps. Runs are
kept in the workspace, and those that are there are not computed again.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import gsr_core as gsr
from gsr_core.methods.base import LabelNeeds, Method
from gsr_core.methods.registry import METHODS
from gsr_core.workspace import Workspace

Row = dict[str, float]


def digits(place: Workspace, name: str, seed: int, file: Path | None) -> None:
    """Make the built-in example."""
    gsr.coloured_digits(place, seed=seed, name=name)


def mnist(place: Workspace, name: str, seed: int, file: Path | None) -> None:
    """Make Coloured MNIST and train a network on it."""
    assert file is not None
    plan = gsr.make_plan(
        name=name,
        reader="coloured-mnist",
        settings={
            "path": str(file),
            "digits": 10,
            "threshold": 5,
            "conflicting": 0.05,
            "label_noise": 0.1,
            "n_train": 12_000,
            "n_validation": 3_000,
            "n_test": 6_000,
            "seed": seed,
        },
        roles={"split": {"seed": seed, "column": "split"}},
        backbone={"name": "simconv1"},
        training={"preset": "quick", "settings": {"epochs": 3, "lr": 0.02, "seed": seed}},
    )
    gsr.import_data(place, plan)


def compas(place: Workspace, name: str, seed: int, file: Path | None) -> None:
    """Import ProPublica's table."""
    assert file is not None
    others = ("Other", "Hispanic", "Asian", "Native American")
    merge = [
        tuple(f"class {label}, {sex}, {race}" for race in others)
        for label in (0, 1)
        for sex in ("Female", "Male")
    ]
    plan = gsr.make_plan(
        name=name,
        reader="table",
        settings={
            "path": str(file),
            "numeric": "age,priors_count,juv_fel_count,juv_misd_count,juv_other_count",
            "categorical": "c_charge_degree",
        },
        roles={
            "label": "two_year_recid",
            "attributes": ["sex", "race"],
            "groups": {"columns": ["sex", "race"], "merge": merge},
            "split": {"heldout": 1.0, "seed": seed},
        },
    )
    gsr.import_data(place, plan)


DATA: dict[str, Callable[[Workspace, str, int, Path | None], None]] = {
    "digits": digits,
    "mnist": mnist,
    "compas": compas,
}


def outcome(place: Workspace, bundle: str, method: str) -> Row:
    """Compute a run, unless the workspace has it, and return its numbers."""
    settings = gsr.make_method(method).settings()
    there = [
        run
        for run in gsr.list_runs(place)
        if run.config.bundle == bundle
        and run.config.method == method
        and run.config.settings == settings
        and run.state.status == "finished"
    ]
    found = gsr.summarise(there[0] if there else gsr.run(place, bundle, method))
    if found["test"] is None:
        raise SystemExit(f"{method} on {bundle}: {found['message']}")
    return {
        "worst group": found["test"]["worst_group_accuracy"],
        "mean": found["test"]["mean_accuracy"],
        "adjusted": found["test"]["adjusted_accuracy"],
        "worst group of val": found["val"]["worst_group_accuracy"],
        "kept step": found["best_step"],
        "seconds": found["seconds"],
    }


def cell(values: list[float], digits: int) -> str:
    """Return mean ± standard deviation."""
    known = [value for value in values if value is not None and not math.isnan(value)]
    if not known:
        return "-"
    spread = f" ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.{digits}f}{spread}"


def table(rows: dict[str, list[Row]]) -> str:
    """Return one line a method, by what it needs and then by its worst group, as Markdown."""
    columns = list(next(iter(rows.values()))[0])
    lines = ["| | group labels to train | " + " | ".join(columns) + " |"]
    lines.append("|---" * (len(columns) + 2) + "|")
    order = list(LabelNeeds)

    def place(name: str) -> tuple[int, float]:
        worst = statistics.mean(row["worst group"] for row in rows[name])
        return order.index(METHODS[name].needs), -worst

    short = {LabelNeeds.NONE: "none", LabelNeeds.TARGET: "target", LabelNeeds.TRAIN: "heldout"}
    for name in sorted(rows, key=place):
        method: type[Method] = METHODS[name]
        cells = [
            cell(
                [row[column] for row in rows[name]], 1 if column in ("kept step", "seconds") else 3
            )
            for column in columns
        ]
        lines.append(f"| `{name}` | {short[method.needs]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", choices=DATA)
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--workspace", type=Path, help="kept; a temporary directory by default")
    arguments = parser.parse_args()
    if arguments.data != "digits" and arguments.file is None:
        parser.error(f"{arguments.data} needs its file")
    rows: dict[str, list[Row]] = {name: [] for name in arguments.methods.split(",")}
    with tempfile.TemporaryDirectory() as temporary:
        place = gsr.Workspace.at(arguments.workspace or temporary)
        known = {bundle.name for bundle in gsr.list_bundles(place)}
        for seed in range(arguments.seeds):
            bundle = f"{arguments.data}-{seed}"
            if bundle not in known:
                DATA[arguments.data](place, bundle, seed, arguments.file)
            begun = time.perf_counter()
            for name, each in rows.items():
                each.append(outcome(place, bundle, name))
            seconds = time.perf_counter() - begun
            print(f"seed {seed}: {len(rows)} methods in {seconds:.1f} s", flush=True)
    print(f"\n{arguments.data}, {arguments.seeds} seeds, default settings\n\n{table(rows)}")


if __name__ == "__main__":
    main()
