"""Values of attributes by number, whatever kind of column holds them, gaps included."""

import numpy as np
import pandas as pd
import pytest

from gsr_core.data.attributes import attribute_values
from gsr_core.workspace import Workspace
from tests.tiny import write_tiny


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["b", "a", None], ["a", "b"]),
        ([True, False, None], ["False", "True"]),
        ([2.5, 1.0, np.nan], ["1.0", "2.5"]),
        ([7, 5, 5], ["5", "7"]),
    ],
)
@pytest.mark.parametrize("kind", ["plain", "category"])
def test_each_row_has_the_number_of_its_value_and_gaps_have_none(tmp_path, values, names, kind):
    place = Workspace.at(tmp_path / "workspace")
    samples = write_tiny(place, "plain").samples
    column = np.resize(np.array(values, dtype=object), len(samples))
    samples["kind"] = pd.Series(column).infer_objects()
    if kind == "category":
        samples["kind"] = samples["kind"].astype("category")
    samples["own"] = [f"row {row}" for row in range(len(samples))]
    bundle = write_tiny(place, "kinds", samples=samples)
    rows = bundle.rows_of["test"]
    found = {name: (codes, known) for name, codes, known in attribute_values(bundle, rows)}
    assert set(found) == {"colour", "kind"}
    codes, known = found["kind"]
    assert known == names
    gap = [value is None or value != value for value in column[rows]]
    expected = ["" if none else str(value) for value, none in zip(column[rows], gap, strict=True)]
    assert ["" if code < 0 else known[code] for code in codes] == expected
