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
