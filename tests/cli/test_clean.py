import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
from filelock import FileLock

import gsr_core as gsr
from gsr_core.cleaning import free, leftovers
from gsr_core.data import bundle_writing
from gsr_core.data.bundle import list_bundles, open_bundle
from gsr_core.errors import BundleError
from gsr_core.files import is_free, new_directory
from gsr_core.runs.removal import delete_bundle
from gsr_core.runs.store import list_runs
from gsr_core.scanning.measured import measured_file
from tests.tiny import *  # noqa: F403

WRITING = """
import sys, time
from pathlib import Path
from gsr_core.files import new_directory

with new_directory(Path(sys.argv[1])) as temporary:
    (temporary / "half").write_bytes(bytes(5000))
    print("there", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def writing(workspace):
    """A process in the middle of writing a bundle."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITING, str(workspace.bundles / "slow")], stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"there\n"
    yield process
    process.kill()
    process.communicate()


def hidden(folder):
    return sorted(each.name for each in folder.iterdir() if each.name.startswith("."))


def test_what_a_killed_writer_left_goes_when_any_bundle_is_written(workspace, write, writing):
    before = hidden(workspace.bundles)
    assert [name[-4:] for name in before] == ["lock", ".tmp"]
    write(workspace, "other")
    assert hidden(workspace.bundles) == before
    assert leftovers(workspace) == []
    writing.send_signal(signal.SIGKILL)
    writing.wait()
    (left,) = leftovers(workspace)
    assert left.size == 5000
    write(workspace, "another")
    assert hidden(workspace.bundles) == []
    assert [bundle.name for bundle in list_bundles(workspace)] == ["another", "other", "tiny"]


def test_two_who_write_a_bundle_of_one_name_get_one_and_a_sentence(workspace, write, monkeypatch):
    write_features = bundle_writing._write_features

    def write_and_be_overtaken(file, features):
        monkeypatch.setattr(bundle_writing, "_write_features", write_features)
        write(workspace, "same")
        write_features(file, features)

    # Both have looked and found the name free.
    monkeypatch.setattr(bundle_writing, "_write_features", write_and_be_overtaken)
    with pytest.raises(
        BundleError, match="bundle 'same' exists: another process made it meanwhile"
    ):
        write(workspace, "same", seed=1)
    assert hidden(workspace.bundles) == []
    assert [bundle.name for bundle in list_bundles(workspace)] == ["same", "tiny"]


def extraction(workspace, name: str, rows: int, n: int = 10):
    folder = workspace.extractions / name
    folder.mkdir(parents=True)
    np.save(folder / "features.npy", np.zeros((n, 3), np.float32))
    (folder / "journal.json").write_text(json.dumps({"rows": rows, "n": n}))
    return folder


def test_features_that_a_bundle_has_stay_and_those_that_none_has_go(workspace, write, call):
    cut, whole, used, busy = (
        extraction(workspace, name, rows)
        for name, rows in (("a", 4), ("b", 10), ("c", 10), ("d", 4))
    )
    os.link(used / "features.npy", workspace.bundles / "tiny" / "linked.npy")
    gsr = partial(call, workspace)
    with FileLock(busy / "lock"):
        told = json.loads(gsr("clean", "--json").out)
        assert not told["freed"]
        assert {each["path"]: each["what"][:31] for each in told["leftovers"]} == {
            str(cut): "features of 4 of 10 inputs, wit",
            str(whole): "features that no bundle has, wh",
        }
        assert told["bytes"] == sum(
            file.stat().st_size for folder in (cut, whole) for file in folder.iterdir()
        )
        assert cut.exists()
        assert "MB freed" in gsr("clean", "--yes").err
    assert not cut.exists()
    assert not whole.exists()
    assert used.exists()
    assert busy.exists()


