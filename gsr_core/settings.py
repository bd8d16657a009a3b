"""Checks of the settings that a user typed, with one sentence for a mistake."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pydantic import ValidationError

from gsr_core.errors import SettingError

__all__ = ["check_known", "suggestion", "what_is_wrong"]


_OTHER_WORDS = {
    "epochs": "steps",
    "iterations": "steps",
    "learning_rate": "lr",
    "optimizer": "optimiser",
    "wd": "weight_decay",
}
"""What other programs call a setting, and what it is here."""

_MOST = 3


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean '...'?)" with the known names that are meant, or "" if none is near.

    Those are what other programs call so, else those that have the name as a part, up to three,
    else the one that is spelled most alike.

    Example:
        >>> suggestion("lr2", ["lr", "steps"])
        " (did you mean 'lr'?)"
        >>> suggestion("dro", ["erm", "group_dro", "network_group_dro"])
        " (did you mean 'group_dro' or 'network_group_dro'?)"
        >>> suggestion("epochs", ["lr", "steps"])
        " (did you mean 'steps'?)"
    """
    known = list(known)
    near = [each for each in known if each == _OTHER_WORDS.get(name)]
    if not near and len(name) > 2:
        near = [each for each in known if name.lower() in each.lower()]
    if not near or len(near) > _MOST:
        near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""


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
