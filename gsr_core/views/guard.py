"""Who may talk to the dashboard: its own pages, under a name that it goes by.

The dashboard has no passwords. What keeps other web sites from using the browser of somebody who
may reach it is what that browser says with every request: in `Host` the name that was asked for,
in `Origin` the page that asks.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from urllib.parse import urlsplit

import streamlit as st
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

__all__ = ["GUARD", "Guard", "why_refused"]

_POLICY = {
    # An own page may still frame another: so Streamlit shows what components draw.
    "Content-Security-Policy": "frame-ancestors 'self'",
    # The same for browsers that do not know the policy.
    "X-Frame-Options": "SAMEORIGIN",
}


class Guard:
    """Refuses requests that another web site makes, and forbids other sites to frame the pages.

    Refused with status 403 are a request for a name that is not in Streamlit's setting
    `server.allowedHosts`, as after DNS rebinding, and one from a page of another origin, be it of
    this machine: to be let in, an origin is the very host and port that the request asks for, or
    is in Streamlit's setting `server.corsAllowedOrigins`. Programs that name no origin are let in.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return

        async def framed(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_POLICY)
            await send(message)

        headers = Headers(scope=scope)
        reason = why_refused(
            headers.get("host", ""),
            headers.get("origin"),
            names=st.get_option("server.allowedHosts"),
            origins=st.get_option("server.corsAllowedOrigins"),
        )
        if not reason:
            await self.app(scope, receive, framed)
        elif scope["type"] == "websocket":
            await WebSocket(scope, receive, send).close(code=1008)
        else:
            await PlainTextResponse(f"{reason}\n", status_code=403)(scope, receive, framed)


GUARD = Middleware(Guard)
"""As `st.App` takes it."""


def why_refused(host: str, origin: str | None, *, names: list[str], origins: list[str]) -> str:
    """Return why a request is refused, as a sentence; "" if it is not.

    Args:
        host: The header `Host`.
        origin: The header `Origin`, if there is one.
        names: Names that the dashboard goes by; a leading `*.` stands for all below. None allow
            all, as with Streamlit.
        origins: Other origins that may use it.

    Example:
        >>> why_refused("localhost:8501", "http://localhost:8501", names=["localhost"], origins=[])
        ''
        >>> why_refused("localhost:8501", "http://localhost:3000", names=["localhost"], origins=[])
        "this dashboard at 'localhost:8501' serves no page of 'http://localhost:3000'; open it ...
    """
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        name = ""
    allowed = [each.strip().lower().rstrip(".") for each in names]
    if allowed and not any(name and fnmatchcase(name, each) for each in allowed):
        return (
            f"this dashboard does not go by the name {host[:200]!a}; it answers to "
            f"{', '.join(allowed)}: use one of these, or start it with gsr app --host and the name"
        )
    if origin is None or origin in origins:
        return ""
    try:
        asking = urlsplit(origin).netloc.lower()
    except ValueError:
        asking = ""
    if asking and asking == host.lower():
        return ""
    return (
        f"this dashboard at {host[:200]!a} serves no page of {origin[:200]!a}; open it in a window "
        "of its own; a proxy must pass the header Host on as it is"
    )