def test_a_directory_of_a_run_that_was_never_made_goes_and_one_being_made_stays(
    workspace, make, call
):
    run = make("erm")
    old, new = workspace.runs / "old", workspace.runs / "new"
    for each in (old, new):
        each.mkdir()
        (each / "state.json").write_text("{}")
    os.utime(old, (time.time() - 3600,) * 2)
    assert [each.path for each in leftovers(workspace)] == [old]
    assert [each.path for each in free(workspace)] == [old]
    assert new.exists()
    assert list_runs(workspace) == [run]
    assert partial(call, workspace)("clean", "--yes").err == "there is nothing to free\n"


def test_nothing_of_a_workspace_in_use_is_a_leftover(workspace, done, write, contents):
    done()
    write(workspace, "second")
    before = contents(workspace.root)
    assert free(workspace) == []
    assert contents(workspace.root) == before


def test_a_directory_that_was_set_aside_for_one_that_never_came_is_put_back(workspace):
    os.rename(workspace.bundles / "tiny", workspace.bundles / ".tiny.01234567.old")
    free(workspace)
    assert [bundle.name for bundle in list_bundles(workspace)] == ["tiny"]


def test_a_lock_is_free_once_its_holder_is_gone(tmp_path):
    with new_directory(tmp_path / "a") as temporary:
        assert not is_free(temporary.with_suffix(".lock"))
    assert not is_free(temporary.with_suffix(".lock"))
    assert hidden(tmp_path) == []


# What is kept of bundles -----------------------------------------------------------------------


def old(*files):
    for file in files:
        os.utime(file, (time.time() - 3600,) * 2)


@pytest.fixture
def texts(workspace, write):
    """Bundle `texts`, measured."""
    samples = open_bundle(workspace, "tiny").samples.assign(text="a text")
    bundle = write(workspace, "texts", samples=samples)
    gsr.measure_inputs(workspace, bundle)
    return bundle


def test_what_was_measured_stays_as_long_as_a_bundle_has_the_inputs(workspace, texts, write):
    file = measured_file(workspace, texts)
    write(workspace, "again", samples=texts.samples.drop(columns="colour"), seed=1)
    old(file)
    assert leftovers(workspace) == []
    delete_bundle(workspace, "texts")
    assert leftovers(workspace) == []
    # Set aside for a new one that never came, it is put back.
    os.rename(workspace.bundles / "again", workspace.bundles / ".again.01234567.old")
    assert free(workspace) == []
    assert file.exists()
    delete_bundle(workspace, "again")
    (left,) = leftovers(workspace)
    assert (left.path, left.size) == (file, file.stat().st_size)
    assert "a scan would measure them" in left.what
    assert file.exists()
    with FileLock(file.with_name(f".{file.stem}.lock")):
        assert free(workspace) == []
    os.utime(file)
    assert free(workspace) == []  # It may be a scan's of a bundle elsewhere, under way.
    old(file)
    assert free(workspace) == [left]
    assert not file.exists()


def test_what_a_stopped_measurement_kept_stays_as_long_as_it_can_go_on(workspace, texts):
    file = measured_file(workspace, texts)
    file.unlink()
    journal = file.with_suffix(".inputs.jsonl")
    journal.write_bytes(b"[]\n")
    old(journal)
    assert leftovers(workspace) == []
    delete_bundle(workspace, "texts")
    assert [each.path for each in free(workspace)] == [journal]


def test_nothing_that_was_measured_goes_while_a_bundle_cannot_be_read(workspace, texts, write):
    file = measured_file(workspace, texts)
    old(file)
    samples = texts.path / "samples.parquet"
    hidden = samples.rename(workspace.root / "samples.parquet")
    assert list_bundles(workspace) == [open_bundle(workspace, "tiny")]
    assert free(workspace) == []
    hidden.rename(samples)
    assert free(workspace) == []
    assert gsr.measure_inputs(workspace, texts) is not None


def test_half_of_a_table_that_a_killed_scan_wrote_goes_a_day_later(workspace, texts):
    file = measured_file(workspace, texts)
    half = file.with_name(f".{file.name}.01234567.tmp")
    half.write_bytes(bytes(100))
    assert leftovers(workspace) == []
    os.utime(half, (time.time() - 2 * 24 * 3600,) * 2)
    assert [each.path for each in free(workspace)] == [half]
    assert file.exists()
