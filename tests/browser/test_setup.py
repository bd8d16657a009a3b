"""From nothing to a bundle: empty pages, the example in one click, arrays of one's own."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from playwright.sync_api import expect


def test_a_page_without_data_shows_the_way_to_it(empty_screen):
    """What each page says then is looked at without a browser."""
    empty_screen.open("Audit")
    empty_screen.click(empty_screen.page.get_by_role("link", name="Go to Setup"))
    empty_screen.arrive("Setup")
    empty_screen.page.goto(empty_screen.url)
    empty_screen.arrive("Setup")
    # Nothing to import has been looked at yet.
    expect(empty_screen.page.get_by_role("button", name="Import", exact=True)).to_have_count(0)


def test_the_example_takes_one_click(empty_screen, empty_dashboard):
    page = empty_screen.page
    empty_screen.open("Setup")
    expect(page.get_by_role("button", name="Look at the data", exact=True)).to_be_visible()
    empty_screen.press("Prepare the example")
    progress = page.get_by_text(re.compile(r"Training SimConv-1: epoch \d of \d"))
    expect(progress).to_be_visible()
    expect(page.get_by_text("Samples of each group in each split")).to_be_visible(timeout=600_000)
    empty_screen.idle()
    assert empty_screen.metric("Samples") == "4,221"
    assert empty_screen.metric("Groups") == "4"
    empty_screen.chart("sizes")
    expect(empty_screen.keyed("strip 1").locator("img").first).to_be_visible()
    # The classifier as it came is scored without being asked for.
    empty_screen.click(page.get_by_role("link", name="Next: where does the classifier fail?"))
    empty_screen.arrive("Audit")
    expect(page.get_by_text(re.compile("Worst group: "))).to_be_visible()
    assert empty_dashboard.bundle().features.shape == (4221, 64)
    # Only the classifier as it came has been scored.
    empty_screen.follow("Weights")
    expect(page.get_by_text("ERM gives no sample weights")).to_be_visible()
    empty_screen.click(page.get_by_role("link", name="Start a run"))
    empty_screen.arrive("Run")


def arrays(n: int = 120) -> dict[str, np.ndarray]:
    """Return a file's arrays: two groups that a line separates, and noise."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 2
    return {
        "features": (rng.normal(size=(n, 5)) + 2 * y[:, None]).astype(np.float32),
        "y": y,
        "group": np.arange(n) // 2 % 2,
        "split": np.array(["heldout", "target", "val", "test"])[np.arange(n) // 4 % 4],
    }


def look_at(screen, file: Path, *, upload: bool = False) -> None:
    """Look at a file of arrays, from whichever state Setup is in."""
    screen.open("Setup")
    more = screen.page.get_by_text("Add another data set")
    if more.count():
        screen.click(more)
    screen.choose("What do you have?", "Arrays (.npz)")
    # The field of the path is that of the reader; what is typed into the last one's is lost.
    path = screen.page.get_by_label("Path on the machine that runs this dashboard", exact=True)
    expect(path).to_have_attribute("placeholder", "the .npz file")
    if upload:
        screen.click(screen.page.get_by_text("Or upload the file"))
        screen.page.locator("input[type=file]").set_input_files(file)
        expect(screen.page.get_by_text(file.name)).to_be_visible()
        screen.idle()
    else:
        screen.enter("Path on the machine that runs this dashboard", file)
    screen.press("Look at the data")


def import_file(screen, file: Path, name: str, *, upload: bool = False) -> None:
    """Look at a good file and import it."""
    look_at(screen, file, upload=upload)
    screen.enter("Name of the bundle", name)
    screen.press("Import")


def test_a_good_file_opens(empty_screen, empty_dashboard, tmp_path: Path):
    file = tmp_path / "birds.npz"
    np.savez(file, **arrays())
    import_file(empty_screen, file, "birds")
    empty_screen.wait_query(bundle="birds")
    expect(empty_screen.box("Bundle")).to_have_value("birds")
    empty_screen.idle()
    assert empty_screen.metric("Samples") == "120"
    expect(empty_screen.page.get_by_text("This bundle holds no images, texts")).to_be_visible()
    assert len(empty_dashboard.bundle("birds")) == 120


def test_an_uploaded_file_opens(empty_screen, tmp_path: Path):
    file = tmp_path / "upload.npz"
    np.savez(file, **arrays())
    import_file(empty_screen, file, "uploaded", upload=True)
    empty_screen.wait_query(bundle="uploaded")
    expect(empty_screen.box("Bundle")).to_have_value("uploaded")


def without_y(file: Path) -> None:
    np.savez(file, **{key: value for key, value in arrays().items() if key != "y"})


def with_nan(file: Path) -> None:
    values = arrays()
    values["features"][17, 2] = np.nan
    np.savez(file, **values)


def cut_short(file: Path) -> None:
    np.savez(file, **arrays())
    file.write_bytes(file.read_bytes()[:1000])


def with_text(file: Path) -> None:
    file.write_text("no arrays at all")


BAD_FILES: list[tuple[Callable[[Path], None], str]] = [
    (without_y, "array 'y' is missing"),
    (cut_short, "is not a whole .npz file"),
    (lambda file: None, "there is no file"),
    (with_text, "is not a whole .npz file"),
]
"""How each is made, and what is said of it, which is never what was said before."""


def test_a_bad_file_gets_one_sentence(empty_screen, empty_dashboard, tmp_path: Path):
    before = sorted(empty_dashboard.workspace.bundles.glob("*"))
    for number, (make, sentence) in enumerate(BAD_FILES):
        file = tmp_path / f"bad-{number}.npz"
        make(file)
        if number:
            empty_screen.enter("Path on the machine that runs this dashboard", file)
            empty_screen.press("Look at the data")
        else:
            look_at(empty_screen, file)
        alert = empty_screen.page.get_by_test_id("stAlertContentError")
        expect(alert).to_have_text(re.compile(sentence, re.IGNORECASE))
        empty_screen.idle()
        empty_screen.sound()
        assert alert.count() == 1
        assert "\n" not in alert.inner_text().strip()
    assert sorted(empty_dashboard.workspace.bundles.glob("*")) == before


def test_numbers_that_are_none_fail_the_import_with_one_sentence(
    empty_screen, empty_dashboard, tmp_path: Path
):
    """They are only looked at when the bundle is written: there may be many."""
    file = tmp_path / "nan.npz"
    with_nan(file)
    import_file(empty_screen, file, "nan")
    alert = empty_screen.page.get_by_test_id("stAlertContentError")
    expect(alert).to_have_text(re.compile(r"features .*nan.* row 17", re.IGNORECASE))
    empty_screen.idle()
    empty_screen.sound()
    assert not (empty_dashboard.workspace.bundles / "nan").exists()
    empty_screen.press("Dismiss")
    expect(alert).to_have_count(0)


def test_a_name_that_cannot_be_is_refused(
    empty_screen, empty_dashboard, digits_bundle, tmp_path: Path
):
    taken = empty_dashboard.workspace.bundles / "coloured-digits"
    shutil.copytree(digits_bundle.path, taken)
    file = tmp_path / "good.npz"
    np.savez(file, **arrays())
    before = sorted(empty_dashboard.workspace.root.parent.rglob("manifest.json"))
    look_at(empty_screen, file)
    for name in ("coloured-digits", "../outside", "a/b"):
        empty_screen.enter("Name of the bundle", name)
        empty_screen.press("Import")
        alert = empty_screen.page.get_by_test_id("stAlertContentError")
        expect(alert).to_contain_text(name)
        empty_screen.idle()
        empty_screen.sound()
    assert sorted(empty_dashboard.workspace.root.parent.rglob("manifest.json")) == before
    assert len(empty_dashboard.bundle()) == 4221
