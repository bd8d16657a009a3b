import io
import json

import numpy as np
import pytest
from PIL import Image

from gsr_core.data.dataset import define
from gsr_core.data.inputs import ImageBlobs, ImageFiles, Texts
from gsr_core.errors import InputError, SourceError
from gsr_core.readers.huggingface import HuggingFace
from gsr_core.readers.registry import make_reader

datasets = pytest.importorskip("datasets")
NAMES = ["landbird", "waterbird"]
PLACES = ["land", "water"]
STORED = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def png(number):
    encoded = io.BytesIO()
    Image.new("RGB", (9, 6), (number, 255 - number, 7)).save(encoded, "PNG")
    return encoded.getvalue()


def birds(n, start=0, **more):
    rows = range(start, start + n)
    columns = {
        "image": [{"bytes": png(i), "path": None} for i in rows],
        "label": [i % 2 for i in rows],
        "place": [i // 2 % 2 for i in rows],
        **more,
    }
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=NAMES),
            "place": datasets.ClassLabel(names=PLACES),
            **{name: datasets.Value("string") for name in more},
        }
    )
    return datasets.Dataset.from_dict(columns, features=features)


def saved(dataset, folder):
    dataset.save_to_disk(str(folder))
    return str(folder)


def parts():
    return {"train": birds(40), "validation": birds(16, 40), "test": birds(20, 56)}


def test_splits_classes_and_attributes_are_the_data_set_s(tmp_path):
    path = saved(datasets.DatasetDict(parts()), tmp_path / "birds")

    source = HuggingFace(path=path).read()
    dataset = define(source)

    assert isinstance(source.inputs, ImageBlobs)
    assert dataset.classes == NAMES
    assert [group.name for group in dataset.groups] == [
        f"{bird}, {place}" for bird in NAMES for place in PLACES
    ]
    part = {"heldout": "train", "target": "validation", "val": "validation"}
    split = dataset.samples["split"].replace(part)
    assert split.tolist() == ["train"] * 40 + ["validation"] * 16 + ["test"] * 20
    np.testing.assert_array_equal(dataset.samples["y"], np.arange(76) % 2)
    assert dataset.samples["place"].tolist() == [PLACES[i // 2 % 2] for i in range(76)]


def test_images_are_decoded_one_by_one(tmp_path):
    one = parts()
    path = saved(datasets.DatasetDict(one), tmp_path / "birds")

    inputs = HuggingFace(path=path).read().inputs

    for row in (0, 39, 40, 75):
        np.testing.assert_array_equal(inputs.load(row)[0, 0], [row, 255 - row, 7])


def test_a_damaged_image_stops_nothing_but_its_own_row(tmp_path):
    dataset = birds(12)
    table = dataset.with_format("arrow")[:].to_pylist()
    table[3]["image"] = {"bytes": png(3)[:40], "path": "three.png"}
    table[5]["image"] = None
    damaged = datasets.Dataset.from_list(table, features=dataset.features)

    inputs = HuggingFace(path=saved(damaged, tmp_path / "birds")).read().inputs

    bad = {}
    for row in range(12):
        try:
            inputs.load(row)
        except InputError:
            bad[row] = inputs.name(row)
    assert bad == {3: "three.png", 5: "row 5"}


def test_a_selection_in_another_order_is_what_is_read(tmp_path):
    order = [7, 1, 30, 2, 8, 8, 11]
    dataset = birds(40).select(order)

    source = HuggingFace(path=saved(dataset, tmp_path / "birds")).read()

    assert [source.inputs.load(row)[0, 0, 0] for row in range(7)] == order
    assert source.table["label"].tolist() == [i % 2 for i in order]


def test_images_that_are_files_are_opened_where_they_are(tmp_path):
    folder = tmp_path / "files"
    paths = []
    for i in range(6):
        paths.append(folder / f"part{i % 2}" / f"{i}.png")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        paths[-1].write_bytes(png(i))
    dataset = datasets.Dataset.from_dict({"image": list(map(str, paths)), "label": [0, 1] * 3})
    dataset = dataset.cast_column("image", datasets.Image())
    path = saved(dataset.cast_column("image", STORED), tmp_path / "linked")
    # `save_to_disk` takes files along; what the hub's folders of images become does not.
    info = tmp_path / "linked" / "dataset_info.json"
    described = json.loads(info.read_text())
    described["features"]["image"] = {"_type": "Image"}
    info.write_text(json.dumps(described))

    inputs = HuggingFace(path=path).read().inputs

    assert isinstance(inputs, ImageFiles)
    assert inputs.name(3) == "part1/3.png"
    assert [inputs.load(row)[0, 0, 0] for row in range(6)] == list(range(6))


def pairs(n, start=0):
    rows = range(start, start + n)
    return datasets.Dataset.from_dict(
        {
            "premise": [f"A dog number {i} runs." for i in rows],
            "hypothesis": [f"Nobody sees dog {i}." for i in rows],
            "label": [i % 3 for i in rows],
            "negation": ["yes" if i % 2 else "no" for i in rows],
            "tokens": [[i, i + 1] for i in rows],
        }
    ).cast_column("label", datasets.ClassLabel(names=["entailment", "neutral", "contradiction"]))


def test_pairs_of_texts_and_their_columns(tmp_path):
    path = saved(
        datasets.DatasetDict(
            train=pairs(36),
            validation_matched=pairs(18, 36),
            validation_mismatched=pairs(18, 54),
            test=pairs(18, 72),
            unsupervised=pairs(5, 90),
        ),
        tmp_path / "nli",
    )

    source = HuggingFace(path=path).read()
    dataset = define(source)

    assert isinstance(source.inputs, Texts)
    assert source.inputs.load(60) == ("A dog number 60 runs.", "Nobody sees dog 60.")
    assert source.roles.attributes == ("negation",)
    assert dataset.classes == ["entailment", "neutral", "contradiction"]
    assert dataset.rows.tolist() == list(range(90))
    assert np.isin(dataset.samples["split"][36:72], ["target", "val"]).all()
    notes = " ".join(source.notes)
    assert "lists, bytes or records are not kept: tokens" in notes
    assert "the splits unsupervised" in notes
    single = make_reader("huggingface", {"path": path, "text": "hypothesis", "pair": "none"})
    assert single.read().inputs.load(60) == "Nobody sees dog 60."


def test_rows_whose_label_is_kept_secret_are_left_out(tmp_path):
    table = pairs(30)
    secret = [-1 if label == 2 else label for label in table["label"]]
    names = table.features["label"]
    hidden = table.remove_columns("label").add_column("label", secret, feature=names)

    source = HuggingFace(path=saved(hidden, tmp_path / "nli")).read()

    assert source.table["label"].tolist() == [i % 3 for i in range(30) if i % 3 != 2]
    assert source.inputs.load(2) == ("A dog number 3 runs.", "Nobody sees dog 3.")
    assert any("10 rows without a label" in note for note in source.notes)


def test_empty_texts_are_counted(tmp_path):
    table = datasets.Dataset.from_dict(
        {"text": ["Good", None, " ", "Bad"] * 3, "label": [0, 1] * 6}
    )

    source = HuggingFace(path=saved(table, tmp_path / "reviews")).read()

    assert "6 of 12 rows have an empty text (the first is row 1)" in source.notes[0]
    assert source.roles.split.column is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image": "picture"}, "no column 'picture'"),
        ({"image": "label"}, "'label' .* holds no images; columns of images are image"),
        ({"image": "image", "text": "caption"}, "name only one of them"),
        ({"text": "captoin"}, "did you mean 'caption'"),
        ({"text": "label"}, "is 0 in row 0, which is no text"),
    ],
)
def test_a_wrong_column_is_named(tmp_path, settings, message):
    path = saved(birds(6, caption=[f"bird {i}" for i in range(6)]), tmp_path / "birds")

    with pytest.raises(SourceError, match=message):
        make_reader("huggingface", {"path": path, **settings}).read()


