"""Properties of a bundle's inputs, measured once and kept by the content of these.

A table is `<workspace>/measured/<digest>.parquet`, one row a row of the bundle. The digest is of
the features and the thumbnails, or of the texts, not of groups and attributes: a bundle of the same
rows with other groups has the same table.

While it is measured, `<digest>.<what>.jsonl` has what is done, a line a part of the rows, and
`.<digest>.lock` is held. A kill can leave half a line at the end, which is cut off.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout

from gsr_core.data.bundle import Bundle
from gsr_core.data.inputs import Inputs, Texts
from gsr_core.data.pixels import THUMBNAIL_SIZE, decode_image
from gsr_core.errors import GsrError, InputError, RunStateError
from gsr_core.files import disk_full, replace_file
from gsr_core.progress import Report, ShouldStop, never, silent
from gsr_core.scanning.properties import VERSION, Value, image_properties, text_properties
from gsr_core.workspace import Workspace

__all__ = ["NOTE", "can_be_measured", "load_measured", "measure_inputs", "measured_file"]

NOTE = "note"
"""Attribute of the table: a sentence on what was measured, "" if that needs none."""
_THUMBNAILS = "thumbnails"
"""Attribute of the table: whether thumbnails were measured in place of the images."""

_AT_ONCE = 256
_THREADS = 4


def can_be_measured(bundle: Bundle) -> str:
    """Return what the inputs are that can be measured: `image`, `text`, or "" for neither."""
    if bundle.has_images:
        return "image"
    return "text" if bundle.text_columns else ""


def measured_file(workspace: Workspace, bundle: Bundle) -> Path:
    """Return where the properties of a bundle's inputs are kept."""
    digests = bundle.manifest.digests
    digest = hashlib.sha256(f"properties {VERSION}".encode())
    if bundle.has_images:
        digest.update(f"{digests['features.npy']} {digests['thumbnails.arrow']}".encode())
    else:
        digest.update(_texts_of(bundle).digest().encode())
    return workspace.measured / f"{digest.hexdigest()}.parquet"


def load_measured(workspace: Workspace, bundle: Bundle) -> pd.DataFrame | None:
    """Return the properties if they were measured before; None if not, or if there are none."""
    if not can_be_measured(bundle):
        return None
    try:
        return pd.read_parquet(measured_file(workspace, bundle))
    except FileNotFoundError:
        return None


def measure_inputs(
    workspace: Workspace,
    bundle: Bundle,
    *,
    progress: Report | None = None,
    should_stop: ShouldStop = never,
) -> pd.DataFrame | None:
    """Measure the properties of a bundle's images or texts, unless the workspace has them.

    Images are read one at a time from where the data came from; where that is not possible, the
    bundle's thumbnails are measured, a note says so, and the next call tries the images again.
    Whatever ends it, the next call goes on where it was.

    Args:
        workspace: Where they are kept.
        bundle: The data.
        progress: Called with the fraction done and what is being done.
        should_stop: Asked now and then; true ends the work, and what is done is kept.

    Returns:
        One row a row of the bundle, columns of `scanning.properties`; an input that cannot be read
        has no values. None if the bundle has neither images nor texts.

    Raises:
        RunStateError: If `should_stop` said so, or another process measures them.
        DiskFullError: If there is no room to keep them.
    """
    kind, report = can_be_measured(bundle), progress or silent
    if not kind:
        return None
    stored, images, reason = load_measured(workspace, bundle), None, ""
    if stored is not None and not stored.attrs.get(_THUMBNAILS):
        return stored
    if kind == "image":
        images, reason = _images_of(bundle)
        if images is None and stored is not None:
            return stored
    file = measured_file(workspace, bundle)
    with disk_full("what was measured"), _alone(file, bundle):
        again = load_measured(workspace, bundle)  # Perhaps another process has just done it.
        if again is not None and (images is None or not again.attrs.get(_THUMBNAILS)):
            return again
        journal = file.with_suffix(f".{'thumbnails' if reason else 'inputs'}.jsonl")
        parts = _done(journal)
        _measure(bundle, images, journal, parts, report, should_stop)
        table = pd.concat(parts, ignore_index=True)
        table.attrs |= {NOTE: _note(table, reason), _THUMBNAILS: bool(reason)}
        with replace_file(file) as temporary:
            table.to_parquet(temporary, index=False)
        journal.unlink()
    return table


