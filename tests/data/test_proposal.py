import numpy as np
import pandas as pd
import pytest

from gsr_core.data.proposal import propose_roles
from gsr_core.data.source import GroupRule

N = 24
ROWS = np.arange(N)


def table(**columns) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "img_id": ROWS + 1,
            "img_filename": [f"{row}.jpg" for row in ROWS],
            "y": ROWS % 2,
            "split": ROWS % 3,
            "place": ROWS // 2 % 2,
            **columns,
        }
    )


def test_waterbirds_columns_are_understood():
    roles = propose_roles(
        table(place_filename=[f"/o/ocean/{row:08}.jpg" for row in ROWS]), inputs=["img_filename"]
    )
    assert roles.label == "y"
    assert roles.sample_id == "img_id"
    assert roles.split.column == "split"
    assert roles.attributes == ("place",)
    assert roles.groups == GroupRule(columns=("place",))


@pytest.mark.parametrize("name", ["Label", "CLASS", "class-name", " Class Name", "target", "y"])
def test_a_label_is_known_by_its_name_however_written(name):
    assert propose_roles(table().rename(columns={"y": name})).label == name


@pytest.mark.parametrize(
    "values",
    [np.zeros(N), np.linspace(0, 1, N), [None] * N, [[1]] * N],
    ids=["one class", "fractions", "nothing", "lists"],
)
def test_a_column_that_cannot_be_the_label_is_passed_over(values):
    roles = propose_roles(table(y=values, category=["a", "b"] * (N // 2)))
    assert roles.label == "category"


def test_no_label_is_invented():
    assert propose_roles(table().drop(columns="y")).label is None


@pytest.mark.parametrize(
    ("name", "values", "is_split"),
    [
        ("split", ["tr", "va", "te"], True),
        ("Split", [0, 1, 2], True),
        ("partition", [0.0, 1.0, 2.0], True),
        ("set", ["train", "valid", "test"], True),
        ("subset", ["indoor", "outdoor", "sea"], False),
        ("fold", [1, 2, 3], False),
        ("set", [1, 2, 1], False),
    ],
)
def test_a_split_has_words_of_splits(name, values, is_split):
    rows = table(**{name: np.array(values)[ROWS % 3]})
    if name != "split":
        rows = rows.drop(columns="split")
    roles = propose_roles(rows)
    assert roles.split.column == (name if is_split else None)
    assert (name in roles.attributes) != is_split


def test_an_id_that_is_there_twice_is_none():
    assert propose_roles(table(img_id=ROWS // 2)).sample_id is None
    assert propose_roles(table(img_id=ROWS // 2, uid=ROWS)).sample_id == "uid"


def test_any_column_of_unique_ids_is_one_after_the_usual_names():
    rows = table(pair_id=ROWS).drop(columns="img_id")
    assert propose_roles(rows).sample_id == "pair_id"
    assert propose_roles(rows.assign(id=ROWS)).sample_id == "id"
    assert propose_roles(rows.assign(pair_id=ROWS // 2)).sample_id is None


def test_attributes_are_few_values_that_say_something_new():
    roles = propose_roles(
        table(
            **{
                "Unnamed: 0": ROWS % 4,
                "species": np.array(["land", "water"])[ROWS % 2],
                "age": np.linspace(0, 90, N),
                "country": [f"c{row}" for row in ROWS],
                "box": [[0, row] for row in ROWS],
                "caption": np.array(["a" * 80, "b" * 80])[ROWS // 3 % 2],
                "constant": "x",
                "light": np.array(["day", "night", None], dtype=object)[ROWS // 4 % 3],
            }
        )
    )
    assert roles.attributes == ("place", "light")


def test_a_column_called_group_makes_the_groups():
    roles = propose_roles(table(group=2 * (ROWS % 2) + ROWS // 2 % 2))
    assert roles.groups == GroupRule(kind="named", columns=("group",), with_class=False)
    assert roles.attributes == ("place", "group")


def test_without_attributes_the_classes_are_the_groups():
    assert propose_roles(table().drop(columns="place")).groups == GroupRule()
