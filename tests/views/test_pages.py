"""Pages as their scripts draw them, without a browser: with nothing to show, and asked nonsense."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

import gsr_core
from gsr_core.curation.slices import find_slice
from gsr_core.data.bundle import list_bundles
from gsr_core.data.bundle_writing import write_bundle
from gsr_core.data.groups import Group
from gsr_core.progress import Status
from gsr_core.runs.execute import execute
from gsr_core.runs.execute import run as compute_run
from gsr_core.runs.samples import sample_table
from gsr_core.runs.store import create_run, list_runs, open_run
from gsr_core.views.guide import documents
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
    for module in ("views.frame", "jobs.queue", "runs.job"):
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


def write_rows(workspace: Workspace, name: str, **changed) -> str:
    """A bundle without images, and a run of GSR on it."""
    n = 200
    rng = np.random.default_rng(0)
    y, split = np.arange(n) % 2, np.repeat(["heldout", "target", "val", "test"], n // 4)
    samples = pd.DataFrame(
        {"sample_id": [f"case-{row}" for row in range(n)], "split": split, "y": y}
    )
    samples["site"] = np.where(np.arange(n) % 3 == 0, "north", "south")
    samples = samples.assign(**changed.pop("texts", {}))
    write_bundle(
        workspace.bundles / name,
        samples=samples,
        membership=np.stack([y == 0, y == 1], axis=1),
        groups=[Group(name=each, definition=each) for each in ("ill", "well")],
        classes=["ill", "well"],
        features=rng.normal(size=(n, 3)) + y[:, None],
        source="made for a test",
        **changed,
    )
    compute_run(workspace, name, "erm", device="cpu")
    return compute_run(workspace, name, "gsr", device="cpu", steps=2).run_id


@pytest.fixture
def table_run(workspace) -> str:
    """A run on a table: it has columns and nothing else to look at."""
    columns = pd.DataFrame({"age": np.arange(200), "city": [f"Town {row}" for row in range(200)]})
    return write_rows(workspace, "table", columns=columns)


@pytest.fixture
def pairs_run(workspace) -> str:
    """A run on pairs of texts."""
    texts = {
        "text": [f"Premise number {row}" for row in range(200)],
        "text_pair": [f"It follows that {row}" for row in range(200)],
    }
    return write_rows(workspace, "pairs", texts=texts)


def words_of(page: AppTest) -> str:
    """All that a page says in text."""
    kinds = ("caption", "markdown", "text", "subheader")
    return "\n".join(str(each.value) for kind in kinds for each in page.get(kind))


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


def test_the_values_of_a_row_are_shown_wherever_an_image_would_be(table_run):
    for name, query in (
        ("samples", {"split": "heldout"}),
        ("weights", {}),
        ("samples", {"sample": "7"}),
    ):
        page = show(name, bundle="table", run=table_run, **query)
        assert "city **Town" in words_of(page), name
    tables = [each.value for each in page.dataframe if "value" in each.value]
    assert tables[0]["value"].tolist() == ["7", "Town 7"]
    (lines, *_) = [
        each.value for each in show("setup", bundle="table").dataframe if "values" in each.value
    ]
    assert lines["values"].str.contains("city Town").all()


def test_the_texts_of_a_pair_are_shown_apart(pairs_run):
    page = show("samples", bundle="pairs", run=pairs_run, split="heldout", sample="7")
    texts = [each.value for each in page.text]
    assert "Premise number 7" in texts
    assert "It follows that 7" in texts
    # Neighbours too: two texts each.
    assert len([each for each in texts if each.startswith("Premise")]) > 24


def shown_rows(page: AppTest) -> list[int]:
    return page.session_state["sample order"].tolist()


def test_samples_are_found_by_id_text_value_and_attribute(table_run):
    everyone = {"bundle": "table", "run": table_run, "split": "heldout"}
    assert shown_rows(show("samples", **everyone, search="town 17")) == [17]
    assert shown_rows(show("samples", **everyone, search="CASE-23")) == [23]
    page = show("samples", **everyone, attribute="site", value="north", sort="row")
    assert shown_rows(page) == list(range(0, 50, 3))
    page = show("samples", **everyone, measure="confidence", low="0.6", sort="row")
    assert 0 < len(shown_rows(page)) < 50
    page.button("reset filters").click().run()
    assert len(shown_rows(page)) == 50
    page = show("samples", **everyone, measure="loss", low="much")
    assert "'much'" in page.error[0].value


def test_a_link_to_samples_shows_all_that_it_counts(table_run):
    page = show("audit", bundle="table", search="town 17", attribute="site", value="north")
    links = [each.proto for each in page.get("page_link") if each.label.endswith(" wrong")]
    assert links
    for each in links:
        assert not set(parse_qs(each.query_string)) & {"search", "attribute", "value"}


def test_samples_are_ordered_by_influence_and_by_the_difference_from_another_run(
    workspace, table_run
):
    other = compute_run(workspace, "table", "gsr", device="cpu", steps=2, lr=0.1).run_id
    table, second = (
        sample_table(open_run(workspace, each), "heldout") for each in (table_run, other)
    )
    page = show("samples", bundle="table", run=table_run, sort="helps the goal most")
    assert shown_rows(page) == table.sort_values("goal", kind="stable")["row"].tolist()
    page = show("samples", bundle="table", run=table_run, other=other, sort="heavier than in B")
    difference = table["weight"] - second["weight"]
    order = (-difference).argsort(kind="stable")
    assert shown_rows(page) == table["row"].to_numpy()[order].tolist()
    assert "× against B" in words_of(page)


def test_the_first_of_an_order_are_saved_alone(table_run, workspace):
    table = sample_table(open_run(workspace, table_run), "heldout")
    page = show("samples", bundle="table", run=table_run, sort="lightest")
    (number,) = (each for each in page.number_input if each.label == "How many of them")
    assert number.value == len(table)
    number.set_value(3)
    (name,) = (each for each in page.text_input if each.label == "Name of the slice")
    name.set_value("the lightest")
    (save,) = (each for each in page.button if each.label == "Save")
    assert not save.click().run().exception
    kept = find_slice(workspace, open_run(workspace, table_run).bundle, "the lightest")
    lightest = table["row"].to_numpy()[np.argsort(table["weight"], kind="stable")[:3]]
    assert kept.rows.tolist() == sorted(lightest.tolist())
    assert "the first 3 by lightest" in kept.about


def test_the_influence_of_a_sample_is_compared_with_all_others(table_run, workspace):
    table = sample_table(open_run(workspace, table_run), "heldout")
    best = table.sort_values("goal").iloc[0]
    said = words_of(show("samples", run=table_run, bundle="table", sample=str(best["row"])))
    assert "more weight on this sample lowers the goal" in said
    assert "More weight on 0.0% of the 50 samples would serve the goal better." in said


def test_the_influence_at_another_step_is_computed_when_it_is_chosen(
    table_run, workspace, monkeypatch
):
    run = open_run(workspace, table_run)
    row = str(sample_table(run, "heldout")["row"][0])
    page = show("samples", run=table_run, bundle="table", sample=row)
    assert f"At step {run.state.best_step}, the kept one," in words_of(page)
    other = next(step for step in run.weight_steps().tolist() if step != run.state.best_step)
    (choice,) = (each for each in page.select_slider if each.label == "At step")
    page = choice.set_value(other).run()
    assert not page.exception
    assert f"At step {other} more weight" in words_of(page)
    assert run.influence_of(other) is not None
    run.influence_file(other).unlink()
    monkeypatch.setattr("gsr_core.views.detail._SOON", 0.0)
    page = page.run()
    assert f"gsr influence {run.run_id} --step {other}" in " ".join(x.value for x in page.code)
    assert run.influence_of(other) is None


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


# Runs and bundles ----------------------------------------------------------------------------


def test_a_run_is_named_and_deleted_after_a_second_press(workspace, gsr_run):
    page = show("run", shown=gsr_run)
    settings = next(each.value for each in page.dataframe if "default" in each.value)
    assert settings.set_index("setting").loc["steps"].tolist() == ["2", "100"]
    page.text_input[0].set_value("the good one")
    next(each for each in page.button if each.label == "Save").click().run()
    assert open_run(workspace, gsr_run).title == "the good one"
    page.button(f"really delete {gsr_run}").click().run()
    assert gsr_run not in [run.run_id for run in list_runs(workspace)]
    assert not page.exception


def test_a_run_that_is_computed_is_not_deleted(workspace, gsr_run):
    run = open_run(workspace, gsr_run)
    with run.lock():
        page = show("run", shown=gsr_run)
        page.button(f"really delete {gsr_run}").click().run()
        assert "is being computed by another process" in page.error[0].value
    assert run.head() is not None


def test_the_settings_of_a_run_fill_the_form(workspace, gsr_run):
    page = show("run", shown=gsr_run)
    assert page.number_input("form gsr steps").value == 100
    page.button(f"clone {gsr_run}").click().run()
    assert page.number_input("form 1 gsr steps").value == 2
    assert "--set steps=2" in page.get("code")[0].value


def test_the_form_lets_a_method_see_other_groups_and_says_if_it_cannot(workspace):
    write_rows(workspace, "table", texts={"serial": np.arange(200)})
    page = show("run")
    box = page.selectbox("form seen groups table")
    assert box.options == ["the bundle's", "class", "class × site", "class × serial"]
    box.select("class × serial").run()
    page.button("start").click().run()
    assert "'serial' has 200 different values" in page.error[0].value
    assert len(list_runs(workspace)) == 2
    page.selectbox("form seen groups table").select("class × site").run()
    assert "--seen-groups site" in page.get("code")[0].value
    page.button("start").click().run()
    made = list_runs(workspace)[0]
    assert made.config.variation == {"seen_groups": ["site"]}
    execute(made)
    page = show("run", shown=made.run_id)
    assert "groups seen: class × site" in words_of(page).replace("\\", "")
    assert "by the groups that the method saw" in words_of(page)
    page.button(f"clone {made.run_id}").click().run()
    assert page.selectbox("form 1 seen groups table").value == "class × site"
    # Of four groups that it saw, two of them known to the bundle.
    for name in ("weights", "samples", "audit", "compare"):
        assert not show(name, run=made.run_id, split="heldout").exception
    detail = words_of(show("samples", run=made.run_id, split="heldout", sample="1"))
    assert "more weight on this sample" in detail


def test_a_form_keeps_what_was_typed_when_the_page_is_left(gsr_run):
    page = show("run")
    page.number_input("form gsr steps").set_value(7).run()
    page.switch_page("pages/audit.py").run()
    page.switch_page("pages/run.py").run()
    assert page.number_input("form gsr steps").value == 7


def test_a_bundle_is_deleted_with_its_runs_after_a_second_press(workspace, gsr_run, table_run):
    page = show("setup", bundle="table")
    page.button("really delete bundle").click().run()
    assert [bundle.name for bundle in list_bundles(workspace)] == ["coloured-digits"]
    assert {run.config.bundle for run in list_runs(workspace)} == {"coloured-digits"}
    assert not page.exception


def test_the_chip_tells_what_is_computed_before_what_waits(workspace, gsr_run, table_run):
    def begin(bundle: str):
        return create_run(workspace, bundle, "gsr", {"steps": 9}, device="cpu")

    other, waiting = begin("table"), begin("coloured-digits")
    with other.lock():
        other.write_state(
            other.state.model_copy(
                update={"status": Status.RUNNING, "step": 3, "steps": 9, "seconds": 6.0}
            )
        )
        said = words_of(show("audit", bundle="coloured-digits"))
        assert "GSR on table step 3 of 9 · 12 s left" in said
        assert "1 waiting" in said
    waiting.request_cancel()


def test_a_run_can_be_taken_home_from_the_page(gsr_run):
    page = show("run", shown=gsr_run)
    assert "Export" in [each.proto.label for each in page.get("download_button")]


def test_weights_are_drawn_against_each_other_where_they_differ(workspace, table_run):
    # Kept at step 1, where all weights are equal.
    flat = compute_run(workspace, "table", "gsr", device="cpu", steps=1).run_id
    jtt, pgd = (
        compute_run(workspace, "table", method, device="cpu").run_id for method in ("jtt", "pgd")
    )
    page = show("compare", bundle="table", runs=f"{flat},{jtt},{pgd}")
    shown = [page.selectbox(f"choose {side} 0").value for side in ("left", "right")]
    assert shown == [jtt, pgd]


def test_the_step_of_the_weights_moves_the_heaviest_samples(workspace, table_run):
    run = compute_run(workspace, "table", "gsr", device="cpu", steps=4)
    weights = {step: run.weights_at(step) for step in (2, 4)}
    rows = run.weighted_rows()
    for step, weight in weights.items():
        page = show("weights", bundle="table", run=run.run_id, step=str(step))
        heaviest = rows[np.argmax(weight)]
        cards = [each.value for each in page.caption if "city **Town" in each.value]
        assert f"**Town {heaviest}**" in cards[0]
        at = "the kept step" if step == run.state.best_step else f"step {step}"
        assert f"Heaviest samples at {at}" in [each.value for each in page.subheader]


def test_the_weights_of_several_seeds_are_drawn_as_their_mean(workspace, table_run):
    assert not show("weights", bundle="table", run=table_run).toggle
    compute_run(workspace, "table", "gsr", device="cpu", steps=2, seed=1)
    page = show("weights", bundle="table", run=table_run)
    page.toggle("over seeds").set_value(True).run()
    assert "standard deviation over seeds 0, 1." in words_of(page)


def test_how_long_a_sweep_and_a_study_take_is_said_before(workspace, table_run):
    run = open_run(workspace, table_run)
    run.write_state(run.state.model_copy(update={"seconds": 3.0, "step": 2}))
    said = words_of(show("sweep", bundle="table"))
    # 30 trials and 5 seeds of 100 steps of 1.5 s.
    assert "About 88 min by earlier runs on this bundle." in said
    said = words_of(show("study", bundle="table"))
    assert "and what LLR, DFR takes, of which no run has ended here" in said
    assert "About" in said


def test_what_a_run_takes_is_said_before_it_starts(workspace, table_run):
    page = show("run", bundle="table")
    (said,) = [each.value for each in page.caption if "GiB of memory" in each.value]
    assert " a step, " in said
    assert "for 100 steps" in said
    assert "such runs" not in said
    page.number_input("form runs").set_value(3).run()
    assert "for 3 such runs" in words_of(page)


def test_that_no_sample_of_erm_has_a_weight_is_said_of_every_split(workspace, table_run):
    (erm,) = [run.run_id for run in list_runs(workspace) if run.config.method == "erm"]
    for split in ("heldout", "test"):
        said = words_of(show("samples", bundle="table", run=erm, split=split))
        assert "all samples count alike" in said
        assert "carry no weight" not in said
    said = words_of(show("samples", bundle="table", run=table_run, split="test"))
    assert "The samples of test carry no weight in this run; those of heldout do." in said


def test_each_group_has_a_verdict_beside_what_is_fixed_and_broken(workspace, gsr_run):
    page = show("compare")
    said = [each.value.partition(":small[:gray[")[2].lstrip("*") for each in page.markdown]
    verdicts = ("better", "worse", "not distinguishable", "too few changed")
    assert sum(each.startswith(verdicts) for each in said) == 4
    assert "McNemar's exact test" in words_of(page)


def test_a_set_of_a_scan_is_written_down_only_when_it_is_opened(workspace, gsr_run):
    (erm,) = [run.run_id for run in list_runs(workspace) if run.config.method == "erm"]
    page = show("audit", run=erm, classifier=erm, split="test", closer="Shortcuts")
    links = [each for each in page.get("page_link") if "slice=" in each.proto.query_string]
    assert len(links) > 1
    assert not list(workspace.slices.glob("*.npy"))
    query = {name: value for name, (value,) in parse_qs(links[0].proto.query_string).items()}
    said = show("samples", **query)
    (written,) = workspace.slices.glob("*.npy")
    assert written.stem == query["slice"]
    (drop,) = [each for each in said.button if each.key == "drop slice"]
    assert drop.label == f"{len(np.load(written)):,} selected"
    # A look at what a repair broke leaves nothing either.
    assert "is worse on" in words_of(show("compare"))
    assert list(workspace.slices.glob("*.npy")) == [written]


# Importing ----------------------------------------------------------------------------------


def test_what_the_network_will_see_is_shown_before_an_import(workspace, tmp_path):
    """Images twice as wide as high, of which the usual crop leaves less than a half."""
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for place in range(40):
            file = tmp_path / "images" / name / f"{place}.png"
            Image.new("RGB", (64, 32), (place, 2 * place, 40)).save(file)
    page = AppTest.from_file(str(APP), default_timeout=120).switch_page("pages/setup.py")
    page.session_state["import seen"] = ("imagefolder", {"path": str(tmp_path / "images")}, 1)
    page.run()
    assert not page.exception
    said = words_of(page)
    assert "**What the network sees**" in said
    assert "224 × 224 pixels" in said
    (warning,) = [each.value for each in page.warning if "crop" in each.value]
    assert "of 48 images looked at, 48 lose more than" in warning
    page.selectbox("import network image fit").select("longest").run()
    assert not [each for each in page.warning if "crop" in each.value]


# The guide ----------------------------------------------------------------------------------


def test_the_first_page_says_what_this_is_and_leads_to_the_guide(workspace):
    page = show("setup")
    said = words_of(page)
    assert "fails on one subgroup" in said
    for split in ("heldout", "target", "val"):
        assert f"**{split}**" in said
    assert "Your data: files, columns, networks" in [each.label for each in page.get("page_link")]


@pytest.mark.parametrize("name", list(documents()))
def test_every_document_is_read_in_the_app(workspace, name: str):
    page = show("guide", doc=name)
    (text,) = [each.value for each in page.markdown if each.value.startswith("# ")]
    # No link leads to a file that the app does not serve.
    assert not re.search(r"\]\((?!https?://|\?|#)", text)
    assert "![" not in text


def test_pages_import_no_library_that_only_computing_needs():
    views = sorted(each.stem for each in (Path(gsr_core.__file__).parent / "views").glob("*.py"))
    code = "\n".join(
        [
            "import sys",
            *(f"import gsr_core.views.{name}" for name in views if name != "__init__"),
            "heavy = {'torchvision', 'torch._dynamo', 'sklearn', 'scipy.optimize', 'scipy.stats'}",
            "print(*sorted(heavy & set(sys.modules)))",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
