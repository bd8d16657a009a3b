import errno
import json
import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gsr_core.data.bundle import open_bundle
from gsr_core.examples import SOURCE
from gsr_core.inference.registry import INFERENCES
from gsr_core.methods.gsr import GSR
from gsr_core.progress import Status
from gsr_core.runs.store import Run, create_run, list_runs
from gsr_core.workspace import Workspace
from tests.cli.conftest import Outcome

COMMANDS = (
    "demo",
    "import",
    "train",
    "readers",
    "run",
    "continue",
    "cancel",
    "methods",
    "compare",
    "scan",
    "radar",
    "look",
    "check",
    "study",
    "sweep",
    "cluster",
    "label",
    "search",
    "zeroshot",
    "words",
    "whatif",
    "slices",
    "flags",
    "runs",
    "bundles",
    "show",
    "audit",
    "export",
    "merge",
    "report",
    "influence",
    "features",
    "clean",
    "rename",
    "delete",
    "app",
)
RUN_KEYS = {
    "run_id",
    "run_dir",
    "method",
    "bundle",
    "seed",
    "device",
    "steps",
    "best_step",
    "seconds",
    "seconds_per_step",
    "val",
    "test",
}
FEW = ("--set", "steps=3", "--device", "cpu")


def tiny_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    group = np.tile([0, 1, 2, 3], 40)
    return {
        "features": rng.normal(size=(160, 4)) + group[:, None],
        "y": group // 2,
        "group": group,
        "split": np.repeat(["heldout", "target", "val", "test"], 40),
    }


