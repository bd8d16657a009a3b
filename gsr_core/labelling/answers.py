"""Group labels by hand: who gave which, when, and what was skipped or taken back.

```
<workspace>/labels/<digest>.jsonl     one entry a line, only ever added to
                   <digest>.lock      held while one is added
```

The digest is that of the bundle's content (`Manifest.digest`), since the same positions may be
other samples in other content. An entry is an answer, a skip, or takes back an earlier entry; so
nothing is lost that anybody did, and what holds is read off the whole. Two tabs, a terminal and a
colleague may write at once: each entry is one line that is added under a lock. A line that a
process did not write to its end was never confirmed to anybody; the next one cuts it off.

An answer is the name of a group, or of groups joined by " + " where they overlap, as
`Bundle.group_labels` shows them. Answers are only offered, and taken, that some sample has whose
groups are known (`choices`).
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, ValidationError

from gsr_core.curation.slices import checked_rows, locked
from gsr_core.data.bundle import Bundle
from gsr_core.data.groups import describe
from gsr_core.errors import GsrError, SettingError
from gsr_core.files import disk_full
from gsr_core.names import check_text
from gsr_core.runs.store import now
from gsr_core.settings import suggestion
from gsr_core.workspace import Workspace

__all__ = [
    "BY",
    "SKIPPED",
    "add_answers",
    "answer_row",
    "answers",
    "choices",
    "membership_of",
    "positions_of_ids",
    "undo_answer",
    "unlabelled",
    "user_name",
]

BY = 60
"""Most characters of the name of who answers."""

SKIPPED = ""
"""The answer of a sample that was looked at and left open."""

Order = Literal["balanced", "influence", "random", "file"]

_CLASS = "class = "
"""In the definition of a group of one class."""


class _Entry(BaseModel):
    """One line of the file.

    Attributes:
        number: Of the entry, counted from 1.
        sample_id: The sample's.
        answer: Its group or groups, `SKIPPED`, or None if the entry takes back another.
        takes_back: Number of that other one; 0 if it takes back none.
        by: Who.
        at: When, ISO 8601, UTC.
        order: By which order the sample was shown, or `file` if it was imported.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    sample_id: str
    answer: str | None
    takes_back: int = 0
    by: str
    at: str
    order: Order


def choices(bundle: Bundle, label: int) -> list[str]:
    """Return the answers that a sample of a class may have, in the order of the groups.

    They are the groups, or combinations of groups, of the samples whose groups are known; of those
    of its class, if the definition of every group says of which class it is.

    Args:
        bundle: The data.
        label: The class, an index.

    Example:
        >>> choices(gsr.open_bundle(place, "birds"), 0)
        ['cat, red', 'cat, green', 'dog, red', 'dog, green']
    """
    combinations, which = bundle.group_patterns
    known = np.flatnonzero(combinations.sum(axis=1))
    if all(_CLASS in group.definition for group in bundle.manifest.groups):
        known = np.intersect1d(known, which[bundle.y == label])
    # The patterns rise from the last group on; backwards, the first group comes first.
    return [str(name) for name in describe(combinations[known[::-1]], bundle.group_names)]


def unlabelled(bundle: Bundle) -> np.ndarray:
    """Return the positions of the samples in no group: their group is unknown."""
    combinations, which = bundle.group_patterns
    return np.flatnonzero(combinations.sum(axis=1)[which] == 0)


def membership_of(bundle: Bundle, names: Sequence[str]) -> np.ndarray:
    """Return the (q, m) membership that answers stand for.

    Args:
        bundle: The data.
        names: q answers, each one that `choices` has for some class.
    """
    combinations, _ = bundle.group_patterns
    place = {name: row for row, name in enumerate(describe(combinations, bundle.group_names))}
    return combinations[np.array([place[name] for name in names], dtype=np.int64)]


