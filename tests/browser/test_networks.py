"""Training the whole network from the browser: start, watch, cancel, continue, look, compare."""

import re

from playwright.sync_api import expect

NETWORK = "Network RWG: groups drawn equally often"


def test_a_network_is_trained_stopped_continued_and_looked_at(screen, dashboard, waiting):
    page = screen.page
    before = {run.run_id for run in dashboard.runs()}
    screen.open("Run", bundle="coloured-digits")
    screen.click(page.get_by_role("radio", name="the whole network"))
    screen.choose("Method", NETWORK)
    screen.enter("steps", 200)
    cost = re.compile(r"About .* a step, .* for 200 steps")
    expect(page.get_by_text(cost)).to_be_visible()
    screen.press("Start")
    expect(page.get_by_text(re.compile(r"Epoch \d+: \d+%, loss .* rows/s"))).to_be_visible()
    (run,) = [each for each in dashboard.runs() if each.run_id not in before]
    waiting(lambda: run.state.step >= 1, "an epoch")
    screen.press("Cancel")
    waiting(lambda: run.state.status == "cancelled", "the run to stop")
    done = run.state.step
    assert run.head() is not None

    screen.open("Run", bundle="coloured-digits", shown=run.run_id)
    screen.press("Continue to more steps")
    # It offers what was planned.
    expect(page.get_by_label("Steps in all", exact=True)).to_have_value("200")
    screen.enter("Steps in all", done + 1)
    screen.press("Continue")
    waiting(lambda: run.state.status == "finished", "the run to go on to its end")
    assert run.state.step == done + 1

    screen.open("Samples", bundle="coloured-digits", run=run.run_id, split="train", sort="heaviest")
    expect(page.get_by_role("img").first).to_be_visible()
    screen.open("Weights", bundle="coloured-digits", run=run.run_id)
    expect(page.get_by_text("sampling probabilities of the 2,588 samples of train")).to_be_visible()
    screen.open("Map", bundle="coloured-digits", run=run.run_id, split="test")
    screen.idle()
    screen.open("Compare", bundle="coloured-digits")
    names = {row["method"].split(" · ")[0] for row in screen.table("method")}
    assert {"RWG network", "GSR"} <= names
    screen.sound()
