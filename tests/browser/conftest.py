"""A real dashboard in a real browser.

`dashboard` has the example and four runs, `empty_dashboard` has nothing. One process each serves
all tests, and each test finds its workspace as if it were the first. `screen` is a browser window
on the one, `empty_screen` on the other; windows also watch for errors.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from filelock import FileLock
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Locator,
    Page,
    ViewportSize,
    expect,
    sync_playwright,
)
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from gsr_core.data.bundle import Bundle, open_bundle
from gsr_core.jobs.state import JobState, list_jobs, request_stop
from gsr_core.runs.execute import run as compute_run
from gsr_core.runs.store import Run, list_runs
from gsr_core.workspace import Workspace

PATIENCE = float(os.environ.get("GSR_TEST_PATIENCE", "300"))
"""Seconds after which something that was to appear is given up; slow machines need them."""

LISTEN = """
(() => {
  // Both are protobufs. A BackMsg begins with its kind; a ForwardMsg may have a hash and metadata,
  // fields 1 and 2, before it.
  const RERUN_SCRIPT = 11, NEW_SESSION = 4;
  const kind = data => {
    const bytes = new Uint8Array(data.buffer ?? data, data.byteOffset ?? 0, data.byteLength);
    let at = 0;
    const number = () => {
      let value = 0;
      for (let shift = 0; at < bytes.length; shift += 7) {
        value |= (bytes[at] & 127) << shift;
        if (bytes[at++] < 128) break;
      }
      return value;
    };
    while (at < bytes.length) {
      const field = number() >> 3;
      if (field > 2) return field;
      const length = number();
      at += length;
    }
  };
  window.scriptAwaited = false;
  window.scriptsAsked = 0;
  window.WebSocket = class extends WebSocket {
    constructor(...words) {
      super(...words);
      this.addEventListener('message', ({data}) => {
        if (data instanceof ArrayBuffer && kind(data) === NEW_SESSION) window.scriptAwaited = false;
      });
    }
    send(data) {
      if (typeof data !== 'string' && kind(data) === RERUN_SCRIPT) {
        window.scriptAwaited = true;
        window.scriptsAsked += 1;
      }
      super.send(data);
    }
  };
})()
"""
"""Notes whether Streamlit asked for its script and the server has not begun it yet.

