"""Runs on images of which the network says where it looks: maps, AIoU, and what is refused."""

import csv
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import gsr_core as gsr
from gsr_core.data.bundle import open_bundle
from gsr_core.data.bundle_writing import rewrite_bundle
from gsr_core.data.inputs import Texts
from gsr_core.data.source import Roles, Source
from gsr_core.errors import (
    BundleError,
    ComparisonError,
    InputError,
    RunStateError,
    SettingError,
)
from gsr_core.features.backbones import Backbone
from gsr_core.features.preprocessing import TextPreprocessing
from gsr_core.ingest.importing import import_data
from gsr_core.ingest.plan import make_plan
from gsr_core.looking import measure
from gsr_core.looking.looker import Looker, look, open_looker
from gsr_core.looking.measure import measure_overlaps
from gsr_core.looking.regions import choose_region, open_regions, region_columns
from gsr_core.runs.behind import Behind
from gsr_core.runs.execute import run
from gsr_core.runs.store import create_run
from gsr_core.workspace import Workspace

SIZE = 16
COLOURS = ("green", "red")
UPPER, LOWER = f"0, 0, {SIZE}, {SIZE // 2}", f"0 {SIZE // 2} {SIZE} {SIZE}"


def draw(folder, each=4):
    """Images whose upper half has the class's colour and whose lower one leads astray."""
    folder.mkdir()
    rows = []
    for split, conflicting in (("train", 1), ("validation", each), ("test", each)):
        for y in range(2):
            for agrees, count in (
                (True, each if conflicting == each else 12),
                (False, conflicting),
            ):
                for n in range(count):
                    lower = y if agrees else 1 - y
                    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
                    pixels[: SIZE // 2, :, 1 - y] = 150 + 5 * n
                    pixels[SIZE // 2 :, :, 1 - lower] = 160 + 5 * n
                    name = f"{split}-{y}-{lower}-{n}.png"
                    Image.fromarray(pixels).save(folder / name)
                    mask = np.zeros((SIZE, SIZE), np.uint8)
                    mask[: SIZE // 2] = 1
                    Image.fromarray(mask).save(folder / f"mask-{name}")
                    rows.append([name, COLOURS[y], COLOURS[lower], split, UPPER, LOWER])
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "lower", "split", "object", "background", "mask"])
        writer.writerows([*row, f"mask-{row[0]}"] for row in rows)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = draw(tmp_path_factory.mktemp("halves") / "images")
    workspace = Workspace(folder.parent / "workspace")
    plan = make_plan(
        name="halves",
        reader="images",
        settings={"path": str(folder)},
        roles={"label": "label", "attributes": ["lower"], "split": {"heldout": 1.0}},
        backbone={
            "name": "own:tests.looking.halves:make",
            "trust": True,
            "overrides": {"image_size": SIZE, "resize": SIZE, "mean": 0, "std": 1},
        },
        extraction={"device": "cpu", "workers": 0},
    )
    import_data(workspace, plan)
    return workspace


@pytest.fixture(scope="module")
def before(place):
    return run(place, "halves", "erm", device="cpu")


@pytest.fixture(scope="module")
def after(place):
    """A head of the upper half alone: what the balanced rows of val ask for."""
    return run(place, "halves", "dfr", device="cpu")


@pytest.fixture(scope="module")
def looker(before):
    return open_looker(before, device="cpu")


@pytest.fixture
def bundle(place):
    return open_bundle(place, "halves")


def agrees(bundle, rows):
    lower = bundle.column("lower").to_numpy(zero_copy_only=False)[rows]
    return lower == np.array(bundle.manifest.classes)[bundle.y[rows]]


def test_the_map_of_a_sample_adds_up_to_what_the_head_says_of_it(bundle, before, after, looker):
    row = int(bundle.rows_of["test"][3])
    for one in (before, after):
        found = look(one, row, looker)
        weight, bias = one.head()
        logits = weight @ bundle.features[row] + bias
        np.testing.assert_allclose(found.scores, logits - logits.mean(), atol=1e-4)
        assert found.pooled
        assert found.seen.shape == (SIZE, SIZE, 3)
        np.testing.assert_allclose(found.drawn(SIZE), found.maps, atol=1e-6)
        assert found.drawn(6).shape == (2, 6, 6)
        assert found.drawn(99).shape == (2, SIZE, SIZE)
    assert not look(before, row, looker).maps[:, : SIZE // 2].any()


def test_before_the_network_looks_at_the_wrong_half_and_after_at_the_right_one(
    bundle, before, after, looker
):
    def measured(column):
        return measure_overlaps(
            [before, after], column=column, bundle=bundle, open_network=lambda _: looker
        )

    on_object = measured("object")
    for one, found in on_object.samples.groupby("run"):
        aligned = agrees(bundle, found["row"].to_numpy())
        if one == after.run_id:
            assert found["aiou"].min() > 0.9
        else:
            # No map lies on the upper half: neither class is seen there.
            assert (found["aiou"] == 0.5).all()
            assert aligned.any()
            assert (~aligned).any()
    below = measured("background").samples
    below = below[below["run"] == before.run_id]
    aligned = agrees(bundle, below["row"].to_numpy())
    # The lower half speaks for the class that its colour has.
    np.testing.assert_allclose(below["aiou"], aligned.astype(float))
    assert set(below["rival"] + below["y"]) == {1}

    # Both groups whose colours differ are wrong without exception; the first one is named.
    assert on_object.worst_group == "green, red"
    totals = on_object.totals.set_index("run")
    assert totals.loc[before.run_id, "worst"] == 0.5
    assert totals.loc[after.run_id, "lowest"] > 0.9
    groups = on_object.groups.set_index(["run", "group"])
    for name in bundle.group_names:
        own = on_object.samples.set_index("run")
        inside = bundle.membership[:, bundle.group_names.index(name)]
        member = [row for row in sorted(set(on_object.samples["row"])) if inside[row]]
        change = [
            own.loc[each.run_id].set_index("row")["aiou"].loc[member] for each in (before, after)
        ]
        moved = change[1] - change[0]
        row = groups.loc[(after.run_id, name)]
        assert row["n"] == len(moved) == 4
        assert row["change"] == pytest.approx(moved.mean())
        half = 3.182446 * moved.std() / 2
        assert row["change_high"] == pytest.approx(min(moved.mean() + half, 1), abs=1e-5)
    mean = totals.loc[after.run_id, "mean"]
    assert mean == pytest.approx(on_object.samples.query("run == @after.run_id")["aiou"].mean())


def test_masks_are_read_as_boxes_are_and_what_was_measured_is_kept(
    bundle, before, looker, monkeypatch
):
    once = {"bundle": bundle, "open_network": lambda _: looker}
    by_box = measure_overlaps([before], column="object", **once)
    by_mask = measure_overlaps([before], column="mask", **once)
    np.testing.assert_allclose(by_mask.samples["aiou"], by_box.samples["aiou"])

    def refuse(_):
        raise AssertionError("the network was opened again")

    again = measure_overlaps([before], column="mask", bundle=bundle, open_network=refuse)
    assert again.samples.equals(by_mask.samples)
    with pytest.raises(SettingError, match=f"'gsr look {before.run_id} --split val --region mask"):
        measure_overlaps([before], "val", column="mask", longest=0.0, **once)
    few = measure_overlaps([before], column="object", per_group=2, **once)
    assert few.groups["n"].tolist() == [2, 2, 2, 2]
    # In other batches the maps are the same.
    shutil.rmtree(before.path / "looks")
    monkeypatch.setattr(measure, "_BATCH", 3)
    parts = measure_overlaps([before], column="mask", **once)
    np.testing.assert_allclose(parts.samples["aiou"], by_mask.samples["aiou"])


def test_the_time_of_grad_cam_grows_with_the_heads(bundle, before, after, looker):
    layer = looker.layer
    assert layer.pooled
    # Eight images at a second each.
    for pooled, said in ((True, "8 s"), (False, "16 s")):
        slow = replace(looker, seconds=1.0, layer=replace(layer, pooled=pooled))
        with pytest.raises(SettingError, match=f"this would take about {said}"):
            measure_overlaps(
                [before, after],
                "val",
                column="background",
                bundle=bundle,
                open_network=lambda _, slow=slow: slow,
                longest=0.0,
            )


def test_runs_before_and_after_new_groups_are_measured_as_each_alone(place, bundle, before, looker):
    # Every second image of a class, in each split.
    second = bundle.samples.groupby(["split", "y"]).cumcount() % 2
    near = pd.DataFrame({"a dot": second + 1e-3 * np.arange(len(bundle))})
    made = gsr.groups_by(place, bundle, "by-dot", "a dot", phrases=near)
    repair = run(place, "by-dot", "dfr", device="cpu")
    once = {"column": "object", "open_network": lambda _: looker}
    alone = {one.run_id: measure_overlaps([one], **once) for one in (before, repair)}
    for one in (before, repair):
        shutil.rmtree(one.path / "looks")
    opened = []
    both = measure_overlaps(
        [before, repair], column="object", open_network=lambda one: opened.append(one) or looker
    )
    assert len(opened) == 1
    # The groups are those of the repair.
    assert both.groups["group"].unique().tolist() == made.group_names != bundle.group_names
    totals = both.totals.set_index("run")
    for name, found in alone.items():
        own = both.samples[both.samples["run"] == name].set_index("row")
        assert sorted(own.index) == made.rows_of["test"].tolist()
        # In other batches, rounding differs.
        pd.testing.assert_frame_equal(own, found.samples.set_index("row"))
        assert totals.loc[name, "mean"] == pytest.approx(found.totals["mean"][0])
    pd.testing.assert_frame_equal(
        both.groups[both.groups["run"] == repair.run_id].iloc[:, :7].reset_index(drop=True),
        alone[repair.run_id].groups.iloc[:, :7],
    )
    # Of fewer samples, what was kept is that of the groups it was drawn by.
    few = {"per_group": 2, **once}
    drawn = [measure_overlaps([one], **few).samples["row"].tolist() for one in (before, repair)]
    assert drawn[0] != drawn[1]
    found = measure_overlaps([before, repair], **few).samples
    for _, part in found.groupby("run"):
        assert part["row"].tolist() == drawn[1]
    expected = both.samples.merge(found[["run", "row"]])["aiou"]
    np.testing.assert_allclose(found["aiou"], expected, atol=1e-6)


def test_bundles_of_other_samples_are_refused(place, bundle, before):
    splits = bundle.samples["split"].replace({"heldout": "train"})
    rewrite_bundle(
        bundle,
        place.bundles / "moved",
        bundle.samples.assign(split=splits),
        bundle.membership,
        source="",
        note="",
    )
    moved = run(place, "moved", "erm", device="cpu")
    with pytest.raises(ComparisonError, match="'halves' and 'moved' differ in their samples"):
        measure_overlaps([before, moved], column="object")


def source_of(looker, **columns):
    source = looker.behind.source
    table = source.table.assign(**columns)
    return Source(table=table, inputs=source.inputs, roles=Roles(), origin="")


def test_columns_of_boxes_and_masks_are_found(bundle, looker):
    source = looker.behind.source
    assert region_columns(source) == ["object", "background", "mask"]
    names = bundle.column("sample_id").to_pylist()
    with pytest.raises(SettingError, match="columns with boxes or masks are object, background"):
        open_regions(source, names)
    with pytest.raises(SettingError, match=r"no column 'objct' \(did you mean 'object'\?\)"):
        open_regions(source, names, "objct")
    with pytest.raises(SettingError, match=r"column 'lower' has '(red|green)' for the sample"):
        open_regions(source, names, "lower")
    bare = Source(source.table[["path"]], source.inputs, Roles(), "")
    with pytest.raises(SettingError, match="the data has no column of boxes"):
        open_regions(bare, names)
    # The layout's own column goes first, if it has what it should.
    assert choose_region(replace(source, region="mask")) == "mask"
    for found, message in (
        (source, "columns with boxes or masks are object, background, mask"),
        (bare, "the data has no column of boxes"),
    ):
        with pytest.raises(SettingError, match=message):
            choose_region(replace(found, region="gone"))
    cells = [["[1, 2, 5, 4]", "", None, "1;2;5;4"][row % 4] for row in range(len(bundle))]
    found = open_regions(source_of(looker, object=cells), names, "object")
    assert found.known[:4].tolist() == [True, False, False, True]
    inside = found.at(0, SIZE, SIZE)
    assert np.argwhere(inside).min(axis=0).tolist() == [2, 1]
    assert np.argwhere(inside).max(axis=0).tolist() == [3, 4]


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ("0 0 17 4", "is 0, 0, 17, 4, and its image has 16 x 16 pixels"),
        ("5 0 5 4", "expected x0 < x1 and y0 < y1"),
        ("-1 0 5 4", "inside the image: correct it, or leave the cell empty"),
        ("0.1 0.1 0.2 0.2", "holds the middle of no pixel"),
    ],
)
def test_a_box_outside_its_image_is_refused(bundle, looker, box, message):
    names = bundle.column("sample_id").to_pylist()
    regions = open_regions(source_of(looker, object=box), names, "object")
    with pytest.raises(InputError, match=message):
        regions.at(0, SIZE, SIZE)