def files_below(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*"))


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """An empty workspace, which the commands find in the environment."""
    monkeypatch.setenv("GSR_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.chdir(tmp_path)
    return Workspace.at(tmp_path / "workspace")


@pytest.fixture
def gsr(workspace, call):
    return partial(call, workspace)


@pytest.fixture
def npz(tmp_path):
    """Save the arrays of a small bundle, some of them changed, None for one left out."""

    def npz(**changed) -> Path:
        arrays = {**tiny_arrays(), **changed}
        file = tmp_path / "tiny.npz"
        np.savez(file, **{key: value for key, value in arrays.items() if value is not None})
        return file

    return npz


@pytest.fixture
def bundle(gsr, npz):
    assert gsr("import", "npz", npz(), "--name", "tiny").code == 0
    return "tiny"


@pytest.fixture
def only_run(gsr, bundle):
    """The name of a finished run."""
    return json.loads(gsr("run", bundle, *FEW, "--json").out)["run_id"]


# Good input ----------------------------------------------------------------------------------


def test_help_lists_every_command(gsr):
    outcome = gsr("--help")
    assert outcome.code == 0
    listed = outcome.out.split("Commands:")[1]
    assert [line.split()[0] for line in listed.strip().splitlines()] == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(gsr, command):
    outcome = gsr(*command.split(), "--help")
    assert outcome.code == 0
    assert "Usage: gsr " + command in outcome.out


def test_the_inferences_that_help_lists_are_those_there_are(gsr):
    said = " ".join(gsr("cluster", "--help").out.split())
    assert f"How to infer groups: {', '.join(INFERENCES)}." in said


def test_arrays_are_imported_and_listed(gsr, npz, workspace):
    outcome = gsr("import", "npz", npz(), "--name", "tiny", "--title", "Tiny rows")
    assert outcome.code == 0
    assert outcome.out == ("tiny: heldout 40, target 40, val 40, test 40; 4 features, 4 groups\n")
    assert "note: Group" in outcome.err
    assert open_bundle(workspace, "tiny").manifest.title == "Tiny rows"
    listed = gsr("bundles")
    assert "Tiny rows" in listed.out
    (found,) = json.loads(gsr("bundles", "--json").out)["bundles"]
    assert (found["name"], found["n_features"]) == ("tiny", 4)


def test_an_import_is_one_json_object(gsr, npz, workspace):
    outcome = gsr("import", "npz", npz(), "--name", "tiny", "--json")
    found = json.loads(outcome.out)
    assert found["bundle_dir"] == str(workspace.bundles / "tiny")
    assert found["split_sizes"] == {"heldout": 40, "target": 40, "val": 40, "test": 40}


def test_a_preview_says_what_was_taken_for_what(gsr, tmp_path):
    texts = {name: [f"It is {name} number {i} of all." for i in range(60)] for name in ("a", "b")}
    table = pd.DataFrame({"pair_id": range(60), **texts, "label": ["yes", "no"] * 30})
    table.to_csv(tmp_path / "pairs.csv", index=False)
    found = gsr("import", "texts", tmp_path / "pairs.csv", "--preview")
    assert found.code == 0
    assert "60 rows: texts in 'a' of pairs.csv" in found.out
    assert "label label, split drawn, ids pair_id" in found.out
    assert "warning: Text: 'a'; second text: none; 'b' looks like a text too" in found.err


def test_a_reader_is_shown_with_its_settings(gsr):
    shown = gsr("readers", "images")
    assert shown.code == 0
    assert "the folder that the paths start from" in shown.out
    assert "image_column" in shown.out
    assert "set one with: gsr import images PATH" in shown.out
    assert "stop, impute" in gsr("readers", "table").out
    assert len(json.loads(gsr("readers", "images", "--json").out)["readers"]) == 1
    unknown = gsr("readers", "imges")
    assert unknown.code == 2
    assert "there is no reader 'imges' (did you mean 'images'?)" in unknown.err


def test_a_bundle_is_replaced_when_asked(gsr, npz, bundle, workspace):
    features = tiny_arrays()["features"] + 1
    assert gsr("import", "npz", npz(features=features), "--name", "tiny", "--overwrite").code == 0
    np.testing.assert_allclose(open_bundle(workspace, "tiny").features, features.astype(np.float32))


def test_a_run_prints_exactly_one_json_object(gsr, bundle, workspace):
    outcome = gsr("run", bundle, *FEW, "--seed", "2", "--json")
    assert outcome.code == 0
    found = json.loads(outcome.out)
    assert set(found) >= RUN_KEYS
    assert (found["method"], found["bundle"], found["seed"]) == ("gsr", "tiny", 2)
    assert (found["device"], found["steps"]) == ("cpu", 3)
    assert 1 <= found["best_step"] <= 3
    assert found["seconds_per_step"] == pytest.approx(found["seconds"] / 3)
    assert Path(found["run_dir"]) == workspace.runs / found["run_id"]
    for split in ("val", "test"):
        assert set(found[split]) == {
            "worst_group_accuracy",
            "mean_accuracy",
            "adjusted_accuracy",
            "groups",
        }
        assert len(found[split]["groups"]) == 4
        for group in found[split]["groups"]:
            assert set(group) == {"group", "n", "accuracy", "loss"}
            assert group["n"] == 10


@pytest.mark.parametrize("method", ["gsr", "erm", "llr"])
def test_every_method_runs_and_reports_a_table(gsr, bundle, method):
    steps = ("--set", "steps=2") if method == "gsr" else ()
    outcome = gsr("run", bundle, "--method", method, *steps, "--device", "cpu")
    assert outcome.code == 0
    assert f"{method}-" in outcome.out
    assert "worst group accuracy" in outcome.out


def test_names_in_brackets_are_printed_as_they_are(gsr, npz):
    names = np.array(["[red]", "[/]", ":cat:", "[bold]x[/bold]"])
    gsr("import", "npz", npz(group_names=names), "--name", "tiny", "--title", "[green] title")
    out = gsr("run", "tiny", *FEW).out
    for name in names:
        assert f"  {name} " in out
    assert "[green] title" in gsr("bundles").out


def test_settings_and_the_seed_reach_the_run(gsr, bundle, workspace):
    assert gsr("run", bundle, *FEW, "--set", "lr=0.25", "--set", "standardise=false").code == 0
    assert gsr("run", bundle, *FEW, "--seed", "3", "--set", "seed=3").code == 0
    second, first = sorted(list_runs(workspace), key=lambda run: -run.config.seed)
    assert first.config.settings["lr"] == 0.25
    assert first.config.settings["standardise"] is False
    assert (first.config.seed, second.config.seed) == (0, 3)


def test_a_method_sees_other_groups_where_asked(gsr, bundle):
    outcome = gsr("run", bundle, *FEW, "--seen-groups", "class", "--json")
    found = json.loads(outcome.out)
    assert found["variation"] == {"seen_groups": []}
    assert [group["group"] for group in found["val_seen"]["groups"]] == ["class 0", "class 1"]
    assert len(found["test"]["groups"]) == 4
    assert "seen groups class" in gsr("show", found["run_id"]).out.splitlines()
    seeds = gsr("run", bundle, *FEW, "--seen-groups", "class", "--seeds", "2", "--json")
    entry = json.loads(seeds.out)["entry"]
    assert entry["label"] == "GSR · steps 3 · seen groups class"
    assert entry["label_budget"] == {"rows": 0}


def test_runs_are_listed_and_shown(gsr, only_run):
    listed = gsr("runs")
    assert only_run in listed.out
    assert "3/3" in listed.out
    (row,) = json.loads(gsr("runs", "--json").out)["runs"]
    assert (row["run_id"], row["status"], row["step"]) == (only_run, "finished", 3)
    assert set(json.loads(gsr("show", only_run[:6], "--json").out)) >= RUN_KEYS
    assert f"{only_run}: finished, kept step" in gsr("show", "gsr").out


def test_an_empty_workspace_says_how_to_begin(gsr):
    assert gsr("runs") == (0, "", "no runs yet; start one with 'gsr run BUNDLE'\n")
    assert gsr("bundles") == (0, "", "no bundles yet; make the example with 'gsr demo'\n")
    assert json.loads(gsr("runs", "--json").out) == {"runs": []}
    assert json.loads(gsr("bundles", "--json").out) == {"bundles": []}


def test_a_run_is_continued(gsr, only_run):
    outcome = gsr("continue", only_run, "--steps", "5", "--json")
    assert outcome.code == 0
    assert json.loads(outcome.out)["steps"] == 5


def test_a_waiting_run_is_cancelled_and_an_ended_one_is_not(gsr, only_run, workspace):
    waiting = create_run(workspace, "tiny", "erm", device="cpu")
    assert gsr("cancel", waiting.run_id) == (0, "", f"asked {waiting.run_id} to stop\n")
    assert waiting.state.status == Status.CANCELLED
    assert gsr("cancel", only_run) == (0, "", f"{only_run} is finished already\n")
    assert "cancelled" in gsr("runs").out
    assert "cancelled" in gsr("show", "erm").out


def test_a_run_is_exported(gsr, only_run, tmp_path):
    outcome = gsr("export", only_run, "--to", "out")
    assert outcome.out.startswith("out: about.json, config.json, head.safetensors")
    found = json.loads(gsr("export", only_run, "--to", "again", "--json").out)
    assert found["directory"] == str(tmp_path / "again")
    assert (
        sorted(found["files"]) == files_below(tmp_path / "again") == files_below(tmp_path / "out")
    )


def test_the_example_is_made_once(gsr, npz, workspace, monkeypatch):
    made = []

    def coloured_digits(place, *, seed, name, overwrite, progress):
        from gsr_core.ingest.importing import import_data
        from gsr_core.ingest.plan import make_plan

        made.append((seed, overwrite))
        progress(0.5, "training [red]")
        plan = make_plan(name=name, reader="npz", settings={"path": str(npz())})
        bundle = import_data(place, plan, overwrite=overwrite)
        manifest = bundle.manifest.model_copy(update={"source": SOURCE.format(seed=seed)})
        (bundle.path / "manifest.json").write_text(manifest.model_dump_json())
        return bundle

    monkeypatch.setattr("gsr_core.examples.coloured_digits", coloured_digits)
    assert json.loads(gsr("demo", "--json").out)["name"] == "coloured-digits"
    assert gsr("demo").out.startswith("coloured-digits: heldout 40")
    assert made == [(0, False)]
    assert gsr("demo", "--overwrite", "--seed", "4").code == 0
    assert made == [(0, False), (4, True)]
    refused(gsr("demo"), "is not the example of seed 0", "seed 4; choose another name with --name")
    assert gsr("import", "npz", npz(), "--name", "mine").code == 0
    refused(gsr("demo", "--name", "mine"), "from arrays of tiny.npz", "--overwrite")
    assert gsr("demo", "--seed", "4").code == 0
    assert gsr("demo", "--seed", 2**32).code == 2
    assert made == [(0, False), (4, True)]


def test_the_dashboard_starts_on_this_machine_only_unless_told_otherwise(
    gsr, workspace, monkeypatch
):
    started = []

    def execv(program, command):
        started.append(command)
        sys.exit(0)

    monkeypatch.setattr(os, "execv", execv)
    assert gsr("app", "--headless").err == ""
    (command,) = started
    assert command[1:4] == ["-m", "streamlit", "run"]
    assert Path(command[4]).name == "app.py"
    assert {"--server.port=8501", "--server.address=127.0.0.1", "--server.headless=true"} <= set(
        command
    )
    assert "anybody who reaches it" in gsr("app", "--headless", "--address", "0.0.0.0").err


def test_runs_are_named_and_deleted(gsr, only_run, workspace):
    assert gsr("rename", only_run, "the first").code == 0
    assert "the first" in gsr("runs").out
    assert json.loads(gsr("show", only_run, "--json").out)["title"] == "the first"
    # Nobody is there to be asked.
    outcome = gsr("delete", only_run)
    assert outcome.code == 2
    assert f"this deletes {only_run} for good; add --yes" in outcome.err
    assert gsr("delete", only_run, "--bundle", "tiny").code == 2
    assert gsr("delete", only_run, "--yes").code == 0
    assert list_runs(workspace) == []


def test_a_bundle_is_deleted_with_its_runs(gsr, only_run, workspace):
    outcome = gsr("delete", "--bundle", "tiny", "--yes")
    assert "deleted bundle tiny and 1 run on it" in outcome.out
    assert list_runs(workspace) == []
    assert "no bundles yet" in gsr("bundles").err


def test_the_dashboard_goes_by_the_names_it_was_given_and_no_others(gsr, monkeypatch):
    started = []

    def execv(program, command):
        started.append(
            {word.partition("=")[2] for word in command if word.startswith("--server.allowedHosts")}
        )
        sys.exit(0)

    monkeypatch.setattr(os, "execv", execv)
    own = {"localhost", "127.0.0.1", "::1"}
    gsr("app")
    gsr("app", "--address", "10.0.0.7", "--host", "GSR.lab.org", "--host", "*.lab.org")
    gsr("app", "--address", "0.0.0.0")
    assert started[:2] == [own, own | {"10.0.0.7", "gsr.lab.org", "*.lab.org"}]
    assert own | {socket.gethostname().lower()} <= started[2]
    assert "*" not in started[2]
    for wrong in ("https://lab.org", "lab.org:443", "a b", ""):
        refused(gsr("app", "--host", wrong), "--host", "without scheme")


# Bad input -----------------------------------------------------------------------------------


def refused(outcome: Outcome, *said: str) -> None:
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("gsr: ")
    assert outcome.err.count("\n") == 1
    for text in said:
        assert text in outcome.err


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"y": None}, ["y"]),
        ({"split": np.repeat(["heldout", "target", "val", "tset"], 40)}, ["split", "tset", "120"]),
        ({"split": np.repeat(["heldout", "target", "val", "val"], 40)}, ["split", "test"]),
        ({"features": np.full((160, 4), np.nan)}, ["features", "nan", "row 0"]),
        ({"features": np.zeros((159, 4))}, ["features", "159"]),
        ({"y": np.full(160, -1)}, ["y", "-1", "row 0"]),
        ({"y": np.full(160, 0.5)}, ["y", "0.5"]),
        ({"y": np.array([{}] * 160)}, ["y", "object"]),
        ({"sample_id": np.repeat("a", 160)}, ["sample_id", "twice"]),
        ({"group": np.where(np.arange(160) < 80, -1, 0)}, ["group", "target"]),
    ],
)
def test_bad_arrays_are_refused_and_leave_nothing(gsr, npz, workspace, changed, said):
    refused(gsr("import", "npz", npz(**changed), "--name", "tiny"), *said)
    assert files_below(workspace.root) in ([], ["bundles"])


