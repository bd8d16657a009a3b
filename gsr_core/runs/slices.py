"""Slices and flags: the sets of samples and the suspect samples that a user leaves with.

```
<workspace>/slices/<key>.npy          positions in a bundle, ascending; the key is made of both
                   <digest>.json      the slices that have a name, of a bundle with that digest
          /flags/<digest>.parquet     row, reason, note, proposed_label, created
```

A set of positions travels in a URL by its key. Keys, names and flags belong to a bundle's content
(`Manifest.digest`): a bundle that is written anew begins without slices and flags, and links to
sets of the old one lead nowhere, because its positions may be of other samples.
"""

from __future__ import annotations

import hashlib
import io
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock
from pydantic import BaseModel, ConfigDict

from gsr_core.data.bundle import MIN_GROUP_SIZE, Bundle
from gsr_core.errors import GsrError, SettingError
from gsr_core.files import replace_file
from gsr_core.metrics import wilson_interval
from gsr_core.runs.compare import Entry
from gsr_core.runs.samples import keep_scores
from gsr_core.runs.store import Run, now
from gsr_core.settings import suggestion
from gsr_core.workspace import Workspace

__all__ = [
    "ENDINGS",
    "NAME_LENGTH",
    "Slice",
    "accuracies_on",
    "check_table_file",
    "delete_slice",
    "describe_flags",
    "describe_rows",
    "encode_table",
    "export_flags",
    "export_table",
    "find_slice",
    "flag_rows",
    "flagged",
    "list_slices",
    "load_slice",
    "name_slice",
    "rename_slice",
    "save_slice",
    "slice_accuracy",
    "slice_scores",
    "unflag_rows",
    "write_table",
]

FORMAT = 1
NAME_LENGTH = 60
"""Characters that a slice's name may have."""

ENDINGS = (".csv", ".parquet")
"""What a table of samples can be written as."""

_BETWEEN = "; "
"""Between two reasons of one flag."""

_FLAGS = pa.schema(
    [
        ("row", pa.int64()),
        ("reason", pa.string()),
        ("note", pa.string()),
        ("proposed_label", pa.string()),
        ("created", pa.string()),
    ]
)


@dataclass(frozen=True)
class Slice:
    """A set of samples that has a name.

    Attributes:
        name: For people, unique among the slices of the bundle.
        key: Name of the set, made from its content; it stays when the slice is renamed.
        rows: (q,) positions in the bundle, ascending.
        about: Where it came from, in words.
        created: Time of naming, ISO 8601, UTC.
    """

    name: str
    key: str
    rows: np.ndarray = field(compare=False, repr=False)
    about: str
    created: str


class _Named(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str
    key: str
    about: str
    created: str


class _Names(BaseModel):
    format: int
    slices: list[_Named]


# Sets of samples -----------------------------------------------------------------------------


def save_slice(workspace: Workspace, bundle: Bundle, rows: np.ndarray) -> str:
    """Keep a set of positions in a bundle and return its key, made from the content of both."""
    positions = np.unique(np.asarray(rows, dtype=np.int64))
    key = _key(bundle, positions)
    kept = workspace.slices / f"{key}.npy"
    if not kept.exists():
        workspace.slices.mkdir(parents=True, exist_ok=True)
        with replace_file(kept) as temporary, temporary.open("wb") as file:
            np.save(file, positions)
    return key


def load_slice(workspace: Workspace, bundle: Bundle, key: str) -> np.ndarray | None:
    """Return the positions of a set, or None if the bundle has no readable one of that key."""
    file = workspace.slices / f"{key}.npy"
    if not re.fullmatch(r"[0-9a-f]{12}", key) or not file.exists():
        return None
    try:
        positions = np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError):
        return None
    return positions if key == _key(bundle, positions) else None


def _key(bundle: Bundle, positions: np.ndarray) -> str:
    content = bundle.manifest.digest.encode() + positions.tobytes()
    return hashlib.sha256(content).hexdigest()[:12]


# Names ---------------------------------------------------------------------------------------


