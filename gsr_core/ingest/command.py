"""The command line of a plan."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gsr_core.ingest.plan import ExtractionChoice, Plan

if TYPE_CHECKING:
    pass

__all__ = ["command"]


def command(plan: Plan, *, overwrite: bool = False, workspace: Path | None = None) -> str:
    """Return the command line that imports by the same plan.

    Args:
        plan: As `make_plan` returns it.
        overwrite: Replace a bundle of that name.
        workspace: Named in the command; None leaves it to the shell it is typed into.
    """
    words = ["gsr", "import", plan.reader]

    def put(option: str, *values: Any) -> None:
        for value in values:
            text = _as_typed(value)
            words.extend([f"{option}={text}"] if text.startswith("-") else [option, text])

    def put_pairs(option: str, pairs: Mapping[str, Any]) -> None:
        put(option, *(f"{key}={_as_typed(value)}" for key, value in pairs.items()))

    path = str(plan.settings.get("path", ""))
    if path:
        words.append(f"./{path}" if path.startswith("-") else path)
    put("--name", plan.name)
    if plan.title:
        put("--title", plan.title)
    put_pairs("--set", {key: value for key, value in plan.settings.items() if key != "path"})
    _put_roles(plan.roles, put, put_pairs, words.append)
    if plan.backbone is not None:
        choice = plan.backbone
        put("--backbone", choice.name)
        for option in ("checkpoint", "weights", "layer"):
            if value := getattr(choice, option):
                put(f"--{option}", value)
        words.extend(["--trust"] * choice.trust)
        put_pairs("--factory", choice.arguments)
        put_pairs("--preprocess", choice.overrides)
    if plan.training is not None:
        put("--train", plan.training.preset)
        put_pairs("--train-set", plan.training.settings)
    usual = ExtractionChoice()
    for key, value in plan.extraction:
        if value != getattr(usual, key):
            put("--bad" if key == "on_bad" else f"--{key.replace('_', '-')}", value)
    if workspace is not None:
        put("--workspace", workspace)
    words.extend(["--overwrite"] * overwrite)
    return shlex.join(words)


def _put_roles(
    roles: Mapping[str, Any],
    put: Callable[..., None],
    put_pairs: Callable[..., None],
    flag: Callable[[str], None],
) -> None:
    """Write what differs from the proposal as options; an empty word stands for nothing."""
    if roles.get("label"):
        put("--label", roles["label"])
    if "sample_id" in roles:
        put("--sample-id", roles["sample_id"] or "")
    put("--attribute", *(roles["attributes"] or [""] if "attributes" in roles else []))
    groups = roles.get("groups", {})
    if "kind" in groups:
        put("--groups", groups["kind"])
    put("--group-by", *(groups["columns"] or [""] if "columns" in groups else []))
    if "with_class" in groups:
        flag(f"--{'' if groups['with_class'] else 'no-'}class-in-groups")
    put_pairs("--bins", groups.get("bins", {}))
    put("--merge", *("|".join(each) for each in groups.get("merge", [])))
    split = roles.get("split", {})
    if "column" in split:
        put("--split", split["column"] or "none")
    put_pairs("--split-word", split.get("words", {}))
    for key, option in (
        ("train", "--train-share"),
        ("validation", "--validation-share"),
        ("heldout", "--heldout"),
        ("target", "--target"),
        ("seed", "--split-seed"),
    ):
        if key in split:
            put(option, split[key])


def _as_typed(value: Any) -> str:
    """Return a value as it is typed in a command."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)
