import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from gsr_core.data.column_values import categories_of, numbers_of
from gsr_core.data.encoding import Columns, Encoder
from gsr_core.data.source import GroupRule, Roles, SplitRule
from gsr_core.errors import InputError, SourceError

NUMERIC, CATEGORICAL = ("age", "income"), ("job", "town")


def people(n: int = 60, *, gaps: bool = False) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "age": rng.integers(18, 90, n),
            "income": rng.lognormal(10, 1, n),
            "job": rng.choice(["cook", "judge", "nurse"], n),
            "town": rng.choice([1, 2, 3, 4], n),
        }
    )
    if gaps:
        table["income"] = table["income"].mask(rng.random(n) < 0.3)
        table["job"] = table["job"].mask(rng.random(n) < 0.3)
    return table


def columns(table: pd.DataFrame, **options) -> Columns:
    return Columns(table, numeric=NUMERIC, categorical=CATEGORICAL, **options)


@pytest.mark.parametrize("gaps", [False, True])
def test_the_encoding_is_that_of_scikit_learns_transformers(gaps):
    table, train = people(gaps=gaps), np.arange(40)
    ours, encoder, _ = columns(table, missing="impute").fit(train)
    texts = table.assign(town=table["town"].map(str), job=table["job"].astype(object))
    theirs = ColumnTransformer(
        [
            ("x", make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), [*NUMERIC]),
            ("gaps", MissingIndicator(), [*NUMERIC]),
            (
                "categories",
                OneHotEncoder(handle_unknown="ignore", sparse_output=False),
                [*CATEGORICAL],
            ),
        ]
    ).fit(texts.iloc[train])
    np.testing.assert_allclose(ours.array, theirs.transform(texts), rtol=1e-6, atol=1e-6)
    assert ours.array.dtype == np.float32
    assert len(encoder.feature_names) == ours.array.shape[1] == (11 if gaps else 9)
    assert ("income is missing" in encoder.feature_names) == gaps
    assert ("job is missing" in encoder.feature_names) == gaps


def test_only_training_rows_are_learnt_from():
    table, train = people(gaps=True), np.arange(40)
    changed = table.copy()
    changed.loc[40:, "age"] = 10_000
    changed.loc[40:, "income"] = np.nan
    changed.loc[40:, "job"] = "astronaut"
    one, other = (columns(each, missing="impute").fit(train) for each in (table, changed))
    assert one[1] == other[1]
    np.testing.assert_array_equal(one[0].array[:40], other[0].array[:40])
    assert not np.array_equal(one[0].array[40:], other[0].array[40:])


def test_rows_may_be_given_as_a_mask():
    table = people()
    one, other = (columns(table).fit(rows)[1] for rows in (np.arange(30, 60), np.arange(60) >= 30))
    assert one == other != columns(table).fit(np.arange(30))[1]


def test_an_unseen_category_is_zero_everywhere_and_noted_with_its_row():
    table = people()
    table.loc[[50, 57], "job"] = "pilot"
    features, encoder, notes = columns(table).fit(np.arange(40))
    jobs = [encoder.feature_names.index(f"job = {job}") for job in ("cook", "judge", "nurse")]
    assert (features.array[[50, 57]][:, jobs] == 0).all()
    assert (features.array[:50][:, jobs].sum(axis=1) == 1).all()
    assert encoder.unseen(table)["job"].tolist() == [50, 57]
    (note,) = notes
    assert "'job'" in note
    assert "2 rows (first: 'pilot' in row 50)" in note


def test_gaps_take_the_training_median_and_are_marked():
    table = pd.DataFrame({"x": [1.0, 3.0, np.nan, 8.0, np.nan], "y": [1.0, 2.0, 3.0, np.nan, 5.0]})
    made = Columns(table, numeric=["x", "y"], categorical=[], missing="impute")
    features, encoder, notes = made.fit(np.array([0, 1, 2]))
    assert encoder.feature_names == ["x", "y", "x is missing"]
    assert encoder.numeric[0].median == 2
    x = features.array[:, 0] * encoder.numeric[0].std + encoder.numeric[0].mean
    np.testing.assert_allclose(x, [1, 3, 2, 8, 2], rtol=1e-6)
    assert features.array[:, 2].tolist() == [0, 0, 1, 0, 1]
    # Training knew no gap in y, so none is marked; it is filled and noted all the same.
    assert any("'y' has 1 gaps" in note for note in notes)