def test_a_mask_that_does_not_fit_its_image_is_refused(bundle, looker, tmp_path):
    names = bundle.column("sample_id").to_pylist()
    folder = looker.behind.source.inputs.folder
    for name, pixels in (("small", np.ones((8, 16))), ("black", np.zeros((16, 16)))):
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}.png")
    for mask, message in (
        ("small.png", "has 16 x 8 pixels, and its image 16 x 16; bring them to one size"),
        ("black.png", "is black, so that there is no object"),
    ):
        regions = open_regions(source_of(looker, mask=mask), names, "mask")
        with pytest.raises(InputError, match=message):
            regions.at(0, SIZE, SIZE)
    cells = ["small.png"] + ["gone.png"] * (len(bundle) - 1)
    regions = open_regions(source_of(looker, mask=cells), names, "mask")
    with pytest.raises(InputError, match="cannot be read: there is no such file"):
        regions.at(1, SIZE, SIZE)


class Bag(torch.nn.Module):
    """Counts five words."""

    def forward(self, batch):
        return batch["counts"]


class Counted(TextPreprocessing, frozen=True):
    def collate(self, items):
        texts = [item if isinstance(item, str) else " ".join(item) for item in items]
        return {
            "counts": torch.tensor([[float(t.split().count(w)) for w in "abcde"] for t in texts])
        }


