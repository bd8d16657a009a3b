"""A workspace that an older version wrote opens, continues, compares and is exported.

`old_workspace/make.py` says which version wrote it and how; `expected.json.xz` has what that
version said of it. What is read from files is the same to the bit. What is computed again is the
same to `NEAR`; on the processor and with the libraries that wrote it, it was the same to the bit.
"""

import base64
import hashlib
import json
import lzma
import math
import os
import runpy
import shutil
import signal
import sqlite3
import sys
import tarfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

import gsr_core as gsr

HERE = Path(__file__).parent / "old_workspace"
EXPECTED = json.loads(lzma.decompress((HERE / "expected.json.xz").read_bytes()))
SINCE_OF_OTHER_CELLS = ["worst_inferred_group_accuracy", "worst_inferred_group_loss"]
"""Metrics of which inferred cells of val under ten rows are no part any more."""

NEAR = {"rtol": 1e-5, "atol": 1e-6}
"""A hundred units in the last place of a float32: other processors add in another order."""

PATIENCE = 120
"""Seconds that a busy machine may take for what takes a few."""


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """The folder as it was left; nobody works in it."""
    folder = tmp_path_factory.mktemp("old") / "original"
    with tarfile.open(HERE / "workspace.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def place(original, tmp_path, monkeypatch) -> gsr.Workspace:
    """The workspace in a copy of the folder, where the process is, as its user was."""
    shutil.copytree(original, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.setenv("GSR_WORKSPACE", "gsr_workspace")
    return gsr.Workspace.at()


@pytest.fixture(scope="module")
def shared(original) -> Path:
    """A copy for tests each of which changes a run of its own."""
    return shutil.copytree(original, original.with_name("shared"))


@pytest.fixture
def ask(place, monkeypatch, capfd):
    """Return what the command line prints with `--json`."""

    def ask(*arguments):
        monkeypatch.setattr(sys, "argv", ["gsr", *map(str, arguments), "--json"])
        capfd.readouterr()
        with warnings.catch_warnings():
            # The command line may be imported already.
            warnings.simplefilter("ignore", RuntimeWarning)
            with pytest.raises(SystemExit) as stop:
                runpy.run_module("gsr_core.cli", run_name="__main__")
        out, err = capfd.readouterr()
        assert not stop.value.code, err
        return json.loads(out.replace(str(Path.cwd()), "HERE"))

    return ask


def close(found, wanted, where="") -> None:
    """Check that two JSON values are equal, numbers to 1e-9; an object may say more than then."""
    if isinstance(wanted, dict):
        assert isinstance(found, dict), where
        assert [key for key in found if key in wanted] == list(wanted), where
        for key, value in wanted.items():
            close(found[key], value, f"{where}.{key}")
    elif isinstance(wanted, list):
        assert isinstance(found, list), where
        assert len(found) == len(wanted), where
        for number, value in enumerate(wanted):
            close(found[number], value, f"{where}[{number}]")
    elif isinstance(wanted, float):
        assert isinstance(found, float), (where, found)
        assert math.isclose(found, wanted, rel_tol=1e-9, abs_tol=1e-12), (where, found, wanted)
    else:
        assert found == wanted, where


def digest(array) -> str:
    """Return the digest of an array that `make.py` has taken."""
    array = np.ascontiguousarray(array)
    if array.dtype == object:
        array = array.astype(str)
    head = f"{array.dtype.kind} {array.shape} ".encode()
    content = "\n".join(array.tolist()).encode() if array.dtype.kind == "U" else array.tobytes()
    return hashlib.sha256(head + content).hexdigest()[:16]


def reading(run) -> dict:
    """Return the digests of all that can be read of a run."""
    weights, head, influence, history = run.weights(), run.head(), run.influence(), run.metrics()
    return {
        "metrics": {name: digest(history[name].to_numpy()) for name in history},
        "head": None if head is None else [digest(part) for part in head],
        "influence": None if influence is None else digest(influence),
        "weights": None
        if weights is None
        else {name: digest(weights[name].to_numpy()) for name in weights},
        "history": {str(step): digest(run.weights_at(step)) for step in run.weight_steps()},
    }


def near(found, packed, where, of=...) -> None:
    """Check an array, or a part of it, against one that `make.py` has packed."""
    if packed is None:
        assert found is None, where
        return
    wanted = np.frombuffer(base64.b64decode(packed["f4"]), "<f4").reshape(packed["shape"])
    np.testing.assert_allclose(
        np.asarray(found)[of], wanted[of], err_msg=where, rtol=NEAR["rtol"], atol=NEAR["atol"]
    )


def check_whole(run, wanted) -> None:
    """Check that a run ended where the old version's own, uninterrupted, did."""
    state, weights, head, history = run.state, run.weights(), run.head(), run.metrics()
    name = run.run_id
    assert str(state.status) == "finished", (name, state)
    assert (state.step, state.best_step) == (wanted["step"], wanted["best_step"]), name
    for part, packed in zip(head, wanted["head"], strict=True):
        near(part, packed, f"{name}: head")
    near(None if weights is None else weights["weight"], wanted["weight"], f"{name}: weight")
    near(run.influence(), wanted["influence"], f"{name}: influence")
    steps = wanted["digests"]["history"]
    assert list(map(str, run.weight_steps())) == list(steps), name
    for step, packed in wanted["history"].items():
        near(run.weights_at(int(step)), packed, f"{name}: weights at {step}")
    for column in ("step", "split", "group", "metric"):
        assert digest(history[column].to_numpy()) == wanted["digests"]["metrics"][column], name
    metrics = history.loc[history["metric"] != "seconds", ["metric", "value"]]
    shown = ~metrics["metric"].isin(SINCE_OF_OTHER_CELLS).to_numpy()
    near(metrics["value"], wanted["metrics"], f"{name}: metrics", shown)


def ids_are_of_the_table(run) -> None:
    """Check that the rows of the weights are the user's, by the user's names."""
    weights = run.weights()
    table = pd.read_csv("birds.csv").set_index("id").loc[weights["sample_id"]]
    assert set(table["split"]) <= {"heldout", "target", "val"}
    seen = weights["y"] if "flipped" not in weights else weights["y"] ^ weights["flipped"]
    assert seen.to_list() == table["species"].eq("water").astype(int).to_list()
    assert weights["group"].to_list() == (table["species"] + ", " + table["place"]).to_list()


def test_the_archive_says_nothing_of_the_machine_that_wrote_it(original):
    root = str(Path.home()).encode()
    files = [file for file in original.rglob("*") if file.is_file()]
    assert len(files) > 500
    assert not [file for file in files if root in file.read_bytes()]


def test_everything_is_listed_by_the_public_names(place):
    bundles = {bundle.name: bundle for bundle in gsr.list_bundles(place)}
    assert set(bundles) == {"birds", "birds-found"}
    assert gsr.open_bundle(place, "birds").column("sample_id")[0].as_py() == "bird-0331"
    assert {run.run_id for run in gsr.list_runs(place)} == set(EXPECTED["reading"])
    birds = bundles["birds"]
    assert len(gsr.list_clusterings(place, birds)) == 3
    assert [each.name for each in gsr.list_slices(place, birds)] == ["the first ten", "Wasservögel"]
    assert gsr.list_slices(place, birds)[0].rows.tolist() == list(range(10))
    assert gsr.flagged(place, birds)["row"].tolist() == [3, 5, 8]


def test_every_array_of_every_run_is_read_as_it_was(place):
    wanted = EXPECTED["reading"]
    # Looking at a run whose process died makes its last stored step readable, once.
    assert {run.run_id: str(run.state.status) for run in gsr.list_runs(place)}
    found = {run.run_id: reading(run) for run in gsr.list_runs(place)}
    assert found == wanted


RENAMED = {"GRASP · steps 5": "GRASP · selection worst_group · steps 5"}
"""Labels name what differs from the defaults, of which one has changed since."""


def test_the_command_line_gives_the_answers_of_then(ask):
    for question in EXPECTED["answers"]:
        wanted = json.dumps(question["answer"], ensure_ascii=False)
        for then, now in RENAMED.items():
            wanted = wanted.replace(json.dumps(then, ensure_ascii=False), json.dumps(now))
        found, wanted = ask(*question["asked"]), json.loads(wanted)
        if question["asked"][-1] == EXPECTED["interrupted"]["died"]:
            # The only sentence that is not stored.
            assert "ended" in found.pop("message")
            assert wanted.pop("message")
        _over_seeds_alone(found, wanted)
        close(found, wanted, " ".join(question["asked"]))


def _over_seeds_alone(found, wanted):
    """Leave of a comparison what was said then: verdicts now ask test samples as well."""
    for row in found.get("paired", []):
        row.update({key: row[f"seeds_{key}"] for key in ("low", "high", "p")})
    for row in [*found.get("paired", []), *wanted.get("paired", [])]:
        del row["p_holm"], row["verdict"]


def test_finished_studies_sweeps_and_clusterings_compute_nothing_again(ask, place):
    before = {file: file.stat().st_mtime_ns for file in place.root.glob("*/*/*.json")}
    records = {file for file in before if file.parent.parent.name in ("studies", "sweeps")}
    assert len(records) == 4
    ask(*EXPECTED["study"], "--name", "done")
    ask(*EXPECTED["sweep"], "--name", "done")
    ask("cluster", "birds", "--with", "grasp")
    runs = place.root.glob("runs/*/config.json")
    assert sum(1 for _ in runs) == len(EXPECTED["reading"])
    assert len(list(place.clusterings.glob("*/clustering.json"))) == 3


def test_a_stopped_study_goes_on_with_what_is_missing(ask, place):
    kept = json.loads((place.studies / "stopped" / "study.json").read_text())["runs"]
    assert len(kept) == 2
    found = ask(*EXPECTED["study"], "--name", "stopped")
    assert len(gsr.list_runs(place)) == len(EXPECTED["reading"]) + found["wanted"] - 2
    assert json.loads((place.studies / "stopped" / "study.json").read_text())["runs"][:2] == kept
    done = ask(*EXPECTED["study"], "--name", "done")
    for one, other in zip(found["summary"], done["summary"], strict=True):
        assert one.keys() == other.keys()
        assert one["test"] == pytest.approx(other["test"])
        assert one["val"] == pytest.approx(other["val"])
    for one, other in zip(found["flipped"], done["flipped"], strict=True):
        assert one["weight"] == pytest.approx(other["weight"], rel=1e-5)


def test_a_stopped_sweep_goes_on_with_what_is_missing(ask, place):
    journal = place.sweeps / "stopped" / "trials.log"
    before = journal.read_bytes()
    found = ask(*EXPECTED["sweep"], "--name", "stopped")
    assert journal.read_bytes().startswith(before)
    done = ask(*EXPECTED["sweep"], "--name", "done")
    # What is drawn next depends on the sampler's own version; what was drawn does not.
    for one, other in zip(found["tried"][:2], done["tried"][:2], strict=True):
        assert one["settings"] == other["settings"]
        assert one["score"] == other["score"]
    assert [each["place"] for each in found["tried"]] == [0, 1, 2]
    best = max(found["tried"], key=lambda each: (each["score"], -each["loss"], -each["place"]))
    assert found["winner"]["place"] == best["place"]
    assert [run["seed"] for run in found["runs"]] == [0, 1]


@pytest.mark.parametrize("label", EXPECTED["interrupted"])
def test_an_interrupted_run_ends_where_one_long_run_ended(shared, monkeypatch, label):
    monkeypatch.chdir(shared)
    place = gsr.Workspace.at("gsr_workspace")
    run = gsr.open_run(place, EXPECTED["interrupted"][label])
    # One whose process died has what was stored before it, at least the first step.
    assert 1 <= run.state.step < EXPECTED["whole"][run.run_id]["step"]
    earlier = {step: run.weights_at(step) for step in run.weight_steps()}
    gsr.continue_run(run, EXPECTED["steps"])
    gsr.execute(run)
    check_whole(run, EXPECTED["whole"][run.run_id])
    for step, weight in earlier.items():
        if step in run.weight_steps():
            assert np.array_equal(run.weights_at(step), weight)
    ids_are_of_the_table(run)


def test_the_command_line_continues_and_exports(ask, place):
    run_id = EXPECTED["interrupted"]["gsr"]
    found = ask("continue", run_id, "--steps", EXPECTED["steps"])
    run = gsr.open_run(place, run_id)
    check_whole(run, EXPECTED["whole"][run_id])
    assert isinstance(found.pop("cautions"), list)
    close(gsr.summarise(run) | {"run_dir": found["run_dir"]}, found)
    files = ask("export", run_id, "--to", "taken")["files"]
    assert files == sorted(file.name for file in Path("taken").iterdir())
    assert "weights.csv" in files
    assert "influence.npy" in files
    taken, weights = pd.read_csv("taken/weights.csv"), run.weights()
    assert weights is not None
    assert taken["sample_id"].to_list() == weights["sample_id"].to_list()


def test_slices_flags_and_clusters_are_exported_by_the_ids_of_the_user(ask):
    ids = pd.read_csv("birds.csv")["id"]
    ask("slices", "birds", "--export", "the first ten", "--to", "slice.csv")
    assert pd.read_csv("slice.csv")["sample_id"].to_list() == ids[:10].to_list()
    ask("flags", "birds", "--export", "flags.csv")
    assert pd.read_csv("flags.csv")["sample_id"].to_list() == ids[[3, 5, 8]].to_list()
    ask("cluster", "birds", "--with", "kmeans", "--set", "max_clusters=3", "--to", "clusters.csv")
    clusters = pd.read_csv("clusters.csv")
    assert "at the lake" in set(clusters["cluster"])
    assert set(clusters["sample_id"]) <= set(ids)


def test_slices_and_flags_grow(ask, place):
    bundle = gsr.open_bundle(place, "birds")
    gsr.name_slice(place, bundle, "new", np.array([1, 2]))
    gsr.flag_rows(place, bundle, np.array([3, 20]), "seen today")
    names = [each["name"] for each in ask("slices", "birds")["slices"]]
    assert names == ["the first ten", "Wasservögel", "new"]
    reasons = {each["row"]: each["reason"] for each in ask("flags", "birds")["flags"]}
    assert reasons[3] == "looks wrong; seen today"
    assert list(reasons) == [3, 5, 8, 20]


def test_a_run_that_waited_is_computed(place):
    run = gsr.open_run(place, EXPECTED["waiting"])
    assert str(run.state.status) == "queued"
    gsr.execute(run)
    check_whole(run, EXPECTED["whole"][run.run_id])
    ids_are_of_the_table(run)


def test_an_extraction_that_was_stopped_goes_on_where_it_was(place):
    journals = {
        file: json.loads(file.read_text()) for file in place.extractions.glob("*/journal.json")
    }
    (half,) = (file for file, told in journals.items() if told["rows"] < told["n"])
    begun = np.fromfile(half.with_name("features.npy"), np.uint8)
    birds = gsr.open_bundle(place, "birds")
    assert birds.manifest.recipe is not None
    plan = birds.manifest.recipe["plan"]
    plan["name"] = "half"
    plan["backbone"]["arguments"] = {"shift": 0.5}
    asked = []
    bundle = gsr.import_data(
        place, gsr.make_plan(**plan), should_stop=lambda: bool(asked.append(1))
    )
    told = json.loads(half.read_text())
    assert told["rows"] == told["n"] == len(bundle)
    # Only the batches that were missing.
    assert len(asked) < math.ceil(len(bundle) / plan["extraction"]["batch_size"]) + 1
    done = np.fromfile(half.with_name("features.npy"), np.uint8)
    assert np.array_equal(done[: len(begun)], begun)


def end_worker(place) -> None:
    """Kill the worker of the imports, and nobody else."""
    file = place.jobs / "worker-imports.pid"
    if file.exists():
        os.kill(int(file.read_text()), signal.SIGKILL)


def test_jobs_of_then_go_on(place):
    def page():
        from gsr_core.views.import_job import import_jobs

        import_jobs()

    def told(key):
        for file in place.jobs.glob("import-*.json"):
            state = json.loads(file.read_text())
            if state["key"] == key:
                return state["status"]
        return None

    assert {key: told(key) for key in ("later", "stopped", "from-the-queue")} == {
        "later": "failed",
        "stopped": "cancelled",
        "from-the-queue": "queued",
    }
    shutil.copy("birds.csv", "later.csv")
    try:
        app = AppTest.from_function(page, default_timeout=PATIENCE).run()
        for key in ("later", "stopped"):
            app.button(f"import go on {key}").click().run()
        begun = time.monotonic()
        names = {"later", "stopped", "from-the-queue"}
        while {told(key) for key in names} != {"finished"}:
            assert time.monotonic() - begun < PATIENCE, {key: told(key) for key in names}
            time.sleep(0.05)
    finally:
        end_worker(place)
    bundles = {bundle.name: bundle for bundle in gsr.list_bundles(place)}
    assert names <= set(bundles)
    digests = {bundles[name].manifest.digest for name in names}
    assert len(digests) == 1
    with sqlite3.connect(place.jobs / "queue.sqlite3") as database:
        assert not database.execute("SELECT id FROM task").fetchall()
