"""Methods beside each other, over seeds and sample by sample."""

import re
from collections import Counter
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from playwright.sync_api import expect

from gsr_core.comparing.changes import changed_samples
from gsr_core.comparing.gate import Checks, check
from gsr_core.comparing.radar import radar
from gsr_core.curation.slices import name_slice
from gsr_core.runs.execute import run as compute_run
from gsr_core.runs.reliance import reliance_table
from gsr_core.runs.samples import sample_table
from gsr_core.runs.store import open_run
from gsr_core.runs.summary import summarise


@pytest.fixture
def seeds(dashboard) -> dict[str, list[str]]:
    """Three seeds of a short DFR and of a short GSR."""
    short = {"dfr": {"heads": 2, "steps": 2}, "gsr": {"steps": 4, "lr": 0.5}}

    def made(method: str, seed: int) -> str:
        settings = {**short[method], "seed": seed, "device": "cpu"}
        return compute_run(dashboard.workspace, "coloured-digits", method, **settings).run_id

    return {method: [made(method, seed) for seed in range(3)] for method in short}


@pytest.fixture
def compare(screen, ids):
    screen.open("Compare", runs=",".join([ids["erm"], ids["gsr"], ids["gsr short"]]))
    return screen


@pytest.fixture
def over_seeds(screen, ids, seeds):
    # Any seed's run stands for all of them.
    screen.open("Compare", runs=",".join([ids["erm"], seeds["dfr"][1], seeds["gsr"][0]]))
    return screen


def test_the_table_has_a_row_for_each_method(compare, dashboard, ids):
    by_id = {run.run_id: run for run in dashboard.runs()}
    rows = compare.table("worst-group accuracy")
    assert [row["method"].split()[0] for row in rows] == ["ERM", "GSR", "GSR"]
    for row, name in zip(rows, ("erm", "gsr", "gsr short"), strict=True):
        test = summarise(by_id[ids[name]])["test"]
        assert float(row["worst-group accuracy"]) == pytest.approx(test["worst_group_accuracy"])
        assert float(row["mean"]) == pytest.approx(test["mean_accuracy"])
        assert float(row["adjusted"]) == pytest.approx(test["adjusted_accuracy"])
    assert [float(row["label budget"]) for row in rows] == [0, 600, 600]
    for key in ("trade", "dots"):
        compare.chart(key)
    expect(compare.chart("trade")).to_contain_text("mean accuracy")
    compare.click(compare.page.get_by_role("radio", name="adjusted average accuracy"))
    expect(compare.chart("trade")).to_contain_text("adjusted average accuracy")


def test_methods_leave_and_come_back(compare, ids):
    taken = compare.page.get_by_role("button", name="Remove ERM").first
    compare.click(compare.page.locator("[data-tag] button[aria-label^='Remove ERM']").last)
    compare.idle()
    assert len(compare.table("worst-group accuracy")) == 2
    assert ids["erm"] not in compare.query["runs"]
    expect(taken).to_have_count(0)
    compare.unfold(compare.box("Methods"))
    compare.click(compare.page.get_by_role("option", name=re.compile("^ERM")))
    compare.page.keyboard.press("Escape")
    compare.idle()
    assert len(compare.table("worst-group accuracy")) == 3
    assert len(compare.query["runs"].split(",")) == 3
    # One method alone is fine, and none is a sentence.
    compare.click(compare.page.locator("[data-tag] button[aria-label^='Remove ERM']").last)
    compare.idle()
    compare.click(compare.page.locator("[data-tag] button[aria-label^='Remove GSR']").last)
    compare.idle()
    compare.chart("trade")
    assert len(compare.table("worst-group accuracy")) == 1
    compare.click(compare.page.get_by_role("button", name="Clear all"))
    expect(compare.page.get_by_text("Choose at least one method.")).to_be_visible()
    compare.sound()


def test_seeds_are_put_together_and_judged_in_pairs(over_seeds, dashboard, seeds):
    rows = over_seeds.table("worst-group accuracy")
    assert [row["seeds"] for row in rows] == ["all", "3", "3"]
    worst = [
        summarise(open_run(dashboard.workspace, name))["test"]["worst_group_accuracy"]
        for name in seeds["dfr"]
    ]
    assert float(rows[1]["worst-group accuracy"]) == pytest.approx(np.mean(worst))
    assert float(rows[1]["± sd"]) == pytest.approx(np.std(worst, ddof=1))
    known = {"better", "worse", "not distinguishable", "same on every seed"}
    # The classifier as it came is the same for every seed: three are shared, and none is missing.
    for reference in (None, rows[2]["method"]):
        if reference is not None:
            over_seeds.choose("Reference", reference)
        pairs = over_seeds.table("verdict")
        assert [int(row["shared seeds"]) for row in pairs] == [3, 3]
        assert {row["verdict"] for row in pairs} <= known
    expect(over_seeds.chart("paired")).to_contain_text("worst-group accuracy above GSR")
    expect(over_seeds.keyed("one seed")).to_have_count(0)


