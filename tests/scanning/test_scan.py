"""The scan: what it ranks first, how often it is wrong, what it keeps, and the groups it makes."""

import io
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import gsr_core as gsr
from gsr_core.data.bundle import open_bundle
from gsr_core.data.groups import Group
from gsr_core.errors import BundleError, RunStateError, SettingError
from gsr_core.runs.samples import sample_table
from gsr_core.scanning.measured import NOTE, load_measured, measured_file
from gsr_core.workspace import Workspace
from tests.squares import import_squares


@pytest.fixture
def predicting(workspace, write):
    """A bundle, 200 rows a split, whose own head predicts what it is told; and its run."""

    def predicting(right, columns, name="told"):
        y = np.tile([0, 1], 500)
        said = np.where(right, y, 1 - y)
        samples = pd.DataFrame(
            {
                "sample_id": [f"s{row}" for row in range(1000)],
                "split": np.repeat(["train", "heldout", "target", "val", "test"], 200),
                "y": y,
            }
        ).assign(**columns)
        bundle = write(
            workspace,
            name,
            samples=samples,
            membership=y[:, None] == np.arange(2),
            groups=[Group(name=each, definition=each) for each in ("a", "b")],
            features=np.eye(2, dtype=np.float32)[said],
            head=(np.eye(2, dtype=np.float32), np.zeros(2, np.float32)),
        )
        return bundle, gsr.run(workspace, name, "erm", device="cpu")

    return predicting


def planted(seed, *, towards):
    """Return right (n,), columns: `planted` goes with class 1 in train, 49 others with nothing."""
    rng = np.random.default_rng(seed)
    y, learnt = np.tile([0, 1], 500), np.arange(1000) < 400
    agrees = rng.random(1000) < np.where(learnt, 0.9 if towards else 0.1, 0.5)
    value = np.where(agrees, y, 1 - y)
    # The head is right 9 times in 10 where the attribute goes with the class, else 3 times.
    right = rng.random(1000) < np.where(value == y, 0.9, 0.3)
    others = {f"other {number}": rng.integers(0, 2 + number % 3, 1000) for number in range(49)}
    order = rng.permutation(50)
    columns = list({**others, "planted": value}.items())
    return right, {columns[place][0]: columns[place][1] for place in order}


def test_a_planted_attribute_is_first_of_fifty(predicting):
    right, columns = planted(0, towards=True)
    bundle, run = predicting(right, columns)
    found = gsr.scan(bundle, run)
    first = found.table.iloc[0]
    assert len(found.table) == 50
    assert (first["attribute"], first["verdict"]) == ("planted", "possible shortcut")
    assert (found.table["verdict"] == "possible shortcut").sum() == 1
    assert (found.learnt, found.judged) == (400, 200)
    # Its gap is what the run's own table of samples says.
    table = sample_table(run, "test").query(f"y == {first['y']}")
    there = table["planted"].astype(str) == first["gap_side"]
    with_it, without = table["correct"][there].mean(), table["correct"][~there].mean()
    assert first["delta"] == pytest.approx(with_it - without)
    assert first["delta_low"] <= 0.6 * np.sign(first["delta"]) <= first["delta_high"]
    # Without a run it is first by association alone.
    alone = gsr.scan(bundle)
    assert alone.table.iloc[0][["attribute", "verdict"]].tolist() == ["planted", "associated"]
    assert 0.7 < alone.table.iloc[0]["association"] < 0.9
    assert alone.gaps.empty


def test_a_planted_phrase_is_first_of_fifty_and_makes_groups(workspace, predicting):
    right, columns = planted(2, towards=True)
    rng = np.random.default_rng(2)
    # What a network sees is there more or less: 0.3 more of the cosine where the thing is there.
    near = {name: 0.3 * column + 0.05 * rng.normal(size=1000) for name, column in columns.items()}
    phrases = pd.DataFrame(near, dtype=np.float32).rename(columns={"planted": "a boat"})
    bundle, run = predicting(right, {})
    found = gsr.scan(bundle, run, phrases=phrases)
    first = found.table.iloc[0]
    assert len(found.table) == 50
    assert first[["attribute", "source"]].tolist() == ["a boat", "phrase"]
    assert first["verdict"] == "possible shortcut"
    assert (found.table["verdict"] == "possible shortcut").sum() == 1
    made = gsr.groups_by(workspace, bundle, "boats", "a boat", phrases=phrases)
    median = f"{phrases['a boat'].median():.4g}"
    assert made.group_names[:2] == [f"cat, a boat > {median}", f"cat, not a boat > {median}"]
    np.testing.assert_array_equal(
        made.membership[:, [0, 2]].any(axis=1), phrases["a boat"] > phrases["a boat"].median()
    )
    assert "near its network finds them to the phrase 'a boat'" in " ".join(made.manifest.notes)


