"""Writing a bundle: whole, or not at all."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from gsr_core.data.bundle import (
    OWN_COLUMNS,
    OWN_FILES,
    SPLITS,
    THUMBNAILS,
    Bundle,
    Manifest,
)
from gsr_core.data.bundle_checks import (
    check_extra,
    check_head,
    check_rows,
    chunks,
    notes_on_groups,
    notes_on_head,
)
from gsr_core.data.groups import Group
from gsr_core.errors import BundleError
from gsr_core.files import disk_full, new_directory, restore_directory, sha256
from gsr_core.names import check_new_name
from gsr_core.workspace import Workspace

__all__ = ["bundle_directory", "lasting_notes", "rewrite_bundle", "write_bundle"]


_ROW_GROUP = 8192
"""Rows of `samples.parquet` that are read to get one text."""


def write_bundle(
    directory: Path,
    *,
    samples: pd.DataFrame,
    membership: np.ndarray,
    groups: Sequence[Group],
    classes: Sequence[str],
    features: np.ndarray,
    source: str,
    title: str | None = None,
    head: tuple[np.ndarray, np.ndarray] | None = None,
    thumbnails: Iterable[bytes | None] | None = None,
    columns: pd.DataFrame | None = None,
    backbone: Mapping[str, str | int | float | None] | None = None,
    notes: Sequence[str] = (),
    recipe: dict[str, Any] | None = None,
    files: Mapping[str, bytes] | None = None,
    adopt_features: bool = False,
    overwrite: bool = False,
) -> Bundle:
    """Check everything, then write a bundle: whole, or not at all.

    Args:
        directory: Where; its last part is the bundle's name.
        samples: One row a sample: `sample_id` (unique text), `split` (one of `SPLITS`), `y`
            (class index), attribute columns, optional `path`, `text` and `text_pair`.
        membership: (n, m) bool.
        groups: m groups.
        classes: K class names.
        features: (n, d) finite numbers; stored as float32.
        source: Where the rows came from, in words.
        title: Name for people; the directory's name by default.
        head: weight (K, d) and bias (K,) of the backbone's own head.
        thumbnails: Encoded images in row order, None for a row without one.
        columns: Of data that were a table, its n rows as they came, for people to look at.
        backbone: Facts about the network behind the features.
        notes: What a user should know about this data.
        recipe: How the bundle was made, in what JSON can hold; kept in the manifest.
        files: More files to keep in the bundle, by name.
        adopt_features: The caller gives `features` up: if it is a whole `.npy` file of float32 in
            row order, memory-mapped, the bundle takes a hard link of that file instead of a copy,
            so nobody may write to it again.
        overwrite: Replace a bundle of that name.

    Raises:
        BundleError: If a check fails; the sentence names the array, the row and the fix.
        DiskFullError: If there is no room for it.

    Example:
        >>> birds = gsr.open_bundle(place, "birds")
        >>> copy = gsr.write_bundle(
        ...     place.bundles / "copy",
        ...     samples=birds.samples,
        ...     membership=birds.membership,
        ...     groups=birds.manifest.groups,
        ...     classes=birds.manifest.classes,
        ...     features=2 * birds.features,
        ...     source="birds, with features of twice the size",
        ... )
        >>> copy.name, len(copy)
        ('copy', 200)
    """
    name = directory.name
    check_new_name("bundle", name, BundleError)
    _check_free(directory, overwrite=overwrite)
    check_rows(samples, membership, groups, classes, features)
    if head is not None:
        check_head(head, n_classes=len(classes), n_features=features.shape[1])
    check_extra(recipe, files or {})

    attributes = [column for column in samples.columns if column not in OWN_COLUMNS]
    counts = samples["split"].value_counts()
    split_sizes = {split: int(counts[split]) for split in SPLITS if split in counts}
    notes = [*notes, *notes_on_groups(samples, membership, groups)]
    if head is not None:
        notes += notes_on_head(samples, features, head)
    if "heldout" not in split_sizes:
        notes.insert(
            0,
            "There is no heldout split, so the weights live on train, the rows that the backbone "
            "was trained on; a fit there tends to be optimistic.",
        )

    with _new_bundle(directory, overwrite=overwrite) as temporary:
        samples.reset_index(drop=True).to_parquet(
            temporary / "samples.parquet", index=False, row_group_size=_ROW_GROUP
        )
        if columns is not None:
            _write_columns(temporary / "columns.parquet", columns)
        members = [pa.array(membership[:, g]) for g in range(len(groups))]
        pq.write_table(
            pa.table(members, names=[group.name for group in groups]),
            temporary / "groups.parquet",
        )
        whole = _whole_file(features) if adopt_features else None
        if whole is None:
            _write_features(temporary / "features.npy", features)
        else:
            _link(whole, temporary / "features.npy")
        if head is not None:
            weight, bias = (np.ascontiguousarray(part, dtype=np.float32) for part in head)
            save_file({"weight": weight, "bias": bias}, temporary / "head.safetensors")
        if thumbnails is not None:
            _write_thumbnails(temporary / "thumbnails.arrow", thumbnails)
        for file, content in (files or {}).items():
            (temporary / file).write_bytes(content)
        contents = sorted(temporary.iterdir())
        manifest = Manifest(
            name=name,
            title=title or name,
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            source=source,
            classes=list(classes),
            groups=list(groups),
            attributes=attributes,
            n_features=int(features.shape[1]),
            split_sizes=split_sizes,
            backbone=dict(backbone or {}),
            notes=notes,
            digests={file.name: sha256(file) for file in contents},
            sizes={file.name: file.stat().st_size for file in contents},
            recipe=recipe,
        )
        (temporary / "manifest.json").write_text(manifest.model_dump_json(indent=2) + "\n")
    return Bundle(directory, manifest)


def rewrite_bundle(
    bundle: Bundle,
    directory: Path,
    samples: pd.DataFrame,
    membership: np.ndarray,
    *,
    source: str,
    note: str,
    groups: Sequence[Group] | None = None,
    rows: np.ndarray | None = None,
    without: Sequence[str] = (),
    overwrite: bool = False,
) -> Bundle:
    """Write a bundle with other splits and groups, and all else as it was.

    Args:
        bundle: The data.
        directory: Of the new bundle.
        samples: n rows with their splits.
        membership: (n, m) bool.
        source: Of the new bundle.
        note: One more note.
        groups: The m groups; those of the bundle if None.
        rows: Positions of the rows that stay; all if None.
        without: Columns of the table it came from that are not shown.
        overwrite: Replace a bundle of that name.

    Raises:
        BundleError: If the rows, splits or groups do not make a bundle.
    """
    manifest, every = bundle.manifest, rows is None or len(rows) == len(bundle)
    rows = np.arange(len(bundle)) if rows is None else rows
    columns = bundle.columns()
    return write_bundle(
        directory,
        samples=samples.iloc[rows],
        membership=membership[rows],
        groups=manifest.groups if groups is None else groups,
        classes=manifest.classes,
        features=bundle.features if every else bundle.features[rows],
        source=source,
        title=directory.name,
        head=bundle.head,
        thumbnails=(bundle.thumbnail(int(row)) for row in rows) if bundle.has_images else None,
        columns=None
        if columns is None
        else columns.iloc[rows].drop(columns=list(without), errors="ignore"),
        backbone=manifest.backbone,
        notes=[*lasting_notes(manifest), note],
        recipe=manifest.recipe,
        files={
            each: (bundle.path / each).read_bytes()
            for each in manifest.digests
            if each not in OWN_FILES
        },
        # Nobody writes to the old bundle again, so that both can share the file.
        adopt_features=every,
        overwrite=overwrite,
    )


def lasting_notes(manifest: Manifest) -> list[str]:
    """Return the notes of a bundle but for those that writing one of its rows adds again."""
    renewed = ("Group '", "There is no heldout split")
    return [note for note in manifest.notes if not note.startswith(renewed)]


@contextmanager
def _new_bundle(directory: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary directory that becomes a bundle when the block succeeds.

    Raises:
        BundleError: If a bundle of that name was made meanwhile.
    """
    try:
        with (
            disk_full(f"bundle '{directory.name}'"),
            new_directory(directory, overwrite=overwrite) as temporary,
        ):
            yield temporary
    except FileExistsError:
        raise BundleError(
            f"bundle '{directory.name}' exists: another process made it meanwhile; choose another "
            "name or replace it with --overwrite"
        ) from None


