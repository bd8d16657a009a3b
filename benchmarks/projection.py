"""The trained projection and its terms on features of two factors, for docs/results.md.

    python benchmarks/projection.py [--seeds 5]

3,000 rows to fit on, of 32 features of unit variance in a random rotation: the class moves one
direction by ±1, an attribute another by ±2; in 5 % of the rows the two disagree. Target and val
have 600 rows and test 4,000, all balanced over the four groups. Prints worst-group and mean
accuracy on test at the step that val keeps and at the last one, and the terms before and after
training, nats: mean and standard deviation over seeds.
"""

from __future__ import annotations

# Before torch, which reads how threads shall wait.
import gsr_core as gsr  # isort: skip

import argparse
import math
import statistics
from collections.abc import Sequence

import numpy as np
import torch

from gsr_core.data.problem import Problem, Rows

GROUPS = ["y0 a0", "y0 a1", "y1 a0", "y1 a1"]
FEATURES = 32

VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    "`llr`": ("llr", {}),
    "`rwg`": ("rwg", {}),
    "`gsr`": ("gsr", {}),
    **{
        f"`projection`, {terms}, balance={balance}": ("projection", {**changed, "balance": balance})
        for balance in ("rows", "groups")
        for terms, changed in {
            "vc": {"group_weight": 0.0},
            "vc + vs by class and attribute": {},
            "vc + vs by attribute": {"grouping": "attribute"},
        }.items()
    },
}
"""Method and settings of each line."""


def two_factors(seed: int) -> tuple[Problem, Rows]:
    """Draw the data of a seed, and its test rows."""
    generator = torch.Generator().manual_seed(seed)
    plain = torch.randn(FEATURES, FEATURES, generator=generator, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(plain)

    def draw(n: int, minority: float) -> Rows:
        y = torch.randint(2, (n,), generator=generator)
        agrees = torch.rand(n, generator=generator) >= minority
        a = torch.where(agrees, y, 1 - y)
        x = torch.randn(n, FEATURES, generator=generator, dtype=torch.float64)
        x[:, 0] += 2 * y - 1
        x[:, 1] += 2 * (2 * a - 1)
        groups = (2 * y + a)[:, None] == torch.arange(4)
        return Rows(x @ rotation, y, groups, np.arange(n))

    problem = Problem(
        weighted=draw(3000, 0.05),
        target=draw(600, 0.5),
        val=draw(600, 0.5),
        n_classes=2,
        compute=gsr.pick("cpu"),
        beside_class=lambda: np.array([0, 1, 0, 1]),
    )
    return problem, draw(4000, 0.5)


def outcome(seed: int, method: str, settings: dict[str, object]) -> dict[str, float]:
    """Return a run's numbers; those of terms are missing where the method has none."""
    problem, test = two_factors(seed)
    result = gsr.fit(gsr.make_method(method, settings), problem, GROUPS, test=test)
    history = result.history

    def value(step: int, split: str, metric: str) -> float:
        at = history[(history["step"] == step) & (history["group"] == "")]
        found = at.loc[(at["split"] == split) & (at["metric"] == metric), "value"]
        return float(found.iloc[0]) if len(found) else math.nan

    kept, last = result.step_index, result.last_index
    return {
        "worst group, kept": value(kept, "test", "worst_group_accuracy"),
        "mean, kept": value(kept, "test", "mean_accuracy"),
        "kept step": kept,
        "worst group, last": value(last, "test", "worst_group_accuracy"),
        "vc, first step": value(1, "", "class_term"),
        "vc, last": value(last, "", "class_term"),
        "vs, first step": value(1, "", "group_term"),
        "vs, last": value(last, "", "group_term"),
    }


def cell(values: Sequence[float]) -> str:
    """Return mean ± standard deviation, "-" where a value is missing."""
    if any(math.isnan(value) for value in values):
        return "-"
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {spread:.3f}"


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    for place, (name, (method, settings)) in enumerate(VARIANTS.items()):
        rows = [outcome(seed, method, settings) for seed in seeds]
        if not place:
            print(f"| | {' | '.join(rows[0])} |\n" + "|---" * (len(rows[0]) + 1) + "|")
        cells = [cell([row[column] for row in rows]) for column in rows[0]]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