def _measure(
    bundle: Bundle,
    images: Inputs | None,
    journal: Path,
    parts: list[pd.DataFrame],
    report: Report,
    should_stop: ShouldStop,
) -> None:
    """Measure the rows that come after some parts, and add theirs to these and to the journal.

    Raises:
        RunStateError: If `should_stop` said so.
    """
    n, done = len(bundle), sum(map(len, parts))
    with journal.open("ab") as stream, _measures(bundle, images, done) as measures:
        while done < n:
            found = list(islice(measures, _AT_ONCE))
            stream.write(json.dumps(found).encode() + b"\n")
            stream.flush()
            # As columns: a million records would fill the memory.
            parts.append(pd.DataFrame(found))
            done += len(found)
            report(done / n, f"Measured {done:,} of {n:,}")
            if done < n and should_stop():
                raise RunStateError(
                    f"measuring was stopped at {done:,} of {n:,}; it goes on there when it is "
                    "asked for again"
                )


def _done(journal: Path) -> list[pd.DataFrame]:
    """Return the parts that a journal has whole, and cut off what comes after them."""
    parts, whole = [], 0
    if journal.exists():
        with journal.open("rb") as stream, suppress(ValueError):
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                parts.append(pd.DataFrame(json.loads(line)))
                whole += len(line)
        os.truncate(journal, whole)
    return parts


@contextmanager
def _alone(file: Path, bundle: Bundle) -> Iterator[None]:
    """Keep other processes from measuring the same.

    Raises:
        RunStateError: If one does.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(file.with_name(f".{file.stem}.lock"), timeout=0):
            yield
    except Timeout:
        raise RunStateError(
            f"another process measures the inputs of bundle '{bundle.name}'; wait until it is done "
            "or stop it"
        ) from None


def _note(table: pd.DataFrame, reason: str) -> str:
    """Return a sentence on what was measured, "" if that needs none."""
    note = (
        f"The thumbnails of at most {THUMBNAIL_SIZE} pixels were measured, without sharpness and "
        f"size, since the images themselves cannot be read: {reason}. 'gsr scan' tries them again."
        if reason
        else ""
    )
    if unread := int(table.isna().all(axis=1).sum()):
        note = f"{note} {unread:,} inputs could not be read and have no values.".strip()
    return note


@contextmanager
def _measures(
    bundle: Bundle, images: Inputs | None, start: int
) -> Iterator[Iterator[dict[str, Value]]]:
    """Yield the properties of each row from one on, without any where it is unreadable."""
    rows = range(start, len(bundle))
    if not bundle.has_images:
        yield map(_reader(_texts_of(bundle), _of_text), rows)
        return
    if images is None:
        yield (_of_thumbnail(bundle, row) for row in rows)
        return
    # Decoding holds no lock of the interpreter, so that threads do it side by side.
    with ThreadPoolExecutor(min(os.cpu_count() or 1, _THREADS)) as pool:
        read = _reader(images, image_properties)
        # A part at a time: the pool would take all rows at once and hold what nobody has asked for.
        parts = (rows[start : start + _AT_ONCE] for start in range(0, len(rows), _AT_ONCE))
        yield (each for part in parts for each in pool.map(read, part))


def _images_of(bundle: Bundle) -> tuple[Inputs | None, str]:
    """Return the images that a bundle was made of, or None and the reason."""
    # Pages import this module, and what opens networks and files takes seconds to import.
    from gsr_core.ingest.reopen import inputs_of

    try:
        inputs = inputs_of(bundle)
    except GsrError as error:
        return None, str(error)
    return (inputs, "") if inputs.modality == "image" else (None, "its inputs are no images")


def _texts_of(bundle: Bundle) -> Texts:
    return Texts(*(bundle.column(name) for name in bundle.text_columns))


def _reader(
    inputs: Inputs, measure: Callable[..., dict[str, Value]]
) -> Callable[[int], dict[str, Value]]:
    def read(row: int) -> dict[str, Value]:
        try:
            return measure(inputs.load(row))
        except InputError:
            return {}

    return read


def _of_text(text: str | tuple[str, str]) -> dict[str, Value]:
    return text_properties((text,) if isinstance(text, str) else text)


def _of_thumbnail(bundle: Bundle, row: int) -> dict[str, Value]:
    image = bundle.thumbnail(row)
    if not image:
        return {}
    try:
        return image_properties(decode_image(io.BytesIO(image)), original=False)
    except InputError:
        return {}
