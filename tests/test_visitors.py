"""Who gets in: real servers, asked as browsers ask on behalf of foreign web sites."""

import asyncio
import base64
import gc
import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import gsr_core
from gsr_core.views import startup
from gsr_core.views.guard import why_refused

ROOT = Path(gsr_core.__file__).parents[1]


class Server:
    """A dashboard as a process of its own."""

    def __init__(self, folder: Path, command: list[str], option: str, *more: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = folder / f"{Path(command[-1]).name}.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command, f"{option}={self.port}", *more],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Away from the checkout, whose settings it must find all the same.
                cwd=folder,
                env={**os.environ, "HOME": str(folder), "GSR_WORKSPACE": str(folder / "workspace")},
                start_new_session=True,
            )

    def wait(self) -> None:
        for _ in range(1200):
            assert self.process.poll() is None, self.log.read_text()
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
            except OSError:
                time.sleep(0.1)
            else:
                return
        raise AssertionError(f"the dashboard did not come up: {self.log.read_text()}")

    def ask(self, path: str, host: str, origin: str | None = None, *, upgrade: bool = False) -> str:
        """Return the answer to a GET: status, headers and, unless it upgrades, the body."""
        lines = [f"GET {path} HTTP/1.1", f"Host: {host.format(port=self.port)}"]
        if origin is not None:
            lines.append(f"Origin: {origin.format(port=self.port)}")
        if upgrade:
            key = base64.b64encode(os.urandom(16)).decode()
            lines += ["Connection: Upgrade", "Upgrade: websocket"]
            lines += ["Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}"]
        else:
            lines.append("Connection: close")
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
            received = b""
            while b"\r\n\r\n" not in received or not upgrade:
                if not (part := connection.recv(65536)):
                    break
                received += part
        return received.decode()

    def session(self, host: str, origin: str | None) -> str:
        """Return the status of the answer to a page that wants to use the dashboard."""
        return self.ask("/_stcore/stream", host, origin, upgrade=True).split()[1]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """The dashboard as `gsr app` starts it for a proxy, and as plain Streamlit does."""
    folder = tmp_path_factory.mktemp("servers")
    plain = ["streamlit", "run", str(ROOT / "app.py")]
    (folder / "plain").mkdir()
    started = {
        "gsr": Server(folder, ["gsr_core.cli", "app"], "--port", "--headless", "--host", "g.org"),
        "streamlit": Server(folder / "plain", plain, "--server.port", "--server.headless=true"),
    }
    try:
        for server in started.values():
            server.wait()
        yield started
    finally:
        for server in started.values():
            os.killpg(server.process.pid, signal.SIGKILL)
            server.process.communicate()


@pytest.fixture(params=["gsr", "streamlit"])
def server(servers: dict[str, Server], request: pytest.FixtureRequest) -> Server:
    return servers[request.param]


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "[::1]"])
def test_its_own_pages_get_in_under_each_name_of_this_machine(server: Server, name: str):
    assert server.session(f"{name}:{{port}}", f"http://{name}:{{port}}") == "101"
    assert server.ask("/", f"{name}:{{port}}").startswith("HTTP/1.1 200")


@pytest.mark.parametrize(
    "host", ["evil.example:{port}", "localhost.evil.example", "127.0.0.1.nip.io"]
)
def test_a_name_that_was_made_to_point_here_is_refused(server: Server, host: str):
    """After DNS rebinding, a foreign page and the dashboard are one origin to the browser."""
    assert server.session(host, f"http://{host}") == "403"
    assert server.session(host, None) == "403"
    answer = server.ask("/", host)
    assert answer.startswith("HTTP/1.1 403")
    assert "start it with gsr app --host" in answer
    assert "<html" not in answer


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost:1", "null", ""])
def test_a_page_of_another_origin_is_refused_even_one_of_this_machine(server: Server, origin: str):
    assert server.session("localhost:{port}", origin) == "403"
    assert server.ask("/_stcore/health", "localhost:{port}", origin).startswith("HTTP/1.1 403")