def test_texts_can_be_chosen_where_there_are_images(tmp_path):
    path = saved(birds(6, caption=[f"bird {i}" for i in range(6)]), tmp_path / "birds")

    source = HuggingFace(path=path, text="caption").read()

    assert source.inputs.load(4) == "bird 4"
    assert "caption" not in source.roles.attributes


def test_splits_with_other_columns_are_named(tmp_path):
    path = saved(
        datasets.DatasetDict(train=birds(6), test=birds(6, caption=["x"] * 6)), tmp_path / "birds"
    )

    with pytest.raises(SourceError, match=r"splits of .* differ in column 'caption' \(train: None"):
        HuggingFace(path=path).read()


def test_another_directory_says_what_is_expected(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png(1))

    with pytest.raises(SourceError, match=r"not written by save_to_disk.*found a\.png"):
        HuggingFace(path=str(tmp_path / "images")).read()
    with pytest.raises(SourceError, match="there is no directory"):
        HuggingFace(path=str(tmp_path / "nowhere")).read()


def test_a_damaged_directory_says_so(tmp_path):
    path = saved(birds(6), tmp_path / "birds")
    (tmp_path / "birds" / "state.json").write_text("{")

    with pytest.raises(SourceError, match=r"cannot be read .* write it again"):
        HuggingFace(path=path).read()


@pytest.fixture
def offline(monkeypatch):
    """Do what HF_HUB_OFFLINE=1 does, which both libraries read when they are imported."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("offline")
def test_without_the_hub_the_way_with_a_directory_is_told():
    with pytest.raises(
        SourceError,
        match=r"no directory here, the hub cannot be reached .*"
        r"load_dataset\('nobody-here/no-such-set'\)\.save_to_disk\('directory'\)",
    ):
        HuggingFace(path="nobody-here/no-such-set").read()


def test_an_address_that_nobody_answers_is_given_up(monkeypatch):
    import huggingface_hub

    # A closed port of this machine: refused at once, as without a network.
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")

    with pytest.raises(SourceError, match=r"the hub cannot be reached .*save_to_disk"):
        HuggingFace(path="nobody-here/no-such-set").read()

    assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_a_name_that_cannot_be_one_is_refused():
    with pytest.raises(SourceError, match="neither a directory nor a name on the hub"):
        HuggingFace(path="a/b/c d").read()
