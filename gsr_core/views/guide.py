"""What the product is and what its words mean; and its documentation, readable in the app."""

from __future__ import annotations

import re
from pathlib import Path

import streamlit as st

from gsr_core.data.bundle import SPLITS
from gsr_core.views import navigation as nav
from gsr_core.views.frame import link

__all__ = ["documents", "introduction", "read_document"]

_WHAT = (
    "Your classifier is right on average and fails on one subgroup. Here you see on which, find "
    "the training samples that make it fail, and repair it: the network stays as it is, and a new "
    "last layer is fitted under weights that serve the worst group."
)
_SPLITS = {
    "train": "what the network was trained on; it carries weights only if there is no heldout",
    "heldout": "samples that the network never saw: each gets a weight, and the new last layer is "
    "fitted to them. They need no group labels",
    "target": "a small set with group labels: it drives the weights",
    "val": "samples with group labels that only choose: the step to keep, the settings of a sweep",
    "test": "samples with group labels that only report: nothing is chosen by them",
}
_MORE = {
    "data": "Your data: files, columns, networks",
    "methods": "Methods",
    "groups": "Groups and clusters",
    "dashboard": "The dashboard",
}


def introduction(*, folded: bool) -> None:
    """Draw what the product is, what the splits mean, and links to the documentation.

    Args:
        folded: Whether it is folded up, as on a page that has something else to show.
    """
    assert set(_SPLITS) == set(SPLITS)
    place = (
        st.expander("What this is, and what heldout, target and val mean", key="introduction")
        if folded
        else st.container(key="introduction")
    )
    with place:
        st.write(_WHAT)
        st.markdown("\n".join(f"- **{name}**: {text}." for name, text in _SPLITS.items()))
        with st.container(horizontal=True, key="links to the guide"):
            for name, text in _MORE.items():
                link("Guide", text, doc=name)


def documents() -> dict[str, Path]:
    """Return the documents by name, the first to read first."""
    package = Path(__file__).resolve().parents[1]
    # A wheel has them inside the package; a checkout has them beside it.
    folder = next(
        (
            each
            for each in (package / "_dashboard" / "docs", package.parent / "docs")
            if each.is_dir()
        ),
        None,
    )
    files = {} if folder is None else {file.stem: file for file in sorted(folder.glob("*.md"))}
    order = [
        name
        for name in (*_MORE, "bundles", "slices", "phrases", "labels", "sweeps", "studies")
        if name in files
    ]
    return {name: files[name] for name in [*order, *(each for each in files if each not in order)]}


def read_document(names: list[str], text: str) -> str:
    """Return a document whose links to others stay in the app, without its pictures.

    Args:
        names: Of all documents.
        text: Its Markdown.
    """
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)\n?", "", text)

    def linked(match: re.Match[str]) -> str:
        label, name = match[1], match[2]
        query = "&".join(f"{key}={value}" for key, value in nav.params(doc=name).items())
        return f"[{label}](?{query})" if name in names else label

    # To other documents; what else lies beside them is not in the app.
    return re.sub(r"\[([^\]]+)\]\((?:\.\./)*(?:docs/)?([\w-]+)\.md(?:#[\w-]*)?\)", linked, text)