def name_slice(
    workspace: Workspace, bundle: Bundle, name: str, rows: np.ndarray, about: str = ""
) -> Slice:
    """Keep samples of a bundle under a name.

    Args:
        workspace: Where.
        bundle: Whose samples.
        name: 1 to 60 characters on one line.
        rows: (q,) positions in the bundle; at least one.
        about: Where the slice came from, in words.

    Raises:
        SettingError: If the name is not allowed or is taken, or if rows are not in the bundle.
        GsrError: If the workspace's list of slices cannot be read.
    """
    name = _checked_name(name)
    positions = np.unique(_checked_rows(bundle, rows))
    if not len(positions):
        raise SettingError(f"slice '{name}' has no sample; a slice has at least one")
    with _locked(workspace.slices, bundle):
        others = _read_names(workspace, bundle)
        _check_free(name, others)
        made = _Named(
            name=name,
            key=save_slice(workspace, bundle, positions),
            about=" ".join(about.split()),
            created=now(),
        )
        _write_names(workspace, bundle, [*others, made])
    return Slice(**made.model_dump(), rows=positions)


def list_slices(workspace: Workspace, bundle: Bundle) -> list[Slice]:
    """Return the slices of a bundle's content, oldest first; one whose rows are lost is left out.

    Raises:
        GsrError: If the workspace's list of slices cannot be read.
    """
    kept = (
        (each, load_slice(workspace, bundle, each.key)) for each in _read_names(workspace, bundle)
    )
    return [Slice(**each.model_dump(), rows=rows) for each, rows in kept if rows is not None]


def find_slice(workspace: Workspace, bundle: Bundle, name: str) -> Slice:
    """Return the slice of a bundle that has a name.

    Raises:
        SettingError: If there is none; the sentence names the nearest.
        GsrError: If the workspace's list of slices cannot be read.
    """
    found = list_slices(workspace, bundle)
    wanted = unicodedata.normalize("NFC", name).strip()
    for each in found:
        if each.name == wanted:
            return each
    known = [each.name for each in found]
    there = ", ".join(f"'{each}'" for each in known) or "none"
    raise SettingError(
        f"bundle '{bundle.name}' has no slice '{name}'{suggestion(name, known)}; its slices are "
        f"{there}"
    )


def rename_slice(workspace: Workspace, bundle: Bundle, name: str, new: str) -> Slice:
    """Give a slice another name; its key, and so every address that has it, stays.

    Args:
        workspace: Where.
        bundle: Whose slice.
        name: What it is called.
        new: 1 to 60 characters on one line.

    Raises:
        SettingError: If there is no such slice, or if the new name is not allowed or is taken.
        GsrError: If the workspace's list of slices cannot be read.
    """
    new = _checked_name(new)
    with _locked(workspace.slices, bundle):
        old, names = find_slice(workspace, bundle, name), _read_names(workspace, bundle)
        _check_free(new, [each for each in names if each.name != old.name])
        _write_names(
            workspace,
            bundle,
            [
                each.model_copy(update={"name": new}) if each.name == old.name else each
                for each in names
            ],
        )
        return find_slice(workspace, bundle, new)


def delete_slice(workspace: Workspace, bundle: Bundle, name: str) -> None:
    """Take a slice's name away; its samples stay, and so does what its key leads to.

    Raises:
        SettingError: If there is no such slice.
        GsrError: If the workspace's list of slices cannot be read.
    """
    with _locked(workspace.slices, bundle):
        old, names = find_slice(workspace, bundle, name), _read_names(workspace, bundle)
        _write_names(workspace, bundle, [each for each in names if each.name != old.name])


def _checked_name(name: str) -> str:
    # One form for what looks the same, such as an accent of its own and a letter with one.
    name = unicodedata.normalize("NFC", name).strip()
    kinds = [unicodedata.category(character) for character in name]
    # Control characters, halves of surrogate pairs, ends of lines; and all that draws nothing.
    wrong = any(kind in ("Cc", "Cs", "Zl", "Zp") for kind in kinds)
    if wrong or len(name) > NAME_LENGTH or all(kind[0] in "CZ" for kind in kinds):
        raise SettingError(
            f"slice name {name!r} has {len(name)} characters; use 1 to {NAME_LENGTH} on one line, "
            "at least one of them visible"
        )
    return name


def _check_free(name: str, others: Sequence[_Named]) -> None:
    taken = {each.name for each in others}
    if name in taken:
        endings = (f" {number}" for number in count(2))
        tries = (f"{name[: NAME_LENGTH - len(end)].rstrip()}{end}" for end in endings)
        free = next(each for each in tries if each not in taken)
        raise SettingError(f"a slice '{name}' exists already; choose another name, as '{free}'")


