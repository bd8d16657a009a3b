"""Whether a bundle of a million rows stays quick to look at: seconds and memory of what pages do.

Run it with `python benchmarks/million.py [DIRECTORY]`. It writes a bundle with `write_bundle` (two
classes, sixteen overlapping groups, a path, a text, three attributes and a tiny image a row) and
computes one run on it, unless the directory holds them already. Then it measures each thing in a
process of its own, whose files were dropped from the system's cache before. The time of imports is
not counted. `--features 2048` makes the bundle as wide as a ResNet-50's; then features and run take
8 GB of disk.

Features count as unread where none of the pages of `features.npy` is in the system's cache after.
"""

from __future__ import annotations

import argparse
import ctypes
import io
import itertools
import mmap
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from gsr_core.compute import pick
from gsr_core.curation.slices import load_slice, save_slice
from gsr_core.data.bundle import Bundle, list_bundles, open_bundle
from gsr_core.data.bundle_writing import write_bundle
from gsr_core.data.groups import Group
from gsr_core.data.problem import load_problem
from gsr_core.runs.execute import run as compute_run
from gsr_core.runs.samples import sample_table
from gsr_core.runs.store import Run, list_runs
from gsr_core.views.bundle_contents import size_table
from gsr_core.views.samples import passing
from gsr_core.workspace import Workspace

NAME = "million"
IDENTITIES = ("male", "female", "lgbtq", "christian", "muslim", "other", "black", "white")
SHARES = {"train": 0.6, "heldout": 0.2, "target": 0.05, "val": 0.05, "test": 0.1}
WORDS = np.array(["the", "a", "of", "bird", "water", "land", "looks", "at", "every", "sample"])
CARDS = 24


def tiny_images(n: int, rng: np.random.Generator) -> Iterator[bytes]:
    """Yield n encoded images of 8 by 8 pixels, one after another."""
    different = []
    for _ in range(4096):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file, "PNG")
        different.append(file.getvalue())
    yield from itertools.islice(itertools.cycle(different), n)


def write_features(file: Path, y: np.ndarray, d: int, rng: np.random.Generator) -> np.ndarray:
    """Write correlated random features in parts; return them memory-mapped."""
    features = np.lib.format.open_memmap(file, "w+", np.float32, (len(y), d))
    for start in range(0, len(y), 65536):
        part = rng.standard_normal((len(y[start : start + 65536]), d), dtype=np.float32)
        part[:, 0] += 2 * y[start : start + 65536] - 1
        features[start : start + 65536] = part
    features.flush()
    return features


def make(workspace: Workspace, n: int, d: int) -> None:
    """Write the bundle, and say how long that took and how much memory it needed."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, n)
    identities = rng.random((n, len(IDENTITIES))) < 0.08
    membership = np.concatenate([identities & (y == label)[:, None] for label in (0, 1)], axis=1)
    groups = [
        Group(name=f"{label}, {name}", definition=f"class = {label} and {name}")
        for label in ("fine", "toxic")
        for name in IDENTITIES
    ]
    words = [" ".join(line) for line in WORDS[rng.integers(0, len(WORDS), (4096, 20))]]
    samples = pd.DataFrame(
        {
            "sample_id": [f"image-{row:07d}" for row in range(n)],
            "split": rng.choice(list(SHARES), n, p=list(SHARES.values())),
            "y": y,
            "path": [f"images/{row % 997:03d}/{row:07d}.jpg" for row in range(n)],
            "text": [f"{words[row % 4096]} {words[row % 4093]} {row}" for row in range(n)],
            "place": rng.choice(["land", "water", "air", "city"], n),
            "source": rng.choice([f"site {number}" for number in range(500)], n),
            "year": rng.integers(1990, 2026, n),
        }
    )
    workspace.bundles.mkdir(parents=True, exist_ok=True)
    loose = workspace.bundles / ".features.npy"
    features = write_features(loose, y, d, rng)
    before, begun = resident(), time.perf_counter()
    write_bundle(
        workspace.bundles / NAME,
        samples=samples,
        membership=membership,
        groups=groups,
        classes=["fine", "toxic"],
        features=features,
        source="random numbers",
        thumbnails=tiny_images(n, rng),
        adopt_features=True,
    )
    seconds, loose_size = time.perf_counter() - begun, loose.stat().st_size
    loose.unlink()
    print(
        f"write_bundle of {n:,} rows x {d} features ({loose_size / 1e9:.1f} GB): {seconds:.1f} s, "
        f"{before:.0f} MiB held before, {peak():.0f} MiB at the peak of the process",
        flush=True,
    )


def compute(workspace: Workspace) -> None:
    """Compute the run, and say how long that took and how much memory it needed."""
    begun = time.perf_counter()
    run = compute_run(workspace, NAME, "gsr", device="cpu", steps=2)
    state = run.state
    print(
        f"run of 2 steps: {state.status}, {time.perf_counter() - begun:.1f} s, "
        f"{peak():.0f} MiB at the peak of the process {state.message}",
        flush=True,
    )


# What is measured ---------------------------------------------------------------------------


def listing(workspace: Workspace) -> object:
    """List the workspace's bundles."""
    return list_bundles(workspace)