Meanwhile the page still says that no script is running, on a busy machine for long. Counts also
how often it asked.
"""

STILL = """
(() => {
  const animate = Element.prototype.animate;
  Element.prototype.animate = function (frames, timing) {
    const words = typeof timing === 'number' ? {} : timing;
    return animate.call(this, frames, {...words, duration: 1, delay: 0, iterations: 1});
  };
})()
"""
"""Ends at once what unfolds: what still moves gets no click."""

IDLE = """
() => {
  const app = document.querySelector('[data-testid=stApp]');
  const quiet = app
    && !window.scriptAwaited
    && app.getAttribute('data-test-script-state') === 'notRunning'
    && app.getAttribute('data-test-connection-state') === 'CONNECTED'
    && !document.querySelector('[data-stale=true], [data-testid=stSkeleton]')
    && [...document.images].every(image => image.complete);
  if (!quiet) { window.quiet = undefined; return false; }
  if (!window.quiet) {
    const now = window.quiet = {since: performance.now(), frames: 0};
    const frame = () => {
      if (window.quiet === now && ++now.frames < 3) requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }
  return window.quiet.frames >= 3 && performance.now() - window.quiet.since > 250;
}
"""
"""Whether script and images have been at rest for a moment.

The pause covers the way from a click to Streamlit's request, which is all in the browser; on a
busy machine, frames say better than a clock how far it has got. A page that is left before its
images are there makes the browser complain about them.
"""

BROKEN = "[...document.images].some(image => image.complete && !image.naturalWidth)"
"""Whether an image on the page could not be loaded."""

ASKED = "asked => window.scriptsAsked > asked"
"""Whether Streamlit has asked for its script again."""

SHOWN = """
box => {
  const tags = box.closest('[data-testid=stMultiSelect]')?.querySelectorAll('[data-tag]') ?? [];
  return [box.value, ...[...tags].map(tag => tag.innerText.trim())];
}
"""
"""What a selection box, for one or for several, has chosen."""

NOTE_CHOICES = f"""
box => {{
  const shown = {SHOWN.strip()};
  const noted = window.choicesNoted = new Set(shown(box));
  new MutationObserver(() => shown(box).forEach(each => noted.add(each))).observe(
    box.closest('[data-testid=stSelectbox], [data-testid=stMultiSelect]'),
    {{subtree: true, childList: true, attributes: true, attributeFilter: ['value']}},
  );
}}
"""
"""Notes everything that a selection box has chosen from now on, however shortly."""

NOTE_CLICK = """
element => element.addEventListener('click', () => { window.clickNoted = true; }, {once: true})
"""
"""Notes whether an element is clicked."""

DRAWN = "grid => grid.ariaRowCount === '1' || grid.querySelector('tbody tr') !== null"
"""Whether a table has drawn rows, if it has any beside its head."""

RETOLD = """
async () => {
  await new Promise(resolve => setTimeout(resolve, 250));
  for (let frame = 0; frame < 3; frame++) await new Promise(requestAnimationFrame);
}
"""
"""Comes after tables have told screen readers what they draw: they set a timer of 200 ms for it,
and of two timers of a page the later one ends later, however slow the machine is."""

ONCE = 3000
"""Milliseconds for one of several tries."""

OFTEN = 40
"""Milliseconds between two looks: at every frame, the looks would make the browser draw it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Any:
    """Let fixtures know, when they end, whether their test failed."""
    report = yield
    if report.when in ("setup", "call"):
        item.stash[FAILED] = report.failed
    return report


FAILED = pytest.StashKey[bool]()


# The browser ---------------------------------------------------------------------------------

NAMES = (
    "chrome",
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "msedge",
    "microsoft-edge",
)
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    "~/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "%PROGRAMFILES%/Google/Chrome/Application/chrome.exe",
    "%PROGRAMFILES(X86)%/Google/Chrome/Application/chrome.exe",
    "%LOCALAPPDATA%/Google/Chrome/Application/chrome.exe",
    "%PROGRAMFILES%/Microsoft/Edge/Application/msedge.exe",
    "%PROGRAMFILES(X86)%/Microsoft/Edge/Application/msedge.exe",
)
ADVICE = (
    "The browser tests need Chrome, Chromium or Edge. Install one ('apt-get install chromium' on "
    "Debian, https://www.google.com/chrome elsewhere), or set GSR_TEST_BROWSER to its program."
)


def find_browser() -> str:
    """Return the program of a browser that starts; as root on Debian, install one if need be."""
    chosen = os.environ.get("GSR_TEST_BROWSER")
    if chosen:
        if not starts(chosen):
            pytest.fail(f"GSR_TEST_BROWSER is {chosen}, which does not start. {ADVICE}", False)
        return chosen
    if found := installed_browser():
        return found
    reason = install_chromium()
    if found := installed_browser():
        return found
    pytest.fail(f"{ADVICE} {reason}".rstrip(), False)


def installed_browser() -> str | None:
    candidates = [shutil.which(name) for name in NAMES]
    candidates += [os.path.expandvars(os.path.expanduser(place)) for place in PLACES]
    return next((each for each in candidates if each and starts(each)), None)


def starts(program: str) -> bool:
    """Return whether this is a browser, not Ubuntu's stub that only points to a snap."""
    if not Path(program).is_file():
        return False
    if platform.system() == "Windows":
        return True  # There `--version` opens a window.
    try:
        return not subprocess.run(
            [program, "--version"], capture_output=True, timeout=60
        ).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False


