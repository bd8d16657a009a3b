"""Fractions as text, the same in a terminal, on a page, in a notebook and in a report."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["percent", "points", "spread"]


def percent(value: float | None) -> str:
    """Return a fraction as text; a dash if it could not be measured."""
    return "–" if value is None or value != value else f"{value:.1%}"


def points(change: float | None) -> str:
    """Return a change of a fraction in percentage points with their sign; a dash if unknown.

    >>> points(-0.082)
    '-8.2 pp'
    """
    return "–" if change is None or change != change else f"{100 * change:+.1f} pp"


def spread(accuracy: Mapping[str, float | None]) -> str:
    """Return an accuracy over seeds as text: mean and sd, or one value and its interval.

    Args:
        accuracy: `mean` and `sd`, and for one seed perhaps `low` and `high`; fractions, None for
            what is not known.

    >>> spread({"mean": 0.81, "sd": 0.02})
    '81.0% ± 2.0'
    """
    text, sd = percent(accuracy["mean"]), accuracy["sd"]
    if accuracy["mean"] is None:
        return text
    if sd is not None:
        return f"{text} ± {100 * sd:.1f}"
    low, high = accuracy.get("low"), accuracy.get("high")
    return text if low is None or high is None else f"{text} [{100 * low:.1f}, {100 * high:.1f}]"
