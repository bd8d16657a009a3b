"""Study: how far can the repair be trusted?"""

import streamlit as st

from gsr_core.views.frame import frame
from gsr_core.views.study import choose_study, study_form, study_progress, study_results

page = frame(
    "Study",
    "How far can I trust the repair: with noisy labels, with few group labels, with a shared set?",
)
with st.container(border=True, key="study form"):
    study_form(page.bundle, page.runs)
study = choose_study(page.bundle)
if study is not None:
    study_progress(study)
    study_results(study, page.bundle)
