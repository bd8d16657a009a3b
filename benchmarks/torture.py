"""Whether a workspace survives what may happen to it, for docs/reliability.md.

    python benchmarks/torture.py [--minutes 10] [--seed 0] [--only ATTACK ...]

Seven attacks share the time, each in processes of its own on a workspace of its own:

- kills: SIGKILL at a random moment of a run, an import or a clustering. Afterwards all that is
  stored must be readable and whole, no run may say that it computes, and the run, continued, the
  bundle, imported again, and the clustering, asked for again, must be bit by bit those that nobody
  killed.
- disk: the same work on a disk with a random number of bytes free. It must end in one sentence,
  with nothing damaged and nothing waiting. The disk is that of --small-disk, an empty file system
  of some megabytes; without it, a limit of the size of files takes its place.
- fuzz: damaged, missing and displaced files for every reader that needs no extra, and nonsense for
  every setting of every method, inference and reader; only a `GsrError` may come out.
- commands: whole command lines, good arguments and nonsense mixed, for every command but `app`;
  each must end with 0, 1 or 2 and without a traceback, and leave what is stored whole.
- writers: eight processes name slices and flag samples of one bundle at once; none may be lost.
- soak: one process works on and on; the slope of its memory is a line fitted to the later half.
- dashboard: `gsr app` serves a browser that goes from page to page, every so often in a new window;
  the slope of the server's memory, and no page may show an exception.

Prints a table in Markdown, then what broke; exit status 1 if anything did. POSIX only.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # Threads do not survive a fork.

import numpy as np
import pandas as pd
import typer
from layouts import arrays, layouts

import gsr_core as gsr
from gsr_core.cli.main import app as command_line_app
from gsr_core.cli.main import main as command_line
from gsr_core.clusterings.compute import compute_clustering
from gsr_core.clusterings.request import request_clustering
from gsr_core.curation.flags import flag_rows, flagged
from gsr_core.curation.slices import list_slices, name_slice
from gsr_core.data.dataset import define
from gsr_core.errors import GsrError
from gsr_core.inference.registry import INFERENCES, make_inference
from gsr_core.ingest.compute import encode_columns
from gsr_core.methods.registry import METHODS, make_method
from gsr_core.readers.registry import describe_readers, make_reader
from gsr_core.runs import recorder
from gsr_core.runs.execute import continue_run, execute
from gsr_core.runs.samples import sample_table
from gsr_core.runs.store import create_run, list_runs
from gsr_core.runs.summary import summarise

STEPS = 25
_FORK = multiprocessing.get_context("fork")


@dataclass
class Attack:
    """How an attack went: counts by what was done, and what broke."""

    name: str
    counts: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    figure: str = ""

    def count(self, what: str, number: int = 1) -> None:
        """Count something that was done."""
        self.counts[what] = self.counts.get(what, 0) + number

    def check(self, good: object, what: str) -> None:
        """Note what broke unless something is as it must be."""
        if not good:
            self.broken.append(what)


def in_child(work: Callable[[], object], *, kill_after: float | None = None) -> int:
    """Do work in a forked process; return its exit status, negative if a signal ended it."""
    child = _FORK.Process(target=work)
    child.start()
    child.join(kill_after)
    if child.is_alive() and kill_after is not None:
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert child.exitcode is not None
    return child.exitcode


def gsr_(place: gsr.Workspace, *words: object) -> int:
    """Call the command line in this process; return its exit status and keep it quiet."""
    sys.argv = ["gsr", *map(str, words), "--workspace", str(place.root)]
    try:
        with redirect_stdout(io.StringIO()):
            command_line()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def outcome(run: gsr.Run) -> dict[str, Any]:
    """Return what a run left behind, without times."""
    weights = run.weights()
    assert weights is not None
    history = run.metrics().query("metric != 'seconds'").reset_index(drop=True)
    return {
        "status": str(run.state.status),
        "steps": (run.state.step, run.state.best_step),
        "head": [part.tobytes() for part in run.head() or ()],
        "weights": pd.util.hash_pandas_object(weights).sum(),
        "influence": np.asarray(run.influence()).tobytes(),
        "history": pd.util.hash_pandas_object(history).sum(),
        "steps stored": {step: run.weights_at(step).tobytes() for step in run.weight_steps()},
    }


def assigned(place: gsr.Workspace, bundle: str) -> int:
    """Return a digest of a clustering of a bundle, computed if it is not there."""
    request = request_clustering(place, gsr.open_bundle(place, bundle), "kmeans")
    clustering = compute_clustering(place, request, device="cpu")
    return int(pd.util.hash_pandas_object(clustering.assigned()).sum())


class Work:
    """A workspace with a bundle, and what nobody disturbed makes of it."""

    def __init__(self, root: Path) -> None:
        recorder._PAUSE, recorder._WRITE_SHARE = 0, 1e9
        self.place = gsr.Workspace.at(root / "workspace")
        self.file = root / "arrays.npz"
        np.savez(self.file, **arrays())
        self.do("import")
        bundle = gsr.open_bundle(self.place, "import-0")
        self.digest = bundle.manifest.digest
        self.made = 0
        run = create_run(self.place, "import-0", "gsr", {"steps": STEPS}, device="cpu")
        execute(run)
        self.run, self.assigned = outcome(run), assigned(self.place, "import-0")

    def do(self, what: str, number: int = 0) -> int:
        """Do one thing by the command line."""
        words: dict[str, list[object]] = {
            "run": ["run", "import-0", "--set", f"steps={STEPS}", "--device", "cpu"],
            "import": ["import", "npz", self.file, "--name", f"import-{number}"],
            "cluster": ["cluster", f"import-{number}", "--with", "kmeans", "--device", "cpu"],
        }
        return gsr_(self.place, *words[what])

    def look(self, attack: Attack) -> None:
        """Check that all that is stored is readable and whole, and that nothing computes."""
        for bundle in gsr.list_bundles(self.place):
            try:
                bundle.verify()
            except GsrError as error:
                attack.check(False, f"{bundle.name}: {error}")
        for run in list_runs(self.place):
            attack.check(run.state.status != "running", f"{run.run_id} says that it runs")
            try:
                summarise(run)
                run.weights()
            except Exception as error:
                attack.check(False, f"{run.run_id} cannot be read: {error!r}")
        for folder in self.place.runs.iterdir() if self.place.runs.exists() else ():
            if not (folder / "config.json").exists():
                attack.count("directories of runs never made, for gsr clean")
                for file in folder.iterdir():
                    file.unlink()
                folder.rmdir()

    def go_on(self, attack: Attack) -> None:
        """Go on with each run that was cut off, and compare it with one that nobody disturbed."""
        for run in list_runs(self.place):
            state = run.state
            if state.status == "failed" and 0 < state.step < state.steps:
                continue_run(run, STEPS)
                execute(run)
                attack.count("runs continued")
                attack.check(outcome(run) == self.run, f"{run.run_id}, continued, differs")
            elif state.status == "queued":
                execute(run)
                attack.count("runs that waited, computed")
                attack.check(run.state.status == "finished", f"{run.run_id} is {run.state.status}")
            elif state.status == "failed" and state.step:
                attack.count("runs cut off at the end")
                attack.check(run.head() is not None, f"{run.run_id} has no head")
            elif state.status == "failed":
                attack.count("runs cut off before a step")
            shutil.rmtree(run.path)


def quietly(work: Callable[[], int]) -> Callable[[], None]:
    """Return work without its output; a traceback in it, or an error, becomes exit status 99."""

    def run() -> None:
        said = io.StringIO()
        try:
            with redirect_stdout(said), redirect_stderr(said):
                status = work()
        except BaseException:
            traceback.print_exc(file=said)
            status = 99
        if "Traceback" in said.getvalue():
            os.write(2, said.getvalue().encode())
            status = 99
        os._exit(status)

    return run


def kills(root: Path, until: float, draw: random.Random) -> Attack:
    """Kill work at random moments."""
    attack, work = Attack("kills"), Work(root)
    took: dict[str, float] = {}
    for what in ("run", "import", "cluster"):
        begun = time.monotonic()
        in_child(quietly(lambda what=what: work.do(what, 1)))
        took[what] = time.monotonic() - begun
    number = 1
    while time.monotonic() < until:
        what = draw.choice(["run", "run", "import", "cluster"])
        number += what == "import"
        begun = time.monotonic()
        status = in_child(
            quietly(lambda what=what, number=number: work.do(what, number)),
            kill_after=draw.uniform(0, 1.1 * took[what]),
        )
        if status != -signal.SIGKILL:
            took[what] = time.monotonic() - begun
        attack.count(f"kills of {what}" if status == -signal.SIGKILL else "ended before the kill")
        attack.check(status in (0, 2, -signal.SIGKILL), f"{what} ended with {status}")
        work.look(attack)
        work.go_on(attack)
        if what == "import":
            if status != 0:
                work.do("import", number)
            bundle = gsr.open_bundle(work.place, f"import-{number}")
            attack.check(bundle.manifest.digest == work.digest, f"{bundle.name} differs")
            hidden = [each.name for each in work.place.bundles.glob(".*")]
            attack.check(not hidden, f"left beside the bundles: {hidden}")
        if what == "cluster":
            name = f"import-{number}"
            attack.check(assigned(work.place, name) == work.assigned, f"clusters of {name} differ")
    return attack


def disk(root: Path, until: float, draw: random.Random, small: Path | None = None) -> Attack:
    """Let work find the disk full: a small one that is filled, or else that no file may grow."""
    attack, work = Attack("disk"), Work(small or root)
    number = 1
    while time.monotonic() < until:
        what, limit = draw.choice(["run", "import", "cluster"]), int(10 ** draw.uniform(0, 4.8))
        number += 1

        def limited(what: str = what, limit: int = limit, number: int = number) -> int:
            if small is None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            return work.do(what, number if what == "import" else 0)

        with filled(small, leave=limit):
            status = in_child(quietly(limited))
        attack.count(f"{what}s without room" + ("" if status else ", finished all the same"))
        attack.check(status in (0, 1, 2), f"{what} with {limit} bytes ended with {status}")
        work.look(attack)
        for run in list_runs(work.place):
            message = run.state.message
            good = run.state.status == "finished" or message.startswith("the disk was full")
            attack.check(good, f"{run.run_id} is {run.state.status}: {message}")
        work.go_on(attack)
        for folder in (work.place.clusterings, *work.place.bundles.iterdir()):
            if folder.name != "import-0":
                shutil.rmtree(folder, ignore_errors=True)
    return attack


@contextmanager
def filled(place: Path | None, *, leave: int) -> Iterator[None]:
    """Fill a small file system but for some bytes."""
    if place is None:
        yield
        return
    status, filler = os.statvfs(place), place / "filler"
    filler.write_bytes(bytes(max(status.f_bavail * status.f_frsize - leave, 0)))
    try:
        yield
    finally:
        filler.unlink()


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Return content with some of it changed, cut out, doubled, or with what is hard to read."""
    result = bytearray(content)
    for _ in range(draw.randint(1, 8)):
        place = draw.randrange(len(result) + 1)
        how = draw.randrange(5)
        if how == 0 and result:
            result[min(place, len(result) - 1)] = draw.randrange(256)
        elif how == 1:
            del result[place : place + draw.randint(1, 200)]
        elif how == 2:
            result[place:place] = result[place : place + draw.randint(1, 200)]
        elif how == 3:
            hard = (
                b"[" * 5000,
                b'"',
                b"\x00",
                b"9" * 5000,
                b"\xff\xfe",
                b"\n",
                b",,",
                b"NaN",
                b"{",
            )
            result[place:place] = draw.choice(hard)
        else:
            del result[place:]
    return bytes(result)


