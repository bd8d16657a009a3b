"""Inferences by name, and inferences from settings that a user typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pkgutil import resolve_name
from typing import Any

from pydantic import ValidationError

from gsr_core.errors import SettingError
from gsr_core.inference import WHERE
from gsr_core.inference.base import GroupInference
from gsr_core.settings import check_known, suggestion, what_is_wrong

__all__ = ["INFERENCES", "make_inference"]

INFERENCES: dict[str, type[GroupInference]] = {
    name: resolve_name(where) for name, where in WHERE.items()
}
"""Those that read no group label at all."""


def make_inference(name: str, values: Mapping[str, Any] | None = None) -> GroupInference:
    """Make an inference from its name and settings; text is read as the setting's type.

    Args:
        name: A key of `INFERENCES`.
        values: Settings that differ from the defaults.

    Raises:
        SettingError: If the inference or a setting is unknown, or a value is not allowed.

    >>> make_inference("kmeans", {"max_clusters": "3"}).max_clusters
    3
    """
    if name not in INFERENCES:
        raise SettingError(
            f"there is no inference '{name}'{suggestion(name, INFERENCES)}; inferences are "
            f"{', '.join(INFERENCES)}"
        )
    inference = INFERENCES[name]
    check_known(name, values or {}, [each.name for each in fields(inference)])
    try:
        return inference(**(values or {}))
    except ValidationError as error:
        raise SettingError(f"{name}: {what_is_wrong(error)}") from None
