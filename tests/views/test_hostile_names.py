"""Names from a user's data, which could be anybody's, do nothing but be shown, on any page."""

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from markdown_it import MarkdownIt
from streamlit.testing.v1 import AppTest

from gsr_core.clusterings.compute import compute_clustering
from gsr_core.clusterings.edit import rename_cluster
from gsr_core.clusterings.request import request_clustering
from gsr_core.curation.flags import flag_rows
from gsr_core.curation.slices import name_slice
from gsr_core.data.groups import Group
from gsr_core.runs.execute import run as compute_run
from gsr_core.runs.store import list_runs
from gsr_core.views.charts import plain
from gsr_core.workspace import Workspace
from tests.tiny import write_tiny
from tests.views.test_pages import APP

LINK = "[x](https://evil.example)"
NAME = f"{LINK} `b` :red[c] $d$ *e* <a href='https://evil.example'>f</a>"
READ_AS_IT_IS = {
    "arrow_data_frame",
    "arrow_table",
    "code",
    "text",
    "imgs",
    "bidi_component",
    "component_instance",
    "exception",
}
"""Elements whose texts are no Markdown."""
NO_MARKDOWN = {
    "id",
    "options",
    "default",
    "value",
    "raw_values",
    "raw_value",
    "set_value",
    "url",
    "query_string",
    "page",
    "placeholder",
    "form_id",
    "file_name",
    "alt",
    "key",
}
"""Fields of the others that are none: what a selection box offers, what a text field holds."""


def hostile(what: str) -> str:
    return f"{what} {NAME}"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    """Everything that a user can name has a hostile name."""
    place = Workspace.at(tmp_path_factory.mktemp("hostile") / "workspace")
    plain_bundle = write_tiny(place, "plain")
    samples = plain_bundle.samples.assign(
        sample_id=[f"{LINK} {row}" for row in range(len(plain_bundle))],
        colour=plain_bundle.samples["colour"].map({"red": hostile("red"), "green": "green"}),
    ).rename(columns={"colour": hostile("colour")})
    bundle = write_tiny(
        place,
        "hostile",
        samples=samples.assign(text=[f"{NAME} {row}" for row in range(len(samples))]),
        classes=[hostile("cat"), hostile("dog")],
        groups=[
            Group(name=hostile(name), definition=hostile("who"))
            for name in ("cat, red", "cat, green", "dog, red", "dog, green")
        ],
        source=hostile("from"),
        title=hostile("title"),
        notes=[hostile("note")],
        backbone={"architecture": hostile("net"), "n_features": 5},
    )
    for method, settings in (("erm", {}), ("gsr", {"steps": 3}), ("spare", {})):
        compute_run(place, "hostile", method, device="cpu", **settings)
    rows = np.arange(40, 80)
    name_slice(place, bundle, LINK, rows, hostile("about"))
    flag_rows(place, bundle, rows[:5], NAME, note=hostile("note"), proposed_label=hostile("cat"))
    request = request_clustering(place, bundle, "kmeans", {"space": "features"})
    rename_cluster(compute_clustering(place, request, device="cpu"), 0, LINK)
    return place


@pytest.fixture(autouse=True)
def environment(workspace, monkeypatch):
    for module in ("views.frame", "jobs.queue"):
        monkeypatch.setattr(f"gsr_core.{module}.ensure_worker", lambda *_: None)
    monkeypatch.setenv("GSR_WORKSPACE", str(workspace.root))


def texts(message: Message) -> Iterator[str]:
    """Texts of a protobuf, but those in fields that are no Markdown."""
    for field, value in message.ListFields():
        if field.name in NO_MARKDOWN:
            continue
        for each in value if field.is_repeated else [value]:
            if isinstance(each, Message):
                yield from texts(each)
            elif field.type == FieldDescriptor.TYPE_STRING:
                yield each


def drawn(node: Any) -> Iterator[tuple[str, Message]]:
    """Kind and protobuf of everything on a page, popovers and dialogs included."""
    if (proto := getattr(node, "proto", None)) is not None:
        yield getattr(node, "type", ""), proto
    for child in getattr(node, "children", {}).values():
        yield from drawn(child)


def misread(text: str) -> str:
    """What of a hostile name Markdown would not show as it is; "" if nothing."""
    for block in MarkdownIt("commonmark", {"html": True}).parse(text):
        for token in block.children or []:
            if token.type in ("link_open", "image", "html_inline") or (
                token.type == "code_inline" and token.content == "b"
            ):
                return token.type
        if re.search(r"<em>e</em>", MarkdownIt().renderInline(block.content)):
            return "emphasis"
    # Streamlit's own additions.
    if found := re.search(r"(?<!\\)(?:\\\\)*(:red\[|\$d\$)", text):
        return found[1]
    return ""


