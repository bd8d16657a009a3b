"""A browser for the dashboard, as soon as it answers: a process of its own beside the server.

Streamlit would open one itself, but only together with advice of its own in the terminal, which
covers the dashboard's address. Run as `python -m gsr_core.cli.browser URL`.
"""

from __future__ import annotations

import http.client
import sys
import time
import urllib.request
import webbrowser

__all__ = ["open_browser", "url_of"]


def url_of(address: str, port: int) -> str:
    """Return the URL by which a browser on this machine reaches the dashboard.

    Args:
        address: That it listens on.
        port: That it listens on.

    >>> url_of("0.0.0.0", 8501), url_of("::1", 8501)
    ('http://127.0.0.1:8501', 'http://[::1]:8501')
    """
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def open_browser(url: str, *, patience: float = 60.0) -> bool:
    """Open a browser once the dashboard answers; return whether it did.

    Args:
        url: Of the dashboard.
        patience: Seconds to wait for it.
    """
    end = time.monotonic() + patience
    while True:
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=5):
                return webbrowser.open(url)
        except (OSError, http.client.HTTPException):
            if time.monotonic() > end:
                return False
            time.sleep(0.1)


if __name__ == "__main__":
    open_browser(sys.argv[1])