def test_constant_and_empty_columns_are_left_out_with_a_note():
    table = people(20)
    table["same"], table["void"], table["word"] = 7, np.nan, "a"
    table["later"] = [np.nan] * 10 + [1.0, 2.0] * 5
    made = Columns(
        table, numeric=["age", "same", "later"], categorical=["word", "void"], missing="impute"
    )
    features, encoder, notes = made.fit(np.arange(10))
    assert encoder.feature_names == ["age"]
    assert features.array.shape == (20, 1)
    assert set(encoder.left_out) == {"same", "later", "word", "void"}
    assert sum("is no feature" in note for note in notes) == 4


def test_a_constant_column_with_gaps_says_only_where_they_are():
    table = pd.DataFrame({"x": [5.0, np.nan, 5.0, np.nan], "z": [1.0, 2.0, 3.0, 4.0]})
    made = Columns(table, numeric=["x", "z"], categorical=[], missing="impute")
    features, encoder, _ = made.fit(np.arange(4))
    assert encoder.feature_names == ["z", "x is missing"]
    assert features.array[:, 1].tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("place", [5, 55], ids=["train", "test"])
@pytest.mark.parametrize("column", ["income", "job"])
def test_a_gap_stops_by_default_wherever_it_is(place, column):
    table = people()
    table.loc[place, column] = None
    table.loc[8:9, "town"] = np.nan
    with pytest.raises(SourceError, match=rf"'{column}' has no value in row {place} \(1 rows"):
        columns(table).fit(np.arange(40))
    with pytest.raises(SourceError, match=r"also 'town' \(2\).*missing=impute"):
        columns(table).fit(np.arange(40))


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e300])
def test_a_number_that_no_float32_holds_stops_even_with_imputation(value):
    table = people()
    table.loc[55, "income"] = value
    with pytest.raises(SourceError, match=r"'income' is -?(inf|1e\+300) in row 55"):
        columns(table, missing="impute").fit(np.arange(40))


def test_a_number_too_far_from_the_training_rows_is_refused_rather_than_infinite():
    table = pd.DataFrame({"x": [0, 1e-30, 2e-30, 1e30]})
    with pytest.raises(SourceError, match=r"'x' is 1e\+30 in row 3, too far"):
        Columns(table, numeric=["x"], categorical=[]).fit(np.arange(3))


def test_rows_keep_their_names_of_the_file_when_some_are_taken():
    table = people()
    table.loc[55, "income"] = np.nan
    some = columns(table).take(np.arange(50, 60))
    assert len(some) == 10
    assert some.name(5) == "row 55"
    with pytest.raises(SourceError, match="'income' has no value in row 55"):
        some.fit(np.arange(3))


def test_text_that_spells_numbers_is_read_and_other_text_is_refused():
    texts = pd.Series(["1.5", " ", None, "-2e3"], name="x")
    np.testing.assert_array_equal(numbers_of(texts), [1.5, np.nan, np.nan, -2000])
    with pytest.raises(SourceError, match="'x' is '1,234' in row 1, which is not a number"):
        numbers_of(pd.Series(["1", "1,234"], name="x"))


@pytest.mark.parametrize(
    "values",
    [
        pd.Series([1, 2, 1]),
        pd.Series([1.0, 2.0, 1.0]),
        pd.Series(["1", "2", "1"]),
        pd.Series([1, "2", 1.0], dtype=object),
        pd.Series([1, 2, 1], dtype="Int64"),
        pd.Series(["1", "2", "1"], dtype="category"),
    ],
    ids=lambda values: str(values.dtype),
)
def test_categories_are_the_same_however_a_file_writes_them(values):
    assert categories_of(values).tolist() == ["1", "2", "1"]


