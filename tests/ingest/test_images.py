"""From a folder of images to a bundle, through a network that is really loaded and run."""

import csv
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gsr_core
from gsr_core.data.inputs import ImageFiles
from gsr_core.errors import DeviceError, GsrError, RunStateError, SettingError
from gsr_core.features.backbones import build, load_backbone, save_checkpoint
from gsr_core.features.extract import extract
from gsr_core.ingest.importing import import_data
from gsr_core.ingest.plan import BackboneChoice, make_plan, plan_of
from gsr_core.ingest.sight import crop_warning, image_preprocessing, sights
from gsr_core.runs.execute import run
from gsr_core.runs.export import export_run
from gsr_core.runs.samples import sample_table
from gsr_core.workspace import Workspace

N = 120
ROOT = Path(gsr_core.__file__).parents[1]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("birds")
    runpy.run_path(str(ROOT / "examples" / "make_birds.py"))["make_birds"](folder, N, size=32)
    return folder


@pytest.fixture
def birds(drawn, tmp_path) -> Path:
    """A copy, so that a test can spoil its own."""
    return Path(shutil.copytree(drawn, tmp_path / "birds"))


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    torch.manual_seed(0)
    save_checkpoint(build("simconv1", 2), tmp_path / "network.safetensors")
    return tmp_path / "network.safetensors"


@pytest.fixture
def plan(birds, checkpoint):
    return make_plan(
        name="birds",
        reader="waterbirds",
        settings={"path": str(birds)},
        roles={"split": {"heldout": 0.5}},
        backbone={"name": "simconv1", "checkpoint": str(checkpoint)},
        extraction={"device": "cpu", "workers": 0},
    )


