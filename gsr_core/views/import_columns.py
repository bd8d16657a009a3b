"""The second step of an import: the role of each column, and the groups they make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from gsr_core.data.group_rules import MAX_VALUES
from gsr_core.data.source import GroupRule, Roles, SplitRule
from gsr_core.data.splits import MEANINGS, WORDS
from gsr_core.views.charts import plain
from gsr_core.views.import_source import Reading, in_rows

__all__ = ["MAX_WORDS", "choose_columns", "choose_groups", "propose_merges", "split_words"]

MAX_WORDS = 20
"""A column with more different values than this is not a split column."""
_ROWS, _DRAWN = "row numbers", "none: draw the splits"
_KINDS = {
    "class": "class × attributes",
    "alone": "attributes alone",
    "overlapping": "overlapping flags",
    "named": "a column of names",
}
_HELP = {
    "class": "Every combination of the class and the attributes' values is a group.",
    "alone": "Every combination of the attributes' values is a group, whatever the class.",
    "overlapping": "Each attribute is a flag (0/1, false/true, or a score that counts from 0.5) "
    "and a group of its own; a sample may belong to several.",
    "named": "One column says which group a row belongs to; an empty name is an unknown group.",
}


def choose_columns(reading: Reading) -> Roles:
    """Draw the roles of the columns, at first as the reader proposes them; return them."""
    proposal, table = reading.source.roles, reading.source.table
    columns = [str(column) for column in table.columns]
    key = f"import {reading.key}"
    first, second, third = st.columns(3)
    with first:
        label = st.selectbox(
            "Class",
            columns,
            index=_place(columns, proposal.label),
            placeholder="Choose the column",
            help="The column that the classifier predicts.",
            key=f"{key} label",
            persist_state="session",
        )
    with third:
        options = [_DRAWN, *columns]
        column = st.selectbox(
            "Split",
            options,
            index=_place(options, proposal.split.column) or 0,
            help="The column that says train, validation or test. Without one, splits are drawn.",
            key=f"{key} split",
            persist_state="session",
        )
    column = None if column == _DRAWN else column
    with second:
        # Class and split are no attributes; once they are chosen, the proposal is another.
        free = [each for each in columns if each not in (label, column)]
        attributes = st.multiselect(
            "Attributes",
            free,
            default=[each for each in proposal.attributes if each in free],
            help="Columns that are stored with each sample and can make groups.",
            key=f"{key} attributes {label} {column}",
            persist_state="session",
        )
    rule = proposal.split
    left, right = st.columns(2)
    with left:
        words = rule.words if column is None else _meanings(reading, column, key)
    with right if column else left, st.expander("Shares, seed and sample names"):
        shares = _shares(rule, key, drawn=column is None)
        options = [_ROWS, *columns]
        sample_id = st.selectbox(
            "Name of a sample",
            options,
            index=_place(options, proposal.sample_id) or 0,
            help="A column of unique names.",
            key=f"{key} sample id",
            persist_state="session",
        )
    return Roles(
        label=label,
        sample_id=None if sample_id == _ROWS else sample_id,
        attributes=tuple(attributes),
        groups=proposal.groups,
        split=SplitRule(column=column, words=words, **shares),
    )


def choose_groups(reading: Reading, roles: Roles) -> GroupRule:
    """Draw the rule that makes groups of the attributes; return it, merges included."""
    proposal, table = reading.source.roles.groups, reading.source.table
    key = f"import {reading.key}"
    before = {"crossed": "class" if proposal.with_class else "alone"}.get(
        proposal.kind, proposal.kind
    )
    kind = st.segmented_control(
        "A group is made of",
        list(_KINDS),
        default=before,
        format_func=lambda each: _KINDS[each],
        required=True,
        key=f"{key} kind",
        persist_state="session",
    )
    st.caption(_HELP[kind])
    if kind == "named":
        names = [str(column) for column in table.columns]
        place = _place(names, next(iter(proposal.columns), None))
        one = st.selectbox(
            "Column of names",
            names,
            index=place if proposal.kind == "named" else None,
            placeholder="Choose the column",
            key=f"{key} names",
            persist_state="session",
        )
        columns = [one] if one else []
    else:
        options = list(roles.attributes)
        columns = st.multiselect(
            "Attributes that make groups",
            options,
            default=[each for each in proposal.columns if each in options] or options[:1],
            placeholder="Choose attributes" if options else "There are no attributes",
            key=f"{key} columns {roles.label} {roles.split.column}",
            persist_state="session",
        )
    with_class, bins = kind == "class", {}
    if kind == "overlapping":
        with_class = st.toggle(
            "Each flag once for each class",
            value=proposal.with_class,
            key=f"{key} with class",
            persist_state="session",
        )
    elif kind != "named":
        bins = _bins(table, columns, proposal, key)
    rule = GroupRule.model_validate(
        {
            "kind": "crossed" if kind in ("class", "alone") else kind,
            "columns": columns,
            # It means nothing for names; copied, so that an unchanged proposal stays the same.
            "with_class": proposal.with_class if kind == "named" else with_class,
            "bins": bins,
        }
    )
    merges = _merges(reading).get(_signature(rule))
    if merges is None:
        same = _signature(rule) == _signature(proposal)
        merges = list(proposal.merge) if same else []
    return rule.model_copy(update={"merge": tuple(tuple(each) for each in merges)})


def propose_merges(reading: Reading, rule: GroupRule, proposed: Sequence[Sequence[str]]) -> None:
    """Draw the merges made, with a button to undo the last, and the merges proposed."""
    if rule.merge:
        last = rule.merge[-1]
        with st.container(horizontal=True, vertical_alignment="center", key="import merged"):
            st.markdown(f"Merged: {'; '.join(plain(' + '.join(each)) for each in rule.merge)}")
            st.button(
                "Undo the last merge",
                icon=":material/undo:",
                key="import unmerge",
                help=f"Separates {plain(' and '.join(last))} again.",
                on_click=_merge,
                args=(reading, rule, rule.merge[:-1]),
            )
    if proposed:
        st.caption(
            "More samples of a small group serve best. Small groups that are alike can also be "
            "merged, and are then measured as one:"
        )
    for place, merge in enumerate(proposed[:6]):
        with st.container(
            horizontal=True, vertical_alignment="center", key=f"import merge {place}"
        ):
            st.button(
                "Merge",
                icon=":material/merge:",
                key=f"import merge button {place}",
                help="Make them one group.",
                on_click=_merge,
                args=(reading, rule, (*rule.merge, tuple(merge))),
            )
            st.markdown(" with ".join(f"**{plain(name)}**" for name in merge))


def split_words(values: Sequence[object], rule: SplitRule) -> dict[str, str]:
    """Return the split that each value of a split column usually means; "" if unknown.

    Args:
        values: The different values of the column.
        rule: The reader's proposal; its words come first.
    """
    known = {word.strip().lower(): meaning for word, meaning in rule.words.items()}
    meanings = {}
    for value in values:
        text = str(int(value) if isinstance(value, float) and value.is_integer() else value)
        word = text.strip().lower()
        meaning = known.get(word, WORDS.get(word, word))
        meanings[text] = meaning if meaning in MEANINGS else ""
    return meanings


def _meanings(reading: Reading, column: str, key: str) -> dict[str, str]:
    """Draw the meaning of each value of a split column; return the meanings that are not usual."""
    rule = reading.source.roles.split
    values = reading.source.table[column].dropna().unique()
    if not 1 <= len(values) <= MAX_WORDS:
        return rule.words  # The error is raised when the splits are made.
    usual = split_words(sorted(values, key=str), rule)
    unknown = [value for value, meaning in usual.items() if not meaning]
    words = {}
    label = f"What the values of “{plain(column)}” mean"
    with st.expander(label, expanded=bool(unknown)):
        columns = in_rows(len(usual), 3)
        for column_of_page, (value, meaning) in zip(columns, usual.items(), strict=True):
            with column_of_page:
                chosen = st.selectbox(
                    plain(value),
                    MEANINGS,
                    index=_place(MEANINGS, meaning),
                    placeholder="Choose",
                    format_func=lambda each: "leave out" if each == "none" else each,
                    key=f"{key} word {column} {value}",
                    persist_state="session",
                )
            if chosen and chosen != meaning:
                words[value] = chosen
    return {**rule.words, **words}


def _shares(rule: SplitRule, key: str, *, drawn: bool) -> dict[str, Any]:
    """Draw the shares and the seed of a split rule."""
    fields = {
        "heldout": (
            "Held out of train",
            "Share of train whose rows carry the weights; 1 if the network has seen none of them.",
        ),
        "target": (
            "Target, of validation",
            "Share of the validation rows that drives the weights; the rest selects the step.",
        ),
        "train": ("Train", "Share of all rows."),
        "validation": ("Validation", "Share of all rows, or of train where the file has none."),
    }
    shown = list(fields) if drawn else ["heldout", "target", "validation"]
    values: dict[str, Any] = {}
    columns = st.columns(len(shown) + 1)
    for column, name in zip(columns, shown, strict=False):
        label, help_text = fields[name]
        with column:
            values[name] = st.number_input(
                label,
                # The bounds of the rule are open at 0 and 1, but for heldout.
                min_value=0.0 if name == "heldout" else 0.01,
                max_value=1.0 if name == "heldout" else 0.99,
                value=float(getattr(rule, name)),
                step=0.05,
                format="%g",
                help=help_text,
                key=f"{key} {name}",
                persist_state="session",
            )
    with columns[-1]:
        values["seed"] = int(
            st.number_input(
                "Seed",
                min_value=0,
                max_value=2**32 - 1,
                value=rule.seed,
                help="Seed of every draw.",
                key=f"{key} seed",
                persist_state="session",
            )
        )
    return {"train": rule.train, **values}


def _bins(
    table: pd.DataFrame, columns: Sequence[str], proposal: GroupRule, key: str
) -> dict[str, int]:
    """Draw the number of bins of each numeric column with many values."""
    bins = {}
    for column in columns:
        values = table[column]
        if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
            continue
        different = values.nunique()
        if different <= 5 and column not in proposal.bins:
            continue
        number = st.number_input(
            f"Quantile bins of {plain(column)}",
            min_value=0,
            max_value=100,
            value=proposal.bins.get(column, 4 if different > MAX_VALUES else 0),
            help=f"It has {different:,} different values; 0 makes each one a group of its own.",
            key=f"{key} bins {column}",
            width=220,
            persist_state="session",
        )
        if number:
            bins[column] = int(number)
    return bins


def _merges(reading: Reading) -> dict[str, list[Any]]:
    return st.session_state.setdefault(f"import merges {reading.key}", {})


def _signature(rule: GroupRule) -> str:
    """Return what identifies the groups before merging; merges are kept for these alone."""
    return rule.model_copy(update={"merge": ()}).model_dump_json()


def _merge(reading: Reading, rule: GroupRule, merges: Sequence[Sequence[str]]) -> None:
    _merges(reading)[_signature(rule)] = [list(each) for each in merges]


def _place(options: Sequence[str], value: str | None) -> int | None:
    return None if value is None or value not in options else list(options).index(value)
