"""What a plan would import, before anything is computed."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
from pydantic import ValidationError

from gsr_core.data.bundle import MIN_GROUP_SIZE
from gsr_core.data.dataset import Dataset, amend, check_definition, define
from gsr_core.data.encoding import Columns
from gsr_core.data.group_rules import propose_merges
from gsr_core.data.leaks import leak_warning
from gsr_core.data.source import Roles, Source
from gsr_core.errors import GsrError, SettingError, SourceError
from gsr_core.ingest.compute import encode_columns
from gsr_core.ingest.plan import Plan
from gsr_core.readers.registry import make_reader
from gsr_core.settings import what_is_wrong

__all__ = ["preview", "read", "warnings_of"]


def read(plan: Plan) -> tuple[Source, Roles]:
    """Read the table of a plan and settle what each column is for; no input is opened.

    Raises:
        SettingError: If a role has a value that is not allowed.
        SourceError: If the files are not in the expected layout.
    """
    source = make_reader(plan.reader, plan.settings).read()
    return source, _settle_roles(source, plan)


def _settle_roles(source: Source, plan: Plan) -> Roles:
    try:
        return amend(source.roles, plan.roles)
    except ValidationError as error:
        raise SettingError(what_is_wrong(error)) from None


def preview(plan: Plan, source: Source | None = None) -> dict[str, Any]:
    """Return what a plan would import, in what JSON can hold.

    Args:
        plan: What and how.
        source: What the plan's reader returned, if it was read before.

    Returns:
        `rows` (n), `modality`, `roles`, `classes`, `splits` (names), `groups` (each with `name`,
        `definition` and `counts` by split), `notes`, `warnings`, `refusal` (why the import would
        stop; "" if it would not), and `proposed_merges` (names of groups that could become one).

    Raises:
        GsrError: As `import_data` before it extracts.
    """
    if source is None:
        source, roles = read(plan)
    else:
        roles = _settle_roles(source, plan)
    dataset = define(source, roles)
    splits, counts = dataset.counts()
    measured = counts[[split in ("target", "val", "test") for split in splits]]
    return {
        "rows": len(dataset),
        "modality": source.inputs.modality,
        "roles": roles.model_dump(mode="json"),
        "classes": dataset.classes,
        "splits": splits,
        "groups": [
            {
                "name": group.name,
                "definition": group.definition,
                "counts": dict(zip(splits, map(int, counts[:, g]), strict=True)),
            }
            for g, group in enumerate(dataset.groups)
        ],
        "notes": [*dataset.notes, *_small_groups(splits, counts)],
        "warnings": warnings_of(dataset, roles),
        "refusal": _refusal(dataset, roles),
        "proposed_merges": propose_merges(
            dataset.groups,
            measured,
            least=MIN_GROUP_SIZE,
            with_class=source.membership is None and roles.groups.with_class,
        ),
    }


def _small_groups(splits: list[str], counts: np.ndarray) -> list[str]:
    """Return a note on the number of groups that have too few samples somewhere, if any."""
    weighted = "heldout" if "heldout" in splits else "train"
    needed = [split in (weighted, "target", "val", "test") for split in splits]
    few = int((counts[needed] < MIN_GROUP_SIZE).any(axis=0).sum())
    if not few:
        return []
    return [
        f"{few} of {counts.shape[1]} groups have fewer than {MIN_GROUP_SIZE} samples in "
        f"{weighted}, target, val or test: weights, or accuracies, say little there."
    ]


def _refusal(dataset: Dataset, roles: Roles) -> str:
    """Return why the import would stop before it computes features; "" if it would not."""
    try:
        check_definition(dataset)
        encode_columns(dataset, roles)
    except GsrError as error:
        return str(error)
    return ""


def warnings_of(dataset: Dataset, roles: Roles) -> list[str]:
    """Return what a user should see before a data set is imported, one sentence each."""
    warnings = list(dataset.source.warnings)
    if isinstance(dataset.inputs, Columns):
        # Columns that cannot be features stop the import, with a sentence of their own.
        with suppress(SourceError):
            columns = dataset.inputs.under(roles)
            if leak := leak_warning(columns, dataset.samples["y"].to_numpy()):
                warnings.append(leak)
    return warnings
