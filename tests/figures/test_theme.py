import itertools
import json

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from gsr_core.figures import theme


def luminance(colour: str) -> float:
    c = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(a: str, b: str) -> float:
    low, high = sorted([luminance(a), luminance(b)])
    return (high + 0.05) / (low + 0.05)


NAMES = [f"g{i}" for i in range(16)]


def test_a_groups_colour_depends_on_its_place_only():
    assert list(theme.group_colours(["a", "b", "c"]).values()) == list(
        theme.group_colours(["x", "y", "z"]).values()
    )
    assert theme.group_colours(NAMES)["g2"] == theme.group_colours(NAMES[:3])["g2"]


def test_unknown_is_grey_and_takes_up_no_place():
    colours = theme.group_colours(["a", "unknown", "b"])
    assert colours == {**theme.group_colours(["a", "b"]), "unknown": theme.UNKNOWN}
    assert list(colours) == ["a", "unknown", "b"]


def test_sixteen_groups_differ_in_colour_and_more_in_dash():
    assert len(set(theme.group_colours(NAMES).values())) == 16
    many = [f"g{i}" for i in range(40)]
    looks = zip(theme.group_colours(many).values(), theme.group_dashes(many).values(), strict=True)
    assert len(set(list(looks)[:32])) == 32


@pytest.mark.parametrize("page", ["#ffffff", "#0e1117"])
def test_colours_stand_out_on_both_pages(page):
    for colour in list(theme.group_colours(NAMES[:8]).values()):
        assert contrast(colour, page) > 2.2
    for colour in (theme.ACCENT, theme.MUTED, theme.HELPS, theme.HARMS):
        assert contrast(colour, page) > 3


@pytest.mark.parametrize(("dark", "page"), [(False, "#ffffff"), (True, "#0e1117")])
def test_finish_gives_legible_ink_on_a_transparent_page(dark, page):
    figure = theme.finish(go.Figure(), dark)
    layout = figure.layout.template.layout
    assert contrast(layout.font.color, page) > 4.5
    assert layout.paper_bgcolor == "rgba(0,0,0,0)"


def test_the_signed_scale_is_blue_below_and_orange_above():
    low, high = theme.DIVERGING[0][1], theme.DIVERGING[-1][1]
    assert int(low[5:], 16) > int(low[1:3], 16)
    assert int(high[1:3], 16) > int(high[5:], 16)
    assert theme.DIVERGING[2] == [0.5, theme.NEUTRAL]


def test_category_codes_name_the_colour_of_each_point():
    colours = {"a": "#000001", "b": "#000002"}
    codes, marker = theme.category_codes(pd.Series(["b", "a", "c"]), colours)
    assert codes.tolist() == [1, 0, 2]
    assert codes.dtype == np.int8
    middle = [(code - marker["cmin"]) / (marker["cmax"] - marker["cmin"]) for code in codes]
    for at, want in zip(middle, ["#000002", "#000001", theme.UNKNOWN], strict=True):
        bands = [(a, b) for a, b in itertools.pairwise(marker["colorscale"]) if a[0] < at < b[0]]
        assert [(a[1], b[1]) for a, b in bands] == [(want, want)]


def test_short_keeps_both_ends():
    assert theme.short("short") == "short"
    cut = theme.short("a" * 30 + "b" * 30, 21)
    assert len(cut) == 21
    assert cut.startswith("aaa")
    assert cut.endswith("bbb")


def test_two_names_never_look_the_same_once_cut():
    names = [f"GSR · l2 0.01 · lr {lr} · temperature 0.5 · steps 1000" for lr in (0.1, 0.2)]
    assert len({theme.short(name) for name in names}) == 1
    cut = theme.shortened([*names, "ERM"])
    assert len(set(cut)) == 3
    assert max(map(len, cut)) < len(names[0])
    assert theme.shortened(names, 60) == names
    # The same twice is no reason to say all of it.
    assert theme.shortened([names[0], names[0]]) == [theme.short(names[0])] * 2
    assert theme.named_rows(names)["ticktext"] == theme.shortened(names)


@pytest.mark.parametrize("values", [[0.5], [0.0], [1.0], [0.1, 0.9], [np.nan], []])
def test_a_fraction_range_holds_the_values_and_is_not_tiny(values):
    low, high = theme.fraction_range(values)
    assert all(low <= v <= high for v in values if not np.isnan(v))
    assert high - low >= 0.19
    assert low >= -0.02
    assert high <= 1.02


def test_ink_turns_black_on_the_light_end():
    assert theme.ink_on(0) == "#ffffff"
    assert theme.ink_on(1) == "#000000"


def test_a_name_that_is_a_tag_is_shown_as_it_is_and_our_own_tags_still_work():
    name = "<a href='https://evil.example'>x</a><img src=y>"
    figure = go.Figure(
        go.Bar(
            x=[name, "b"],
            y=[1, 2],
            name=name,
            customdata=np.array([[name], ["b"]], dtype=object),
            hovertemplate=f"<b>{name}</b><br>%{{y}}<extra></extra>",
        )
    )
    figure.update_layout(xaxis={"ticktext": [name], "tickvals": [0]})
    figure.add_annotation(text=f"<i>{name}</i>", x=0, y=1)
    shown = json.dumps(json.loads(theme.finish(figure).to_json()))
    assert "<a" not in shown
    assert "<img" not in shown
    assert shown.count("&lt;a href") == 6
    for own in ("<b>", "</b>", "<br>", "<i>", "<extra>"):
        assert own in shown


def test_a_figure_of_numbers_is_left_alone():
    values = np.arange(5.0)
    figure = theme.finish(go.Figure(go.Scatter(x=values, y=values, name="a < b")))
    assert figure.data[0].name == "a &lt; b"
    np.testing.assert_array_equal(figure.data[0].x, values)


def test_room_grows_with_what_is_beside_the_plot_up_to_where_labels_are_cut():
    plain, long, endless = (theme.room(["100%", "a" * n]) for n in (2, 20, 200))
    assert plain["l"] < long["l"] < endless["l"] == theme.room(["a" * 26])["l"]
    assert theme.room(["a"], lines=0)["l"] < theme.room(["a"])["l"]
    assert theme.room(["a"])["l"] < theme.room(["a"], lines=2)["l"]
    assert "r" not in plain
    assert theme.room(["a"], legend=["b"])["r"] < theme.room(["a"], legend=["b" * 20])["r"]
