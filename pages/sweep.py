"""Sweep: which settings serve the worst group best?"""

import streamlit as st

from gsr_core.errors import GsrError
from gsr_core.views.charts import show_error
from gsr_core.views.frame import frame
from gsr_core.views.session import devices
from gsr_core.views.sweep import begin, command, sweep_form, sweep_panel

page = frame("Sweep", "Which settings serve the worst group best?")
left, right = st.columns([2, 3], gap="large")
with left:
    request = sweep_form(devices())
    if st.button("Start", type="primary", key="sweep start", icon=":material/play_arrow:"):
        try:
            begin(page.bundle.name, request)
        except GsrError as error:
            show_error(error)
        else:
            st.rerun()
    st.caption("The same from a terminal:")
    st.code(command(page.bundle.name, request), language="bash", wrap_lines=True)
with right:
    sweep_panel(page, request.jobs)
