"""What a plan would import, before anything is computed."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from gsr_core.data.bundle import MIN_GROUP_SIZE
from gsr_core.data.dataset import Dataset, amend, define
from gsr_core.data.encoding import Columns
from gsr_core.data.group_rules import propose_merges
from gsr_core.data.leaks import leak_warning
from gsr_core.data.source import Roles, Source
from gsr_core.errors import SettingError
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
        `definition` and `counts` by split), `notes`, `warnings`, and `proposed_merges` (pairs of
        names).

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
        "notes": dataset.notes,
        "warnings": warnings_of(dataset, roles),
        "proposed_merges": propose_merges(dataset.groups, measured, least=MIN_GROUP_SIZE),
    }


def warnings_of(dataset: Dataset, roles: Roles) -> list[str]:
    """Return what a user should see before a data set is imported, one sentence each.

    Raises:
        SourceError: If a column of a table is named as a feature and cannot be one.
    """
    warnings = list(dataset.source.warnings)
    if isinstance(dataset.inputs, Columns):
        columns = dataset.inputs.under(roles)
        more = (columns.gap_warning(), leak_warning(columns, dataset.samples["y"].to_numpy()))
        warnings += [each for each in more if each]
    return warnings
