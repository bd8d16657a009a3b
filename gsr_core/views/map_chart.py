"""A map that can be selected on, and the one selection that all maps share.

Streamlit's charts will not do (numbers in `docs/dashboard.md`): they send every selected point
back, and lose selection and zoom when a point is highlighted. So the map is a component of our
own, `map_chart.js`. It draws points on a plain canvas, which needs no WebGL, and sends back the
outline of a lasso; the samples inside are determined here.

The session keeps the selection, not a chart. A gesture on any map changes it before the page is
drawn, so that every map, gallery and table of that run of the page shows the same.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from streamlit.components.v2 import component

from gsr_core.figures import theme
from gsr_core.figures.inks import Kind
from gsr_core.figures.scatter import MAX_DRAWN, density_map, point_map

__all__ = [
    "drawn_note",
    "drawn_rows",
    "rows_after",
    "select_rows",
    "selectable_map",
    "selected_rows",
]

_STATE = "map selection"

_HERE = Path(__file__)
_component = component(
    "gsr_core.map_chart",
    html="<div class='map'></div>",
    css=_HERE.with_suffix(".css").read_text(encoding="utf-8"),
    js=_HERE.with_suffix(".js").read_text(encoding="utf-8"),
)

_AT_LEAST = 50
"""Least samples of a group in a draw, if it has so many and there is room."""


@dataclass(frozen=True)
class _Selection:
    """A selection of samples.

    Attributes:
        scope: Identity of the samples among which it was made.
        rows: (q,) positions in the bundle, ascending.
        key: The map on which it was drawn; empty if it is from elsewhere.
        places: Digest of the coordinates under the outline.
        outline: Corners of the lasso or box, in map units.
    """

    scope: str = ""
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    key: str = ""
    places: str = ""
    outline: tuple[tuple[float, float], ...] = ()


def selected_rows(scope: str) -> np.ndarray:
    """Return the bundle rows that are selected; to be called before the maps are drawn.

    Args:
        scope: Identity of the samples on the map, such as the digest of the bundle and the split.
            A selection made in another scope is dropped.

    Returns:
        (q,) ascending; empty if nothing is selected.
    """
    if _selection().scope != scope:
        st.session_state[_STATE] = _Selection(scope)
    return _selection().rows


def select_rows(rows: np.ndarray) -> None:
    """Select samples from elsewhere than a map, such as a cluster; no rows clear the selection.

    Args:
        rows: (q,) positions in the bundle, in the scope last passed to `selected_rows`.
    """
    ascending = np.unique(np.asarray(rows, dtype=np.int64))
    st.session_state[_STATE] = _Selection(_selection().scope, ascending)


def _selection() -> _Selection:
    return st.session_state.get(_STATE, _Selection())


def selectable_map(
    points: pd.DataFrame,
    *,
    key: str,
    colour: str,
    kind: Kind,
    colours: Mapping[str, str] | None = None,
    title: str | None = None,
    chosen: np.ndarray | None = None,
    focus: int | None = None,
    on_top: np.ndarray | None = None,
    alt: str,
) -> np.ndarray | None:
    """Draw one map: click a point, draw a lasso or a box, hold shift to add and alt to remove.

    More than `MAX_DRAWN` points become a density image with `on_top` drawn over it. A lasso takes
    every sample inside it, also where the image shows only how many there are.

    Args:
        points: As for `figures.scatter.point_map`.
        key: Identity on the page. While it stays, a highlight, another colour or another
            selection leaves the zoom alone; other coordinates begin with a whole view.
        colour: Column that colours the points.
        kind: What that column holds, as for `point_map`.
        colours: Colour of each category.
        title: Title of the legend or colour bar.
        chosen: Bundle rows to draw as selected: `selected_rows`.
        focus: Bundle row to ring and name, selected or not.
        on_top: (q,) positions in `points` of those drawn over a density image, from `drawn_rows`,
            at most some `MAX_ON_TOP`; none if None. Without effect on fewer points.
        alt: What the map shows, for those who cannot see it.

    Returns:
        The bundle rows that are selected since the user's last gesture, which may be none; None
        if there was no gesture on this map.
    """
    style: dict[str, Any] = {"colour": colour, "kind": kind, "colours": colours, "title": title}
    if len(points) <= MAX_DRAWN:
        drawn, described = points, point_map(points, **style)
    else:
        places = np.empty(0, dtype=np.int64) if on_top is None else on_top
        drawn, described = points.iloc[places], density_map(points, places, **style)
    chosen = np.empty(0, dtype=np.int64) if chosen is None else np.asarray(chosen)
    shown = {
        "alt": alt,
        "accent": theme.ACCENT,
        "count": len(chosen),
        "chosen": _bits(np.isin(drawn["row"].to_numpy(), chosen)) if len(chosen) else None,
        "focus": None if focus is None else _ring(points, focus),
        "outline": _outline(key, described["places"], chosen),
    }
    result = _component(
        key=key,
        data={"map": described, "shown": shown},
        on_gesture_change=partial(_take, key, points, described["places"]),
    )
    gesture = result["gesture"]
    if gesture is None or gesture["places"] != described["places"]:
        return None
    return _selection().rows


def _take(key: str, points: pd.DataFrame, places: str) -> None:
    """Change the selection by the user's gesture; runs before the page does."""
    gesture = st.session_state[key]["gesture"]
    # Ignore a gesture on coordinates that have been replaced meanwhile.
    if gesture is None or gesture["places"] != places:
        return
    before = _selection()
    path = gesture["path"] if gesture["how"] == "replace" else ()
    st.session_state[_STATE] = _Selection(
        before.scope,
        rows_after(points, gesture, before.rows),
        key,
        places,
        tuple((float(x), float(y)) for x, y in path),
    )


