"""The dashboard's server. Run it with `gsr app`."""

from pathlib import Path

import streamlit as st

from gsr_core.views.guard import GUARD
from gsr_core.views.startup import lifespan

app = st.App(
    Path(__file__).with_name("start.py"),
    middleware=[GUARD],
    lifespan=lifespan,
)