def _checked_rows(bundle: Bundle, rows: np.ndarray) -> np.ndarray:
    found = np.asarray(rows)
    if not found.size:
        return np.zeros(0, dtype=np.int64)
    if found.dtype.kind not in "iu" or found.ndim != 1:
        raise SettingError(
            f"rows are {found.dtype} of shape {found.shape}; give one whole number a sample, its "
            "position in the bundle"
        )
    for bad in (found.min(), found.max()):
        if not 0 <= bad < len(bundle):
            raise SettingError(
                f"row {bad} is not in bundle '{bundle.name}'; its rows are 0 to {len(bundle) - 1}"
            )
    return found.astype(np.int64)


def _read_names(workspace: Workspace, bundle: Bundle) -> list[_Named]:
    file = workspace.slices / f"{bundle.manifest.digest}.json"
    if not file.exists():
        return []
    try:
        found = _Names.model_validate_json(file.read_bytes())
    except ValueError as error:
        raise GsrError(f"{file} is not a list of slices; restore it or take it away") from error
    if found.format != FORMAT:
        raise GsrError(f"{file} has format {found.format}; this version reads format {FORMAT}")
    # Nobody can use a name whose samples are lost, so that it is free again.
    return [each for each in found.slices if (workspace.slices / f"{each.key}.npy").exists()]


def _write_names(workspace: Workspace, bundle: Bundle, names: Sequence[_Named]) -> None:
    kept = _Names(format=FORMAT, slices=list(names))
    with replace_file(workspace.slices / f"{bundle.manifest.digest}.json") as temporary:
        temporary.write_text(kept.model_dump_json(indent=2) + "\n", encoding="utf-8")


