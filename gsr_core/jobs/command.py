"""A line of `gsr`, as it is typed into a shell."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gsr_core.workspace import DEFAULT_WORKSPACE, Workspace

__all__ = ["option", "pairs", "shell_line"]


def shell_line(words: Iterable[str], workspace: Workspace) -> str:
    """Return `gsr` and some words, quoted, with the workspace unless it is the usual one."""
    words = ["gsr", *words]
    if workspace.root != Path(DEFAULT_WORKSPACE).resolve():
        words += option("--workspace", workspace.root)
    return shlex.join(words)


def option(name: str, *values: Any) -> list[str]:
    """Return the words that give an option each of some values."""
    words = []
    for value in values:
        text = _typed(value)
        words += [f"{name}={text}"] if text.startswith("-") else [name, text]
    return words


def pairs(name: str, values: Mapping[str, Any]) -> list[str]:
    """Return the words that give an option of the form KEY=VALUE each of some pairs."""
    return option(name, *(f"{key}={_typed(value)}" for key, value in values.items()))


def _typed(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)
