"""Seconds for a comparison of six methods over five seeds at the size of Waterbirds.

    python benchmarks/comparison.py [--seeds 5] [--methods erm,llr,rwg,group_dro,dfr,gsr]

The features are random with Waterbirds' numbers of rows (479 weighted, 600 target, 599 val, 5,794
test) and ResNet-50's 2,048 columns; see `gsr_step.py` for how they are drawn. Everything is done as
a user's comparison does it: runs are stored, scored on all splits, and compared in pairs.
"""

from __future__ import annotations

import argparse
import tempfile
import time

import numpy as np
import pandas as pd
from gsr_step import Shape, make_problem

import gsr_core as gsr
from gsr_core.comparing.entries import default_reference, entries
from gsr_core.comparing.report import comparison
from gsr_core.data.groups import Group

SIZES = {"heldout": 479, "target": 600, "val": 599, "test": 5_794}


def make_bundle(place: gsr.Workspace) -> str:
    """Write a bundle of random features and return its name."""
    # The minority is one row in twenty of heldout, and half of the others.
    common = make_problem(Shape(SIZES["heldout"], SIZES["test"], 2048, 2))
    drawn = [common.weighted, common.target, common.val]
    features = np.concatenate([rows.features.numpy() for rows in drawn])
    y = np.concatenate([rows.labels.numpy() for rows in drawn])
    members = np.concatenate([rows.groups.numpy() for rows in drawn])
    count = sum(SIZES.values())
    split = np.repeat(list(SIZES), list(SIZES.values()))
    ids = [f"s{row}" for row in range(count)]
    gsr.write_bundle(
        place.bundles / "waterbirds-shape",
        samples=pd.DataFrame({"sample_id": ids, "split": split, "y": y[:count]}),
        membership=members[:count],
        groups=[Group(name=f"y {g // 2}, a {g % 2}", definition="drawn") for g in range(4)],
        classes=["0", "1"],
        features=features[:count],
        source="random numbers",
    )
    return "waterbirds-shape"


def main() -> None:
    """Print the seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", default="erm,llr,rwg,group_dro,dfr,gsr")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = gsr.Workspace.at(temporary)
        bundle = make_bundle(place)
        begun = time.perf_counter()
        runs = []
        for method in arguments.methods.split(","):
            started = time.perf_counter()
            runs += [gsr.run(place, bundle, method, seed=each) for each in range(arguments.seeds)]
            print(f"{method}: {time.perf_counter() - started:.1f} s", flush=True)
        found = entries(runs)
        started = time.perf_counter()
        comparison(found, default_reference(found))
        print(f"comparing: {time.perf_counter() - started:.1f} s")
        print(f"{len(runs)} runs and their comparison: {time.perf_counter() - begun:.1f} s")


if __name__ == "__main__":
    main()