@pytest.mark.parametrize("damage", ["missing", "truncated", "text", "directory"])
def test_a_file_that_is_no_npz_is_refused(gsr, npz, workspace, damage):
    file = npz()
    content = file.read_bytes()
    file.unlink()
    if damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "text":
        file.write_text("a,b\n1,2\n")
    elif damage == "directory":
        file.mkdir()
    refused(gsr("import", "npz", file, "--name", "tiny"), "tiny.npz")
    assert files_below(workspace.root) in ([], ["bundles"])


def test_a_name_that_is_taken_or_not_allowed_is_refused(gsr, npz, bundle, workspace):
    before = files_below(workspace.root)
    refused(gsr("import", "npz", npz(), "--name", bundle), "'tiny' exists already", "--overwrite")
    refused(gsr("import", "npz", npz(), "--name", ".hidden"), "bundle name '.hidden'")
    assert files_below(workspace.root) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none"], ["no bundle 'none'", "tiny", "gsr demo"]),
        (["tiny", "--method", "gs"], ["no method 'gs'", "did you mean 'gsr'", "'gsr methods'"]),
        (["tiny", "--set", "stesp=3"], ["no setting 'stesp'", "did you mean 'steps'"]),
        (["tiny", "--set", "steps=many"], ["steps is 'many'"]),
        (["tiny", "--set", "l2=0"], ["l2 is '0'"]),
        (["tiny", "--set", "selection=mine"], ["selection is 'mine'", "worst_group"]),
        (["tiny", "--set", "steps"], ["'steps' is not KEY=VALUE"]),
        (["tiny", "--set", "=3"], ["'=3' is not KEY=VALUE"]),
        (["tiny", "--set", "lr=1", "--set", "lr=2"], ["lr is given twice"]),
        (["tiny", "--seed", "1", "--set", "seed=2"], ["--seed is 1", "seed=2"]),
        (["tiny", "--seed", str(2**40)], ["seed"]),
        (["tiny", "--device", "cuda:99"], ["cuda:99", "--device cpu"]),
        (["tiny", "--device", "toaster"], ["'toaster' is not a device name"]),
        (["tiny", "--device", "meta"], ["'meta' is not supported"]),
        (["tiny", "--seen-groups", "color"], ["no attribute 'color'", "'class' is the classes"]),
    ],
)
def test_a_bad_run_is_refused_and_not_made(gsr, bundle, workspace, arguments, said):
    refused(gsr("run", *arguments), *said)
    assert not workspace.runs.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "none"],
        ["cancel", "none"],
        ["continue", "none", "--steps", "5"],
        ["export", "none", "--to", "out"],
    ],
)
def test_an_unknown_run_is_refused(gsr, workspace, arguments, tmp_path):
    refused(gsr(*arguments), "no run 'none'", "'gsr runs' lists them")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_continued_or_exported_is_refused(gsr, only_run, workspace, tmp_path):
    waiting = create_run(workspace, "tiny", "erm", device="cpu")
    refused(gsr("continue", only_run, "--steps", "3"), "has done 3; give a larger number")
    refused(gsr("continue", waiting.run_id, "--steps", "3"), "is queued")
    refused(gsr("export", waiting.run_id, "--to", "out"), "is queued with 0 steps")
    refused(gsr("merge", only_run, "--to", "out"), "was imported without a network")
    (tmp_path / "there").mkdir()
    refused(gsr("export", only_run, "--to", "there"), "exists already")
    (tmp_path / "file").touch()
    refused(gsr("export", only_run, "--to", "file/out"), "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == (
        ["file", "there", "tiny.npz", "workspace"]
    )