def show(name: str, **query: str) -> AppTest:
    page = AppTest.from_file(str(APP), default_timeout=120).switch_page(f"pages/{name}.py")
    for key, value in {"bundle": "hostile", **query}.items():
        page.query_params[key] = value
    page.run()
    assert not page.exception
    return page


def run_of(workspace: Workspace, method: str) -> str:
    return next(run.run_id for run in list_runs(workspace) if run.config.method == method)


def views(workspace: Workspace) -> dict[str, tuple[str, dict[str, str]]]:
    gsr, spare = run_of(workspace, "gsr"), run_of(workspace, "spare")
    return {
        "setup": ("setup", {}),
        "audit": ("audit", {"split": "test"}),
        "what may mislead": ("audit", {"split": "test", "closer": "Shortcuts"}),
        "audit of flagged": ("audit", {"slice": "flagged"}),
        "run": ("run", {"run": gsr}),
        "weights": ("weights", {"run": gsr}),
        "weights of inferred groups": ("weights", {"run": spare}),
        "samples": ("samples", {"run": gsr}),
        "mistakes": ("samples", {"run": gsr, "split": "test", "prediction": "wrong"}),
        "a group": ("samples", {"run": gsr, "group": hostile("cat, red")}),
        "nothing left": (
            "samples",
            {"run": gsr, "group": hostile("cat, red"), "y": hostile("dog")},
        ),
        "flagged sample": ("samples", {"run": gsr, "sample": "40"}),
        "sample of test": ("samples", {"run": gsr, "sample": "170"}),
        "changed": ("samples", {"run": gsr, "changed": "fixed", "reference": NAME}),
        "no such sample": ("samples", {"run": gsr, "sample": NAME}),
        "map": ("map", {"run": gsr, "clusters": next(iter_names(workspace)), "colour": "cluster"}),
        "compare": ("compare", {}),
        "study": ("study", {"study": NAME}),
        "sweep": ("sweep", {"sweep": NAME}),
    }


def iter_names(workspace: Workspace) -> Iterator[str]:
    return (folder.name for folder in workspace.clusterings.iterdir() if folder.is_dir())


def test_the_check_itself_sees_what_is_not_escaped():
    assert [misread(text) for text in (LINK, "`b`", "*e*", ":red[c]", "$d$", "f <a>")] == [
        "link_open",
        "code_inline",
        "emphasis",
        ":red[",
        "$d$",
        "html_inline",
    ]
    twice = plain(LINK).replace("[", "\\[").replace("]", "\\]")
    assert misread(f":orange-badge[{twice}]") == "link_open"
    assert misread(plain(NAME)) == ""


VIEWS = [
    "setup",
    "audit",
    "what may mislead",
    "audit of flagged",
    "run",
    "weights",
    "weights of inferred groups",
    "samples",
    "mistakes",
    "a group",
    "nothing left",
    "flagged sample",
    "sample of test",
    "changed",
    "no such sample",
    "map",
    "compare",
    "study",
    "sweep",
]


@pytest.mark.parametrize("view", VIEWS)
def test_hostile_names_are_shown_as_they_are(workspace, view: str):
    name, query = views(workspace)[view]
    page = show(name, **query)
    seen = 0
    for kind, proto in drawn(page._tree):
        if kind in READ_AS_IT_IS:
            continue
        if kind == "plotly_chart":
            assert "<a" not in json.dumps(json.loads(proto.spec))
            continue
        for text in texts(proto):
            seen += "evil" in text
            assert not misread(text), (kind, text)
    if view not in ("study", "sweep", "run", "compare", "map"):
        assert seen


def test_no_file_of_the_dashboard_draws_a_badge_but_by_the_one_function():
    root = APP.parent
    for file in [*(root / "pages").glob("*.py"), *(root / "gsr_core" / "views").glob("*.py")]:
        assert ".badge(" not in file.read_text() or file.name == "charts.py"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a\n- b\n# c", r"a - b \# c"),
        ("  1. x", r"1\. x"),
        ("https://a.org", "https\\:\u2060//a.org"),
        ("see www.a.org", "see www\u2060.a.org"),
        ("me@a.org", "me\u2060@a.org"),
        (":smile: 12:30", "\\:\u2060smile\\: 12\\:30"),
    ],
)
def test_what_browsers_make_links_and_pictures_of_is_broken_up(text: str, escaped: str):
    assert plain(text) == escaped