@contextmanager
def _locked(folder: Path, bundle: Bundle) -> Iterator[None]:
    """Let one process at a time change what a folder has of a bundle."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{bundle.manifest.digest}.lock"):
        yield


# Flags ---------------------------------------------------------------------------------------


def flag_rows(
    workspace: Workspace,
    bundle: Bundle,
    rows: np.ndarray,
    reason: str,
    *,
    note: str | None = None,
    proposed_label: str | None = None,
) -> None:
    """Flag samples as suspect. A sample has one entry, in which reasons accumulate.

    Args:
        workspace: Where.
        bundle: Whose samples.
        rows: (q,) positions in the bundle.
        reason: Why, in words; what stands between semicolons is a reason of its own.
        note: More in words; what was there stays if None.
        proposed_label: Name of the class that the samples seem to be of, "" for none; what was
            there stays if None.

    Raises:
        SettingError: If a row, the class or the reason is not allowed.
        GsrError: If the workspace's list of flags cannot be read.
    """
    positions = np.unique(_checked_rows(bundle, rows))
    reasons = _reasons(reason)
    if not reasons:
        raise SettingError(f"the reason of a flag is {reason!r}; say why in at least one word")
    classes = bundle.manifest.classes
    if proposed_label and proposed_label not in classes:
        raise SettingError(
            f"proposed label '{proposed_label}' is not a class{suggestion(proposed_label, classes)}"
            f"; the classes are {', '.join(classes)}"
        )
    with _locked(workspace.flags, bundle):
        before = flagged(workspace, bundle).set_index("row")
        table = before.reindex(before.index.union(pd.Index(positions, name="row")))
        fresh = {"reason": "", "note": "", "proposed_label": "", "created": now()}
        table = table.fillna(fresh)
        old = table.loc[positions, "reason"]
        # Few are different, however many rows there are.
        joined = {
            each: _BETWEEN.join(dict.fromkeys([*_reasons(each), *reasons])) for each in old.unique()
        }
        table.loc[positions, "reason"] = old.map(joined)
        for column, value in (("note", note), ("proposed_label", proposed_label)):
            if value is not None:
                table.loc[positions, column] = " ".join(value.split())
        _write_flags(workspace, bundle, table.reset_index())


def unflag_rows(workspace: Workspace, bundle: Bundle, rows: np.ndarray) -> None:
    """Take the flags of samples back, with all that was said of them.

    Raises:
        SettingError: If a row is not in the bundle.
        GsrError: If the workspace's list of flags cannot be read.
    """
    positions = _checked_rows(bundle, rows)
    with _locked(workspace.flags, bundle):
        table = flagged(workspace, bundle)
        _write_flags(workspace, bundle, table[~table["row"].isin(positions)])


def flagged(workspace: Workspace, bundle: Bundle) -> pd.DataFrame:
    """Return the flags of a bundle's content by row: row, reason, note, proposed_label, created.

    `created` is the time of a sample's first flag, ISO 8601, UTC; what was not said is "".

    Raises:
        GsrError: If the workspace's list of flags cannot be read.
    """
    file = workspace.flags / f"{bundle.manifest.digest}.parquet"
    if not file.exists():
        return _FLAGS.empty_table().to_pandas()
    try:
        with pq.ParquetFile(file) as opened:
            return opened.read(columns=_FLAGS.names).cast(_FLAGS).to_pandas()
    except (pa.ArrowException, ValueError) as error:
        raise GsrError(f"{file} is not a list of flags; restore it or take it away") from error


def _reasons(text: str) -> list[str]:
    return [part for each in text.split(";") if (part := " ".join(each.split()))]


def _write_flags(workspace: Workspace, bundle: Bundle, table: pd.DataFrame) -> None:
    content = pa.Table.from_pandas(table, schema=_FLAGS, preserve_index=False)
    with replace_file(workspace.flags / f"{bundle.manifest.digest}.parquet") as temporary:
        pq.write_table(content, temporary)


# Taking them home ----------------------------------------------------------------------------


def describe_rows(bundle: Bundle, rows: np.ndarray, **columns: Any) -> pd.DataFrame:
    """Return what a bundle says of samples, with more columns.

    Args:
        bundle: The data.
        rows: (q,) positions in the bundle.
        **columns: One value, or one a row.

    Returns:
        sample_id, row, split, class, group, the columns given, and the bundle's attributes, of
        which one that is called like a column before it gets "attribute: " before its name.

    Raises:
        SettingError: If a row is not in the bundle.
    """
    rows = _checked_rows(bundle, rows)
    places = pa.array(rows)
    table = pd.DataFrame(
        {
            "sample_id": bundle.column("sample_id").take(places).to_pandas(),
            "row": rows,
            "split": bundle.column("split").take(places).to_pandas(),
            "class": np.array(bundle.manifest.classes, dtype=object)[bundle.y[rows]],
            "group": bundle.labels_at(rows).to_pandas(),
        }
    )
    for name, value in columns.items():
        # By place: an index of its own says nothing here.
        table[name] = value.to_numpy() if isinstance(value, pd.Series) else value
    own = set(table.columns)
    for name in bundle.manifest.attributes:
        values = bundle.column(name).take(places).to_pandas()
        table[f"attribute: {name}" if name in own else name] = values
    return table


def describe_flags(workspace: Workspace, bundle: Bundle) -> pd.DataFrame:
    """Return the flagged samples as `describe_rows` has them, with what was said of each.

    Raises:
        GsrError: If the workspace's list of flags cannot be read.
    """
    found = flagged(workspace, bundle)
    said = found.rename(columns={"created": "flagged"}).drop(columns="row")
    return describe_rows(bundle, found["row"].to_numpy(), **{str(key): said[key] for key in said})


def export_table(bundle: Bundle, rows: np.ndarray, path: Path, **columns: Any) -> None:
    """Write `describe_rows` to a file, CSV or parquet by its ending: whole, or not at all.

    Args:
        bundle: The data.
        rows: (q,) positions in the bundle.
        path: A file that is not there yet.
        **columns: More columns, such as the slice's name: one value, or one a row.

    Raises:
        SettingError: If a row is not in the bundle, the file exists or its ending is another.
    """
    write_table(describe_rows(bundle, rows, **columns), path)


def export_flags(workspace: Workspace, bundle: Bundle, path: Path) -> int:
    """Write `describe_flags` to a file as `export_table` does; return how many samples it has.

    Raises:
        SettingError: If the file exists or its ending is another.
        GsrError: If the workspace's list of flags cannot be read.
    """
    table = describe_flags(workspace, bundle)
    write_table(table, path)
    return len(table)


def check_table_file(path: Path) -> None:
    """Check that a table can be written to a file.

    Raises:
        SettingError: If the file exists or its ending is none of `ENDINGS`.
    """
    if path.suffix.lower() not in ENDINGS:
        raise SettingError(
            f"'{path.name}' ends in '{path.suffix}'; a table is written as {' or '.join(ENDINGS)}"
        )
    if path.exists():
        raise SettingError(f"{path} exists already; give a file that does not")


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table to a new file, CSV or parquet by its ending: whole, or not at all.

    Raises:
        SettingError: If the file exists or its ending is another.
    """
    check_table_file(path)
    path.resolve().parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path.resolve()) as temporary:
        temporary.write_bytes(encode_table(table, path.suffix.lower()))