def test_what_misleads_the_other_way_round_is_a_gap_and_no_shortcut(predicting):
    right, columns = planted(1, towards=False)
    bundle, run = predicting(right, columns)
    verdicts = gsr.scan(bundle, run).table.set_index("attribute")["verdict"]
    assert verdicts["planted"] == "gap"


def test_where_nothing_goes_together_a_scan_names_something_five_times_in_a_hundred(
    predicting, monkeypatch
):
    # Intervals take most of the time and play no part here.
    monkeypatch.setattr("gsr_core.scanning.association._REDRAWN", 2)
    rng = np.random.default_rng(0)
    bundle, run = predicting(rng.random(1000) < 0.7, {"left out": np.arange(1000) % 2})
    named, p = [], []
    for seed in range(200):
        drawn = pd.DataFrame(
            {
                "rare": rng.choice(["x", "y"], 1000, p=[0.9, 0.1]),
                "numbers": rng.normal(size=1000),
            }
        )
        found = gsr.scan(bundle, run, measured=drawn, without=["left out"], seed=seed)
        named.append([(found.table["p_holm"] < 0.05).any(), (found.gaps["p_holm"] < 0.05).any()])
        p += found.table["p"].tolist()
    # 5 % of 200, and three standard deviations.
    assert (np.sum(named, axis=0) <= 19).all()
    # It can be wrong: single p are as small as they say.
    assert 0.03 < np.mean(np.array(p) < 0.05) < 0.07


def test_a_run_whose_cells_are_all_too_small_is_asked_for_associations_alone(
    workspace, write, done
):
    tiny = open_bundle(workspace, "tiny")
    rare = np.where(np.arange(len(tiny)) % 20 == 0, "rare", "usual")
    bundle = write(workspace, "tiny", samples=tiny.samples.assign(colour=rare), overwrite=True)
    found = gsr.scan(bundle, done("erm"))
    assert (len(found.gaps), found.judged) == (0, 40)
    assert found.table["verdict"].tolist() == [""]
    assert found.record()["gaps"] == []


def test_an_attribute_that_train_lacks_is_judged_by_its_gaps_alone(predicting):
    right, columns = planted(0, towards=True)
    where = np.arange(1000) >= 800
    values = np.where(where, columns["planted"].astype(str), None)
    bundle, run = predicting(right, {"planted": values})
    first = gsr.scan(bundle, run).table.iloc[0]
    assert np.isnan(first["association"])
    assert (first["n"], first["verdict"]) == (0, "gap")
    assert first["n_with"] + first["n_without"] == 100


def test_a_value_that_train_lacks_goes_with_nothing(predicting):
    # The others are as common in either class.
    values = np.where(np.arange(1000) >= 800, "a", np.tile(["b", "b", "c", "c"], 250))
    bundle, run = predicting(np.ones(1000, dtype=bool), {"value": values})
    row = gsr.scan(bundle, run).table.iloc[0]
    assert row["side"] in ("b", "c")
    assert row["share"] == pytest.approx(0.5)


def test_too_few_draws_for_so_many_cells_are_told(predicting, monkeypatch):
    right, columns = planted(0, towards=True)
    bundle, _ = predicting(right, columns)
    assert gsr.scan(bundle).note == ""
    # Tables of two by two get 999 draws, larger ones less: 50 attributes need 1,000.
    monkeypatch.setattr("gsr_core.scanning.association._MOST_NUMBERS", 4 * 999)
    found = gsr.scan(bundle)
    assert "too few draws are made to tell the association of 50 of 50 attributes" in found.note
    assert (found.table["verdict"] == "").all()


