"""The trained projection and its terms on features of two factors, for docs/results.md.

    python benchmarks/projection.py [--seeds 5]

3,000 rows to fit on, of 32 features of unit variance in a random rotation: the class moves one
direction by ±1, an attribute another by ±2; in 5 % of the rows the two disagree. Target and val
have 600 rows and test 4,000, all balanced over the four groups. Prints worst-group and mean
accuracy on test at the step that val keeps, mean and standard deviation over seeds, and the share
of rows that the term between groups skipped.
"""

from __future__ import annotations

# Before torch, which reads how threads shall wait.
import gsr_core as gsr  # isort: skip

import argparse
import statistics

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


def outcome(seed: int, method: str, settings: dict[str, object]) -> tuple[float, float, int, float]:
    """Return worst group and mean of test, the kept step, and the share of rows skipped by vs."""
    problem, test = two_factors(seed)
    result = gsr.fit(gsr.make_method(method, settings), problem, GROUPS, test=test)
    history = result.history[result.history["step"] == result.step_index]
    overall = history[(history["split"] == "test") & (history["group"] == "")]
    found = overall.set_index("metric")["value"]
    skipped = history.loc[history["metric"] == "group_term_skipped", "value"]
    return (
        float(found["worst_group_accuracy"]),
        float(found["mean_accuracy"]),
        result.step_index,
        float(skipped.iloc[0]) if len(skipped) else float("nan"),
    )


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    print("| | worst group | mean | kept step | skipped by vs |")
    print("|---|---|---|---|---|")
    for name, (method, settings) in VARIANTS.items():
        columns = zip(*(outcome(seed, method, settings) for seed in seeds), strict=True)
        cells = []
        for values, digits in zip(columns, (3, 3, 1, 3), strict=True):
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