NONSENSE = (
    *("", " ", "-1", "1e400", "nan", "inf", "-0", "9" * 5001, "true", "null", "[]", "{}", "../.."),
    *("\x00", "\x1b[31m", "\ud800", "0x10", "1_000", "١", "None", "a" * 10_000, "1e-320"),
)


def spoil(path: Path, draw: random.Random) -> Path:
    """Damage, remove or displace one of the files that a reader is given; return which."""
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    # Tables decide more than one image of many.
    tables = [each for each in files if each.suffix not in (".jpg", ".png")]
    file = draw.choice(tables if tables and draw.random() < 0.7 else files)
    how = draw.randrange(10)
    if how == 0:
        file.unlink()
    elif how == 1:
        file.unlink()
        file.mkdir()
    elif how == 2:
        file.unlink()
        file.symlink_to(file)
    elif how == 3:
        file.write_bytes(draw.choice(files).read_bytes())
    else:
        file.write_bytes(damaged(file.read_bytes(), draw))
    return file


def read_whole(name: str, path: Path) -> None:
    """Read a data set as an import does, and the first of its inputs.

    Raises:
        GsrError: If it cannot be read.
    """
    source = make_reader(name, {"path": str(path)}).read()
    dataset, _ = encode_columns(define(source), source.roles)
    for row in range(min(len(dataset), 5)):
        dataset.inputs.load(row)