def test_a_gap_that_may_be_chance_does_not_rank_above_an_association(predicting):
    rng = np.random.default_rng(2)
    y, learnt = np.tile([0, 1], 500), np.arange(1000) < 400
    draw = rng.random((2, 1000))
    weak = draw[0] < np.where(learnt, np.where(y, 0.6, 0.4), 0.5)
    strong = draw[1] < np.where(learnt, np.where(y, 0.9, 0.1), 0.5)
    # On test, class 1 is right 46 times in 50 with the weak one, and 38 times without.
    right, ours = np.ones(1000, dtype=bool), np.arange(801, 1000, 2)
    weak[ours] = np.arange(100) < 50
    right[ours[:4]] = False
    right[ours[50:62]] = False
    bundle, run = predicting(right, {"weak": weak, "strong": strong})
    found = gsr.scan(bundle, run)
    assert found.gaps["low"].max() > 0  # By itself, one would be named.
    assert found.table["verdict"].tolist() == ["associated", "associated"]
    assert found.table["attribute"].tolist() == ["strong", "weak"]


def test_of_those_that_mark_the_same_rows_the_one_with_a_name_leads_and_all_are_like_it(predicting):
    right, columns = planted(0, towards=True)
    value = columns["planted"]
    rng = np.random.default_rng(3)
    bundle, run = predicting(right, {"colour": np.where(value == 1, "red", "green")})
    almost = np.where(np.arange(1000) % 200 < 2, 1 - value, value)
    measured = pd.DataFrame({"light": 3.0 * value, "hue": almost, "noise": rng.normal(size=1000)})
    near = pd.DataFrame({"a red thing": value.astype(float)})
    found = gsr.scan(bundle, run, measured=measured, phrases=near)
    named = found.table[found.table["verdict"] != ""]
    assert named["attribute"].tolist() == ["colour", "a red thing", "light", "hue"]
    assert named["alike"].tolist() == ["", "colour", "colour", "colour"]
    assert (named["alike_v"][1:] > 0.9).all()
    # Without a name of the data, a phrase leads.
    found = gsr.scan(bundle, run, measured=measured, phrases=near, without=["colour"])
    assert found.table["attribute"].tolist()[:3] == ["a red thing", "light", "hue"]
    assert found.table["alike"].tolist()[:3] == ["", "a red thing", "a red thing"]


def test_what_is_like_the_first_is_not_said_to_be_like_another_that_is(predicting):
    rng = np.random.default_rng(5)
    y = np.tile([0, 1], 500)

    def changed(column, share):
        return np.where(rng.random(1000) < share, 1 - column, column)

    first = changed(y, 0.05)
    second = changed(first, 0.1)
    third = changed(second, 0.06)
    right = np.ones(1000, dtype=bool)
    bundle, _ = predicting(right, {"first": first, "second": second, "third": third})
    table = gsr.scan(bundle).table
    assert table["attribute"][0] == "first"
    assert table["alike"].tolist() == ["", "first", "first"]


# What is measured ----------------------------------------------------------------------------


def picture(colour):
    encoded = io.BytesIO()
    Image.fromarray(np.broadcast_to(np.array(colour, np.uint8), (8, 8, 3)).copy()).save(
        encoded, "PNG"
    )
    return encoded.getvalue()


@pytest.fixture
def pictured(workspace, write):
    """The tiny bundle with images in its attribute's colour, the last of which is missing."""
    colours = open_bundle(workspace, "tiny").samples["colour"]
    images = [picture((200, 20, 20) if each == "red" else (20, 200, 20)) for each in colours]
    return write(workspace, "pictured", thumbnails=[*images[:-1], None])


def test_the_colour_is_found_in_the_images_alone(workspace, pictured):
    measured = gsr.measure_inputs(workspace, pictured)
    assert "the images themselves cannot be read" in measured.attrs[NOTE]
    assert "1 inputs could not be read" in measured.attrs[NOTE]
    assert measured["hue"].tolist()[:-1] == pictured.samples["colour"].tolist()[:-1]
    assert measured.iloc[-1].isna().all()
    found = gsr.scan(pictured, measured=measured, without=["colour"])
    assert "colour" not in found.looked_at
    own = gsr.scan(pictured).table.set_index("attribute").loc["colour"]
    hue = found.table.set_index("attribute").loc["hue"]
    assert hue["association"] == pytest.approx(own["association"])
    assert found.table["attribute"].iloc[0] in ("hue", "border hue", "brightness")


