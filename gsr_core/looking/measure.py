"""Whether runs look at the object: AIoU of each sample, group and run, before and after a repair.

Maps are stretched to what the network sees and regions are prepared as their images are, so that a
crop takes from both alike; a region that the crop takes away whole is left out. What was measured
is kept with the run.

```
<run>/looks/<digest>.parquet   row, aiou, iou, rival: one row a sample; the digest is of the rows,
                               their regions and the head
```
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from gsr_core.data.bundle import Bundle, check_split
from gsr_core.errors import ComparisonError, SettingError
from gsr_core.files import replace_file
from gsr_core.ingest.reopen import source_of
from gsr_core.looking import PER_GROUP
from gsr_core.looking.looker import (
    Looker,
    centred_head,
    load_input,
    network_key,
    open_looker,
    stretched,
)
from gsr_core.looking.overlap import aiou, iou, scaled
from gsr_core.looking.regions import Regions, open_regions
from gsr_core.metrics import worst_group
from gsr_core.progress import Report, duration
from gsr_core.runs.samples import keep_scores
from gsr_core.runs.store import Run

__all__ = ["Overlaps", "measure_overlaps"]

_BATCH = 16
_LEVEL = 0.975


@dataclass(frozen=True)
class Overlaps:
    """How far the maps of runs lie on the objects.

    Attributes:
        column: Of the boxes or masks.
        split: Whose rows were drawn.
        samples: Columns run, row, y, aiou, iou (of the right class), rival (the class whose map
            overlaps most beside it): one row a run and sample.
        groups: Columns run, group, n (samples looked at), accuracy (of the whole split), aiou, low
            and high (95 % interval of the mean), change, change_low and change_high (from the
            first run, paired): one row a run and group with samples.
        totals: Columns run, mean (groups counting by their size in the split), worst (of the
            group of the lowest accuracy under the first run), lowest (AIoU of any group) and
            lowest_group: one row a run.
        worst_group: The group of the lowest accuracy under the first run.
    """

    column: str
    split: str
    samples: pd.DataFrame
    groups: pd.DataFrame
    totals: pd.DataFrame
    worst_group: str


def measure_overlaps(
    runs: Sequence[Run],
    split: str = "test",
    *,
    column: str = "",
    per_group: int = PER_GROUP,
    bundle: Bundle | None = None,
    open_network: Callable[[Run], Looker] = open_looker,
    longest: float | None = None,
    report: Report | None = None,
) -> Overlaps:
    """Measure AIoU of runs on the same samples.

    Args:
        runs: Ended, on one bundle or on some that differ only in groups and attributes, such as
            one of `gsr.groups_by`; the first is the one before the repair. The groups are those
            of the last one's bundle.
        split: One of the bundle's splits, as the first run drew it.
        column: Of boxes or masks; "" takes the one that the layout knows, or the only one.
        per_group: Samples of each group that are drawn; groups with fewer give all.
        bundle: That of the last run, if it is open already.
        open_network: Gives the network behind a run.
        longest: Seconds that what was not measured before may take; None for any.
        report: Called with the fraction done and what is being done.

    Raises:
        ComparisonError: If the runs are on several bundles that differ in samples or features.
        BundleError: If a bundle has changed since its run was made.
        RunStateError: If a run has no head yet.
        SettingError: If there is no such split, the inputs are no images, there are no boxes or
            masks in the split or no network that has places, or it would take longer; the sentence
            has the command.
        InputError: If an image, box or mask is not what it should be.
        GsrError: As `open_looker`.
    """
    bundles = _bundles(runs, bundle)
    bundle = bundles[-1]
    check_split(bundle, split)
    for run in runs:
        run.kept_head()
    source = source_of(bundle)
    if source.inputs.modality != "image":
        raise SettingError(
            f"the inputs of bundle '{bundle.name}' are {source.inputs.modality}s, which lie on no "
            "object as a map of an image does; look at a sample in its detail, or by gsr look "
            "--sample"
        )
    names = bundle.column("sample_id").to_pandas().astype(str).tolist()
    regions = open_regions(source, names, column)
    of_split = np.sort(runs[0].rows_of(split, bundles[0]))
    known = of_split[regions.known[of_split]]
    rows = _draw(bundle, known, per_group)
    if not len(rows):
        raise SettingError(
            f"none of the {len(of_split):,} samples of {split} that are in a group has a box or "
            f"mask in column '{regions.column}'; choose another split or column"
        )
    files = {run.run_id: _file(run, regions, rows) for run in runs}
    of_network: dict[str, list[Run]] = {}
    for run in runs:
        if not files[run.run_id].exists():
            of_network.setdefault(network_key(run, bundle), []).append(run)
    lookers = {key: open_network(together[0]) for key, together in of_network.items()}
    seconds = len(rows) * sum(
        lookers[key].for_heads(len(together)) for key, together in of_network.items()
    )
    if longest is not None and seconds > longest:
        names_of_runs = " ".join(run.run_id for run in runs)
        raise SettingError(
            f"this would take about {duration(seconds)}; 'gsr look {names_of_runs} --split {split} "
            f"--region {shlex.quote(regions.column)} --per-group {per_group}' does it from a "
            "terminal, and what it finds is kept"
        )
    for place, (key, together) in enumerate(of_network.items()):
        part = _part(report, place, len(of_network))
        _measure(lookers[key], together, files, bundle, regions, rows, part)
    parts = [pd.read_parquet(files[run.run_id]).assign(run=run.run_id) for run in runs]
    samples = pd.concat(parts, ignore_index=True)
    samples["y"] = bundle.y[samples["row"].to_numpy()]
    groups = _by_group(runs, bundles, samples, of_split)
    first = groups[groups["run"] == runs[0].run_id].reset_index(drop=True)
    worst = str(first["group"][worst_group(first["accuracy"].to_numpy())])
    return Overlaps(
        column=regions.column,
        split=split,
        samples=samples[["run", "row", "y", "aiou", "iou", "rival"]],
        groups=groups.drop(columns="size"),
        totals=_totals(runs, groups, worst),
        worst_group=worst,
    )


def _bundles(runs: Sequence[Run], last: Bundle | None) -> list[Bundle]:
    """Return the bundle of each run.

    Raises:
        ComparisonError: If they differ in more than groups and attributes.
        BundleError: If one has changed since its run was made.
    """
    last = last or runs[-1].unchanged_bundle()
    opened = {last.manifest.digest: last}
    for run in runs:
        digest = run.config.bundle_digest
        if digest not in opened:
            opened[digest] = run.unchanged_bundle()
            if not _same_samples(opened[digest], last):
                raise ComparisonError(
                    f"the runs are on several bundles, and '{opened[digest].name}' and "
                    f"'{last.name}' differ in their samples, splits, classes or features; choose "
                    "runs on one bundle, or on bundles that differ only in groups"
                )
    return [opened[run.config.bundle_digest] for run in runs]


def _same_samples(one: Bundle, other: Bundle) -> bool:
    """Return whether two bundles have the same rows in the same order, groups aside."""
    first, second = one.manifest, other.manifest
    return (
        first.digests["features.npy"] == second.digests["features.npy"]
        and first.classes == second.classes
        and np.array_equal(one.y, other.y)
        and all(np.array_equal(rows, other.rows_of[split]) for split, rows in one.rows_of.items())
        # As values, since a column may have been written as another kind of text.
        and one.column("sample_id").to_pylist() == other.column("sample_id").to_pylist()
    )


def _draw(bundle: Bundle, rows: np.ndarray, per_group: int) -> np.ndarray:
    """Return up to so many of the rows of each group, ascending; the same ones every time."""
    rng, members = np.random.default_rng(0), bundle.membership[rows]
    drawn = [
        rng.permutation(rows[members[:, group]])[:per_group] for group in range(members.shape[1])
    ]
    return np.unique(np.concatenate(drawn))


def _file(run: Run, regions: Regions, rows: np.ndarray) -> Path:
    """Return where what is measured is kept; of a bundle's groups it depends only by the rows."""
    digest = hashlib.sha256(f"{run.config.bundle_digest} {network_key(run)}".encode())
    digest.update(f"{regions.column} {regions.digest()}".encode())
    for part in (rows, *run.kept_head()):
        digest.update(np.ascontiguousarray(part).data)
    return run.path / "looks" / f"{digest.hexdigest()[:32]}.parquet"


