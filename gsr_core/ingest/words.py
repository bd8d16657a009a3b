"""The words of `gsr import` for a plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gsr_core.ingest.plan import ExtractionChoice, Plan
from gsr_core.jobs.command import option, pairs

__all__ = ["import_words"]


def import_words(plan: Plan) -> list[str]:
    """Return what is typed after `gsr` to import by a plan, as `make_plan` returns it."""
    words = ["import", plan.reader]
    path = str(plan.settings.get("path", ""))
    if path:
        words.append(f"./{path}" if path.startswith("-") else path)
    words += option("--name", plan.name)
    if plan.title:
        words += option("--title", plan.title)
    words += pairs("--set", {key: value for key, value in plan.settings.items() if key != "path"})
    words += _role_words(plan.roles)
    if plan.backbone is not None:
        choice = plan.backbone
        words += option("--backbone", choice.name)
        for name in ("checkpoint", "weights", "layer"):
            if value := getattr(choice, name):
                words += option(f"--{name}", value)
        words += ["--trust"] * choice.trust
        words += pairs("--factory", choice.arguments)
        words += pairs("--preprocess", choice.overrides)
    if plan.training is not None:
        words += option("--train", plan.training.preset)
        words += pairs("--train-set", plan.training.settings)
    usual = ExtractionChoice()
    for key, value in plan.extraction:
        if value != getattr(usual, key):
            words += option("--bad" if key == "on_bad" else f"--{key.replace('_', '-')}", value)
    return words


def _role_words(roles: Mapping[str, Any]) -> list[str]:
    """Return what differs from the proposal as options; an empty word stands for nothing."""
    words = []
    if roles.get("label"):
        words += option("--label", roles["label"])
    if "sample_id" in roles:
        words += option("--sample-id", roles["sample_id"] or "")
    words += option("--attribute", *(roles["attributes"] or [""] if "attributes" in roles else []))
    groups = roles.get("groups", {})
    if "kind" in groups:
        words += option("--groups", groups["kind"])
    words += option("--group-by", *(groups["columns"] or [""] if "columns" in groups else []))
    if "with_class" in groups:
        words.append(f"--{'' if groups['with_class'] else 'no-'}class-in-groups")
    words += pairs("--bins", groups.get("bins", {}))
    words += option("--merge", *("|".join(each) for each in groups.get("merge", [])))
    split = roles.get("split", {})
    if "column" in split:
        words += option("--split", split["column"] or "none")
    words += pairs("--split-word", split.get("words", {}))
    for key, name in (
        ("train", "--train-share"),
        ("validation", "--validation-share"),
        ("heldout", "--heldout"),
        ("target", "--target"),
        ("seed", "--split-seed"),
    ):
        if key in split:
            words += option(name, split[key])
    return words
