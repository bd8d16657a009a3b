"""Every fixture is a release's folder in small, which the wilds package itself opens."""

import pickle

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gsr_core.data.dataset import define
from gsr_core.data.inputs import ImageFiles
from gsr_core.errors import InputError, SourceError
from gsr_core.readers.civilcomments import IDENTITIES, CivilComments
from gsr_core.readers.registry import make_reader
from gsr_core.readers.wilds import Wilds, WildsImages

wilds = pytest.importorskip("wilds")
SCORES = ("severe_toxicity", "obscene", "threat", "insult", "identity_attack", "sexual_explicit")


def release(root, name, version="1.0"):
    folder = root / f"{name}_v{version}"
    folder.mkdir(parents=True)
    (folder / f"RELEASE_v{version}.txt").write_text("")
    return folder


def picture(file, number):
    file.parent.mkdir(parents=True, exist_ok=True)
    colour = (number % 256, number // 256, 9)
    Image.new("RGB", (12, 8), colour).save(file)


def waterbirds(root, n=72):
    folder = release(root, "waterbirds")
    table = pd.DataFrame(
        {
            "img_id": range(1, n + 1),
            "img_filename": [f"{i % 3:03d}.Bird/Bird_{i}.jpg" for i in range(n)],
            "y": [i % 2 for i in range(n)],
            "split": [i // 2 % 3 for i in range(n)],
            "place": [i // 6 % 2 for i in range(n)],
            "place_filename": [f"/f/forest/{i}.jpg" for i in range(n)],
        }
    )
    table.to_csv(folder / "metadata.csv", index=False)
    for number, path in enumerate(table["img_filename"]):
        picture(folder / path, number)
    return table


def civilcomments(root, n=240):
    folder = release(root, "civilcomments")
    generator = np.random.default_rng(0)
    columns = [*IDENTITIES, "identity_any", *SCORES, "toxicity"]
    table = pd.DataFrame(
        {
            "id": range(100, 100 + n),
            "comment_text": [f"Comment {i},\nin two lines" for i in range(n)],
            "split": [("train", "val", "test")[i % 3] for i in range(n)],
            **{column: generator.choice([0.0, 0.3, 0.5, 0.9], n) for column in columns},
        }
    )
    table.to_csv(folder / "all_data_with_identities.csv")
    return table


def camelyon(root, n=80):
    folder = release(root, "camelyon17")
    table = pd.DataFrame(
        {
            "patient": [f"{i % 5 * 20 + 4:03d}" for i in range(n)],
            "node": [i % 4 for i in range(n)],
            "x_coord": range(3000, 3000 + n),
            "y_coord": range(7000, 7000 + n),
            "tumor": [i // 5 % 2 for i in range(n)],
            "slide": [i % 50 for i in range(n)],
            "center": [i % 5 for i in range(n)],
            "split": [int(i % 20 == 0) for i in range(n)],
        }
    )
    table.to_csv(folder / "metadata.csv")
    for number, (patient, node, x, y) in enumerate(
        table[["patient", "node", "x_coord", "y_coord"]].itertuples(index=False, name=None)
    ):
        stem = f"patient_{patient}_node_{node}"
        picture(folder / "patches" / stem / f"patch_{stem}_x_{x}_y_{y}.png", number)
    return table


def fmow(root, n=60):
    folder = release(root, "fmow", "1.1")
    table = pd.DataFrame(
        {
            "split": [("train", "val", "test", "seq")[i % 4] for i in range(n)],
            "img_filename": [f"airport_{i}_rgb.jpg" for i in range(n)],
            "category": [("airport", "airport_hangar")[i // 4 % 2] for i in range(n)],
            "country_code": [("FRA", "KEN", "USA")[i % 3] for i in range(n)],
            "timestamp": [f"{2010 + i % 7}-05-01T10:00:00Z" for i in range(n)],
        }
    )
    table.to_csv(folder / "rgb_metadata.csv", index=False)
    pd.DataFrame(
        {"alpha-3": ["FRA", "KEN", "USA"], "region": ["Europe", "Africa", "Americas"]}
    ).to_csv(folder / "country_code_mapping.csv", index=False)
    for number in range(n):
        picture(folder / "images" / f"rgb_img_{number}.png", number)
    return table


def test_waterbirds_has_the_package_s_names_groups_and_splits(tmp_path):
    table = waterbirds(tmp_path)

    source = make_reader("wilds", {"path": "waterbirds", "root": str(tmp_path)}).read()
    dataset = define(source)

    assert isinstance(source.inputs, ImageFiles)
    assert dataset.classes == ["landbird", "waterbird"]
    assert [group.name for group in dataset.groups] == [
        "landbird, land",
        "landbird, water",
        "waterbird, land",
        "waterbird, water",
    ]
    np.testing.assert_array_equal(
        dataset.membership.argmax(axis=1), table["y"] * 2 + table["place"]
    )
    part = {"train": 0, "heldout": 0, "target": 1, "val": 1, "test": 2}
    np.testing.assert_array_equal(dataset.samples["split"].map(part), table["split"])
    assert source.inputs.name(7) == table["img_filename"][7]


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_images_are_those_the_package_gives(tmp_path):
    waterbirds(tmp_path)
    dataset = wilds.get_dataset("waterbirds", root_dir=str(tmp_path))

    inputs = Wilds(path=str(tmp_path / "waterbirds_v1.0")).read().inputs

    for row in (0, 5, 71):
        np.testing.assert_array_equal(inputs.load(row), np.asarray(dataset[row][0]))


def test_where_the_package_fails_the_own_reader_is_named(tmp_path):
    """With pandas 3 wilds 2.0 writes into a protected array; without, it reads the release."""
    folder = release(tmp_path, "celebA")
    names = [f"{i + 1:06d}.jpg" for i in range(24)]
    pd.DataFrame(
        {"image_id": names, "Blond_Hair": [1, -1] * 12, "Male": [1, 1, -1, -1] * 6}
    ).to_csv(folder / "list_attr_celeba.csv", index=False)
    pd.DataFrame({"image_id": names, "partition": [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2] * 2}).to_csv(
        folder / "list_eval_partition.csv", index=False
    )
    for number, name in enumerate(names):
        picture(folder / "img_align_celeba" / name, number)

    try:
        dataset = define(Wilds(path="celebA", root=str(tmp_path)).read())
    except SourceError as error:
        assert "with pandas 3" in str(error)  # noqa: PT017
        assert "use the reader celeba" in str(error)  # noqa: PT017
    else:
        assert dataset.classes == ["not blond", "blond"]
        assert len(dataset.groups) == 4
        assert dataset.inputs.name(3) == "000004.jpg"


def test_civilcomments_agrees_with_its_own_reader(tmp_path):
    civilcomments(tmp_path)
    folder = tmp_path / "civilcomments_v1.0"

    through = define(Wilds(path=str(folder)).read())
    direct = define(CivilComments(path=str(folder)).read())

    assert [group.name for group in through.groups] == [group.name for group in direct.groups]
    assert len(through.groups) == 16
    np.testing.assert_array_equal(through.membership, direct.membership)
    assert through.inputs.digest() == direct.inputs.digest()
    for column in ("y", "split", *IDENTITIES):
        np.testing.assert_array_equal(through.samples[column], direct.samples[column])


def test_splits_within_the_training_domain_are_left_out_and_named(tmp_path):
    table = camelyon(tmp_path)

    source = Wilds(path=str(tmp_path / "camelyon17_v1.0")).read()
    dataset = define(source)

    centre = table["center"].to_numpy()
    within = (table["split"] == 1).to_numpy() & ~np.isin(centre, [1, 2])
    assert 0 < within.sum() < len(table)
    assert any(f"{within.sum()} rows of camelyon17's split 'id_val'" in n for n in source.notes)
    np.testing.assert_array_equal(dataset.rows, np.flatnonzero(~within))
    split = dataset.samples["split"].to_numpy()
    np.testing.assert_array_equal(split == "test", centre[~within] == 2)
    np.testing.assert_array_equal(np.isin(split, ["target", "val"]), centre[~within] == 1)


def test_images_that_only_the_package_can_find_are_read_through_it(tmp_path):
    table = fmow(tmp_path)

    source = Wilds(path="fmow", root=str(tmp_path)).read()

    assert isinstance(source.inputs, WildsImages)
    kept = np.flatnonzero(table["split"] != "seq")
    assert len(source.inputs) == len(kept)
    for row in (0, 11, len(kept) - 1):
        np.testing.assert_array_equal(source.inputs.load(row)[0, 0], [kept[row], 0, 9])
    assert source.names["region"] == {0: "Europe", 1: "Africa", 2: "Americas"}
    few = pickle.loads(pickle.dumps(source.inputs.take(np.array([4, 2]))))
    np.testing.assert_array_equal(few.load(0), source.inputs.load(4))
    assert few.digest() != source.inputs.take(np.array([2, 4])).digest()
    (tmp_path / "fmow_v1.1" / "images" / f"rgb_img_{kept[3]}.png").unlink()
    with pytest.raises(InputError, match="No such file"):
        source.inputs.load(3)


def test_a_data_set_that_is_not_there_is_not_downloaded(tmp_path):
    with pytest.raises(SourceError, match=r"waterbirds is not in .*waterbirds_v1\.0 .*download"):
        Wilds(path="waterbirds", root=str(tmp_path)).read()
    with pytest.raises(SourceError, match=r"there is no folder .*nowhere"):
        Wilds(path="waterbirds", root=str(tmp_path / "nowhere")).read()

    assert list(tmp_path.iterdir()) == []


def test_an_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(SourceError, match=r"no data set 'waterbird'.*waterbirds"):
        Wilds(path="waterbird", root=str(tmp_path)).read()


def test_a_damaged_release_says_what_the_package_said(tmp_path):
    waterbirds(tmp_path).drop(columns="place").to_csv(
        tmp_path / "waterbirds_v1.0" / "metadata.csv", index=False
    )

    with pytest.raises(SourceError, match=r"KeyError: 'place'.*unchanged release.*the reader"):
        Wilds(path="waterbirds", root=str(tmp_path)).read()


def test_a_release_without_images_is_refused_at_once(tmp_path):
    table = waterbirds(tmp_path)
    for path in table["img_filename"]:
        (tmp_path / "waterbirds_v1.0" / path).unlink()

    with pytest.raises(SourceError, match="first image of waterbirds cannot be opened"):
        Wilds(path="waterbirds", root=str(tmp_path)).read()


def test_empty_comments_are_counted(tmp_path):
    table = civilcomments(tmp_path)
    table.loc[[4, 9], "comment_text"] = ["", " "]
    table.to_csv(tmp_path / "civilcomments_v1.0" / "all_data_with_identities.csv")

    source = Wilds(path="civilcomments", root=str(tmp_path)).read()

    assert "2 of 240 rows have an empty text (the first is row 4)" in source.notes[0]


@pytest.mark.parametrize("name", ["globalwheat", "poverty", "py150"])
def test_what_is_no_classification_is_refused_before_it_is_downloaded(tmp_path, name):
    with pytest.raises(SourceError, match=rf"{name} of WILDS is not a classification"):
        Wilds(path=name, root=str(tmp_path), download=True).read()

    assert list(tmp_path.iterdir()) == []
