"""From a scan to a repair on the built-in example, for docs/results.md.

    python benchmarks/scan.py [--seeds 5]

Each seed makes the example anew. Its attributes are hidden from the scan, which has the measured
properties of the images alone; groups are made of what it ranks first, and of brightness, which
only follows the colour. GSR repairs the classifier by these groups, and by the true ones. All are
judged by the true groups, class by colour, on test.
"""

from __future__ import annotations

# Before torch, which reads how threads shall wait.
import gsr_core as gsr  # isort: skip

import argparse
import tempfile
from pathlib import Path

import pandas as pd

from gsr_core.runs.samples import sample_table
from gsr_core.runs.store import Run
from gsr_core.workspace import Workspace

HIDDEN = ("colour", "digit", "source")


def main() -> None:
    """Print what each seed shows, and the mean over them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    with tempfile.TemporaryDirectory() as folder:
        parts = [one(Workspace(Path(folder)), seed) for seed in range(seeds)]
    found = pd.DataFrame(parts)
    print(found.to_string(index=False, float_format="{:.3f}".format))
    numbers = found.select_dtypes("number").drop(columns="seed")
    print(numbers.agg(["mean", "std"]).T.to_string(float_format="{:.3f}".format))


def one(place: Workspace, seed: int) -> dict[str, float | str]:
    """Return what a seed shows: what was found, and true worst groups before and after."""
    bundle = gsr.coloured_digits(place, seed=seed, name=f"digits-{seed}")
    before = gsr.run(place, bundle.name, "erm", device="cpu")
    measured = gsr.measure_inputs(place, bundle)
    assert measured is not None
    # On val: what is chosen here is reported on test.
    found = gsr.scan(bundle, before, measured=measured, split="val", without=HIDDEN)
    first = found.table.iloc[0]
    said = measured["hue"].to_numpy() == bundle.samples["colour"].to_numpy()
    outcome: dict[str, float | str] = {
        "seed": seed,
        "first": first["attribute"],
        "verdict": first["verdict"],
        "V": first["association"],
        "delta": first["delta"],
        "hue is colour": float(said.mean()),
        "before": true_worst(before),
    }
    for name, by in (("first", first["attribute"]), ("hue", "hue"), ("light", "brightness")):
        made = gsr.groups_by(place, bundle, f"digits-{seed}-{name}", by, measured=measured)
        outcome[f"by {name}"] = true_worst(gsr.run(place, made.name, "gsr", device="cpu"))
    outcome["by true groups"] = true_worst(gsr.run(place, bundle.name, "gsr", device="cpu"))
    return outcome


def true_worst(run: Run) -> float:
    """Return the lowest accuracy on test of a class in one colour."""
    return float(sample_table(run, "test").groupby(["y", "colour"])["correct"].mean().min())


if __name__ == "__main__":
    main()