def test_images_that_are_back_are_measured_in_place_of_their_thumbnails(workspace, tmp_path):
    folder = tmp_path / "squares"
    folder.mkdir()
    bundle, _ = import_squares(workspace, folder, {"train": 8, "validation": 16, "test": 8})
    away = folder.rename(tmp_path / "away")
    thumbnails = gsr.measure_inputs(workspace, bundle)
    assert "the images themselves cannot be read" in thumbnails.attrs[NOTE]
    assert "sharpness" not in thumbnails
    pd.testing.assert_frame_equal(gsr.measure_inputs(workspace, bundle), thumbnails)
    away.rename(folder)
    measured = gsr.measure_inputs(workspace, bundle)
    assert measured.attrs[NOTE] == ""
    assert measured["sharpness"].notna().all()
    pd.testing.assert_frame_equal(load_measured(workspace, bundle), measured)


def test_images_are_measured_once_and_kept_whole(workspace, pictured, monkeypatch):
    monkeypatch.setattr("gsr_core.scanning.measured._AT_ONCE", 50)
    steps = []
    first = gsr.measure_inputs(workspace, pictured, progress=lambda done, _: steps.append(done))
    assert steps == [0.25, 0.5, 0.75, 1.0]
    stamp = os.stat(measured_file(workspace, pictured)).st_mtime_ns
    again = gsr.measure_inputs(workspace, pictured)
    pd.testing.assert_frame_equal(again, first)
    assert again.attrs == first.attrs
    assert os.stat(measured_file(workspace, pictured)).st_mtime_ns == stamp


def kept(workspace):
    """Names of what is there of measurements, but for locks."""
    return sorted(each.name for each in workspace.measured.iterdir() if each.suffix != ".lock")


@pytest.mark.parametrize("missing", [[199], range(50, 100), range(200)])
def test_a_stopped_measurement_goes_on_to_the_same_table(
    workspace, write, monkeypatch, tmp_path, missing
):
    images = [None if row in missing else picture((row, 20, 20)) for row in range(200)]
    pictured = write(workspace, "pictured", thumbnails=images)
    monkeypatch.setattr("gsr_core.scanning.measured._AT_ONCE", 50)
    elsewhere = Workspace(tmp_path / "elsewhere")
    whole = gsr.measure_inputs(elsewhere, pictured)
    steps = []
    for done in (50, 100):
        with pytest.raises(RunStateError, match=f"stopped at {done} of 200; it goes on there"):
            gsr.measure_inputs(
                workspace,
                pictured,
                progress=lambda done, _: steps.append(done),
                should_stop=lambda: True,
            )
        assert load_measured(workspace, pictured) is None
    file = measured_file(workspace, pictured)
    assert kept(workspace) == [f"{file.stem}.thumbnails.jsonl"]
    found = gsr.measure_inputs(workspace, pictured, progress=lambda done, _: steps.append(done))
    assert steps == [0.25, 0.5, 0.75, 1.0]
    pd.testing.assert_frame_equal(found, whole, check_exact=True)
    assert file.read_bytes() == measured_file(elsewhere, pictured).read_bytes()
    assert kept(workspace) == [file.name]


MEASURING = """
import sys, time
import gsr_core as gsr
from gsr_core.scanning import measured

def tell(done, text):
    if done == 0.5:
        print("half", flush=True)
        time.sleep(600)

measured._AT_ONCE = 50
place = gsr.Workspace.at(sys.argv[1])
gsr.measure_inputs(place, gsr.open_bundle(place, "texts"), progress=tell)
"""


