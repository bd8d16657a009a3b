"""Pages as their scripts draw them, without a browser: with nothing to show, and asked nonsense."""

import shutil
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import gsr_core
from gsr_core.progress import Status
from gsr_core.runs.execute import execute
from gsr_core.runs.execute import run as compute_run
from gsr_core.runs.store import create_run, list_runs
from gsr_core.workspace import Workspace

APP = Path(gsr_core.__file__).parents[1] / "app.py"
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


def test_nonsense_in_an_address_is_named_and_the_page_is_drawn(gsr_run):
    for name in ("audit", "run", "weights", "samples", "map", "compare"):
        page = show(name, **NONSENSE)
        assert page.title[0].value == name.capitalize()
        assert not page.error
        assert "no bundle" in page.warning[0].value


def test_a_link_to_what_is_gone_names_it_until_the_user_goes_on(workspace, gsr_run):
    for query in ({"bundle": "gone"}, {"run": "gone"}):
        (what,) = query
        page = show("weights", **query)
        for _ in range(2):
            (said,) = page.warning
            assert said.value.startswith(f"There is no {what} **gone** in this workspace")
            assert page.query_params[what] == "gone"
            page.run()
        page.button("forget " + what).click().run()
        assert not page.warning
        assert page.query_params["run"] == gsr_run
    page = show("compare", runs=f"{gsr_run},gone")
    assert "**gone**" in page.warning[0].value
    assert page.multiselect("compare runs").value == [gsr_run]


def test_a_link_to_a_run_that_has_no_result_says_how_it_stands(workspace, gsr_run, digits_bundle):
    waiting = create_run(workspace, digits_bundle.name, "llr", device="cpu").run_id
    (said,) = show("samples", run=waiting).warning
    assert "no result yet: it is queued" in said.value


def test_a_cancelled_run_is_marked_and_no_seed_is_asked_of_the_classifier(workspace, gsr_run):
    other = create_run(workspace, "coloured-digits", "gsr", {"steps": 2, "seed": 1}, device="cpu")
    execute(other)
    other.write_state(other.state.model_copy(update={"status": Status.CANCELLED, "step": 1}))
    page = show("compare")
    options = page.multiselect("compare runs").options
    assert "GSR · steps 2" in options
    assert "GSR · steps 2 · cancelled at step 1 of 2" in options
    asked = next(each.value for each in page.markdown if "One seed only" in each.value)
    assert "GSR" in asked
    assert "ERM" not in asked
    assert "cancelled" not in asked
    before = {run.run_id for run in list_runs(workspace)}
    page.button("add seeds").click().run()
    added = [run.config for run in list_runs(workspace) if run.run_id not in before]
    assert {(config.method, config.seed) for config in added} == {("gsr", k) for k in range(1, 5)}
    # Those that are under way are not asked for again.
    assert not [each for each in page.markdown if "One seed only" in each.value]


@pytest.mark.parametrize("sample", ["999999", "x", "-1"])
def test_a_sample_that_is_not_there_is_a_sentence(gsr_run, sample: str):
    page = show("samples", run=gsr_run, sample=sample)
    assert any("There is no sample" in each.value for each in page.warning)