def fuzz(root: Path, until: float, draw: random.Random) -> Attack:
    """Give readers damaged files, and settings nonsense."""
    attack = Attack("fuzz")
    (root / "good").mkdir()
    good = list(layouts(root / "good"))
    for each in good:
        read_whole(*each)  # Of what cannot be read anyway, damage would say nothing.
    settings = [
        *(("method", make_method, name, [*make_method(name).settings()]) for name in METHODS),
        *(("inference", make_inference, name, [*vars(INFERENCES[name]())]) for name in INFERENCES),
        *(
            ("reader", make_reader, each["name"], [one["name"] for one in each["settings"]])
            for each in describe_readers()
        ),
    ]
    while time.monotonic() < until:
        name, path = draw.choice(good)
        spoiled = root / f"spoiled{path.suffix}"
        if path.is_file():
            shutil.copy(path, spoiled)
        else:
            shutil.copytree(path, spoiled)
        which = spoil(spoiled, draw)

        def read(name: str = name, path: Path = spoiled) -> int:
            resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
            signal.alarm(120)
            try:
                read_whole(name, path)
            except GsrError:
                return 2
            return 0

        status = in_child(quietly(read))
        attack.count("damaged data sets" + ("" if status else ", read all the same"))
        if status not in (0, 2):
            kept = Path(tempfile.gettempdir()) / f"torture-{os.getpid()}-{len(attack.broken)}"
            shutil.move(spoiled, kept)
            part = which.relative_to(spoiled)
            attack.check(False, f"reader {name} ended with {status} on {kept}, of which {part}")
        elif spoiled.is_dir() and not spoiled.is_symlink():
            shutil.rmtree(spoiled)
        else:
            spoiled.unlink(missing_ok=True)
        for _ in range(20):
            kind, make, name, known = draw.choice(settings)
            if not known:
                continue
            key, value = draw.choice([*known]), draw.choice(NONSENSE)
            attack.count("settings of nonsense")
            try:
                make(name, {key: value})
            except GsrError as error:
                attack.check(str(error), f"{kind} {name}: no words about {key}={value!r}")
            except Exception as error:
                attack.check(False, f"{kind} {name}, {key}={value[:40]!r}: {error!r}"[:300])
    return attack


