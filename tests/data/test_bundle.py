import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gsr_core.data.bundle import list_bundles, open_bundle
from gsr_core.data.groups import Group
from gsr_core.errors import BundleError, BundleNotFoundError


def swapped(array: np.ndarray, row: int, value: object) -> np.ndarray:
    array = array.copy()
    array[row] = value
    return array


def test_what_is_written_is_read_back(write, parts, workspace):
    head = (np.arange(8.0).reshape(2, 4), np.array([1.0, -1.0]))
    write(head=head, title="Small", backbone={"name": "none", "epochs": 3}, notes=["A note."])
    bundle = open_bundle(workspace, "small")

    assert len(bundle) == len(parts["samples"])
    assert bundle.name == "small"
    assert bundle.manifest.title == "Small"
    assert bundle.manifest.source == parts["source"]
    assert bundle.manifest.classes == parts["classes"]
    assert bundle.manifest.groups == parts["groups"]
    assert bundle.manifest.attributes == ["place"]
    assert bundle.manifest.backbone == {"name": "none", "epochs": 3}
    assert bundle.manifest.notes[0] == "A note."
    assert bundle.manifest.weighted_split == "heldout"
    for column in parts["samples"]:
        assert bundle.samples[column].tolist() == parts["samples"][column].tolist()
    np.testing.assert_array_equal(bundle.membership, parts["membership"])
    np.testing.assert_array_equal(bundle.features, parts["features"])
    assert bundle.head is not None
    for written, read in zip(head, bundle.head, strict=True):
        np.testing.assert_array_equal(written, read)
    assert bundle.thumbnail(0) is None
    assert bundle.training_shares == pytest.approx([1 / 3] * 3)
    assert set(bundle.group_labels) == {"a", "b", "c"}


def test_features_are_memory_mapped_and_read_only(write):
    features = write().features
    assert isinstance(features, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        features[0, 0] = 1


def test_rows_of_partition_the_rows(write, parts):
    rows_of = write().rows_of
    assert sorted(np.concatenate(list(rows_of.values()))) == list(range(len(parts["samples"])))
    for split, rows in rows_of.items():
        assert (parts["samples"]["split"].iloc[rows] == split).all()


def test_without_heldout_the_weights_live_on_train_and_a_note_says_so(write, parts):
    samples = parts["samples"].assign(split=parts["samples"]["split"].replace("heldout", "train"))
    manifest = write(samples=samples).manifest
    assert manifest.weighted_split == "train"
    assert "no heldout split" in manifest.notes[0]


def test_small_groups_are_noted(write, parts):
    notes = write().manifest.notes
    assert len(notes) == 12
    assert "'a' has 2 samples in heldout" in notes[0]
    assert "'a' has 2 samples in target" in notes[3]


def test_an_index_in_the_samples_is_not_kept(write, parts):
    bundle = write(samples=parts["samples"].set_index(np.arange(len(parts["samples"])) + 7))
    assert bundle.samples.index.tolist() == list(range(len(bundle)))


def test_failing_in_the_middle_of_the_thumbnails_leaves_nothing(write, left_behind):
    def thumbnails():
        yield b"one"
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="disk is gone"):
        write(thumbnails=thumbnails())
    assert left_behind() == []


def test_failing_while_replacing_keeps_the_old_bundle(write, left_behind, workspace):
    digest = write().manifest.digest

    def thumbnails():
        yield b"one"
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="disk is gone"):
        write(thumbnails=thumbnails(), overwrite=True)
    assert left_behind() == ["small"]
    assert open_bundle(workspace, "small").manifest.digest == digest


def test_a_bundle_is_not_replaced_unless_asked(write, left_behind, parts):
    digest = write().manifest.digest
    with pytest.raises(BundleError, match=r"'small' exists already; .* --overwrite"):
        write(features=parts["features"] + 1)
    assert write(features=parts["features"] + 1, overwrite=True).manifest.digest != digest
    assert left_behind() == ["small"]


def test_thumbnails_are_read_row_by_row_across_batches(write, parts, monkeypatch):
    monkeypatch.setattr("gsr_core.data.bundle.MIN_GROUP_SIZE", 0)
    n = 2500
    rows = np.arange(n) % len(parts["samples"])
    samples = parts["samples"].iloc[rows].assign(sample_id=[str(row) for row in range(n)])
    images = [None if row % 3 == 0 else b"image %d" % row for row in range(n)]
    bundle = write(
        samples=samples,
        membership=parts["membership"][rows],
        features=parts["features"][rows],
        thumbnails=iter(images),
    )
    assert "_thumbnails" not in vars(bundle)
    assert [bundle.thumbnail(row) for row in range(n)] == images


