"""How the points of a map are coloured: by category, by value, or by sign."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from gsr_core.figures import theme

__all__ = ["CODES", "Kind", "ink_names", "ink_points"]


Kind = Literal["category", "value", "signed"]

MOST_COLOURS = 16
"""Categories with a colour of their own: as many as there are colours. The rest share one."""

_SHADES = 64

CODES = 65_535


def ink_points(column: pd.Series, kind: Kind, colours: Mapping[str, str] | None) -> dict[str, Any]:
    """Return each point's code, and for each code its ink, name and shape."""
    return _categories(column, colours) if kind == "category" else _numbers(column, kind)


def _categories(column: pd.Series, colours: Mapping[str, str] | None) -> dict[str, Any]:
    codes, values = pd.factorize(column)
    # A missing value has the code -1, which is the last place.
    texts = [*(str(value) for value in values), theme.UNKNOWN_NAME]
    counts: dict[str, int] = {}
    for text, count in zip(
        texts, np.bincount(codes % len(texts), minlength=len(texts)), strict=True
    ):
        if count:
            counts[text] = counts.get(text, 0) + int(count)
    names, colour = theme.names_of(sorted(counts) if colours is None else counts, colours)
    known = [name for name in names if name != theme.UNKNOWN_NAME]
    # Stable: of equally common ones, the first.
    common = sorted(known, key=lambda name: -counts[name])[:MOST_COLOURS]
    coloured = [name for name in known if name in set(common)]
    rest = [name for name in known if name not in set(common)]
    if rest and colours is None:
        colour |= theme.group_colours(coloured)
    colour |= dict.fromkeys([*rest, theme.UNKNOWN_NAME], theme.UNKNOWN)
    symbols = theme.group_symbols(coloured)
    unknown = [theme.UNKNOWN_NAME] if theme.UNKNOWN_NAME in names else []
    order = [*coloured, *rest, *unknown]
    legend = [
        {"name": name, "ink": colour[name], "symbol": symbols[name], "count": counts[name]}
        for name in coloured
    ]
    if rest:
        others = f"{len(rest):,} others"
        count = sum(counts[name] for name in rest)
        legend.append({"name": others, "ink": theme.UNKNOWN, "symbol": "circle", "count": count})
    legend += [
        {"name": name, "ink": theme.UNKNOWN, "symbol": "circle", "count": counts[name]}
        for name in unknown
    ]
    code = {name: min(place, CODES) for place, name in enumerate(order)}
    order = order[: CODES + 1]
    return {
        "codes": np.array([code.get(text, 0) for text in texts])[codes],
        "inks": [colour[name] for name in order],
        "names": order,
        "symbols": [symbols.get(name, "circle") for name in order],
        "values": None,
        "legend": legend,
        "bar": None,
    }


def _numbers(column: pd.Series, kind: Kind) -> dict[str, Any]:
    values = column.to_numpy(float)
    values = np.where(np.isfinite(values), values, np.nan)
    known = values[~np.isnan(values)]
    scale = theme.DIVERGING if kind == "signed" else theme.SEQUENTIAL
    if not len(known):
        low, high = (-1.0, 1.0) if kind == "signed" else (0.0, 1.0)
    elif kind == "signed":
        high = float(np.quantile(np.abs(known), 0.99)) or float(np.abs(known).max()) or 1.0
        low = -high
    else:
        low, high = (float(end) for end in np.quantile(known, [0.01, 0.99]))
        if low == high:
            low, high = float(known.min()), float(known.max())
    span = high - low if high > low else 1.0
    shades = _shades(scale)
    place = np.clip((values - low) / span, 0, 1) * (_SHADES - 1)
    codes = np.where(np.isnan(values), _SHADES, np.round(np.nan_to_num(place))).astype(np.int64)
    missing = int(np.isnan(values).sum())
    none = {"name": "none", "ink": theme.UNKNOWN, "symbol": "circle", "count": missing}
    return {
        "codes": codes,
        "inks": [*shades, theme.UNKNOWN],
        "names": None,
        "symbols": None,
        "values": values,
        "legend": [none] if missing else [],
        "bar": {
            "low": low,
            "high": low + span,
            "inks": shades,
            # The ends take in what lies beyond them.
            "below": bool(len(known) and known.min() < low),
            "above": bool(len(known) and known.max() > low + span),
        },
    }


def _shades(scale: Sequence[Sequence[object]]) -> list[str]:
    """Return a colour scale in equal steps."""
    at = [float(str(stop)) for stop, _ in scale]
    rgb = [[int(str(colour)[i : i + 2], 16) for i in (1, 3, 5)] for _, colour in scale]
    steps = np.linspace(0, 1, _SHADES)
    mixed = np.stack([np.interp(steps, at, channel) for channel in zip(*rgb, strict=True)], axis=1)
    return ["#" + "".join(f"{round(part):02x}" for part in colour) for colour in mixed]


def ink_names(inks: dict[str, Any]) -> list[str]:
    """Return what each point's colour stands for, as text."""
    if inks["names"] is not None:
        return [inks["names"][code] for code in inks["codes"]]
    return ["none" if np.isnan(value) else f"{value:.4g}" for value in inks["values"]]
