"""Run: which repair shall I try, and is it going well?"""

import streamlit as st

from gsr_core.errors import GsrError
from gsr_core.jobs.queue import submit
from gsr_core.runs.store import create_run
from gsr_core.views import navigation as nav
from gsr_core.views.charts import show_error
from gsr_core.views.frame import frame
from gsr_core.views.job_panel import job_panel
from gsr_core.views.method_form import command, method_form
from gsr_core.views.session import devices, workspace

page = frame("Run", "Which repair to try, and is it going well?")
left, right = st.columns([2, 3], gap="large")
with left:
    request = method_form(devices())
    if st.button("Start", type="primary", key="start", icon=":material/play_arrow:"):
        try:
            for seed in request.seeds:
                settings = {**request.settings, "seed": seed}
                submit(
                    create_run(
                        workspace(),
                        page.bundle.name,
                        request.method,
                        settings,
                        device=request.device,
                    )
                )
        except GsrError as error:
            show_error(error)
        else:
            nav.put(run=None)
            st.rerun()
    st.caption("The same from a terminal:")
    st.code(command(page.bundle.name, request), language="bash", wrap_lines=True)
with right:
    job_panel(page)
