"""Guide: what do the words, the methods and the files mean?"""

import streamlit as st

from gsr_core.views import navigation as nav
from gsr_core.views.frame import start
from gsr_core.views.guide import documents, read_document

start("Guide", "What do the words, the methods and the files mean?")
files = documents()
if not files:
    st.info("The documents are missing; install gsr-core again.")
    st.stop()
name = nav.select("doc", "Document", list(files), width=260)
st.markdown(read_document(list(files), files[name].read_text()))
