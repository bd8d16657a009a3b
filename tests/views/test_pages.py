"""Pages as their scripts draw them, without a browser: with nothing to show, and asked nonsense."""

import shutil
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import gsr_core
from gsr_core.runs.execute import run as compute_run
from gsr_core.workspace import Workspace

APP = Path(gsr_core.__file__).parents[1] / "start.py"
NONSENSE = {
    "run": "no-such-run",
    "runs": "a,b",
    "split": "nowhere",
    "group": "nobody",
    "sort": "sideways",
    "step": "minus one",
    "colour": "ultraviolet",
    "slice": "../../etc/passwd",
    "page": "x",
    "bundle": "../other",
}


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Workspace:
    """An empty workspace that the pages take, and for which they start no workers."""
    for module in ("views.frame", "jobs.queue"):
        monkeypatch.setattr(f"gsr_core.{module}.ensure_worker", lambda *_: None)
    place = Workspace.at(tmp_path / "workspace")
    monkeypatch.setenv("GSR_WORKSPACE", str(place.root))
    return place


@pytest.fixture
def gsr_run(workspace, digits_bundle) -> str:
    """A run of GSR on the example, and one of ERM."""
    shutil.copytree(digits_bundle.path, workspace.bundles / digits_bundle.name)
    compute_run(workspace, digits_bundle.name, "erm", device="cpu")
    return compute_run(workspace, digits_bundle.name, "gsr", device="cpu", steps=2).run_id


def show(name: str, **query: str) -> AppTest:
    page = AppTest.from_file(str(APP), default_timeout=120).switch_page(f"pages/{name}.py")
    for key, value in query.items():
        page.query_params[key] = value
    page.run()
    assert not page.exception
    return page


@pytest.mark.parametrize("name", ["audit", "run", "weights", "samples", "map", "compare"])
def test_a_page_without_data_shows_the_way_to_it(workspace, name: str):
    page = show(name)
    assert "No data yet." in [each.value for each in page.subheader]
    assert "Go to Setup" in [each.label for each in page.get("page_link")]


def test_nonsense_in_an_address_is_passed_over(gsr_run):
    for name in ("audit", "run", "weights", "samples", "map", "compare"):
        page = show(name, **NONSENSE)
        assert page.title[0].value == name.capitalize()
        assert not page.error


def test_no_address_opens_a_run_outside_of_the_workspace(gsr_run, workspace, tmp_path):
    (other,) = (each for each in workspace.runs.iterdir() if each.name != gsr_run)
    outside = tmp_path / "outside" / other.name
    shutil.copytree(other, outside)
    page = show("samples", run=gsr_run, changed="fixed", reference=other.name)
    assert "Cannot tell" not in " ".join(each.value for each in page.caption)
    for reference in (str(outside), f"../../outside/{other.name}"):
        page = show("samples", run=gsr_run, changed="fixed", reference=reference)
        said = " ".join(each.value for each in page.caption)
        assert "Cannot tell what was fixed: no run" in said


@pytest.mark.parametrize("sample", ["999999", "x", "-1"])
def test_a_sample_that_is_not_there_is_a_sentence(gsr_run, sample: str):
    page = show("samples", run=gsr_run, sample=sample)
    assert any("There is no sample" in each.value for each in page.warning)
