"""An import as a job of the background: run, stopped, failed, killed, gone on with."""

import os
import signal

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gsr_core.data.bundle import open_bundle
from gsr_core.features.backbones import SimConv1, save_checkpoint
from gsr_core.ingest.job import ImportJob
from gsr_core.ingest.plan import make_plan
from gsr_core.jobs.lock import IMPORTS, worker_file
from gsr_core.jobs.queue import start_job
from gsr_core.jobs.state import (
    forget_job,
    kept_job,
    list_jobs,
    read_job,
    request_stop,
    stop_requested,
)
from gsr_core.maps.job import MapJob
from gsr_core.progress import Status

IMAGES = 400


@pytest.fixture(scope="module")
def tools(request):
    """What the conftest has besides fixtures."""
    return request.config.pluginmanager.get_plugin(str(request.path.with_name("conftest.py")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of two classes before two backgrounds, with their table."""
    folder = tmp_path_factory.mktemp("images")
    draw = np.random.default_rng(0)
    rows = []
    for number in range(IMAGES):
        y, place = number % 2, number // 2 % 2
        pixels = draw.integers(0, 120, (8, 8, 3), dtype=np.uint8) + np.uint8(60 * y + 40 * place)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append((f"{number}.png", y, place, number // 4 % 3))
    table = pd.DataFrame(rows, columns=["img_filename", "y", "place", "split"])
    table.to_csv(folder / "metadata.csv", index=False)
    save_checkpoint(SimConv1(2), folder / "network.safetensors")
    return folder


def job(folder, name="birds", **extraction):
    """Return a job with a small network, so that nothing is fetched."""
    plan = make_plan(
        name=name,
        reader="images",
        settings={"path": str(folder)},
        backbone={"name": "simconv1", "checkpoint": str(folder / "network.safetensors")},
        extraction={"device": "cpu", "workers": 0, **extraction},
    )
    return ImportJob(plan=plan)


def ended(workspace, name="birds"):
    state = read_job(workspace, "import", name)
    return state is not None and not state.active


def under_way(workspace, name="birds"):
    """Whether features are being written."""
    state = read_job(workspace, "import", name)
    return state is not None and state.text.startswith("Extracting features: ") and state.fraction


def test_an_import_runs_and_leaves_a_bundle(workspace, folder, tools):
    asked = job(folder)
    first = start_job(workspace, asked)
    assert first.status is Status.QUEUED
    assert kept_job(workspace, "import", "birds") == asked
    tools.wait_for(lambda: ended(workspace))
    state = read_job(workspace, "import", "birds")
    assert (state.status, state.fraction, state.text) == (Status.FINISHED, 1.0, "Done")
    bundle = open_bundle(workspace, "birds")
    assert bundle.features.shape == (IMAGES, 64)
    assert len(bundle.group_names) == 4
    assert bundle.manifest.recipe["plan"] == asked.plan.model_dump(mode="json")
    # Runs and maps have workers of their own, which an import of hours must not keep waiting.
    assert worker_file(workspace, IMPORTS, "pid").exists()
    assert ImportJob.queue not in (MapJob.queue, "cpu")

    # The same name again is refused; the sentence says what to do.
    start_job(workspace, asked)
    tools.wait_for(lambda: ended(workspace))
    state = read_job(workspace, "import", "birds")
    assert state.status is Status.FAILED
    assert "bundle 'birds' exists already" in state.text

    # What is wrong with the data is told as a sentence too, and nothing is left.
    start_job(workspace, job(folder / "nowhere", "worse"))
    tools.wait_for(lambda: ended(workspace, "worse"))
    state = read_job(workspace, "import", "worse")
    assert state.status is Status.FAILED
    assert "there is no folder" in state.text
    assert "Traceback" not in state.text
    assert not (workspace.bundles / "worse").exists()

    assert [each.key for each in list_jobs(workspace, "import")] == ["worse", "birds"]
    forget_job(workspace, "import", "worse")
    assert [each.key for each in list_jobs(workspace, "import")] == ["birds"]
    assert kept_job(workspace, "import", "worse") is None


def test_an_import_is_stopped_and_goes_on_where_it_was(workspace, folder, tools):
    asked = job(folder, batch_size=4)
    start_job(workspace, asked)
    tools.wait_for(lambda: under_way(workspace))
    request_stop(workspace, "import", "birds")
    tools.wait_for(lambda: ended(workspace))
    state = read_job(workspace, "import", "birds")
    assert state.status is Status.CANCELLED
    assert "goes on where it was" in state.text
    assert not (workspace.bundles / "birds").exists()
    done = first_done(workspace, asked, tools)
    assert done > 4
    assert not stop_requested(workspace, "import", "birds")
    assert open_bundle(workspace, "birds").features.shape == (IMAGES, 64)


def first_done(workspace, asked, tools):
    """Start again and return how many inputs were done when it went on; wait for the end."""
    start_job(workspace, asked)
    seen = []

    def look():
        state = read_job(workspace, "import", "birds")
        if state.text.startswith("Extracting features: "):
            seen.append(int(state.text.removeprefix("Extracting features: ").split()[0]))
        return not state.active

    tools.wait_for(look)
    state = read_job(workspace, "import", "birds")
    assert state.status is Status.FINISHED, state.text
    return seen[0]


def test_a_killed_worker_is_a_failed_import_that_goes_on(workspace, folder, tools):
    asked = job(folder, batch_size=4)
    start_job(workspace, asked)
    tools.wait_for(lambda: under_way(workspace))
    tools.kill(int(worker_file(workspace, IMPORTS, "pid").read_text()))
    state = read_job(workspace, "import", "birds")
    assert state.status is Status.FAILED
    assert "ended without a word; start it again" in state.text
    assert not (workspace.bundles / "birds").exists()
    assert kept_job(workspace, "import", "birds") == asked
    first_done(workspace, asked, tools)
    assert np.isfinite(open_bundle(workspace, "birds").features).all()


def test_an_import_that_waits_is_stopped_before_it_begins(workspace, folder, tools):
    # The worker is held, so that the second import has to wait for its turn.
    start_job(workspace, job(folder, batch_size=4))
    tools.wait_for(lambda: under_way(workspace))
    pid = int(worker_file(workspace, IMPORTS, "pid").read_text())
    os.kill(pid, signal.SIGSTOP)
    try:
        start_job(workspace, job(folder, "second"))
        assert read_job(workspace, "import", "second").status is Status.QUEUED
        request_stop(workspace, "import", "second")
        request_stop(workspace, "import", "birds")
    finally:
        os.kill(pid, signal.SIGCONT)
    tools.wait_for(lambda: ended(workspace) and ended(workspace, "second"))
    state = read_job(workspace, "import", "second")
    assert state.status is Status.CANCELLED
    assert "before it began" in state.text
    assert not (workspace.bundles / "second").exists()
