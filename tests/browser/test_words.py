"""How a browser shows texts of a user's: as they are."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import expect

TEXTS = [
    "[x](https://evil.example)",
    "![x](https://evil.example/a.png)",
    "https://evil.example/a and www.evil.example, HTTP://EVIL.EXAMPLE",
    "me@evil.example",
    ":smile: :material/delete: :streamlit: :red[r]",
    "`b` *e* __s__ ~~d~~ $m$ <b>h</b> <a href='https://evil.example'>a</a>",
    "# heading | cell & more",
    "1. first",
    "- item",
    r"back\slash \[x\](https://evil.example)",
]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """The address of a server of the page."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = str(Path(__file__).with_name("words.py"))
    options = [f"--server.port={port}", "--server.headless=true", "--server.address=127.0.0.1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", *options, script, "--", *TEXTS],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(1200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_texts_are_shown_as_they_are_and_none_can_be_clicked(browser, words):
    page = browser.new_page()
    page.goto(words)
    # A kind of element comes when the browser has loaded its code, whatever is after it.
    for kind, times in (
        ("Metric", 1),
        ("Button", 1),
        ("NumberInput", 1),
        ("Popover", 1),
        ("Alert", 2),
    ):
        shown = page.locator(f"[data-testid=stMain] [data-testid=st{kind}]:visible")
        expect(shown).to_have_count(times * len(TEXTS))
    assert page.locator("[data-testid=stMain] a").count() == 0
    for place, text in enumerate(TEXTS):
        box = page.locator(f".st-key-text{place}")
        shown = box.evaluate("box => box.innerText").replace("\u2060", "")
        capital = text[:1].upper() + text[1:]
        expected = {text: 10, capital: 2} if capital != text else {text: 12}
        for each, times in expected.items():
            assert shown.count(each) == times, (each, shown)
        assert (
            box.locator("[data-testid=stMarkdown] :is(img, em, code, li, h1, .katex)").count() == 0
        )
    page.close()
