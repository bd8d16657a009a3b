"""Phrases: embeddings, search, groups and words, on a small network trained here."""

import json
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from filelock import FileLock

from gsr_core import captioned
from gsr_core.captioned import captioned_digits, captions_of, seed_of
from gsr_core.cleaning import free, leftovers
from gsr_core.clusterings.compute import compute_clustering
from gsr_core.clusterings.request import request_clustering
from gsr_core.curation.slices import find_slice, name_slice
from gsr_core.data.bundle import open_bundle
from gsr_core.errors import BundleError, CheckpointError, SettingError
from gsr_core.features import dual_encoder
from gsr_core.features.dual_encoder import train_dual_encoder
from gsr_core.features.text_sides import TextSide
from gsr_core.ingest.importing import import_data
from gsr_core.ingest.plan import make_plan
from gsr_core.ingest.text_side import check_phrases, text_side_of
from gsr_core.phrases import embed
from gsr_core.phrases.embed import embed_phrases, phrases_file
from gsr_core.phrases.groups import nearest_phrases, phrases_as_bundle
from gsr_core.phrases.search import search, similarities
from gsr_core.phrases.vocabulary import (
    name_sets,
    phrase_similarities,
    read_vocabulary,
    sets_without_words,
)
from gsr_core.readers import digits as digits_reader
from gsr_core.runs.execute import run as compute_run
from gsr_core.runs.new_bundle import bundle_of_run
from gsr_core.runs.store import create_run, list_runs
from gsr_core.workspace import Workspace


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The second example, small: a few steps tell red from green, and no more is asked of it."""
    place = Workspace(tmp_path_factory.mktemp("phrases"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits_reader, "DRAWS", 1)
        patch.setattr(dual_encoder, "_BATCH", 32)
        captioned_digits(place, epochs=3)
        yield place


@pytest.fixture
def digits(place):
    return open_bundle(place, "captioned-digits")


def folder_of(place):
    (folder,) = (place.backbones).glob("*seed=0,epochs=3")
    return folder


def network(place):
    """The whole network, opened by open_clip alone."""
    import open_clip

    name = f"local-dir:{folder_of(place)}"
    return open_clip.create_model(name, require_pretrained=True).eval(), open_clip.get_tokenizer(
        name
    )


def test_similarities_are_those_of_open_clip_itself(place, digits):
    from gsr_core.ingest.reopen import inputs_of

    phrases = ["a red three", "green", "a photo of a nine"]
    model, tokenizer = network(place)
    rows = np.arange(0, len(digits), 211)
    inputs = inputs_of(digits)
    pixels = torch.from_numpy(np.stack([inputs.load(row) for row in rows])).permute(0, 3, 1, 2)
    with torch.inference_mode():
        images = model.encode_image((pixels / 255 - 0.5) / 0.5, normalize=True)
        texts = model.encode_text(tokenizer(phrases), normalize=True)
    found = similarities(digits, embed_phrases(place, digits, phrases), rows)
    np.testing.assert_allclose(found, images @ texts.T, atol=1e-5)


def test_the_temperature_is_that_of_the_networks_loss(place, digits):
    model, _ = network(place)
    expected = 1 / model.logit_scale.exp().item()
    assert text_side_of(digits).temperature == pytest.approx(expected)


def test_a_colour_is_found_by_its_name(place, digits):
    found = search(place, digits, " red ", rows=digits.rows_of["test"])
    assert sorted(found["row"]) == digits.rows_of["test"].tolist()
    assert found["similarity"].is_monotonic_decreasing
    assert (found["colour"].head(50) == "red").mean() > 0.95
    assert (found["colour"].tail(50) == "green").mean() > 0.95


def test_a_phrase_is_kept_once_whatever_it_was_asked_with(place, digits, monkeypatch):
    first = embed_phrases(place, digits, ["something  red", "a new one", "something red"])
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(first[0], first[2])
    monkeypatch.setattr(embed, "text_side_of", None)
    alone = embed_phrases(place, digits, ["something red"])
    np.testing.assert_array_equal(alone, first[:1])
    # Only what is missing goes through the network.
    asked = []
    side = TextSide(
        encode=lambda texts: torch.ones(len(texts), digits.manifest.n_features),
        tokenise=lambda texts: asked.extend(texts) or texts,
        count=len,
        most=99,
    )
    monkeypatch.setattr(embed, "text_side_of", lambda _: side)
    mixed = embed_phrases(place, digits, ["another new one", "something red"])
    assert asked == ["another new one"]
    np.testing.assert_array_equal(mixed[1], first[0])


def test_damaged_embeddings_are_computed_again(tmp_path, digits):
    place = Workspace(tmp_path)
    first = embed_phrases(place, digits, ["red", "green"])
    (file,) = place.phrases.glob("*.npz")
    whole = file.read_bytes()
    for damaged in (b"nothing", b"", whole[:-40], whole.replace(first[0].tobytes(), bytes(128))):
        file.write_bytes(damaged)
        np.testing.assert_array_equal(embed_phrases(place, digits, ["red", "green"]), first)
        assert file.read_bytes() == whole


def test_embeddings_stay_as_long_as_a_bundle_has_their_network(tmp_path, digits):
    place = Workspace(tmp_path)
    copy = place.bundles / digits.name
    shutil.copytree(digits.path, copy)
    embed_phrases(place, digits, ["red"])
    file = phrases_file(place, digits)
    os.utime(file, (time.time() - 3600,) * 2)
    assert leftovers(place) == []
    shutil.rmtree(copy)
    assert [each.path for each in leftovers(place)] == [file]
    with FileLock(file.with_name(f".{file.stem}.lock")):
        assert leftovers(place) == []
    assert [each.path for each in free(place)] == [file]


def test_processes_that_embed_at_once_lose_nothing(tmp_path):
    file = tmp_path / "network.npz"
    start = threading.Barrier(4)

    def add(number):
        start.wait()
        for place in range(10):
            embed._add(file, {f"{number} {place}": np.full(3, number, np.float32)})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(4)))
    kept = embed._read(file, 3)
    assert len(kept) == 40
    assert all((vector == int(text.split()[0])).all() for text, vector in kept.items())
    assert embed._read(file, 4) == {}


def test_the_nearest_phrase_becomes_an_attribute_and_groups(place, digits):
    phrases = ["a red digit", "a green digit"]
    similarity = similarities(digits, embed_phrases(place, digits, phrases))
    lead = np.abs(similarity[:, 0] - similarity[:, 1])
    margin = float(np.quantile(lead, 0.2))
    made = phrases_as_bundle(place, digits, "seen", phrases, "by-phrases", margin=margin)
    expected = np.where(similarity[:, 0] >= similarity[:, 1], *phrases)
    assert (
        made.samples["seen"].fillna("").tolist() == np.where(lead < margin, "", expected).tolist()
    )
    known = made.samples[lead >= margin]
    assert (known["seen"] == "a " + known["colour"] + " digit").mean() > 0.95
    assert made.group_names == [f"{c}, {p}" for c in made.manifest.classes for p in phrases]
    np.testing.assert_array_equal(made.membership.any(axis=1), lead >= margin)
    assert (made.path / "features.npy").samefile(digits.path / "features.npy")
    # It is a bundle like any other, phrases included.
    np.testing.assert_array_equal(
        embed_phrases(place, made, phrases), embed_phrases(place, digits, phrases)
    )
    with pytest.raises(SettingError, match="has a column 'colour' already"):
        phrases_as_bundle(place, digits, "colour", phrases, "again")
    with pytest.raises(
        SettingError, match=r"in target, .*; give other phrases or a smaller margin"
    ):
        phrases_as_bundle(place, digits, "seen", phrases, "again", margin=0.999 * lead.max())
    # So near to the phrase that of a class only samples of other splits are nearer.
    target = np.isin(np.arange(len(digits)), digits.rows_of["target"])
    tops = [
        [similarity[(digits.y == label) & part, 0].max() for part in (target, ~target)]
        for label in (0, 1)
    ]
    above = next(float(own + other) / 2 for own, other in tops if other > own)
    with pytest.raises(SettingError, match=r"in target, .*; give another least similarity"):
        phrases_as_bundle(place, digits, "seen", phrases[:1], "again", above=above)
    assert not (place.bundles / "again").exists()
    for several, above in ((["red"], None), (phrases, 0.1)):
        with pytest.raises(SettingError, match="give one phrase with a least similarity"):
            phrases_as_bundle(place, digits, "seen", several, "again", above=above)


def test_one_phrase_splits_by_a_least_similarity(place, digits):
    similarity = similarities(digits, embed_phrases(place, digits, ["red"]))[:, 0]
    above = float(np.median(similarity))
    made = phrases_as_bundle(place, digits, "hue", ["red"], "split", above=above)
    np.testing.assert_array_equal(made.samples["hue"] == "red", similarity >= above, strict=False)
    assert set(made.samples["hue"]) == {"red", "not red"}
    for limit, who in ((1, "no sample has"), (-1, "every sample has")):
        with pytest.raises(SettingError, match=f"is {limit}, which {who}; similarities to 'red'"):
            phrases_as_bundle(place, digits, "hue", ["red"], "nobody", above=limit)
    with pytest.raises(SettingError, match="no sample's nearest phrase leads by more than 0"):
        phrases_as_bundle(place, digits, "hue", ["red", "green"], "nobody", margin=3)
    with pytest.raises(SettingError, match="the attribute has no name"):
        phrases_as_bundle(place, digits, " ", ["red", "green"], "nobody")
    assert not (place.bundles / "nobody").exists()
    assert f"similarity to 'red' is {above:g} or more" in " ".join(made.manifest.notes)


@pytest.mark.parametrize(
    ("attribute", "above", "error", "message"),
    [
        ("hue", 7, SettingError, "the least similarity is 7; allowed are -1 to 1"),
        ("hue", float("nan"), SettingError, "the least similarity is nan"),
        ("loss", 0.5, BundleError, "the nearest phrase cannot become an attribute 'loss'"),
        ("influence: a", 0.5, BundleError, "cannot become an attribute 'influence: a'"),
    ],
)
def test_what_is_not_allowed_is_said_before_the_network_is_opened(
    place, digits, monkeypatch, attribute, above, error, message
):
    monkeypatch.setattr(embed, "text_side_of", None)
    with pytest.raises(error, match=message):
        phrases_as_bundle(place, digits, attribute, ["never looked for"], "again", above=above)


@pytest.mark.parametrize(
    ("phrases", "margin", "message"),
    [
        (["red"], 0, "there is 1 phrase; give two"),
        (["red", " red"], 0, "'red' is given twice"),
        (["red", "green"], -1, "margin is -1"),
    ],
)
def test_wrong_phrases_for_groups_are_refused(place, digits, phrases, margin, message):
    with pytest.raises(SettingError, match=message):
        nearest_phrases(place, digits, phrases, margin=margin)


def test_a_set_is_named_by_what_the_others_lack(place, digits):
    test = digits.rows_of["test"]
    colour = digits.samples["colour"].to_numpy()
    sets = {name: test[colour[test] == name] for name in ("red", "green")}
    words = ["a green digit", "a digit", "a red digit"]
    table = name_sets(place, digits, {**sets, "all": test}, among=test, vocabulary=words, most=2)
    assert table.groupby("set")["phrase"].first().to_dict() == {
        "red": "a red digit",
        "green": "a green digit",
    }
    cosines = similarities(digits, embed_phrases(place, digits, words), test)[:, 2].astype(float)
    inside = np.isin(test, sets["red"])
    score = (cosines[inside].mean() - cosines[~inside].mean()) / cosines.std()
    found = table[(table["set"] == "red") & (table["phrase"] == "a red digit")]
    assert found["score"].item() == pytest.approx(score, rel=1e-4)
    assert found["samples"].item() == inside.sum()


def test_a_set_with_nothing_beside_it_says_so(place, digits):
    val, test = digits.rows_of["val"], digits.rows_of["test"]
    sets = {"elsewhere": val, "half": test[::2], "all": np.concatenate([test, val])}
    assert sets_without_words(digits, sets, test) == {
        "elsewhere": f"none of the {len(test):,} samples looked at is in it",
        "all": f"all {len(test):,} samples looked at are in it, so that there are no others to "
        "compare with",
    }
    named = name_sets(place, digits, sets, among=test, vocabulary=["red"])
    assert named["set"].tolist() == ["half"]


def test_a_vocabulary_is_a_text_file(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("# mine\n\n a  dog \na cat\na dog\n")
    assert read_vocabulary(file) == ["a dog", "a cat"]
    assert len(read_vocabulary()) > 100
    file.write_text("# mine\n")
    with pytest.raises(SettingError, match="has 0 phrases; give 1 to"):
        read_vocabulary(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingError, match="cannot be read as text"):
        read_vocabulary(file)
    with pytest.raises(SettingError, match="there is no file"):
        read_vocabulary(tmp_path / "none")


def test_a_scan_looks_at_the_phrases_of_a_vocabulary(place, digits, call, tmp_path):
    vocabulary = ["red", "Digit 0-4", "a  cow", "green", "red"]
    near = phrase_similarities(place, digits, vocabulary)
    # Each once, and no name of a class.
    assert list(near) == ["red", "a cow", "green"]
    alone = similarities(digits, embed_phrases(place, digits, ["green"]))[:, 0]
    np.testing.assert_allclose(near["green"], alone, atol=1e-6)
    file = tmp_path / "words.txt"
    file.write_text("\n".join(vocabulary))
    ended = call(
        place, "scan", digits.name, "--vocabulary", file, "--by", "red", "--groups", "reds",
        "--json",
    )  # fmt: skip
    found = {each["attribute"]: each for each in json.loads(ended.out)["attributes"]}
    # The colour goes with the class, and so do its names.
    assert {found[name]["source"] for name in near} == {"phrase"}
    assert found["red"]["association"] > 0.7
    made = open_bundle(place, "reds")
    nearer = near["red"] > near["red"].median()
    assert (made.samples["colour"][nearer] == "red").mean() > 0.95
    np.testing.assert_array_equal(
        ["not red" not in made.group_names[g] for g in made.membership.argmax(axis=1)], nearer
    )
    for wrong, message in (
        (["Digit 0-4"], "has 0 phrases that are no names of classes; a scan takes 1 to 500"),
        ([f"a{place}" for place in range(501)], "has 501 phrases"),
    ):
        with pytest.raises(SettingError, match=message):
            phrase_similarities(place, digits, wrong)


def test_words_for_too_few_classes_leave_no_run(place, digits):
    before = list_runs(place)
    with pytest.raises(SettingError, match="class_words names 1 of 2 classes"):
        create_run(place, digits.name, "text_projection", {"class_words": "one"}, device="cpu")
    assert list_runs(place) == before


def test_phrases_that_say_nothing_or_too_much_are_refused(place, digits):
    with pytest.raises(SettingError, match="the phrase is empty"):
        search(place, digits, "  ")
    with pytest.raises(SettingError, match="has 22 tokens, but the network reads 16"):
        search(place, digits, "red " * 20)
    assert len(embed_phrases(place, digits, ["red " * 14])) == 1


def test_weights_that_are_gone_or_others_are_refused(place, digits, tmp_path):
    folder = folder_of(place)
    weights = folder / "open_clip_model.safetensors"
    kept = weights.read_bytes()
    try:
        weights.unlink()
        with pytest.raises(CheckpointError, match=r"takes no phrases now: .*could not be loaded"):
            text_side_of(digits)
        shutil.rmtree(tmp_path / "other", ignore_errors=True)
        images = np.zeros((2, 32, 32, 3), np.uint8)
        other = train_dual_encoder(images, [["red"], ["green"]], tmp_path / "other", epochs=1)
        shutil.copy(other / weights.name, weights)
        with pytest.raises(CheckpointError, match="are not those that gave the features"):
            text_side_of(digits)
    finally:
        weights.write_bytes(kept)
    text_side_of(digits)


def test_the_same_seed_trains_the_same_network(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    captions = [captions_of(digit, "red") for digit in range(8)]
    state = torch.random.get_rng_state()
    files = [
        train_dual_encoder(images, captions, tmp_path / name, epochs=2, seed=seed)
        / "open_clip_model.safetensors"
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    one, same, other = (file.read_bytes() for file in files)
    assert one == same != other
    assert torch.equal(torch.random.get_rng_state(), state)
    with pytest.raises(SettingError, match="epochs is 0"):
        train_dual_encoder(images, captions, tmp_path / "d", epochs=0)
    with pytest.raises(SettingError, match="8 images and 1 lists"):
        train_dual_encoder(images, captions[:1], tmp_path / "d", epochs=1)
    assert not (tmp_path / "d").exists()


def test_the_example_replaces_no_network_and_trains_none_twice(place, digits, monkeypatch):
    monkeypatch.setattr(digits_reader, "DRAWS", 1)
    monkeypatch.setattr(dual_encoder, "_BATCH", 32)
    folder = folder_of(place)
    weights = folder / "open_clip_model.safetensors"
    before = weights.stat()
    again = captioned_digits(place, epochs=3, name="again-by-captions")
    assert again.manifest.recipe["network"]["name"].endswith(str(folder))
    np.testing.assert_array_equal(again.features, digits.features)
    assert weights.stat() == before
    # One that is made anew and breaks off leaves the bundle that was there with its network.
    with monkeypatch.context() as patch:
        patch.setattr(captioned, "import_data", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            captioned_digits(place, seed=1, epochs=1, overwrite=True)
    assert seed_of(open_bundle(place, digits.name)) == 0
    text_side_of(open_bundle(place, digits.name))
    # Nor does an import with --train of any name write where it is.
    with pytest.raises(BundleError, match="is not allowed"):
        captioned_digits(place, epochs=3, name=folder.name)


def test_the_example_says_its_seed(digits):
    assert seed_of(digits) == 0
    assert digits.manifest.attributes == ["colour", "digit", "source"]
    assert digits.manifest.backbone["architecture"].startswith("open_clip:local-dir:")


def test_networks_without_texts_are_refused(workspace, write):
    with pytest.raises(SettingError, match="does not say how it was imported"):
        check_phrases(open_bundle(workspace, "tiny"))
    np.savez(
        workspace.root / "arrays.npz",
        features=np.eye(8),
        y=4 * [0, 1],
        group=4 * [0, 1],
        split=np.repeat(["heldout", "target", "val", "test"], 2),
    )
    settings = {"path": str(workspace.root / "arrays.npz")}
    ready = import_data(workspace, make_plan(name="ready", reader="npz", settings=settings))
    with pytest.raises(SettingError, match="imported as ready features"):
        check_phrases(ready)
    plan = make_plan(name="seen", reader="npz", settings=settings, backbone={"name": "simconv1"})
    recipe = {"plan": plan.model_dump(mode="json"), "network": {"name": "simconv1"}}
    seen = write(workspace, "seen", recipe=recipe)
    with pytest.raises(SettingError, match="the network of bundle 'seen', simconv1, takes no phr"):
        search(workspace, seen, "red")
    tuned = make_plan(
        name="tuned",
        reader="npz",
        settings=settings,
        backbone={"name": "open_clip:ViT-B-32"},
        training={"preset": "quick"},
    )
    recipe = {"plan": tuned.model_dump(mode="json"), "network": {"name": "open_clip:ViT-B-32"}}
    with pytest.raises(SettingError, match="which left its text side behind"):
        check_phrases(write(workspace, "tuned", recipe=recipe))


def test_the_command_line_names_clusters_of_its_bundle_alone(place, digits, call, write):
    other = write(place, "other")
    for bundle in (digits, other):
        settings = {"space": "features", "clusters": 2}
        request = request_clustering(place, bundle, "kmeans", settings)
        clustering = compute_clustering(place, request, device="cpu")
        name = clustering.names[0]
        ended = call(place, "words", digits.name, "--clusters", request.name, "--json")
        if bundle is other:
            assert ended.code == 2
            assert "is of other data, of bundle 'other' as it was; choose one of" in ended.err
            return
        rows = np.flatnonzero(clustering.clusters_of(np.arange(len(digits))) == 0)
        found = next(each for each in json.loads(ended.out)["names"] if each["set"] == name)
        assert found["samples"] == len(rows)
        # A slice of the same name is another set.
        name_slice(place, digits, name, rows[:9], "some")
        twice = call(place, "words", digits.name, "--clusters", request.name, "--slice", name)
        assert twice.code == 2
        assert f"'{name}' is a slice and a cluster of {request.name}; name them one" in twice.err


def test_a_network_that_a_run_trained_further_takes_no_phrases(place, digits):
    settings = {"steps": 1, "optimiser": "sgd", "batch_size": 256}
    run = compute_run(place, digits.name, "network_erm", **settings, device="cpu")
    moved = bundle_of_run(run, "moved")
    assert moved.manifest.recipe["plan"] == digits.manifest.recipe["plan"]
    with pytest.raises(SettingError, match="was trained further by a run, which left its text"):
        search(place, moved, "red")
    check_phrases(digits)


def test_a_bundle_that_says_no_more_of_its_network_than_the_name_takes_groups(
    workspace, write, monkeypatch
):
    network = {"name": "open_clip:ViT-B-32"}
    plan = make_plan(name="bare", reader="coloured-digits", settings={}, backbone=network)
    bundle = write(workspace, "bare", recipe={"plan": plan.model_dump(mode="json")})
    side = TextSide(
        encode=lambda texts: torch.eye(5)[[0 if text == "dog" else 1 for text in texts]],
        tokenise=list,
        count=len,
        most=20,
    )
    monkeypatch.setattr(embed, "text_side_of", lambda _: side)
    made = phrases_as_bundle(workspace, bundle, "seen", ["dog", "cat"], "by-phrases")
    assert any("by open_clip:ViT-B-32: no label" in note for note in made.manifest.notes)


def test_the_command_line_finds_and_keeps(place, digits, call):
    expected = search(place, digits, "green", rows=digits.rows_of["val"])
    limit = float(expected["similarity"].iloc[80])
    ended = call(
        place, "search", digits.name, "green", "--split", "val", "--top", 3,
        "--above", repr(limit), "--save-slice", "greens", "--json",
    )  # fmt: skip
    assert ended.code == 0
    found = json.loads(ended.out)
    assert (found["looked_at"], found["passing"], found["slice"]) == (300, 81, "greens")
    assert [each["row"] for each in found["samples"]] == expected["row"].head(3).tolist()
    kept = find_slice(place, digits, "greens")
    assert kept.rows.tolist() == sorted(expected["row"].head(81))
    assert kept.about.startswith("“green”, val, similarity ")
    table = call(place, "search", digits.name, "green", "--top", 2, "--save-slice", "two")
    assert len(table.out.splitlines()) == 4
    assert len(find_slice(place, digits, "two").rows) == 2

    made = call(
        place, "zeroshot", digits.name, "red", "green", "--attribute", "hue", "--name", "hued"
    )
    assert made.code == 0
    assert open_bundle(place, "hued").manifest.attributes[-1] == "hue"
    named = call(place, "words", digits.name, "--slice", "greens", "--most", 2, "--json")
    names = json.loads(named.out)["names"]
    assert [(each["set"], each["samples"]) for each in names] == 2 * [("greens", 81)]
    groups = call(place, "words", digits.name)
    assert "digit 0-4" in groups.out or "0-4, red" in groups.out
    elsewhere = call(place, "words", digits.name, "--slice", "greens", "--split", "test")
    assert (elsewhere.code, elsewhere.out) == (0, "")
    assert "'greens' has no words: none of the" in elsewhere.err

    for arguments, message in (
        (("search", digits.name, " "), "the phrase is empty"),
        (("search", digits.name, "red", "--above", "7"), "the least similarity is 7; allowed are"),
        (("search", digits.name, "red", "--split", "tset"), "has no split 'tset'; its splits are"),
        (("words", digits.name, "--slice", "green"), "did you mean 'greens'?"),
    ):
        ended = call(place, *arguments)
        assert ended.code == 2
        assert message in ended.err
        assert len(ended.err.splitlines()) == 1
