"""Label: which sample's group label would tell most?"""

import streamlit as st

from gsr_core.views.frame import frame
from gsr_core.views.label import labelling, nothing_to_label, use_answers

page = frame("Label", "Which sample's group label would tell most?", needs_run=True)
bundle, run = page.bundle, page.run
assert run is not None
if nothing_to_label(bundle):
    st.stop()
labelling(bundle, run)
use_answers(bundle)
