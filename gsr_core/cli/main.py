"""The command line: `gsr`.

Results go to stdout, progress and messages to stderr. Exit status 0 is success, 2 a bad input
with one line that says what to do, 1 a run that failed or was
cancelled, or a check that was not passed. Everything heavy is
imported inside the commands, so that `gsr --help` answers at once.
"""

from __future__ import annotations

import os
import sys

import typer

from gsr_core.cli import (
    audit,
    bundles,
    check,
    clean,
    cluster,
    compare,
    dashboard,
    import_data,
    label,
    look,
    phrases,
    radar,
    report,
    runs,
    scan,
    slices,
    study,
    sweep,
    terminal,
    what_if,
)
from gsr_core.errors import GsrError

__all__ = ["app", "main"]


app = typer.Typer(
    name="gsr",
    help="Find, explain and repair the subgroup your classifier fails on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain help: drawing it with rich takes longer than everything else together.
    rich_markup_mode=None,
)

for name, command in {
    "demo": bundles.demo,
    "import": import_data.import_,
    "train": bundles.train,
    "readers": bundles.readers,
    "run": runs.run,
    "continue": runs.continue_,
    "cancel": runs.cancel,
    "methods": compare.methods,
    "compare": compare.compare,
    "scan": scan.scan,
    "radar": radar.radar,
    "look": look.look,
    "check": check.check,
    "study": study.study,
    "sweep": sweep.sweep,
    "cluster": cluster.cluster,
    "label": label.label,
    "search": phrases.search,
    "zeroshot": phrases.zeroshot,
    "words": phrases.words,
    "whatif": what_if.what_if,
    "slices": slices.slices,
    "flags": slices.flags,
    "runs": runs.runs,
    "bundles": bundles.bundles,
    "show": runs.show,
    "audit": audit.audit,
    "export": runs.export,
    "merge": runs.merge,
    "report": report.report,
    "influence": runs.influence,
    "features": runs.features,
    "clean": clean.clean,
    "rename": runs.rename,
    "delete": runs.delete,
    "app": dashboard.app_,
}.items():
    app.command(name)(command)


def main() -> None:
    """Run the command line; a `GsrError` is one line on stderr and exit status 2."""
    try:
        app(prog_name="gsr")
    except GsrError as error:
        terminal.fail(str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        from gsr_core.files import is_full

        if is_full(error):
            terminal.fail(
                "the disk is full, so that not all could be written; make room, for instance with "
                "'gsr clean', and start again"
            )
        if not isinstance(error, OSError):
            raise
        where = f"{error.filename}: " if error.filename else ""
        terminal.fail(
            f"{where}{error.strerror or error}; check the path, its permissions and the disk"
        )
