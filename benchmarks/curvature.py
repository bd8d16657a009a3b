"""What a product with a network's curvature takes, in gradients of the network.

    python benchmarks/curvature.py [--columns 4] [--threads N] [--rounds 5]
    python benchmarks/curvature.py --outer [--columns 4] [--threads N] [--rounds 5]

For each network, in one process and on the same rows: seconds of a pass that multiplies the Hessian
or the Gauss-Newton matrix by all columns at once, of the groups' gradients and of the rows' scores,
each divided by that of as many passes of a plain gradient (`torch.autograd`) as there are columns;
medians of rounds that take turns. Then what `predict` says of the same product, and by how much a
process grows over n and over 4 n rows. Inputs are random.

`--outer` measures what moves the weights in an outer step of GSR-F-EH, the epoch of training left
out, against the plain way: the whole Hessian by `torch.func`, its factor, a gradient for each row
and each group, and the influences as a product of matrices. Both on one network of 4,850 parameters
that was trained a little, in one process; the plain way once.
"""

from __future__ import annotations

# Before torch, which reads how threads shall wait.
import gsr_core  # isort: skip  # noqa: F401

import argparse
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from conv3 import conv3
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.functional import cross_entropy
from torchvision.models import resnet18

from gsr_core.curvature.engine import Curvature
from gsr_core.methods.network.gsr import GSRFEH


@dataclass(frozen=True)
class Shape:
    """A network and its rows."""

    build: Callable[[], nn.Module]
    image: tuple[int, int, int]
    n: int
    batch: int


L2 = 1e-3
"""The penalty, everywhere."""
OUTER = Shape(partial(conv3, 2), (2, 8, 8), n=256, batch=128)
"""Of an outer step; the plain Hessian of larger images takes hours."""
AT_ONCE = 50
"""Columns of the plain Hessian that pass together."""

SHAPES = {
    "small": Shape(partial(conv3, 2), (2, 28, 28), n=1024, batch=256),
    "resnet18": Shape(lambda: resnet18(num_classes=2), (3, 64, 64), n=32, batch=16),
}


def batches_of(shape: Shape, n: int) -> Callable[[], Iterator[tuple[Any, Tensor, Tensor]]]:
    """Return what begins a pass over n rows; each batch is made when it is read."""

    def batches() -> Iterator[tuple[Any, Tensor, Tensor]]:
        for at in range(0, n, shape.batch):
            generator = torch.Generator().manual_seed(at)
            inputs = torch.randn(shape.batch, *shape.image, generator=generator)
            labels = torch.randint(0, 2, (shape.batch,), generator=generator)
            yield inputs, labels, torch.rand(shape.batch, generator=generator)

    return batches


def plain_gradients(module: nn.Module, batches: Callable[[], Any], times: int) -> None:
    """Make passes of the plain gradient, as training does."""
    for _ in range(times):
        for inputs, labels, weights in batches():
            loss = weights @ cross_entropy(module(inputs), labels, reduction="none")
            torch.autograd.grad(loss, list(module.parameters()))


def train_a_little(module: nn.Module, batches: Callable[[], Any], epochs: int = 20) -> None:
    """Take some steps of Adam, so that the rows differ and the network fits some of them."""
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-2)
    for _ in range(epochs):
        for inputs, labels, weights in batches():
            losses = cross_entropy(module(inputs), labels, reduction="none")
            optimiser.zero_grad()
            (weights @ losses / weights.sum()).backward()
            optimiser.step()


