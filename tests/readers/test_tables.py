import csv
import json

import numpy as np
import pandas as pd
import pytest

from gsr_core.data.dataset import amend, define
from gsr_core.errors import SettingError, SourceError
from gsr_core.ingest.importing import import_data
from gsr_core.ingest.plan import make_plan
from gsr_core.ingest.read import preview
from gsr_core.readers.registry import make_reader
from gsr_core.readers.tables import Table
from gsr_core.workspace import Workspace

COMPAS = """
id name first last compas_screening_date sex dob age age_cat race juv_fel_count decile_score
juv_misd_count juv_other_count priors_count days_b_screening_arrest c_jail_in c_jail_out
c_case_number c_offense_date c_arrest_date c_days_from_compas c_charge_degree c_charge_desc
is_recid r_case_number r_charge_degree r_days_from_arrest r_offense_date r_charge_desc r_jail_in
r_jail_out violent_recid is_violent_recid vr_case_number vr_charge_degree vr_offense_date
vr_charge_desc type_of_assessment decile_score score_text screening_date v_type_of_assessment
v_decile_score v_score_text v_screening_date in_custody out_custody priors_count start end event
two_year_recid
"""
"""Columns of ProPublica's two-year file, two of which are there twice."""
RECIPE = {
    "numeric": "age, juv_fel_count, juv_misd_count, juv_other_count, priors_count",
    "categorical": "c_charge_degree",
}


