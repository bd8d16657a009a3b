"""Figures, numbers and errors, shown the same way on every page."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from gsr_core.data.bundle import Bundle
from gsr_core.data.groups import UNKNOWN
from gsr_core.figures import theme

__all__ = [
    "colours_of",
    "percent",
    "plain",
    "sentence",
    "show",
    "show_error",
    "show_rows",
    "single_group",
]

CONFIG = {"displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"]}


def show(figure: go.Figure, *, key: str, alt: str) -> None:
    """Draw a figure over the full width; inks and background follow the page's theme.

    Args:
        figure: What to draw.
        key: Identity on the page.
        alt: What it shows, for those who cannot see it.
    """
    # Streamlit puts its own inks over the template in the browser, so that a switch between
    # light and dark needs no rerun.
    st.plotly_chart(theme.finish(figure), theme="streamlit", key=key, alt=alt, config=CONFIG)


def show_rows(data: Any, **arguments: Any) -> Any:
    """Draw a table; a cell without a value is a dash.

    Args:
        data: What `st.dataframe` takes.
        **arguments: Passed to it.

    Returns:
        What it returns: the rows that are selected, where they can be.
    """
    return st.dataframe(data, hide_index=True, placeholder="–", **arguments)


def colours_of(bundle: Bundle) -> dict[str, str]:
    """Return the colour of each group of a bundle, the same on every page."""
    return theme.group_colours([*bundle.group_names, UNKNOWN])


def percent(value: float | None) -> str:
    """Return a fraction as text."""
    return "–" if value is None or math.isnan(value) else f"{value:.1%}"


def plain(text: object) -> str:
    """Return text so that Markdown shows it as it is; names and ids come from users' data."""
    escaped = re.sub(r"([\\`*_{}\[\]#$~<>:|&])", r"\\\1", str(text))
    return re.sub(r"^(\d*)([-+.)])", r"\1\\\2", escaped)  # else the beginning of a list


def sentence(message: BaseException | str) -> str:
    """Return a message with a capital first letter, so that Markdown shows it as it is."""
    text = str(message)
    if not text and isinstance(message, BaseException):
        text = type(message).__name__
    return plain(text[:1].upper() + text[1:])


def show_error(error: BaseException | str) -> None:
    """Draw what went wrong; names of users' data in it are shown as they are, not as Markdown."""
    st.error(sentence(error))


def single_group(bundle: Bundle, rows: np.ndarray) -> np.ndarray:
    """Return one group name a row, for colouring: its rarest where groups overlap.

    Args:
        bundle: The data.
        rows: (q,) positions in the bundle.

    Returns:
        (q,) names; `unknown` for a row in no group.
    """
    members = bundle.membership[rows]
    size = bundle.membership.sum(axis=0)
    rarest = np.where(members, size, size.sum() + 1).argmin(axis=1)
    names = np.array(bundle.group_names, dtype=object)[rarest]
    return np.where(members.any(axis=1), names, UNKNOWN)
