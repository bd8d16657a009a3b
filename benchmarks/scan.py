"""From a scan to a repair on the built-in example, for docs/results.md.

    python benchmarks/scan.py [--seeds 5] [--null 400]

Each seed makes the example anew. Its attributes are hidden from the scan, which has the measured
properties of the images alone; groups are made of what it ranks first, and of brightness, which
only follows the colour. GSR repairs the classifier by these groups, and by the true ones. All are
judged by the true groups, class by colour, on test.

`--null` draws so many sets of five columns that go with nothing, for 1,000 rows and a head that is
right at random 7 times in 10, and prints how often a scan names an association, and a gap.
"""

from __future__ import annotations

# Before torch, which reads how threads shall wait.
import gsr_core as gsr  # isort: skip

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from gsr_core.data.groups import Group
from gsr_core.runs.samples import sample_table
from gsr_core.runs.store import Run
from gsr_core.workspace import Workspace

HIDDEN = ("colour", "digit", "source")


def main() -> None:
    """Print what each seed shows, and the mean over them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--null", type=int, default=0)
    options = parser.parse_args()
    seeds = options.seeds
    if options.null:
        with tempfile.TemporaryDirectory() as folder:
            association, gap = null(Workspace(Path(folder)), options.null)
        print(f"of {options.null} null scans: association {association:.1%}, gap {gap:.1%}")
    if not seeds:
        return
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


def null(place: Workspace, draws: int) -> tuple[float, float]:
    """Return the shares of scans that name an association, and a gap, where there is none."""
    rng, y, n = np.random.default_rng(0), np.tile([0, 1], 500), 1000
    said = np.where(rng.random(n) < 0.7, y, 1 - y)
    bundle = gsr.write_bundle(
        place.bundles / "null",
        samples=pd.DataFrame(
            {
                "sample_id": [f"s{row}" for row in range(n)],
                "split": np.repeat(["train", "heldout", "target", "val", "test"], n // 5),
                "y": y,
            }
        ),
        membership=y[:, None] == np.arange(2),
        groups=[Group(name=each, definition=each) for each in ("a", "b")],
        classes=["a", "b"],
        features=np.eye(2, dtype=np.float32)[said],
        head=(np.eye(2, dtype=np.float32), np.zeros(2, np.float32)),
        source="drawn",
    )
    run, named = gsr.run(place, "null", "erm", device="cpu"), []
    for _ in range(draws):
        drawn = pd.DataFrame(
            {
                "rare": rng.choice(["x", "y"], n, p=[0.9, 0.1]),
                "even": rng.choice(["x", "y"], n),
                "three": rng.choice(["x", "y", "z"], n),
                "normal": rng.normal(size=n),
                "skewed": rng.exponential(size=n),
            }
        )
        found = gsr.scan(bundle, run, measured=drawn)
        named.append([(found.table["p_holm"] < 0.05).any(), (found.gaps["p_holm"] < 0.05).any()])
    association, gap = np.mean(named, axis=0)
    return float(association), float(gap)


def true_worst(run: Run) -> float:
    """Return the lowest accuracy on test of a class in one colour."""
    return float(sample_table(run, "test").groupby(["y", "colour"])["correct"].mean().min())


if __name__ == "__main__":
    main()
