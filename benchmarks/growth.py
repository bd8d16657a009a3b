"""How the time of a step of GSR grows with rows, features, classes and groups.

    python benchmarks/growth.py [--steps 8] [--threads N]

Doubles one size after another from a common middle, and prints the seconds of processor time that
a step takes, the products with the Hessian in it, and the slope of time over size on logarithmic
axes: 1 is linear growth. The first step, which factorises, does not count. Features as in
`gsr_step.py`.
"""

from __future__ import annotations

# Before torch, which reads how threads shall wait.
import gsr_core  # isort: skip  # noqa: F401

import argparse
from dataclasses import replace

import numpy as np
import torch
from gsr_step import Shape, make_problem, measure_gsr

from gsr_core.methods.gsr import GSR

MIDDLE = Shape(n=8_000, n_target=4_000, d=256, n_classes=4)
SIZES = {
    "n": [4_000, 8_000, 16_000, 32_000, 64_000],
    "d": [128, 256, 512, 1024],
    "n_classes": [2, 4, 8, 16, 32],
    "n_attributes": [2, 4, 8, 16, 32],
}


def main() -> None:
    """Read the command line and report each size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=8, help="at least 2")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads, middle {MIDDLE}")
    for name, sizes in SIZES.items():
        seconds = []
        for size in sizes:
            shape = replace(MIDDLE, **{name: size})
            measured = measure_gsr(make_problem(shape), GSR(steps=arguments.steps))
            seconds.append(measured.median_cpu)
            print(
                f"{name:>12} {size:7,}  {shape.n_groups:4} groups  {measured.median_cpu:8.4f} s  "
                f"{measured.products:6.1f} products",
                flush=True,
            )
        slope = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
        print(f"{name:>12} slope {slope:.2f}", flush=True)


if __name__ == "__main__":
    main()
