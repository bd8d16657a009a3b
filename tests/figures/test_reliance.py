import pandas as pd

from gsr_core.figures.reliance import lean_before_after


def table() -> pd.DataFrame:
    rows = [
        ("colour", "red", "cat", "a", 4.3, 3.9, 4.7, 0.75),
        ("colour", "red", "cat", "b", -0.3, -0.5, -0.1, 0.01),
        ("place", "sea", "dog", "a", 1.2, 0.9, 1.5, 0.2),
        ("place", "sea", "dog", "b", 1.0, 0.7, 1.3, 0.1),
    ]
    columns = ["attribute", "value", "two", "run", "lean", "lean_low", "lean_high", "share"]
    return pd.DataFrame(rows, columns=columns)


def test_each_head_has_its_leans_with_intervals_and_shares():
    given = table()
    before = given.copy(deep=True)
    figure = lean_before_after(given, before="ERM", after="GSR")
    pd.testing.assert_frame_equal(given, before)
    traces = {trace.name: trace for trace in figure.data if trace.name}
    assert list(traces) == ["ERM", "GSR"]
    assert list(traces["ERM"].x) == [4.3, 1.2]
    assert list(traces["GSR"].x) == [-0.3, 1.0]
    assert list(traces["GSR"].x - traces["GSR"].error_x.arrayminus) == [-0.5, 0.7]
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    assert [list(trace.x) for trace in lines] == [[4.3, -0.3], [1.2, 1.0]]
    assert [note.text for note in figure.layout.annotations] == [
        "share 75% → 1%",
        "share 20% → 10%",
    ]
    assert figure.layout.yaxis.ticktext == ("colour=red<br>→ cat", "place=sea<br>→ dog")
    assert "standard deviations" in figure.layout.xaxis.title.text


def test_without_an_attribute_it_says_so():
    figure = lean_before_after(table().iloc[:0], before="ERM", after="GSR")
    assert figure.layout.annotations[0].text == "No attribute can be measured."