def user_name() -> str:
    """Return the name of the user of this process, who answers if nobody else is named."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # A container may run as a number that has no name.
        return "somebody"


def answer_row(
    workspace: Workspace,
    bundle: Bundle,
    row: int,
    answer: str,
    *,
    by: str = "",
    order: str = "influence",
) -> None:
    """Keep the answer of one sample; a later answer takes the place of an earlier one.

    Args:
        workspace: Where.
        bundle: Whose sample.
        row: Its position in the bundle.
        answer: One of `choices` of its class, or `SKIPPED`.
        by: Who answers; `user_name` if "".
        order: By which order the sample was shown.

    Raises:
        SettingError: If the sample's groups are known already, the answer is none of the choices,
            or the name is not allowed.
        GsrError: If the file of answers cannot be read.
        DiskFullError: If there is no room for it.

    Example:
        >>> from gsr_core.labelling.bundles import hide_groups
        >>> birds = hide_groups(place, gsr.open_bundle(place, "birds"), "hidden")
        >>> row = int(unlabelled(birds)[0])
        >>> answer_row(place, birds, row, "cat, red", by="Ada")
        >>> answers(place, birds)[["sample_id", "answer", "by"]].values.tolist()
        [['s0', 'cat, red', 'Ada']]
    """
    add_answers(workspace, bundle, np.array([row]), [answer], by=by, order=order)


def add_answers(
    workspace: Workspace,
    bundle: Bundle,
    rows: np.ndarray,
    given: Sequence[str],
    *,
    by: str | Sequence[str] = "",
    at: Sequence[str] = (),
    order: str | Sequence[str] = "file",
) -> None:
    """Keep the answers of several samples: of all, or, if one is not allowed, of none.

    Args:
        workspace: Where.
        bundle: Whose samples.
        rows: (q,) positions in the bundle.
        given: q answers, as `answer_row` takes them.
        by: Who answers, of all or of each; `user_name` if "".
        at: When, q times, ISO 8601, UTC; now if empty.
        order: By which order they were shown (one of `queue.ORDERS`), or `file`; of all or of each.

    Raises:
        SettingError: As `answer_row`, or if a time or an order is not one.
        GsrError: If the file of answers cannot be read.
        DiskFullError: If there is no room for them.
    """
    rows = checked_rows(bundle, rows)
    table = pd.DataFrame(
        {
            "sample_id": bundle.column("sample_id").take(rows).to_pandas().astype(str),
            "answer": list(given),
            "by": by if isinstance(by, str) else list(by),
            "at": list(at) or now(),
            "order": order if isinstance(order, str) else list(order),
        }
    )
    _check_answers(bundle, rows, table["sample_id"].tolist(), given)
    table["by"] = table["by"].map({name: _checked_name(name) for name in table["by"].unique()})
    for wrong in (each for each in table["at"].unique() if not _is_time(each)):
        raise SettingError(f"the time of an answer is '{wrong}'; give it as in {now()}")
    for wrong in set(table["order"]) - set(get_args(Order)):
        raise SettingError(
            f"the order of an answer is '{wrong}'; allowed are {', '.join(get_args(Order))}"
        )
    with locked(workspace.labels, bundle):
        before = len(_read(workspace, bundle))
        entries = [
            _Entry(number=before + place, **{str(key): each[key] for key in each})
            for place, each in enumerate(table.to_dict("records"), start=1)
        ]
        _append(workspace, bundle, entries)


def undo_answer(workspace: Workspace, bundle: Bundle, *, by: str = "") -> int | None:
    """Take back the last answer or skip of somebody that holds; return its sample's position.

    What the sample had before holds again. Answers of others and of files stay.

    Args:
        workspace: Where.
        bundle: Whose answers.
        by: Whose answer to take back; that of `user_name` if "".

    Returns:
        None if there is none.

    Raises:
        SettingError: If the name is not allowed.
        GsrError: If the file of answers cannot be read.
        DiskFullError: If there is no room for it.
    """
    by = _checked_name(by)
    with locked(workspace.labels, bundle):
        entries = _read(workspace, bundle)
        mine = [each for each in _standing(entries) if each.by == by and each.order != "file"]
        if not mine:
            return None
        last = mine[-1]
        back = _Entry(
            number=len(entries) + 1,
            sample_id=last.sample_id,
            answer=None,
            takes_back=last.number,
            by=by,
            at=now(),
            order=last.order,
        )
        _append(workspace, bundle, [back])
    return int(positions_of_ids(bundle, [last.sample_id])[0])


def answers(workspace: Workspace, bundle: Bundle) -> pd.DataFrame:
    """Return what holds: the last answer or skip of each sample that was not taken back.

    Args:
        workspace: Where.
        bundle: Whose answers.

    Returns:
        Columns row (position in the bundle), sample_id, answer (`SKIPPED` for a skip), by, at and
        order, in the order in which they were given.

    Raises:
        GsrError: If the file of answers cannot be read.
    """
    last: dict[str, _Entry] = {}
    for each in _standing(_read(workspace, bundle)):
        # Else a second answer would keep the place of the first.
        last.pop(each.sample_id, None)
        last[each.sample_id] = each
    columns = ["sample_id", "answer", "by", "at", "order"]
    table = pd.DataFrame(
        [[getattr(each, name) for name in columns] for each in last.values()], columns=columns
    )
    table.insert(0, "row", positions_of_ids(bundle, list(last)))
    return table


def _standing(entries: Sequence[_Entry]) -> list[_Entry]:
    """Return the answers and skips that were not taken back."""
    back = {each.takes_back for each in entries}
    return [each for each in entries if not each.takes_back and each.number not in back]


def _checked_name(by: str) -> str:
    by = " ".join((by or user_name()).split())
    check_text("the name of who answers", by)
    if not 1 <= len(by) <= BY:
        raise SettingError(f"the name of who answers has {len(by)} characters; give it 1 to {BY}")
    return by


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _check_answers(
    bundle: Bundle, rows: np.ndarray, ids: Sequence[str], given: Sequence[str]
) -> None:
    known = np.setdiff1d(rows, unlabelled(bundle))
    if known.size:
        name = bundle.column("sample_id")[int(known[0])].as_py()
        raise SettingError(
            f"sample '{name}' is in the group '{bundle.labels_at(known[:1])[0].as_py()}' of bundle "
            f"'{bundle.name}' already; only samples whose group is unknown are labelled"
        )
    allowed = {int(label): choices(bundle, int(label)) for label in np.unique(bundle.y[rows])}
    for row, name, answer in zip(rows, ids, given, strict=True):
        mine = allowed[int(bundle.y[row])]
        if answer != SKIPPED and answer not in mine:
            of = bundle.manifest.classes[bundle.y[row]]
            raise SettingError(
                f"'{answer}' cannot be the answer of sample '{name}' of class '{of}'"
                f"{suggestion(answer, mine)}; allowed are {'; '.join(mine)}, or nothing for a "
                "sample that was skipped"
            )


def positions_of_ids(bundle: Bundle, ids: Sequence[str]) -> np.ndarray:
    """Return the (q,) int64 positions of samples by their ids, -1 for one that is not there."""
    column = bundle.column("sample_id").cast(pa.string())
    options = pc.SetLookupOptions(column)
    found = pc.call_function("index_in", [pa.array(list(ids), pa.string())], options)
    return found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)


def _file(workspace: Workspace, bundle: Bundle) -> Path:
    return workspace.labels / f"{bundle.manifest.digest}.jsonl"


def _read(workspace: Workspace, bundle: Bundle) -> list[_Entry]:
    file = _file(workspace, bundle)
    if not file.exists():
        return []
    # What comes after the last end of a line was not written to its end.
    lines = file.read_bytes().split(b"\n")[:-1]
    try:
        return [_Entry.model_validate_json(line) for line in lines]
    except ValidationError as error:
        raise GsrError(
            f"{file} is not a file of answers; restore it, or move it away to begin anew"
        ) from error


def _append(workspace: Workspace, bundle: Bundle, entries: Sequence[_Entry]) -> None:
    """Add entries under the lock; all or, if they cannot be written, none.

    Raises:
        DiskFullError: If there is no room for them.
        OSError: If they cannot be written for another reason.
    """
    file = _file(workspace, bundle)
    content = "".join(f"{each.model_dump_json()}\n" for each in entries).encode()
    with disk_full(f"answers for bundle '{bundle.name}'"), file.open("ab") as opened:
        whole = file.read_bytes().rfind(b"\n") + 1
        opened.truncate(whole)
        try:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        except OSError:
            opened.truncate(whole)
            raise