def test_digest_is_that_of_the_content(write, parts):
    digest = write("one").manifest.digest
    assert write("two", title="Other title", notes=["Other."]).manifest.digest == digest
    changed = {
        "features": parts["features"] + np.float32(1e-3),
        "samples": parts["samples"].assign(sample_id=lambda samples: samples["sample_id"] + "x"),
        "membership": swapped(parts["membership"], 0, [True, True, True]),
        "head": (np.zeros((2, 4)), np.zeros(2)),
        "thumbnails": [None] * len(parts["samples"]),
    }
    digests = {write(name, **{name: value}).manifest.digest for name, value in changed.items()}
    assert digest not in digests
    assert len(digests) == len(changed)


def test_every_file_but_the_manifest_has_a_digest(write):
    bundle = write(head=(np.zeros((2, 4)), np.zeros(2)))
    files = {file.name for file in bundle.path.iterdir()}
    assert files == {*bundle.manifest.digests, "manifest.json"}


def test_listing_passes_over_what_is_no_bundle(write, workspace):
    assert list_bundles(workspace) == []
    write("b")
    write("a")
    write("newer")
    (workspace.bundles / "empty").mkdir()
    (workspace.bundles / "a file").write_text("hello")
    for name, text in (
        ("foreign", '{"name": "something else"}'),
        ("broken", "{"),
        (".half.tmp", (workspace.bundles / "a" / "manifest.json").read_text()),
    ):
        (workspace.bundles / name).mkdir()
        (workspace.bundles / name / "manifest.json").write_text(text)
    (workspace.bundles / "foreign" / "manifest.json").write_bytes(b"\xff\xfe")
    newer = workspace.bundles / "newer" / "manifest.json"
    newer.write_text(json.dumps({**json.loads(newer.read_text()), "format": 99}))

    assert [bundle.name for bundle in list_bundles(workspace)] == ["a", "b"]
    with pytest.raises(BundleError, match="format 99"):
        open_bundle(workspace, "newer")
    with pytest.raises(BundleError, match=r"broken.*is not a bundle's manifest"):
        open_bundle(workspace, "broken")


def test_opening_an_unknown_bundle_lists_those_there(write, workspace):
    with pytest.raises(BundleNotFoundError, match="bundles there: none"):
        open_bundle(workspace, "birds")
    write("a")
    write("b")
    with pytest.raises(BundleNotFoundError, match=r"no bundle 'birds' .*bundles there: a, b"):
        open_bundle(workspace, "birds")


def test_a_bundle_opens_by_its_path(write, workspace):
    bundle = write()
    assert open_bundle(workspace, str(bundle.path)).manifest == bundle.manifest


@pytest.mark.parametrize("name", [".hidden", "a b", "ä", "a" * 101, "-x"])
def test_a_name_that_is_no_plain_directory_name_is_refused(write, name):
    with pytest.raises(BundleError, match=r"bundle name .* is not allowed"):
        write(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: {"features": p["features"][:, :0]}, r"features has shape \(30, 0\)"),
        (lambda p: {"features": p["features"][:-1]}, "features has 29 rows, but y has 30"),
        (lambda p: {"membership": p["membership"][:, :2]}, r"groups has shape \(30, 2\)"),
        (lambda p: {"membership": p["membership"][:, :0], "groups": []}, "there are no groups"),
        (
            lambda p: {"groups": [Group(name="a", definition="")] * 3},
            r"group names \['a', 'a', 'a'\] are not unique",
        ),
        (lambda p: {"classes": ["cat", "cat"]}, r"class names \['cat', 'cat'\] are not unique"),
        (
            lambda p: {"samples": p["samples"].rename(columns={"place": "loss"})},
            "samples cannot become an attribute 'loss'; choose a name other than sample_id, ",
        ),
        (
            lambda p: {"samples": p["samples"].rename(columns={"place": "influence: a"})},
            "cannot become an attribute 'influence: a'",
        ),
        (
            lambda p: {
                "membership": p["membership"] & (p["samples"]["split"] != "val").to_numpy()[:, None]
            },
            r"split val has no sample of any group \(a, b, c\)",
        ),
        (lambda p: {"classes": ["only"]}, r"y is 1 in row \d+; allowed are the class indices 0 to"),
        (
            lambda p: {"samples": p["samples"].assign(split="target")},
            "split has no 'val' row",
        ),
        (
            lambda p: {"samples": p["samples"].assign(y=0)},
            "y has only class 0 in the heldout split",
        ),
        (
            lambda p: {"samples": p["samples"].assign(sample_id="same")},
            "sample_id 'same' in row 1 is there twice",
        ),
        (
            lambda p: {"membership": p["membership"] & [True, True, False]},
            "group 'c' has no sample in the target split",
        ),
        (
            lambda p: {"features": swapped(p["features"].astype(float), 4, 1e39)},
            r"features is 1e\+39 in row 4, column 0",
        ),
        (lambda p: {"head": (np.zeros((2, 3)), np.zeros(2))}, r"the head has shapes \(2, 3\)"),
    ],
)
def test_parts_that_do_not_fit_are_refused_and_nothing_stays(
    write, parts, left_behind, change, message
):
    with pytest.raises(BundleError, match=message):
        write(**change(parts))
    assert left_behind() == []


