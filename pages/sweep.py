"""Sweep: which settings serve the worst group best?"""

import streamlit as st

from gsr_core.errors import GsrError
from gsr_core.jobs.queue import start_job
from gsr_core.views import navigation as nav
from gsr_core.views.charts import show_error
from gsr_core.views.frame import frame
from gsr_core.views.session import devices, workspace
from gsr_core.views.sweep import sweep_form, sweep_panel

page = frame("Sweep", "Which settings serve the worst group best?")
left, right = st.columns([2, 3], gap="large")
with left:
    job = sweep_form(page, devices())
    if st.button("Start", type="primary", key="sweep start", icon=":material/play_arrow:"):
        try:
            begun = job.begin(workspace())
            start_job(workspace(), begun)
        except GsrError as error:
            show_error(error)
        else:
            nav.put(sweep=begun.name)
            st.rerun()
    st.caption("The same from a terminal:")
    st.code(job.command(workspace()), language="bash", wrap_lines=True)
with right:
    sweep_panel(page, job.jobs)
