"""A phrase on its way through the pages: samples, a threshold, a slice, words, groups, the map."""

import io
import re
import zlib

import numpy as np
import torch
from PIL import Image
from playwright.sync_api import expect

from gsr_core.clusterings.compute import compute_clustering
from gsr_core.clusterings.request import request_clustering
from gsr_core.curation.slices import find_slice
from gsr_core.features.text_sides import TextSide
from gsr_core.ingest.plan import make_plan
from gsr_core.phrases import embed
from gsr_core.phrases.groups import nearest_phrases
from gsr_core.phrases.search import search
from gsr_core.phrases.vocabulary import name_sets, phrase_similarities
from gsr_core.runs.execute import run as compute_run
from gsr_core.scanning.scan import scan
from tests.tiny import write_tiny

NETWORK = {"name": "open_clip:ViT-B-32"}
PLAN = make_plan(name="worded", reader="coloured-digits", settings={}, backbone=NETWORK)


def vector(text: str) -> torch.Tensor:
    """A direction for each phrase, the same wherever it is computed."""
    return torch.randn(5, generator=torch.manual_seed(zlib.crc32(text.encode())))


SIDE = TextSide(
    encode=lambda texts: torch.stack([vector(text) for text in texts]),
    tokenise=list,
    count=lambda text: len(text.split()),
    most=8,
)


def test_a_phrase_ranks_samples_and_what_it_finds_is_kept(screen, dashboard, monkeypatch):
    place, page = dashboard.workspace, screen.page
    # The pages find the embeddings that are computed here, and open no network themselves.
    monkeypatch.setattr(embed, "text_side_of", lambda _: SIDE)
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(picture, "PNG")
    bundle = write_tiny(
        place,
        "worded",
        recipe={"plan": PLAN.model_dump(mode="json"), "network": NETWORK},
        thumbnails=200 * [picture.getvalue()],
    )
    run = compute_run(place, "worded", "erm", device="cpu")
    words = ["a", "red", "three"]
    found = search(place, bundle, "red three", rows=bundle.rows_of["test"])
    table = name_sets(
        place,
        bundle,
        {"found": found["row"].to_numpy()[:20]},
        among=bundle.rows_of["test"],
        vocabulary=words,
    )
    nearest, _ = nearest_phrases(place, bundle, words[1:])
    request = request_clustering(place, bundle, "kmeans", {"space": "features"})
    clustering = compute_clustering(place, request, device="cpu")
    test = bundle.rows_of["test"]
    sets = {
        name: test[clustering.clusters_of(test) == key] for key, name in clustering.names.items()
    }
    of_clusters = name_sets(place, bundle, sets, among=test, vocabulary=words, most=3)

    screen.open("Samples", bundle="worded", run=run.run_id, split="test")
    screen.enter("Phrase", "red three")
    expect(screen.box("Order")).to_have_value("nearest to the phrase")
    cards = page.locator("[class*='st-key-gallery-card']")
    for place_, row in enumerate(found.head(3).itertuples()):
        expect(cards.nth(place_)).to_contain_text(row.sample_id)
        expect(cards.nth(place_)).to_contain_text(f"similarity {row.similarity:.3f}")
    # Between two samples, so that digits that are not shown do not matter.
    screen.enter("Similarity from", "near")
    expect(page.get_by_text("The least similarity is 'near'; give a number")).to_be_visible()
    limit = float(found["similarity"].iloc[19:21].mean())
    screen.enter("Similarity from", repr(limit))
    expect(screen.keyed("gallery bar")).to_contain_text("of 20 samples")
    expect(page.get_by_text(f"20 of the {len(found)} samples of test have it")).to_be_visible()
    expect(page.get_by_alt_text(re.compile("samples just outside"))).to_have_count(8)
    screen.fill_popover(re.compile("^Save these"), "Name of the slice", "threes", "Save")
    screen.idle()
    kept = find_slice(place, bundle, "threes")
    assert kept.rows.tolist() == sorted(found["row"].head(20))
    assert "similarity to “red three” from" in kept.about

    screen.fill_popover(re.compile("^In words"), "Vocabulary", "\n".join(words), "Find words")
    assert [row["phrase"] for row in screen.table("phrase")] == table["phrase"].tolist()
    page.keyboard.press("Escape")

    form = page.get_by_label("Phrases, one a line", exact=True)
    screen.unfold_popover(re.compile("^Groups by phrases"), form)
    form.fill("red\nthree")
    page.get_by_label("Name of the bundle", exact=True).fill("by-words")
    attribute = "Name of the attribute"
    screen.fill_popover(re.compile("^Groups by phrases"), attribute, "word", "Make the bundle")
    screen.arrive("Setup")
    made = dashboard.bundle("by-words").samples["word"]
    np.testing.assert_array_equal(made, np.array(["red", "three"])[nearest])
    screen.open(
        "Map",
        bundle="worded",
        run=run.run_id,
        split="test",
        phrase="red three",
        space="features",
        layout="pca",
        clusters=clustering.name,
    )
    expect(screen.box("Colour")).to_have_value("similarity to the phrase")
    screen.fill_popover(re.compile("^In words"), "Vocabulary", "\n".join(words), "Find words")
    said = [(row["cluster"], row["phrase"]) for row in screen.table("phrase")]
    assert said == list(zip(of_clusters["set"], of_clusters["phrase"], strict=True))

    screen.click(page.get_by_role("link", name="Ranked by the phrase"))
    screen.arrive("Samples")
    expect(cards.first).to_contain_text(found["sample_id"].iloc[0])

    screen.open("Audit", bundle="worded", classifier=run.run_id, closer="Shortcuts")
    screen.fill_popover(
        re.compile("^Also look at phrases"), "Vocabulary", "\n".join(words), "Look at these"
    )
    screen.idle()
    near = phrase_similarities(place, bundle, words)
    scanned = scan(bundle, run, phrases=near).table
    screen.click(page.get_by_text("Every attribute in numbers"))
    screen.idle()
    numbers = screen.table("goes with")
    assert [(row["attribute"], row["from"]) for row in numbers] == list(
        zip(scanned["attribute"], scanned["source"], strict=True)
    )
    assert set(words) < set(scanned["attribute"])
    screen.sound()