def test_a_workspace_that_cannot_be_written_is_refused(gsr, npz, tmp_path):
    (tmp_path / "taken").touch()
    taken = ("--workspace", str(tmp_path / "taken"))
    refused(gsr("import", "npz", npz(), "--name", "tiny", *taken), "taken")
    refused(gsr("run", "tiny", *taken), "no bundle 'tiny'")
    refused(gsr("demo", *taken, "--json"), "taken")


def test_a_run_into_a_workspace_that_cannot_be_written_is_refused(gsr, bundle, workspace):
    workspace.runs.touch()
    refused(gsr("run", bundle, *FEW), "runs")


def test_what_a_terminal_would_obey_is_shown_and_not_sent(gsr, npz, tmp_path):
    for arguments in (
        ["show", "\x1b[2Jgone"],
        ["import", "npz", tmp_path / "\x1b]0;title\x07.npz", "--name", "a"],
        ["run", "\x9b31mtiny"],
        ["compare", "--bundle", "\u202e1"],
    ):
        refused(gsr(*arguments), "\\")
        assert gsr(*arguments).err[:-1].isprintable()
    names = ["\x1b[31mcat", "dog\u202egod"]
    assert gsr("import", "npz", npz(class_names=np.array(names)), "--name", "named").code == 0
    for arguments in (["run", "named", "--method", "erm"], ["bundles"]):
        outcome = gsr(*arguments)
        assert outcome.code == 0
        assert all(line.isprintable() for line in (outcome.out + outcome.err).splitlines())


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["run", "tiny", "--nonsense"],
        ["run", "tiny", "--seed", "-1"],
        ["run", "tiny", "--seed", "x"],
        ["import", "npz", "file.npz", "--batch-size", "0"],
        ["continue", "a"],
        ["continue", "a", "--steps", "0"],
        ["export", "a"],
        ["app", "--port", "0"],
        ["nonsense"],
        ["import"],
        [],
    ],
)
def test_wrong_usage_is_refused_with_a_pointer_to_help(gsr, arguments):
    outcome = gsr(*arguments)
    assert outcome.code == 2
    assert "Usage: gsr" in outcome.out + outcome.err
    if arguments not in ([], ["import"]):
        assert outcome.out == ""
        assert outcome.err.splitlines()[-1].startswith("Error: ")


