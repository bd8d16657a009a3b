"""A model card: what a run's head is, in the form that model hubs read.

Markdown with a block of YAML before it, in the fields of the Hugging Face Hub
(https://huggingface.co/docs/hub/model-cards): the scores stand in `model-index`, where the hub
looks for them. The licence is the user's to choose.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from markupsafe import Markup

from gsr_core.errors import SettingError
from gsr_core.reports.facts import Report
from gsr_core.reports.templates import templates
from gsr_core.runs.summary import AVERAGES

__all__ = ["as_card"]

_TASKS = {
    "image": "image-classification",
    "text": "text-classification",
    "table": "tabular-classification",
}
"""The hub's name of what a head does, by what the inputs are."""

_MARKUP = re.compile(r"([\\`*_{}\[\]#$~<>|&])")


def as_card(report: Report) -> str:
    """Return the model card of a run, from a report on it.

    Args:
        report: On one run or on one setting over seeds, and what it is held against.

    Raises:
        SettingError: If the report is on several: a card is of one model.
    """
    if report.several:
        raise SettingError(
            f"a model card is of one model, and the report is on {len(report.runs)} settings; name "
            "one run and at most one that it is held against, or write the report as .html"
        )
    # Its own escapes are those of HTML, which would be shown; `finalize` has those of Markdown.
    environment = templates(autoescape=False, finalize=as_it_is)
    # Inside a block of code nothing is obeyed, and a backslash would be shown.
    environment.filters["verbatim"] = Markup
    verdicts = [row for row in report.result["paired"] if row["metric"] == AVERAGES[0]]
    front = yaml.safe_dump(_front(report), sort_keys=False, allow_unicode=True, width=100)
    body = environment.get_template("card.md").render(
        report=report,
        manifest=report.manifest,
        after=report.after,
        before=report.before,
        run=report.runs[report.main],
        groups=_groups(report),
        verdict=verdicts[0] if verdicts else None,
    )
    return f"---\n# license: choose one, and take the hash away\n{front}---\n\n{body}"


def as_it_is(value: Any) -> Any:
    """Return a text in which Markdown finds nothing to obey; numbers as they are."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return _MARKUP.sub(r"\\\1", " ".join(value.split()))


def _groups(report: Report) -> list[dict[str, Any]]:
    """Return one row a group: its samples, and what it reaches before and after."""
    before = report.before["groups"] if report.before else [None] * len(report.after["groups"])
    definitions = {group.name: group.definition for group in report.groups}
    return [
        {"definition": definitions[row["group"]], "before": earlier, "after": row, **row}
        for earlier, row in zip(before, report.after["groups"], strict=True)
    ]


def _front(report: Report) -> dict[str, Any]:
    """Return what the hub reads."""
    manifest, after = report.manifest, report.after
    task = _TASKS.get(_modality(report), "other")
    metrics = [
        {"type": "accuracy" if name == "mean_accuracy" else name, "name": title, "value": value}
        for name, title in zip(
            AVERAGES, ("Worst-group accuracy", "Accuracy", "Adjusted average accuracy"), strict=True
        )
        if (value := after[name]["mean"]) is not None
    ]
    dataset = {"name": manifest.title, "type": manifest.name, "split": "test"}
    result = {"task": {"type": task}, "dataset": dataset, "metrics": metrics}
    return {
        "library_name": "gsr-core",
        **({} if task == "other" else {"pipeline_tag": task}),
        "tags": ["group-robustness", "spurious-correlation", report.runs[report.main].method],
        "metrics": ["accuracy"],
        "model-index": [{"name": after["label"], "results": [result]}],
    }


def _modality(report: Report) -> str:
    recipe = report.manifest.recipe or {}
    known = (recipe.get("preprocessing") or {}).get("modality")
    return "table" if "columns.parquet" in report.manifest.digests else known or ""
