"""A form whose fields are a method's hyperparameters, and the command that does the same."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st
from pydantic import TypeAdapter

from gsr_core.methods.base import LabelNeeds
from gsr_core.methods.registry import METHODS, make_method
from gsr_core.views.fields import field
from gsr_core.views.session import workspace
from gsr_core.workspace import DEFAULT_WORKSPACE

__all__ = ["Request", "command", "method_form", "setting_field"]

_UP_FRONT = ("steps", "lr", "l2", "temperature")
"""Settings that are changed most; the others are one click away."""


_NEEDS = {
    LabelNeeds.NONE: "no group labels",
    LabelNeeds.TARGET: "labels of target",
    LabelNeeds.TRAIN: "labels of heldout",
}


@dataclass(frozen=True)
class Request:
    """What the form says: one run for each seed."""

    method: str
    settings: dict[str, Any]
    seeds: list[int]
    device: str


def method_form(devices: list[str]) -> Request:
    """Draw the form and return what it says now."""
    needs = st.segmented_control(
        "Methods that train with",
        ["all", *LabelNeeds],
        format_func=lambda key: _NEEDS.get(key, "any"),
        default="all",
        required=True,
        help="Which group labels a method reads to train. Methods that read none may still need "
        "those of val to choose the step that is kept: see the setting 'selection'.",
        key="form needs",
    )
    names = [name for name, each in METHODS.items() if needs in ("all", each.needs)]
    name = st.selectbox(
        "Method",
        names,
        format_func=lambda key: METHODS[key].title,
        key=f"form method {needs}",
    )
    method = METHODS[name]
    st.caption(f"{method.summary} Trains with {method.needs}. Per-sample values: {method.values}.")
    fields = TypeAdapter(method).json_schema()["properties"]
    defaults = make_method(name).settings()
    hidden = [key for key in fields if key not in (*_UP_FRONT, "seed")]
    values: dict[str, Any] = {}
    shown = [key for key in _UP_FRONT if key in fields]
    for column, key in zip(st.columns(max(len(shown), 2)), shown, strict=False):
        with column:
            values[key] = field(name, key, fields[key], defaults[key])
    with st.expander("More settings"):
        for key in hidden:
            values[key] = field(name, key, fields[key], defaults[key])
    left, right = st.columns(2)
    with left:
        first = st.number_input(
            "Seed", 0, 10_000, 0, help=fields["seed"]["description"], key="form seed"
        )
        device = st.selectbox("Device", devices, key="form device")
    with right:
        count = st.number_input(
            "Runs", 1, 10, 1, help="One run for each of so many seeds.", key="form runs"
        )
    changed = {key: value for key, value in values.items() if value != defaults[key]}
    return Request(name, changed, list(range(int(first), int(first) + int(count))), device)


def command(bundle: str, request: Request) -> str:
    """Return the command lines that start the same runs, one for each stretch of seeds."""
    lines = []
    for first, count in _stretches(request.seeds):
        words = ["gsr", "run", bundle, "--method", request.method]
        for key, value in request.settings.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            words += ["--set", f"{key}={text}"]
        words += ["--seed", str(first), *(["--seeds", str(count)] if count > 1 else [])]
        words += ["--device", request.device]
        if workspace().root != Path(DEFAULT_WORKSPACE).resolve():
            words += ["--workspace", str(workspace().root)]
        lines.append(shlex.join(words))
    return "\n".join(lines)


def _stretches(seeds: list[int]) -> list[tuple[int, int]]:
    """Return rising seeds as stretches without a gap: the first of each, and how many."""
    stretches: list[tuple[int, int]] = []
    for seed in seeds:
        if stretches and seed == sum(stretches[-1]):
            stretches[-1] = (stretches[-1][0], stretches[-1][1] + 1)
        else:
            stretches.append((seed, 1))
    return stretches


def setting_field(method: str, key: str, *, form: str) -> Any:
    """Draw one setting of a method as part of another form; return its value."""
    schema = TypeAdapter(METHODS[method]).json_schema()["properties"][key]
    return field(method, key, schema, make_method(method).settings()[key], form=form)
