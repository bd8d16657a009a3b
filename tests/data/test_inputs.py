import io
import os
import pickle
import random
from pathlib import Path, PureWindowsPath

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from gsr_core.data.inputs import (
    ImageArrays,
    ImageBlobs,
    ImageFiles,
    Inputs,
    Numbers,
    Texts,
    escapes,
)
from gsr_core.data.pixels import THUMBNAIL_SIZE, decode_image, thumbnail
from gsr_core.errors import InputError, SourceError

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decoded(content: bytes) -> np.ndarray:
    return decode_image(io.BytesIO(content))


# One image


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_pixels_come_out_as_they_were(kind):
    pixels = decoded(encoded(Image.fromarray(PIXELS), kind))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, PIXELS)
    # torch warns of memory that it may not write to.
    assert pixels.flags.writeable
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_range(kind):
    grey = np.linspace(0, 65535, 35).reshape(5, 7).round().astype(np.uint16)
    pixels = decoded(encoded(Image.fromarray(grey), kind))
    assert pixels.shape == (5, 7, 3)
    np.testing.assert_allclose(pixels, np.repeat(grey[:, :, None] / 257, 3, axis=2), atol=0.51)
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_floating_point_grey_is_a_share_of_white_or_a_level():
    share = np.array([[0, 0.25], [0.5, 1]], dtype=np.float32)
    expected = np.round(share * 255).astype(np.uint8)
    for grey in (share, share * 255):
        pixels = decoded(encoded(Image.fromarray(grey), "TIFF"))
        np.testing.assert_array_equal(pixels, np.repeat(expected[:, :, None], 3, axis=2))
    grey = np.array([[np.nan, -1], [300, 255]], dtype=np.float32)
    pixels = decoded(encoded(Image.fromarray(grey), "TIFF"))
    assert pixels[:, :, 0].tolist() == [[0, 0], [255, 255]]


def test_cmyk_becomes_the_colours_it_prints():
    cmyk = np.random.default_rng(1).integers(0, 256, (5, 7, 4)).astype(np.uint8)
    pixels = decoded(encoded(Image.fromarray(cmyk, "CMYK"), "TIFF"))
    ink = cmyk.astype(float) / 255
    expected = 255 * (1 - ink[:, :, :3]) * (1 - ink[:, :, 3:])
    np.testing.assert_allclose(pixels, expected, atol=1.01)


def test_a_cmyk_jpeg_is_not_inverted():
    # Red: no cyan, all magenta and yellow, no black.
    cmyk = np.zeros((16, 16, 4), dtype=np.uint8)
    cmyk[:, :, 1:3] = 255
    pixels = decoded(encoded(Image.fromarray(cmyk, "CMYK"), "JPEG", quality=95))
    np.testing.assert_allclose(pixels.mean(axis=(0, 1)), [255, 0, 0], atol=4)


def test_a_palette_with_transparency_keeps_its_colours():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    for transparency in (0, bytes([0, 128])):
        pixels = decoded(encoded(image, transparency=transparency))
        assert pixels.tolist() == [[[10, 20, 30], [200, 100, 50]]]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGBA"])
def test_few_channels_become_three_and_transparency_goes(mode):
    image = Image.fromarray(PIXELS).convert(mode)
    if mode == "RGBA":
        image.putalpha(7)
    expected = np.asarray(image)[..., :3] if mode == "RGBA" else np.asarray(image.convert("L"))
    expected = expected if mode == "RGBA" else np.repeat(expected[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(decoded(encoded(image)), expected)


TURNS = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: np.rot90(upright, 2),
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: np.rot90(upright, 2).transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", TURNS)
def test_an_image_is_turned_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    # What a camera stores that notes "turn it so to see it upright".
    stored = np.ascontiguousarray(TURNS[orientation](PIXELS))
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(stored), exif=exif)), PIXELS)


def test_damaged_notes_of_a_camera_do_not_spoil_the_image():
    content = encoded(Image.fromarray(PIXELS), exif=b"Exif\0\0II*\0\xff\xff\xff\xff broken")
    np.testing.assert_array_equal(decoded(content), PIXELS)


def test_a_small_file_that_claims_many_pixels_is_not_unpacked(tmp_path, monkeypatch):
    file = tmp_path / "bomb.png"
    Image.new("1", (13_000, 13_000)).save(file)
    assert file.stat().st_size < 30_000
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("it was unpacked"))
    for given in (file, io.BytesIO(file.read_bytes())):
        with pytest.raises(InputError, match="it has 13,000 × 13,000 pixels; at most 67,108,864"):
            decode_image(given)


