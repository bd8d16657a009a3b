"""Pieces of the dashboard that pages share.

With `app.py`, `start.py` and `pages/` the only code that knows Streamlit.
"""