def test_recipe_and_files_are_kept(write, workspace):
    recipe = {"reader": "folder", "settings": {"path": "birds", "share": 0.2}, "backbone": None}
    write(recipe=recipe, files={"encoder.json": b'{"size": 64}'})
    bundle = open_bundle(workspace, "small")
    assert bundle.manifest.recipe == recipe
    assert (bundle.path / "encoder.json").read_bytes() == b'{"size": 64}'
    assert "encoder.json" in bundle.manifest.digests
    assert write("plain").manifest.recipe is None


@pytest.mark.parametrize("name", ["features.npy", "manifest.json", "../encoder.json", ".hidden"])
def test_a_file_that_would_leave_the_bundle_or_replace_its_own_is_refused(write, left_behind, name):
    with pytest.raises(BundleError, match="cannot hold a file"):
        write(files={name: b""})
    assert left_behind() == []


@pytest.mark.parametrize("recipe", [{"path": Path("birds")}, {"share": float("nan")}])
def test_a_recipe_that_is_no_json_is_refused(write, left_behind, recipe):
    with pytest.raises(BundleError, match="recipe cannot be written as JSON"):
        write(recipe=recipe)
    assert left_behind() == []


def test_a_whole_file_that_its_maker_gives_up_is_linked(write, parts, tmp_path):
    np.save(tmp_path / "made.npy", parts["features"])
    whole = np.load(tmp_path / "made.npy", mmap_mode="r")
    inode = (tmp_path / "made.npy").stat().st_ino
    linked = write("linked", features=whole, adopt_features=True)
    copied = write("copied", features=whole)
    assert (linked.path / "features.npy").stat().st_ino == inode
    assert (copied.path / "features.npy").stat().st_ino != inode
    assert linked.manifest.digest == copied.manifest.digest


@pytest.mark.parametrize("kind", ["part", "reversed", "columns", "wide", "changed", "replaced"])
def test_what_is_not_a_whole_file_as_it_would_be_written_is_copied(write, parts, tmp_path, kind):
    file, features = tmp_path / "made.npy", parts["features"]
    stored = {
        "part": np.concatenate([features, features]),
        "columns": np.asfortranarray(features),
        "wide": features.astype(np.float64),
    }
    np.save(file, stored.get(kind, features))
    given = np.load(file, mmap_mode="c" if kind == "changed" else "r")
    if kind == "part":
        given = given[: len(features)]
    elif kind == "reversed":
        given = given[::-1]
    elif kind == "changed":
        given[3] = 7
    elif kind == "replaced":
        np.save(tmp_path / "other.npy", features + 1)
        (tmp_path / "other.npy").replace(file)
    expected = np.array(given, dtype=np.float32)
    bundle = write(features=given, adopt_features=True)
    assert (bundle.path / "features.npy").stat().st_ino != file.stat().st_ino
    np.testing.assert_array_equal(bundle.features, expected)


def test_a_linked_file_is_copied_where_links_are_not_possible(write, parts, tmp_path, monkeypatch):
    np.save(tmp_path / "made.npy", parts["features"])

    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    bundle = write(features=np.load(tmp_path / "made.npy", mmap_mode="r"), adopt_features=True)
    np.testing.assert_array_equal(bundle.features, parts["features"])


