"""What the dashboard's server does when it starts: open a browser, and get ready for it."""

from __future__ import annotations

import asyncio
import gc
import importlib
import webbrowser
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import streamlit as st

__all__ = ["lifespan"]

_FIRST_PAGE = 3.0
"""Seconds after which the first page has been drawn, if a browser was there for it."""


@asynccontextmanager
async def lifespan(app: st.App) -> AsyncIterator[None]:
    """Say where the dashboard is, and open it in a browser unless headless.

    Streamlit leaves a browser to an `st.App`; where it is, it says only together with advice.
    What pages import takes seconds. What the first one needs begins at once, while the browser
    loads Streamlit; torch and what else the others need comes when that page has been drawn.
    """
    address, port = st.get_option("server.address"), st.get_option("server.port")
    host = "localhost" if address in (None, "", "0.0.0.0", "::") else address
    where = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    if st.get_option("logger.hideWelcomeMessage"):
        print(f"The dashboard is at {where}", flush=True)
    loop = asyncio.get_running_loop()
    if not st.get_option("server.headless"):
        # The port is open by now: whoever comes early waits. A browser may take its time to start.
        loop.run_in_executor(None, webbrowser.open, where)
    first = loop.run_in_executor(None, _import, "gsr_core.views.new_data")
    rest = asyncio.create_task(_import_rest(first))
    yield
    rest.cancel()


async def _import_rest(first: asyncio.Future[None]) -> None:
    """Import what all pages need, some seconds after what the first one needs."""
    # A server that ends at once must not take that back.
    await asyncio.shield(first)
    await asyncio.sleep(_FIRST_PAGE)
    await asyncio.get_running_loop().run_in_executor(None, _import, "gsr_core.views.loading")


def _import(module: str) -> None:
    """Import a module with all that it needs, and keep that out of the search for garbage.

    Streamlit searches after each script. The 300,000 objects of the libraries, which live as long
    as the server, would cost 0.1 s or more each time, in which nothing is sent to the browser.
    """
    importlib.import_module(module)
    gc.freeze()
