"""Every method on one data set over seeds, for docs/results.md.

    python benchmarks/methods.py digits [--seeds 5] [--methods gsr,dfr] [--workspace DIR]
                                        [--swept 8] [--seen-groups ATTRIBUTE,...]
    python benchmarks/methods.py mnist mnist.npz
    python benchmarks/methods.py compas compas-scores-two-years.csv
    python benchmarks/methods.py digits --methods networks --set steps=15 [--seeds 3]
    python benchmarks/methods.py cmnist mnist.npz --methods networks --set steps=20 [--seeds 3]
    python benchmarks/methods.py cmnist-s mnist.npz --methods erm,llr,gsr,gsr_f_eh --set steps=40
    python benchmarks/methods.py pgd-0.5 mnist.npz --methods network_erm,network_pgd --set steps=10
    python benchmarks/methods.py captioned --methods llr,text_projection [--set steps=1]

`digits` is the built-in example. `mnist` is Coloured MNIST with classes below and from digit 5 on,
5 % of the training images in the other class's colour and 10 % of the training labels flipped; a
small network is trained on it first. `compas` is ProPublica's table: classes are two-year
recidivism, groups are class x sex x race (Caucasian, African-American, other), 12 in all.

`cmnist` is that of SPARE: five classes of two digits in five colours, 99.5 % of the training images
in their class's colour, LeNet-5 by SGD with its published rate and penalty, an epoch at the import.

`cmnist-s` is the GSR paper's ColoredMNIST-S at a fifth of its training images, which two cores
bear: 2,000 images of two classes, 10 % of them in the other class's colour, 2,000 for target and
val and 6,000 for test, half of them in it; a network of three convolutions (`conv3.py`), trained
for 40 epochs at the import, from whose first weights networks begin too.

`pgd-0.5`, `pgd-1` and `pgd-5` are PGD's coloured MNIST at that share in per cent of conflicting
training images, from 20,000 images, a third; SimConv-1 by SGD at the published rate.

`captioned` is the built-in example of a small network of images and texts, made anew; methods that
read words say "digit below five" and "digit above four".

`--methods` names methods, or `heads` (the default) or `networks`: all that act on these. `--set`
changes a setting of every method that has it.

Each seed makes the data anew: other splits, and for images other colours and another network. All
methods run at their default settings; accuracies are of test at the step that val keeps. Runs are
kept in the workspace, and those that are there are not computed again.

`--swept T` gives every method the same chance: a sweep of T trials on the data of seed 0, drawn at
random from what the method declares as its search space, the first of them its defaults; what its
own rule finds best on val of seed 0 runs on the data of as many new seeds, which no choice has
seen. The defaults run on the same seeds.

`--seen-groups` lets the methods see groups of the class and these attributes (`class`: the classes
alone), while they are judged by those of the data.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gsr_core as gsr
from gsr_core.captioned import captioned_digits
from gsr_core.data.variation import make_variation
from gsr_core.methods.base import LabelNeeds, Method
from gsr_core.methods.registry import METHODS
from gsr_core.workspace import Workspace

_FIRST_NEW = 100
"""The first seed whose data a sweep has not seen, nor whoever chose a default."""

WORDS = {
    "class_words": "digit below five; digit above four",
    "group_templates": "a photo of a {attribute} {class}; a {attribute} {class}",
}
"""Settings of methods that read words, for `captioned`: as its network's captions say it."""

Row = dict[str, float]
Settings = Mapping[str, Any]
SHORT = {LabelNeeds.NONE: "none", LabelNeeds.TARGET: "target", LabelNeeds.TRAIN: "heldout"}


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


def cmnist(place: Workspace, name: str, seed: int, file: Path | None) -> None:
    """Make SPARE's coloured MNIST with LeNet-5, of `lenet.py` beside this file."""
    assert file is not None
    plan = gsr.make_plan(
        name=name,
        reader="coloured-mnist-spare",
        settings={"path": str(file), "seed": seed},
        roles={"split": {"seed": seed, "column": "split", "heldout": 0.0}},
        backbone={
            "name": "own:lenet:lenet5",
            "trust": True,
            "arguments": {"classes": 5},
            "overrides": {"image_size": 28, "resize": 28, "mean": [0.5] * 3, "std": [0.5] * 3},
        },
        training={
            "preset": "quick",
            "settings": {
                "optimiser": "sgd",
                "lr": 1e-3,
                "weight_decay": 1e-3,
                "batch_size": 32,
                "epochs": 1,
                "workers": 0,
                "seed": seed,
            },
        },
    )
    gsr.import_data(place, plan)


