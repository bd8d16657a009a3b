"""Write the workspace of an older version that `tests/test_old_workspace.py` opens.

`workspace.tar.xz` and `expected.json.xz` beside this file were written by gsr-core 0.1.0 at commit
882ca08, the last one before the packages under `gsr_core` were divided anew. They are not written
again when the code changes: what matters is that they are old. To repeat how they were made, with
this environment's Python:

    git worktree add ../old 882ca08
    PYTHONPATH=../old python tests/old_workspace/make.py NEW_FOLDER

The archive holds a folder that a user would have: the data, a network, and `gsr_workspace`. All
paths inside are relative, as if everybody worked in that folder. `expected.json.xz` holds what the
old version said of it: what the command line printed, digests of arrays as it read them, and where
each interrupted run ends if nobody interrupts it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import lzma
import os
import shutil
import signal
import sqlite3
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from gsr_core.jobs.progress import JobState, keep_arguments, read_job, request_stop, write_job
from gsr_core.jobs.studies import compute_study
from gsr_core.runs.clustering import list_clusterings, merge_clusters, rename_cluster
from gsr_core.runs.slices import flag_rows, name_slice
from gsr_core.runs.study import make_study
from gsr_core.runs.sweep import make_sweep, run_sweep

import gsr_core
from gsr_core import Run, Workspace
from gsr_core.cli import main
from gsr_core.data.bundle import open_bundle
from gsr_core.errors import RunStateError
from gsr_core.ingest import import_data, make_plan
from gsr_core.jobs.lock import worker_alive
from gsr_core.jobs.queue import open_queue, start_job
from gsr_core.jobs.tasks import make_tasks
from gsr_core.methods.fit import Progress, Status
from gsr_core.methods.registry import METHODS, make_method
from gsr_core.runs.execute import execute
from gsr_core.runs.store import create_run, list_runs

SIZES = {"train": 60, "heldout": 80, "target": 48, "val": 48, "test": 96}
NETWORK = '''"""A network whose features are the walk-through's."""

import torch
from torch import nn


def make(shift: float = 0.0) -> nn.Module:
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            angle = torch.arange(parameter.numel()) * 1.7 + number + shift
            parameter.copy_(torch.sin(angle).reshape(parameter.shape))
    return network
