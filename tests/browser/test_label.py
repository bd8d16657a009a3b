"""Samples answered by keys, taken back, and used: from few group labels to a run with more."""

import pandas as pd
from playwright.sync_api import expect

from gsr_core.data.bundle import open_bundle
from gsr_core.labelling.answers import answers, choices
from gsr_core.runs.execute import run as compute


def test_samples_are_answered_by_keys_and_a_run_starts_on_what_that_gives(
    screen, dashboard, waiting
):
    place, page = dashboard.workspace, screen.page
    name_field = page.get_by_label("Name of the bundle", exact=True)
    # Where every group is known, some are hidden to try it.
    screen.open("Label", bundle="coloured-digits")
    expect(page.get_by_text("The group of every sample is known.")).to_be_visible()
    name_field.fill("few")
    screen.press("Hide the groups")
    screen.arrive("Run")
    screen.wait_query(bundle="few")
    hidden = open_bundle(place, "few")
    assert hidden.manifest.split_sizes["target"] == 8
    run = compute(place, "few", "gsr", device="cpu", steps=3)

    screen.open("Label", bundle="few", run=run.run_id)
    card = screen.keyed("label card")

    def held() -> list[str]:
        return answers(place, hidden)["answer"].tolist()

    def press(key: str, count: int) -> None:
        """Press a key, and wait for what it does to the card and to what is kept."""
        before = card.inner_text()
        page.keyboard.press(key)
        waiting(lambda: len(held()) == count, f"{count} answers after {key}")
        expect(card).not_to_have_text(before)
        screen.idle()
        screen.sound()

    def order(name: str) -> None:
        screen.click(page.get_by_role("radio", name=name))
        screen.wait_query(order=name)
        screen.idle()
        screen.sound()

    # A digit that is typed into a field answers nothing.
    name = page.get_by_label("Your name", exact=True)
    name.fill("Ada 1")
    name.press("Enter")
    screen.idle()
    assert held() == []
    name.blur()
    page.keyboard.press("u")
    expect(page.get_by_text("You have no answer here that could be taken back.")).to_be_visible()
    screen.idle()

    shown = [card.inner_text()]
    for count, key in enumerate("12s", start=1):
        press(key, count)
        shown.append(card.inner_text())
    given = answers(place, hidden)
    assert set(given["by"]) == {"Ada 1"}
    assert set(given["order"]) == {"influence"}
    for index, row in enumerate(given["row"]):
        assert hidden.column("sample_id")[row].as_py() in shown[index]
        assert given["answer"][index] == [*choices(hidden, int(hidden.y[row])), ""][index]
    assert screen.metric("Answered") == "2"
    assert screen.metric("Skipped") == "1"
    assert screen.metric("Left") == "641"

    # The skip is taken back, and its sample comes again; the one before it is answered anew.
    press("u", 2)
    expect(card).to_have_text(shown[2])
    page.keyboard.press("ArrowLeft")
    expect(card).to_have_text(shown[1])
    expect(page.get_by_text("by Ada 1; another answer takes its place.")).to_be_visible()
    screen.idle()
    press("1", 2)
    assert held()[-1] == choices(hidden, int(hidden.y[given["row"][1]]))[0]

    # In other orders, which are kept apart.
    order("balanced")
    press("1", 3)
    order("random")
    press("1", 4)
    last = card.inner_text()
    screen.press("Rank anew")
    screen.idle()
    expect(card).to_have_text(last)
    told = answers(place, hidden)
    assert told["order"].tolist() == ["influence", "influence", "balanced", "random"]
    file = screen.download(page.get_by_role("button", name="Answers as CSV"))
    assert pd.read_csv(file)["answer"].tolist() == told["answer"].tolist()

    # Used as target: a bundle in which they drive the weights, on which a run starts.
    name_field.fill("few labelled")
    screen.press("Make the bundle")
    expect(page.get_by_text("name 'few labelled' is not allowed")).to_be_visible()
    name_field.fill("few-labelled")
    screen.press("Make the bundle")
    screen.arrive("Run")
    screen.wait_query(bundle="few-labelled")
    made = open_bundle(place, "few-labelled")
    assert made.manifest.split_sizes["target"] == 8 + 4
    assert made.manifest.split_sizes["heldout"] == 644 - 4
    screen.enter("steps", 3)
    screen.press("Start")
    run = waiting(
        lambda: next(
            (
                each
                for each in dashboard.runs("finished")
                if each.config.bundle_digest == made.manifest.digest and each.config.method == "gsr"
            ),
            None,
        ),
        "a run of GSR on the new bundle to end",
    )
    assert set(told["row"]) <= set(run.rows_of("target"))