def cmnist_s(place: Workspace, name: str, seed: int, file: Path | None) -> None:
    """Make ColoredMNIST-S with three convolutions, of `conv3.py` beside this file."""
    assert file is not None
    plan = gsr.make_plan(
        name=name,
        reader="coloured-mnist",
        settings={
            "path": str(file),
            "n_train": 2_000,
            "n_validation": 2_000,
            "n_test": 6_000,
            "seed": seed,
        },
        roles={"split": {"seed": seed, "column": "split", "heldout": 0.0}},
        backbone={
            "name": "own:conv3:conv3",
            "trust": True,
            "overrides": {"image_size": 28, "resize": 28, "mean": [0.5] * 3, "std": [0.5] * 3},
        },
        training={
            "preset": "quick",
            "settings": {
                "optimiser": "adamw",
                "lr": 3e-3,
                "weight_decay": 1e-3,
                "batch_size": 64,
                "epochs": 40,
                "workers": 0,
                "seed": seed,
            },
        },
    )
    gsr.import_data(place, plan)


def pgd(share: float, place: Workspace, name: str, seed: int, file: Path | None) -> None:
    """Make PGD's coloured MNIST with SimConv-1."""
    assert file is not None
    plan = gsr.make_plan(
        name=name,
        reader="coloured-mnist-10",
        settings={"path": str(file), "conflicting": share, "limit": 20_000, "seed": seed},
        roles={"split": {"seed": seed, "column": "split", "heldout": 0.0}},
        backbone={"name": "simconv1"},
        training={"preset": "quick", "settings": {"epochs": 1, "lr": 0.02, "seed": seed}},
    )
    gsr.import_data(place, plan)


def captioned(place: Workspace, name: str, seed: int, file: Path | None) -> None:
    """Make the built-in example whose network was trained on captions."""
    captioned_digits(place, seed=seed, name=name)


DATA: dict[str, Callable[[Workspace, str, int, Path | None], None]] = {
    "digits": digits,
    "mnist": mnist,
    "compas": compas,
    "cmnist": cmnist,
    "cmnist-s": cmnist_s,
    **{f"pgd-{share:g}": partial(pgd, share / 100) for share in (0.5, 1, 5)},
    "captioned": captioned,
}


