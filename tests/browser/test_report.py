"""The report that pages give, opened as whoever gets it does: from the disk, without a network."""

import re

import pytest

from gsr_core.reports.card import as_card
from gsr_core.reports.facts import baseline_of, make_report
from gsr_core.runs.store import open_run
from gsr_core.runs.summary import summarise

BACKGROUND = "() => getComputedStyle(document.body).backgroundColor"
BROKEN = "() => [...document.images].filter(image => !image.naturalWidth).length"


def test_the_report_opens_anywhere_and_says_what_the_store_has(
    screen, dashboard, ids, browser, tmp_path
):
    def download(name):
        button = screen.page.get_by_role("button", name=name, exact=True)
        screen.unfold_popover(re.compile("^(description )?Report"), button)
        return screen.download(button)

    screen.open("Weights", run=ids["gsr short"])
    taken = download("Report (.html)").rename(tmp_path / "report.html")
    screen.click(screen.page.get_by_text("Show single samples"))
    screen.idle()
    card = download("Model card (.md)").read_text()
    screen.open("Compare", runs=f"{ids['erm']},{ids['gsr short']}")
    compared = download("Report (.html)").read_text()
    assert compared.count("<h2>") == taken.read_text().count("<h2>")

    run = open_run(dashboard.workspace, ids["gsr short"])
    stamp = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")
    wanted = as_card(make_report([run], against=baseline_of(run), samples=False))
    assert stamp.sub("", card) == stamp.sub("", wanted)

    context = browser.new_context(offline=True, color_scheme="light")
    page, asked, said = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(taken.as_uri())
    # Pictures are part of the file.
    assert [url for url in asked if not url.startswith("data:")] == [taken.as_uri()]
    assert page.locator("img").count() == 16
    assert page.evaluate(BROKEN) == 0
    test = summarise(run)["test"]
    tile = page.locator(".tile").filter(has_text="Worst group after").locator("b")
    assert float(tile.inner_text().rstrip("%")) == pytest.approx(
        100 * test["worst_group_accuracy"], abs=0.0501
    )
    rows = page.locator("table").first.locator("tbody tr").all()
    for row, group in zip(rows, test["groups"], strict=True):
        name, n, _, after = row.locator("td").all_inner_texts()
        assert (name, int(n)) == (group["group"], group["n"])
        assert float(after.split("%")[0]) == pytest.approx(100 * group["accuracy"], abs=0.0501)
    light = page.evaluate(BACKGROUND)
    page.emulate_media(color_scheme="dark")
    assert light == "rgb(255, 255, 255)" != page.evaluate(BACKGROUND)
    # On paper it is light whatever the reader's screen is.
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate(BACKGROUND) == light
    assert page.pdf().startswith(b"%PDF")
    assert said == []
    context.close()