# Runs that do not finish ---------------------------------------------------------------------


def break_at(monkeypatch, at, error):
    real = GSR.iterate

    def iterate(self, problem, checkpoint=None):
        for index, step in enumerate(real(self, problem, checkpoint), start=1):
            if index == at:
                raise error
            yield step

    monkeypatch.setattr(GSR, "iterate", iterate)


@pytest.mark.parametrize(
    ("error", "said"),
    [(ValueError("boom"), "failed: ValueError: boom"), (KeyboardInterrupt(), "cancelled")],
)
def test_a_run_that_does_not_finish_exits_with_1_and_reports_what_it_has(
    gsr, bundle, monkeypatch, error, said
):
    break_at(monkeypatch, 3, error)
    outcome = gsr("run", bundle, "--device", "cpu", "--json")
    assert outcome.code == 1
    assert json.loads(outcome.out)["steps"] == 2
    assert said in outcome.err


def test_a_run_without_a_step_prints_no_result(gsr, bundle, monkeypatch):
    break_at(monkeypatch, 1, ValueError("boom"))
    outcome = gsr("run", bundle, "--device", "cpu", "--json")
    assert (outcome.code, outcome.out) == (1, "")
    assert "failed: ValueError: boom" in outcome.err
    assert gsr("show", "gsr").code == 0
    assert gsr("runs").code == 0