def spoil(birds: Path, number: int) -> str:
    name = sorted(str(file.relative_to(birds)) for file in birds.rglob("*.png"))[number]
    content = (birds / name).read_bytes()
    (birds / name).unlink()
    (birds / name).write_bytes(content[: len(content) // 2])
    return name


def make_images(folder: Path, height: int, width: int, count: int = 3) -> ImageFiles:
    folder.mkdir()
    names = [f"{place}.png" for place in range(count)]
    for name in names:
        Image.new("RGB", (width, height), "white").save(folder / name)
    return ImageFiles(folder, names)


@pytest.mark.parametrize(
    ("shape", "overrides", "lost"),
    [
        ((64, 64), {}, ""),
        ((64, 72), {}, ""),
        ((64, 128), {}, "62%"),
        ((64, 128), {"fit": "longest"}, ""),
        ((64, 128), {"fit": "both"}, ""),
        ((64, 64), {"image_size": 100, "resize": 200}, "75%"),
    ],
)
def test_a_crop_is_warned_of_where_it_loses_more_than_a_margin(tmp_path, shape, overrides, lost):
    inputs = make_images(tmp_path / "images", *shape)
    choice = BackboneChoice(name="torchvision:resnet18", overrides=overrides)
    preprocessing = image_preprocessing(choice)
    warning = crop_warning(preprocessing, inputs)
    assert bool(warning) == bool(lost)
    if lost:
        assert f"loses up to {lost} of an image: of 3 images looked at, 3 lose more" in warning
    seen = sights(preprocessing, inputs)
    assert [each.name for each in seen] == ["0.png", "1.png", "2.png"]
    assert seen[0].kept == pytest.approx(preprocessing.kept(*reversed(shape)))


def test_a_network_is_loaded_for_its_preprocessing_only_when_asked(tmp_path, checkpoint):
    known = BackboneChoice(name="simconv1", overrides={"image_size": 64})
    assert image_preprocessing(known).image_size == 64
    with pytest.raises(SettingError, match="image_size"):
        image_preprocessing(known.model_copy(update={"overrides": {"image_size": 0}}))
    own = BackboneChoice(name="torchscript:none.pt", trust=True)
    assert image_preprocessing(own) is None
    with pytest.raises(GsrError, match=r"none\.pt"):
        image_preprocessing(own, load=True)


def test_a_crop_that_loses_much_is_among_the_notes(workspace, plan, tmp_path):
    assert not [note for note in import_data(workspace, plan).manifest.notes if "crop" in note]
    choice = plan.backbone.model_copy(update={"overrides": {"resize": 80, "image_size": 32}})
    bundle = import_data(workspace, plan.model_copy(update={"backbone": choice, "name": "cut"}))
    (note,) = [note for note in bundle.manifest.notes if "crop" in note]
    assert "--preprocess fit=both" in note


def test_a_folder_of_images_becomes_a_bundle_and_a_run(workspace, plan, birds, checkpoint):
    bundle = import_data(workspace, plan)
    assert bundle.group_names[0] == "landbird, land"
    direct = extract(
        load_backbone("simconv1", checkpoint),
        ImageFiles(birds, bundle.samples["path"].tolist()),
        device=torch.device("cpu"),
        workers=0,
    )
    np.testing.assert_allclose(bundle.features, direct.features, rtol=1e-5, atol=1e-6)
    assert bundle.head is not None
    assert bundle.thumbnail(0)[:4] == b"RIFF"
    assert bundle.manifest.recipe["preprocessing"]["image_size"] == 32
    assert plan_of(bundle) == plan
    assert run(workspace, "birds", "gsr", device="cpu", steps=2).state.step == 2


def test_nothing_is_extracted_twice(workspace, plan):
    first = import_data(workspace, plan)
    roles = {**plan.roles, "groups": {"with_class": False}}
    second = import_data(workspace, plan.model_copy(update={"name": "places", "roles": roles}))
    assert second.group_names == ["land", "water"]
    one, two = ((bundle.path / "features.npy").stat().st_ino for bundle in (first, second))
    assert one == two


def test_bad_images_stop_the_import_or_are_left_out(workspace, plan, birds):
    whole = import_data(workspace, plan)
    name = spoil(birds, 5)
    with pytest.raises(GsrError, match=name.replace(".", r"\.")):
        import_data(workspace, plan.model_copy(update={"name": "stopped"}))
    assert not (workspace.bundles / "stopped").exists()
    skip = plan.extraction.model_copy(update={"on_bad": "skip"})
    rest = import_data(workspace, plan.model_copy(update={"name": "rest", "extraction": skip}))
    assert len(rest) == N - 1
    assert name not in set(rest.samples["path"])
    assert any(
        note.startswith(f"1 inputs could not be read and were left out (first: {name}: ")
        for note in rest.manifest.notes
    )
    kept = (whole.samples["path"] != name).to_numpy()
    np.testing.assert_allclose(rest.features, whole.features[kept], rtol=1e-5, atol=1e-6)
    shown = [rest.thumbnail(row) for row in range(3)]
    assert shown == [whole.thumbnail(int(row)) for row in np.flatnonzero(kept)[:3]]
    again = import_data(workspace, plan.model_copy(update={"name": "again", "extraction": skip}))
    assert np.array_equal(again.features, rest.features)


def test_a_stopped_import_leaves_no_bundle_and_goes_on(workspace, plan):
    small = plan.model_copy(
        update={"extraction": plan.extraction.model_copy(update={"batch_size": 16})}
    )
    asked = iter([False, True])
    with pytest.raises(RunStateError, match="was stopped"):
        import_data(workspace, small, should_stop=lambda: next(asked, True))
    assert not list(workspace.bundles.glob("*"))
    told = []
    bundle = import_data(workspace, small, progress=lambda fraction, text: told.append(text))
    assert len(bundle) == N
    counts = [text for text in told if text.startswith("Extracting")]
    assert int(counts[0].split(": ")[1].split(" of")[0]) > 16


def test_a_network_is_trained_on_train_rows_only_and_then_used(workspace, plan, birds):
    trained = plan.model_copy(
        update={
            "backbone": plan.backbone.model_copy(update={"checkpoint": ""}),
            "training": make_plan(
                **{
                    **plan.model_dump(),
                    "training": {
                        "preset": "quick",
                        "settings": {"epochs": 1, "batch_size": 16, "workers": 0},
                    },
                }
            ).training,
        }
    )
    bundle = import_data(workspace, trained)
    assert bundle.manifest.backbone["training"].startswith("plain ERM on train: AdamW, 1 epochs")
    features = bundle.features.copy()
    # Other labels on rows that are not for training change nothing about the network.
    table = (birds / "metadata.csv").read_text().splitlines()
    header = table[0].split(",")
    split, y = header.index("split"), header.index("y")
    cells = [line.split(",") for line in table[1:]]
    for row in cells:
        if row[split] == "2":
            row[y] = str(1 - int(row[y]))
    (birds / "metadata.csv").unlink()
    (birds / "metadata.csv").write_text(
        "\n".join([table[0], *(",".join(row) for row in cells)]) + "\n"
    )
    other = import_data(workspace, trained.model_copy(update={"name": "flipped"}))
    np.testing.assert_allclose(other.features, features, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"backbone": None}, SettingError, "images become features by a trained network"),
        ({"extraction": {"device": "cuda:77"}}, DeviceError, "cuda:77"),
        (
            {"backbone": {"name": "sentence:/nowhere"}},
            GsrError,
            "nowhere",
        ),
        ({"backbone": {"name": "simconv1", "checkpoint": "no.pt"}}, GsrError, "no checkpoint"),
        (
            {"roles": {"split": {"heldout": 1}}, "training": {"preset": "quick"}},
            SettingError,
            "no train rows to train",
        ),
    ],
)
def test_what_does_not_fit_is_said_before_hours_are_spent(workspace, plan, change, error, message):
    with pytest.raises(error, match=message):
        import_data(workspace, make_plan(**{**plan.model_dump(), **change}))
    assert not list(workspace.bundles.glob("*"))


def test_an_export_classifies_images_through_the_network_that_gave_the_features(
    workspace, plan, birds, tmp_path
):
    bundle = import_data(workspace, plan)
    done = run(workspace, "birds", "erm", device="cpu")
    export_run(done, tmp_path / "mine")
    rows = bundle.rows_of["test"][:3]
    files = [str(birds / bundle.column("path")[int(row)].as_py()) for row in rows]
    command = [sys.executable, str(tmp_path / "mine" / "use.py"), *files]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    _, *lines = csv.reader(answer.stdout.splitlines())
    table = sample_table(done, "test").set_index("row").loc[rows]
    assert [line[0] for line in lines] == files
    assert [line[1] for line in lines] == [
        bundle.manifest.classes[prediction] for prediction in table["prediction"]
    ]
    # Another network's weights are refused.
    torch.manual_seed(1)
    save_checkpoint(build("simconv1", 2), tmp_path / "other.safetensors")
    command += ["--checkpoint", str(tmp_path / "other.safetensors")]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "are not those that the features came from" in refused.stderr
