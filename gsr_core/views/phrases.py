"""Phrases: samples found and grouped by words, and words for the samples that are shown."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from gsr_core.data.bundle import SIMILARITY, Bundle
from gsr_core.errors import GsrError
from gsr_core.ingest.text_side import check_phrases
from gsr_core.phrases.groups import phrases_as_bundle
from gsr_core.phrases.vocabulary import read_vocabulary, sets_without_words
from gsr_core.views import navigation as nav
from gsr_core.views.charts import plain, show_error, show_rows
from gsr_core.views.face import strip
from gsr_core.views.loading import load_names, load_similarity
from gsr_core.views.session import workspace

__all__ = [
    "in_words",
    "passing_phrase",
    "takes_phrases",
    "with_similarity",
    "word_tools",
]

_EDGE = 8
"""Samples on either side of a threshold."""


def takes_phrases(bundle: Bundle) -> bool:
    """Return whether the bundle says that its network takes phrases."""
    try:
        check_phrases(bundle)
    except GsrError:
        return False
    return True


def with_similarity(bundle: Bundle, table: pd.DataFrame) -> pd.DataFrame:
    """Draw the field for a phrase; return the table with the similarity, where there is a phrase.

    Args:
        bundle: The data; for a network that takes no phrases nothing is drawn.
        table: From `sample_table`.
    """
    if not takes_phrases(bundle):
        if phrase := nav.get("phrase"):
            st.caption(
                f"The network of '{plain(bundle.name)}' takes no phrases: '{plain(phrase)}' is "
                "not used."
            )
        return table
    phrase = nav.write(
        "phrase",
        "Phrase",
        clears=("near",),
        placeholder="a few words",
        help="Ranks the samples by how near their features are to these words, by the network "
        "that the features come from.",
        width=190,
    )
    if not phrase:
        return table
    try:
        similarity = load_similarity(bundle, phrase)
    except GsrError as error:
        show_error(error)
        return table
    return table.assign(**{SIMILARITY: similarity[table["row"].to_numpy()]})


def passing_phrase(bundle: Bundle, table: pd.DataFrame, split: str) -> np.ndarray | None:
    """Draw the least similarity, how many samples have it, and those on either side of it.

    Args:
        bundle: The data.
        table: A `sample_table` with the similarity.
        split: The split that it is of.

    Returns:
        Positions in the bundle of the samples that have it; None if none is set.
    """
    values = table[SIMILARITY].to_numpy()
    with st.container(horizontal=True, vertical_alignment="bottom", key="phrase threshold"):
        least = nav.write(
            "near", "Similarity from", placeholder="any", width=130, help="A cosine, from −1 to 1."
        )
        try:
            limit = float(least or "-inf")
        except ValueError:
            show_error(f"the least similarity is '{least}'; give a number from -1 to 1, or nothing")
            limit = -np.inf
        inside = values >= limit
        span = f"from {values.min():.3f} to {values.max():.3f}"
        st.caption(
            f"{inside.sum():,} of the {len(table):,} samples of {split} have it. Similarities here "
            f"go {span}; their level means nothing by itself."
            if np.isfinite(limit)
            else f"Similarities of {split} go {span}. Set a least one to keep those alone; samples "
            "on either side of it are shown."
        )
    if not np.isfinite(limit):
        return None
    rows, order = table["row"].to_numpy(), np.argsort(-values, kind="stable")
    cut = int(inside.sum())
    left, right = st.columns(2)
    for column, some, text in (
        (left, order[max(cut - _EDGE, 0) : cut], "just inside"),
        (right, order[cut : cut + _EDGE], "just outside"),
    ):
        with column:
            strip(bundle, rows[some], f"samples {text}", width=48)
            st.caption(text if len(some) else f"none {text}")
    return rows[inside]


def word_tools(bundle: Bundle, rows: np.ndarray, among: np.ndarray) -> None:
    """Draw what words can do with the samples shown, where the bundle's network takes phrases.

    Args:
        bundle: The data.
        rows: (q,) positions of the samples shown.
        among: Positions of all samples of the split.
    """
    if takes_phrases(bundle):
        in_words(bundle, {"these samples": rows}, among)
        _groups_by_phrases(bundle)


def in_words(bundle: Bundle, sets: dict[str, np.ndarray], among: np.ndarray) -> None:
    """Draw a button that says which words fit each of some sets better than the other samples.

    Args:
        bundle: The data; for a network that takes no phrases nothing is drawn.
        sets: Positions of the samples of each set, by its name.
        among: Positions of all samples that are looked at.
    """
    if not takes_phrases(bundle):
        return
    one = len(sets) == 1
    with st.popover("In words", icon=":material/translate:", key="words"):
        st.caption(
            f"Words that fit {'these samples' if one else 'each cluster'} better than the other "
            "samples, by the network that the features come from; one phrase a line. It knows the "
            "words that it was trained on: others can score high, and mean nothing."
        )
        typed = st.text_area(
            "Vocabulary", value="\n".join(read_vocabulary()), height=140, key="vocabulary"
        )
        if not st.button("Find words", key="find words"):
            return
        try:
            table = load_names(bundle, sets, among, typed)
        except GsrError as error:
            show_error(error)
            return
        for name, why in sets_without_words(bundle, sets, among).items():
            st.caption(f"{plain(name)}: no words, since {why}.")
        if table.empty:
            return
        show_rows(
            table[["phrase", "score"] if one else ["set", "phrase", "score"]],
            key="words table",
            column_config={
                "set": st.column_config.TextColumn("cluster"),
                "score": st.column_config.NumberColumn(
                    "lead", format="%+.2f sd", help="Over the others, in standard deviations."
                ),
            },
        )


def _groups_by_phrases(bundle: Bundle) -> None:
    """Draw the form that makes a bundle whose groups come from phrases."""
    with st.popover("Groups by phrases", icon=":material/category:", key="groups by phrases"):
        st.caption(
            "A new bundle of the same samples with one more attribute: of several phrases, each "
            "sample has the nearest; or of one phrase, whether it is near enough. Class and "
            "attribute define its groups."
        )
        with st.form("groups by phrases form", border=False):
            typed = st.text_area(
                "Phrases, one a line",
                value=nav.get("phrase"),
                placeholder="a red digit\na green digit",
            )
            attribute = st.text_input("Name of the attribute", placeholder="colour seen")
            name = st.text_input("Name of the bundle", value=f"{bundle.name}-by-phrases")
            margin = st.number_input(
                "Least lead", 0.0, 2.0, 0.0, 0.01,
                help="Of the nearest phrase over the second, in cosines; a sample whose nearest "
                "leads by less has no value and is in no group.",
            )  # fmt: skip
            above = st.number_input(
                "Least similarity", -1.0, 1.0, _number(nav.get("near")), 0.01, format="%.3f",
                help="Of a single phrase: samples from here on have it. Not used with several.",
            )  # fmt: skip
            if not st.form_submit_button("Make the bundle", type="primary"):
                return
        try:
            phrases = [line for line in typed.splitlines() if line.strip()]
            with st.spinner("Comparing samples and phrases"):
                made = phrases_as_bundle(
                    workspace(),
                    bundle,
                    attribute,
                    phrases,
                    name.strip(),
                    margin=margin,
                    above=above if len(phrases) == 1 else None,
                )
        except GsrError as error:
            show_error(error)
            return
        nav.go("Setup", bundle=made.name, run=None, runs=None, phrase=None, near=None, slice=None)


def _number(text: str) -> float | None:
    try:
        return min(max(float(text), -1.0), 1.0)
    except ValueError:
        return None