def install_chromium() -> str:
    """Install Debian's Chromium if that is possible; return why it did not help, if it did not."""
    if not shutil.which("apt-get"):
        return ""
    if os.geteuid() != 0:
        return "As root, this would have installed Debian's chromium by itself."
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update"],
        ["apt-get", "install", "-y", "--no-install-recommends", "chromium"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return f"'{' '.join(command)}' failed: {last}"
    return (
        "The chromium package was installed but does not start: on Ubuntu it is a snap, which "
        "containers cannot run; install Google Chrome's .deb there."
    )


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    # One process at a time: only one can install it.
    with FileLock(tmp_path_factory.getbasetemp().parent / "browser.lock"):
        program = find_browser()
    expect.set_options(timeout=PATIENCE * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--no-first-run",
            ],
        )
        yield browser
        browser.close()


# The dashboard -------------------------------------------------------------------------------


class Dashboard:
    """`gsr app` as a process of its own on a workspace of its own."""

    def __init__(self, root: Path) -> None:
        root.mkdir(exist_ok=True)
        self.workspace = Workspace(root)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = root.parent / f"{root.name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.ids: dict[str, str] = {}

    def start(self) -> None:
        command = self.gsr("app", "--headless", "--port", str(self.port))
        with self.log.open("ab") as log:
            # Away from the checkout, as a user would be.
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.workspace.root.parent, env=clean()
            )
        wait_for(self._answers, f"the dashboard to answer; its log is {self.log}")

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            pytest.fail(f"gsr app ended at once:\n{self.log.read_text()}", False)
        try:
            with urllib.request.urlopen(f"{self.url}/_stcore/health", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def tidy(self, kept: Collection[Path] = ()) -> None:
        """End what an earlier test began and take away what it made.

        The process and its workers stay, as do maps and graphs: they are kept by content.

        Args:
            kept: Directories of bundles, runs, studies and so on that stay.
        """
        place = self.workspace
        for run in self.runs():
            if run.state.active:
                run.request_cancel()
        for job in self.jobs():
            request_stop(place, job.kind, job.key)
        wait_for(
            lambda: not self.jobs() and not any(run.state.active for run in self.runs()),
            "the jobs of an earlier test to end",
        )
        for state in place.jobs.glob("*.json"):
            for suffix in (".json", ".arguments", ".stop"):
                state.with_suffix(suffix).unlink(missing_ok=True)
        for folder in place.root.iterdir():
            if folder not in (place.jobs, place.maps, place.graphs):
                for made in set(folder.iterdir()) - set(kept):
                    shutil.rmtree(made) if made.is_dir() else made.unlink()
        if self.process is None:
            self.start()

    def jobs(self) -> list[JobState]:
        """Return the jobs under way, but for maps."""
        kinds = ("example", "import", "cluster", "measure", "study", "sweep")
        return [job for kind in kinds for job in list_jobs(self.workspace, kind) if job.active]

    def stop(self) -> None:
        """Stop the dashboard and leave its workers alone, as they are meant to outlive it."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=PATIENCE)
            self.process = None

    def close(self) -> None:
        """Stop everything that works in this workspace."""
        self.stop()
        for process in self.workers():
            kill(process)
        wait_for(lambda: not self.workers(), "the workers to end")

    def workers(self, queue: str = "") -> list[int]:
        """Return the process ids of this workspace's workers."""
        root = str(self.workspace.root)
        found = [
            process
            for process, words in processes()
            if "gsr_core.jobs.worker" in words and root in words and (not queue or queue in words)
        ]
        known = {
            int(file.read_text())
            for file in self.workspace.jobs.glob(f"worker-{queue or '*'}.pid")
            if not found and platform.system() == "Windows"
        }
        return sorted({*found, *known})

    def gsr(self, *words: str) -> list[str]:
        """Return the command line of `gsr` on this workspace."""
        program = shutil.which("gsr", path=str(Path(sys.executable).parent))
        assert program, "gsr is not installed beside this Python"
        return [program, *words, "--workspace", str(self.workspace.root)]

    def runs(self, status: str = "") -> list[Run]:
        """Return the runs, newest first."""
        return [run for run in list_runs(self.workspace) if status in ("", run.state.status)]

    def bundle(self, name: str = "coloured-digits") -> Bundle:
        return open_bundle(self.workspace, name)


def processes() -> Iterator[tuple[int, list[str]]]:
    """Go through the machine's processes: process id and the words of the command line."""
    if Path("/proc/self/cmdline").exists():
        for place in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = place.read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            yield int(place.parent.name), words
    elif shutil.which("ps"):
        listed = subprocess.run(["ps", "-Ao", "pid=,args="], capture_output=True, text=True)
        for line in listed.stdout.splitlines():
            process, *words = line.split()
            yield int(process), words


def kill(process: int) -> None:
    """End a process that this test session started, without giving it time to tidy up."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, getattr(signal, "SIGKILL", signal.SIGTERM))


def clean() -> dict[str, str]:
    """Return the environment without what would lead to another workspace."""
    return {key: value for key, value in os.environ.items() if key != "GSR_WORKSPACE"}


def wait_for(condition: Callable[[], Any], what: str, *, seconds: float = PATIENCE) -> Any:
    """Wait until a condition holds and return its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            pytest.fail(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.1)
    return value


@pytest.fixture(scope="session")
def lasting_dashboard(
    tmp_path_factory: pytest.TempPathFactory, digits_bundle: Bundle
) -> Iterator[Dashboard]:
    """The dashboard with the example, the classifier as it came, LLR and two runs of GSR."""
    dashboard = Dashboard(tmp_path_factory.mktemp("dashboard") / "workspace")
    place = dashboard.workspace
    shutil.copytree(digits_bundle.path, place.bundles / "coloured-digits")
    for name, settings in METHODS.items():
        made = compute_run(place, "coloured-digits", name.split()[0], device="cpu", **settings)
        dashboard.ids[name] = made.run_id
    dashboard.start()
    yield dashboard
    dashboard.close()


METHODS: dict[str, dict[str, Any]] = {
    "erm": {},
    "llr": {},
    "gsr short": {"steps": 25, "lr": 0.3},
    "gsr": {},
}
"""Name and settings of the runs that are there from the start."""


@pytest.fixture
def dashboard(lasting_dashboard: Dashboard) -> Dashboard:
    """The dashboard with these and nothing else."""
    place = lasting_dashboard.workspace
    runs = [place.runs / name for name in lasting_dashboard.ids.values()]
    lasting_dashboard.tidy([place.bundles / "coloured-digits", *runs])
    return lasting_dashboard


@pytest.fixture(scope="session")
def ids(lasting_dashboard: Dashboard) -> dict[str, str]:
    """The run ids of `METHODS`."""
    return lasting_dashboard.ids


@pytest.fixture(scope="session")
def lasting_empty_dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    dashboard = Dashboard(tmp_path_factory.mktemp("empty") / "workspace")
    dashboard.start()
    yield dashboard
    dashboard.close()


@pytest.fixture
def empty_dashboard(lasting_empty_dashboard: Dashboard) -> Dashboard:
    """A dashboard on an empty workspace."""
    lasting_empty_dashboard.tidy()
    return lasting_empty_dashboard


@pytest.fixture(scope="session")
def waiting() -> Callable[..., Any]:
    """`wait_for`, for tests: they cannot import from here."""
    return wait_for


@pytest.fixture(scope="session")
def killer() -> Callable[[Sequence[int]], None]:
    """End processes as `kill -9` does; there must be some."""

    def end(found: Sequence[int]) -> None:
        assert found, "there is no such process"
        for process in found:
            kill(process)

    return end


# The window ----------------------------------------------------------------------------------


class Screen:
    """A browser window, and how a user gets around in it."""

    def __init__(self, page: Page, url: str, *, fresh: bool = False) -> None:
        self.page = page
        self.url = url
        self.fresh = fresh
        self.problems: list[str] = []
        self.expected: tuple[str, ...] = ()
        page.on("console", self._console)
        page.on("pageerror", self._error)

    def leave(self) -> bool:
        """Leave the window as good as new; return whether that is possible."""
        self.page.remove_listener("console", self._console)
        self.page.remove_listener("pageerror", self._error)
        if self.fresh or self.page.is_closed():
            return False
        # The browser keeps the last 50 addresses, and tests may count them.
        if self.page.evaluate("history.length") > 30:
            return False
        self.page.evaluate("localStorage.clear(); sessionStorage.clear()")
        self.page.goto("about:blank")
        self.page.set_viewport_size(SIZE)
        self.page.mouse.move(0, 0)
        return True

    def _error(self, error: PlaywrightError) -> None:
        self.problems.append(f"page error: {error}")

    def _console(self, message: ConsoleMessage) -> None:
        if message.type != "error":
            return
        place = message.location.get("url", "")
        # Streamlit asks below the page's own path first, then at the root.
        if "404" in message.text and "/_stcore/" in place:
            return
        # It drops the images of an earlier draw, which the browser may only then ask for; that
        # those which stay have come, `sound` looks.
        if "404" in message.text and "/media/" in place:
            return
        self.problems.append(f"console: {message.text} ({place})")

    def open(self, name: str, **query: object) -> None:
        """Go to a page by its address."""
        words = urlencode({key: str(value) for key, value in query.items()})
        path = name.lower().replace(" ", "_")
        self.page.goto(f"{self.url}/{path}" + (f"?{words}" if words else ""))
        self.arrive(name)

    def follow(self, name: str) -> None:
        """Go to a page by the links on top.

        Streamlit loses a change of page that comes just when a part of the page asks to be drawn
        again; a user clicks once more.
        """
        link = self.page.locator(".st-key-pages").get_by_role("link", name=name, exact=True)
        heading = self.page.get_by_role("heading", name=name, level=1, exact=True)

        def attempt() -> bool:
            self.click(link)
            heading.wait_for(timeout=5 * ONCE)
            return True

        insist(attempt, f"the page {name} to come")
        self.arrive(name)

    def arrive(self, name: str) -> None:
        """Wait until a page stands."""
        expect(self.page.get_by_role("heading", name=name, level=1, exact=True)).to_be_visible()
        self.idle()
        self.sound()

    def idle(self) -> None:
        """Wait until the page's script has come to rest."""
        self.page.evaluate("window.quiet = undefined")
        self.page.wait_for_function(IDLE, timeout=PATIENCE * 1000, polling=OFTEN)

    @contextlib.contextmanager
    def asking(self, *, when: bool) -> Iterator[None]:
        """Do what makes the page ask for its script, and wait until it has, if it should."""
        asked = self.page.evaluate("window.scriptsAsked")
        yield
        if when:
            with contextlib.suppress(PlaywrightTimeout):
                self.page.wait_for_function(ASKED, arg=asked, timeout=ONCE, polling=OFTEN)

    def sound(self) -> None:
        """Fail if the page shows a traceback, or an image that has not come."""
        for trace in self.page.locator("[data-testid=stException], .stException").all():
            pytest.fail(f"the page shows an exception: {trace.inner_text()}")
        wait_for_page(
            self.page, lambda: not self.page.evaluate(BROKEN), "every image on the page to come"
        )

    @property
    def query(self) -> dict[str, str]:
        """The choices in the address."""
        return {key: each[0] for key, each in parse_qs(urlsplit(self.page.url).query).items()}

    def wait_query(self, **wanted: str | None) -> None:
        """Wait until the address says so; None is for a choice that must not be there."""
        wait_for_page(
            self.page,
            lambda: all(self.query.get(key) == value for key, value in wanted.items()),
            f"the address to have {wanted}, not {self.query}",
        )

    def box(self, label: str) -> Locator:
        """Return a selection box."""
        return self.page.get_by_role("combobox", name=label, exact=True)

    def choose(self, label: str, option: str) -> None:
        """Choose in a selection box."""
        self.pick(self.box(label), option)

    def pick(self, box: Locator, option: str | re.Pattern[str]) -> None:
        """Choose in a selection box, for one or for several, and look whether it took the choice.

        A list closes when anything scrolls, which layout does for a while after something was
        unfolded; an option that is clicked just then is not chosen, and the click does not fail.
        Such a choice is made again. One that the box took and has lost when the page is at rest
        is the page's fault.
        """
        options = self.page.get_by_role("option", name=option, exact=isinstance(option, str))
        label = ""

        def attempt() -> bool:
            nonlocal label
            self.unfold(box)
            label = options.first.inner_text(timeout=ONCE)
            box.evaluate(NOTE_CHOICES)
            with self.asking(when=label not in box.evaluate(SHOWN)):
                options.first.click(timeout=ONCE)
            self.idle()
            self.sound()
            return self.page.evaluate("label => window.choicesNoted.has(label)", label)

        insist(attempt, f"the option {option} to be chosen")
        # A choice may lead to where this box is not.
        if box.count():
            shown = box.evaluate(SHOWN)
            assert label in shown, f"the box took {label!r} and shows {shown}"

    def unfold(self, box: Locator) -> None:
        """Open a selection box's list; one that a late scroll closed again is opened again."""
        box.scroll_into_view_if_needed()

        def attempt() -> bool:
            if box.get_attribute("aria-expanded") != "true":
                box.click()
            self.page.get_by_role("option").first.wait_for(timeout=ONCE)
            return True

        insist(attempt, "the list of options to open")

    def click(self, target: Locator) -> None:
        """Click until it arrives: what moves between press and release of the mouse gets none."""

        def attempt() -> bool:
            # An earlier one may have arrived after the driver gave it up.
            if not self.page.evaluate("window.clickNoted"):
                element = target.element_handle(timeout=ONCE)
                element.evaluate(NOTE_CLICK)
                element.click(timeout=ONCE)
            return self.page.evaluate("window.clickNoted")

        self.page.evaluate("window.clickNoted = false")
        insist(attempt, f"the click on {target} to arrive")

    def press(self, label: str, within: Locator | None = None) -> None:
        """Click a button, and wait until the page has asked its script for what that does."""
        with self.asking(when=True):
            self.click((within or self.page).get_by_role("button", name=label, exact=True).first)

    def key_until(self, target: Locator, key: str, shown: Locator) -> None:
        """Press a key on something until its effect is there: what is being drawn takes none."""

        def attempt() -> bool:
            if not shown.is_visible():
                target.press(key, timeout=ONCE)
                shown.wait_for(state="visible", timeout=5 * ONCE)
            return True

        insist(attempt, f"{key} on {target} to show {shown}")

    def download(self, button: Locator) -> Path:
        """Click a button until its file comes; one that the page replaces meanwhile gives none."""
        files: list[Path] = []

        def attempt() -> bool:
            with self.page.expect_download(timeout=5 * ONCE) as download:
                self.click(button)
            files.append(download.value.path())
            return True

        insist(attempt, f"the file of {button} to come")
        return files[0]

    def unfold_popover(
        self, opener: re.Pattern[str], inner: Locator, within: Locator | None = None
    ) -> None:
        """Open a popover until something inside is there: what closes it may come late.

        What lies above may still be unfolding, and the page may be drawn again.
        """
        button = (within or self.page).get_by_role("button", name=opener)

        def attempt() -> bool:
            if not inner.is_visible():
                button.click(timeout=ONCE)
            inner.wait_for(timeout=ONCE)
            return True

        self.idle()
        insist(attempt, f"the popover {opener} to open")

    def fill_popover(self, opener: re.Pattern[str], label: str, text: str, button: str) -> None:
        """Open a popover, type into its form, and press its button.

        One that is folded by what its page lays out late is opened, and typed into, again.
        """
        field = self.page.get_by_label(label, exact=True)
        target = self.page.get_by_role("button", name=button, exact=True).first

        def attempt() -> bool:
            if not self.page.evaluate("window.clickNoted"):
                self.unfold_popover(opener, field)
                field.fill(text, timeout=ONCE)
                element = target.element_handle(timeout=ONCE)
                element.evaluate(NOTE_CLICK)
                element.click(timeout=ONCE)
            return self.page.evaluate("window.clickNoted")

        self.page.evaluate("window.clickNoted = false")
        with self.asking(when=True):
            insist(attempt, f"{label} to be filled in and {button} to be pressed")

    def enter(self, label: str, value: object, *, nth: int = 0) -> None:
        """Type into a field and confirm it, and look whether it is there when all is at rest.

        What is typed into a field that the page replaces meanwhile is typed again; what was
        confirmed must not be lost.
        """
        text = str(value)
        field = self.page.get_by_label(label, exact=True).nth(nth)

        def attempt() -> bool:
            # The element itself: a locator would press Enter in the one that has replaced it.
            element = field.element_handle(timeout=ONCE)
            with self.asking(when=not same(element.input_value(), text)):
                element.fill(text, timeout=ONCE)
                if element.input_value() != text:
                    return False
                element.press("Enter", timeout=ONCE)
            return True

        insist(attempt, f"{label} to become {text}")
        self.idle()
        if field.count():
            shown = field.input_value()
            assert same(shown, text), f"{label} became {text} and shows {shown!r}"

    def keyed(self, key: str) -> Locator:
        """Return an element by its Streamlit key."""
        return self.page.locator(f".st-key-{key.replace(' ', '-')}").first

    def chart(self, key: str) -> Locator:
        """Return a drawn chart by its Streamlit key."""
        chart = self.keyed(key).locator(".js-plotly-plot").first
        expect(chart.locator(".main-svg").first).to_be_visible()
        return chart

    def metric(self, label: str) -> str:
        """Return the number under a label."""
        found = self.page.get_by_test_id("stMetric").filter(has_text=label).first
        return found.get_by_test_id("stMetricValue").inner_text().strip()

    def table(self, column: str) -> list[dict[str, str]]:
        """Return the rows of the table with this column, as a screen reader gets them.

        A table tells how many rows it has before it draws them.
        """
        head = self.page.locator("th[role=columnheader]").get_by_text(column, exact=True)
        grid = self.page.locator("[data-testid=stDataFrame] table[role=grid]", has=head).first
        grid.wait_for(state="attached")
        self.idle()
        wait_for_page(
            self.page,
            lambda: grid.evaluate(DRAWN),
            f"the rows of the table with {column} to be drawn",
        )
        self.page.evaluate(RETOLD)
        names = [cell.strip() for cell in grid.locator("th[role=columnheader]").all_inner_texts()]
        rows = grid.locator("tbody tr").all()
        texts = [row.locator("td").evaluate_all("cs => cs.map(c => c.textContent)") for row in rows]
        return [dict(zip(names, row, strict=False)) for row in texts]

    def adds_up(self, column: str, total: int) -> None:
        """Wait until a table's whole numbers add up: it may still be that of before."""

        def done() -> bool:
            rows = self.table(column)
            return sum(int(row.get(column, "0").replace(",", "") or 0) for row in rows) == total

        wait_for_page(self.page, done, f"{column} to add up to {total:,}")

    def drag_ellipse(self, chart: Locator, x: float, y: float, width: float, height: float) -> None:
        """Drag once around an ellipse, all in fractions of the chart's plot area."""
        from math import cos, pi, sin

        layer = chart.locator(".nsewdrag").first
        layer.wait_for(state="attached")
        layer.scroll_into_view_if_needed()
        area = layer.bounding_box()
        assert area is not None
        corners = 24
        path = [
            (
                area["x"] + area["width"] * (x + width * cos(2 * pi * k / corners)),
                area["y"] + area["height"] * (y + height * sin(2 * pi * k / corners)),
            )
            for k in range(corners + 1)
        ]
        self.page.mouse.move(*path[0])
        self.page.mouse.down()
        for point in path[1:]:
            self.page.mouse.move(*point, steps=2)
        self.page.mouse.up()

    def save(self, directory: Path, name: str) -> Path:
        """Write what the window shows, as a picture and as HTML."""
        picture = directory / f"{name}.png"
        # Streamlit scrolls inside the page, so that the window itself has to be tall enough.
        tall = self.page.get_by_test_id("stMain").evaluate("e => e.scrollHeight")
        size = self.page.viewport_size or {"width": 1400, "height": 900}
        self.page.set_viewport_size({**size, "height": min(max(size["height"], tall), 6000)})
        self.idle()  # Charts are laid out once more.
        self.page.screenshot(path=picture)
        self.page.set_viewport_size(size)
        (directory / f"{name}.html").write_text(self.page.content())
        return picture


def insist(attempt: Callable[[], bool], what: str) -> None:
    """Try until it succeeds, or until patience is at an end; then say what was in the way."""
    end, reason = time.monotonic() + PATIENCE, ""
    while time.monotonic() < end:
        try:
            if attempt():
                return
        except PlaywrightError as error:
            reason = f": {error}"
    pytest.fail(f"waited {PATIENCE:.0f} s for {what}{reason}")


def same(shown: str, text: str) -> bool:
    """Return whether a field shows what was typed, be it as a number in another form."""
    try:
        return shown == text or float(shown) == float(text)
    except ValueError:
        return False


def wait_for_page(page: Page, condition: Callable[[], bool], what: str) -> None:
    """Wait like `wait_for`, and let the browser's events through meanwhile."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"waited {PATIENCE:.0f} s for {what}")
        page.wait_for_timeout(100)


SIZE: ViewportSize = {"width": 1400, "height": 900}


def _end(
    screens: Sequence[Screen],
    spare: list[Page],
    request: pytest.FixtureRequest,
    directory: Path,
) -> None:
    """Leave windows; keep a picture if the test failed, and fail it for errors nobody expects."""
    problems: list[str] = []
    failed = request.node.stash.get(FAILED, False)
    for number, screen in enumerate(screens):
        problems += [
            problem
            for problem in screen.problems
            if not any(each in problem for each in screen.expected)
        ]
        if (failed or problems) and not screen.page.is_closed():
            try:
                print(f"the window: {screen.save(directory, f'failed-{number}')}")
            except Exception as error:
                print(f"no picture of the window: {error}")
        if not failed and not problems and screen.leave():
            spare.append(screen.page)
        else:
            screen.page.context.close()
    if problems:
        pytest.fail("errors in the browser:\n" + "\n".join(problems), False)


@pytest.fixture(scope="session")
def spare() -> list[Page]:
    """Windows that earlier tests have left.

    A window keeps its process, and that keeps what it has compiled: most of the work of opening a
    page. Streamlit begins a new session with every page.
    """
    return []


@pytest.fixture
def windows(
    browser: Browser, request: pytest.FixtureRequest, tmp_path: Path, spare: list[Page]
) -> Iterator[Callable[..., Screen]]:
    """Make windows on any dashboard; one that a test changes for good must be `fresh`."""
    made: list[Screen] = []

    def make(
        dashboard: Dashboard,
        *,
        color_scheme: Literal["light", "dark"] = "light",
        fresh: bool = False,
    ) -> Screen:
        if spare and not fresh:
            page = spare.pop()
        else:
            context = browser.new_context(viewport=SIZE, reduced_motion="reduce")
            context.set_default_timeout(PATIENCE * 1000)
            page = context.new_page()
            page.add_init_script(LISTEN)
            page.add_init_script(STILL)
        page.emulate_media(color_scheme=color_scheme)
        made.append(Screen(page, dashboard.url, fresh=fresh))
        return made[-1]

    yield make
    _end(made, spare, request, tmp_path)


@pytest.fixture
def screen(windows: Callable[..., Screen], dashboard: Dashboard) -> Screen:
    """A window on the dashboard that has the example and runs."""
    return windows(dashboard)


@pytest.fixture
def empty_screen(windows: Callable[..., Screen], empty_dashboard: Dashboard) -> Screen:
    """A window on the dashboard that began with nothing."""
    return windows(empty_dashboard)
