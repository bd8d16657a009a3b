"""Seconds per step of GSR at the sizes of three published data sets, against one plain step.

    python benchmarks/gsr_step.py [--shape waterbirds|celeba|multinli|small|all]
                                  [--steps 20] [--plain full|scaled|none] [--threads N]

The features are random: low-rank correlated noise, a class signal and a stronger spurious
attribute that agrees with the class 95 times in 100, so that weights and head really move.

A *plain step* does what the equations say, with what torch offers: the head by L-BFGS (strong
Wolfe, from zero), the Hessian over all K (d + 1) parameters by automatic differentiation, its
explicit inverse, and a gradient for each sample by `vmap(grad)`. `--plain full` runs one at full
size. `--plain scaled` times its parts at a quarter of n and d and extrapolates each by its law,

    fit ~ n D, Hessian ~ n D^2, inverse ~ D^3, gradients ~ n D      with D = K (d + 1),

after checking the laws on three eighths. Both sides run in float64 with the same number of threads.

The CPU seconds, printed too, depend little on what else the machine does.
"""

from __future__ import annotations

# Before torch, which reads how threads shall wait.
import gsr_core  # isort: skip  # noqa: F401

import argparse
import os
import resource
import statistics
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch.func import grad, jvp, vmap
from torch.nn.functional import cross_entropy

from gsr_core.compute import Compute
from gsr_core.data.problem import Problem, Rows
from gsr_core.linear.feature_map import FeatureMap
from gsr_core.linear.objective import Objective
from gsr_core.linear.solver import Solver
from gsr_core.methods.base import Step
from gsr_core.methods.fit import fit
from gsr_core.methods.gsr import GSR
from gsr_core.methods.monitor import Progress

CPU = Compute(torch.device("cpu"), torch.float64, torch.float64)
PARTS = ("fit", "hessian", "inverse", "gradients")


@dataclass(frozen=True)
class Shape:
    """Sizes of a data set; its groups are class by attribute."""

    n: int
    n_target: int
    d: int
    n_classes: int
    n_attributes: int = 2

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return self.n_classes * self.n_attributes

    def scaled(self, share: float) -> Shape:
        """Return the shape with this share of the rows and of the features."""
        return Shape(
            max(int(self.n * share), 100),
            max(int(self.n_target * share), 100),
            max(int(self.d * share), 8),
            self.n_classes,
            self.n_attributes,
        )


SHAPES = {
    "waterbirds": Shape(479, 600, 2048, 2),
    "celeba": Shape(16_277, 9_934, 2048, 2),
    "multinli": Shape(20_617, 41_231, 768, 3),
    "small": Shape(720, 300, 64, 2),
    "classes": Shape(20_000, 10_000, 512, 50),
}