def test_a_killed_measurement_goes_on_to_the_same_table(workspace, write, monkeypatch, tmp_path):
    texts = [f"Text {'no' * (row % 3)} {row / 7}!" for row in range(200)]
    samples = open_bundle(workspace, "tiny").samples.assign(text=texts)
    bundle = write(workspace, "texts", samples=samples)
    process = subprocess.Popen(
        [sys.executable, "-c", MEASURING, str(workspace.root)], stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"half\n"
    with pytest.raises(
        RunStateError, match="another process measures the inputs of bundle 'texts'"
    ):
        gsr.measure_inputs(workspace, bundle)
    process.kill()
    process.communicate()
    (journal,) = workspace.measured.glob("*.jsonl")
    # What is in the middle of being written is lost, whether its line has ended or not.
    line = journal.read_bytes().splitlines(keepends=True)[0]
    monkeypatch.setattr("gsr_core.scanning.measured._AT_ONCE", 50)
    elsewhere = Workspace(tmp_path / "elsewhere")
    whole = gsr.measure_inputs(elsewhere, bundle)
    steps = []
    for torn in (line[:-1], line[:99], line[:99] + b"\n" + line):
        journal.write_bytes(line + torn)
        steps.clear()
        found = gsr.measure_inputs(workspace, bundle, progress=lambda done, _: steps.append(done))
        assert steps == [0.5, 0.75, 1.0]
        pd.testing.assert_frame_equal(found, whole, check_exact=True)
        file = measured_file(workspace, bundle)
        assert file.read_bytes() == measured_file(elsewhere, bundle).read_bytes()
        assert kept(workspace) == [file.name]
        file.unlink()


def test_texts_are_measured_and_say_what_misleads(workspace, write):
    tiny = open_bundle(workspace, "tiny")
    samples = tiny.samples.drop(columns="colour")
    samples["text"] = np.where(tiny.samples["colour"] == "red", "It was not so.", "It was so.")
    samples["text_pair"] = "It was."
    bundle = write(workspace, "texts", samples=samples)
    found = gsr.scan(bundle, measured=gsr.measure_inputs(workspace, bundle))
    own = gsr.scan(tiny).table.iloc[0]
    first = found.table.set_index("attribute").loc["first negation"]
    assert first["association"] == pytest.approx(own["association"])
    assert "second negation" in found.left_out  # It is the same everywhere.


def test_columns_of_a_table_are_looked_at_but_for_the_class(workspace, write):
    tiny = open_bundle(workspace, "tiny")
    rng = np.random.default_rng(0)
    columns = tiny.samples[["colour"]].assign(
        animal=np.where(tiny.y == 1, "dog", "cat"),
        age=rng.normal(size=len(tiny)) + tiny.y,
        number=[f"n{row}" for row in range(len(tiny))],
    )
    found = gsr.scan(write(workspace, "table", columns=columns))
    sources = found.table.set_index("attribute")["source"].to_dict()
    assert sources == {"colour": "attribute", "age": "column"}
    assert found.left_out == {
        "animal": "it is the class itself",
        "number": "it has 200 values in 200 rows: it names rows",
    }


# Groups --------------------------------------------------------------------------------------


def test_groups_by_what_was_measured_are_those_of_the_attribute(workspace, pictured):
    measured = gsr.measure_inputs(workspace, pictured)
    made = gsr.groups_by(workspace, pictured, "by-hue", "hue", measured=measured)
    expected = pictured.membership[:, [1, 0, 3, 2]].copy()  # Green comes before red.
    expected[-1] = False
    np.testing.assert_array_equal(made.membership, expected)
    assert made.group_names == ["cat, green", "cat, red", "dog, green", "dog, red"]
    assert made.samples["hue"].tolist()[:-1] == pictured.samples["colour"].tolist()[:-1]
    assert os.path.samefile(made.path / "features.npy", pictured.path / "features.npy")
    assert "1 rows without a value are in no group" in " ".join(made.manifest.notes)
    # The same images need not be read again.
    assert measured_file(workspace, made) == measured_file(workspace, pictured)
    assert gsr.run(workspace, "by-hue", "gsr", device="cpu", steps=2).state.step == 2


def test_groups_of_numbers_are_cut_where_the_scan_cuts_them(workspace, pictured):
    measured = gsr.measure_inputs(workspace, pictured)
    made = gsr.groups_by(workspace, pictured, "by-light", "brightness", measured=measured)
    found = gsr.scan(pictured, measured=measured)
    side = found.looked_at["brightness"].sides[0].name
    rows = found.rows("brightness", side)
    inside = made.membership[
        :, [f"brightness {side}" in name and "not" not in name for name in made.group_names]
    ]
    np.testing.assert_array_equal(np.flatnonzero(inside.any(axis=1)), rows)
    one = gsr.groups_by(workspace, pictured, "red", "hue", "red", measured=measured)
    assert one.group_names == ["cat, not red", "cat, red", "dog, not red", "dog, red"]


def test_an_attribute_that_is_there_is_not_written_twice(workspace, write):
    tiny = open_bundle(workspace, "tiny")
    shade = np.where(tiny.samples["colour"] == "red", 7, 3)
    samples = tiny.samples.assign(shade=shade, gap=np.where(shade == 7, "seven", ""))
    samples.loc[::3, "gap"] = "other"
    bundle = write(workspace, "shades", samples=samples)
    made = gsr.groups_by(workspace, bundle, "by-shade", "shade")
    assert made.manifest.attributes == bundle.manifest.attributes
    assert made.group_names == ["cat, shade 3", "cat, shade 7", "dog, shade 3", "dog, shade 7"]
    # Where a value is missing, a row is in no group.
    some = gsr.groups_by(workspace, bundle, "by-gap", "gap")
    known = (samples["gap"] != "").to_numpy()
    np.testing.assert_array_equal(some.membership.any(axis=1), known)
    assert some.manifest.attributes == [*bundle.manifest.attributes, "gap: its values"]
    # One side after the other: neither is written over.
    red = gsr.groups_by(workspace, bundle, "by-red", "colour", "red")
    assert red.manifest.attributes == [*bundle.manifest.attributes, "colour: red"]
    again = gsr.groups_by(workspace, red, "again", "colour", "red")
    assert again.manifest.attributes == red.manifest.attributes
    assert (again.samples["colour: red"] == red.samples["colour: red"]).all()


# Mistakes ------------------------------------------------------------------------------------


def test_mistakes_are_told_in_a_sentence_and_leave_nothing(workspace, write, done, contents):
    tiny = open_bundle(workspace, "tiny")
    bare = write(workspace, "bare", samples=tiny.samples.drop(columns="colour"))
    same = write(workspace, "same", samples=tiny.samples.assign(colour="red"))
    other = write(workspace, "other", seed=1)
    pictures = write(
        workspace,
        "pictures",
        samples=tiny.samples.drop(columns="colour"),
        thumbnails=[picture((9, 9, 9))] * len(tiny),
    )
    run = done("erm")
    before = contents(workspace.bundles)
    for error, sentence, call in (
        (SettingError, "bundle 'bare' has no attribute, no table", lambda: gsr.scan(bare)),
        (SettingError, "its images were not measured yet", lambda: gsr.scan(pictures)),
        (
            SettingError,
            "no column of bundle 'pictures' can tell rows apart: of 'brightness' it has the one",
            lambda: gsr.scan(pictures, measured=gsr.measure_inputs(workspace, pictures)),
        ),
        (
            SettingError,
            "of 'colour' it has the one value 'red'; import the data with others",
            lambda: gsr.scan(same),
        ),
        (
            SettingError,
            r"property or phrase 'color' that a scan looked at \(did you mean 'colour'\?\)",
            lambda: gsr.scan(tiny, without=["color"]),
        ),
        (BundleError, "is of bundle 'tiny'", lambda: gsr.scan(other, run)),
        (
            SettingError,
            "bundle 'tiny' has no split 'tset'; its splits are train,",
            lambda: gsr.scan(tiny, run, split="tset"),
        ),
        (
            SettingError,
            "'colour' cannot tell rows apart: it has the one value 'red'",
            lambda: gsr.groups_by(workspace, same, "new", "colour"),
        ),
        (
            SettingError,
            "'colour' has no side 'blue'; choose one of 'red'",
            lambda: gsr.groups_by(workspace, tiny, "new", "colour", "blue"),
        ),
        (
            BundleError,
            "bundle 'bare' exists already",
            lambda: gsr.groups_by(workspace, tiny, "bare", "colour"),
        ),
    ):
        with pytest.raises(error, match=sentence):
            call()
    assert contents(workspace.bundles) == before


def test_a_group_without_a_row_in_target_is_refused(workspace, write):
    tiny = open_bundle(workspace, "tiny")
    rare = np.where(np.arange(len(tiny)) < 3, "rare", tiny.samples["colour"])
    bundle = write(workspace, "rare", samples=tiny.samples.assign(colour=rare))
    with pytest.raises(SettingError, match="group 'cat, rare' would have no sample in target"):
        gsr.groups_by(workspace, bundle, "new", "colour")
    assert not (workspace.bundles / "new").exists()
    made = gsr.groups_by(workspace, bundle, "new", "colour", "red")
    assert made.manifest.attributes == ["colour", "colour: red"]
