"""Run: which repair shall I try, and is it going well?"""

import streamlit as st

from gsr_core.errors import GsrError
from gsr_core.jobs.queue import enqueue
from gsr_core.runs.job import run_commands
from gsr_core.views import navigation as nav
from gsr_core.views.charts import show_error
from gsr_core.views.estimate import show_cost
from gsr_core.views.frame import frame
from gsr_core.views.job_panel import job_panel
from gsr_core.views.method_form import method_form
from gsr_core.views.session import devices, workspace

page = frame("Run", "Which repair to try, and is it going well?")
left, right = st.columns([2, 3], gap="large")
with left:
    jobs = method_form(page.bundle, devices())
    if st.button("Start", type="primary", key="start", icon=":material/play_arrow:"):
        try:
            for job in jobs:
                enqueue(workspace(), job.begin(workspace()))
        except GsrError as error:
            show_error(error)
        else:
            # What was shown before is not what is looked for now.
            nav.put(run=None, shown=None)
            st.rerun()
    show_cost(page.bundle, jobs)
    st.caption("The same from a terminal:")
    st.code(run_commands(jobs, workspace()), language="bash", wrap_lines=True)
with right:
    job_panel(page)