def group_table(workspace: Workspace) -> object:
    """Count every group in every split, as the page Setup does."""
    return size_table(open_bundle(workspace, NAME))


def group_names(workspace: Workspace) -> object:
    """Name the groups of every row."""
    return open_bundle(workspace, NAME).group_labels


def filtered(workspace: Workspace) -> object:
    """Find rows by split, group, class and attribute, without a run."""
    bundle = open_bundle(workspace, NAME)
    rows = bundle.rows_of["train"]
    keep = bundle.membership[rows, 3] & (bundle.y[rows] == 0)
    return rows[keep & (bundle.column("place").to_pandas() == "water").to_numpy()[rows]]


def problem(workspace: Workspace) -> object:
    """Load what a method is given, which is the features of four splits."""
    return load_problem(open_bundle(workspace, NAME), pick("cpu"))


def samples_heldout(workspace: Workspace) -> object:
    """Open the rows that carry weights."""
    return sample_table(the_run(workspace), "heldout")


def samples_train(workspace: Workspace) -> object:
    """Open the largest split."""
    return sample_table(the_run(workspace), "train")


def page(workspace: Workspace) -> object:
    """Open the Samples page: a table, filters, an order, and the cards of page 3."""
    run = the_run(workspace)
    bundle = run.bundle
    table = sample_table(run, "train", bundle)
    places = passing(bundle, table, group="fine, muslim", prediction="wrong", order="highest loss")
    return cards(bundle, table, places, 3)


def whole_page(workspace: Workspace) -> object:
    """Do the same without a filter: all rows of the largest split are put in order."""
    run = the_run(workspace)
    bundle = run.bundle
    table = sample_table(run, "train", bundle)
    return cards(bundle, table, passing(bundle, table, order="highest loss"), 3)


COLD: dict[str, Callable[[Workspace], object]] = {
    "list_bundles": listing,
    "group table (split x group)": group_table,
    "group_labels of all rows": group_names,
    "filter: split, group, class, attribute": filtered,
    "sample_table of heldout, with weights": samples_heldout,
    "sample_table of train": samples_train,
    f"Samples page: filters, order, {CARDS} cards": page,
    f"Samples page: all of train, {CARDS} cards": whole_page,
    "load_problem (reads its features)": problem,
}


def warm(workspace: Workspace) -> dict[str, tuple[float, float]]:
    """Return elapsed and processor seconds of a click in a dashboard that is open already."""
    run = the_run(workspace)
    bundle = run.bundle
    table = sample_table(run, "train", bundle)
    places = passing(bundle, table, order="highest loss")
    cards(bundle, table, places, 0)
    size_table(bundle)
    selected = np.sort(np.random.default_rng(1).choice(len(bundle), 20_000, replace=False))
    actions: dict[str, Callable[[], object]] = {
        "another filter: group and prediction": lambda: passing(
            bundle, table, group="toxic, female", prediction="right", order="highest loss"
        ),
        "another filter: class": lambda: passing(bundle, table, y="toxic"),
        "another order of all of train": lambda: passing(bundle, table, order="lowest loss"),
        f"another page: {CARDS} cards": lambda: cards(
            bundle, table, places, len(places) // CARDS // 2
        ),
        "group table": lambda: size_table(bundle),
        "slice of 20,000 saved, loaded, applied": lambda: passing(
            bundle,
            table,
            rows=load_slice(workspace, bundle, save_slice(workspace, bundle, selected)),
        ),
    }
    seconds = {}
    for name, action in actions.items():
        begun, processor = time.perf_counter(), time.process_time()
        action()
        seconds[name] = time.perf_counter() - begun, time.process_time() - processor
    return seconds


