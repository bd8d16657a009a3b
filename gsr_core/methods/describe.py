"""What the methods are, as records: for the command line, the documentation and other programs."""

from __future__ import annotations

import re
import sys
from typing import Any

from pydantic import TypeAdapter

from gsr_core.methods.base import LabelNeeds, Method, Range
from gsr_core.methods.registry import METHODS

__all__ = ["describe_methods", "in_families", "methods_table"]

_SOURCE = re.compile(r'"([^"]{10,}?)[,.]?"[,:]? \(?([^()";]{0,60}?\b(?:19|20)\d\d)\b')
"""A title in quotation marks with venue and year behind it, as the modules name their source."""


def describe_methods() -> list[dict[str, Any]]:
    """Return what every method is, does, reads and takes, and when to use it.

    `acts_on` is `head` or `network`. `family` is the key of `LabelNeeds`: `none`, `target` or
    `train`. `labels` are the splits whose group labels are read at the default settings
    (`weighted` are the rows that are fitted). A parameter has `name`, `type`, `default`, `help`,
    the range (`minimum`, `maximum`, `above` and `below` if the end itself is not allowed) or the
    allowed values (`allowed`), and `search`: where a sweep looks, None if it does not vary it.
    """
    return [_describe(method) for method in METHODS.values()]


def in_families(described: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return descriptions by what the methods act on, then by the labels that they need to train.

    Within a family they stay in the order of the registry.
    """
    needs = [each.name.lower() for each in LabelNeeds]
    return sorted(
        described, key=lambda each: (each["acts_on"] == "network", needs.index(each["family"]))
    )


def _describe(method: type[Method]) -> dict[str, Any]:
    defaults = method()
    fields = TypeAdapter(method).json_schema()["properties"]
    return {
        "name": method.name,
        "title": method.title,
        "summary": method.summary,
        "use_when": method.use_when,
        "acts_on": method.acts_on,
        "family": method.needs.name.lower(),
        "needs": str(method.needs),
        "labels": list(defaults.labels_used),
        "values": str(method.values),
        "values_on": method.values_on,
        "steps": defaults.max_steps,
        "source": _source(method),
        "parameters": [
            {
                "name": name,
                "type": _type(schema),
                "default": schema.get("default"),
                "allowed": schema.get("enum"),
                "minimum": schema.get("minimum"),
                "above": schema.get("exclusiveMinimum"),
                "maximum": schema.get("maximum"),
                "below": schema.get("exclusiveMaximum"),
                "search": _search(method, name),
                "help": schema.get("description", ""),
            }
            for name, schema in fields.items()
        ],
    }


def _type(schema: dict[str, Any]) -> str:
    either = [each["type"] for each in schema.get("anyOf", [])]
    return schema.get("type") or " or ".join(either) or "string"


def _search(method: type[Method], name: str) -> dict[str, Any] | list[Any] | None:
    space = method.search.get(name)
    if isinstance(space, Range):
        return {"low": space.low, "high": space.high, "log": space.log}
    return None if space is None else list(space)


def _source(method: type[Method]) -> str:
    """Return title, venue and year of the paper that the method's module names first, or "".

    If it names none, that of a module it inherits from, such as a group inference.
    """
    for each in method.__mro__:
        text = " ".join((sys.modules[each.__module__].__doc__ or "").split())
        if found := _SOURCE.search(text):
            return f"{found[1]} ({found[2]})"
    return ""


def methods_table() -> str:
    """Return the table of all methods in Markdown, by what they act on and the labels they need."""
    lines = [
        "| method | what it does | acts on | group labels to train | values of samples | source |",
        "|---|---|---|---|---|---|",
    ]
    for each in in_families(describe_methods()):
        words = {"none": "none", "target": "target", "train": "heldout"}
        if each["acts_on"] == "network":
            words["train"] = "train"
        values = each["values"].split(":")[0]
        on = " (on target)" if each["values_on"] == "target" and values != "none" else ""
        cells = [
            f"`{each['name']}`",
            f"**{each['title']}.** {each['summary']} *When to use:* {each['use_when']}",
            each["acts_on"],
            words[each["family"]],
            f"{values}{on}",
            each["source"] or "–",
        ]
        lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(lines) + "\n"
