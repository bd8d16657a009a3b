import numpy as np
import pandas as pd
import pytest

from gsr_core.data.encoding import Columns
from gsr_core.data.leaks import class_told, leak_warning

N = 400
RNG = np.random.default_rng(0)
Y = np.arange(N) % 2


def columns(**values):
    table = pd.DataFrame(values)
    numeric = [name for name in table if pd.api.types.is_numeric_dtype(table[name])]
    return Columns(table, numeric=numeric, categorical=[n for n in table if n not in numeric])


def test_what_a_column_tells_is_the_most_common_class_of_each_value():
    told = class_told(
        columns(
            same=Y,
            nearly=np.where(np.arange(N) < 20, 1 - Y, Y),
            noise=RNG.permutation(N) % 4,
            numbers=np.where(Y, 5.0, -5.0) + RNG.random(N),
            word=np.where(Y, "yes", "no"),
            gap=[None if y else "known" for y in Y],
            constant=1,
        ),
        Y,
    )

    assert told["same"] == told["numbers"] == told["word"] == told["gap"] == 1
    assert told["nearly"] == pytest.approx(0.95)
    assert told["noise"] == pytest.approx(0.5, abs=0.07)
    assert told["constant"] == 0  # A tie tells nothing.


def test_a_value_of_its_own_in_each_row_tells_nothing():
    assert class_told(columns(name=[f"n{row}" for row in range(N)]), Y) == {"name": 0}


def test_columns_that_give_the_class_away_are_named_with_their_share():
    table = {"again": np.where(np.arange(N) < 12, 1 - Y, Y), "noise": RNG.permutation(N) % 4}
    warning = leak_warning(columns(**table), Y)
    assert warning.startswith(
        "'again' alone tells the class of 97.0% of the rows (the most common class is 50.0%): "
    )
    assert warning.endswith("(exclude=again).")
    assert leak_warning(columns(noise=table["noise"]), Y) == ""


def test_a_common_class_is_not_taken_for_what_a_column_tells():
    rare = (np.arange(N) % 50 == 0).astype(int)
    assert leak_warning(columns(noise=RNG.permutation(N) % 4, constant=1), rare) == ""