def write_compas(file, n=240):
    """Invented people in the file's own layout and coding."""
    rng = np.random.default_rng(0)
    with file.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(COMPAS.split())
        for row in range(n):
            recid, decile, priors = row % 2, 1 + row % 10, int(rng.integers(0, 12))
            date = f"2013-{1 + row % 12:02}-{1 + row % 28:02}"
            known = row % 7 > 0
            rows.writerow(
                [2 * row + 1, f"first{row} last{row}", f"first{row}", f"last{row}", date]
                + [("Male", "Female")[row % 5 > 2], f"19{50 + row % 45}-{1 + row % 12:02}-01"]
                + [20 + row % 50, ("Less than 25", "25 - 45", "Greater than 45")[row % 3]]
                + [("African-American", "Caucasian", "Other")[row // 2 % 3], int(row % 30 == 0)]
                + [decile, int(row % 40 == 0), int(row % 20 == 0), priors]
                + ([-1, f"{date} 06:03:{row % 60:02}", f"{date} 07:00:00"] if known else [""] * 3)
                + [f"1301{row:04}CF10A", date, "", row % 5, "FM"[row // 4 % 2], f"Charge {row}"]
                + [recid, f"13009{row:03}CF10A" if recid else "", "(F3)" if recid else ""]
                + ["", date if recid else "", "Felony Battery" if recid else "", "", "", "", 0]
                + ["", "", "", "", "Risk of Recidivism", decile, ("Low", "High")[decile > 5]]
                + [date, "Risk of Violence", decile, ("Low", "High")[decile > 5], date, date, date]
                + [priors, 0, 100 + row, 0, recid]
            )
    return file


@pytest.fixture(scope="module")
def compas(tmp_path_factory):
    return write_compas(tmp_path_factory.mktemp("compas") / "compas-scores-two-years.csv")


def test_compas_is_read_with_its_two_repeated_columns(compas):
    source = Table(path=str(compas)).read()
    assert source.roles.sample_id == "id"
    assert source.roles.attributes == ("sex", "age_cat", "race")
    assert source.roles.groups.columns == ("sex",)
    columns = source.inputs
    assert {"age", "priors_count", "decile_score", "days_b_screening_arrest"} <= {*columns.numeric}
    assert {"sex", "race", "c_charge_degree", "score_text"} <= {*columns.categorical}
    left_out = "\n".join(source.notes)
    (empty,) = (note for note in source.notes if note.endswith("they are empty."))
    assert "violent_recid" in empty
    assert "decile_score.1, priors_count.1; another column has the same name" in left_out
    assert "name, first, last" in left_out
    assert not {"id", "name", "c_charge_desc", "violent_recid", "priors_count.1"} & {
        *columns.numeric,
        *columns.categorical,
    }


def test_the_compas_recipe_gives_features_of_the_named_columns(compas):
    source = make_reader("table", {"path": str(compas), **RECIPE}).read()
    roles = amend(source.roles, {"label": "two_year_recid", "attributes": ("race", "sex")})
    dataset = define(source, roles)
    training = dataset.samples["split"].isin(["train", "heldout"]).to_numpy()
    features, encoder, _ = dataset.inputs.under(roles).fit(training)
    names = [name.strip() for name in RECIPE["numeric"].split(",")]
    assert encoder.feature_names == [*names, "c_charge_degree = F", "c_charge_degree = M"]
    assert features.array.shape == (240, 7)
    raw = pd.read_csv(compas)
    x = raw["age"].to_numpy(float)
    np.testing.assert_allclose(
        features.array[:, 0], (x - x[training].mean()) / x[training].std(), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(features.array[:, 5], raw["c_charge_degree"] == "F")
    assert len(dataset.groups) == 12
    assert set(dataset.samples.columns) >= {"race", "sex"}


def test_a_preview_and_the_bundle_warn_of_what_gives_the_class_away(compas, tmp_path):
    plan = make_plan(
        name="compas",
        reader="table",
        settings={"path": str(compas), "missing": "impute"},
        roles={"label": "two_year_recid", "attributes": ["race"]},
    )
    (warning,) = preview(plan)["warnings"]
    assert "alone tells the class of 100.0% of the rows, " in warning
    assert warning in import_data(Workspace.at(tmp_path), plan).manifest.notes
    named = warning.rpartition("exclude=")[2].removesuffix(").").split(",")
    assert {"is_recid", "r_charge_degree"} <= set(named)
    assert not {"sex", "priors_count", "c_charge_degree"} & set(named)
    without = plan.model_copy(update={"settings": {**plan.settings, "exclude": named}})
    assert preview(without)["warnings"] == []


def test_what_the_user_makes_the_label_or_an_attribute_is_no_feature(compas):
    source = Table(path=str(compas), missing="impute").read()
    roles = amend(source.roles, {"label": "two_year_recid", "attributes": ("race",)})
    made = source.inputs.under(roles)
    assert "two_year_recid" not in made.numeric
    assert "race" not in made.categorical
    # `sex` was proposed as an attribute, and is a feature now that it is none.
    assert "sex" in made.categorical
    again = Table(path=str(compas), attributes_as_features=True).read()
    assert "race" in again.inputs.under(roles).categorical
    named = Table(path=str(compas), categorical=("race",)).read()
    assert named.inputs.under(roles).categorical == ("race",)
    assert named.inputs.under(roles).numeric == ()


def test_a_gap_in_a_label_or_attribute_does_not_stop_the_encoding(tmp_path):
    table = pd.DataFrame({"x": [1, 2, 3, 4], "note": ["a", None, "b", "a"], "y": [0, 1, None, 0]})
    table.to_csv(tmp_path / "t.csv", index=False)
    source = Table(path=str(tmp_path / "t.csv")).read()
    roles = amend(source.roles, {"attributes": ("note",)})
    assert roles.label == "y"
    features, encoder, _ = source.inputs.under(roles).fit(np.arange(4))
    assert encoder.feature_names == ["x"]
    assert features.array.shape == (4, 1)


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "jsonl"])
def test_the_kind_of_file_makes_no_difference(tmp_path, kind):
    table = pd.DataFrame(
        {
            "x": [1.5, 2.0, -3.0, 4.0] * 3,
            "n": range(12),
            "flag": [True, False, False] * 4,
            "job": ["cook", "Müller", "cook", "judge"] * 3,
            "y": ["no", "yes"] * 6,
        }
    )
    file = tmp_path / f"t.{kind}"
    if kind == "parquet":
        table.to_parquet(file)
    elif kind == "jsonl":
        table.to_json(file, orient="records", lines=True, force_ascii=False)
    else:
        table.to_csv(file, index=False, sep="\t" if kind == "tsv" else ",")
    source = Table(path=str(file)).read()
    assert source.roles.label == "y"
    features, encoder, _ = source.inputs.without(["y"]).fit(np.arange(12))
    assert encoder.feature_names == ["x", "n", "flag", "job = Müller", "job = cook", "job = judge"]
    np.testing.assert_array_equal(features.array[:, 4], table["job"] == "cook")
    flags = (table["flag"] - table["flag"].mean()) / table["flag"].std(ddof=0)
    np.testing.assert_allclose(features.array[:, 2], flags, rtol=1e-6)


def test_labels_may_be_text_and_ids_are_left_to_the_definition(tmp_path):
    table = pd.DataFrame({"id": list("abca") * 5, "x": range(20), "y": ["no", "yes"] * 10})
    table.to_csv(tmp_path / "t.csv", index=False)
    source = Table(path=str(tmp_path / "t.csv")).read()
    assert source.roles.sample_id is None
    assert define(source).classes == ["no", "yes"]
    with pytest.raises(SourceError, match=r"sample id 'a' in row 3 .* is there twice"):
        define(source, amend(source.roles, {"sample_id": "id"}))


def test_lists_and_dates_are_no_features(tmp_path):
    table = pd.DataFrame(
        {"x": [1, 2], "tags": [["a"], ["b"]], "when": pd.to_datetime(["2020-01-01", "2021-01-01"])}
    )
    table.to_parquet(tmp_path / "t.parquet")
    source = Table(path=str(tmp_path / "t.parquet")).read()
    assert (source.inputs.numeric, source.inputs.categorical) == (("x",), ())
    assert any("tags, when; they are neither numbers nor text" in note for note in source.notes)


def test_columns_are_excluded_and_limits_moved_by_settings(compas):
    source = make_reader(
        "table", {"path": str(compas), "exclude": "is_recid,event", "max_categories": "1000"}
    ).read()
    assert not {"is_recid", "event"} & {*source.inputs.numeric}
    assert "c_charge_desc" in source.inputs.categorical


def test_settings_survive_json(compas):
    reader = make_reader("table", {"path": str(compas), **RECIPE})
    again = make_reader("table", json.loads(json.dumps(reader.settings())))
    assert again == reader


FAULTS = {
    "unknown": ({"numeric": "age,agee"}, "there is no column 'agee'; the columns are id, name"),
    "unknown exclude": ({"exclude": "gone"}, "there is no column 'gone'"),
    "both": ({"numeric": "age", "categorical": "age"}, "'age' is in numeric and in categorical"),
    "text": ({"numeric": "race"}, "'race' is 'African-American' in row 0, which is not a number"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_column_that_does_not_suit_is_named(compas, fault):
    values, message = FAULTS[fault]
    with pytest.raises(SourceError, match=message):
        make_reader("table", {"path": str(compas), **values}).read()


def test_a_setting_that_is_not_allowed_is_refused(compas):
    with pytest.raises(SettingError, match="missing is 'drop'"):
        make_reader("table", {"path": str(compas), "missing": "drop"})


def test_a_file_that_is_no_table_is_refused(tmp_path):
    with pytest.raises(SourceError, match="there is no file"):
        Table(path=str(tmp_path / "gone.csv")).read()
    (tmp_path / "t.csv").write_bytes("x,job\n1,Müller\n".encode("latin-1"))
    with pytest.raises(SourceError, match=r"is not UTF-8.*line 2"):
        Table(path=str(tmp_path / "t.csv")).read()
