"""How samples look on cards and in strips, and what Setup says of the network's head."""

from functools import partial

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from gsr_core.data.bundle import Bundle
from gsr_core.workspace import Workspace
from tests.tiny import write_tiny


def strip_page(bundle):
    import numpy as np

    from gsr_core.views.face import strip

    strip(bundle, np.arange(3), "some samples", width=76)


def card_page(bundle):
    from gsr_core.views.gallery import _card

    sample = {"row": 1, "sample_id": "s1", "group": "cat, red", "prediction": 1}
    _card(bundle, {**sample, "correct": False, "confidence": 0.9}, "", key="card")


def facts_page(bundle):
    from gsr_core.views.bundle_contents import backbone_facts

    backbone_facts(bundle)


@pytest.fixture
def write(tmp_path):
    """Write a bundle that says something of each sample in words."""

    def with_texts(*columns: str, **parts) -> Bundle:
        workspace = Workspace(tmp_path)
        samples = write_tiny(workspace, overwrite=True).samples
        texts = {name: [f"{name} of {row}" for row in range(len(samples))] for name in columns}
        return write_tiny(
            workspace, "words", overwrite=True, samples=samples.assign(**texts), **parts
        )

    return with_texts


def shown(page, bundle: Bundle) -> AppTest:
    app = AppTest.from_function(page, args=(bundle,)).run(timeout=60)
    assert not app.exception
    return app


def test_every_column_of_a_strip_has_a_heading(write):
    for columns, heading in (
        (["text"], "text"),
        (["text", "text_pair"], "First text · Second text"),
    ):
        (table,) = shown(strip_page, write(*columns)).dataframe
        assert table.value.columns.tolist() == ["sample", heading]


def test_a_card_tells_the_texts_of_a_pair_apart_and_says_the_class(write):
    app = shown(card_page, write("text", "text_pair"))
    assert [each.value for each in app.text] == ["text of 1", "text_pair of 1"]
    captions = [each.value for each in app.caption]
    assert captions[:2] == ["First text", "Second text"]
    assert captions[-1] == "taken for dog"
    assert "taken for" not in "".join(each.value for each in app.markdown)


def test_the_head_is_said_with_its_size(write):
    said = partial(shown, facts_page)
    head = np.zeros((2, 5), np.float32), np.zeros(2, np.float32)
    own = said(write(head=head, backbone={"head": "its own"}))
    assert "the network's own, 2 classes × 5 features" in [each.value for each in own.markdown]
    none = said(write())
    assert "none" in [each.value for each in none.markdown]