def outcome(
    place: Workspace,
    bundle: str,
    method: str,
    changed: Settings | None = None,
    seen: list[str] | None = None,
) -> Row:
    """Compute a run, unless the workspace has it, and return its numbers."""
    settings = gsr.make_method(method, changed).settings()
    varied = make_variation({} if seen is None else {"seen_groups": seen})
    there = [
        run
        for run in gsr.list_runs(place)
        if run.config.bundle == bundle
        and run.config.method == method
        and run.config.settings == settings
        and make_variation(run.config.variation) == varied
        and run.state.status == "finished"
    ]
    if there:
        run = there[0]
    else:
        run = gsr.run(place, bundle, method, variation=varied.changes(), **(changed or {}))
    found = gsr.summarise(run)
    if found["test"] is None:
        raise SystemExit(f"{method} on {bundle}: {found['message']}")
    return {
        "worst group": found["test"]["worst_group_accuracy"],
        "mean": found["test"]["mean_accuracy"],
        "adjusted": found["test"]["adjusted_accuracy"],
        "worst group of val": found["val"]["worst_group_accuracy"],
        "as seen": (found["val_seen"] or found["val"])["worst_group_accuracy"],
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


def choose(place: Workspace, bundle: str, method: str, trials: int) -> tuple[Settings, float]:
    """Return the settings that a sweep finds on val, and the seconds that it took; kept as well."""
    if not METHODS[method].search:
        return {}, 0.0
    sweep = gsr.make_sweep(
        place,
        bundle,
        method,
        trials=trials,
        sampler="random",
        seeds=1,
        device="cpu",
        name=f"{method}-{bundle}-{trials}",
    )
    record = sweep.record if sweep.record.finished else gsr.run_sweep(sweep)
    assert record.winner is not None
    ended = [trial.outcome for trial in sweep.trials() if trial.outcome is not None]
    return record.winner.settings, sum(each.seconds for each in ended)


def swept(place: Workspace, data: str, names: list[str], trials: int, seeds: range) -> str:
    """Return one line a method: defaults and settings found, on data of new seeds, as Markdown."""
    lines = ["| | labels | worst group, defaults | swept | mean, swept | found | seconds |"]
    lines.append("|---" * 7 + "|")
    found = []
    for name in names:
        settings, seconds = choose(place, f"{data}-0", name, trials)
        bundles = [f"{data}-{seed}" for seed in seeds]
        before = [outcome(place, bundle, name) for bundle in bundles]
        after = [outcome(place, bundle, name, settings) for bundle in bundles]
        found.append((name, settings, seconds, before, after))
        print(f"{name}: {settings}, {seconds:.0f} s", flush=True)
    order = list(LabelNeeds)

    def place_of(line: tuple[str, Settings, float, list[Row], list[Row]]) -> tuple[int, float]:
        worst = statistics.mean(row["worst group"] for row in line[4])
        return order.index(METHODS[line[0]].needs), -worst

    for name, settings, seconds, before, after in sorted(found, key=place_of):
        defaults = gsr.make_method(name).settings()
        changed = [
            f"{key} {value}" for key, value in settings.items() if value != defaults.get(key)
        ]
        cells = [
            f"`{name}`",
            SHORT[METHODS[name].needs],
            cell([row["worst group"] for row in before], 3),
            cell([row["worst group"] for row in after], 3),
            cell([row["mean"] for row in after], 3),
            ", ".join(changed) or "the defaults",
            f"{seconds:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def table(rows: dict[str, list[Row]]) -> str:
    """Return one line a method, by what it needs and then by its worst group, as Markdown."""
    columns = list(next(iter(rows.values()))[0])
    lines = ["| | group labels to train | " + " | ".join(columns) + " |"]
    lines.append("|---" * (len(columns) + 2) + "|")
    order = list(LabelNeeds)

    def place(name: str) -> tuple[int, float]:
        worst = statistics.mean(row["worst group"] for row in rows[name])
        return order.index(METHODS[name].needs), -worst

    for name in sorted(rows, key=place):
        method: type[Method] = METHODS[name]
        cells = [
            cell(
                [row[column] for row in rows[name]], 1 if column in ("kept step", "seconds") else 3
            )
            for column in columns
        ]
        labels = SHORT[method.needs]
        if method.acts_on == "network":
            labels = labels.replace("heldout", "train")
        lines.append(f"| `{name}` | {labels} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", choices=DATA)
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", default="heads")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--swept", type=int, metavar="TRIALS", help="search settings on val first")
    parser.add_argument("--seen-groups", metavar="ATTRIBUTES", help="with commas between")
    parser.add_argument("--workspace", type=Path, help="kept; a temporary directory by default")
    arguments = parser.parse_args()
    if arguments.data not in ("digits", "captioned") and arguments.file is None:
        parser.error(f"{arguments.data} needs its file")
    seen = arguments.seen_groups and arguments.seen_groups.split(",")
    kinds = {"heads": "head", "networks": "network"}
    acting = [
        name
        for name, method in METHODS.items()
        # Words are of one data set.
        if method.acts_on == kinds.get(arguments.methods) and not method.reads_words
    ]
    names = acting or arguments.methods.split(",")
    values = dict(each.split("=", 1) for each in arguments.set)
    if arguments.data == "captioned":
        values = {**WORDS, **values}
    rows: dict[str, list[Row]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as temporary:
        place = gsr.Workspace.at(arguments.workspace or temporary)
        known = {bundle.name for bundle in gsr.list_bundles(place)}

        def make(seed: int) -> str:
            bundle = f"{arguments.data}-{seed}"
            if bundle not in known:
                DATA[arguments.data](place, bundle, seed, arguments.file)
            return bundle

        if arguments.swept:
            seeds = range(_FIRST_NEW, _FIRST_NEW + arguments.seeds)
            for seed in (0, *seeds):
                make(seed)
            found = swept(place, arguments.data, list(rows), arguments.swept, seeds)
            print(f"\n{arguments.data}, {arguments.swept} trials each, {seeds}\n\n{found}")
            return
        for seed in range(arguments.seeds):
            bundle = make(seed)
            begun = time.perf_counter()
            for name, each in rows.items():
                known_settings = gsr.make_method(name).settings()
                changed = {key: value for key, value in values.items() if key in known_settings}
                each.append(outcome(place, bundle, name, changed, seen=seen))
                print(f"seed {seed}, {name}: {each[-1]}", flush=True)
            seconds = time.perf_counter() - begun
            print(f"seed {seed}: {len(rows)} methods in {seconds:.1f} s", flush=True)
    settings = ", ".join(arguments.set) or "default settings"
    print(f"\n{arguments.data}, {arguments.seeds} seeds, {settings}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
