"""Starting, following, stopping and continuing runs; what survives when things end."""

import json
import re
import runpy
import shlex
import subprocess
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
from playwright.sync_api import expect
from safetensors.numpy import load_file

from gsr_core.runs.store import Run
from gsr_core.runs.summary import summarise

LONG = 60_000
"""Steps of a run that will not end by itself during a test."""


@pytest.fixture
def made(dashboard, waiting) -> Callable[[int], list[Run]]:
    """Wait for so many new runs and return them, oldest first, then by seed."""
    before = {run.run_id for run in dashboard.runs()}

    def new() -> list[Run]:
        return [run for run in dashboard.runs() if run.run_id not in before]

    def look(count: int) -> list[Run]:
        waiting(lambda: len(new()) >= count, f"{count} new runs")
        return sorted(new(), key=lambda run: (run.config.created, run.config.seed))

    return look


def start(screen, **settings: object) -> None:
    """Fill the form in and press the button."""
    for label, value in settings.items():
        screen.enter(label, value)
    screen.press("Start")


def command_of(screen) -> str:
    # The form's; the other is that of the run beside it.
    return screen.page.get_by_test_id("stCode").first.inner_text().strip()


def test_a_run_is_followed_to_its_end_and_its_command_does_the_same(
    screen, dashboard, made, waiting
):
    page = screen.page
    screen.open("Run", bundle="coloured-digits")
    assert "steps" not in command_of(screen)
    screen.enter("steps", 30)
    screen.enter("lr", 0.5)
    command = command_of(screen)
    assert "--set steps=30" in command
    assert "--set lr=0.5" in command

    screen.press("Start")
    expect(page.get_by_text(re.compile(r"step \d+ of 30|GSR .* finished")).first).to_be_visible()
    expect(page.get_by_role("heading", name=re.compile(r"^GSR .*: finished"))).to_be_visible()
    run = made(1)[0]
    waiting(lambda: run.state.status == "finished", "the run to finish")
    test = summarise(run)["test"]
    shown = f"{test['worst_group_accuracy']:.1%}"
    # An earlier run's heading may have been the one that said finished.
    waiting(lambda: screen.metric("Worst group, test") == shown, f"the page to show {shown}")
    screen.idle()
    assert screen.metric("Mean, test") == f"{test['mean_accuracy']:.1%}"
    assert screen.metric("Kept step") == f"{run.state.best_step} of 30"
    screen.chart("latest")
    newest = screen.table("status")[0]
    assert (newest["id"], newest["status"], newest["steps"]) == (run.run_id, "finished", "30")

    words = shlex.split(command)
    assert words[0] == "gsr"
    done = subprocess.run(
        [dashboard.gsr()[0], *words[1:], "--json"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    assert again["run_id"] != run.run_id
    assert again["test"] == json.loads(json.dumps(test))


def test_a_finished_run_goes_on_to_more_steps(screen, made):
    page = screen.page
    screen.open("Run", bundle="coloured-digits")
    start(screen, steps=12)
    expect(page.get_by_text(re.compile(r"^\d+ of 12$"))).to_be_visible()
    screen.idle()
    screen.press("Continue to more steps")
    screen.enter("Steps in all", 24)
    screen.press("Continue")
    expect(page.get_by_text(re.compile(r"^\d+ of 24$"))).to_be_visible()
    (run,) = made(1)
    assert (run.state.status, run.state.step) == ("finished", 24)
    assert run.metrics()["step"].nunique() == 24


def test_a_head_is_put_back_into_its_network_and_loads(screen, dashboard, tmp_path):
    page = screen.page
    run = dashboard.runs("finished")[0]
    screen.open("Run", bundle="coloured-digits", shown=run.run_id)
    merge = page.get_by_role("button", name="Put the head into its network", exact=True)
    screen.unfold_popover(re.compile("Merge into network"), merge)
    screen.press("Put the head into its network")
    expect(page.get_by_text(re.compile(r"run on 8 of the bundle's inputs"))).to_be_visible()
    file = screen.download(page.get_by_role("button", name="Download the network"))
    with zipfile.ZipFile(file) as archive:
        archive.extractall(tmp_path)
    (folder,) = tmp_path.glob("*-network")
    network = runpy.run_path(str(folder / "network.py"))["load"]()
    assert np.asarray(network(np.zeros((5, 3, 32, 32), np.float32))).shape == (5, 2)
    np.testing.assert_array_equal(
        load_file(folder / "model.safetensors")["fc.weight"], run.head()[0]
    )
    screen.sound()


def test_two_seeds_start_two_runs(screen, made, waiting):
    screen.open("Run", bundle="coloured-digits")
    start(screen, steps=10, Runs=2)
    runs = made(2)
    assert [run.config.seed for run in runs] == [0, 1]
    words = ["gsr", "run", "coloured-digits", "--method", "gsr", "--set", "steps=10"]
    words += ["--seed", "0", "--seeds", "2"]
    assert shlex.split(command_of(screen))[: len(words)] == words
    waiting(lambda: all(run.state.status == "finished" for run in runs), "both runs to finish")
    expect(
        screen.page.get_by_role("heading", name=re.compile(r"^GSR .*: finished$"))
    ).to_be_visible()


def test_the_second_run_waits_and_both_can_be_cancelled(screen, made, waiting):
    page = screen.page
    screen.open("Run", bundle="coloured-digits")
    start(screen, steps=LONG, Runs=2)
    first, second = made(2)
    expect(page.get_by_text(re.compile(rf"step \d+ of {LONG}")).first).to_be_visible()
    expect(page.get_by_text(re.compile("waiting: GSR"))).to_be_visible()
    assert second.state.status == "queued"
    # The live curve is drawn from what is stored so far.
    screen.chart("live")

    screen.click(screen.keyed(f"cancel {second.run_id}").get_by_role("button"))
    waiting(lambda: second.state.status == "cancelled", "the waiting run to be cancelled")
    assert first.state.status == "running"
    expect(page.get_by_text(re.compile("waiting: GSR"))).to_have_count(0)

    screen.click(screen.keyed(f"cancel {first.run_id}").get_by_role("button"))
    waiting(lambda: first.state.status == "cancelled", "the run to stop")
    assert first.state.step > 0
    expect(page.get_by_text("Cancelling")).to_have_count(0)
    expect(page.get_by_role("heading", name=re.compile(": cancelled"))).to_be_visible()
    screen.idle()
    rows = {row["id"]: row for row in screen.table("status")}
    assert rows[first.run_id]["status"] == rows[second.run_id]["status"] == "cancelled"
    # What a cancelled run has done can be looked at.
    screen.open("Weights", run=first.run_id)
    screen.chart("shares")


def test_a_run_outlives_the_window_and_the_dashboard(windows, dashboard, made, waiting):
    screen = windows(dashboard)
    screen.open("Run", bundle="coloured-digits")
    start(screen, steps=LONG)
    (run,) = made(1)
    waiting(lambda: run.state.step > 0, "the first step")
    screen.page.close()
    reached = run.state.step
    waiting(lambda: run.state.step > reached, "more steps without a window")

    dashboard.stop()
    reached = run.state.step
    waiting(lambda: run.state.step > reached, "more steps without a dashboard")
    dashboard.start()
    # The first request that the new dashboard gets is a link into the middle of it.
    screen = windows(dashboard)
    screen.open("Samples", bundle="coloured-digits", sort="lightest", group="5-9, red")
    expect(screen.box("Order")).to_have_value("lightest")
    expect(screen.box("Group")).to_have_value("5-9, red")
    # Not `follow`: a page that follows a long run does not come to rest.
    screen.click(screen.page.locator(".st-key-pages").get_by_role("link", name="Run", exact=True))
    expect(screen.page.get_by_text(re.compile(rf"step \d+ of {LONG}")).first).to_be_visible()
    assert run.state.status == "running"


def test_a_killed_worker_leaves_a_sentence_and_its_steps(screen, dashboard, made, waiting, killer):
    page = screen.page
    screen.open("Run", bundle="coloured-digits")
    start(screen, steps=LONG)
    (run,) = made(1)
    waiting(lambda: run.state.step > 2, "some steps")
    killer(dashboard.workers("cpu"))
    alert = page.get_by_test_id("stAlert").first
    expect(alert).to_contain_text("The process that computed this run ended without a word")
    expect(page.get_by_role("heading", name=re.compile(": failed"))).to_be_visible()
    assert run.state.step > 2
    assert run.state.status == "failed"
    screen.sound()
    # The next run gets a new worker.
    start(screen, steps=5)
    newest = made(2)[-1]
    waiting(lambda: newest.state.status == "finished", "a run after the worker was killed")
    # And what was stored can be looked at.
    screen.open("Weights", run=run.run_id)
    screen.chart("shares")


def test_methods_without_settings_run_from_the_form(screen, made, waiting):
    screen.open("Run", bundle="coloured-digits")
    for count, (method, title) in enumerate([("erm", "ERM"), ("llr", "LLR")], 1):
        screen.pick(screen.box("Method"), re.compile(title))
        assert f"--method {method}" in command_of(screen)
        start(screen)
        run = next(run for run in made(count) if run.config.method == method)
        waiting(lambda run=run: run.state.status == "finished", "the run to finish")
        expect(
            screen.page.get_by_role("heading", name=re.compile(rf"^{title} .*: finished"))
        ).to_be_visible()
