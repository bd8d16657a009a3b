import base64
import io
import json
import re
import shlex
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml
from markdown_it import MarkdownIt
from PIL import Image
from typer.testing import CliRunner

from gsr_core.cli.main import app
from gsr_core.data.groups import Group
from gsr_core.errors import ComparisonError, SettingError
from gsr_core.reports.card import as_card
from gsr_core.reports.facts import baseline_of, make_report
from gsr_core.reports.html import as_html
from gsr_core.reports.writing import write_report
from gsr_core.runs.execute import execute
from gsr_core.runs.execute import run as compute
from gsr_core.runs.samples import sample_table
from gsr_core.runs.store import open_run
from gsr_core.what_if.keep import keep_refit
from gsr_core.what_if.refits import open_refits
from gsr_core.what_if.selection import by_sample_id, make_edit

HOSTILE = (
    "<script>alert('1')</script>\"><img src=x onerror=alert(2)> [x](https://evil.example) `c` |"
)


class Page(HTMLParser):
    """What a browser would make of a page: its tags, its texts, and the cells of its tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.tables: list[list[list[str]]] = []
        self.in_cell = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.in_cell = False

    def handle_data(self, data):
        self.text += f"{data}\n"
        if self.in_cell:
            self.tables[-1][-1][-1] += data

    def rows(self, *heads: str) -> list[dict[str, str]]:
        """Return the rows of the first table with these headings."""
        table = next(each for each in self.tables if set(heads) <= set(each[0]))
        return [dict(zip(table[0], row, strict=True)) for row in table[1:]]


def answers(run) -> np.ndarray:
    """Which rows of test the stored head gets right, computed anew."""
    bundle, (weight, bias) = run.bundle, run.head()
    rows = bundle.rows_of["test"]
    return (bundle.features[rows] @ weight.T + bias).argmax(axis=1) == bundle.y[rows]


def test_every_number_is_that_of_the_stored_heads(done):
    before, after = done("erm"), done("gsr")
    report = make_report([after], against=before)
    page, bundle = Page(as_html(report)), after.bundle
    right = {"ERM": answers(before), report.after["label"]: answers(after)}
    members = bundle.membership[bundle.rows_of["test"]]

    for place, row in enumerate(page.rows("group", "n (test)")):
        of = members[:, place]
        assert (row["group"], int(row["n (test)"])) == (bundle.group_names[place], of.sum())
        for label, each in right.items():
            shown, low, high = map(float, re.findall(r"[\d.]+", row[label]))
            share = each[of].mean()
            assert shown == pytest.approx(100 * share, abs=0.05001)
            # Wilson's interval holds the shares whose test would not refuse what was seen.
            for end in (low, high):
                spread = 1.96 * np.sqrt(max(end * (100 - end), 0) / of.sum())
                assert abs(end - 100 * share) == pytest.approx(spread, abs=0.3)
    mine, other = right[report.after["label"]], right["ERM"]
    for place, row in enumerate(page.rows("fixed", "broken")):
        of = members[:, place]
        assert int(row["fixed"]) == (mine & ~other & of).sum()
        assert int(row["broken"]) == (other & ~mine & of).sum()

    weights = after.weights()
    rows = page.rows("share of weight")
    for row in rows:
        of = weights["group"] == row["group"]
        own = weights.loc[of, "weight"]
        assert float(row["share of weight"][:-1]) == pytest.approx(100 * own.sum(), abs=0.06)
        size = own.sum() ** 2 / (own**2).sum()
        assert float(row["effective samples"]) == pytest.approx(size, abs=0.51)

    # A notebook shows the same.
    cells = {row[0]: row[1:] for row in Page(after._repr_html_()).tables[0]}
    for place, group in enumerate(bundle.group_names):
        share = mine[members[:, place]].mean()
        assert cells[group][1:] == [f"{share:.1%}", str(members[:, place].sum())]
    cells = {row[0]: list(map(int, row[1:])) for row in Page(bundle._repr_html_()).tables[0][1:]}
    assert np.sum([cells[group] for group in bundle.group_names], axis=0).tolist() == [40] * 5
    assert cells["all rows"] == [40] * 5

    # The card has the same, exactly.
    front = yaml.safe_load(as_card(report).split("---")[1])
    metrics = front["model-index"][0]["results"][0]["metrics"]
    values = {each["type"]: each["value"] for each in metrics}
    assert values["accuracy"] == pytest.approx(mine.mean(), abs=1e-12)
    assert values["worst_group_accuracy"] == pytest.approx(
        min(mine[members[:, g]].mean() for g in range(4)), abs=1e-12
    )


def test_the_heaviest_and_lightest_samples_are_shown_and_can_be_left_out(done):
    run = done()
    report = make_report([run])
    table = sample_table(run, run.values_split).sort_values("weight", kind="stable")
    (facts,) = report.runs
    heavy = [sample.weight for sample in facts.heaviest]
    assert heavy == table["weight"].tolist()[::-1][: len(heavy)]
    light = [sample.weight for sample in facts.lightest]
    assert light == table["weight"].tolist()[: len(light)]
    shown = {sample.sample_id for sample in [*facts.heaviest, *facts.lightest]}
    assert len(shown) == 16
    assert shown <= set(table["sample_id"])
    ids = re.compile(r"\bs\d+\b")
    assert shown <= set(ids.findall(Page(as_html(report)).text))
    private = make_report([run], samples=False)
    assert not ids.findall(as_html(private))
    assert not ids.findall(as_card(private))
    assert private.command.endswith("--no-samples --to report.html")


def test_neither_notes_nor_edits_name_a_sample_that_is_left_out(workspace, write):
    note = "2 inputs could not be read and were left out (first: Ada/s3.jpg: broken (cut))."
    write(workspace, "noted", notes=[note, "Few rows."])
    run = compute(workspace, "noted", "gsr", steps=3)
    refits = open_refits(run)
    ids = run.bundle.samples["sample_id"][refits.position[:2]].astype(str).tolist()
    kept = keep_refit(refits, make_edit(refits, by_sample_id(run, ids), "drop"))
    execute(kept)
    private = make_report([kept], against=run, samples=False)
    for text in (as_html(private), as_card(private)):
        assert "Ada" not in text
        assert not re.search(r"\bs\d+\b", text)
        assert "2 inputs could not be read and were left out." in text
        assert "Few rows." in text
    assert make_report([kept], against=run).manifest.notes[0] == note


@pytest.fixture
def hostile(workspace, write):
    """A bundle in which everything that a user can name is markup; and a run on it."""
    names = [f"{HOSTILE} {number}" for number in range(4)]
    plain = write(workspace, "plain")
    samples = plain.samples.assign(
        sample_id=[f"{HOSTILE} {row}" for row in range(200)],
        text=[f"{HOSTILE} text {row}" for row in range(200)],
    )
    write(
        workspace,
        "hostile",
        samples=samples,
        groups=[Group(name=name, definition=f"{name} of them") for name in names],
        classes=[f"{HOSTILE} cat", f"{HOSTILE} dog"],
        title=HOSTILE,
        source=HOSTILE,
    )
    runs = compute(workspace, "hostile", "erm"), compute(workspace, "hostile", "gsr", steps=3)
    runs[1].rename(HOSTILE[:80])
    return runs, names


def test_names_are_shown_and_obeyed_nowhere(hostile, done):
    (before, after), names = hostile
    report = make_report([after], against=before)
    page = Page(as_html(report))
    usual = {tag for tag, _ in Page(as_html(make_report([done()]))).tags}
    assert {tag for tag, _ in page.tags} <= usual | {"blockquote"}
    assert not usual & {"script", "a", "link", "iframe", "object", "img"}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "href"]
    assert all(name in page.text for name in names)

    text = as_card(report)
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front)["model-index"][0]["results"][0]["dataset"]["name"] == HOSTILE
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    inline = [each for token in tokens for each in token.children or []]
    kinds = {each.type for each in [*tokens, *inline]}
    assert "table_open" in kinds
    assert not kinds & {"link_open", "image", "html_inline", "html_block", "code_inline"}
    # Every cell of a name is one cell, whatever it contains.
    cells = ["".join(c.content for c in token.children or []) for token in tokens]
    assert all(name in cells for name in names)
    for shown in (report, after, after.bundle):
        made = Page(shown._repr_html_())
        assert {tag for tag, _ in made.tags} <= {
            "div",
            "b",
            "table",
            "thead",
            "tbody",
            "tr",
            "th",
            "td",
        }
        assert names[0] in made.text


def test_pictures_are_small_however_large_the_images(workspace, write):
    rng = np.random.default_rng(0)

    def picture(side):
        written = io.BytesIO()
        noise = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(noise).save(written, "PNG")
        return written.getvalue()

    large, small = picture(300), picture(20)
    encoded = [large, small, None, None] * 50
    write(workspace, "photos", thumbnails=encoded)
    report = make_report([compute(workspace, "photos", "gsr", steps=2)])
    shown = [*report.runs[0].heaviest, *report.runs[0].lightest]
    sizes = {}
    for sample in shown:
        row = int(sample.sample_id[1:])
        assert bool(sample.image) == (encoded[row] is not None)
        if sample.image:
            image = Image.open(io.BytesIO(base64.b64decode(sample.image.split(",")[1])))
            sizes[encoded[row] is small] = image.size
            if encoded[row] is small:
                kept = Image.open(io.BytesIO(small)).convert("RGB")
                assert np.array_equal(np.asarray(image.convert("RGB")), np.asarray(kept))
    assert sizes == {True: (20, 20), False: (112, 112)}
    assert len(as_html(report)) < 200_000


def test_the_commands_repeat_the_run_and_the_report(done, tmp_path):
    before, after = done("erm"), done("gsr", seed=3, l2=0.1)
    first, other = tmp_path / "one.html", tmp_path / "two.html"
    place = ["--workspace", str(after.workspace.root)]

    def gsr(*words):
        result = CliRunner().invoke(app, [*words, *place], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    told = json.loads(gsr("report", after.run_id, "--to", str(first), "--json"))
    # ERM on the same data is what a run is held against.
    assert told["runs"] == [before.run_id, after.run_id]
    assert told["bytes"] == first.stat().st_size
    report = make_report([after], against=baseline_of(after))
    words = shlex.split(report.command)
    gsr(*words[1:-1], str(other))
    stamp = re.compile(r"Made \S+ with")
    assert stamp.sub("", first.read_text()) == stamp.sub("", other.read_text())
    done("gsr", seed=4, l2=0.1)
    gsr("report", after.run_id, "--all-seeds", "--to", str(tmp_path / "seeds.html"))
    rows = Page((tmp_path / "seeds.html").read_text()).rows("method", "seeds")
    assert [row["seeds"] for row in rows] == ["all", "3, 4"]
    again = json.loads(gsr(*shlex.split(report.runs[1].commands)[1:], "--json"))
    repeated = open_run(after.workspace, again["run_id"])
    assert np.array_equal(repeated.head()[0], after.head()[0])


def test_what_cannot_be_reported_is_refused_in_one_sentence(done, make, tmp_path):
    erm, gsr, other = done("erm"), done(), done("llr")
    three = make_report([gsr, other], against=erm)
    with pytest.raises(SettingError, match="a model card is of one model, and the report is on 3"):
        write_report(three, tmp_path / "card.md")
    with pytest.raises(SettingError, match=r"ends in '\.pdf'; a report is written as \.html"):
        write_report(three, tmp_path / "report.pdf")
    write_report(three, tmp_path / "report.html")
    with pytest.raises(SettingError, match="exists already; give a file that does not"):
        write_report(three, tmp_path / "report.html")
    assert [file.name for file in tmp_path.glob("*.*")] == ["report.html"]
    with pytest.raises(ComparisonError, match="has no result to compare: it is queued"):
        make_report([make("dfr")])
    with pytest.raises(ComparisonError, match="has the same settings on the same data as the run"):
        make_report([gsr], against=done(seed=1))
    assert baseline_of(erm) is None
