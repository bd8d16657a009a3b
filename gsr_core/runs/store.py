"""Runs on disk.

```
<run_id>/config.json                 what was asked for (`RunConfig`)
         state.json                  how it stands (`RunState`)
         metrics.parquet             step, split, group, metric, value; group "" for all together
         weight_history.safetensors  steps (s,) and weight (s, n): the weights over the steps; rows
                                     (n,): positions in the bundle of the rows that have them
         checkpoint.safetensors      where to go on, and the kept step so far
         head.safetensors            weight (K, d), bias (K,): the kept head, on raw features
         weights.parquet             sample_id, row, group, y, weight at the kept step; and
                                     inferred_group where the method infers groups; flipped
                                     where labels are noisy, y being what the method saw
         influence.npy               (n, m) influence at the kept step on the groups that the method
                                     saw, rows as in weights.parquet
         influence/STEP.npy          the same at another step, where somebody asked for it
         looks/*.parquet             where it looks, where somebody asked for it (`looking.measure`)
         scores-*.npy                what the kept head says of every row (`runs.samples`)
         base_weights.npy            (n,) the weights that the last edit of the variation changes,
                                     where it has one: the kept ones of the run that was edited
         log.txt                     what happened when
         title.txt                   the user's name for it, if it has one
         lock                        held by the process that computes
         cancel                      there when somebody asked the run to stop
         full                        there while the run has not been able to write down that, or
                                     what it had when, the disk was full
```

Every file is replaced whole. The process that computes holds `lock`, which the operating system
lets go when the process dies, however it dies: a run that says it is running while nobody holds
its lock has lost its process, and whoever reads it first marks it failed and makes the last stored
step readable. It does the same for a run that found the disk full, for which there is still room
for an empty file.

The file is long because reading and writing of the whole format stand side by side.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from gsr_core.data.bundle import Bundle, bundle_reference, load_head, open_bundle
from gsr_core.data.seen import seen_groups
from gsr_core.data.seen_rows import positions_of, seen_labels
from gsr_core.data.variation import Variation, make_variation
from gsr_core.errors import (
    BundleError,
    GsrError,
    RunNotFoundError,
    RunStateError,
    SettingError,
)
from gsr_core.files import disk_full, is_full, replace_file
from gsr_core.methods.base import Method
from gsr_core.methods.history import HISTORY_COLUMNS
from gsr_core.methods.registry import METHODS, make_method
from gsr_core.names import is_name
from gsr_core.notebook import as_table
from gsr_core.progress import Status
from gsr_core.runs.record import FORMAT, RunConfig, RunState, versions
from gsr_core.runs.recovery import recover
from gsr_core.workspace import Workspace

TITLE_LENGTH = 80
"""Most characters of the user's name for a run."""

__all__ = ["TITLE_LENGTH", "Run", "check_variation", "create_run", "list_runs", "now", "open_run"]