def test_seeds_that_find_no_room_leave_none_waiting(gsr, bundle, workspace, monkeypatch):
    write = Run.write_config

    def write_config(run, config):
        if config.seed == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(run, config)

    monkeypatch.setattr(Run, "write_config", write_config)
    outcome = gsr("run", bundle, "--method", "erm", "--seeds", "3")
    refused(outcome, "the disk is full: a new run cannot be written")
    assert [run.state.status for run in list_runs(workspace)] == [Status.FAILED] * 2
    assert len(list(workspace.runs.iterdir())) == 2


def test_a_run_that_is_interrupted_before_it_begins_does_not_wait_for_ever(
    gsr, bundle, workspace, monkeypatch
):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("gsr_core.runs.execute.execute", interrupted)
    assert gsr("run", bundle, *FEW).code == 130
    (run,) = list_runs(workspace)
    assert run.state.status == Status.CANCELLED


# As a program of its own ---------------------------------------------------------------------


def program(*arguments, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, **kwargs
    )


def test_as_a_program_it_keeps_results_and_messages_apart(workspace, npz, bundle):
    done = program("-m", "gsr_core.cli", "run", bundle, *FEW, "--json")
    assert done.returncode == 0
    assert set(json.loads(done.stdout)) >= RUN_KEYS
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "import gsr_core.views.new_data, gsr_core.views.bundle_contents, gsr_core.views.frame",
        "import gsr_core.runs.summary, gsr_core.comparing.entries, gsr_core.runs.removal",
    ],
)
def test_the_first_page_and_the_list_of_runs_need_no_torch(code):
    done = program("-c", f"{code}; import sys; print('torch' in sys.modules)")
    assert done.stdout == "False\n", done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "import gsr_core",
        "import sys; sys.argv = ['gsr', '--help']; from gsr_core.cli.main import main; main()",
    ],
)
def test_nothing_heavy_is_imported_at_the_start(code):
    check = """
import atexit, sys, time
begun = time.process_time()
def report():
    heavy = {"torch", "umap", "streamlit", "pandas", "plotly", "numpy"} & set(sys.modules)
    print(f"{time.process_time() - begun} {' '.join(heavy)}", file=sys.stderr)
atexit.register(report)
"""
    done = program("-c", check + code)
    assert done.returncode == 0
    seconds, *heavy = done.stderr.split()
    print(f"\n{code.split(';')[0]}: {float(seconds):.2f} s of processor time")
    assert heavy == []
    assert float(seconds) < 2


