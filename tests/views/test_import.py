"""What the import form decides without a browser."""

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from gsr_core.data.source import SplitRule
from gsr_core.features import kinds
from gsr_core.views.bundle_contents import small_groups
from gsr_core.views.import_columns import split_words
from gsr_core.views.import_network import KINDS


def page(reader, path):
    import streamlit as st

    from gsr_core.views.import_form import import_form

    st.session_state["import seen"] = (reader, {"path": path}, 1)
    import_form()


@pytest.fixture
def look(tmp_path, monkeypatch):
    """Draw the import form after a look at a table."""
    monkeypatch.setenv("GSR_WORKSPACE", str(tmp_path / "workspace"))

    def look(reader: str, table: pd.DataFrame) -> AppTest:
        table.to_csv(tmp_path / "table.csv", index=False)
        app = AppTest.from_function(page, args=(reader, str(tmp_path / "table.csv")))
        app.run(timeout=60)
        assert not app.exception
        return app

    return look


def test_a_second_text_that_is_left_out_is_said_before_the_import(look):
    texts = {name: [f"It is {name} number {i} of all." for i in range(60)] for name in ("a", "b")}
    app = look("texts", pd.DataFrame({**texts, "label": ["yes", "no"] * 30}))
    assert [each.value for each in app.warning if "like a text too" in each.value]


def test_a_column_that_gives_the_class_away_is_warned_of_before_the_import(look):
    table = pd.DataFrame({"again": [0, 1] * 60, "age": range(120), "label": ["no", "yes"] * 60})
    (warning,) = [each.value for each in look("table", table).warning if "'again'" in each.value]
    assert "of 100.0%" in warning


def test_gaps_that_stop_the_import_are_said_before_it(look):
    table = pd.DataFrame({"gaps": [None, 1.5, 2.5] * 40, "label": ["no", "yes"] * 60})
    (refusal,) = [each.value for each in look("table", table).error if "gaps" in each.value]
    assert "(40 rows in all)" in refusal
    assert "missing=impute" in refusal


def test_every_kind_of_network_is_offered():
    assert set(KINDS) == set(kinds.KINDS)
    for name, kind in KINDS.items():
        assert kind.line
        # What takes a state dict is named otherwise than by a file.
        assert kind.file != kinds.KINDS[name].state


def test_split_values_mean_what_the_rule_and_the_usual_words_say():
    rule = SplitRule(column="split", words={"C": "heldout"})
    assert split_words(["Train", "DEV", 2.0, "c", "val", "odd"], rule) == {
        "Train": "train",
        "DEV": "validation",
        "2": "test",
        "c": "heldout",
        "val": "validation",
        "odd": "",
    }


def group(name, **counts):
    return {"name": name, "definition": name, "counts": counts}


def test_small_and_empty_groups_are_named_where_they_are_measured():
    splits = ["train", "target", "val", "test"]
    fine = group("fine", train=20, target=20, val=20, test=20)
    assert small_groups([fine], splits) == ""
    few = group("*few*", train=90, target=0, val=19, test=20)
    sentence = small_groups([fine, few], splits)
    assert sentence.endswith(r": **\*few\*** has none in target, 19 in val.")
    assert "fine" not in sentence
    held = group("held", train=1, heldout=7, target=20, val=20, test=20)
    sentence = small_groups([held], [*splits, "heldout"])
    assert sentence.endswith(
        "and in heldout there is little to give weight to: **held** has 7 in heldout."
    )
    many = [group(f"g{place}", train=9, target=9, val=20, test=20) for place in range(9)]
    assert small_groups(many, splits).endswith("; and 3 more groups.")
