import collections
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gsr_core.data.dataset import define
from gsr_core.errors import SourceError, TrustError
from gsr_core.readers.registry import make_reader

# The unmixed layout: each context of a class in one of the folders only.
UNMIXED = ("train/cat/cat(indoor)", "train/dog/dog(outdoor)", "test/cat/cat(outdoor)",
           "test/dog/dog(indoor)")  # fmt: skip
SUBSETS = [("cat", "indoor"), ("cat", "outdoor"), ("dog", "indoor"), ("dog", "outdoor")]


def save(file: Path, level: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4, 3), level, dtype=np.uint8)).save(file)


def unmixed(folder: Path, subsets=UNMIXED, count: int = 10) -> None:
    for place, subset in enumerate(subsets):
        for row in range(count):
            # Visual Genome's names are numbers.
            save(folder / subset / f"{2315400 + 100 * place + row}.jpg", place)


def mixed(folder: Path) -> dict[str, list[str]]:
    """Write the layout with a minority in train and a balanced set to test on."""
    groups: dict[str, list[str]] = {}
    number = 2315400
    for split, counts in (("train", (12, 6, 6, 12)), ("val_out_of_domain", (5, 5, 5, 5))):
        for (kind, context), count in zip(SUBSETS, counts, strict=True):
            for _ in range(count):
                number += 1
                save(folder / split / kind / f"{number}.jpg", 0)
                groups[str(number)] = [f"{kind}({context})"]
    (folder / "imageID_to_group.pkl").write_bytes(pickle.dumps(groups))
    return groups


def read(folder: Path, **values):
    return make_reader("metashift", {"path": str(folder), **values}).read()


def named(data) -> list[str]:
    """Return each sample's subset in MetaShift's words, from its class and attribute."""
    return [
        f"{data.classes[y]}({context})"
        for y, context in zip(data.samples["y"], data.samples["context"], strict=True)
    ]


def test_the_unmixed_layout_is_pooled_and_split_anew(tmp_path):
    unmixed(tmp_path / "MetaShift-Cat-Dog-indoor-outdoor")
    for place in (tmp_path, tmp_path / "MetaShift-Cat-Dog-indoor-outdoor"):
        data = define(read(place))
        assert data.classes == ["cat", "dog"]
        assert named(data) == [path.split("/")[-2] for path in data.samples["path"]]
        np.testing.assert_array_equal(
            data.membership.argmax(axis=1),
            [SUBSETS.index((n[:3], n[4:-1])) for n in named(data)],
        )
        # Every group is in every part, though the folders keep them apart.
        for split in ("test", "val", "target"):
            assert data.membership[data.samples["split"] == split].any(axis=0).all()
        assert any("those are no splits" in note for note in data.notes)


@pytest.mark.parametrize("way", ["image to groups", "group to images", "sets"])
def test_the_mixed_layout_takes_contexts_from_its_pickle(tmp_path, way):
    groups = mixed(tmp_path)
    turned = collections.defaultdict(set if way == "sets" else list)
    for image, (group,) in groups.items():
        if way == "sets":
            turned[group].add(image)
        else:
            turned[group].append(image)
    if way != "image to groups":
        (tmp_path / "imageID_to_group.pkl").write_bytes(pickle.dumps(turned))
    data = define(read(tmp_path))
    assert len(data) == 56
    assert named(data) == [groups[Path(path).stem][0] for path in data.samples["path"]]
    split = data.samples["split"].to_numpy()
    test = data.samples["path"].str.startswith("val_out_of_domain").to_numpy()
    assert set(split[test]) == {"test"}
    assert set(split[~test]) == {"train", "heldout", "target", "val"}


def test_subpopbenchs_table_gives_the_splits(tmp_path):
    folder = tmp_path / "MetaShift-Cat-Dog-indoor-outdoor"
    unmixed(folder)
    table = pd.DataFrame(
        {"filename": f"/data/theirs/{folder.name}/{subset}/{2315400 + 100 * place + row}.jpg",
         "y": int("cat" in subset), "a": int("indoor" in subset), "split": row % 3}
        for place, subset in enumerate(UNMIXED) for row in range(10)
    )  # fmt: skip
    table.to_csv(tmp_path / "metadata_metashift.csv", index=False)
    for place in (tmp_path, folder):
        data = define(read(place))
        np.testing.assert_array_equal(
            np.array(data.classes)[data.samples["y"]] == "cat", table["y"]
        )
        np.testing.assert_array_equal(data.samples["context"] == "indoor", table["a"])
        np.testing.assert_array_equal(data.samples["split"] == "test", table["split"] == 2)
        assert data.inputs.load(10).mean() == pytest.approx(1, abs=2)
    (folder / "train/cat/cat(indoor)/2315400.jpg").unlink()
    assert any("1 of 40 image files are missing" in note for note in read(folder).notes)


def test_other_classes_and_contexts_can_be_chosen(tmp_path):
    unmixed(tmp_path, [f"{kind}/{kind}({context})" for kind in ("cat", "bus")
                       for context in ("sofa", "snow", "rug")])  # fmt: skip
    data = define(read(tmp_path, classes="", contexts=""))
    assert data.classes == ["bus", "cat"]
    assert len(data.groups) == 6
    data = define(read(tmp_path, classes="cat, bus", contexts="sofa,rug"))
    assert data.classes == ["cat", "bus"]
    assert len(data.groups) == 4
    assert len(data) == 40
    assert set(named(data)) == {"cat(sofa)", "cat(rug)", "bus(sofa)", "bus(rug)"}
    assert [data.inputs.name(row) for row in range(40)] == data.samples["path"].tolist()
    with pytest.raises(SourceError, match="no images of the class 'dog'; found bus, cat"):
        read(tmp_path)
    with pytest.raises(SourceError, match="no images of the context 'indoor'"):
        read(tmp_path, classes="")


class Hostile:
    def __reduce__(self):
        return (open, ("owned", "w"))


def test_a_pickle_that_would_run_code_is_refused(tmp_path, monkeypatch):
    mixed(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imageID_to_group.pkl").write_bytes(pickle.dumps({"1": Hostile()}))
    with pytest.raises(TrustError, match=r"would run .*open"):
        read(tmp_path)
    assert not (tmp_path / "owned").exists()


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(SourceError, match="found nothing: give the folder above train"):
        read(tmp_path)
    groups = mixed(tmp_path)
    file = tmp_path / "imageID_to_group.pkl"
    for content, says in (
        (b"\x80\x04 broken", "cannot be read"),
        (pickle.dumps({"1": 2}), "does not map images to groups"),
        (pickle.dumps({"77": ["cat(indoor)"]}), "names none of the 56 images"),
    ):
        file.write_bytes(content)
        with pytest.raises(SourceError, match=says):
            read(tmp_path)
    file.write_bytes(pickle.dumps(dict(list(groups.items())[1:])))
    source = read(tmp_path)
    assert len(source.table) == len(source.inputs) == 55
    assert "1 images without a context" in source.notes[0]