def words_of(command: Any, good: list[str], draw: random.Random) -> list[str]:
    """Return arguments for a command: its own options, with values good, of nonsense or missing."""
    words = []
    for parameter in command.params:
        if parameter.name in ("workspace", "help"):
            continue
        argument = parameter.param_type_name == "argument"
        if draw.random() > (0.9 if argument else 0.25):
            continue
        if not argument:
            words.append(draw.choice([*parameter.opts, *parameter.secondary_opts]))
            if parameter.is_flag:
                continue
        for _ in range(draw.choice([1, 1, 2]) if parameter.nargs != 1 else 1):
            words.append(draw.choice(NONSENSE if draw.random() < 0.3 else good))
    if draw.random() < 0.1:
        draw.shuffle(words)
    # No program is given a zero byte, and none more than so much.
    return [word.replace("\x00", "")[:100_000] for word in words]


def commands(root: Path, until: float, draw: random.Random) -> Attack:
    """Call commands with arguments at random."""
    attack, work = Attack("commands"), Work(root)
    # What nonsense makes of a path stays inside.
    inside = root / "a" / "b" / "c"
    inside.mkdir(parents=True)
    (root / "data").mkdir()
    group: Any = typer.main.get_command(command_line_app)
    known = {name: each for name, each in group.commands.items() if name != "app"}
    run = create_run(work.place, "import-0", "gsr", {"steps": 2}, device="cpu")
    execute(run)
    data = list(layouts(root / "data"))
    good = [
        *("import-0", run.run_id, run.run_id, "gsr", "erm", "llr", "kmeans", "test", "heldout"),
        *("0", "1", "2", "steps=2", "steps=2", "lr=0.1", "y", "place", "cpu", "s1", "new"),
        *("0.2", "none", "all", "simconv1", "quick", "class", "columns", "skip", "val", "a|b"),
        *(name for name, _ in data),
        *(str(path) for _, path in data),
        *(str(inside / name) for name in ("out.csv", "out.npz", "out")),
    ]
    while time.monotonic() < until:
        name = draw.choice(sorted(known))
        words = words_of(known[name], good, draw)

        def call(name: str = name, words: list[str] = words) -> int:
            os.chdir(inside)
            signal.alarm(60)
            return gsr_(work.place, name, *words)

        status = in_child(quietly(call))
        late = status == -signal.SIGALRM
        attack.count("stopped after a minute" if late else f"ended with {status}")
        line = " ".join(ascii(word[:60]) for word in words)
        attack.check(late or status in (0, 1, 2), f"gsr {name} {line}: {status}")
        work.look(attack)
        if not any(each.name == "import-0" for each in gsr.list_bundles(work.place)):
            work.do("import")  # It was told to delete it.
    return attack


