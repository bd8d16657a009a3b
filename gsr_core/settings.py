"""Checks of the settings that a user typed, with one sentence for a mistake."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pydantic import ValidationError

from gsr_core.errors import SettingError

__all__ = ["check_known", "suggestion", "what_is_wrong"]


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean '...'?)" with the nearest known name, or "" if none is near.

    Example:
        >>> suggestion("lr2", ["lr", "steps"])
        " (did you mean 'lr'?)"
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def check_known(owner: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Check that settings exist.

    Args:
        owner: Whose settings, for the sentence.
        names: Names that a user gave.
        known: Names that are allowed.

    Raises:
        SettingError: If one is unknown; the sentence names the nearest.
    """
    known = list(known)
    for key in names:
        if key not in known:
            raise SettingError(
                f"{owner} has no setting '{key}'{suggestion(key, known)}; its settings are "
                f"{', '.join(known)}"
            )


def what_is_wrong(error: ValidationError) -> str:
    """Return the first fault of a record: the setting, the value found and what is allowed."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where} is {first['input']!r}; {first['msg'][0].lower()}{first['msg'][1:]}"
