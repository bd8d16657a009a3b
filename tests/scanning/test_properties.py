"""What is measured of an image or a text is what it shows."""

import colorsys

import numpy as np
import pytest
from PIL import Image, ImageFilter

from gsr_core.scanning.properties import image_properties, text_properties


def plain_image(colour, shape=(20, 40)):
    return np.broadcast_to(np.array(colour, np.uint8), (*shape, 3)).copy()


@pytest.mark.parametrize(
    ("degrees", "name"),
    [
        (0, "red"),
        (350, "red"),
        (30, "orange"),
        (60, "yellow"),
        (120, "green"),
        (180, "cyan"),
        (225, "blue"),
        (300, "purple"),
    ],
)
def test_the_hue_is_the_part_of_the_colour_circle_with_most_colour(degrees, name):
    colour = 255 * np.array(colorsys.hsv_to_rgb(degrees / 360, 0.8, 0.9))
    image = plain_image(colour.round())
    found = image_properties(image)
    assert found["hue"] == found["border hue"] == name
    assert found["saturation"] == pytest.approx(0.8, abs=0.01)
    # What has no colour outvotes nothing, however much of it there is.
    image[:, 8:] = 0
    assert image_properties(image)["hue"] == name
    # Nor does a little of another colour.
    image[:3, :3] = (255 - colour).round()
    assert image_properties(image)["hue"] == name


def test_grey_has_no_hue_and_its_own_brightness():
    found = image_properties(plain_image((51, 51, 51)))
    assert found["hue"] == "none"
    assert found["brightness"] == pytest.approx(0.2, abs=1e-6)
    assert found["contrast"] == pytest.approx(0, abs=1e-6)
    assert found["saturation"] == 0
    assert found["sharpness"] == pytest.approx(0, abs=1e-9)
    assert (found["aspect"], found["pixels"]) == (2, 800)


def test_the_border_is_the_outer_twentieth():
    image = plain_image((0, 0, 255), (100, 100))
    image[5:-5, 5:-5] = 255
    found = image_properties(image)
    assert found["border hue"] == "blue"
    assert found["border brightness"] == pytest.approx(0.114, abs=1e-6)
    image[5, 5] = (255, 0, 0)  # The first pixel inside.
    assert image_properties(image)["border brightness"] == found["border brightness"]


def test_blur_lowers_sharpness_and_little_else():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 1)).repeat(3, axis=2)
    sharp = Image.fromarray(noise.astype(np.uint8))
    found = [
        image_properties(np.asarray(sharp.filter(ImageFilter.GaussianBlur(radius))))
        for radius in (0, 1, 3)
    ]
    assert found[0]["sharpness"] > 10 * found[1]["sharpness"] > 100 * found[2]["sharpness"] > 0
    assert found[0]["brightness"] == pytest.approx(found[2]["brightness"], abs=0.02)


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (1200, 700)])
def test_any_shape_can_be_measured(shape):
    found = image_properties(plain_image((200, 10, 10), shape))
    assert found["hue"] == "red"
    assert found["pixels"] == shape[0] * shape[1]
    assert np.isnan(found["sharpness"]) == (min(shape) < 3)
    assert set(found) - set(
        image_properties(plain_image((200, 10, 10), shape), original=False)
    ) == {"sharpness", "pixels"}


@pytest.mark.parametrize(
    ("text", "negation"),
    [
        ("Nothing of the note was known.", "yes"),
        ("It isn't here", "yes"),
        ("It isn’t here", "yes"),
        ("A knot, a notion, a nobleman", "no"),
        ("CANNOT", "yes"),
        ("", "no"),
    ],
)
def test_negation_is_a_word_and_no_part_of_one(text, negation):
    assert text_properties([text])["negation"] == negation


def test_a_text_is_counted():
    found = text_properties(["Is it? YES, it's 5!"])
    assert found["words"] == 5
    assert (found["question mark"], found["exclamation mark"]) == ("yes", "yes")
    assert found["punctuation"] == pytest.approx(4 / 19)
    assert found["capitals"] == pytest.approx(4 / 10)
    assert text_properties(["Это кот, a cat"])["script"] == "cyrillic"
    assert text_properties(["12"])["script"] == "none"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("This film is so bad that I left after an hour.", "en"),
        ("Dieser Film ist so schlecht, dass ich nach einer Stunde gegangen bin.", "de"),
        ("Ce film est si mauvais que je suis parti au bout d'une heure.", "fr"),
        ("", "unknown"),
        ("12 + 3!", "unknown"),
    ],
)
def test_the_language_of_a_sentence_is_told_and_nothing_is_said_of_too_little(text, language):
    assert text_properties([text])["language"] == language


def test_a_pair_is_measured_apart_and_together():
    found = text_properties(["The cat sat.", "the cat never sat"])
    assert found["overlap"] == 3 / 4
    assert (found["first negation"], found["second negation"]) == ("no", "yes")
    assert np.isnan(text_properties(["a", ""])["overlap"])