def writers(root: Path, until: float, draw: random.Random) -> Attack:
    """Let many processes name slices and flag samples at once."""
    attack, work = Attack("writers"), Work(root)
    bundle = gsr.open_bundle(work.place, "import-0")
    rounds = 0
    while time.monotonic() < until:
        rounds += 1

        def write(who: int, seed: int, round_: int = rounds) -> None:
            own = random.Random(seed)
            for number in range(10):
                rows = np.array(own.sample(range(len(bundle)), 5))
                name_slice(work.place, bundle, f"{round_} {who} {number}", rows)
                flag_rows(work.place, bundle, np.array([number]), f"{round_}-{who}")

        children = [_FORK.Process(target=write, args=(who, draw.random())) for who in range(8)]
        for child in children:
            child.start()
        for child in children:
            child.join()
            attack.check(child.exitcode == 0, f"a writer ended with {child.exitcode}")
        attack.count("slices named and flags set by 8 at once", 160)
        names = {each.name for each in list_slices(work.place, bundle)}
        attack.check(len(names) == 80 * rounds, f"{len(names)} slices of {80 * rounds}")
        reasons = [len(str(each).split("; ")) for each in flagged(work.place, bundle)["reason"]]
        attack.check(reasons == [8 * rounds] * 10, f"reasons of flags: {reasons}")
    return attack


