"""The templates of reports, and what they call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gsr_core.shares import percent, points, spread

__all__ = ["templates"]


def templates(**settings: Any) -> Environment:
    """Return the templates, with filters for numbers and sentences.

    Args:
        **settings: Of the environment: how what is filled in is escaped.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **settings,
    )
    environment.filters |= {
        "percent": percent,
        "points": points,
        "interval": spread,
        "p": _p,
        "sentence": _sentence,
        "verdict": _verdict,
    }
    return environment


def _p(value: float | None) -> str:
    """Return a p-value as text."""
    return "–" if value is None else f"{value:.2g}"


def _sentence(text: str) -> str:
    """Return a text with one full stop at its end."""
    return f"{text.rstrip('. ')}."


def _verdict(word: str) -> str:
    """Return a verdict for who cannot act on it: nobody can add seeds to a file."""
    return "too few seeds to tell" if word == "add seeds" else word