def bundle_directory(workspace: Workspace, name: str, *, overwrite: bool = False) -> Path:
    """Return where a new bundle goes, after checking what can be checked before it is made.

    Args:
        workspace: The workspace.
        name: Name of the new bundle.
        overwrite: Whether it may replace a bundle of that name.

    Raises:
        BundleError: If the name is not allowed or is taken.
    """
    check_new_name("bundle", name, BundleError)
    directory = workspace.bundles / name
    _check_free(directory, overwrite=overwrite)
    return directory


def _check_free(directory: Path, *, overwrite: bool) -> None:
    name = directory.name
    restore_directory(directory)
    if directory.exists() and not (directory / "manifest.json").is_file():
        raise BundleError(
            f"{directory} exists and is not a bundle; choose another name or remove it"
        )
    if directory.exists() and not overwrite:
        raise BundleError(
            f"bundle '{name}' exists already; choose another name or replace it with --overwrite"
        )


def _whole_file(features: np.ndarray) -> Path | None:
    """Return the `.npy` file that holds just this array as the bundle would write it, or None."""
    # Changes of a copy-on-write mapping are not in the file.
    if not isinstance(features, np.memmap) or not features.filename or features.mode == "c":
        return None
    file = Path(features.filename)
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    same = (
        array.dtype == np.float32
        and features.dtype == np.float32
        and array.shape == features.shape
        and array.strides == features.strides
        and array.flags.c_contiguous
        # The file of that name may be another by now, or hold more than the array.
        and file.stat().st_size == array.offset + array.nbytes
        and all(np.array_equal(array[row], features[row]) for row in (0, -1))
    )
    if not same:
        return None
    features.flush()
    return file


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # On another disk, or on one without links.
        shutil.copyfile(source, target)


