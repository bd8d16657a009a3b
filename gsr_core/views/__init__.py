"""Pieces of the dashboard that pages share.

With `app.py` and `pages/` the only code that knows Streamlit.
"""