def slope_of(seen: list[tuple[float, float]]) -> str:
    """Say how a memory grew: seconds, and megabytes at these times."""
    later = np.array(seen[len(seen) // 2 :])
    slope = np.polyfit(later[:, 0] / 60, later[:, 1], 1)[0] if len(later) > 2 else np.nan
    return f"{seen[-1][1]:.0f} MB at the end, {slope:+.2f} MB a minute in the later half"


def soak(root: Path, until: float, draw: random.Random) -> Attack:
    """Work on and on in one process, and measure its memory."""
    attack, work = Attack("soak"), Work(root)

    def on_and_on() -> None:
        begun, seen = time.monotonic(), []
        count = 0
        while time.monotonic() < until:
            count += 1
            settings: dict[str, Any] = {"steps": 3, "seed": count % 7}
            run = gsr.run(work.place, "import-0", "gsr", device="cpu", **settings)
            summarise(run)
            sample_table(run, "test")
            list_runs(work.place)
            for file in run.path.iterdir():
                file.unlink()
            run.path.rmdir()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            seen.append((time.monotonic() - begun, pages * resource.getpagesize() / 1e6))
        (root / "figure").write_text(f"{count} runs, {slope_of(seen)}")

    attack.check(in_child(on_and_on) == 0, "the process ended badly")
    attack.figure = (root / "figure").read_text()
    return attack


def dashboard(root: Path, until: float, draw: random.Random) -> Attack:
    """Go from page to page of a dashboard in a browser, and measure its server's memory."""
    attack, work = Attack("dashboard"), Work(root)
    for method in ("erm", "gsr"):
        execute(create_run(work.place, "import-0", method, device="cpu"))
    # Only here: the other attacks fork, and need no browser.
    from playwright.sync_api import expect, sync_playwright

    from pages import PAGES, PATIENCE, Dashboard, Screen, find_browser, window

    server, seen, visits = Dashboard(work.place.root), [], 0
    server.start()
    assert server.process is not None
    memory = Path(f"/proc/{server.process.pid}/statm")
    with sync_playwright() as playwright:
        expect.set_options(timeout=1000 * PATIENCE)
        browser = playwright.chromium.launch(
            executable_path=find_browser(), args=["--no-sandbox", "--disable-gpu"]
        )
        begun = time.monotonic()
        while time.monotonic() < until:
            screen = Screen(window(browser), server.url)
            screen.open("Guide", layout="pca")
            for _ in range(30):
                screen.follow(draw.choice(PAGES))
                visits += 1
                traces = screen.page.locator("[data-testid=stException]").count()
                attack.check(not traces, f"an exception on {screen.page.url}")
                pages = int(memory.read_text().split()[1])
                seen.append((time.monotonic() - begun, pages * resource.getpagesize() / 1e6))
            attack.check(not screen.problems, f"errors in the browser: {screen.problems}")
            screen.page.context.close()
        browser.close()
    server.close()
    attack.figure = f"{visits} visits, {slope_of(seen)}"
    return attack


ATTACKS: dict[str, Callable[..., Attack]] = {
    "kills": kills,
    "disk": disk,
    "fuzz": fuzz,
    "commands": commands,
    "writers": writers,
    "soak": soak,
    "dashboard": dashboard,
}
SHARES = {
    "kills": 4,
    "disk": 2,
    "fuzz": 2,
    "commands": 2,
    "writers": 1,
    "soak": 1,
    "dashboard": 2,
}


def main() -> None:
    """Attack, and print how it went."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small-disk", type=Path, help="an empty file system of some megabytes")
    parser.add_argument("--only", nargs="*", choices=list(ATTACKS), default=list(ATTACKS))
    chosen = parser.parse_args()
    whole = sum(SHARES[name] for name in chosen.only)
    broken: list[str] = []
    print("| attack | minutes | what was done | what broke |\n|---|---|---|---|")
    for name in chosen.only:
        minutes = chosen.minutes * SHARES[name] / whole
        with tempfile.TemporaryDirectory() as folder:
            begun = time.monotonic()
            until, draw = begun + 60 * minutes, random.Random(chosen.seed)
            more = {"small": chosen.small_disk} if name == "disk" else {}
            attack = ATTACKS[name](Path(folder), until, draw, **more)
            took = (time.monotonic() - begun) / 60
        done = ", ".join(f"{number:,} {what}" for what, number in sorted(attack.counts.items()))
        broke = len(attack.broken) or "nothing"
        print(f"| {name} | {took:.1f} | {attack.figure or done} | {broke} |", flush=True)
        broken += [f"{name}: {each}" for each in attack.broken]
    print(*broken, sep="\n", file=sys.stderr)
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