def now() -> str:
    """Return the time, ISO 8601, UTC; to the millisecond, because runs are sorted by it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Run:
    """One run on disk.

    >>> run = gsr.run(place, "birds", "gsr", steps=4)
    >>> run.weight_steps()
    array([1, 2, 3, 4])
    >>> weight, bias = run.head()
    >>> weight.shape, bias.shape
    ((2, 5), (2,))
    """

    workspace: Workspace
    path: Path

    @property
    def run_id(self) -> str:
        """Name of the run."""
        return self.path.name

    @property
    def config(self) -> RunConfig:
        """What was asked for."""
        return RunConfig.model_validate_json((self.path / "config.json").read_text())

    @property
    def state(self) -> RunState:
        """How the run stands; one whose process died or found no room is marked failed first."""
        state = self.stored_state()
        if state.status is Status.RUNNING or self.full_marker.exists():
            try:
                with self.lock():
                    # Read again: it may have ended between the two looks.
                    state = self.stored_state()
                    if state.status is Status.RUNNING or self.full_marker.exists():
                        state = recover(self, state)
            except RunStateError:
                pass
        return state

    @property
    def bundle(self) -> Bundle:
        """The bundle that the run was made on."""
        return open_bundle(self.workspace, self.config.bundle)

    def unchanged_bundle(self) -> Bundle:
        """Return the run's bundle.

        Raises:
            BundleError: If its content is no longer what the run was made on.
        """
        bundle = self.bundle
        if bundle.manifest.digest != self.config.bundle_digest:
            raise BundleError(
                f"bundle '{bundle.name}' has changed since this run was made; make a new run"
            )
        return bundle

    def rows_of(self, split: str, bundle: Bundle | None = None) -> np.ndarray:
        """Return the positions of a split's rows as this run saw them.

        Those of `target` and `val` are not the bundle's own if the run's seed redrew the two or
        its variation changed them.

        Args:
            split: One of the bundle's splits.
            bundle: The run's bundle, if it is open already.
        """
        config = self.config
        variation = make_variation(config.variation)
        return positions_of(bundle or self.bundle, config.seed, variation)[split]

    def groups_seen(self, bundle: Bundle | None = None) -> list[str]:
        """Return the names of the groups that the method sees; the bundle's, unless it was told.

        Args:
            bundle: The run's bundle, if it is open already.
        """
        variation = make_variation(self.config.variation)
        return seen_groups(bundle or self.bundle, variation).names

    @property
    def values_split(self) -> str:
        """The split whose rows have the weights."""
        method = METHODS[self.config.method]
        on_target = method.values_on == "target"
        return "target" if on_target else method.fitted_split(self.bundle.manifest)

    def _repr_html_(self) -> str:
        """Return how the run stands and its accuracies as a small table, for a notebook."""
        # Here, not on top: it reads runs.
        from gsr_core.runs.summary import AVERAGES, run_label, summarise

        found = summarise(self)
        title = f"{run_label(self)} on {found['bundle']}: {found['status']}"
        if found["test"] is None:
            return as_table(title, [], [])

        def row(name: str, n: str, *shares: float | None) -> dict[str, str]:
            val, test = ("–" if share is None else f"{share:.1%}" for share in shares)
            return {f"at step {found['best_step']}": name, "val": val, "test": test, "n (test)": n}

        rows = [
            row(name.replace("_", " "), "", found["val"][name], found["test"][name])
            for name in AVERAGES
        ]
        rows += [
            row(test["group"], f"{test['n']:,}", val["accuracy"], test["accuracy"])
            for val, test in zip(found["val"]["groups"], found["test"]["groups"], strict=True)
        ]
        return as_table(title, list(rows[0]), rows)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run's lock.

        Raises:
            RunStateError: If another process holds it: the run is being computed.
        """
        try:
            with FileLock(self.path / "lock", timeout=0):
                yield
        except Timeout:
            raise RunStateError(
                f"run '{self.run_id}' is being computed by another process; wait for it or cancel "
                "it first"
            ) from None

    # Reading -------------------------------------------------------------------------------

    def metrics(self) -> pd.DataFrame:
        """Return the history: step, split, group, metric, value; empty before the first step."""
        file = self.path / "metrics.parquet"
        if not file.exists():
            return pd.DataFrame(columns=HISTORY_COLUMNS)
        return pd.read_parquet(file)

    def weights(self, columns: list[str] | None = None) -> pd.DataFrame | None:
        """Return sample_id, row, group, y, weight at the kept step; None if it has no weights.

        `row` is the position in the bundle; the weights sum to one. A method that infers groups
        adds `inferred_group`, -1 for outliers. With label noise, `y` is the class that the method
        saw and `flipped` says whether it is another one than the bundle's.

        Args:
            columns: Only those of these that it has, read without the others.
        """
        file = self.path / "weights.parquet"
        if not file.exists():
            return None
        # Not `pd.read_parquet`, whose first call alone takes seconds for what it imports.
        with pq.ParquetFile(file) as opened:
            there = opened.schema_arrow.names
            wanted = there if columns is None else [name for name in columns if name in there]
            return opened.read(columns=wanted).to_pandas()

    def influence(self) -> np.ndarray | None:
        """Return (n, m) influence at the kept step in nats, rows as in `weights`, or None."""
        return self.influence_of(self.state.best_step)

    def influence_of(self, step: int) -> np.ndarray | None:
        """Return (n, m) influence at a step, or None until `influence_at` is asked for it."""
        file = self.influence_file(step)
        return np.load(file, mmap_mode="r", allow_pickle=False) if file.exists() else None

    def influence_file(self, step: int) -> Path:
        """Return where the influence at a step is kept."""
        if step == self.state.best_step:
            return self.path / "influence.npy"
        return self.path / "influence" / f"{step}.npy"

    def head(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Return weight (K, d) and bias (K,) of the kept head, or None before the end."""
        return load_head(self.head_file) if self.head_file.exists() else None

    def kept_head(self) -> tuple[np.ndarray, np.ndarray]:
        """Return what `head` does, of a run that should have ended.

        Raises:
            RunStateError: If it has no head yet.
        """
        head = self.head()
        if head is None:
            raise RunStateError(f"run '{self.run_id}' has no head yet; wait until it has ended")
        return head

    @property
    def head_file(self) -> Path:
        """Where the kept head is."""
        return self.path / "head.safetensors"

    def base_weights(self) -> np.ndarray:
        """Return the (n,) weights that the last edit of the run's variation changes."""
        return np.load(self._base_weights_file, allow_pickle=False)

    @property
    def _base_weights_file(self) -> Path:
        return self.path / "base_weights.npy"

    @property
    def features_file(self) -> Path:
        """Where a run keeps the features of a network that it trained itself."""
        return self.path / "features.npy"

    def seen(self, bundle: Bundle | None = None) -> Bundle:
        """Return the run's bundle with the features that the run's head is for.

        They are the bundle's own, or those of the network that the run trained; its identity is
        another one then, so that maps of the two are not taken for each other.

        Args:
            bundle: The run's bundle, if it is open already.
        """
        bundle = bundle or self.bundle
        if not self.features_file.exists():
            return bundle
        step = f"run {self.run_id}, step {self.stored_state().best_step}"
        digests = {**bundle.manifest.digests, "features.npy": step, "head.safetensors": step}
        seen = replace(
            bundle,
            manifest=bundle.manifest.model_copy(update={"digests": digests}),
            trained=self.path,
        )
        # Tables that were read need not be read again.
        read = {name: value for name, value in vars(bundle).items() if name not in vars(seen)}
        vars(seen).update({name: read[name] for name in read.keys() - {"features", "head"}})
        return seen

    def weight_steps(self) -> np.ndarray:
        """Return the steps whose weights were stored, ascending; the kept one is among them."""
        file = self.path / "weight_history.safetensors"
        if not file.exists():
            return np.zeros(0, dtype=np.int64)
        with safe_open(file, framework="numpy") as stored:
            return stored.get_tensor("steps")

    def weighted_rows(self) -> np.ndarray:
        """Return the (n,) positions in the bundle of the rows that have a weight.

        Their order is that of `weights` and of all that is stored of the weights over the steps.
        """
        file = self.path / "weight_history.safetensors"
        if file.exists():
            with safe_open(file, framework="numpy") as stored:
                if "rows" in stored.keys():  # noqa: SIM118
                    return stored.get_tensor("rows")
        # Runs without weights, and those of before the rows were stored.
        return self.rows_of(self.values_split)

    def weights_at(self, step: int) -> np.ndarray:
        """Return the (n,) weights at a stored step, rows as in `weights`, without reading others.

        Raises:
            RunStateError: If the weights of that step were not stored.
        """
        places = np.flatnonzero(self.weight_steps() == step)
        if not places.size:
            raise RunStateError(
                f"run '{self.run_id}' has no weights of step {step}; stored steps are "
                f"{self.weight_steps().tolist()}"
            )
        with safe_open(self.path / "weight_history.safetensors", framework="numpy") as stored:
            return stored.get_slice("weight")[int(places[0]) : int(places[0]) + 1][0]

    def weight_path(self, index: int) -> np.ndarray:
        """Return the weights of one row of `weights` at each of `weight_steps`."""
        with safe_open(self.path / "weight_history.safetensors", framework="numpy") as stored:
            return stored.get_slice("weight")[:, index : index + 1][:, 0]

    def checkpoint(self) -> dict[str, np.ndarray] | None:
        """Return what a run goes on from, or None before the first step."""
        file = self.path / "checkpoint.safetensors"
        return load_file(file) if file.exists() else None

    def log_text(self) -> str:
        """Return the log."""
        file = self.path / "log.txt"
        return file.read_text() if file.exists() else ""

    @property
    def title(self) -> str:
        """The user's name for the run, or ""."""
        file = self.path / "title.txt"
        return file.read_text().strip() if file.exists() else ""

    # Writing -------------------------------------------------------------------------------

    def rename(self, title: str) -> None:
        """Give the run a name for people; "" takes it away. The run's id stays what it is.

        Raises:
            SettingError: If the name is longer than `TITLE_LENGTH` or has more than one line.
        """
        title = title.strip()
        if len(title) > TITLE_LENGTH or len(title.splitlines()) > 1:
            raise SettingError(
                f"the name has {len(title)} characters in {len(title.splitlines())} lines; a run's "
                f"name has one line of at most {TITLE_LENGTH}"
            )
        with replace_file(self.path / "title.txt") as temporary:
            temporary.write_text(title + "\n")

    def log(self, text: str) -> None:
        """Add a line to the log, if there is room for it.

        Raises:
            OSError: If it cannot be written for another reason.
        """
        try:
            with (self.path / "log.txt").open("a") as file:
                file.write(f"{now()} {text}\n")
        except OSError as error:
            if not is_full(error):
                raise

    def write_config(self, config: RunConfig) -> None:
        """Replace the configuration."""
        with replace_file(self.path / "config.json") as temporary:
            temporary.write_text(config.model_dump_json(indent=2) + "\n")

    def write_state(self, state: RunState) -> None:
        """Replace the state."""
        with replace_file(self.path / "state.json") as temporary:
            temporary.write_text(state.model_dump_json(indent=2) + "\n")

    def write_metrics(self, history: pd.DataFrame) -> None:
        """Replace the history."""
        with replace_file(self.path / "metrics.parquet") as temporary:
            history.to_parquet(temporary, index=False)

    def write_arrays(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        """Replace a safetensors file."""
        with replace_file(self.path / name) as temporary:
            # Not ascontiguousarray, which would give a single number an axis.
            save_file(
                {key: np.asarray(array, order="C") for key, array in arrays.items()}, temporary
            )

    def write_weight_history(self, weights: dict[int, np.ndarray], rows: np.ndarray) -> None:
        """Replace the weights over the steps.

        Args:
            weights: (n,) by step.
            rows: (n,) positions in the bundle.
        """
        steps = sorted(weights)
        self.write_arrays(
            "weight_history.safetensors",
            {
                "steps": np.array(steps, dtype=np.int64),
                "weight": np.stack([weights[step] for step in steps]),
                "rows": rows,
            },
        )

    def write_kept(self, kept: dict[str, np.ndarray]) -> None:
        """Write the files of the kept step.

        Args:
            kept: `head_weight` and `head_bias`, optionally `sample_weight` with `rows`, the
                positions in the bundle, and `inferred_group`; and `influence`.

        Raises:
            BundleError: If the bundle's content is no longer what the run was made on.
        """
        if "sample_weight" in kept:
            bundle, rows = self.unchanged_bundle(), kept["rows"]
            columns = {
                "sample_id": bundle.column("sample_id").take(pa.array(rows)).to_pandas(),
                "row": rows,
                "group": bundle.labels_at(rows).to_pandas(),
                "y": bundle.y[rows],
                "weight": kept["sample_weight"],
            }
            config = self.config
            variation = make_variation(config.variation)
            if variation.changes_labels:
                columns["y"] = seen_labels(bundle, config.seed, variation)[rows]
                columns["flipped"] = columns["y"] != bundle.y[rows]
            if "inferred_group" in kept:
                columns["inferred_group"] = kept["inferred_group"]
            table = pd.DataFrame(columns)
            with replace_file(self.path / "weights.parquet") as temporary:
                table.to_parquet(temporary, index=False)
        if "influence" in kept:
            with replace_file(self.path / "influence.npy") as temporary, temporary.open("wb") as f:
                np.save(f, kept["influence"].astype(np.float32))
        else:
            # Of a step that is no longer the kept one.
            (self.path / "influence.npy").unlink(missing_ok=True)
        # Last: who sees a new head may take the other files for new as well.
        self.write_arrays(
            self.head_file.name,
            {
                "weight": kept["head_weight"].astype(np.float32),
                "bias": kept["head_bias"].astype(np.float32),
            },
        )

    def request_cancel(self) -> None:
        """Ask the run to stop: at once if it waits, after the current step if it computes."""
        (self.path / "cancel").touch()
        try:
            with self.lock():
                state = self.stored_state()
                if state.status is Status.QUEUED:
                    self.write_state(state.model_copy(update={"status": Status.CANCELLED}))
                    self.log("cancelled while queued")
        except RunStateError:
            pass

    @property
    def cancel_requested(self) -> bool:
        """Whether somebody asked the run to stop."""
        return (self.path / "cancel").exists()

    def stored_state(self) -> RunState:
        """Return the state as it is on disk, without a look whether its process still lives."""
        state = RunState.model_validate_json((self.path / "state.json").read_text())
        if state.active and self.full_marker.exists():
            return state.model_copy(update={"status": Status.FAILED, "message": "the disk is full"})
        return state

    @property
    def full_marker(self) -> Path:
        """The empty file that says that the run found no room; see `give_up`."""
        return self.path / "full"

    def give_up(self) -> RunState:
        """Write down, as far as there is room, that the run ended because the disk is full.

        The caller holds the lock.
        """
        self.full_marker.touch()
        return recover(self, self.stored_state())


def create_run(
    workspace: Workspace,
    bundle: str,
    method: str,
    settings: dict[str, Any] | None = None,
    *,
    device: str = "auto",
    variation: dict[str, Any] | None = None,
    part_of: str = "",
    sweep: str = "",
    base_weights: np.ndarray | None = None,
) -> Run:
    """Check everything that can be checked, then make a run that waits to be computed.

    Args:
        workspace: Where.
        bundle: Name of a bundle in the workspace, or the path of its directory.
        method: A key of the registry.
        settings: Hyperparameters that differ from the defaults.
        device: `auto` or a device name.
        variation: See `RunConfig`; the names and values are those of `data.variation.Variation`.
        part_of: See `RunConfig`.
        sweep: See `RunConfig`.
        base_weights: (n,) the weights that the last edit of the variation changes; only with one.

    Raises:
        GsrError: If the bundle, the method, a setting or the device is not right; then nothing is
            left behind.
        SettingError: If the variation has edits and there are no weights to change, or the other
            way round.

    >>> run = create_run(place, "birds", "gsr", {"steps": 3})
    >>> print(run.state.status)
    queued
    """
    # Here, not on top: whoever only lists runs need not load torch's device machinery.
    from gsr_core.compute import pick

    opened = open_bundle(workspace, bundle)
    chosen = make_method(method, settings)
    chosen.check()
    chosen.check_classes(opened.manifest.classes)
    if chosen.acts_on == "network":
        # Here, not on top: whoever lists runs need not load what opens networks.
        from gsr_core.ingest.reopen import check_trainable

        check_trainable(opened, str(chosen.settings()["start"]))
    if chosen.reads_words:
        # Likewise.
        from gsr_core.ingest.text_side import check_phrases

        check_phrases(opened)
    varied = make_variation(variation)
    check_variation(chosen, varied)
    if (base_weights is None) != (not varied.edits):
        raise SettingError(
            "an edit is of the rows of a finished run; make one with 'gsr whatif RUN', on the page "
            "What if, or by what_if.keep_refit"
        )
    if varied.seen_groups is not None:
        seen_groups(opened, varied).check_rows(
            positions_of(opened, chosen.seed, varied), chosen.fitted_split(opened.manifest)
        )
    pick(device)
    run_id = f"{method}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"
    run = Run(workspace, workspace.runs / run_id)
    config = RunConfig(
        run_id=run_id,
        created=now(),
        bundle=bundle_reference(workspace, opened),
        bundle_digest=opened.manifest.digest,
        method=method,
        settings=chosen.settings(),
        device=device,
        variation=varied.changes(),
        part_of=part_of,
        sweep=sweep,
        versions=versions(),
    )
    try:
        with disk_full("a new run"):
            run.path.mkdir(parents=True)
            if base_weights is not None:
                np.save(run._base_weights_file, base_weights)
            run.write_state(RunState(steps=1 if varied.edits else chosen.max_steps))
            # The configuration comes last: a directory without one is not a run yet.
            run.write_config(config)
    except BaseException:
        shutil.rmtree(run.path, ignore_errors=True)
        raise
    run.log(f"created: {method} on {opened.name}, settings {chosen.settings()}")
    return run


def check_variation(method: Method, variation: Variation) -> None:
    """Refuse changes of the labels or weights of rows that a method does not fit.

    Args:
        method: With its settings.
        variation: Of its run.

    Raises:
        SettingError: If there would be some.
    """
    noise = {"label noise": variation.label_noise, "group noise": variation.group_noise}
    if variation.edits:
        # Here, not on top: whoever only reads runs need not wait for torch.
        from gsr_core.methods.edited import edited_refit

        edited_refit(method)
    for what, share in noise.items():
        if share and method.acts_on == "network":
            raise SettingError(
                f"{what} of {share:g} is of the rows that heads are fitted to, and {method.name} "
                "trains a network on train; leave it out, or take a method of the head"
            )


def open_run(workspace: Workspace, run_id: str) -> Run:
    """Open a run by its name, or by an unambiguous beginning of it.

    Raises:
        RunNotFoundError: If there is none or more than one.
        GsrError: If the directory is not that of a run that this version reads.

    >>> run = create_run(place, "birds", "erm")
    >>> open_run(place, run.run_id) == run
    True
    """
    run = Run(workspace, workspace.runs / run_id)
    if not is_name(run_id) or not (run.path / "config.json").is_file():
        near = [each for each in list_runs(workspace) if each.run_id.startswith(run_id)]
        if len(near) != 1 or not run_id:
            names = ", ".join(each.run_id for each in near[:3])
            more = ", ..." if len(near) > 3 else ""
            raise RunNotFoundError(
                f"'{run_id}' begins the names of {len(near)} runs, {names}{more}; type more of one"
                if near and run_id
                else f"no run '{run_id}' in {workspace.runs}; 'gsr runs' lists them"
            )
        run = near[0]
    _check(run)
    return run


def list_runs(workspace: Workspace) -> list[Run]:
    """Return the runs of a workspace, newest first; what `open_run` refuses is passed over.

    >>> for method in ("erm", "llr"):
    ...     run = create_run(place, "birds", method)
    >>> [run.config.method for run in list_runs(place)][:2]
    ['llr', 'erm']
    """
    runs = []
    for file in workspace.runs.glob("*/config.json"):
        run = Run(workspace, file.parent)
        try:
            runs.append((_check(run).created, run.run_id, run))
        except GsrError:
            continue
    return [run for _, _, run in sorted(runs, key=lambda each: each[:2], reverse=True)]


def _check(run: Run) -> RunConfig:
    """Return a run's configuration, after a look whether this version can read the run.

    Raises:
        GsrError: If it cannot.
    """
    reading = "config.json"
    try:
        config = run.config
        reading = "state.json"
        run.stored_state()
    # What is no JSON, no UTF-8 or not of the model is a ValueError.
    except (ValueError, OSError) as error:
        what = {"config.json": "configuration", "state.json": "state"}[reading]
        raise GsrError(
            f"{run.path / reading} is not a run's {what}; restore it or remove the directory"
        ) from error
    if config.format != FORMAT:
        raise GsrError(
            f"run '{run.run_id}' has format {config.format}; this version reads format {FORMAT}"
        )
    if config.method not in METHODS or "seed" not in config.settings:
        raise GsrError(
            f"run '{run.run_id}' is of the method '{config.method}', which this version does not "
            "have; 'gsr methods' lists those that it has"
        )
    return config