def test_a_program_that_names_no_origin_gets_in(server: Server):
    assert server.session("localhost:{port}", None) == "101"
    assert server.ask("/_stcore/health", "localhost:{port}").startswith("HTTP/1.1 200")


def test_no_other_site_may_frame_any_page(server: Server):
    for path in ("/", "/samples", "/_stcore/health", "/nowhere"):
        answer = server.ask(path, "localhost:{port}").lower()
        assert "content-security-policy: frame-ancestors 'self'" in answer
        assert "x-frame-options: sameorigin" in answer


def test_a_proxy_gets_in_by_the_name_that_was_given(servers: dict[str, Server]):
    assert servers["gsr"].session("g.org", "https://g.org") == "101"
    assert servers["streamlit"].session("g.org", "https://g.org") == "403"


def test_an_end_is_not_kept_waiting_by_a_window_that_is_open(tmp_path: Path):
    server = Server(tmp_path, ["gsr_core.cli", "app"], "--port", "--headless")
    try:
        server.wait()
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as window:
            window.sendall(
                f"GET /_stcore/stream HTTP/1.1\r\nHost: localhost:{server.port}\r\n"
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
            )
            assert window.recv(12) == b"HTTP/1.1 101"
            server.process.terminate()
            server.process.wait(timeout=60)
    finally:
        if server.process.poll() is None:
            os.killpg(server.process.pid, signal.SIGKILL)
        server.process.communicate()


NAMES = ["localhost", "::1", "*.lab.org"]


@pytest.mark.parametrize("host", ["LOCALHOST", "localhost.:8501", "[::1]:80", "a.b.lab.org:443"])
def test_ports_and_spelling_of_a_name_do_not_count(host: str):
    assert why_refused(host, None, names=NAMES, origins=[]) == ""


@pytest.mark.parametrize("host", ["", ":80", "lab.org", "evil.org/localhost", "[::1", "a\x1b[31m"])
def test_what_is_no_allowed_name_is_named_in_plain_characters(host: str):
    reason = why_refused(host, None, names=NAMES, origins=[])
    assert "answers to localhost, ::1, *.lab.org" in reason
    assert reason.isprintable()


def test_other_origins_can_be_allowed_one_by_one():
    other = "https://portal.org"
    assert why_refused("localhost", other, names=NAMES, origins=[]) != ""
    assert why_refused("localhost", other, names=NAMES, origins=[other]) == ""


def serve() -> None:
    """Start and end what the server does first."""

    async def begin() -> None:
        async with startup.lifespan(startup.st.App):
            pass

    # In a thread of its own, since the browser tests keep a loop in this one.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, begin()).result()


@pytest.fixture
def thawed() -> Iterator[None]:
    """Make what the start kept out of the search for garbage part of it again."""
    yield
    gc.unfreeze()


def test_the_search_for_garbage_passes_over_libraries_and_finds_what_scripts_leave(thawed):
    libraries = len(gc.get_objects())
    serve()
    assert gc.get_freeze_count() >= libraries // 2 > len(gc.get_objects())

    class Left:
        def __init__(self) -> None:
            self.itself = self

    left = Left()
    gone = weakref.ref(left)
    del left
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("headless", "address", "expected"),
    [
        (False, "127.0.0.1", "http://127.0.0.1:8600"),
        (False, "0.0.0.0", "http://localhost:8600"),
        (False, "::1", "http://[::1]:8600"),
        (True, "127.0.0.1", "http://127.0.0.1:8600"),
    ],
)
def test_it_says_where_it_is_and_opens_a_browser_unless_headless(
    monkeypatch, capsys, thawed, headless, address, expected
):
    options = {
        "server.headless": headless,
        "server.address": address,
        "server.port": 8600,
        "logger.hideWelcomeMessage": True,
    }
    opened = []
    monkeypatch.setattr(startup.st, "get_option", options.__getitem__)
    monkeypatch.setattr(startup.webbrowser, "open", opened.append)

    serve()
    assert opened == [expected] * (not headless)
    assert expected in capsys.readouterr().out
