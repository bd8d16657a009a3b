from streamlit.testing.v1 import AppTest


def watching() -> None:
    """A page that is drawn anew by itself just after the user has followed a link."""
    import streamlit as st
    from streamlit.runtime.scriptrunner import get_script_run_ctx
    from streamlit.runtime.scriptrunner_utils.script_requests import RerunData

    from gsr_core.views import navigation as nav

    if "begun" not in st.session_state:
        st.session_state["begun"] = True
        context = get_script_run_ctx()
        assert context is not None
        assert context.script_requests is not None
        context.script_requests.request_rerun(RerunData(query_string="bundle=birds"))
        nav.refresh()
    st.text(st.query_params.get("bundle", "none"))


def test_what_was_asked_for_meanwhile_goes_before_a_refresh():
    """`st.rerun` in its place shows "none"."""
    page = AppTest.from_function(watching).run()
    assert page.text[0].value == "birds"


def choosing() -> None:
    """A choice whose first option is new after a press that ends the script before it is drawn."""
    import streamlit as st

    from gsr_core.views import navigation as nav

    offered = st.session_state.setdefault("offered", ["old", "older"])
    if st.button("New"):
        st.session_state["offered"] = ["new", *offered]
        st.rerun()
    st.text(nav.select("shown", "Show", offered))


def test_a_choice_that_changes_by_itself_has_another_widget():
    """The browser may still send what the one before it showed, as if the user had chosen it."""
    page = AppTest.from_function(choosing).run()
    before = page.selectbox[0].key
    page.button[0].click().run()
    assert page.text[0].value == "new"
    assert page.selectbox[0].key != before
    # One that the user changes stays the same.
    now = page.selectbox[0].key
    page.selectbox[0].select("older").run()
    assert (page.text[0].value, page.selectbox[0].key) == ("older", now)
    # A choice of the user's own outlives what is offered.
    page.button[0].click().run()
    assert (page.text[0].value, page.selectbox[0].key) == ("older", now)


def test_what_a_widget_that_was_replaced_sends_late_is_no_choice():
    """A page that draws itself sends all that the browser has, also what it has had before."""
    page = AppTest.from_function(choosing).run()
    before = page._tree.get_widget_states()
    page.button[0].click().run()
    now = page.selectbox[0].key
    for _ in range(2):
        page._run(before)
        assert (page.text[0].value, page.selectbox[0].key) == ("new", now)