def test_deep_grey_is_the_same_in_strips(monkeypatch):
    grey = np.random.default_rng(0).integers(0, 65536, (600, 3)).astype(np.uint16)
    pixels = decoded(encoded(Image.fromarray(grey), "PNG"))
    monkeypatch.setattr("gsr_core.data.pixels._STRIP", 7)
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(grey), "PNG")), pixels)


def test_a_bad_file_says_what_is_wrong(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    bad = {
        "truncated.jpg": (encoded(Image.fromarray(noise), "JPEG")[:2000], "truncated"),
        "truncated.png": (encoded(Image.fromarray(noise))[:5000], "trunc|broken"),
        "empty.jpg": (b"", "the file is empty"),
        "page.jpg": (b"<html>not found</html>", "not an image of a known format"),
    }
    for name, (content, says) in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=says):
            decode_image(tmp_path / name)
    for name in ("missing.jpg", "."):
        with pytest.raises(InputError, match="no such file"):
            decode_image(tmp_path / name)


# Image files


@pytest.mark.parametrize(
    "path",
    ["../a.jpg", "a/../../b.jpg", "..", "/etc/a.jpg", "\\a.jpg", "D:\\a.jpg", "D:a.jpg",
     "a\\..\\..\\b.jpg", "\\\\server\\share\\a.jpg", "a/.."],
)  # fmt: skip
def test_a_path_that_leaves_the_folder_is_refused_with_its_row(tmp_path, path):
    with pytest.raises(SourceError, match="in row 1 does not stay inside"):
        ImageFiles(tmp_path, ["fine.jpg", path])
    assert escapes(path)


def test_what_leaves_is_what_pathlib_says_on_windows():
    letters = random.Random(0)
    leaving = 0
    for _ in range(3000):
        path = "".join(letters.choices([".", "..", "/", "\\", "C", ":", "a", " ", "\n"], k=5))
        parsed = PureWindowsPath(path)
        # From Python 3.12 on any character may name a drive.
        expected = bool(parsed.anchor) or ".." in parsed.parts or path[1:2] == ":"
        leaving += expected
        assert escapes(path) == expected, repr(path)
        if path and expected:
            with pytest.raises(SourceError):
                ImageFiles(Path("folder"), [path])
        elif path:
            ImageFiles(Path("folder"), [path])
    assert 500 < leaving < 2900


@pytest.mark.parametrize("path", ["...", "a..b/c.jpg", "..a", "a/.../b", "~a.jpg", "ü/é.jpg"])
def test_dots_within_names_stay(tmp_path, path):
    assert ImageFiles(tmp_path, [path]).name(0) == path


@pytest.mark.parametrize("path", ["", None, float("nan")])
def test_a_row_without_a_path_is_refused_unless_gaps_are_allowed(tmp_path, path):
    paths = np.array(["a.jpg", path], dtype=object)
    with pytest.raises(SourceError, match="no path in row 1"):
        ImageFiles(tmp_path, paths)
    images = ImageFiles(tmp_path, paths, gaps=True)
    assert images.name(1) == ""
    with pytest.raises(InputError):
        images.load(1)