@pytest.mark.parametrize("pair", [False, True])
def test_words_of_a_text_get_what_the_head_gives_their_features(done, monkeypatch, pair):
    one = done("erm")
    texts = Texts(["a b b z e"] * 2, ["c a"] * 2 if pair else None)
    prepare = Counted(tokenizer="none", max_length=8)
    backbone = Backbone(Bag(), None, prepare, {"n_features": 5})
    source = Source(pd.DataFrame(), texts, Roles(), "")
    behind = Behind(None, backbone, source, np.arange(1), np.zeros((1, 5)))
    found = look(one, 1, Looker(behind, None, 0.0, torch.device("cpu")))
    weight, _ = one.head()
    worth = dict(zip("abcde", (weight - weight.mean(axis=0)).T, strict=True))
    assert len(found.pieces) == 1 + pair
    for pieces, effects in zip(found.pieces, found.effects, strict=True):
        expected = [worth.get(piece.strip(), np.zeros(2)) for piece in pieces]
        np.testing.assert_allclose(effects.T, expected, atol=1e-5)
    assert found.strongest(0) == max(np.abs(each[0]).max() for each in found.effects)
    monkeypatch.setattr(measure, "source_of", lambda _: source)
    with pytest.raises(SettingError, match=r"are texts, .* by gsr look --sample$"):
        measure_overlaps([one])


