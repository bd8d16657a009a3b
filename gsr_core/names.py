"""Names of what a workspace keeps, each of which is also the name of a directory."""

from __future__ import annotations

import re

from gsr_core.errors import GsrError, SettingError

__all__ = ["check_new_name", "check_text", "is_name", "method_label"]

_LONGEST = 255
"""Bytes of a file's name, on the usual systems."""

_RESERVED = re.compile(r"(CON|PRN|AUX|NUL|COM[0-9]|LPT[0-9])(\..*)?", re.IGNORECASE | re.DOTALL)
"""Names that Windows gives to devices, whatever their ending."""


def is_name(text: str) -> bool:
    r"""Return whether a text can be the name of something in a directory: one part of a path.

    Whatever comes from a user, a URL or a file as the name of a run, bundle, study, sweep or
    clustering passes here before it becomes part of a path: none leads out of the workspace.

    Example:
        >>> [is_name(text) for text in ("gsr-2026-ab", "..", "a/b", r"a\b", "C:", "")]
        [True, False, False, False, False, False]
    """
    return (
        text not in ("", ".", "..")
        and text.isprintable()
        and not re.search(r"[/\\:]", text)
        and len(text.encode()) <= _LONGEST
    )


def check_new_name(kind: str, name: str, error: type[GsrError] = SettingError) -> None:
    """Check the name of something new: a bundle, a study, a sweep.

    Args:
        kind: What it is, for the sentence.
        name: Its name.
        error: What to raise.

    Raises:
        GsrError: If it is not allowed.

    Example:
        >>> check_new_name("study", "../mine")
        Traceback (most recent call last):
        ...
        gsr_core.errors.SettingError: study name '../mine' is not allowed; use up to 100 ...
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name) or name.endswith("."):
        raise error(
            f"{kind} name '{name}' is not allowed; use up to 100 letters, digits, '.', '_' and "
            "'-', beginning with a letter or digit and not ending with '.'"
        )
    if _RESERVED.fullmatch(name):
        raise error(
            f"{kind} name '{name}' is not allowed, because '{name.partition('.')[0]}' is a device "
            "on Windows; choose another"
        )


def check_text(what: str, text: str) -> None:
    r"""Check that a text of the user's can be stored and sent.

    Args:
        what: What it is, for the sentence.
        text: The text.

    Raises:
        SettingError: If it has half of a surrogate pair, as a byte that is not UTF-8 becomes on the
            command line.

    Example:
        >>> check_text("reason", "a\ud800b")
        Traceback (most recent call last):
        ...
        gsr_core.errors.SettingError: reason 'a\ud800b' is no text that UTF-8 can write; ...
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SettingError(
            f"{what} {text!a} is no text that UTF-8 can write; type it again without what begins "
            "with a backslash here"
        ) from None


def method_label(key: str) -> str:
    """Return what a method is called in labels of runs, from its key.

    >>> method_label("gsr"), method_label("network_jtt")
    ('GSR', 'JTT network')
    """
    short = key.removeprefix("network_")
    return key.upper() if short == key else f"{short.upper()} network"