def test_a_missing_or_cut_file_is_noticed_on_opening(write, workspace):
    for name in ("cut", "missing"):
        write(name)
    features = workspace.bundles / "cut" / "features.npy"
    features.write_bytes(features.read_bytes()[:-4])
    (workspace.bundles / "missing" / "groups.parquet").unlink()
    with pytest.raises(BundleError, match=r"features.npy has \d+ bytes, but \d+ were written"):
        open_bundle(workspace, "cut")
    with pytest.raises(BundleError, match=r"groups.parquet is missing"):
        open_bundle(workspace, "missing")
    assert list_bundles(workspace) == []


def test_verify_notices_one_changed_bit(write):
    bundle = write()
    bundle.verify()
    file = bundle.path / "features.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(BundleError, match=r"features.npy is not what was written"):
        bundle.verify()


def test_bundles_without_sizes_still_open(write, workspace):
    file = write().path / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["sizes"], manifest["recipe"]
    file.write_text(json.dumps(manifest))
    bundle = open_bundle(workspace, "small")
    bundle.verify()
    assert bundle.manifest.recipe is None


@pytest.fixture
def large(write, parts):
    """5,000 rows in several row groups: overlapping groups, texts, attributes of several kinds."""

    def large(**changed):
        rng = np.random.default_rng(0)
        n = 5000
        rows = np.concatenate([np.arange(30), rng.integers(0, 30, n - 30)])
        samples = (
            parts["samples"]
            .iloc[rows]
            .assign(
                sample_id=[f"s{row}" for row in range(n)],
                text=[None if row % 5 == 0 else f"text {row}" for row in range(n)],
                place=rng.choice(["land", "wäter"], n),
                kind=pd.Categorical(rng.choice(list("xyz"), n)),
                year=rng.integers(1990, 2026, n),
            )
        )
        membership = rng.random((n, 3)) < 0.3
        return write(
            samples=samples, membership=membership, features=parts["features"][rows], **changed
        )

    return large


@pytest.fixture
def small_row_groups(monkeypatch):
    monkeypatch.setattr("gsr_core.data.bundle_writing._ROW_GROUP", 700)


@pytest.mark.usefixtures("small_row_groups")
def test_parts_read_alone_are_those_of_the_whole_table(large):
    bundle = large()
    for name in bundle.samples.columns:
        assert bundle.column(name).to_pylist() == [
            None if pd.isna(value) else value for value in bundle.samples[name]
        ]
    np.testing.assert_array_equal(bundle.y, bundle.samples["y"])
    for row in (0, 1, 699, 700, 701, 4999):
        text = bundle.samples["text"].iloc[row]
        assert bundle.text(row) == (None if pd.isna(text) else text)
    for split, rows in bundle.rows_of.items():
        np.testing.assert_array_equal(rows, np.flatnonzero(bundle.samples["split"] == split))


def test_group_labels_are_those_of_each_row_alone(large):
    bundle = large()
    naive = [
        " + ".join(np.array(bundle.group_names)[row].tolist()) or "unknown"
        for row in bundle.membership
    ]
    assert bundle.group_labels.tolist() == naive
    rows = np.array([7, 3, 4000])
    assert bundle.labels_at(rows).to_pylist() == [naive[row] for row in rows]


def test_the_two_texts_of_a_pair_come_apart_and_can_be_searched(write, parts):
    n = len(parts["samples"])
    bundle = write(
        samples=parts["samples"].assign(
            text=[f"Premise {row}" for row in range(n)], text_pair=["So be it"] * n
        )
    )
    assert "text" not in bundle.manifest.attributes
    assert bundle.texts(2) == ("Premise 2", "So be it")
    assert bundle.text(2) == "Premise 2\n\nSo be it"
    assert bundle.in_words(np.array([3, 1])) == ["Premise 3 · So be it", "Premise 1 · So be it"]
    assert bundle.in_words(np.array([3]), letters=9) == ["Premise …"]
    assert bundle.search("so BE").tolist() == list(range(n))
    assert bundle.search("premise 2")[0] == 2


