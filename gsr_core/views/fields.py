"""One widget for one setting, drawn from its schema: type, range, default and description."""

from __future__ import annotations

import math
from typing import Any

import streamlit as st

__all__ = ["field"]


def field(owner: str, key: str, schema: dict[str, Any], default: Any, *, form: str = "form") -> Any:
    """Draw one setting and return its value; its widget follows from its type and range.

    Args:
        owner: The method or the inference that has the setting.
        key: Name of the setting.
        schema: JSON schema of the setting.
        default: Value at first.
        form: Identity of the form on the page.
    """
    label, help_text = key.replace("_", " "), schema.get("description")
    identity = f"{form} {owner} {key}"
    if "enum" in schema:
        options = schema["enum"]
        return st.selectbox(
            label,
            options,
            index=options.index(default),
            help=help_text,
            key=identity,
            persist_state="session",
        )
    if schema["type"] == "boolean":
        return st.toggle(
            label, value=default, help=help_text, key=identity, persist_state="session"
        )
    if schema["type"] == "string":
        return st.text_input(
            label, value=default, help=help_text, key=identity, persist_state="session"
        )
    if schema["type"] == "integer":
        return st.number_input(
            label,
            min_value=schema.get("minimum"),
            max_value=schema.get("maximum"),
            value=default,
            step=1,
            help=help_text,
            key=identity,
            persist_state="session",
        )
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    # A widget has no open lower end, so the least value lies a little above it.
    if "exclusiveMinimum" in schema and low is not None:
        low = float(low) + 1e-9
    step = 10.0 ** math.floor(math.log10(default)) if default else 0.1
    return st.number_input(
        label,
        min_value=None if low is None else float(low),
        max_value=None if "maximum" not in schema else float(schema["maximum"]),
        value=float(default),
        step=step,
        format="%g",
        help=help_text,
        key=identity,
        persist_state="session",
    )