def test_a_link_to_elsewhere_is_followed(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a.png").write_bytes(encoded(Image.fromarray(PIXELS)))
    (tmp_path / "set").mkdir()
    os.symlink(tmp_path / "store" / "a.png", tmp_path / "set" / "a.png")
    np.testing.assert_array_equal(ImageFiles(tmp_path / "set", ["a.png"]).load(0), PIXELS)


def test_the_digest_of_files_changes_with_them(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(encoded(Image.fromarray(PIXELS)))
    digest = ImageFiles(tmp_path, ["a.png", "b.png", "gone.png"]).digest()
    assert digest == ImageFiles(tmp_path, ["a.png", "b.png", "gone.png"]).digest()
    assert digest != ImageFiles(tmp_path, ["b.png", "a.png", "gone.png"]).digest()
    status = (tmp_path / "a.png").stat()
    os.utime(tmp_path / "a.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    touched = ImageFiles(tmp_path, ["a.png", "b.png", "gone.png"]).digest()
    assert touched != digest
    (tmp_path / "gone.png").write_bytes(b"x")
    assert ImageFiles(tmp_path, ["a.png", "b.png", "gone.png"]).digest() != touched


# Every kind of input


def inputs_of(kind: str, folder: Path) -> tuple[Inputs, list]:
    images = [PIXELS, PIXELS[:, ::-1].copy(), 255 - PIXELS, PIXELS // 2]
    blobs = [encoded(Image.fromarray(image)) for image in images]
    if kind == "files":
        for row, blob in enumerate(blobs):
            (folder / f"{row}.png").write_bytes(blob)
        return ImageFiles(folder, pd.Series([f"{row}.png" for row in range(4)])), images
    if kind == "blobs":
        column = pa.chunked_array([blobs[:1], blobs[1:]])
        return ImageBlobs(column, list("abcd")), images
    if kind == "arrays":
        return ImageArrays(np.stack(images)), images
    if kind == "texts":
        return Texts(list("abcd")), list("abcd")
    if kind == "pairs":
        return Texts(list("abcd"), list("wxyz")), list(zip("abcd", "wxyz", strict=True))
    rows = np.random.default_rng(0).normal(size=(4, 3))
    return Numbers(rows), list(rows.astype(np.float32))


KINDS = ["files", "blobs", "arrays", "texts", "pairs", "numbers"]


@pytest.mark.parametrize("kind", KINDS)
def test_taking_rows_keeps_their_inputs_and_names(tmp_path, kind):
    inputs, items = inputs_of(kind, tmp_path)
    assert len(inputs) == len(items) == 4
    order = np.array([3, 1, 1])
    taken = pickle.loads(pickle.dumps(inputs.take(order)))
    assert len(taken) == 3
    again = taken.take(np.array([2, 0]))
    assert len(again) == 2
    for row, place in enumerate(order):
        np.testing.assert_array_equal(inputs.load(int(place)), items[place])
        np.testing.assert_array_equal(taken.load(row), items[place])
    np.testing.assert_array_equal(again.load(1), items[3])
    if kind in ("files", "blobs"):
        assert [taken.name(row) for row in range(3)] == [inputs.name(row) for row in order]


@pytest.mark.parametrize("kind", KINDS)
def test_a_digest_is_of_the_inputs_and_their_order(tmp_path, kind):
    inputs, _ = inputs_of(kind, tmp_path)
    same, _ = inputs_of(kind, tmp_path) if kind != "files" else (inputs, [])
    digests = {inputs.take(np.array(rows)).digest() for rows in ([0, 1], [1, 0], [0], [0, 1, 1])}
    assert len(digests) == 4
    assert inputs.digest() == same.digest() == inputs.take(np.arange(4)).digest()


def test_texts_that_are_cut_elsewhere_differ():
    assert Texts(["ab", "c"]).digest() != Texts(["a", "bc"]).digest()
    assert Texts(["a", "b"]).digest() != Texts(["a"], ["b"]).digest()


@pytest.mark.parametrize("text", ["", "  \n", None, float("nan")])
def test_an_empty_text_is_refused_and_shown_as_nothing(text):
    texts = np.array(["fine", text], dtype=object)
    with pytest.raises(InputError, match="empty"):
        Texts(texts).load(1)
    with pytest.raises(InputError, match="empty"):
        Texts(["fine", "fine"], texts).load(1)
    assert Texts(texts).load(0) == "fine"
    assert Texts(texts).columns()["text"][1].strip() == ""
    assert Texts(texts).digest()


def test_half_a_character_does_not_stop_the_texts():
    assert Texts(["a\ud800b", "c"]).load(0) == "a?b"


def test_a_blob_that_is_not_there_is_one_bad_row():
    images = ImageBlobs(pa.array([None, b"", b"x"], pa.binary()), ["a", "b", "c"])
    for row, says in enumerate(["no image", "no image", "known format"]):
        with pytest.raises(InputError, match=says):
            images.load(row)
    assert images.digest()


def test_a_thumbnail_is_small_and_looks_alike():
    wide = np.zeros((300, 600, 3), dtype=np.uint8)
    wide[:, 300:] = [200, 60, 20]
    small = thumbnail(wide)
    assert small is not None
    pixels = decoded(small)
    assert pixels.shape == (THUMBNAIL_SIZE // 2, THUMBNAIL_SIZE, 3)
    np.testing.assert_allclose(pixels[:, 100:].mean(axis=(0, 1)), [200, 60, 20], atol=6)
    np.testing.assert_allclose(pixels[:, :28].mean(axis=(0, 1)), [0, 0, 0], atol=6)
    assert thumbnail("a text") is None
    assert thumbnail(np.zeros(3, dtype=np.float32)) is None