def _part(report: Report | None, place: int, count: int) -> Report:
    """Return what reports the progress of one of several networks."""

    def tell(fraction: float, text: str) -> None:
        if report is not None:
            report((place + fraction) / count, text)

    return tell


def _measure(
    looker: Looker,
    runs: list[Run],
    files: dict[str, Path],
    bundle: Bundle,
    regions: Regions,
    rows: np.ndarray,
    report: Report,
) -> None:
    """Measure the heads of one network on some rows, and keep what was found."""
    parts: list[list[pd.DataFrame]] = [[] for _ in runs]
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        for part, found in zip(parts, _overlaps(looker, runs, bundle, regions, batch), strict=True):
            part.append(found)
        done = start + len(batch)
        report(done / len(rows), f"Looking at {done:,} of {len(rows):,} images")
    for run, part in zip(runs, parts, strict=True):
        files[run.run_id].parent.mkdir(exist_ok=True)
        with replace_file(files[run.run_id]) as temporary:
            pd.concat(part, ignore_index=True).to_parquet(temporary, index=False)


def _overlaps(
    looker: Looker, runs: list[Run], bundle: Bundle, regions: Regions, rows: np.ndarray
) -> list[pd.DataFrame]:
    """Return row, aiou, iou and rival of some rows for each of some heads of one network."""
    seen, size = looker.preprocessing.seen, looker.preprocessing.image_size
    images = [load_input(looker.behind, int(row)) for row in rows]
    heads = np.concatenate([centred_head(run)[0] for run in runs])
    found: list[list[dict[str, float]]] = [[] for _ in runs]
    for row, image, maps in zip(rows.tolist(), images, looker.maps(images, heads), strict=True):
        inside = regions.at(row, *image.shape[:2])
        white = np.repeat(255 * inside[..., None].astype(np.uint8), 3, axis=2)
        region = np.asarray(seen(white))[..., 0] >= 128
        if not region.any():
            continue
        y = int(bundle.y[row])
        for place, of_head in enumerate(np.split(maps, len(runs))):
            shown = scaled(stretched(of_head, size))
            value, rival = aiou(shown, region, y)
            own = float(iou(shown[y], region.astype(float)))
            found[place].append({"row": row, "aiou": value, "iou": own, "rival": rival})
    columns = {"row": int, "aiou": float, "iou": float, "rival": int}
    return [pd.DataFrame(each, columns=list(columns)).astype(columns) for each in found]