def encode_table(table: pd.DataFrame, ending: str) -> bytes:
    """Return a table as the content of a file with one of `ENDINGS`."""
    if ending == ".csv":
        return table.to_csv(index=False).encode()
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), sink)
    return sink.getvalue()


# How good a head is on them ------------------------------------------------------------------


def slice_accuracy(bundle: Bundle, table: pd.DataFrame, slices: Sequence[Slice]) -> pd.DataFrame:
    """Return how one head does on the samples that slices have in one split.

    Args:
        bundle: The data.
        table: `sample_table` of the run and split.
        slices: Sets of samples.

    Returns:
        One row a slice: slice, key, n (samples in the split), wrong (how many of them), accuracy
        (NaN without samples), low and high (ends of its 95 % Wilson interval), group (the one that
        most of them are in, "" if none is in any), purity (their share in it), enough (n is large
        enough to judge), worst (lowest accuracy of those with enough).
    """
    rows, correct = table["row"].to_numpy(), table["correct"].to_numpy()
    found = []
    for each in slices:
        inside = np.isin(rows, each.rows)
        n = int(inside.sum())
        members = bundle.membership[rows[inside]].sum(axis=0)
        majority = int(members.argmax())
        right = int(correct[inside].sum())
        found.append(
            {
                "slice": each.name,
                "key": each.key,
                "n": n,
                "wrong": n - right,
                "accuracy": right / n if n else np.nan,
                "group": bundle.group_names[majority] if members[majority] else "",
                "purity": members[majority] / n if n else np.nan,
            }
        )
    columns = ["slice", "key", "n", "wrong", "accuracy", "group", "purity"]
    scored = pd.DataFrame(found, columns=columns)
    n, accuracy = scored["n"].to_numpy(dtype=int), scored["accuracy"].to_numpy(dtype=float)
    scored["low"], scored["high"] = wilson_interval(accuracy, n)
    scored["enough"] = n >= MIN_GROUP_SIZE
    scored["worst"] = False
    if scored["enough"].any():
        scored.loc[scored.loc[scored["enough"], "accuracy"].idxmin(), "worst"] = True
    return scored


def accuracies_on(run: Run, split: str, slices: Sequence[Slice], bundle: Bundle) -> pd.DataFrame:
    """Return slice, count and accuracy of a run's kept head on a split as the run drew it.

    Args:
        run: A run that has ended with a head.
        split: One of the bundle's splits.
        slices: Sets of samples.
        bundle: The run's bundle.

    Raises:
        RunStateError: If the run has no head yet.
    """
    rows = run.rows_of(split, bundle)
    correct = keep_scores(run, bundle)["prediction"][rows] == bundle.y[rows]
    inside = [np.isin(rows, each.rows) for each in slices]
    return pd.DataFrame(
        {
            "slice": [each.name for each in slices],
            "count": [int(each.sum()) for each in inside],
            "accuracy": [float(correct[each].mean()) if each.any() else np.nan for each in inside],
        }
    )


def slice_scores(
    found: Sequence[Entry],
    slices: Sequence[Slice],
    bundle: Bundle,
    *,
    split: str = "test",
    read: Callable[[Run, str, Sequence[Slice], Bundle], pd.DataFrame] = accuracies_on,
) -> pd.DataFrame:
    """Return one row an entry, seed and slice: entry, seed, run, slice, count, accuracy.

    Args:
        found: The entries.
        slices: Sets of samples; at least one.
        bundle: The runs' bundle.
        split: One of the bundle's splits, as each run drew it, at the kept step.
        read: Does what `accuracies_on` does; pages have one that remembers.
    """
    parts = [
        read(run, split, slices, bundle).assign(entry=entry.label, seed=seed, run=run.run_id)
        for entry in found
        for seed, run in zip(entry.seeds, entry.runs, strict=True)
    ]
    return pd.concat(parts, ignore_index=True)
