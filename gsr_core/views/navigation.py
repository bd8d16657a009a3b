"""What the user has chosen: one set of choices, shared by every page and kept in the URL.

Streamlit forgets a widget's value when another page is opened, and its own binding of widgets to
the URL does not survive links that carry a change. So the choices live in one dictionary here:
widgets show and change it, the URL mirrors it, and a URL with choices replaces it. A
reload, a shared link and the browser's back button restore the view. Links between pages are
`st.page_link(..., query_params=params(...))`, never bare.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import streamlit as st

__all__ = [
    "DEFAULTS",
    "FOUND_BY",
    "PAGES",
    "begin",
    "get",
    "go",
    "params",
    "put",
    "refresh",
    "select",
    "write",
]

PAGES = {
    "Setup": "pages/setup.py",
    "Audit": "pages/audit.py",
    "Run": "pages/run.py",
    "Weights": "pages/weights.py",
    "Samples": "pages/samples.py",
    "Map": "pages/map.py",
    "What if": "pages/what_if.py",
    "Label": "pages/label.py",
    "Compare": "pages/compare.py",
    "Study": "pages/study.py",
    "Sweep": "pages/sweep.py",
    "Guide": "pages/guide.py",
}
"""Title and script of every page, in the order of the work."""

DEFAULTS = {
    "bundle": "",
    "run": "",
    "runs": "",
    "shown": "",
    "split": "",
    "group": "",
    "y": "",
    "prediction": "",
    "search": "",
    "phrase": "",
    "near": "",
    "attribute": "",
    "value": "",
    "measure": "",
    "low": "",
    "high": "",
    "sort": "",
    "sample": "",
    "step": "",
    "colour": "",
    "space": "",
    "layout": "",
    "head": "",
    "dimensions": "",
    "other": "",
    "clusters": "",
    "slice": "",
    "classifier": "",
    "closer": "",
    "trade": "",
    "cost": "",
    "over": "",
    "held": "",
    "average": "",
    "reference": "",
    "against": "",
    "changed": "",
    "rows": "",
    "count": "",
    "edit": "",
    "times": "",
    "label": "",
    "left": "",
    "right": "",
    "sweep": "",
    "study": "",
    "order": "",
    "doc": "",
}
"""Every choice and its value while nothing is chosen; values are text."""

FOUND_BY = ("search", "near", "attribute", "value", "measure", "low", "high")
"""Choices that narrow Samples by hand; a link that names samples of its own clears them."""

_STATE = "choices"
_TURNS = "turns of choices"
_DRAWN = "choices as drawn"


def _choices() -> dict[str, str]:
    return st.session_state.setdefault(_STATE, {})


def begin() -> None:
    """Take over the choices of the URL; called once, before anything is drawn."""
    if any(name in st.query_params for name in DEFAULTS):
        # A URL with choices decides all of them: a choice that it leaves out has its default.
        for name, default in DEFAULTS.items():
            _choices()[name] = st.query_params.get(name, default)
    _mirror()


def _turns() -> dict[str, int]:
    """Return how often each choice was changed while its widget showed something else.

    The widget is another one after that: the browser may still send the value of the old one, which
    would count as a choice that the user has just made.
    """
    return st.session_state.setdefault(_TURNS, {})


def _key(name: str) -> str:
    """Return the key of a choice's widget."""
    return f"choose {name} {_turns().get(name, 0)}"


def _mirror() -> None:
    for name, value in _choices().items():
        if value != DEFAULTS[name]:
            if st.query_params.get(name) != value:
                st.query_params[name] = value
        elif name in st.query_params:
            del st.query_params[name]


def get(name: str) -> str:
    """Return a choice; "" if nothing is chosen."""
    return _choices().get(name, DEFAULTS[name])


def put(**changes: object) -> None:
    """Change choices; None clears one."""
    for name, value in _text(changes).items():
        if st.session_state.get(_key(name), value) != value:
            _turns()[name] = _turns().get(name, 0) + 1
        _choices()[name] = value
    _mirror()


def params(**changes: object) -> dict[str, str]:
    """Return the choices, with changes, as the query of a link."""
    chosen = {**DEFAULTS, **_choices(), **_text(changes)}
    return {name: value for name, value in chosen.items() if value != DEFAULTS[name]}


def go(page: str, **changes: object) -> None:
    """Open a page by its title, with changed choices. Not to be called from a callback."""
    _choices().update(_text(changes))
    st.switch_page(PAGES[page], query_params=params())


def refresh() -> NoReturn:
    """Draw the page again, from a fragment whose job has ended.

    A click of the user goes first: `st.rerun` alone would draw this page in place of another whose
    link was just clicked.
    """
    st.empty()  # Streamlit looks for a click whenever something is drawn.
    st.rerun()


def select(
    name: str,
    label: str,
    options: Sequence[str],
    *,
    default: str | None = None,
    draw: Callable[..., Any] | None = None,
    clears: Sequence[str] = (),
    **arguments: Any,
) -> str:
    """Draw a widget for one choice and return the choice.

    Args:
        name: The choice.
        label: The widget's label.
        options: Allowed values; must not be empty.
        default: The value while no allowed one is chosen; the first option if None.
        draw: The widget; `st.selectbox` if None. It must take `key` and `on_change`.
        clears: Choices that lose their meaning when this one changes.
        **arguments: Passed to the widget.
    """
    current = get(name)
    if current not in options:
        current = default if default is not None and default in options else options[0]
    # Not what the widget has: its state is gone after a script that ended before it was drawn.
    drawn = st.session_state.setdefault(_DRAWN, {})
    if drawn.get(name, current) != current:
        # What is allowed, or the default, has changed, as when a run has begun or ended.
        _turns()[name] = _turns().get(name, 0) + 1
    drawn[name] = current
    key = _key(name)
    st.session_state[key] = current

    def changed() -> None:
        if key != _key(name):
            return  # Sent late: the browser had not yet taken the widget for gone.
        # None where the widget lets a choice be taken back.
        value = _text({name: st.session_state[key]})[name]
        if value == drawn.get(name):
            # Nobody chose: Streamlit takes the value for new after a script that ended before the
            # widget was drawn, as that of a button which draws the page again.
            return
        _choices()[name] = drawn[name] = value
        put(**dict.fromkeys(clears))

    (draw or st.selectbox)(label, options, key=key, on_change=changed, **arguments)
    return current


def write(name: str, label: str, *, clears: Sequence[str] = (), **arguments: Any) -> str:
    """Draw a text field for one choice and return the choice.

    Args:
        name: The choice.
        label: The field's label.
        clears: Choices that lose their meaning when this one changes.
        **arguments: Passed to `st.text_input`.
    """
    key = _key(name)
    st.session_state[key] = get(name)

    def changed() -> None:
        if key != _key(name):
            return
        value = str(st.session_state[key]).strip()
        put(**dict.fromkeys(clears if value != get(name) else ()), **{name: value})

    st.text_input(label, key=key, on_change=changed, **arguments)
    return get(name)


def _text(changes: dict[str, object]) -> dict[str, str]:
    return {name: "" if value is None else str(value) for name, value in changes.items()}