def test_the_label_the_split_and_ids_are_never_features():
    table = people().assign(y=0, part="train", key=range(60), weight=1.0)
    roles = Roles(label="y", sample_id="key", split=SplitRule(column="part"))
    numeric, categorical = ["age", "y", "key", "weight"], ["job", "part"]
    made = Columns(table, numeric=numeric, categorical=categorical).under(roles)
    assert (made.numeric, made.categorical) == (("age", "weight"), ("job",))
    with pytest.raises(SourceError, match=r"'y' is among the features, but it is .* the label"):
        Columns(table, numeric=numeric, categorical=categorical, explicit=True).under(roles)


def test_attributes_are_features_only_where_that_is_asked_for():
    roles = Roles(label="y", attributes=("job",), groups=GroupRule(bins={"age": 3}))
    table = people()
    assert columns(table).under(roles).numeric == ("income",)
    assert columns(table).under(roles).categorical == ("town",)
    for choice in ({"explicit": True}, {"attributes_as_features": True}):
        made = columns(table, **choice).under(roles)
        assert (made.numeric, made.categorical) == (NUMERIC, CATEGORICAL)


def test_where_nothing_is_left_the_message_says_why():
    table = people().assign(same=1)
    with pytest.raises(SourceError, match="no column is left as a feature; the label"):
        columns(table).without([*NUMERIC, *CATEGORICAL]).fit(np.arange(9))
    with pytest.raises(SourceError, match=r"\('same' has one value in all training rows\)"):
        Columns(table, numeric=["same"], categorical=[]).fit(np.arange(9))
    with pytest.raises(SourceError, match="no row is in train or heldout"):
        columns(table).fit(np.array([], dtype=int))


def test_unfitted_columns_travel_but_are_no_numbers():
    made = pickle.loads(pickle.dumps(columns(people())))
    with pytest.raises(InputError, match="not encoded yet"):
        made.load(0)


def test_the_digest_is_that_of_the_values_and_how_they_are_encoded():
    table = people(gaps=True)
    digest = columns(table).digest()
    assert columns(table.copy()).digest() == digest
    changed = table.copy()
    changed.loc[59, "job"] = "judge" if table["job"][59] != "judge" else "cook"
    others = [
        columns(changed),
        columns(table, missing="impute"),
        columns(table).take(np.arange(59)),
        columns(table).without(["age"]),
        Columns(table, numeric=["age", "income", "town"], categorical=["job"]),
    ]
    assert len({digest, *(other.digest() for other in others)}) == 6


def test_a_table_that_lacks_a_column_is_refused():
    _, encoder, _ = columns(people()).fit(np.arange(40))
    with pytest.raises(SourceError, match="there is no column 'town', which was a feature"):
        encoder.transform(people().drop(columns="town"))


texts = st.text(st.characters(codec="utf-8"), max_size=3) | st.none()
numbers = st.floats(-1e6, 1e6) | st.none()


@settings(deadline=None, max_examples=80)
@given(
    rows=st.lists(st.tuples(numbers, numbers, texts, texts), min_size=4, max_size=20),
    share=st.integers(2, 4),
)
def test_an_encoder_read_back_gives_the_same_finite_features(rows, share):
    table = pd.DataFrame(rows, columns=["a", "b", "c", "d"]).astype({"a": float, "b": float})
    made = Columns(table, numeric=["a", "b"], categorical=["c", "d"], missing="impute")
    try:
        features, encoder, _ = made.fit(np.arange(max(2, len(rows) // share)))
    except SourceError as error:
        # Nothing varied in training, or by so little that a test row lies beyond float32.
        if "no column is left" not in str(error) and "too far" not in str(error):
            raise
        return
    read = Encoder.model_validate_json(encoder.model_dump_json())
    assert read == encoder
    np.testing.assert_array_equal(read.transform(table), features.array)
    # Rows are encoded one by one as they are together.
    shuffled = np.random.default_rng(0).permutation(len(table))
    np.testing.assert_array_equal(read.transform(table.iloc[shuffled]), features.array[shuffled])
    assert np.isfinite(features.array).all()
    assert features.array.shape == (len(rows), len(encoder.feature_names))