def plain_step(
    module: nn.Module, batches: Callable[[], Any], groups: Tensor, share: Tensor, damping: float
) -> tuple[Tensor, dict[str, float]]:
    """Score each row by matrices.

    Args:
        module: In eval mode.
        batches: Begins a pass over n rows, which are those of the groups as well.
        groups: (n, m) bool.
        share: (m,) weights of the groups.
        damping: Added to the Hessian.

    Returns:
        (n,) scores along the groups' weighted sum, and seconds of processor time by part.
    """
    inputs, labels, weights = (torch.cat(each) for each in zip(*batches(), strict=True))
    named = {name: each.detach() for name, each in module.named_parameters()}
    sizes = [each.numel() for each in named.values()]
    theta = torch.cat([each.reshape(-1) for each in named.values()])

    def losses(at: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        parts = zip(named.items(), at.split(sizes), strict=True)
        parameters = {name: part.view(each.shape) for (name, each), part in parts}
        logits = functional_call(module, parameters, (inputs,))
        return cross_entropy(logits, labels, reduction="none")

    def objective(at: Tensor) -> Tensor:
        return weights @ losses(at, inputs, labels) / weights.sum() + L2 * at.square().sum()

    def of_row(at: Tensor, one: Tensor, label: Tensor) -> Tensor:
        return losses(at, one[None], label[None]).sum()

    def of_group(at: Tensor, member: Tensor) -> Tensor:
        return losses(at, inputs[member], labels[member]).mean()

    seconds: dict[str, float] = {}
    began = time.process_time()
    slope = grad(objective)
    column = vmap(lambda each: jvp(slope, (theta,), (each,))[1], chunk_size=AT_ONCE)
    hessian = column(torch.eye(len(theta)))
    seconds["Hessian"] = time.process_time() - began
    began = time.process_time()
    factor = torch.linalg.cholesky(hessian + damping * torch.eye(len(theta)))
    seconds["factor"] = time.process_time() - began
    began = time.process_time()
    by_row = vmap(grad(of_row), in_dims=(None, 0, 0), chunk_size=AT_ONCE)(theta, inputs, labels)
    by_group = torch.stack([grad(of_group)(theta, each) for each in groups.T], dim=1)
    seconds["gradients"] = time.process_time() - began
    began = time.process_time()
    influence = -(by_row + 2 * L2 * theta) @ torch.cholesky_solve(by_group, factor)
    seconds["influence"] = time.process_time() - began
    return influence @ share, seconds


def report_outer(columns: int, rounds: int) -> None:
    """Measure what moves the weights in an outer step, by the engine and plainly, and compare."""
    torch.manual_seed(0)
    module, plain_batches = OUTER.build(), batches_of(OUTER, OUTER.n)

    def batches() -> Iterator[tuple[Any, Tensor, Tensor]]:
        # Of classes that can be told apart: at random labels the Hessian curves downwards.
        for inputs, labels, weights in plain_batches():
            yield inputs + 0.15 * (2 * labels - 1)[:, None, None, None], labels, weights

    train_a_little(module, batches)
    module.eval()
    groups = torch.arange(OUTER.n)[:, None] % columns == torch.arange(columns)
    share = torch.arange(1.0, columns + 1) / sum(range(1, columns + 1))
    how = GSRFEH().how()

    def step(how: Any) -> tuple[Tensor, str]:
        engine = Curvature(module, batches, l2=L2)
        solved = engine.solve(engine.group_gradients(batches, groups) @ share, how)
        return engine.scores(batches, solved.columns[:, None])[:, 0], solved.note

    found, note = step(how)
    seconds = []
    for _ in range(rounds):
        began = time.process_time()
        step(how)
        seconds.append(time.process_time() - began)
    ours = statistics.median(seconds)
    parameters = sum(each.numel() for each in module.parameters())
    print(f"{parameters:,} parameters, {OUTER.n} rows, {columns} groups; {note}")
    print(f"GSR-F-EH's move of the weights: {ours:.3f} s of processor time", flush=True)
    plain, parts = plain_step(module, batches, groups, share, how.damping)
    whole = sum(parts.values())
    print(f"plainly: {whole:.1f} s, {whole / ours:.0f} times that;", end=" ")
    print(", ".join(f"{part} {each:.1f} s" for part, each in parts.items()))
    exact, _ = step(replace(how, tolerance=1e-5, max_products=1000))
    for name, scores in ((f"{how.tolerance:g}", found), ("1e-5", exact)):
        difference = float((scores - plain).norm() / plain.norm())
        print(f"at tolerance {name} the scores differ by {difference:.1e} relative")


def own_memory() -> int:
    """Return the bytes of anonymous memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


def peak_of(work: Callable[[], object]) -> int:
    """Return by how many bytes this process's memory grows at most while something is done."""
    before, most, done = own_memory(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.002):
            most = max(most, own_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    done.set()
    watcher.join()
    return max(most - before, 0)


def report(name: str, shape: Shape, columns: int, rounds: int) -> None:
    """Measure one network and print what was found."""
    torch.manual_seed(0)
    module, batches = shape.build().eval(), batches_of(shape, shape.n)
    engine = Curvature(module, batches, l2=L2, at_once=columns)
    directions = torch.randn(engine.network.size, columns)
    groups = torch.rand(shape.n, columns) < 0.5
    works: dict[str, Callable[[], object]] = {
        "gradients": lambda: plain_gradients(module, batches, columns),
        "hessian": lambda: engine.product(directions),
        "gauss_newton": lambda: engine.product(directions, "gauss_newton"),
        "group_gradients": lambda: engine.group_gradients(batches, groups),
        "scores": lambda: engine.scores(batches, directions),
    }
    seconds: dict[str, list[float]] = {key: [] for key in works}
    for number in range(rounds + 1):
        for key, work in works.items():
            began = time.process_time()
            work()
            if number:  # The first round loads what is loaded once.
                seconds[key].append(time.process_time() - began)
    unit = statistics.median(seconds["gradients"])
    print(
        f"{name}: {engine.network.size:,} parameters, {shape.n:,} rows in batches of "
        f"{shape.batch}; {columns} passes of a plain gradient take {unit:.3f} s of processor time"
    )
    for key, measured in seconds.items():
        median = statistics.median(measured)
        print(f"{key:>16} {median:8.3f} s {median / unit:6.2f} of {columns} gradients", flush=True)
    cost = engine.predict(columns, rows=shape.n, target_rows=shape.n)
    began = time.perf_counter()
    engine.product(directions)
    print(
        f"predicted: {cost.product_seconds:.3f} s a product, {cost.product_bytes / 2**20:.1f} MiB; "
        f"measured by the clock just after: {time.perf_counter() - began:.3f} s"
    )
    for n in (shape.n, 4 * shape.n):
        # A process of its own: what an allocator kept from before would not count again.
        asked = [sys.executable, __file__, "--memory", name, str(n), f"--columns={columns}"]
        subprocess.run(asked, check=True)


def report_memory(name: str, n: int, columns: int) -> None:
    """Print by how much this process grows in a product and in scores of n rows."""
    shape = SHAPES[name]
    module = shape.build().eval()
    small = Curvature(module, batches_of(replace(shape, batch=1), 1), l2=L2, at_once=columns)
    directions = torch.randn(small.network.size, columns)
    small.product(directions)
    engine = Curvature(module, batches_of(shape, n), l2=L2, at_once=columns)
    scores = peak_of(lambda: engine.scores(engine.batches, directions))
    product = peak_of(lambda: engine.product(directions))
    print(
        f"{n:9,} rows: memory grows by {scores / 2**20:.0f} MiB in scores, then by "
        f"{product / 2**20:.0f} MiB in a product",
        flush=True,
    )


def main() -> None:
    """Read the command line and report each network."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--columns", type=int, default=4, help="right-hand sides, or groups")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--shape", choices=[*SHAPES, "all"], default="all")
    parser.add_argument("--outer", action="store_true", help="an outer step instead")
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory:
        report_memory(arguments.memory[0], int(arguments.memory[1]), arguments.columns)
        return
    print(f"torch {torch.__version__}, {arguments.threads} threads")
    if arguments.outer:
        report_outer(arguments.columns, arguments.rounds)
        return
    for name, shape in SHAPES.items():
        if arguments.shape in (name, "all"):
            report(name, shape, arguments.columns, arguments.rounds)


if __name__ == "__main__":
    main()
