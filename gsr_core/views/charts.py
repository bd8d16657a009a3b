"""Figures, numbers and errors, shown the same way on every page."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from gsr_core.data.bundle import Bundle
from gsr_core.data.groups import UNKNOWN
from gsr_core.figures import theme
from gsr_core.shares import percent

__all__ = [
    "badge",
    "colours_of",
    "percent",
    "plain",
    "sentence",
    "show",
    "show_cautions",
    "show_error",
    "show_rows",
    "side_by_side",
    "single_group",
]

_MOST_CAUTIONS = 3
_HALF = 520
"""Pixels that half of a page needs, for a chart with its legend or a table."""
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


def side_by_side() -> tuple[DeltaGenerator, DeltaGenerator]:
    """Return two places beside each other; in a narrow window, the second is below the first."""
    both = st.grid(2, min_column_width=_HALF, gap=("medium", "large"))
    return both.cell(), both.cell()


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


def plain(text: object) -> str:
    """Return text so that Markdown shows it as it is; names and ids come from users' data.

    Every text of a user's that is shown anywhere but in `st.text`, `st.code`, a table or the
    options of a selection box passes here, or through `badge`, `sentence` or `show_error`.

    White space becomes single blanks, as Markdown shows it anyway, and an invisible word joiner
    breaks what the browser would make a link, an emoji or an icon of even where it is escaped.
    """
    joined = _UNESCAPABLE.sub(lambda found: f"{found[0]}{_JOINER}", " ".join(str(text).split()))
    escaped = re.sub(r"([\\`*_{}\[\]#$~<>:|&])", r"\\\1", joined)
    return re.sub(r"^(\d*)([-+.)])", r"\1\\\2", escaped)  # else the beginning of a list


_JOINER = "\u2060"

_UNESCAPABLE = re.compile(
    # Before an address's slashes, an icon's name, an emoji's name.
    r":(?=//|material/|streamlit:|[\w+-]+:)"
    r"|\bwww(?=\.)"
    r"|[-.\w+](?=@[-\w])",
    re.IGNORECASE,
)


def badge(
    text: object,
    *,
    colour: Literal["blue", "gray", "green", "orange", "red"],
    icon: str | None = None,
    about: str | None = None,
) -> None:
    """Draw a badge with a text that is shown as it is.

    Args:
        text: The text; not to be passed through `plain` before.
        colour: As `st.badge` takes it.
        icon: As `st.badge` takes it.
        about: Text that appears when the badge is pointed at, also as it is.
    """
    # Streamlit escapes the brackets of a badge itself; escaped twice, they would make a link.
    label = re.sub(r"\\([\[\]])", r"\1", plain(text))
    st.badge(label, color=colour, icon=icon, help=None if about is None else plain(about))


def sentence(message: BaseException | str) -> str:
    """Return a message with a capital first letter, so that Markdown shows it as it is."""
    text = str(message)
    if not text and isinstance(message, BaseException):
        text = type(message).__name__
    return plain(text[:1].upper() + text[1:])


def show_error(error: BaseException | str) -> None:
    """Draw what went wrong; names of users' data in it are shown as they are, not as Markdown."""
    st.error(sentence(error))


def show_cautions(cautions: Iterable[str]) -> None:
    """Draw what to beware of in the numbers above; several of them are one click away."""
    said = [f":orange[:material/warning:] {plain(each)}" for each in cautions]
    if len(said) > _MOST_CAUTIONS:
        with st.expander(f"{len(said)} cautions about these numbers"):
            st.caption("\n\n".join(said))
    elif said:
        st.caption("\n\n".join(said))


def single_group(bundle: Bundle, rows: np.ndarray) -> np.ndarray:
    """Return one group name a row, for colouring: its rarest where groups overlap.

    Args:
        bundle: The data.
        rows: (q,) positions in the bundle.

    Returns:
        (q,) names; `unknown` for a row in no group.
    """
    # Of combinations, which are few, not of rows, which may be a million.
    members, which = bundle.group_patterns
    size = np.bincount(which, minlength=len(members)) @ members
    rarest = np.where(members, size, size.sum() + 1).argmin(axis=1)
    names = np.array(bundle.group_names, dtype=object)[rarest]
    return np.where(members.any(axis=1), names, UNKNOWN)[which[rows]]