def test_a_count_of_fixed_samples_opens_them(over_seeds, dashboard, ids, seeds):
    place, bundle = dashboard.workspace, dashboard.bundle()
    label = over_seeds.table("worst-group accuracy")[1]["method"]
    if over_seeds.box("Held against it").input_value() != label:
        over_seeds.choose("Held against it", label)
    tables = [
        sample_table(open_run(place, name), "test", bundle)
        for name in (ids["erm"], seeds["dfr"][0])
    ]
    expected, *_ = changed_samples(bundle, *tables)
    links = over_seeds.keyed("changed").get_by_role("link")
    counts = [int(count) for row in expected[["fixed", "broken"]].to_numpy() for count in row]
    shown = [re.sub(r"\D", "", text) for text in links.all_inner_texts()]
    assert shown[: sum(count > 0 for count in counts)] == [str(n) for n in counts if n]
    group = expected.loc[expected["fixed"].idxmax(), "group"]

    def leads(link) -> bool:
        found = parse_qs(urlsplit(link.get_attribute("href")).query)
        return found.get("group") == [group] and found["changed"] == ["fixed"]

    over_seeds.click(next(link for link in links.all() if leads(link)))
    over_seeds.arrive("Samples")
    over_seeds.wait_query(
        run=seeds["dfr"][0], reference=ids["erm"], changed="fixed", split="test", group=group
    )
    of = expected["fixed"].max()
    expect(over_seeds.keyed("gallery bar")).to_contain_text(f"of {of} samples")
    way_out = over_seeds.page.get_by_role("button", name=re.compile("^Only fixed against"))
    over_seeds.click(way_out)
    over_seeds.idle()
    expect(over_seeds.keyed("gallery bar")).to_contain_text("of 97 samples")
    over_seeds.wait_query(changed=None)


def test_values_are_drawn_against_each_other_or_the_page_says_why_not(compare):
    expect(compare.chart("pair")).to_contain_text("rank correlation")
    compare.choose("Across", "ERM")
    expect(compare.page.get_by_text("ERM has no values of single samples")).to_be_visible()
    assert compare.query["left"]


def test_runs_on_other_data_are_left_out_with_the_reason(screen, dashboard, ids):
    place, bundle = dashboard.workspace, dashboard.bundle()
    # The same rows under another name and with another class: no scores to put side by side.
    other = open_run(place, ids["erm"])
    config = other.config.model_copy(update={"run_id": "erm-other", "bundle_digest": "0" * 64})
    folder = place.runs / "erm-other"
    folder.mkdir()
    for file in ("state.json", "metrics.parquet", "head.safetensors"):
        (folder / file).write_bytes((other.path / file).read_bytes())
    (folder / "config.json").write_text(config.model_dump_json())
    screen.open("Compare", runs=f"{ids['gsr']},erm-other")
    said = screen.page.get_by_text(re.compile("erm-other is left out, because"))
    expect(said).to_contain_text(f"bundle '{bundle.name}' was written anew between them")
    expect(screen.page.get_by_text("1 runs were made before")).to_be_visible()
    assert len(screen.table("worst-group accuracy")) == 1


def test_an_address_with_a_run_that_was_computed_again_shows_its_method(screen, dashboard, ids):
    compute_run(dashboard.workspace, "coloured-digits", "llr", device="cpu")
    screen.open("Compare", runs=f"{ids['llr']},{ids['gsr']}")
    assert [row["method"] for row in screen.table("seeds")] == ["LLR", "GSR"]


def test_what_a_repair_broke_leans_on_and_whether_it_may_pass(screen, dashboard, ids):
    place, bundle = dashboard.workspace, dashboard.bundle()
    base, repair = (open_run(place, ids[name]) for name in ("erm", "gsr"))
    test = bundle.rows_of["test"]
    name_slice(place, bundle, "high digits", test[bundle.y[test] == 1])
    screen.open("Compare", runs=f"{ids['erm']},{ids['gsr']}")
    # What is looked at, and one click from a count to its samples.
    found = radar(base, repair)
    harmed = found.table[found.table["net"] < 0]
    crossing = int(np.flatnonzero((harmed["kind"] == "crossing").to_numpy())[0])
    row = harmed.iloc[crossing]
    panel = screen.keyed("radar")
    expect(panel).to_contain_text(row["name"])
    shown = screen.page.get_by_text(re.compile(f"of {len(found.table)} subsets, beyond chance"))
    expect(shown).to_be_visible()
    leans = reliance_table([base, repair])
    expect(screen.chart("reliance")).to_contain_text(f"colour={leans.iloc[0]['value']}")
    share = " → ".join(f"{each:.0%}" for each in leans["share"].iloc[:2])
    expect(screen.chart("reliance")).to_contain_text(f"share {share}")
    # The gate: what the library says of the same checks.
    screen.pick(screen.box("Slices held to the floor"), "high digits")
    screen.page.keyboard.press("Escape")
    screen.enter("Floor", 0.6)
    screen.enter("Largest drop", 0.02)
    values = {"floor": 0.6, "max-drop": 0.02, "against": base.run_id, "slice": {"high digits": 0.6}}
    expected = check(repair, Checks.of(values), base)
    counts = Counter((str(line.result), line.check) for line in expected.lines)
    rows = screen.table("at least")
    assert Counter((each["result"], each["check"]) for each in rows) == counts
    assert any(each["of"] == "slice high digits" for each in rows)
    verdict = "passes" if expected.passed else "does not pass"
    expect(screen.page.get_by_text(re.compile(f"{verdict}: "))).to_be_visible()
    links = panel.get_by_role("link")
    before = harmed.iloc[:crossing]
    place_of_link = int((before[["fixed", "broken"]] > 0).to_numpy().sum()) + (row["fixed"] > 0)
    screen.click(links.nth(int(place_of_link)))
    screen.arrive("Samples")
    screen.wait_query(run=ids["gsr"], reference=ids["erm"], changed="broken", split="test")
    expect(screen.keyed("gallery bar")).to_contain_text(f"of {row['broken']} samples")
