"""From a user's files to a bundle, in one call: read, define, extract, write.

A `Plan` says all of it in plain values, so that the command line, the dashboard's job and a
stored bundle mean the same. Whatever can be wrong is checked before the hour that extraction takes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

from gsr_core.data.bundle import Bundle
from gsr_core.data.bundle_writing import bundle_directory, write_bundle
from gsr_core.data.dataset import check_definition, define
from gsr_core.data.encoding import Columns
from gsr_core.data.inputs import Inputs, Numbers
from gsr_core.data.pixels import thumbnail
from gsr_core.errors import InputError, SettingError
from gsr_core.ingest.compute import Features, compute_features, encode_columns
from gsr_core.ingest.plan import Plan
from gsr_core.ingest.read import read, warnings_of
from gsr_core.progress import Report, ShouldStop, silent
from gsr_core.workspace import Workspace

__all__ = ["import_data"]


def import_data(
    workspace: Workspace,
    plan: Plan,
    *,
    overwrite: bool = False,
    progress: Report | None = None,
    should_stop: ShouldStop | None = None,
) -> Bundle:
    """Make a bundle by a plan.

    Features are kept in the workspace's `extractions`, by what they were computed from: an import
    that was interrupted goes on where it was when it is started again, and a second bundle of the
    same inputs and network computes nothing twice.

    Args:
        workspace: Where to.
        plan: What and how.
        overwrite: Replace a bundle of that name.
        progress: Called with the fraction done and what is being done.
        should_stop: Called now and then; True ends the import, and what is done stays.

    Raises:
        SettingError: If the plan does not fit the data: a network for texts and a folder of
            images, say.
        SourceError: If the files or their columns are wrong.
        BundleError: If the bundle's name is taken, or its groups and splits do not make one.
        RunStateError: If `should_stop` returned true.

    Example:
        >>> np.savez(
        ...     "arrays.npz",
        ...     features=np.eye(8),
        ...     y=4 * [0, 1],
        ...     group=4 * [0, 1],
        ...     split=np.repeat(["heldout", "target", "val", "test"], 2),
        ... )
        >>> plan = gsr.make_plan(name="small", reader="npz", settings={"path": "arrays.npz"})
        >>> bundle = gsr.import_data(place, plan)
        >>> bundle.name, bundle.features.shape, bundle.group_names
        ('small', (8, 8), ['group 0', 'group 1'])
    """
    tell = progress or silent
    directory = bundle_directory(workspace, plan.name, overwrite=overwrite)
    tell(0.0, "Reading the table")
    source, roles = read(plan)
    dataset = define(source, roles)
    check_definition(dataset)
    warnings = warnings_of(dataset, roles)
    dataset, files = encode_columns(dataset, roles)
    recipe: dict[str, Any] = {
        "plan": plan.model_dump(mode="json"),
        "roles": roles.model_dump(mode="json"),
    }
    if plan.backbone is None:
        if not isinstance(dataset.inputs, Numbers):
            raise SettingError(
                f"{dataset.inputs.modality}s become features by a trained network; name one, for "
                f"instance --backbone {_EXAMPLES[dataset.inputs.modality]}"
            )
        result = Features(dataset, dataset.inputs.array, head=source.head)
    else:
        result = compute_features(workspace, plan, plan.backbone, dataset, tell, should_stop)
        recipe |= {"preprocessing": result.preprocessing, "network": result.network}
    dataset = result.dataset
    tell(0.97, "Writing the bundle")
    with ExitStack() as stack:
        thumbnails, notes = result.thumbnails, [*warnings, *dataset.notes, *result.notes]
        if source.images is not None:
            thumbnails, more = _spool_thumbnails(source.images.take(dataset.rows), stack)
            notes += more
        bundle = write_bundle(
            directory,
            samples=dataset.samples,
            membership=dataset.membership,
            groups=dataset.groups,
            classes=dataset.classes,
            features=result.features,
            source=source.origin,
            title=plan.title or source.title or None,
            head=result.head,
            thumbnails=thumbnails,
            columns=source.table.iloc[dataset.rows] if isinstance(source.inputs, Columns) else None,
            backbone=result.facts,
            notes=notes,
            recipe=recipe,
            files=files,
            overwrite=overwrite,
            adopt_features=plan.backbone is not None,
        )
    tell(1.0, "Done")
    return bundle


_EXAMPLES = {
    "image": "torchvision:resnet50 --weights DEFAULT",
    "text": "sentence:all-MiniLM-L6-v2",
    "numbers": "own:package.module:factory",
}


def _spool_thumbnails(
    images: Inputs, stack: ExitStack
) -> tuple[Iterable[bytes | None] | None, list[str]]:
    """Make a thumbnail of each image; return them in row order, and notes.

    The notes must be known before a bundle is written, and the thumbnails of a million images
    fit no memory; hence the file in between.
    """
    spool = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    sizes: list[int | None] = []
    unreadable = []
    for row in range(len(images)):
        image = None
        if images.name(row):
            try:
                image = thumbnail(images.load(row))
            except InputError:
                unreadable.append(images.name(row))
        sizes.append(None if image is None else spool.write(image))
    notes = []
    if unreadable:
        notes.append(
            "Images missing or unreadable, so without a thumbnail: "
            f"{len(unreadable)} (first: {unreadable[0]})."
        )
    if all(size is None for size in sizes):
        return None, notes
    spool.seek(0)
    return (None if size is None else spool.read(size) for size in sizes), notes
