"""A form whose fields are a method's hyperparameters."""

from __future__ import annotations

from typing import Any

import streamlit as st
from pydantic import TypeAdapter

from gsr_core.data.bundle import Bundle
from gsr_core.data.variation import CLASS, in_words
from gsr_core.methods.base import LabelNeeds
from gsr_core.methods.registry import METHODS, make_method
from gsr_core.runs.job import RunJob
from gsr_core.views.fields import field
from gsr_core.views.import_source import in_rows

__all__ = ["method_form", "setting_field"]

_UP_FRONT = ("steps", "optimiser", "lr", "l2", "temperature")
"""Settings that are changed most; the others are one click away."""

_BUNDLE = "the bundle's"
"""The choice of groups that are those by which a run is judged."""

_ACTS_ON = {"head": "the head", "network": "the whole network"}

_NEEDS = {
    LabelNeeds.NONE: "none",
    LabelNeeds.TARGET: "target",
    LabelNeeds.TRAIN: "all rows",
}


def method_form(bundle: Bundle, devices: list[str]) -> list[RunJob]:
    """Draw the form and return the runs on a bundle that it describes, one for each seed."""
    # Of the run whose settings were asked for; each time the widgets are new ones.
    given = st.session_state.get(
        "run form", {"turn": 0, "method": "", "settings": {}, "device": "", "seen_groups": None}
    )
    form = f"form {given['turn']}" if given["turn"] else "form"
    acts_on = st.segmented_control(
        "Train",
        list(_ACTS_ON),
        format_func=lambda key: _ACTS_ON[key],
        default=METHODS[given["method"]].acts_on if given["method"] else "head",
        required=True,
        help="The head is fitted exactly on the stored features, in seconds. The whole network is "
        "trained from the bundle's own inputs, epoch by epoch, on the rows of train.",
        key=f"{form} acts on",
        persist_state="session",
    )
    able = {name: each for name, each in METHODS.items() if each.acts_on == acts_on}
    known = {each.needs for each in able.values()}
    needs = st.segmented_control(
        "Methods that train with group labels of",
        ["all", *(each for each in LabelNeeds if each in known)],
        format_func=lambda key: _NEEDS.get(key, "any"),
        default="all",
        required=True,
        help="Which group labels a method reads to train. Methods that read none may still need "
        "those of val to choose the step that is kept: see the setting 'selection'.",
        key=f"{form} needs {acts_on}",
        persist_state="session",
    )
    names = [name for name, each in able.items() if needs in ("all", each.needs)]
    name = st.selectbox(
        "Method",
        names,
        index=names.index(given["method"]) if given["method"] in names else 0,
        format_func=lambda key: METHODS[key].title,
        key=f"{form} method {acts_on} {needs}",
        persist_state="session",
    )
    method = METHODS[name]
    st.caption(
        f"{method.summary} Trains with {method.needs}. Per-sample values: {method.values}.  \n"
        f"**When to use:** {method.use_when}"
    )
    fields = TypeAdapter(method).json_schema()["properties"]
    defaults = make_method(name).settings()
    start = {**defaults, **(given["settings"] if name == given["method"] else {})}
    hidden = [key for key in fields if key not in (*_UP_FRONT, "seed")]
    values: dict[str, Any] = {}
    shown = [key for key in _UP_FRONT if key in fields]
    # Two in a row: the form is narrow beside the runs.
    for column, key in zip(in_rows(len(shown), 2), shown, strict=True):
        with column:
            values[key] = field(name, key, fields[key], start[key], form=form)
    with st.expander("More settings"):
        for key in hidden:
            values[key] = field(name, key, fields[key], start[key], form=form)
    left, right = st.columns(2)
    with left:
        first = st.number_input(
            "Seed",
            0,
            10_000,
            min(int(start["seed"]), 10_000),
            help=fields["seed"]["description"],
            key=f"{form} seed",
            persist_state="session",
        )
        device = st.selectbox(
            "Device",
            devices,
            index=devices.index(given["device"]) if given["device"] in devices else 0,
            key=f"{form} device",
            persist_state="session",
        )
    with right:
        count = st.number_input(
            "Runs",
            1,
            10,
            1,
            help="One run for each of so many seeds.",
            key=f"{form} runs",
            persist_state="session",
        )
        seen = _seen_groups(bundle, given["seen_groups"], form)
    changed = {key: value for key, value in values.items() if value != defaults[key]}
    return [
        RunJob(
            bundle=bundle.name,
            method=name,
            settings={**changed, "seed": int(first) + k},
            device=device,
            seen_groups=seen,
        )
        for k in range(int(count))
    ]


def _seen_groups(
    bundle: Bundle, given: tuple[str, ...] | None, form: str
) -> tuple[str, ...] | None:
    """Draw the choice of the groups that the method sees; return it as a variation has it."""
    attributes = [name for name in bundle.manifest.attributes if name != CLASS]
    offered = [(), *((name,) for name in attributes)]
    # Of the run whose settings were asked for, which may be on another bundle.
    if given is not None and given not in offered and {*given} <= {*attributes}:
        offered.append(given)
    choices = {_BUNDLE: None, **{in_words(names): names for names in offered}}
    start = _BUNDLE if given is None else in_words(given)
    chosen = st.selectbox(
        "Groups the method sees",
        list(choices),
        index=list(choices).index(start) if start in choices else 0,
        help="Of the samples that it trains with and of val, by which it chooses a step. Every run "
        "is judged by the groups of the bundle.",
        key=f"{form} seen groups {bundle.name}",
        persist_state="session",
    )
    return choices[chosen]


def setting_field(method: str, key: str, *, form: str) -> Any:
    """Draw one setting of a method as part of another form; return its value."""
    schema = TypeAdapter(METHODS[method]).json_schema()["properties"][key]
    return field(method, key, schema, make_method(method).settings()[key], form=form)