def _by_group(
    runs: Sequence[Run], bundles: Sequence[Bundle], samples: pd.DataFrame, of_split: np.ndarray
) -> pd.DataFrame:
    by_run = {name: part.set_index("row")["aiou"] for name, part in samples.groupby("run")}
    first, bundle = by_run[runs[0].run_id], bundles[-1]
    members = bundle.membership
    found = []
    for run, scored in zip(runs, bundles, strict=True):
        own = by_run[run.run_id]
        correct = keep_scores(run, scored)["prediction"][of_split] == bundle.y[of_split]
        for place, name in enumerate(bundle.group_names):
            inside = own[members[own.index, place]]
            if inside.empty:
                continue
            whole = members[of_split, place]
            mean, low, high = _interval(inside.to_numpy(), 0.0, 1.0)
            moved = _interval((inside - first.reindex(inside.index)).to_numpy(), -1.0, 1.0)
            if run.run_id == runs[0].run_id:
                moved = (np.nan,) * 3
            found.append(
                {
                    "run": run.run_id,
                    "group": name,
                    "size": int(whole.sum()),
                    "n": len(inside),
                    "accuracy": float(correct[whole].mean()),
                    "aiou": mean,
                    "low": low,
                    "high": high,
                    **dict(zip(("change", "change_low", "change_high"), moved, strict=True)),
                }
            )
    if not found:
        raise SettingError(
            "the network sees none of the regions: its crop takes them all away; import the data "
            "with --preprocess fit=both or fit=longest"
        )
    return pd.DataFrame(found)


def _totals(runs: Sequence[Run], groups: pd.DataFrame, worst: str) -> pd.DataFrame:
    found = []
    for run in runs:
        own = groups[groups["run"] == run.run_id]
        of_group = dict(zip(own["group"], own["aiou"].tolist(), strict=True))
        lowest = min(of_group, key=of_group.__getitem__)
        found.append(
            {
                "run": run.run_id,
                "mean": float(np.average(own["aiou"], weights=own["size"])),
                "worst": of_group[worst],
                "lowest": of_group[lowest],
                "lowest_group": lowest,
            }
        )
    return pd.DataFrame(found)


def _interval(values: np.ndarray, least: float, most: float) -> tuple[float, float, float]:
    """Return the mean of values and its 95 % t interval, inside what is possible."""
    mean, n = float(values.mean()), len(values)
    half = float(stdtrit(n - 1, _LEVEL)) * values.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
    return mean, float(np.maximum(mean - half, least)), float(np.minimum(mean + half, most))
