import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsr_core.errors import BundleError, SettingError
from gsr_core.names import check_new_name, is_name

ALLOWED = ["a", "gsr-20260101-120000-abcdef", "v1.2_b", "CONSOLE", "nullable", "com10", "9" * 100]
REFUSED = ["", ".", "..", "a/b", "/a", "a\\b", "-a", ".a", "_a", "a b", "a\n", "ä", "9" * 101, "a."]
DEVICES = ["CON", "con", "Nul", "aux.npz", "COM1", "lpt9.a.b", "PRN"]


@pytest.mark.parametrize("name", ALLOWED)
def test_a_plain_name_is_allowed(name: str):
    check_new_name("study", name)
    assert is_name(name)


@pytest.mark.parametrize("name", [*REFUSED, *DEVICES])
def test_what_is_no_name_of_a_directory_on_every_system_is_refused(name: str):
    with pytest.raises(SettingError, match=r"(?s)study name .* is not allowed"):
        check_new_name("study", name)
    with pytest.raises(BundleError, match=r"(?s)bundle name .* is not allowed"):
        check_new_name("bundle", name, BundleError)


@given(text=st.text(st.characters(exclude_categories=())))
def test_whatever_passes_as_a_name_stays_where_it_is(tmp_path_factory, text: str):
    folder = tmp_path_factory.getbasetemp()
    if is_name(text):
        place = folder / text
        assert place.parent == folder
        assert place.resolve().parent == folder.resolve()
        assert not place.is_dir() or place in folder.iterdir()
