"""Samples answered by keys, taken back, and used: from few group labels to a run with more."""

import pytest
from playwright.sync_api import expect

from gsr_core.data.bundle import open_bundle
from gsr_core.labelling.answers import answers, choices
from gsr_core.labelling.bundles import hide_groups
from gsr_core.runs.execute import run as compute


@pytest.fixture
def hidden(dashboard):
    """The example with two rows of each group in target, and a short run of GSR on it."""
    place = dashboard.workspace
    made = hide_groups(place, dashboard.bundle(), "few", keep=2)
    for method, settings in {"erm": {}, "gsr": {"steps": 3}}.items():
        compute(place, "few", method, device="cpu", **settings)
    return made


def test_samples_are_answered_by_keys_and_a_run_starts_on_what_that_gives(
    screen, dashboard, hidden, waiting
):
    place, page = dashboard.workspace, screen.page
    # Nothing to label where every group is known.
    screen.open("Label", bundle="coloured-digits")
    expect(page.get_by_text("The group of every sample is known.")).to_be_visible()

    screen.open("Label", bundle="few")
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
    for count, key in enumerate("12s2", start=1):
        press(key, count)
        shown.append(card.inner_text())
    given = answers(place, hidden)
    assert set(given["by"]) == {"Ada 1"}
    assert set(given["order"]) == {"balanced"}
    for place_of, row in enumerate(given["row"]):
        text = hidden.column("sample_id")[row].as_py()
        assert text in shown[place_of]
        mine = ["", *choices(hidden, int(hidden.y[row]))]
        assert given["answer"][place_of] == mine[(1, 2, 0, 2)[place_of]]
    assert screen.metric("Answered") == "3"
    assert screen.metric("Skipped") == "1"
    assert screen.metric("Left") == "640"

    # The last one is taken back, and comes again; the one before it can be answered anew.
    press("u", 3)
    expect(card).to_have_text(shown[3])
    page.keyboard.press("ArrowLeft")
    expect(card).to_have_text(shown[2])
    expect(page.get_by_text("Skipped by Ada 1; another answer takes its place.")).to_be_visible()
    screen.idle()
    press("1", 3)
    assert "" not in held()
    assert screen.metric("Answered") == "3"

    # A few in random order, which the pages keep apart.
    screen.click(page.get_by_role("radio", name="random"))
    screen.wait_query(order="random")
    screen.idle()
    press("1", 4)
    assert answers(place, hidden)["order"].tolist() == ["balanced"] * 3 + ["random"]

    # Used as target: a bundle in which they drive the weights, on which a run starts.
    page.get_by_label("Name of the bundle").fill("few labelled")
    screen.press("Make the bundle")
    expect(page.get_by_text("name 'few labelled' is not allowed")).to_be_visible()
    page.get_by_label("Name of the bundle").fill("few-labelled")
    screen.press("Make the bundle")
    screen.arrive("Run")
    screen.wait_query(bundle="few-labelled")
    made = open_bundle(place, "few-labelled")
    assert made.manifest.split_sizes["target"] == 8 + 4
    assert made.manifest.split_sizes["heldout"] == 644 - 4
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
    assert set(answers(place, hidden)["row"]) <= set(run.rows_of("target"))
