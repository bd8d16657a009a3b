"""Small tables for notebooks, readable on a light and on a dark page.

Colours are the page's own, so that nothing has to be known of its theme; names come from users'
data and are escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

__all__ = ["as_table"]

_ROWS = 20
"""Rows that a table has at most."""

_CELL = "padding:2px 12px 2px 0;text-align:left;vertical-align:top;border:0"


def as_table(title: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a heading and a table as HTML.

    Args:
        title: Above the table.
        columns: Headings, which are the keys of each row.
        rows: Cells by heading; what is beyond twenty rows is counted in a last line.

    Example:
        >>> "<td>&lt;i&gt;" in as_table("", ["x"], [{"x": "<i>"}]).replace(f' style="{_CELL}"', "")
        True
    """
    rows = list(rows)
    head = "".join(f'<th style="{_CELL};opacity:.65">{escape(name)}</th>' for name in columns)
    body = "".join(
        "<tr style='background:transparent'>"
        + "".join(f'<td style="{_CELL}">{escape(str(row[name]))}</td>' for name in columns)
        + "</tr>"
        for row in rows[:_ROWS]
    )
    more = f"<div>and {len(rows) - _ROWS:,} more</div>" if len(rows) > _ROWS else ""
    return (
        f'<div style="margin:4px 0"><div><b>{escape(title)}</b></div>'
        f'<table style="border-collapse:collapse;border:0;color:inherit;background:transparent">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}</div>"
    )
