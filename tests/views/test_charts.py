import re
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from gsr_core.errors import BundleError
from gsr_core.views.charts import sentence

HOSTILE = "class *cat* in [a](http://b) of `c_d` :smile: $x$ <b>, ~~no~~"
ESCAPED = re.compile(r"\\(.)")
"""In Markdown, a sign of punctuation after a backslash stands for itself."""


@pytest.mark.parametrize(
    "text", [HOSTILE, "1. first", "- one", "+ one", "# head", "> said", "| a |"]
)
def test_a_sentence_shows_its_text_as_it_is(text):
    shown = sentence(text)
    assert ESCAPED.sub(r"\1", shown).replace("\u2060", "") == text[:1].upper() + text[1:]
    assert not re.search(r"[*_`$~:|<>\[\]#]", ESCAPED.sub("", shown))
    assert not re.match(r"([-+]|\d+\.) ", shown)


def test_an_error_without_words_is_shown_by_its_kind():
    assert sentence(MemoryError()) == "MemoryError"
    assert sentence("") == ""


def page(text: str) -> None:
    from gsr_core.errors import BundleError
    from gsr_core.views.charts import show_error

    show_error(BundleError(text))


def test_an_error_is_drawn_as_a_sentence():
    app = AppTest.from_function(page, args=(HOSTILE,)).run()
    assert not app.exception
    assert app.error[0].value == sentence(BundleError(HOSTILE))


def test_no_page_and_no_view_draws_an_error_in_another_way():
    root = Path(__file__).parents[2]
    files = [*(root / "pages").glob("*.py"), *(root / "gsr_core" / "views").glob("*.py")]
    calls = {file.name: file.read_text(encoding="utf-8").count("st.error") for file in files}
    assert {name: count for name, count in calls.items() if count} == {"charts.py": 1}