def rows_after(points: pd.DataFrame, gesture: Mapping[str, Any], before: np.ndarray) -> np.ndarray:
    """Return the rows that are selected after a gesture.

    Args:
        points: Columns x, y and row of every sample on the map.
        gesture: `path`, corners [x, y] of a closed outline in map units, whose inside is by the
            even-odd rule; `row`, the sample that was clicked, or None; and `how` these change the
            selection: `replace`, `add` or `remove`. Without path and row they are none.
        before: (q,) rows that were selected.

    Returns:
        Rows, ascending.
    """
    rows = points["row"].to_numpy(np.int64)
    if len(gesture["path"]):
        path = np.asarray(gesture["path"], dtype=float)
        enclosed = rows[_inside(path, points["x"].to_numpy(float), points["y"].to_numpy(float))]
    else:
        enclosed = rows[rows == gesture["row"]] if gesture["row"] is not None else rows[:0]
    if gesture["how"] == "add":
        return np.union1d(before, enclosed)
    if gesture["how"] == "remove":
        return np.setdiff1d(before, enclosed)
    return np.unique(enclosed)


def _inside(path: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the positions of the points inside a closed outline, by the even-odd rule."""
    low, high = path.min(axis=0), path.max(axis=0)
    near = np.flatnonzero((x >= low[0]) & (x <= high[0]) & (y >= low[1]) & (y <= high[1]))
    x, y = x[near], y[near]
    odd = np.zeros(len(near), dtype=bool)
    for (x0, y0), (x1, y1) in zip(path, np.roll(path, -1, axis=0), strict=True):
        passed = np.flatnonzero((y0 > y) != (y1 > y))
        odd[passed] ^= x[passed] < x0 + (x1 - x0) * (y[passed] - y0) / (y1 - y0 or 1.0)
    return near[odd]


def _outline(key: str, places: str, chosen: np.ndarray) -> list[list[float]]:
    """Return the lasso behind the selection, if it was drawn on this map."""
    last = _selection()
    if (last.key, last.places) != (key, places) or not np.array_equal(last.rows, chosen):
        return []
    return [list(corner) for corner in last.outline]


def _ring(points: pd.DataFrame, row: int) -> dict[str, Any] | None:
    """Return the place and the name of a sample; None if it is not on the map."""
    here = points[points["row"] == row]
    if here.empty:
        return None
    sample = here.iloc[0]
    name = str(sample["sample_id"]) if "sample_id" in here.columns else f"row {row}"
    return {"x": float(sample["x"]), "y": float(sample["y"]), "name": name}


def _bits(flags: np.ndarray) -> str:
    return b64encode(np.packbits(flags, bitorder="little").tobytes()).decode()


def drawn_rows(samples: pd.DataFrame, limit: int, keep: np.ndarray) -> np.ndarray:
    """Return which samples to draw where not all can be: those that matter, and a fair rest.

    The rest is drawn by group: every group gets 50, or all it has, or an equal share of the room
    if there are many groups; the room that is left goes by size. The draw is deterministic.

    Args:
        samples: With a column `group`.
        limit: How many can be drawn, at least 1.
        keep: (q,) positions to draw in any case, the most important first: flagged and extreme
            samples. At most `limit` of them are drawn.

    Returns:
        (limit,) positions in `samples`, ascending; all positions if there are no more.
    """
    n = len(samples)
    if n <= limit:
        return np.arange(n)
    _, first = np.unique(keep, return_index=True)
    always = np.asarray(keep, dtype=np.int64)[np.sort(first)][:limit]
    left_over = np.ones(n, dtype=bool)
    left_over[always] = False
    rest = np.flatnonzero(left_over)
    room = limit - len(always)
    codes, _ = pd.factorize(samples["group"].iloc[rest], sort=True)
    members = [rest[codes == code] for code in range(-1, codes.max(initial=-1) + 1)]
    members = [group for group in members if len(group)]
    shares = _shares(np.array([len(group) for group in members]), room)
    random = np.random.default_rng(0)
    draws = [
        random.choice(group, share, replace=False)
        for group, share in zip(members, shares, strict=True)
    ]
    return np.sort(np.concatenate([always, *draws]))


def _shares(sizes: np.ndarray, room: int) -> np.ndarray:
    """Return how many of each group to draw: (m,) at most its size, in all `room`."""
    least = np.minimum(sizes, min(_AT_LEAST, room // max(len(sizes), 1)))
    left = sizes - least
    spare = room - least.sum()
    exact = left * (spare / max(left.sum(), 1))
    more = np.floor(exact).astype(np.int64)
    # The largest remainders get the places that rounding down left over.
    order = np.argsort(more - exact, kind="stable")[: spare - more.sum()]
    more[order] += 1
    return least + more


def drawn_note(drawn: int, total: int, always: int, *, on_image: bool = False) -> str:
    """Return the sentence that says which samples are drawn; empty if all are.

    Args:
        drawn: How many are drawn as points.
        total: How many there are.
        always: How many of those drawn are flagged or extreme.
        on_image: Whether they are drawn over a density image of all.
    """
    if drawn >= total:
        return ""
    image = " over an image of their density, in which a lasso takes all samples inside"
    return (
        f"Drawing {drawn:,} of {total:,} samples{image * on_image}: the {always:,} flagged or "
        "extreme ones, and a share of the rest of every group, larger for small groups."
    )