def the_run(workspace: Workspace) -> Run:
    """Return the run that `compute` made."""
    return list_runs(workspace)[0]


def cards(bundle: Bundle, table: pd.DataFrame, places: np.ndarray, page: int) -> list[tuple]:
    """Return what the cards of a page show."""
    shown = table.iloc[places[page * CARDS : (page + 1) * CARDS]]
    return [
        (sample, bundle.thumbnail(sample["row"]), bundle.text(sample["row"]))
        for sample in shown.to_dict("records")
    ]


# Measuring ----------------------------------------------------------------------------------


def peak() -> float:
    """Return the largest resident memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident() -> float:
    """Return the resident memory of this process, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * mmap.PAGESIZE / 2**20


def forget(folder: Path) -> None:
    """Drop the files of a folder from the system's cache."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cached_share(file: Path) -> float:
    """Return the share of a file's pages that are in the system's cache."""
    size = file.stat().st_size
    pages = -(-size // mmap.PAGESIZE)
    mapped = np.memmap(file, np.uint8, "r")
    found = np.empty(pages, np.uint8)
    address, answer = (ctypes.c_void_p(array.ctypes.data) for array in (mapped, found))
    if ctypes.CDLL(None, use_errno=True).mincore(address, ctypes.c_size_t(size), answer):
        raise OSError(ctypes.get_errno(), "mincore failed")
    return float((found & 1).mean())


def measure(workspace: Workspace, name: str) -> None:
    """Do one thing in this process and print its seconds, memory and what it read."""
    features = workspace.bundles / NAME / "features.npy"
    forget(workspace.root)
    before = resident()
    begun, processor = time.perf_counter(), time.process_time()
    kept = COLD[name](workspace)
    seconds, processor = time.perf_counter() - begun, time.process_time() - processor
    share = cached_share(features)
    del kept
    unread = "not read" if share == 0 else f"{share:.0%} read"
    print(
        f"{name:42} {seconds:7.3f} s {processor:7.3f} s {peak() - before:7.0f} MiB  "
        f"features {unread}",
        flush=True,
    )


def main() -> None:
    """Make what is missing and measure everything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("directory", nargs="?", type=Path, help="a temporary one by default")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--only", help="what to do in this process; for the script's own use")
    arguments = parser.parse_args()
    if arguments.directory is None:
        with tempfile.TemporaryDirectory() as directory:
            again([directory, *sys.argv[1:]])
        return
    workspace = Workspace.at(arguments.directory)
    if arguments.only == "make":
        make(workspace, arguments.rows, arguments.features)
    elif arguments.only == "compute":
        compute(workspace)
    elif arguments.only == "warm":
        for name, (seconds, processor) in warm(workspace).items():
            print(f"{name:42} {seconds:7.3f} s {processor:7.3f} s", flush=True)
    elif arguments.only:
        measure(workspace, arguments.only)
    else:
        if not list_bundles(workspace):
            again([*sys.argv[1:], "--only", "make"])
        if not list_runs(workspace):
            again([*sys.argv[1:], "--only", "compute"])
        print("\ncold: a fresh process, nothing in the system's cache")
        print(f"{'':42} {'elapsed':>9} {'processor':>9} {'memory':>11}", flush=True)
        for name in COLD:
            again([*sys.argv[1:], "--only", name])
        print("\nwarm: one more click in an open dashboard", flush=True)
        again([*sys.argv[1:], "--only", "warm"])


def again(arguments: list[str]) -> None:
    """Run this script in a fresh process."""
    subprocess.run([sys.executable, __file__, *arguments], check=True)


if __name__ == "__main__":
    main()
