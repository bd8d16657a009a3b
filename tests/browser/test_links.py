"""The address holds the view: reloads, shared links, the back button."""

from playwright.sync_api import expect

VIEWS = {
    "Audit": ({"split": "val"}, {"Split": "val"}),
    "Samples": (
        {"split": "target", "group": "5-9, red", "sort": "lowest loss", "prediction": "right"},
        {"Split": "target", "Group": "5-9, red", "Order": "lowest loss", "Prediction": "right"},
    ),
    "Map": (
        {"split": "val", "colour": "loss", "space": "features", "layout": "pca"},
        {"Split": "val", "Colour": "loss", "Space": "features", "Layout": "PCA"},
    ),
}
"""For each page, choices in the address and what boxes must then show."""


def check(screen, query: dict[str, str], boxes: dict[str, str]) -> None:
    for label, value in boxes.items():
        expect(screen.box(label)).to_have_value(value)
    screen.wait_query(**query)


def test_an_address_restores_its_view_and_a_reload_keeps_it(screen, ids):
    """Each page is opened as by somebody who was given the link: it begins a new session."""
    for name, (query, boxes) in VIEWS.items():
        query = {**query, "run": ids["gsr short"]}
        screen.open(name, **query)
        check(screen, query, boxes)
        screen.page.reload()
        screen.arrive(name)
        check(screen, query, boxes)


def test_another_window_shows_what_this_one_shows(screen, windows, dashboard, ids):
    query, boxes = VIEWS["Samples"]
    query = {**query, "run": ids["gsr short"]}
    screen.open("Samples", **query)
    check(screen, query, boxes)
    other = windows(dashboard)
    other.page.goto(screen.page.url)
    other.arrive("Samples")
    check(other, query, boxes)


def test_choices_made_by_hand_survive_a_reload(screen, ids):
    screen.open("Samples", run=ids["gsr"])
    screen.choose("Group", "0-4, green")
    screen.choose("Order", "lightest")
    screen.page.reload()
    screen.arrive("Samples")
    check(
        screen,
        {"run": ids["gsr"], "group": "0-4, green", "sort": "lightest"},
        {"Group": "0-4, green", "Order": "lightest"},
    )


def test_a_reload_opens_the_same_sample(screen, ids, dashboard):
    bundle = dashboard.bundle()
    row = int(bundle.rows_of["test"][7])
    screen.open("Samples", run=ids["gsr"], split="test", sample=row)
    name = bundle.samples["sample_id"].iloc[row]
    for _ in range(2):
        expect(screen.page.get_by_role("dialog").get_by_role("heading", name=name)).to_be_visible()
        screen.wait_query(sample=str(row))
        screen.page.reload()


def test_choices_travel_from_page_to_page_and_back(screen, ids):
    # With the layout that needs no computing.
    query = {"run": ids["gsr short"], "split": "val", "group": "5-9, red", "layout": "pca"}
    screen.open("Samples", **query)
    length = screen.page.evaluate("history.length")
    screen.follow("Map")
    check(screen, {"run": ids["gsr short"], "split": "val"}, {"Split": "val"})
    screen.follow("Weights")
    screen.follow("Samples")
    check(screen, {"group": "5-9, red"}, {"Split": "val", "Group": "5-9, red"})
    # One step a page: an address that is completed after arrival would be a second one.
    assert screen.page.evaluate("history.length") == length + 3
    screen.page.go_back()
    screen.arrive("Weights")
    screen.page.go_forward()
    screen.arrive("Samples")
    check(screen, {"group": "5-9, red"}, {"Split": "val", "Group": "5-9, red"})
