"""A page that shows texts of a user's in every way that the dashboard does."""

import sys

import streamlit as st

from gsr_core.views.charts import badge, plain, sentence, show_error

for place, text in enumerate(sys.argv[1:]):
    with st.container(key=f"text{place}"):
        st.markdown(plain(text))
        st.caption(plain(text))
        st.write(f"**{plain(text)}** of all")
        st.subheader(plain(text), anchor=False)
        st.metric(plain(text), "1")
        st.button(plain(text), key=f"button {place}")
        badge(text, colour="red")
        badge("about", colour="red", about=text)
        st.expander(plain(text)).write("inside")
        st.popover(plain(text)).write("inside")
        st.number_input(plain(text), key=f"number {place}")
        st.info(sentence(text))
        show_error(text)
