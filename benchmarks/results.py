"""The numbers of docs/results.md: the Gaussian toy and the coloured digits, over seeds.

    python benchmarks/results.py [--seeds 5] [--workspace DIR]

Prints two tables in Markdown, mean and standard deviation over the seeds. The example is made anew
for each seed: other splits, colours, network start and training.
"""

from __future__ import annotations

# Before torch, which reads how threads shall wait.
import gsr_core as gsr  # isort: skip

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch

from gsr_core.data.problem import Problem, Rows

GROUPS = ["y0 a0", "y0 a1", "y1 a0", "y1 a1"]


def gaussian_toy(seed: int) -> tuple[Problem, Rows]:
    """Draw the toy: feature 0 tells the class, feature 1, three times as far, the attribute."""
    generator = torch.Generator().manual_seed(seed)

    def draw(n: int, minority: float) -> Rows:
        y = torch.randint(2, (n,), generator=generator)
        agrees = torch.rand(n, generator=generator) >= minority
        a = torch.where(agrees, y, 1 - y)
        x = torch.randn(n, 30, generator=generator, dtype=torch.float64)
        x[:, 0] += 2 * y - 1
        x[:, 1] += 3 * (2 * a - 1)
        groups = torch.zeros(n, 4, dtype=torch.bool)
        groups[torch.arange(n), 2 * y + a] = True
        return Rows(x, y, groups, np.arange(n))

    problem = Problem(
        weighted=draw(500, 0.05),
        target=draw(600, 0.5),
        val=draw(600, 0.5),
        n_classes=2,
        compute=gsr.pick("cpu"),
    )
    return problem, draw(4000, 0.5)


def toy_row(seed: int, **settings: object) -> dict[str, float]:
    """Run GSR on the toy and return worst-group test accuracy and minority weight."""
    problem, test = gaussian_toy(seed)
    result = gsr.fit(gsr.make_method("gsr", settings), problem, GROUPS, test=test)
    history = result.history

    def value(step: int, split: str, metric: str, group: str = "") -> float:
        rows = history[
            (history["step"] == step)
            & (history["split"] == split)
            & (history["metric"] == metric)
            & (history["group"] == group)
        ]
        return float(rows["value"].iloc[0])

    minority = ("y0 a1", "y1 a0")
    kept, last = result.step_index, result.last_index
    return {
        "worst group, step 1": value(1, "test", "worst_group_accuracy"),
        "worst group, kept": value(kept, "test", "worst_group_accuracy"),
        "mean, kept": value(kept, "test", "mean_accuracy"),
        "minority weight, step 1": sum(value(1, "heldout", "weight_sum", g) for g in minority),
        "minority weight, last": sum(value(last, "heldout", "weight_sum", g) for g in minority),
    }


def digits_rows(place: gsr.Workspace, seed: int) -> dict[str, dict[str, float]]:
    """Make the example with a seed and run every method on it at default settings."""
    name = f"digits-{seed}"
    gsr.coloured_digits(place, seed=seed, name=name)
    rows = {}
    for method in ("erm", "llr", "gsr"):
        test = gsr.summarise(gsr.run(place, name, method))
        rows[method] = {
            "worst group": test["test"]["worst_group_accuracy"],
            "mean": test["test"]["mean_accuracy"],
            "adjusted": test["test"]["adjusted_accuracy"],
            "kept step": test["best_step"],
            "seconds": test["seconds"],
        }
    return rows


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    """Return mean ± standard deviation of each column, one line a name, as Markdown."""
    columns = list(next(iter(rows.values()))[0])
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, each in rows.items():
        cells = []
        for column in columns:
            values = [row[column] for row in each]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            digits = 1 if column in ("kept step", "seconds") else 3
            cells.append(f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workspace", type=Path, help="kept; a temporary directory by default")
    arguments = parser.parse_args()
    seeds = range(arguments.seeds)

    published = {"l2": 0.1, "temperature": 0.1, "standardise": False}
    toy = {
        "spec settings": [toy_row(seed, **published) for seed in seeds],
        "default settings": [toy_row(seed) for seed in seeds],
    }
    print(f"Gaussian toy, {len(seeds)} seeds\n\n{table(toy)}\n", flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        place = gsr.Workspace.at(arguments.workspace or temporary)
        runs = [digits_rows(place, seed) for seed in seeds]
    digits = {method: [row[method] for row in runs] for method in runs[0]}
    print(f"Coloured digits, {len(seeds)} seeds, default settings\n\n{table(digits)}")
    for seed, row in zip(seeds, runs, strict=True):
        scores = ", ".join(f"{method} {row[method]['worst group']:.3f}" for method in row)
        print(f"seed {seed}, worst group: {scores}")


if __name__ == "__main__":
    main()
