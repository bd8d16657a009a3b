"""Maps over an image share one scale about zero, and marks on words say what they stand for."""

import base64
import io
import re

import numpy as np
import pandas as pd
from PIL import Image

from gsr_core.figures.looking import maps_beside, marked_text, overlap_dots


def test_maps_share_a_scale_about_zero_and_lie_on_their_image():
    seen = np.random.default_rng(0).integers(0, 256, (8, 16, 3), dtype=np.uint8)
    maps = {"before": np.array([[0.1, -0.4]]), "after": np.array([[0.3, 0.2], [0, 0.1]])}
    figure = maps_beside(seen, maps, class_name="dog", unit="nats")
    images = [trace for trace in figure.data if trace.type == "image"]
    drawn = {trace.name: trace for trace in figure.data if trace.type == "heatmap"}
    assert list(drawn) == ["before", "after"]
    for name, trace in drawn.items():
        np.testing.assert_array_equal(trace.z, maps[name])
        assert trace.coloraxis == "coloraxis"
        # From edge to edge of the image, whose pixels have their middles at whole numbers.
        height, width = np.shape(trace.z)
        assert (trace.x0 - trace.dx / 2, trace.x0 + (width - 0.5) * trace.dx) == (-0.5, 15.5)
        assert (trace.y0 - trace.dy / 2, trace.y0 + (height - 0.5) * trace.dy) == (-0.5, 7.5)
    scale = figure.layout.coloraxis
    assert (scale.cmin, scale.cmax) == (-0.4, 0.4)
    # Where nothing speaks for or against the class, the image alone is there.
    assert dict(scale.colorscale)[0.5].endswith(",0.0)")
    assert scale.colorbar.title.text == "nats"
    for image in images:
        kept = Image.open(io.BytesIO(base64.b64decode(image.source.partition(",")[2])))
        pixels = np.asarray(kept)
        assert pixels.shape == seen.shape
        assert (pixels == pixels[..., :1]).all()


def test_maps_without_evidence_still_have_a_scale():
    seen = np.zeros((4, 4, 3), np.uint8)
    figure = maps_beside(seen, {"one": np.zeros((2, 2))}, class_name="dog", unit="nats")
    assert figure.layout.coloraxis.cmin < 0 < figure.layout.coloraxis.cmax


def test_marks_are_as_strong_as_effects_and_texts_stay_what_they_are():
    pieces = ["<script>\n", "a&b  ", "c"]
    text = marked_text(pieces, np.array([0.5, -1.0, 0.0]), most=1.0)
    assert "<script>" not in text
    shown = re.sub("<[^>]*>", "", text)
    assert shown == "&lt;script&gt;\na&amp;b  c"
    colours = re.findall(r"rgba\((\d+),\d+,(\d+),([\d.]+)\)", text)
    strengths = [float(strength) for *_, strength in colours]
    np.testing.assert_allclose(strengths, [0.425, 0.85, 0])
    # Orange speaks for the class, blue against it.
    assert int(colours[0][0]) > int(colours[0][1])
    assert int(colours[1][0]) < int(colours[1][1])
    assert 'title="-1 nats"' in text
    assert "rgba" in marked_text(["x"], np.array([0.0]), most=0.0)


def test_overlaps_stand_about_the_line_of_chance():
    table = pd.DataFrame(
        {
            "label": ["before", "after"],
            "group": ["dog, grass"] * 2,
            "aiou": [0.3, 0.8],
            "low": [0.2, 0.7],
            "high": [0.4, 0.9],
        }
    )
    figure = overlap_dots(table, split="test")
    drawn = {trace.name: trace.x[0] for trace in figure.data}
    assert drawn == {"before": 0.3, "after": 0.8}
    assert [(line.x0, line.x1) for line in figure.layout.shapes if line.yref == "y domain"] == [
        (0.5, 0.5)
    ]
    assert "%{x:.3f}" in figure.data[0].hovertemplate
    assert figure.layout.xaxis.tickformat == ".1f"
    assert figure.layout.xaxis.title.text.startswith("AIoU on test")