def test_a_reader_that_leaves_early_is_no_error(workspace, bundle):
    command = f"'{sys.executable}' -m gsr_core.cli bundles --json | true"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False
    )
    assert "Traceback" not in done.stderr


def test_what_runs_would_take_is_said_and_nothing_is_made(gsr, bundle, workspace):
    one = gsr("run", bundle, "--predict", "--set", "steps=50")
    assert "a step" in one.out
    assert "for 50 steps" in one.out
    assert "such runs" not in one.out
    assert "for 4 such runs" in gsr("run", bundle, "--predict", "--seeds", "4").out
    content = json.loads(gsr("run", bundle, "--predict", "--seeds", "4", "--json").out)
    assert (content["runs"], content["steps"]) == (4, 100)
    assert 0 < content["step_seconds"] < 10
    assert "not predicted" in gsr("run", bundle, "--predict", "--method", "dfr").out
    assert not workspace.runs.exists() or not list(workspace.runs.iterdir())


def test_an_audit_is_of_every_group(gsr, only_run):
    outcome = gsr("audit", only_run)
    assert outcome.code == 0
    assert "calibration error" in outcome.out
    found = json.loads(gsr("audit", only_run, "--split", "val", "--json").out)
    assert found["split"] == "val"
    assert len(found["groups"]) == 4
    for each in found["groups"]:
        assert each["gap_low"] <= each["gap"] <= each["gap_high"]
        assert 0 <= each["calibration"] <= 1
    refused = gsr("audit", only_run, "--split", "train")
    assert refused.code == 2
    assert "choose test, val or target" in refused.err


def test_an_audit_shows_other_offsets_calibration_and_fairness(gsr, npz, tmp_path):
    colour = np.array(["red", "green"])[tiny_arrays()["group"] % 2]
    assert gsr("import", "npz", npz(attribute_colour=colour), "--name", "tiny").code == 0
    run = json.loads(gsr("run", "tiny", *FEW, "--json").out)["run_id"]
    shown = {
        "scaling": "offsets: ",
        "thresholds": "a calibrated head would have",
        "calibration": "a calibrated head has",
        "fairness": "equalised odds difference",
    }
    of = {"fairness": ("--attribute", "colour"), "thresholds": ("--cost", "3")}
    found = {}
    for part, said in shown.items():
        words = ("audit", run, "--show", part, *of.get(part, ()))
        outcome = gsr(*words)
        assert outcome.code == 0
        assert said in outcome.out
        found[part] = json.loads(gsr(*words, "--json").out)
    own, chosen = found["scaling"]["points"]
    assert chosen["val_worst"] >= own["val_worst"]
    assert 0 <= found["thresholds"]["threshold"] <= 1
    assert sum(each["n"] for each in found["calibration"]["bins"]) > 0
    assert 0 <= found["fairness"]["overall"]["odds_difference"] <= 1

    # What was shown can be taken home, with the same options.
    taken = gsr("export", run, "--to", tmp_path / "mine", "--cost", "3")
    assert taken.code == 0
    about = json.loads((tmp_path / "mine" / "about.json").read_text())
    assert about["logit_offset"] == found["thresholds"]["offset"]

    for words, said in (
        (("audit", run, "--cost", "3"), "--cost is of --show thresholds"),
        (("audit", run, "--show", "fairness"), "needs --attribute NAME; the bundle's are "),
        (("audit", run, "--show", "scaling", "--trade", "2"), "is 2; choose 0 to 1"),
        (("export", run, "--to", "x", "--trade", "1", "--cost", "1"), "give one of them"),
        (("export", run, "--to", "x", "--average", "mean_accuracy"), "give that too"),
    ):
        refused = gsr(*words)
        assert refused.code == 2
        assert said in refused.err
        assert refused.err.count("\n") == 1