def test_what_cannot_be_looked_into_says_why(place, before, make, done):
    with pytest.raises(SettingError, match="does not say how it was imported"):
        open_looker(done("erm"))
    with pytest.raises(RunStateError, match="no head yet"):
        measure_overlaps([make("erm")])
    with pytest.raises(ComparisonError, match="several bundles"):
        measure_overlaps([before, done("erm")])
    row = open_bundle(place, "halves").rows_of["test"][0]
    with pytest.raises(RunStateError, match="no head yet"):
        look(create_run(place, "halves", "erm", device="cpu"), int(row))


def test_the_command_says_what_the_library_does(place, before, after, call, monkeypatch):
    found = measure_overlaps([before, after], column="object")
    outcome = call(place, "look", before.run_id, after.run_id, "--region", "object", "--json")
    assert outcome.code == 0
    said = json.loads(outcome.out)
    assert said["worst_group"] == found.worst_group
    assert [row["aiou"] for row in said["groups"]] == found.groups["aiou"].tolist()
    assert said["totals"] == found.totals.to_dict("records")
    shown = call(place, "look", before.run_id, after.run_id, "--region", "object").out
    assert "objects from column 'object'" in shown
    worst = rf"worst by accuracy before: green, red +{before.run_id} +0\.500 *\n"
    assert re.search(rf"{worst} +{after.run_id} +(0\.9\d\d|1\.000) +\+0\.[45]\d\d", shown)

    # Of any split, those of the weights too.
    weighted = ["--split", "heldout", "--region", "object", "--per-group", 1, "--json"]
    outcome = json.loads(call(place, "look", before.run_id, *weighted).out)
    assert outcome["split"] == "heldout"
    assert [row["n"] for row in outcome["groups"]] == [1, 1, 1, 1]

    name = open_bundle(place, "halves").column("sample_id")[0].as_py()
    one = json.loads(call(place, "look", before.run_id, "--sample", name, "--json").out)
    maps = look(before, 0).maps
    np.testing.assert_allclose(one["runs"][0]["maps"]["green"], maps[0])
    opened = []

    def opening(*given, **named):
        opened.append(given)
        return open_looker(*given, **named)

    monkeypatch.setattr("gsr_core.looking.looker.open_looker", opening)
    both = call(place, "look", before.run_id, after.run_id, "--sample", name, "--json")
    found = [each["maps"]["green"] for each in json.loads(both.out)["runs"]]
    assert len(opened) == 1  # One network for both.
    np.testing.assert_allclose(found, [maps[0], look(after, 0).maps[0]])
    lines = call(place, "look", before.run_id, "--sample", name).out.splitlines()
    assert len(lines) == 1 + 2 * (1 + SIZE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "columns with boxes or masks are object, background, mask: name one"),
        (["--region", "colour"], "the data has no column 'colour'"),
        (["--split", "train"], "no split 'train'; its splits are heldout, target, val"),
        (["--sample", "nobody"], "there is no sample 'nobody' in bundle 'halves'"),
        (["--sample", "a", "--region", "object"], "leave one of them out"),
        (["--device", "tpu"], "device 'tpu' is not a device name"),
    ],
)
def test_what_the_command_refuses_is_one_sentence(place, before, call, options, message):
    column = ["--region", "object", "--per-group", 1] if options[:1] == ["--device"] else []
    outcome = call(place, "look", before.run_id, *options, *column)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_an_input_that_has_changed_is_refused(place, before):
    bundle = open_bundle(place, "halves")
    folder = open_looker(before, bundle).behind.source.inputs.folder
    file = folder / bundle.column("path")[0].as_py()
    kept = file.read_bytes()
    Image.fromarray(np.full((SIZE, SIZE, 3), 255, np.uint8)).save(file)
    try:
        with pytest.raises(BundleError, match="no longer give the stored features"):
            open_looker(before, bundle)
    finally:
        file.write_bytes(kept)