'''
BACKBONE = {
    "name": "own:network:make",
    "trust": True,
    "overrides": {"modality": "numbers"},
}
STEPS, STOP = 6, 2
"""An interrupted run has done `STOP` steps of `STEPS`."""
IN_THE_QUEUE = "from-the-queue"


def table() -> pd.DataFrame:
    """Return samples of two classes in two places; a majority lives where its class does."""
    draw = np.random.default_rng(0)
    split = np.repeat(list(SIZES), list(SIZES.values()))
    number = np.arange(len(split))
    y = number % 2
    rare = np.isin(split, ["train", "heldout"]) & (draw.random(len(split)) < 0.7)
    place = np.where(rare, y, number // 2 % 2)
    features = 0.5 * draw.normal(size=(len(split), 4))
    features[:, 0] += 1.2 * y
    features[:, 1] += 3 * place - 1.5
    return pd.DataFrame(
        {
            "id": [f"bird-{n:04d}" for n in number[::-1]],
            "species": np.array(["land", "water"])[y],
            "place": np.array(["field", "lake"])[place],
            "split": split,
            **{f"x{k}": features[:, k].round(3) for k in range(4)},
        }
    )


def plan(name: str, path: str = "birds.csv", **more: Any) -> dict[str, Any]:
    """Return the arguments of an import of the table through the network."""
    values = make_plan(
        name=name,
        reader="table",
        settings={"path": path},
        roles={"label": "species", "sample_id": "id", "attributes": ["place"]},
        **{"extraction": {"device": "cpu", "workers": 0}, **more},
    )
    return {"plan": values.model_dump(mode="json"), "overwrite": False}


def gsr(*arguments: object) -> Any:
    """Return what the command line prints with `--json`."""
    out = io.StringIO()
    sys.argv = ["gsr", *map(str, arguments), "--json"]
    with contextlib.redirect_stdout(out):
        try:
            main()
        except SystemExit as stop:
            if stop.code:
                raise
    # Wherever the workspace is; the old version wrote out the absolute path.
    text = out.getvalue().replace(str(Path.cwd()), "HERE")
    return json.loads(text)


def digest(array: Any) -> str:
    """Return a digest of an array's type, shape and content."""
    array = np.ascontiguousarray(array)
    if array.dtype == object:
        array = array.astype(str)
    head = f"{array.dtype.kind} {array.shape} ".encode()
    content = "\n".join(array.tolist()).encode() if array.dtype.kind == "U" else array.tobytes()
    return hashlib.sha256(head + content).hexdigest()[:16]


def reading(run: Run) -> dict[str, Any]:
    """Return digests of all that can be read of a run."""
    weights, head, influence = run.weights(), run.head(), run.influence()
    history = run.metrics()
    return {
        "metrics": {name: digest(history[name].to_numpy()) for name in history},
        "head": None if head is None else [digest(part) for part in head],
        "influence": None if influence is None else digest(influence),
        "weights": None
        if weights is None
        else {name: digest(weights[name].to_numpy()) for name in weights},
        "history": {str(step): digest(run.weights_at(step)) for step in run.weight_steps()},
    }


def outcome(run: Run) -> dict[str, Any]:
    """Return the numbers of a run that went through, as text: base64 of little-endian floats."""
    weights, head, influence = run.weights(), run.head(), run.influence()
    history, state = run.metrics(), run.state
    assert state.status is Status.FINISHED, (run.run_id, state)
    assert head is not None

    def pack(array: Any) -> dict[str, Any]:
        array = np.ascontiguousarray(array, dtype="<f4")
        return {"shape": array.shape, "f4": base64.b64encode(array.tobytes()).decode()}

    return {
        "digests": reading(run),
        "best_step": state.best_step,
        "step": state.step,
        "head": [pack(part) for part in head],
        "weight": None if weights is None else pack(weights["weight"]),
        "influence": None if influence is None else pack(influence),
        "history": {str(step): pack(run.weights_at(step)) for step in run.weight_steps()[-1:]},
        "metrics": pack(history.loc[history["metric"] != "seconds", "value"]),
    }


def until(happened: Callable[[], bool]) -> None:
    """Wait for a worker process."""
    begun = time.monotonic()
    while not happened():
        assert time.monotonic() - begun < 300
        time.sleep(0.05)


def stop_workers(place: Workspace) -> None:
    """End the workers of this workspace, and wait until they are gone."""
    for file in place.jobs.glob("worker-*.pid"):
        name = file.stem.removeprefix("worker-")
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(file.read_text()), signal.SIGKILL)
        until(lambda name=name: not worker_alive(place, name))
        file.unlink()
    for file in place.jobs.glob("worker-*.log"):
        file.unlink()


def at_stop(progress: Progress) -> bool:
    """Stop a run in the middle."""
    return progress.step_index == STOP


def die(progress: Progress) -> bool:
    """End the process of a run in the middle, as a crash does."""
    if progress.step_index == STOP:
        raise SystemExit
    return False


def make_runs(place: Workspace) -> dict[str, str]:
    """Make the runs; return the names of those that are to be continued, by what they are."""
    for seed in range(3):
        for method in ("llr", "dfr"):
            gsr("run", "birds", "--method", method, "--device", "cpu", "--seed", seed)
    for method in ("erm", "jtt", "pgd", "ssa", "grasp", "gsr"):
        steps = ["--set", "steps=5"] if "steps" in make_method(method).settings() else []
        gsr("run", "birds", "--method", method, "--device", "cpu", *steps)
    named = {}
    stepped = [
        name
        for name, each in METHODS.items()
        if each.acts_on == "head" and "steps" in make_method(name).settings()
    ]
    wanted: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
        # What SPARE does by itself has one step.
        (name, name, {"then": "group_dro"} if name == "spare" else {}, {})
        for name in stepped
    ]
    wanted += [
        ("group_dro by gradient", "group_dro", {"solver": "online"}, {}),
        ("gsr on noise", "gsr", {"seed": 2}, {"label_noise": 0.2}),
        ("gsr with few labels", "gsr", {"seed": 1}, {"target_share": 0.5}),
        ("grasp then gsr", "grasp", {"then": "gsr"}, {}),
    ]
    for label, method, settings, variation in wanted:
        settings = {"steps": STEPS, **settings}
        run = create_run(place, "birds", method, settings, device="cpu", variation=variation)
        state = execute(run, monitor=at_stop)
        assert state.status is Status.CANCELLED, (label, state)
        named[label] = run.run_id
    dead = create_run(place, "birds", "gsr", {"steps": STEPS}, device="cpu")
    with contextlib.suppress(SystemExit):
        execute(dead, monitor=die)
    assert dead.stored_state().status is Status.RUNNING
    named["died"] = dead.run_id
    return named


def make_curation(place: Workspace) -> None:
    """Make a clustering with edits, a bundle of its clusters, slices and flags."""
    bundle = open_bundle(place, "birds")
    gsr("cluster", "birds", "--with", "kmeans", "--set", "max_clusters=3", "--flag-outliers")
    gsr("cluster", "birds", "--with", "grasp")
    first = next(
        each for each in list_clusterings(place, bundle) if each.record.request.inference != "grasp"
    )
    one, other = [number for number, y in enumerate(first.record.classes) if y == 1][:2]
    merge_clusters(first, one, other)
    rename_cluster(first, one, "at the lake")
    gsr(
        "cluster", "birds", "--with", "kmeans", "--set", "max_clusters=2", "--groups", "birds-found"
    )
    name_slice(place, bundle, "the first ten", np.arange(10), about="by hand")
    name_slice(place, bundle, "Wasservögel", np.flatnonzero(bundle.y == 1), about="water")
    flag_rows(place, bundle, np.array([3, 5]), "looks wrong", proposed_label="water")
    flag_rows(place, bundle, np.array([5, 8]), "blurred", note="see the original")


def make_jobs(place: Workspace) -> None:
    """Leave jobs that ended in every way, and one that waits in the queue."""
    digest_ = open_bundle(place, "birds").manifest.digest
    config = {"bundle": digest_, "space": "features", "method": "pca"}
    start_job(place, "map", "features", {"config": config, "run_id": None, "bundle": "birds"})
    start_job(place, "import", "later", plan("later", "later.csv"))
    start_job(place, "import", "stopped", plan("stopped"))
    request_stop(place, "import", "stopped")
    for kind, key in (("map", "features"), ("import", "later"), ("import", "stopped")):
        until(lambda kind=kind, key=key: not getattr(read_job(place, kind, key), "active", True))
    stop_workers(place)
    waiting = plan(IN_THE_QUEUE)
    keep_arguments(place, "import", IN_THE_QUEUE, waiting)
    write_job(place, JobState(kind="import", key=IN_THE_QUEUE, text="Waiting for the worker"))
    tasks = make_tasks(place, open_queue(place, "imports"))
    tasks["import"](key=IN_THE_QUEUE, **waiting)
    # What is in the log of the data base goes into its file.
    with sqlite3.connect(place.jobs / "queue.sqlite3") as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert database.execute("SELECT queue FROM task").fetchall() == [("imports",)]


def begin_extraction(place: Workspace) -> None:
    """Leave an import through the network whose features are computed in part."""
    values = plan(
        "half",
        backbone={**BACKBONE, "arguments": {"shift": 0.5}},
        extraction={"device": "cpu", "workers": 0, "batch_size": 50},
    )
    asked = iter([False, False, True])
    with contextlib.suppress(RunStateError):
        import_data(place, make_plan(**values["plan"]), should_stop=lambda: next(asked))
    assert not (place.bundles / "half").exists()


STUDY = ("study", "noise", "birds", "--methods", "llr,gsr", "--levels", "0,0.3", "--seeds", 1)
STUDY += ("--set", "gsr.steps=3", "--device", "cpu")
SWEEP = ("sweep", "birds", "--method", "llr", "--trials", 3, "--seeds", 2, "--device", "cpu")


def make_grids(place: Workspace) -> None:
    """Make a study and a sweep that are done, and one of each that was stopped."""
    gsr(*STUDY, "--name", "done")
    gsr(*SWEEP, "--name", "done")
    half = make_study(
        place, "noise", "birds", ["llr", "gsr"],
        levels=[0, 0.3], settings={"gsr": {"steps": 3}}, seeds=1, device="cpu", name="stopped",
    )  # fmt: skip
    with contextlib.suppress(RunStateError):
        compute_study(half, should_stop=lambda: len(half.record.runs) == 2)
    sweep = make_sweep(place, "birds", "llr", trials=3, seeds=2, device="cpu", name="stopped")
    with contextlib.suppress(RunStateError):
        run_sweep(sweep, should_stop=lambda: len(sweep.trials()) == 2)


def pack(folder: Path, file: Path) -> None:
    """Write a folder as an archive that says nothing of this machine."""

    def neutral(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = 0
        member.mode = 0o755 if member.isdir() else 0o644
        return member

    with tarfile.open(file, "w:xz", preset=9, format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(folder.rglob("*")):
            archive.add(path, path.relative_to(folder), recursive=False, filter=neutral)
    here = str(Path.home()).encode(), str(folder).encode(), sys.prefix.encode()
    for path in folder.rglob("*"):
        if path.is_file() and any(each in path.read_bytes() for each in here):
            raise AssertionError(f"{path} says where it was made")


def main_(to: Path) -> None:
    """Make the workspace, then ask the old version about copies of it."""
    torch.set_num_threads(1)
    to = to.resolve()
    to.mkdir(parents=True, exist_ok=True)
    base = Path(tempfile.mkdtemp())
    home = base / "home"
    home.mkdir()
    os.chdir(home)
    os.environ.pop("GSR_WORKSPACE", None)
    table().to_csv("birds.csv", index=False)
    Path("network.py").write_text(NETWORK)
    place = Workspace.at()
    assert place.root == home / "gsr_workspace"
    import_data(place, make_plan(**plan("birds", backbone=BACKBONE)["plan"]))
    begin_extraction(place)
    named = make_runs(place)
    waiting = create_run(place, "birds", "gsr", {"steps": STEPS, "lr": 0.5}, device="cpu")
    make_curation(place)
    make_grids(place)
    make_jobs(place)
    shutil.rmtree(home / "__pycache__", ignore_errors=True)
    for file in place.jobs.glob("queue.sqlite3-*"):
        file.unlink()
    pack(home, to / "workspace.tar.xz")

    # What is asked may write, so a copy is asked.
    shutil.copytree(home, base / "asked")
    os.chdir(base / "asked")
    place = Workspace.at()
    runs = list_runs(place)
    by_method: dict[str, list[str]] = {}
    for run in reversed(runs):
        if run.state.status is Status.FINISHED and not run.config.part_of:
            by_method.setdefault(run.config.method, []).append(run.run_id)
    three = by_method["llr"][:3] + by_method["dfr"][:3]
    questions: list[tuple[object, ...]] = [
        ("bundles",),
        ("runs", "--all"),
        *(("show", run.run_id) for run in reversed(runs)),
        ("compare", *three),
        ("compare", *three, "--reference", by_method["dfr"][0]),
        ("compare", by_method["gsr"][0], by_method["grasp"][0], by_method["erm"][0]),
        ("slices", "birds"),
        ("flags", "birds"),
        ("cluster", "birds", "--with", "kmeans", "--set", "max_clusters=3"),
        ("cluster", "birds", "--with", "grasp", "--split", "test"),
        (*STUDY, "--name", "done"),
        (*SWEEP, "--name", "done"),
    ]
    expected: dict[str, Any] = {
        "written_by": runs[0].config.versions,
        "steps": STEPS,
        "waiting": waiting.run_id,
        "interrupted": named,
        "answers": [{"asked": list(map(str, q)), "answer": gsr(*q)} for q in questions],
        "reading": {run.run_id: reading(run) for run in runs},
        "study": list(map(str, STUDY)),
        "sweep": list(map(str, SWEEP)),
    }
    execute(waiting_copy := Run(place, place.runs / waiting.run_id))
    whole = {waiting.run_id: outcome(waiting_copy)}
    for run_id in named.values():
        config = Run(place, place.runs / run_id).config
        run = create_run(
            place, "birds", config.method, config.settings,
            device="cpu", variation=config.variation,
        )  # fmt: skip
        execute(run)
        whole[run_id] = outcome(run)
    expected["whole"] = whole
    text = json.dumps(expected, indent=1, allow_nan=False) + "\n"
    (to / "expected.json.xz").write_bytes(lzma.compress(text.encode(), preset=9))
    shutil.rmtree(base)
    for file in sorted(to.iterdir()):
        print(f"{file.name}: {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    assert gsr_core.__file__ is not None
    print("written by", Path(gsr_core.__file__).parent)
    main_(Path(sys.argv[1]))