def make_problem(shape: Shape) -> Problem:
    """Make a problem of this shape; `val` is as large as the target set."""
    rng = np.random.default_rng(0)
    k, d, values = shape.n_classes, shape.d, shape.n_attributes
    rank = min(32, d // 2)
    mixing = rng.normal(size=(rank, d)).astype(np.float32) / np.sqrt(rank)
    class_direction = rng.normal(size=(k, d)).astype(np.float32) / np.sqrt(d)
    attribute_direction = rng.normal(size=(values, d)).astype(np.float32) / np.sqrt(d)

    def rows(count: int, agreement: float) -> Rows:
        labels = rng.integers(k, size=count)
        other = (labels + 1 + rng.integers(values - 1, size=count)) % values
        attribute = np.where(rng.random(count) < agreement, labels % values, other)
        group = labels * values + attribute
        group[: shape.n_groups] = np.arange(shape.n_groups)
        labels, attribute = group // values, group % values
        features = rng.normal(size=(count, rank)).astype(np.float32) @ mixing
        features += 0.5 * rng.standard_normal(size=(count, d), dtype=np.float32)
        features += 4 * class_direction[labels] + 8 * attribute_direction[attribute]
        return Rows(
            source=torch.from_numpy(features),
            labels=torch.from_numpy(labels),
            groups=torch.from_numpy(group[:, None] == np.arange(shape.n_groups)),
            position=np.arange(count),
        )

    return Problem(
        weighted=rows(shape.n, 0.95),
        target=rows(shape.n_target, 0.5),
        val=rows(shape.n_target, 0.5),
        n_classes=k,
        compute=CPU,
    )


@dataclass(frozen=True)
class Measured:
    """What a run of GSR took; counts are per step, after the first."""

    first: float
    median: float
    median_cpu: float
    slowest: float
    products: float
    factorisations: float
    influence: torch.Tensor
    weight_moved: float


def measure_gsr(problem: Problem, method: GSR) -> Measured:
    """Run GSR and time each step, fit, influence, update and scores of target and val included."""
    counts = {"products": 0, "factorisations": 0}
    seconds: list[float] = []
    cpu: list[float] = []
    first: list[tuple[Step, dict[str, int]]] = []
    product, factorise = Objective.hessian_product, Solver.factorise

    def counted_product(self: Objective, *args, **kwargs):
        counts["products"] += 1
        return product(self, *args, **kwargs)

    def counted_factorise(self: Solver, *args, **kwargs):
        counts["factorisations"] += 1
        return factorise(self, *args, **kwargs)

    def follow(progress: Progress) -> None:
        seconds.extend(value for *_, metric, value in progress.records if metric == "seconds")
        cpu.append(time.process_time())
        if not first:
            first.append((progress.step, dict(counts)))

    Objective.hessian_product, Solver.factorise = counted_product, counted_factorise
    try:
        names = [f"g{g}" for g in range(problem.n_groups)]
        result = fit(method, problem, names, monitor=follow)
    finally:
        Objective.hessian_product, Solver.factorise = product, factorise
    step, before = first[0]
    later = seconds[1:]
    assert step.influence is not None
    assert result.last.sample_weight is not None
    assert step.sample_weight is not None
    return Measured(
        first=seconds[0],
        median=statistics.median(later),
        median_cpu=statistics.median(np.diff(cpu).tolist()),
        slowest=max(later),
        products=(counts["products"] - before["products"]) / len(later),
        factorisations=(counts["factorisations"] - before["factorisations"]) / len(later),
        influence=step.influence,
        weight_moved=float((result.last.sample_weight - step.sample_weight).abs().sum()),
    )


def plain_step(problem: Problem, l2: float) -> tuple[dict[str, float], torch.Tensor]:
    """Return the seconds of each part of one plain step at uniform weights, and its influence."""
    features = problem.weighted.features
    mapping = FeatureMap.fit(features, standardise=True, dtype=torch.float64, row_space=False)
    design = mapping.design(features, torch.float64)
    target = mapping.design(problem.target.features, torch.float64)
    labels, width, k = problem.weighted.labels, design.shape[1], problem.n_classes
    weight = torch.full((len(labels),), 1 / len(labels), dtype=torch.float64)

    def penalty(theta: torch.Tensor) -> torch.Tensor:
        return l2 * theta.square().sum()

    def objective(theta: torch.Tensor) -> torch.Tensor:
        losses = cross_entropy(design @ theta.reshape(width, k), labels, reduction="none")
        return weight @ losses + penalty(theta)

    def sample_loss(theta: torch.Tensor, row: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return cross_entropy(row @ theta.reshape(width, k), label) + penalty(theta)

    def group_loss(theta: torch.Tensor, members: torch.Tensor) -> torch.Tensor:
        logits = target[members] @ theta.reshape(width, k)
        return cross_entropy(logits, problem.target.labels[members])

    seconds = {}
    begun = time.perf_counter()
    theta = torch.zeros(width * k, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [theta],
        max_iter=300,
        tolerance_grad=1e-7,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        value = objective(theta)
        value.backward()
        return value

    optimiser.step(closure)
    theta = theta.detach()
    seconds["fit"] = time.perf_counter() - begun

    begun = time.perf_counter()

    # As torch.func.hessian does, in chunks that bound the memory of the columns under way.
    def hessian_column(direction: torch.Tensor) -> torch.Tensor:
        return jvp(grad(objective), (theta,), (direction,))[1]

    directions = torch.eye(len(theta), dtype=theta.dtype)
    hessian = vmap(hessian_column, chunk_size=128)(directions)
    seconds["hessian"] = time.perf_counter() - begun

    begun = time.perf_counter()
    inverse = torch.linalg.inv(hessian)
    seconds["inverse"] = time.perf_counter() - begun

    begun = time.perf_counter()
    each = vmap(grad(sample_loss), in_dims=(None, 0, 0), chunk_size=1024)(theta, design, labels)
    groups = [grad(group_loss)(theta, column) for column in problem.target.groups.T]
    influence = -(each @ inverse @ torch.stack(groups, dim=1))
    seconds["gradients"] = time.perf_counter() - begun
    return seconds, influence


def extrapolate(seconds: dict[str, float], measured: Shape, wanted: Shape) -> dict[str, float]:
    """Scale each part by its law from one shape to another."""
    rows = wanted.n / measured.n
    width = (wanted.d + 1) / (measured.d + 1)
    law = {
        "fit": rows * width,
        "hessian": rows * width**2,
        "inverse": width**3,
        "gradients": rows * width,
    }
    return {part: seconds[part] * law[part] for part in PARTS}


def peak_gigabytes() -> float:
    """Return the most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def listed(seconds: dict[str, float]) -> str:
    """Return the parts and their sum as text."""
    parts = ", ".join(f"{part} {seconds[part]:.2f}" for part in PARTS)
    return f"{sum(seconds.values()):.2f} s ({parts})"


def report(name: str, shape: Shape, steps: int, plain: str) -> None:
    """Measure one shape and print what came out."""
    problem = make_problem(shape)
    before = peak_gigabytes()
    ours = measure_gsr(problem, GSR(steps=steps))
    print(f"\n{name}: {shape}, {problem.n_groups} groups")
    print(
        f"  GSR step  median {ours.median * 1e3:.2f} ms, slowest {ours.slowest * 1e3:.2f} ms over "
        f"{steps - 1} steps, CPU {ours.median_cpu * 1e3:.2f} ms; "
        f"step 1 with set-up {ours.first:.2f} s"
    )
    print(
        f"  per step  {ours.products:.1f} products with the Hessian, "
        f"{ours.factorisations:.2f} factorisations; weights moved {ours.weight_moved:.2f} in l1"
    )
    print(f"  peak memory {peak_gigabytes():.2f} GiB, before it {before:.2f}", flush=True)
    if plain == "none":
        return
    if plain == "full":
        begun = time.process_time()
        seconds, influence = plain_step(problem, GSR().l2)
        cpu = time.process_time() - begun
        gap = float((influence - ours.influence).norm() / influence.norm())
        print(f"  plain     {listed(seconds)}; peak memory {peak_gigabytes():.2f} GiB")
        print(f"  plain CPU {cpu:.2f} s, ratio of CPU seconds {cpu / ours.median_cpu:.0f}x")
        print(f"  influence of the two ways differs by {gap:.1e} relative")
    else:
        quarter, more = shape.scaled(1 / 4), shape.scaled(3 / 8)
        small, _ = plain_step(make_problem(quarter), GSR().l2)
        check, _ = plain_step(make_problem(more), GSR().l2)
        foretold = extrapolate(small, quarter, more)
        print(f"  plain at 1/4            {listed(small)}")
        print(f"  plain at 3/8, measured  {listed(check)}")
        print(f"  plain at 3/8, foretold  {listed(foretold)}")
        seconds = extrapolate(check, more, shape)
        print(f"  plain, extrapolated     {listed(seconds)}")
    print(f"  ratio     {sum(seconds.values()) / ours.median:.0f}x", flush=True)


def main() -> None:
    """Read the command line and report each shape asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shape", choices=[*SHAPES, "all"], default="all")
    parser.add_argument("--steps", type=int, default=20, help="at least 2")
    parser.add_argument("--threads", type=int, help="of torch; all cores if not given")
    parser.add_argument("--plain", choices=["full", "scaled", "none"], default="scaled")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} cores, "
        f"float64, load {os.getloadavg()[0]:.1f}"
    )
    for name in SHAPES if arguments.shape == "all" else [arguments.shape]:
        report(name, SHAPES[name], arguments.steps, arguments.plain)


if __name__ == "__main__":
    main()