def test_the_columns_of_a_table_are_kept_as_they_came(write, parts):
    n = len(parts["samples"])
    table = pd.DataFrame(
        {
            "age": np.arange(n),
            "city": [None if row == 1 else f"Town {row}" for row in range(n)],
            "mixed": [row if row % 2 else "odd" for row in range(n)],
        }
    )
    bundle = write(columns=table)
    assert bundle.values(0) == {"age": 0, "city": "Town 0", "mixed": "odd"}
    assert bundle.values(1)["city"] == ""
    assert bundle.columns(1).columns.tolist() == ["age"]
    assert bundle.in_words(np.array([2])) == ["age 2 · city Town 2 · mixed odd"]
    # A number is the whole value, a text any part of one; ids are searched too.
    ids = parts["samples"]["sample_id"]
    assert ids[7] == "s7"
    assert bundle.search("7").tolist() == [7]
    assert bundle.search("7.0").tolist() == [7]
    assert bundle.search("TOWN 3")[0] == 3
    assert bundle.search(parts["samples"]["sample_id"][4])[0] == 4
    with pytest.raises(IndexError):
        bundle.values(n)
    assert write(name="plain").values(0) == {}
    assert write(name="bare").in_words(np.array([0])) is None


def test_a_search_can_name_a_column(write, parts):
    n = len(parts["samples"])
    table = pd.DataFrame(
        {
            "age": np.arange(n) % 90,
            "priors": np.where(np.arange(n) % 2, np.nan, np.arange(n) % 7),
            "juv: count": np.arange(n) % 5,
            "charge": [f"Charge of 2013-08-{row % 30}" for row in range(n)],
        }
    )
    bundle = write(columns=table)

    def found(words):
        return bundle.search(words).tolist()

    assert found("age:25") == np.flatnonzero(table["age"] == 25).tolist()
    assert found("Priors: 4") == np.flatnonzero(table["priors"] == 4).tolist()
    assert found("juv: count: 3") == np.flatnonzero(table["juv: count"] == 3).tolist()
    assert found("charge: 08-25") == np.flatnonzero(np.arange(n) % 30 == 25).tolist()
    assert found("charge: 25") == []
    assert found("age:") == []


def test_a_number_in_a_text_stands_by_itself(write, parts):
    n = len(parts["samples"])
    bundle = write(
        samples=parts["samples"].assign(text=[f"About {9000 + row} dogs." for row in range(n)])
    )
    assert bundle.search("9003").tolist() == [3]
    assert bundle.search("900").tolist() == []


def test_features_and_attributes_come_first_in_a_row(write, parts):
    n = len(parts["samples"])
    table = pd.DataFrame({name: np.arange(n) for name in ("id", "name", "sex", "dob", "age")})
    kinds = {"numeric": [{"name": "age"}], "categorical": [{"name": "sex"}]}
    bundle = write(columns=table, files={"encoder.json": json.dumps(kinds).encode()})
    assert list(bundle.values(0)) == ["age", "sex", "id", "name", "dob"]
    assert bundle.in_words(np.array([2]))[0].startswith("age 2 · sex 2 · id 2")
    assert bundle.columns(2).columns.tolist() == ["age", "sex"]
    assert bundle.columns().columns.tolist() == list(table.columns)


def test_without_texts_no_row_has_one(write):
    assert write().text(3) is None


def test_a_row_or_a_column_that_is_not_there_is_an_error(large):
    bundle = large()
    with pytest.raises(IndexError):
        bundle.text(len(bundle))
    with pytest.raises(KeyError, match="colour"):
        bundle.column("colour")


def test_a_missing_split_is_an_unknown_word(write, parts, left_behind):
    samples = parts["samples"].assign(
        split=swapped(parts["samples"]["split"].to_numpy(object), 3, None)
    )
    with pytest.raises(BundleError, match=r"split has the unknown word '(None|nan)' in row 3"):
        write(samples=samples)
    assert left_behind() == []


def test_a_head_that_is_no_better_than_the_most_frequent_class_is_noted(write, parts):
    y = parts["samples"]["y"].to_numpy()
    features = np.zeros((len(y), 4), dtype=np.float32)
    features[:, 0] = 2 * y - 1
    right = np.array([[-1.0, 0, 0, 0], [1.0, 0, 0, 0]])

    def notes(weight: np.ndarray) -> list[str]:
        bundle = write(head=(weight, np.zeros(2)), features=features, overwrite=True)
        return [note for note in bundle.manifest.notes if note.startswith("The network's own")]

    assert notes(right) == []
    for poor in (np.zeros((2, 4)), -right):
        (note,) = notes(poor)
        count = 0 if poor.any() else 3
        assert f"right on {count} of 6 rows of val" in note
        assert "most frequent class always is right on 3" in note