def _write_columns(file: Path, columns: pd.DataFrame) -> None:
    """Write the columns of a table; what is neither number nor truth value becomes text."""
    shown = columns.reset_index(drop=True)
    shown.columns = [str(name) for name in shown.columns]
    for name in shown.columns:
        if not (
            pd.api.types.is_numeric_dtype(shown[name]) or pd.api.types.is_bool_dtype(shown[name])
        ):
            shown[name] = shown[name].map(str).where(shown[name].notna(), "")
    shown.to_parquet(file, index=False, row_group_size=_ROW_GROUP)


def _write_features(file: Path, features: np.ndarray) -> None:
    # Written rather than mapped, so that the pages need not stay in memory.
    header = {"descr": "<f4", "fortran_order": False, "shape": features.shape}
    with file.open("wb") as sink:
        np.lib.format.write_array_header_1_0(sink, header)
        for _, chunk in chunks(features):
            sink.write(chunk.astype("<f4", copy=False).data)


def _write_thumbnails(file: Path, thumbnails: Iterable[bytes | None]) -> None:
    schema = pa.schema([("image", pa.large_binary())])
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        chunk: list[bytes | None] = []
        for image in thumbnails:
            chunk.append(image)
            if len(chunk) == THUMBNAILS:
                writer.write_batch(pa.record_batch([pa.array(chunk, pa.large_binary())], schema))
                chunk = []
        if chunk:
            writer.write_batch(pa.record_batch([pa.array(chunk, pa.large_binary())], schema))
